// SPDX-License-Identifier: GPL-2.0
//! The emulated ConnectX: its declarations against the kernel's header, and Debian's own drivers on it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::Report;
use super::{Job, Record, Status};
use crate::kernel::Variant;
use crate::klog;
use crate::process;
use crate::qemu::Extra;
use crate::session;
use crate::ui::Step;
use crate::vm::{Config, Outcome, Vm};

/// The check that needs no VM.
const LAYOUTS: &str = "hca/layouts";

/// Where the kernel says how the device's structures look.
const HEADER: &str = "tree/include/linux/mlx5/mlx5_ifc.h";

/// The tests in one VM, in this order: their names, their scripts, and their time limits.
type Tests = &'static [(&'static str, &'static str, u64)];

/// VMs, by what they are called.
const VMS: &[(&str, Extra, Tests)] = &[
    (
        "direct",
        Extra::Mlx5,
        &[
            ("hca/direct/probe", "mlx5 load", 180),
            ("hca/direct/unload", "mlx5 unload", 60),
            ("hca/direct/reload", "mlx5 reload 3", 240),
        ],
    ),
    (
        "iommu",
        Extra::Mlx5Iommu,
        &[
            ("hca/iommu/probe", "mlx5 load", 180),
            ("hca/iommu/unload", "mlx5 unload", 60),
        ],
    ),
];

/// The names of all tests. The debug kernel has no mlx5 drivers.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    if kernel == Variant::Debug {
        return Vec::new();
    }
    let of_vm = |(name, _, tests): &(&str, Extra, Tests)| {
        let tests = tests.iter().map(|(test, ..)| (*test).to_owned());
        tests.chain(both(name)).collect::<Vec<_>>()
    };
    let in_vms = VMS.iter().flat_map(of_vm);
    std::iter::once(LAYOUTS.to_owned()).chain(in_vms).collect()
}

/// The checks at the end of a VM: of the kernel log, and of what the device found wrong.
fn both(vm: &str) -> [String; 2] {
    ["kernel-log", "device"].map(|what| format!("hca/{vm}/{what}"))
}

/// Runs the tests that are wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if job.world.kernel.variant == Variant::Debug {
        return Ok(());
    }
    if job.filter.takes(LAYOUTS) {
        report.add(layouts(job)?);
    }
    for (name, extra, tests) in VMS {
        let wanted = |test: &&(&str, &str, u64)| job.filter.takes(test.0);
        let checked = both(name).iter().any(|check| job.filter.takes(check));
        if checked || tests.iter().any(|test| wanted(&test)) {
            run_vm(job, name, *extra, tests, report)?;
        }
    }
    Ok(())
}

fn layouts(job: &Job<'_>) -> Result<Record> {
    let started = Instant::now();
    let header = job.world.kernel.dir().join(HEADER);
    let text = std::fs::read_to_string(&header);
    let text = text.with_context(|| format!("reading {}", header.display()))?;
    let found = odp_hca::layout::header::differences(&text);
    Ok(record(LAYOUTS, started, found.join("\n")))
}

/// Runs all tests of a VM: each goes on from where the one before it has left off.
fn run_vm(
    job: &Job<'_>,
    name: &str,
    extra: Extra,
    tests: Tests,
    report: &mut Report,
) -> Result<()> {
    let step = Step::start(format!("booting the VM mlx5-{name}"));
    let config = Config {
        extra,
        with_ours: false,
        ..Config::default()
    };
    let mut vm = Vm::boot(job.world, &config)?;
    step.done();
    for (test, script, seconds) in tests {
        let started = Instant::now();
        let problem = run_one(&mut vm, test, script, *seconds);
        let failed = problem.is_err();
        report.add(record(test, started, problem.err().unwrap_or_default()));
        if failed {
            break;
        }
    }
    let started = Instant::now();
    let nic = vm.take_nic();
    let log = vm.off()?;
    let [log_name, device] = both(name);
    crate::vm::save_log(&log, &job.results.join(format!("kernel-mlx5-{name}.log")))?;
    let mut complaints = klog::complaints(&log);
    complaints.truncate(20);
    report.add(record(&log_name, started, complaints.join("\n")));
    let wrong = match nic {
        Some(nic) => nic.end()?,
        None => vec!["the VM had no emulated ConnectX".into()],
    };
    report.add(record(&device, started, wrong.join("\n")));
    Ok(())
}

/// Runs one test; an error is what went wrong.
fn run_one(vm: &mut Vm, name: &str, script: &str, seconds: u64) -> Result<(), String> {
    let script = klog::marked(name, &session::with_scripts(script));
    let limit = vm.patience(Duration::from_secs(seconds));
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    let outcome = vm.run(&script, limit, &mut said, &mut errors);
    said.extend(errors);
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        Ok(Outcome::Exit(0)) => Ok(()),
        Ok(Outcome::Exit(exit)) => Err(format!("exit status {exit}\n{}", process::tail(&said, 30))),
        Ok(Outcome::TimedOut) => Err(format!("killed after {} s", limit.as_secs())),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// A test that passed if there is nothing to tell.
fn record(name: &str, started: Instant, detail: String) -> Record {
    let status = match detail.is_empty() {
        true => Status::Pass,
        false => Status::Fail,
    };
    Record {
        name: name.into(),
        status,
        time: Some(started.elapsed()),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_after_their_vm() {
        for (name, _, tests) in VMS {
            let start = format!("hca/{name}/");
            assert!(tests.iter().all(|(test, ..)| test.starts_with(&start)));
        }
        let all = names(Variant::Stock);
        assert!(all.contains(&"hca/direct/kernel-log".to_owned()));
        assert!(names(Variant::Debug).is_empty());
    }
}
