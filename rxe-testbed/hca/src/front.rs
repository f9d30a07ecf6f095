// SPDX-License-Identifier: GPL-2.0
//! The device as a vfio-user server: all that knows of the protocol and of the crate that speaks it.
//!
//! One thread talks to QEMU, which waits for each answer: it reads registers, passes writes on and never waits for
//! the device, except that memory that is unmapped must not be in use when the answer goes out. The other thread is
//! the device's. Interrupts are event file descriptors.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use vfio_bindings::bindings::vfio::{
    vfio_region_info, VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_BAR2_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use crate::clock::{Clock, Real};
use crate::device::{Device, Event, Options, Registers};
use crate::memory::GuestMemory;
use crate::pci::{self, Config};
use crate::trace::Trace;

/// More than any access of QEMU's: a longer one is refused, whatever it says of itself.
const LONGEST: usize = 0x1000;

/// How often the device looks after what nobody rings a doorbell for.
const TICK: Duration = Duration::from_millis(2);

/// A device that waits for QEMU.
pub struct Hca {
    server: Server,
    options: Options,
    trace: Trace,
}

impl Hca {
    /// One that QEMU finds at `listener`.
    pub fn new(listener: UnixListener, options: Options, trace: Trace) -> Self {
        let server = Server::from_owned_fd(listener.into(), true, interrupts(), regions());
        Self {
            server,
            options,
            trace,
        }
    }

    /// Serves one QEMU until it goes.
    pub fn serve(&self) -> Result<()> {
        let memory = GuestMemory::default();
        let clock: Arc<dyn Clock> = Arc::new(Real::start());
        let trace = self.trace.clone();
        let (device, registers) = Device::new(self.options, memory.clone(), clock, trace);
        let vectors = Vectors::default();
        let (events, queue) = channel();
        let mut front = Front {
            registers,
            config: Config::new(),
            memory,
            vectors: vectors.clone(),
            events,
        };
        let result = std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name("hca".into());
            worker.spawn_scoped(scope, move || work(device, &queue, &vectors))?;
            let result = self.server.run(&mut front);
            // Without a sender, the worker ends.
            drop(front);
            result.context("talking to QEMU")
        });
        self.trace.flush();
        result
    }
}

/// The device's thread.
fn work(mut device: Device, queue: &Receiver<Event>, vectors: &Vectors) {
    let raise = |all: Vec<u16>| all.into_iter().for_each(|vector| vectors.raise(vector));
    loop {
        let event = match device.tick() {
            Some(raised) => {
                raise(raised);
                queue.recv_timeout(TICK)
            }
            None => queue.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(event) => raise(device.handle(event)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Where interrupts go: a file for each vector that somebody listens to.
#[derive(Clone, Default)]
struct Vectors(Arc<Mutex<Vec<Option<File>>>>);

impl Vectors {
    fn raise(&self, vector: u16) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(file)) = files.get_mut(usize::from(vector)) {
            // A counter that is full has been raised, too.
            let _ = file.write_all(&1_u64.to_ne_bytes());
        }
    }

    fn set(&self, start: u32, count: u32, given: Vec<File>) -> io::Result<()> {
        let end = start.checked_add(count);
        let end = end.filter(|end| *end <= u32::from(pci::VECTORS));
        let end = end.ok_or(io::ErrorKind::InvalidInput)? as usize;
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 {
            files.clear();
            return Ok(());
        }
        if files.len() < end {
            files.resize_with(end, || None);
        }
        let mut given = given.into_iter();
        for place in &mut files[start as usize..end] {
            *place = given.next();
        }
        Ok(())
    }
}

/// The side that QEMU talks to.
struct Front {
    registers: Registers,
    config: Config,
    memory: GuestMemory,
    vectors: Vectors,
    events: Sender<Event>,
}

impl Front {
    fn pass_on(&self, event: Event) {
        // The device's thread only ends after this one.
        let _ = self.events.send(event);
    }

    fn reset_function(&mut self) {
        self.memory.set_bus_master(false);
        self.config = Config::new();
        self.pass_on(self.registers.reset());
    }
}

impl ServerBackend for Front {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if data.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => self.config.read(offset, data),
            VFIO_PCI_BAR0_REGION_INDEX => self.registers.read(offset, data),
            VFIO_PCI_BAR2_REGION_INDEX => data.fill(0),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.config.write(offset, data);
                if self.config.takes_reset() {
                    self.reset_function();
                }
                self.memory.set_bus_master(self.config.is_bus_master());
            }
            VFIO_PCI_BAR0_REGION_INDEX => {
                if let Some(event) = self.registers.write(offset, data) {
                    self.pass_on(event);
                }
            }
            VFIO_PCI_BAR2_REGION_INDEX => {}
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let writable = flags.contains(DmaMapFlags::WRITE);
        let file = fd.map(|file| (file, offset));
        let mapped = self.memory.map(address, size, writable, file);
        mapped.map_err(io::Error::other)
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            self.memory.unmap_all();
            return Ok(());
        }
        self.memory.unmap(address, size).map_err(io::Error::other)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.reset_function();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        match index {
            VFIO_PCI_MSIX_IRQ_INDEX => self.vectors.set(start, count, fds),
            _ => Ok(()),
        }
    }
}

/// The kinds of interrupts: only MSI-X has any.
fn interrupts() -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| IrqInfo {
            index,
            flags: VFIO_IRQ_INFO_EVENTFD,
            count: match index {
                VFIO_PCI_MSIX_IRQ_INDEX => u32::from(pci::VECTORS),
                _ => 0,
            },
        })
        .collect()
}

/// The regions: two BARs and the configuration space. Others are empty.
fn regions() -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_BAR0_REGION_INDEX => pci::BAR0,
                VFIO_PCI_BAR2_REGION_INDEX => pci::BAR2,
                VFIO_PCI_CONFIG_REGION_INDEX => pci::SIZE as u64,
                _ => 0,
            };
            let flags = match size {
                0 => 0,
                _ => VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
            };
            ServerRegion {
                region_info: vfio_region_info {
                    argsz: size_of::<vfio_region_info>() as u32,
                    flags,
                    index,
                    cap_offset: 0,
                    size,
                    offset: 0,
                },
                sparse_areas: Vec::new(),
                mmap_fd: None,
            }
        })
        .collect()
}
