// SPDX-License-Identifier: GPL-2.0
//! One boot of the VM: started, watched, talked to, ended.
//!
//! The guest's side of the conversation is `guest/runner.sh`. Every wait here is bounded, in the VM's own time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use base64::Engine;
use odp_hca::Script;

use crate::build::World;
use crate::clock::Clock;
use crate::failure::{status, Failure};
use crate::kernel::Variant;
use crate::klog;
use crate::network::Network;
use crate::nic::{self, Nic};
use crate::pmem::Pmem;
use crate::process::{self, Owned, Scratch};
use crate::qemu::{self, Accelerator, Extra, Machine, Ports};
use crate::reach::Reach;
use crate::session::{self, Put, Text};
use crate::stream::Until;
use crate::ui;

/// A boot that has printed nothing by then will not print anything: under emulation about one in
/// twenty does that, for no known reason, and works the next time.
const SILENCE: Duration = Duration::from_secs(30);

/// A boot prints all the time; one that has not for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// One that has complained is so sooner. While the kernel looks at the processor it has no word of 57-bit
/// addresses for a moment (`identify_cpu` clears what it knows): KASAN then takes every address of an interrupt
/// that comes for a wild one, and reports it until nothing goes on.
const STUCK_AFTER_ALARM: Duration = Duration::from_secs(30);

/// A boot takes some seconds; on a busy machine it may take ten times that.
const BOOT: Duration = Duration::from_secs(240);

/// Loading a driver takes a second.
const DRIVER: Duration = Duration::from_secs(90);

/// How often a VM is booted that does not come up. A run of all tests boots nine times.
const TRIES: u32 = 3;

/// What the guest may add to a command's own time limit before it counts as hung.
const GRACE: Duration = Duration::from_secs(20);

/// What the kernel logs is on the console at once, unless that has much to print.
const LOG: Duration = Duration::from_secs(20);

/// Ending takes a moment, too.
const OFF: Duration = Duration::from_secs(10);

/// Which soft-RoCE driver the guest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    /// The repository's modules.
    Ours,
    /// The modules that Debian ships.
    Stock,
}

impl Driver {
    /// As the guest's `rxe-driver` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Stock => "stock",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ours => "our driver",
            Self::Stock => "the stock driver",
        }
    }
}

/// What a VM is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Whether the repository's modules are brought along.
    pub(crate) with_ours: bool,
    /// How many soft-RoCE devices it has.
    pub(crate) rxe: u32,
    /// What else is in it.
    pub(crate) extra: Extra,
    /// Files for the guest that are not the user's.
    pub(crate) texts: Vec<Text>,
    /// Files of the host for the guest.
    pub(crate) puts: Vec<Put>,
    /// Its place on a network segment with another VM.
    pub(crate) network: Option<Network>,
    /// How it is reached, if it stays.
    pub(crate) reach: Option<Reach>,
    /// Where an emulated ConnectX says what it does.
    pub(crate) trace: Option<PathBuf>,
    /// What it does that a device seldom does.
    pub(crate) adversary: Option<Script>,
    /// A plugin of QEMU that records what runs, and takes orders at [`Vm::tracer`].
    pub(crate) tracer: Option<PathBuf>,
    /// The file of an NVDIMM; one that goes with the VM if none is named.
    pub(crate) pmem: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory_mib: 2048,
            with_ours: true,
            rxe: 1,
            extra: Extra::None,
            texts: Vec::new(),
            puts: Vec::new(),
            network: None,
            reach: None,
            trace: None,
            adversary: None,
            tracer: None,
            pmem: None,
        }
    }
}

enum Event {
    Control(String),
    Output(Vec<u8>),
    Error(Vec<u8>),
}

/// How a command in the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this status.
    Exit(u8),
    /// It was killed after its time.
    TimedOut,
}

/// A running VM.
pub(crate) struct Vm {
    qemu: Owned,
    /// The VM's own time: on a busy host it may be much less than what passes.
    clock: Clock,
    control: UnixStream,
    terminal: UnixStream,
    events: Receiver<Event>,
    log: PathBuf,
    commands: u32,
    accelerator: Accelerator,
    variant: Variant,
    nic: Option<Nic>,
    _pmem: Option<Pmem>,
    scratch: Scratch,
}

