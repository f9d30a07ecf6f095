// SPDX-License-Identifier: GPL-2.0
//! The device as a vfio-user server: all that knows of the protocol and of the crate that speaks it.
//!
//! One thread talks to QEMU, which waits for each answer: it reads registers, passes writes on and never waits for
//! the device, except that memory that is unmapped must not be in use when the answer goes out. The other thread is
//! the device's. Interrupts are event file descriptors.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use vfio_bindings::bindings::vfio::{
    vfio_region_info, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR2_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use crate::adversary::Script;
use crate::bar::{Event, Registers};
use crate::clock::{Clock, Real};
use crate::control;
use crate::device::{Device, Options};
use crate::memory::GuestMemory;
use crate::pci::{self, Config};
use crate::subnet::Subnet;
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
    control: Option<UnixListener>,
    script: Script,
    subnet: Option<Subnet>,
}

impl Hca {
    /// One that QEMU finds at `listener`.
    pub fn new(listener: UnixListener, options: Options, trace: Trace) -> Self {
        let server = Server::from_owned_fd(listener.into(), true, interrupts(), regions());
        Self {
            server,
            options,
            trace,
            control: None,
            script: Script::nothing(),
            subnet: None,
        }
    }

    /// One that also answers questions at `listener`: an object of JSON a line.
    pub fn with_control(self, listener: UnixListener) -> Self {
        let control = Some(listener);
        Self { control, ..self }
    }

    /// One that does what is in a script.
    pub fn with_script(self, script: Script) -> Self {
        Self { script, ..self }
    }

    /// One whose packets reach the other devices on a subnet.
    pub fn on_subnet(self, subnet: Subnet) -> Self {
        let subnet = Some(subnet);
        Self { subnet, ..self }
    }

    /// Serves one QEMU until it goes.
    pub fn serve(&self) -> Result<()> {
        let memory = GuestMemory::default();
        let clock: Arc<dyn Clock> = Arc::new(Real::start());
        let trace = self.trace.clone();
        let (mut device, registers) = Device::new(self.options, memory.clone(), clock, trace);
        device.follow(self.script.clone());
        let vectors = Vectors::default();
        let (events, queue) = channel();
        let subnet = self.subnet.as_ref();
        let attached = subnet.map(|subnet| {
            let (attached, fabric) = subnet.attach(self.options.lid, events.clone());
            device.join(fabric);
            attached
        });
        let mut front = Front {
            registers,
            config: Config::new(),
            memory,
            vectors: vectors.clone(),
            events,
        };
        let device = Mutex::new(device);
        let over = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name("hca".into());
            let worked = &device;
            worker.spawn_scoped(scope, move || work(worked, &queue, &vectors))?;
            if let Some(listener) = &self.control {
                let control = std::thread::Builder::new().name("hca-control".into());
                let answer = |question: &str| lock(&device).ask(question);
                let over = &over;
                let serve = move || control::serve(listener, over, answer);
                // The worker ends with its sender, which goes with an error, too.
                control.spawn_scoped(scope, serve)?;
            }
            let result = self.server.run(&mut front);
            // Without a sender, the worker ends.
            drop((front, attached));
            over.store(true, Ordering::SeqCst);
            result.context("talking to QEMU")
        });
        self.trace.flush();
        result
    }
}

