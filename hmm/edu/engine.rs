// SPDX-License-Identifier: GPL-2.0

//! The device's DMA engine: one copy between memory and the device's own buffer.
//!
//! Registers: QEMU's `docs/specs/edu.rst`.

use kernel::device::Bound;
use kernel::io::poll::{read_poll_timeout, read_poll_timeout_atomic};
use kernel::io::Io;
use kernel::pci::{self, Bar};
use kernel::prelude::*;
use kernel::time::Delta;

const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const END: usize = 0xa0;

const RUN: u32 = 1 << 0;
const TO_MEMORY: u32 = 1 << 1;

/// Where the engine sees the device's buffer, and its size.
const BUFFER: u64 = 0x4_0000;
pub(crate) const BUFFER_SIZE: u64 = 4096;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The device reads memory.
    FromMemory,
    /// The device writes memory.
    ToMemory,
}

/// The engine, to be used by one at a time.
pub(crate) struct Engine {
    registers: Bar<'static, END>,
}

impl Engine {
    pub(crate) fn new(device: &'static pci::Device<Bound>) -> Result<Self> {
        let registers = device.iomap_region_sized(0, c"hmm_edu")?;
        Ok(Self { registers })
    }

    /// Copies `len` bytes between address `addr` of the device and its buffer, from byte `at` on.
    ///
    /// The device begins after 100 ms and cannot be stopped, so this waits for the end, without
    /// sleeping: when it returns, the device does not use the memory any more. That does not hold for
    /// `ETIMEDOUT`, after five seconds: a driver of real hardware would have to cut the device off
    /// before it gives the memory away.
    pub(crate) fn copy(&mut self, addr: u64, way: Way, at: u64, len: u64) -> Result {
        self.start(addr, way, at, len)?;
        read_poll_timeout_atomic(
            || Ok(self.registers.read32(COMMAND)),
            |command| command & RUN == 0,
            Delta::from_micros(500),
            10_000,
        )?;
        Ok(())
    }

    /// The same, but it sleeps. After `ETIMEDOUT` no translation that it was given may be taken for forgotten.
    pub(crate) fn copy_sleeping(&mut self, addr: u64, way: Way, at: u64, len: u64) -> Result {
        self.start(addr, way, at, len)?;
        read_poll_timeout(
            || Ok(self.registers.read32(COMMAND)),
            |command| command & RUN == 0,
            Delta::from_millis(1),
            Delta::from_secs(5),
        )?;
        Ok(())
    }

    fn start(&mut self, addr: u64, way: Way, at: u64, len: u64) -> Result {
        // The emulator dies of anything else.
        if at > BUFFER_SIZE || len > BUFFER_SIZE - at {
            return Err(EINVAL);
        }
        let (source, destination, command) = match way {
            Way::FromMemory => (addr, BUFFER + at, RUN),
            Way::ToMemory => (BUFFER + at, addr, RUN | TO_MEMORY),
        };
        self.registers.try_write64(source, SOURCE)?;
        self.registers.try_write64(destination, DESTINATION)?;
        self.registers.try_write64(len, COUNT)?;
        self.registers.write32(command, COMMAND);
        Ok(())
    }
}