impl Vm {
    /// Boots a VM. One that stays silent or does not come up is killed and tried again.
    pub(crate) fn boot(world: &World, config: &Config) -> Result<Self> {
        let accelerator = qemu::choose_accelerator(world)?;
        for tried in 1..TRIES {
            match Self::boot_once(world, config, accelerator) {
                Ok(vm) => return Ok(vm),
                Err(error) => ui::note(&format!("{error:#}; trying again ({tried} of {TRIES})")),
            }
        }
        Self::boot_once(world, config, accelerator)
            .map_err(|error| Failure::error(status::VM, format!("{error:#}, {TRIES} times")))
    }

    fn boot_once(world: &World, config: &Config, accelerator: Accelerator) -> Result<Self> {
        let scratch = world.cache.scratch()?;
        let log = scratch.path().join("kernel.log");
        std::fs::write(&log, "").context("making the kernel log")?;
        let archive = scratch.path().join("session.tar");
        let (texts, puts) = (&config.texts, &config.puts);
        session::write_archive(&archive, world, config.with_ours, texts, puts)?;

        let (control, control_guest) = UnixStream::pair().context("making a socket pair")?;
        let (output, output_guest) = UnixStream::pair().context("making a socket pair")?;
        let (error, error_guest) = UnixStream::pair().context("making a socket pair")?;
        let (terminal, terminal_guest) = UnixStream::pair().context("making a socket pair")?;
        for socket in [&control_guest, &output_guest, &error_guest, &terminal_guest] {
            inherit(socket.as_raw_fd())?;
        }
        if let Some(network) = &config.network {
            inherit(network.socket())?;
        }
        let nic = match config.extra.profile() {
            Some(profile) => {
                let wanted = nic::Wanted {
                    profile,
                    trace: config.trace.as_deref(),
                    script: config.adversary.clone(),
                    network: config.network.as_ref(),
                };
                Some(Nic::start(world, scratch.path(), wanted)?)
            }
            None => None,
        };
        let pmem = match config.extra {
            Extra::Pmem => {
                let own = scratch.path().join("pmem");
                Some(Pmem::open(config.pmem.as_deref().unwrap_or(&own))?)
            }
            _ => None,
        };
        let plugin = config.tracer.as_ref().map(|file| {
            let control = tracer(&scratch);
            format!(
                "{},control={}",
                qemu::escaped(file),
                qemu::escaped(&control)
            )
        });
        let machine = Machine {
            accelerator,
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            huge_pages: (config.memory_mib / 32).max(16),
            rxe: config.rxe,
            extra: config.extra,
            kernel: &world.kernel.image(),
            variant: world.kernel.variant,
            initramfs: &world.guest.initramfs,
            kernel_log: &log,
            disks: Some((&world.guest.image, &archive)),
            ports: Some(Ports {
                control: control_guest.as_raw_fd(),
                output: output_guest.as_raw_fd(),
                error: error_guest.as_raw_fd(),
                terminal: terminal_guest.as_raw_fd(),
            }),
            network: config.network.as_ref(),
            reach: config.reach.as_ref(),
            nic: nic.as_ref(),
            pmem: pmem.as_ref(),
            plugin: plugin.as_deref(),
        };
        let mut command = qemu::command(world, &machine);
        let messages = scratch.path().join("qemu.log");
        let file = std::fs::File::create(&messages).context("making QEMU's log")?;
        command.stdout(Stdio::null()).stderr(file);
        command.env("TMPDIR", scratch.path());
        let qemu = Owned::spawn(command)?;

        let (sender, events) = sync_channel(64);
        forward_lines(control.try_clone()?, sender.clone());
        forward_bytes(output, sender.clone(), Event::Output);
        forward_bytes(error, sender, Event::Error);
        let mut vm = Self {
            clock: qemu.clock(),
            qemu,
            control,
            terminal,
            events,
            log,
            commands: 0,
            accelerator,
            variant: world.kernel.variant,
            nic,
            _pmem: pmem,
            scratch,
        };
        if let Err(error) = vm.wait_until_ready() {
            save_log(&vm.kernel_log()?, &world.cache.log("failed-boot"))?;
            return Err(error);
        }
        Ok(vm)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let [silence, stuck, boot] = [SILENCE, STUCK, BOOT].map(|time| self.variant.patience(time));
        let started = self.clock.now();
        let mut printed = (0, started);
        loop {
            if let Some(Event::Control(line)) = self.next_event()? {
                if line == "ready" {
                    return Ok(());
                }
            }
            let length = std::fs::metadata(&self.log).map_or(0, |log| log.len());
            if length != printed.0 {
                printed = (length, self.clock.now());
            }
            if length == 0 && self.clock.since(started) > silence {
                bail!("the VM printed nothing for {} s", silence.as_secs());
            }
            let quiet = self.clock.since(printed.1);
            let stuck = quiet > stuck || quiet > STUCK_AFTER_ALARM && self.has_complained()?;
            if stuck || self.clock.since(started) > boot {
                bail!(
                    "the VM did not come up in {} s; its log ends with:\n{}",
                    self.clock.since(started).as_secs(),
                    process::tail(&self.kernel_log()?, 10)
                );
            }
        }
    }

