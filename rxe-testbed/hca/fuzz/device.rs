// SPDX-License-Identifier: GPL-2.0
//! Whatever a guest does, the device neither panics nor hangs: each input is what a guest does to a device that its
//! driver has brought up.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use odp_hca::clock::Stepping;
use odp_hca::memory::GuestMemory;
use odp_hca::trace::Trace;
use odp_hca::{Device, Options, Registers, PROFILES};

/// The guest's memory, and where in it the command queue and the mailboxes are.
const MEMORY: u64 = 1 << 20;
const QUEUE: u64 = 0x1000;
const MAILBOXES: u64 = 0x8_0000;

/// Bytes of data in a mailbox, and how far one is from the next.
const DATA: usize = 512;
const STRIDE: u64 = 0x400;

/// Registers: the command queue's address, and its doorbell.
const QUEUE_HIGH: u64 = 0x10;
const QUEUE_LOW: u64 = 0x14;
const DOORBELL: u64 = 0x18;

/// Commands that bring a device up: ENABLE_HCA, MANAGE_PAGES with so many pages, and INIT_HCA. ALLOC_PD makes something
/// only if they have.
const UP: [u16; 4] = [0x104, 0x108, 0x102, 0x800];
const GIVE: u8 = 1;
const PAGES: u8 = 64;

struct Guest {
    device: Device,
    registers: Registers,
    memory: File,
}

impl Guest {
    /// One whose device has these capabilities.
    fn new(profile: usize) -> Option<Self> {
        let file = tempfile::tempfile().ok()?;
        file.set_len(MEMORY).ok()?;
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        let shared = file.try_clone().ok()?;
        memory.map(0, MEMORY, true, Some((shared, 0))).ok()?;
        let options = Options {
            profile: PROFILES[profile % PROFILES.len()],
            guid: 0x0002_c903_0000_0100,
            lid: 1,
        };
        let clock = Arc::new(Stepping::default());
        let (device, registers) = Device::new(options, memory, clock, Trace::default());
        let mut guest = Self {
            device,
            registers,
            memory: file,
        };
        guest.write(QUEUE_HIGH, &[0; 4]);
        guest.write(QUEUE_LOW, &(QUEUE as u32).to_be_bytes());
        for opcode in UP {
            let mut input = opcode.to_be_bytes().to_vec();
            input.resize(16, 0);
            (input[7], input[15]) = (GIVE, PAGES);
            let pages = (0..PAGES).map(|page| u64::from(page) << 12);
            input.extend(pages.flat_map(u64::to_be_bytes));
            guest.command(&input, 16);
        }
        assert_eq!(guest.device.objects(), 1, "the device is not up");
        Some(guest)
    }

    /// Writes to the device's registers.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(event) = self.registers.write(offset, bytes) {
            self.device.handle(event);
        }
    }

    /// Writes to memory.
    fn put(&self, address: u64, bytes: &[u8]) {
        let room = MEMORY.saturating_sub(address) as usize;
        // A guest does not mind if it has not.
        let _ = self
            .memory
            .write_at(&bytes[..bytes.len().min(room)], address);
    }

    /// Has a well-formed entry of the command queue executed.
    fn command(&mut self, input: &[u8], output: u16) {
        let (inline, rest) = input.split_at(input.len().min(16));
        let mut entry = [0; 64];
        entry[0] = 7;
        entry[4..8].copy_from_slice(&(input.len() as u32).to_be_bytes());
        entry[8..16].copy_from_slice(&MAILBOXES.to_be_bytes());
        entry[16..16 + inline.len()].copy_from_slice(inline);
        let results = MAILBOXES + STRIDE * rest.len().div_ceil(DATA) as u64;
        entry[48..56].copy_from_slice(&results.to_be_bytes());
        entry[56..60].copy_from_slice(&u32::from(output).to_be_bytes());
        entry[63] = 1;
        self.mailboxes(MAILBOXES, rest);
        self.mailboxes(results, &vec![0; usize::from(output).saturating_sub(16)]);
        self.put(QUEUE, &entry);
        self.write(DOORBELL, &1_u32.to_be_bytes());
    }

    /// Puts data into a chain of mailboxes.
    fn mailboxes(&self, first: u64, data: &[u8]) {
        for (number, piece) in data.chunks(DATA).enumerate() {
            let address = first + STRIDE * number as u64;
            let mut mailbox = [0; 576];
            mailbox[..piece.len()].copy_from_slice(piece);
            mailbox[0x230..0x238].copy_from_slice(&(address + STRIDE).to_be_bytes());
            mailbox[0x238..0x23c].copy_from_slice(&(number as u32).to_be_bytes());
            self.put(address, &mailbox);
        }
    }

    /// Does one thing that the input says; gives the rest of it.
    fn step<'a>(&mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        let (&[kind, a, b, c], rest) = input.split_first_chunk()?;
        let place = u64::from(u32::from_be_bytes([0, a, b, c]));
        let take = |count: usize| rest.split_at(rest.len().min(count));
        Some(match kind % 6 {
            0 | 1 => {
                let (bytes, rest) = take(16 + 16 * usize::from(c));
                let mut input = vec![0; bytes.len().max(16)];
                input[..bytes.len()].copy_from_slice(bytes);
                input[..2].copy_from_slice(&[a & 0xf, b]);
                self.command(&input, 16 + u16::from(a >> 4) * 0x110);
                rest
            }
            2 => {
                let (bytes, rest) = take([4, 8, 64][usize::from(kind) % 3]);
                self.write(place, bytes);
                rest
            }
            3 => {
                let (bytes, rest) = take(usize::from(kind));
                self.put(place % MEMORY, bytes);
                rest
            }
            4 => {
                (0..kind).for_each(|_| drop(self.device.tick()));
                rest
            }
            _ => {
                let reset = self.registers.reset();
                self.device.handle(reset);
                rest
            }
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let profile = input.first().copied().unwrap_or_default();
    let Some(mut guest) = Guest::new(profile.into()) else {
        return;
    };
    let mut rest = input.get(1..).unwrap_or_default();
    while let Some(next) = guest.step(rest) {
        rest = next;
    }
});
