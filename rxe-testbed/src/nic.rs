// SPDX-License-Identifier: GPL-2.0
//! An emulated ConnectX for a VM: the device runs in a thread of this program and ends with its VM.
//!
//! Only a newer QEMU than the chroot's can be connected to it. That one is fetched when it is first needed, and used by
//! nothing else.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use odp_hca::front::Hca;
use odp_hca::trace::Trace;
use odp_hca::{Options, PROFILES};

use crate::build::World;
use crate::cache::Key;
use crate::chroot::Bind;
use crate::process;
use crate::ui::Step;

const FETCH: &str = include_str!("../scripts/fetch-qemu.sh");

/// The device's identity, with a number that its maker gives to no real one.
const GUID: u64 = 0x0002_c903_0000_0100;

/// A device that waits for its VM, or has one.
pub(crate) struct Nic {
    socket: PathBuf,
    qemu: PathBuf,
    trace: Trace,
    thread: JoinHandle<Result<()>>,
}

impl Nic {
    /// Starts a device whose socket is in `folder`.
    pub(crate) fn start(world: &World, folder: &Path) -> Result<Self> {
        let qemu = newer_qemu(world)?;
        let socket = folder.join("hca.sock");
        let listener = UnixListener::bind(&socket);
        let listener = listener.with_context(|| format!("making {}", socket.display()))?;
        let trace = Trace::default();
        let options = Options {
            profile: PROFILES[0],
            guid: GUID,
        };
        let hca = Hca::new(listener, options, trace.clone());
        let thread = std::thread::Builder::new().name("hca-front".into());
        let thread = thread.spawn(move || hca.serve()).context("a thread")?;
        Ok(Self {
            socket,
            qemu,
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

/// The newer QEMU, fetched if need be.
fn newer_qemu(world: &World) -> Result<PathBuf> {
    let key = Key::builder()
        .add("chroot", world.chroot.key().as_str())
        .add_script("script", FETCH)
        .finish();
    let cache = &world.cache;
    let ready = cache.artefact("qemu", &key);
    if ready.exists() {
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
