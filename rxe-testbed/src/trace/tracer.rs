// SPDX-License-Identifier: GPL-2.0
//! The plugin of QEMU that records what the guest's kernel runs (`rxe-testbed/tracer`): building it and giving it orders.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::build::World;
use crate::cache::Key;
use crate::cargo::Cargo;
use crate::process;
use crate::programs::MANIFESTS;
use crate::ui::Step;

/// The package, and what is built of it.
const PACKAGE: &str = "rxe-testbed-tracer";
const LIBRARY: &str = "librxe_testbed_tracer.so";
const SOURCE: &str = "rxe-testbed/tracer";

/// How long an answer may take: what was recorded is written meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);

/// Builds the plugin if need be; gives its file.
pub(super) fn ensure(world: &World) -> Result<PathBuf> {
    let mut key = Key::builder().add("chroot", world.chroot.key().as_str());
    for source in MANIFESTS.iter().chain(&[SOURCE]) {
        key = key.add_tree(source, &world.repository.path(source), &["target"])?;
    }
    let _building = world.cache.lock_build()?;
    let dir = world.cache.ensure("tracer", &key.finish(), |out| {
        let step = Step::start("building the tracer");
        let cargo = Cargo {
            cache: &world.cache,
            repository: &world.repository,
            chroot: &world.chroot,
        };
        cargo.fetch(&step)?;
        let command =
            cargo.command(&["build", "--release", "--locked", "--offline", "-p", PACKAGE])?;
        process::run_logged(command, &world.cache.log("tracer"), &step)
            .context("building the tracer")?;
        let built = cargo.target()?.join("release").join(LIBRARY);
        std::fs::copy(&built, out.join(LIBRARY)).with_context(|| built.display().to_string())?;
        step.done();
        Ok(())
    })?;
    Ok(dir.join(LIBRARY))
}

/// The plugin in a VM that runs.
pub(super) struct Tracer(UnixStream);

impl Tracer {
    /// The one that listens at `control`.
    pub(super) fn at(control: &Path) -> Result<Self> {
        let socket = UnixStream::connect(control).context("reaching the tracer")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Records the calls of the function that begins at the first of these addresses, but for those that run what is at
    /// the others.
    pub(super) fn record(&self, function: u64, disturbances: &[u64]) -> Result<()> {
        let addresses = [function].into_iter().chain(disturbances.iter().copied());
        let addresses: Vec<String> = addresses.map(|at| format!("{at:x}")).collect();
        self.order(&format!("record {}", addresses.join(" ")))
    }

    /// Records no more, and writes what was recorded.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        self.order(&format!("write {}", path.display()))
    }

    fn order(&self, line: &str) -> Result<()> {
        writeln!(&self.0, "{line}").context("asking the tracer")?;
        let mut answer = String::new();
        let read = BufReader::new(&self.0).read_line(&mut answer);
        read.context("waiting for the tracer's answer")?;
        match answer.trim_end() {
            "ok" => Ok(()),
            wrong => bail!("the tracer: {wrong}"),
        }
    }
}
