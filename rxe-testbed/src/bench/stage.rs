// SPDX-License-Identifier: GPL-2.0
//! Where odp-bench runs: in one VM, whose device talks to itself, or in two with a network between them.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use odp_results::run::{Run, State};

use crate::build::World;
use crate::pair::{self, Pair};
use crate::process;
use crate::programs;
use crate::script::quote;
use crate::ui;
use crate::vm::{Config, Driver, Outcome, Vm};

/// How long its result may take to fetch, and the one that serves to end after the one that measures.
const SHORT: Duration = Duration::from_secs(60);

/// Where odp-bench leaves its result in the guest.
const FILE: &str = "/run/odp-bench.json";

/// Of two VMs the one that serves, as the other one calls it.
const SERVER: &str = "10.77.0.1";

/// One VM or two.
pub(super) struct Stage {
    /// The one that measures.
    pub(super) vm: Vm,
    /// The one that has the memory which is accessed, if it is another one.
    peer: Option<Vm>,
}

impl Stage {
    /// Boots a VM like `config`, or `two`.
    pub(super) fn boot(world: &World, config: &Config, two: bool) -> Result<Self> {
        if !two {
            let vm = Vm::boot(world, config)?;
            return Ok(Self { vm, peer: None });
        }
        let Pair { first, second } = Pair::boot(world, config, Driver::Ours)?;
        Ok(Self {
            vm: second,
            peer: Some(first),
        })
    }

    /// Loads `driver`, anew if it is there.
    pub(super) fn use_driver(&mut self, driver: Driver) -> Result<()> {
        let mut vms = self.peer.iter_mut().chain([&mut self.vm]);
        vms.try_for_each(|vm| vm.use_driver(driver))
    }

    /// Measures odp-bench's `cases`. What failed of them is in the result.
    pub(super) fn odp_bench(
        &mut self,
        options: &str,
        cases: &[&str],
        limit: Duration,
    ) -> Result<Run> {
        let Some(peer) = &mut self.peer else {
            return measure(&mut self.vm, &script(FILE, options, cases), limit);
        };
        let server = format!(
            "{NO_DAMON}; {} run --server --device rxe0 --aligned",
            programs::BENCH
        );
        pair::start(peer, &server)?;
        let options = format!("{options} --connect {SERVER}");
        let result = measure(&mut self.vm, &script(FILE, &options, cases), limit);
        let went_well = matches!(&result, Ok(run) if run.state == State::Finished);
        let client = Outcome::Exit(u8::from(!went_well));
        let mut said = Vec::new();
        let end = pair::finish(peer, SHORT, client, &mut said).context("the VM that serves")?;
        let said = String::from_utf8_lossy(&said);
        let said = process::tail(said.trim(), 5);
        let served = format!("`{server}` in the other VM: {end:?}: {said}");
        match result {
            Ok(_) if went_well && end != Outcome::Exit(0) => bail!("{served}"),
            Ok(run) if went_well => Ok(run),
            // Why it broke off is perhaps said there.
            Ok(run) => {
                ui::note(&served);
                Ok(run)
            }
            Err(error) => Err(error.context(served)),
        }
    }

    /// Ends it; what the kernel of each VM logged.
    pub(super) fn off(self) -> Result<Vec<String>> {
        let mut logs = vec![self.vm.off()?];
        if let Some(peer) = self.peer {
            logs.push(peer.off()?);
        }
        Ok(logs)
    }
}

/// Debian's kernel watches which memory is used, for statistics that nobody here reads. It looks at pages all the
/// time: without it, what a pass over some thousand pages takes scatters a third as much.
const NO_DAMON: &str = "echo N 2>/dev/null >/sys/module/damon_stat/parameters/enabled";

/// What runs odp-bench's `cases` and leaves the result in `file`.
pub(super) fn script(file: &str, options: &str, cases: &[&str]) -> String {
    let cases: Vec<String> = cases.iter().map(|case| quote(case)).collect();
    format!(
        "{NO_DAMON}; rm -f {file} {file}.part; cd /root; {} run --device rxe0 --aligned {options} --quiet --json {file} {} >&2",
        programs::BENCH,
        cases.join(" ")
    )
}

/// Runs such a `script`, which leaves its result in [`FILE`], and fetches that.
fn measure(vm: &mut Vm, script: &str, limit: Duration) -> Result<Run> {
    let (mut nothing, mut said) = (std::io::sink(), Vec::new());
    let outcome = vm.run(script, limit, &mut nothing, &mut said)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        // What failed is in the result.
        Outcome::Exit(0 | 1) => {}
        Outcome::Exit(_) => bail!("{}: {}", programs::BENCH, process::tail(&said, 5)),
        Outcome::TimedOut => ui::note(&format!("killed after {} s", limit.as_secs())),
    }
    // Of a run that was cut off, the cases that were over are in the notes beside the result.
    let folder = tempfile::tempdir().context("making a folder for the result")?;
    let result = folder.path().join("odp-bench.json");
    if !fetch(vm, FILE, &result)? {
        bail!("{} left no result", programs::BENCH);
    }
    let notes = folder.path().join("odp-bench.json.part");
    fetch(vm, &format!("{FILE}.part"), &notes)?;
    Run::load(&result).context("reading the result")
}

/// Copies `file` of the guest to `to`; returns whether there is one.
fn fetch(vm: &mut Vm, file: &str, to: &Path) -> Result<bool> {
    let mut content = Vec::new();
    let cat = format!("cat {file}");
    let fetched = vm.run(&cat, SHORT, &mut content, &mut std::io::sink())?;
    std::fs::write(to, content).with_context(|| format!("writing {}", to.display()))?;
    Ok(fetched == Outcome::Exit(0))
}