/// The device's thread. It is locked as long as it works: who asks something waits for it.
fn work(device: &Mutex<Device>, queue: &Receiver<Event>, vectors: &Vectors) {
    let raise = |all: Vec<u16>| all.into_iter().for_each(|vector| vectors.raise(vector));
    loop {
        let ticked = lock(device).tick();
        let event = match ticked {
            Some(raised) => {
                raise(raised);
                queue.recv_timeout(TICK)
            }
            None => queue.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(event) => {
                let raised = lock(device).handle(event);
                raise(raised);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn lock(device: &Mutex<Device>) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where interrupts go: a file for each vector that somebody listens to.
#[derive(Clone, Default)]
struct Vectors(Arc<Mutex<Vec<Option<File>>>>);

impl Vectors {
    fn raise(&self, vector: u16) {
        let mut files = self.files();
        if let Some(Some(file)) = files.get_mut(usize::from(vector)) {
            // A counter that is full has been raised, too.
            let _ = file.write_all(&1_u64.to_ne_bytes());
        }
    }

    fn raise_all(&self, start: u32, count: u32) {
        let end = start.saturating_add(count).min(u32::from(pci::VECTORS));
        (start..end).for_each(|vector| self.raise(vector as u16));
    }

    fn clear(&self) {
        self.files().clear();
    }

    /// Takes the files of `count` vectors; those that are not given are gone.
    fn set(&self, start: u32, count: u32, given: Vec<File>) -> io::Result<()> {
        let end = start.checked_add(count);
        let end = end.filter(|end| *end <= u32::from(pci::VECTORS));
        let end = end.ok_or(io::ErrorKind::InvalidInput)? as usize;
        let mut files = self.files();
        if files.len() < end {
            files.resize_with(end, || None);
        }
        let mut given = given.into_iter();
        for place in &mut files[start as usize..end] {
            *place = given.next();
        }
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, Vec<Option<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        // Masking is QEMU's own business, and other interrupts there are not.
        let triggers = flags & VFIO_IRQ_SET_ACTION_TRIGGER != 0;
        if index != VFIO_PCI_MSIX_IRQ_INDEX || !triggers {
            return Ok(());
        }
        let eventfds = flags & VFIO_IRQ_SET_DATA_EVENTFD != 0;
        match count {
            0 => self.vectors.clear(),
            _ if eventfds => return self.vectors.set(start, count, fds),
            _ => self.vectors.raise_all(start, count),
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PROFILES;
    use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;
    use vfio_user::Client;

    /// A front whose device is only a queue of events.
    fn front() -> (Front, Receiver<Event>) {
        let (front, queue, _) = with_device();
        (front, queue)
    }

    fn with_device() -> (Front, Receiver<Event>, Device) {
        let memory = GuestMemory::default();
        let options = Options {
            profile: PROFILES[0],
            guid: 1,
            lid: 1,
        };
        let clock = Arc::new(Real::start());
        let (device, registers) = Device::new(options, memory.clone(), clock, Trace::default());
        let (events, queue) = channel();
        let front = Front {
            registers,
            config: Config::new(),
            memory,
            vectors: Vectors::default(),
            events,
        };
        (front, queue, device)
    }

    /// How often a file that stands for a vector was raised.
    fn raised(file: &File) -> io::Result<usize> {
        let mut file = file;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes.len() / 8)
    }

    #[test]
    fn vectors_come_and_go() -> io::Result<()> {
        const SET: u32 = VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_EVENTFD;
        let (mut front, _queue) = front();
        let file = tempfile::tempfile()?;
        let msix = VFIO_PCI_MSIX_IRQ_INDEX;
        front.set_irqs(msix, SET, 3, 1, vec![file.try_clone()?])?;
        front.vectors.raise(3);
        front.vectors.raise(4);
        assert_eq!(raised(&file)?, 1);
        // What masks changes nothing, and what triggers without files is an interrupt.
        front.set_irqs(msix, 0, 3, 1, Vec::new())?;
        front.set_irqs(msix, VFIO_IRQ_SET_ACTION_TRIGGER, 0, u32::MAX, Vec::new())?;
        front.vectors.raise(3);
        assert_eq!(raised(&file)?, 3);
        front.set_irqs(msix, SET, 3, 1, Vec::new())?;
        front.vectors.raise(3);
        assert_eq!(raised(&file)?, 3);
        assert!(front.set_irqs(msix, SET, 31, 2, Vec::new()).is_err());
        assert!(front.set_irqs(msix, SET, u32::MAX, 2, Vec::new()).is_err());
        front.set_irqs(msix, VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, Vec::new())
    }

    #[test]
    fn a_reset_takes_the_bus_away_and_is_passed_on() -> io::Result<()> {
        let (mut front, queue) = front();
        front.dma_map(DmaMapFlags::READ_WRITE, 0, 0, 0x1000, {
            let file = tempfile::tempfile()?;
            file.set_len(0x1000)?;
            Some(file)
        })?;
        let config = VFIO_PCI_CONFIG_REGION_INDEX;
        assert!(front.memory.read(0, &mut [0]).is_err());
        front.region_write(config, 4, &[0x06, 0])?;
        assert!(front.memory.read(0, &mut [0]).is_ok());
        // The function's own reset.
        front.region_write(config, 0x68, &[0x10, 0x80])?;
        assert!(front.memory.read(0, &mut [0]).is_err());
        assert_eq!(queue.try_iter().collect::<Vec<_>>(), [Event::Reset]);
        front.dma_unmap(DmaUnmapFlags::UNMAP_ALL, 0, 0)?;
        assert_eq!(front.memory.ranges(), 0);
        Ok(())
    }

    #[test]
    fn a_command_goes_through_the_socket_and_both_threads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("socket");
        let trace = Trace::default();
        let options = Options {
            profile: PROFILES[0],
            guid: 1,
            lid: 1,
        };
        let control = folder.path().join("control");
        let hca = Hca::new(UnixListener::bind(&socket)?, options, trace.clone());
        let hca = hca.with_control(UnixListener::bind(&control)?);
        let server = std::thread::spawn(move || hca.serve());
        let mut client = Client::new(&socket)?;
        let mut vendor = [0; 2];
        client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut vendor)?;
        assert_eq!(vendor, [0xb3, 0x15]);
        let memory = tempfile::tempfile()?;
        memory.set_len(0x2000)?;
        client.dma_map(0, 0x10000, 0x2000, memory.as_raw_fd())?;
        client.region_write(VFIO_PCI_CONFIG_REGION_INDEX, 4, &[0x06, 0])?;
        // An entry with a command that does nothing: its kind, lengths, opcode, and whose it is.
        let mut entry = [0; 64];
        for (place, byte) in [(0, 7), (7, 16), (16, 0x08), (17, 0x0d), (59, 16), (63, 1)] {
            entry[place] = byte;
        }
        memory.write_all_at(&entry, 0x1000)?;
        client.region_write(VFIO_PCI_BAR0_REGION_INDEX, 0x14, &[0, 1, 0x10, 0])?;
        client.region_write(VFIO_PCI_BAR0_REGION_INDEX, 0x18, &[0, 0, 0, 1])?;
        let started = std::time::Instant::now();
        while entry[63] & 1 == 1 {
            assert!(started.elapsed() < Duration::from_secs(120), "no answer");
            std::thread::sleep(Duration::from_millis(1));
            memory.read_exact_at(&mut entry, 0x1000)?;
        }
        assert_eq!((entry[63], entry[32]), (0, 0));
        let asking = UnixStream::connect(&control)?;
        (&asking).write_all(b"{\"ask\": \"faults\"}\n")?;
        let mut answer = String::new();
        BufReader::new(&asking).read_line(&mut answer)?;
        assert_eq!(answer, "{\"raised\":0,\"resumed\":0,\"waiting\":0}\n");
        client.dma_unmap(0x10000, 0x2000)?;
        client.shutdown()?;
        let served = server.join();
        served.map_err(|_| anyhow::anyhow!("the server panicked"))??;
        assert_eq!(trace.violations(), []);
        Ok(())
    }

    #[test]
    fn no_access_is_too_odd() -> io::Result<()> {
        let (mut front, queue) = front();
        for region in 0..12 {
            for offset in [0, 1, 0x18, 0xffc, 0x8040, 0x1ff_ffff, u64::MAX] {
                for length in [0, 1, 3, 4, 8, LONGEST, LONGEST + 1] {
                    let mut bytes = vec![0xff; length];
                    let read = front.region_read(region, offset, &mut bytes);
                    let write = front.region_write(region, offset, &bytes);
                    assert_eq!(read.is_ok(), write.is_ok());
                    assert!(read.is_err() || length <= LONGEST);
                }
            }
        }
        assert!(queue.try_iter().count() > 0);
        Ok(())
    }

    /// Messages of a QEMU that is not one.
    const MESSAGES: u32 = 150_000;

    /// Whatever comes over the socket, neither this side nor the device panics, and a mapping that was refused or taken
    /// away is not there.
    #[test]
    fn no_message_is_too_odd() -> Result<()> {
        let (mut front, queue, mut device) = with_device();
        let mut dice = fastrand::Rng::with_seed(13);
        let file = tempfile::tempfile()?;
        file.set_len(1 << 20)?;
        let number = |dice: &mut fastrand::Rng| match dice.u32(0..4) {
            0 => dice.u64(..),
            1 => dice.u64(0..1 << 25),
            2 => u64::MAX - dice.u64(0..0x2000),
            _ => dice.u64(0..0x400) << 12,
        };
        let mut mapped = 0_u32;
        for _ in 0..MESSAGES {
            let (address, size) = (number(&mut dice), number(&mut dice));
            match dice.u32(0..16) {
                0 => {
                    let given = dice.bool().then(|| file.try_clone()).transpose()?;
                    let flags = DmaMapFlags::from_bits_truncate(dice.u32(..));
                    let result = front.dma_map(flags, number(&mut dice), address, size, given);
                    mapped += u32::from(result.is_ok());
                }
                1 => {
                    let flags = DmaUnmapFlags::from_bits_truncate(dice.u32(0..64));
                    let result = front.dma_unmap(flags, address, size);
                    let gone = result.is_err() || front.memory.read(address, &mut [0]).is_err();
                    assert!(gone, "{address:#x}");
                }
                2 => {
                    let index = dice.u32(0..6);
                    let (flags, start) = (dice.u32(0..64), dice.u32(0..64));
                    let _ = front.set_irqs(index, flags, start, dice.u32(0..64), Vec::new());
                }
                3 if dice.u32(0..64) == 0 => front.reset()?,
                // The device may reach memory.
                4 => front.region_write(VFIO_PCI_CONFIG_REGION_INDEX, 4, &[0x06, 0])?,
                kind => {
                    let region = dice.u32(0..VFIO_PCI_NUM_REGIONS + 1);
                    let mut bytes = vec![dice.u8(..); dice.usize(0..80)];
                    match kind % 2 {
                        0 => drop(front.region_read(region, address, &mut bytes)),
                        _ => drop(front.region_write(region, address, &bytes)),
                    }
                }
            }
            for event in queue.try_iter() {
                device.handle(event);
            }
            if dice.u32(0..64) == 0 {
                device.tick();
            }
        }
        assert!(mapped > 0);
        Ok(())
    }
}