    fn has_complained(&self) -> Result<bool> {
        Ok(klog::first_alarm(&self.kernel_log()?, 1).is_some())
    }

    /// The next event, or none for a moment; an error once the VM is gone.
    fn next_event(&mut self) -> Result<Option<Event>> {
        match self.events.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => {
                if self.qemu.try_wait()?.is_some() {
                    return Err(self.died()?);
                }
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.died()?),
        }
    }

    fn died(&mut self) -> Result<anyhow::Error> {
        let log = self.kernel_log()?;
        let messages = process::read_lossy(&self.scratch.path().join("qemu.log"))?;
        let messages = process::tail(messages.trim_end(), 5);
        let telling = klog::first_alarm(&log, 40);
        let telling = telling.unwrap_or_else(|| process::tail(log.trim_end(), 15));
        let text = format!("the VM died; from its kernel log:\n{telling}\n{messages}");
        Ok(Failure::error(status::VM, text.trim_end()))
    }

    /// The emulated ConnectX, for what it has to tell after the VM has ended.
    pub(crate) fn take_nic(&mut self) -> Option<Nic> {
        self.nic.take()
    }

    /// The emulated ConnectX, to be asked.
    pub(crate) fn nic(&self) -> Option<&Nic> {
        self.nic.as_ref()
    }

    /// Where its tracer takes orders, if it has one.
    pub(crate) fn tracer(&self) -> PathBuf {
        tracer(&self.scratch)
    }

    /// What runs the guest's processors.
    pub(crate) fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The time limit in this VM for what may take `time` on the stock kernel and on a host that does nothing else.
    /// [`Self::run`] has the guest's programs wait as many times longer.
    pub(crate) fn patience(&self, time: Duration) -> Duration {
        self.variant.patience(time) * self.clock.slowness()
    }

    /// The kernel's log so far.
    pub(crate) fn kernel_log(&self) -> Result<String> {
        process::read_lossy(&self.log)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        let mut control = &self.control;
        match control.write_all(format!("{line}\n").as_bytes()) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.died()?),
        }
    }

    /// Loads a driver and brings up `rxe0`.
    pub(crate) fn use_driver(&mut self, driver: Driver) -> Result<()> {
        self.send(&format!("driver {}", driver.name()))?;
        let limit = self.variant.patience(DRIVER);
        let started = self.clock.now();
        let mut said = Vec::new();
        loop {
            match self.next_event()? {
                Some(Event::Control(line)) => match line.strip_prefix("driver ") {
                    Some("0") => return Ok(()),
                    _ => break,
                },
                Some(Event::Output(bytes) | Event::Error(bytes)) => said.extend(bytes),
                None if self.clock.since(started) > limit => {
                    said.extend(b"it hangs");
                    break;
                }
                None => {}
            }
        }
        let said = String::from_utf8_lossy(&said);
        let log = process::tail(&self.kernel_log()?, 8);
        let text = format!(
            "{} does not come up: {}\nthe kernel log ends with:\n{log}",
            driver.title(),
            said.trim()
        );
        Err(Failure::error(status::VM, text))
    }

    /// Runs a shell script in the guest, its output copied as it comes.
    pub(crate) fn run(
        &mut self,
        script: &str,
        limit: Duration,
        output: &mut dyn Write,
        error: &mut dyn Write,
    ) -> Result<Outcome> {
        self.commands += 1;
        let token = format!("<end-of-command-{}-{:016x}>", self.commands, random()?);
        let slowness = self.clock.slowness();
        let script = format!("TESTBED_PATIENCE=$((TESTBED_PATIENCE * {slowness}))\n{script}");
        let encoded = base64::engine::general_purpose::STANDARD;
        self.send(&format!(
            "run {} {} {} {}",
            self.commands,
            token,
            limit.as_secs().max(1),
            encoded.encode(script)
        ))?;
        let mut output = Until::new(token.as_bytes(), output);
        let mut error = Until::new(token.as_bytes(), error);
        let mut exit = None;
        let hung = limit + self.variant.patience(GRACE);
        let (begun, started) = (Instant::now(), self.clock.now());
        loop {
            match self.next_event()? {
                Some(Event::Control(line)) => {
                    let number = line
                        .strip_prefix("exit ")
                        .and_then(|text| text.parse().ok());
                    exit = Some(number.with_context(|| format!("odd message: {line}"))?);
                }
                Some(Event::Output(bytes)) => output.feed(&bytes)?,
                Some(Event::Error(bytes)) => error.feed(&bytes)?,
                None if self.clock.since(started) > hung => {
                    let log = process::tail(&self.kernel_log()?, 40);
                    let text = format!(
                        "the VM hangs: a command's limit of {} s passed and it cannot be killed; \
                         the kernel log ends with:\n{log}",
                        limit.as_secs()
                    );
                    return Err(Failure::error(status::VM, text));
                }
                None => {}
            }
            if let (Some(exit), true, true) = (exit, output.ended(), error.ended()) {
                self.wait_for_log()?;
                return Ok(match exit {
                    124 if begun.elapsed() >= limit => Outcome::TimedOut,
                    exit => Outcome::Exit(exit),
                });
            }
        }
    }

    /// Waits until the kernel log has all that was said during the last command.
    fn wait_for_log(&mut self) -> Result<()> {
        let limit = self.variant.patience(LOG);
        let started = self.clock.now();
        loop {
            let log = self.kernel_log()?;
            if klog::has_ended(&log, self.commands) {
                return Ok(());
            }
            if self.qemu.try_wait()?.is_some() {
                return Err(self.died()?);
            }
            if self.clock.since(started) > limit {
                let text = format!(
                    "the kernel log does not say within {} s that the command has ended; it ends with:\n{}",
                    limit.as_secs(),
                    process::tail(&log, 8)
                );
                return Err(Failure::error(status::VM, text));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs an interactive shell on the guest's terminal; `connect` joins it to the user's, whose rows and
    /// columns `size` gives.
    pub(crate) fn shell(
        &mut self,
        size: impl Fn() -> (u16, u16),
        connect: impl FnOnce(&UnixStream) -> Result<()>,
    ) -> Result<u8> {
        let (mut rows, mut columns) = size();
        let term = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
        self.send(&format!("shell {rows} {columns} {term}"))?;
        connect(&self.terminal)?;
        loop {
            if let Some(Event::Control(line)) = self.next_event()? {
                if let Some(exit) = line.strip_prefix("exit ") {
                    return exit.parse().context("the shell's exit status");
                }
            }
            if size() != (rows, columns) {
                (rows, columns) = size();
                self.send(&format!("size {rows} {columns}"))?;
            }
        }
    }

    /// Waits for a moment; an error once the VM is gone.
    pub(crate) fn idle(&mut self) -> Result<()> {
        self.next_event().map(drop)
    }

    /// Takes the VM's power, with no word to it, and gives the kernel log so far.
    pub(crate) fn cut_power(self) -> Result<String> {
        let log = self.kernel_log()?;
        // Dropping it kills QEMU.
        drop(self);
        Ok(log)
    }

    /// Ends the VM and gives the whole kernel log.
    pub(crate) fn off(mut self) -> Result<String> {
        let asked = self.send("off").is_ok();
        let limit = self.variant.patience(OFF);
        let started = self.clock.now();
        while asked && self.clock.since(started) < limit {
            if self.qemu.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kernel_log()
    }
}

fn tracer(scratch: &Scratch) -> PathBuf {
    scratch.path().join("tracer.sock")
}

fn inherit(socket: RawFd) -> Result<()> {
    use nix::fcntl::{fcntl, FcntlArg, FdFlag};
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).context("passing a socket to QEMU")?;
    Ok(())
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

fn forward_lines(stream: UnixStream, sender: SyncSender<Event>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(Event::Control(line)).is_err() {
                return;
            }
        }
    });
}

fn forward_bytes(mut stream: UnixStream, sender: SyncSender<Event>, event: fn(Vec<u8>) -> Event) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || sender.send(event(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Keeps a copy of a boot's kernel log.
pub(crate) fn save_log(log: &str, path: &Path) -> Result<()> {
    std::fs::write(path, log).with_context(|| format!("writing {}", path.display()))
}
