// SPDX-License-Identifier: GPL-2.0
//! An emulated ConnectX for a VM: the device runs in a thread of this program and ends with its VM.
//!
//! Only a newer QEMU than the chroot's can be connected to it. That one is fetched when it is first needed, and used by
//! nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use odp_hca::front::Hca;
use odp_hca::trace::Trace;
use odp_hca::{Options, Profile, Script};
use serde_json::Value;

use crate::build::World;
use crate::cache::{mark_used, Key};
use crate::chroot::Bind;
use crate::network::Network;
use crate::process;
use crate::ui::Step;

const FETCH: &str = include_str!("../scripts/fetch-qemu.sh");

/// The identity of a device with this LID, with a number that its maker gives to no real one.
fn guid(lid: u16) -> u64 {
    0x0002_c903_0000_0000 | (u64::from(lid) << 8)
}

/// What a device is to be.
pub(crate) struct Wanted<'a> {
    /// It announces what this has.
    pub(crate) profile: &'a str,
    /// The file where it says what it does.
    pub(crate) trace: Option<&'a Path>,
    /// What it does that devices seldom do.
    pub(crate) script: Option<Script>,
    /// Where its VM is.
    pub(crate) network: Option<&'a Network>,
}

/// A device that waits for its VM, or has one.
pub(crate) struct Nic {
    socket: PathBuf,
    qemu: PathBuf,
    control: PathBuf,
    trace: Trace,
    thread: JoinHandle<Result<()>>,
}

impl Nic {
    /// Starts a device whose sockets are in `folder`.
    pub(crate) fn start(world: &World, folder: &Path, wanted: Wanted<'_>) -> Result<Self> {
        let qemu = newer_qemu(world)?;
        let (socket, control) = (folder.join("hca.sock"), folder.join("hca-control.sock"));
        let trace = match wanted.trace {
            Some(path) => {
                let file = File::create(path).with_context(|| path.display().to_string())?;
                Trace::to(Box::new(BufWriter::new(file)))
            }
            None => Trace::default(),
        };
        let lid = wanted.network.map_or(1, |network| network.host.into());
        let profile = Profile::named(wanted.profile);
        let options = Options {
            profile: profile.context("a profile that there is not")?,
            guid: guid(lid),
            lid,
        };
        let hca = Hca::new(listen(&socket)?, options, trace.clone());
        let hca = hca.with_control(listen(&control)?);
        let hca = hca.with_script(wanted.script.unwrap_or_else(Script::nothing));
        let hca = match wanted.network {
            Some(network) => hca.on_subnet(network.subnet.clone()),
            None => hca,
        };
        let thread = std::thread::Builder::new().name("hca-front".into());
        let thread = thread.spawn(move || hca.serve()).context("a thread")?;
        Ok(Self {
            socket,
            qemu,
            control,
            trace,
            thread,
        })
    }

    /// Where QEMU finds it.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The files of the QEMU that has to be used.
    pub(crate) fn qemu(&self) -> &Path {
        &self.qemu
    }

    /// Asks the device something.
    pub(crate) fn ask(&self, question: &Value) -> Result<Value> {
        let client = UnixStream::connect(&self.control).context("asking the ConnectX")?;
        writeln!(&client, "{question}").context("asking the ConnectX")?;
        let mut answer = String::new();
        let read = BufReader::new(&client).read_line(&mut answer);
        read.context("waiting for the ConnectX's answer")?;
        serde_json::from_str(&answer).context("the ConnectX's answer")
    }

    /// What the device found wrong, after its VM has ended.
    pub(crate) fn end(self) -> Result<Vec<String>> {
        match self.thread.join() {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("the emulated ConnectX panicked"),
        }
        let violations = self.trace.violations();
        Ok(violations.iter().map(ToString::to_string).collect())
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket);
    listener.with_context(|| format!("making {}", socket.display()))
}

/// The newer QEMU, fetched if need be.
fn newer_qemu(world: &World) -> Result<PathBuf> {
    let key = Key::builder()
        .add("chroot", world.chroot.key().as_str())
        .add_script("script", FETCH)
        .finish();
    let cache = &world.cache;
    let ready = cache.artefact("qemu", &key);
    if ready.exists() {
        mark_used(&ready);
        return Ok(ready);
    }
    let _building = cache.lock_build()?;
    cache.ensure("qemu", &key, |target| {
        let step = Step::start("fetching a QEMU that knows vfio-user");
        let binds = [Bind::write(target, "/build/qemu")];
        let command = world.chroot.script(&binds, FETCH, &[]);
        process::run_logged(command, &cache.log("qemu"), &step).context("fetching QEMU")?;
        step.done();
        Ok(())
    })
}
