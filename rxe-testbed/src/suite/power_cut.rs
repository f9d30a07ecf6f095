// SPDX-License-Identifier: GPL-2.0
//! `pmem/power-cut`: what was flushed to persistent memory is there after the power went. A VM writes and flushes, and is
//! killed; another one, with the same NVDIMM, looks.

use std::time::Instant;

use anyhow::{bail, Result};

use super::one_test::{failed, record, run_one};
use super::report::Report;
use super::Job;
use crate::kernel::Variant;
use crate::klog;
use crate::qemu::Extra;
use crate::ui::Step;
use crate::vm::{Config, Driver, Vm};

/// The name of the test.
const NAME: &str = "pmem/power-cut";

/// What runs in the first VM, and in the second.
const BEFORE: &str = "odp-test pmem-before-the-cut";
const AFTER: &str = "odp-test pmem-after-the-cut";

/// Each takes a second or two.
const SECONDS: u64 = 300;

/// The names of all tests here. The debug kernel has no drivers for persistent memory.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    match kernel {
        Variant::Stock => vec![NAME.into()],
        Variant::Debug => Vec::new(),
    }
}

/// Runs it, if it is wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if job.world.kernel.variant == Variant::Debug || !job.filter.takes(NAME) {
        return Ok(());
    }
    let started = Instant::now();
    report.add(match test(job) {
        Ok(()) => record(NAME, started, String::new()),
        Err(error) => failed(NAME, started, &error),
    });
    Ok(())
}

fn test(job: &Job<'_>) -> Result<()> {
    let folder = job.world.cache.scratch()?;
    let config = Config {
        extra: Extra::Pmem,
        pmem: Some(folder.path().join("nvdimm")),
        ..Config::default()
    };
    let step = Step::start("booting the VM whose power is cut");
    let mut vm = Vm::boot(job.world, &config)?;
    vm.use_driver(Driver::Ours)?;
    let result = run_one(&mut vm, NAME, BEFORE, SECONDS);
    let log = vm.cut_power()?;
    step.done();
    judge(job, result, &log, "before")?;

    let step = Step::start("booting the VM that finds what is left");
    let mut vm = Vm::boot(job.world, &config)?;
    vm.use_driver(Driver::Ours)?;
    step.done();
    let result = run_one(&mut vm, NAME, AFTER, SECONDS);
    let log = vm.off()?;
    judge(job, result, &log, "after")
}

/// Fails if the command has, or if the kernel has complained. Keeps its log.
fn judge(job: &Job<'_>, result: Result<(), String>, log: &str, when: &str) -> Result<()> {
    let path = job.results.join(format!("power-cut-{when}.log"));
    crate::vm::save_log(log, &path)?;
    let mut problems: Vec<String> = result.err().into_iter().collect();
    problems.extend(klog::complaints(log).into_iter().take(10));
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{when} the cut: {}", problems.join("\n"))
}
