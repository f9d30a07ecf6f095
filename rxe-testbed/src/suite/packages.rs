// SPDX-License-Identifier: GPL-2.0
//! The Debian packages: installed in a VM that has only Debian's own modules, used, and removed. The one for DKMS is
//! installed in a Debian root, which has all that a machine has for it, and what it builds is used in a VM.

use std::time::Instant;

use anyhow::{Context, Result};

use super::one_test::{record, run_one};
use super::report::Report;
use super::{Filter, Job};
use crate::chroot::Bind;
use crate::host;
use crate::kernel::Variant;
use crate::klog;
use crate::package;
use crate::process::{self, Scratch};
use crate::session::Put;
use crate::ui::Step;
use crate::vm::{Config, Driver, Vm};

/// Where the VM has them.
const FOLDER: &str = "/root/packages";

/// The tests, in this order: each goes on from where the one before it has left off.
const TESTS: &[(&str, &str)] = &[
    ("packages/install", "packages install"),
    ("packages/upgrade", "packages upgrade"),
    ("packages/unsigned", "packages unsigned"),
    ("packages/remove", "packages remove"),
];

/// The test of what DKMS builds. It takes so long that it has to be asked for by its name.
const DKMS: &str = "packages/dkms";

const BUILD_BY_DKMS: &str = include_str!("../../scripts/build-by-dkms.sh");

/// The check at the end.
const KERNEL_LOG: &str = "packages/kernel-log";

/// How long each of them may take, in seconds.
const LIMIT: u64 = 180;

/// The names of all tests. Packages are made for Debian's own kernel.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    if kernel == Variant::Debug {
        return Vec::new();
    }
    let tests = TESTS.iter().map(|(name, _)| *name);
    tests.chain([KERNEL_LOG, DKMS]).map(str::to_owned).collect()
}

/// Runs them all if one of them is wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if job.world.kernel.variant == Variant::Debug {
        return Ok(());
    }
    let mut usual = TESTS.iter().map(|(name, _)| *name).chain([KERNEL_LOG]);
    let wanted = usual.any(|name| job.filter.takes(name));
    let by_dkms = asks_for_dkms(job.filter);
    if !wanted && !by_dkms {
        return Ok(());
    }
    let started = Instant::now();
    let packages = job.world.cache.scratch()?;
    if let Err(error) = package::make(job.world, packages.path()) {
        report.add(record(TESTS[0].0, started, format!("{error:#}")));
        return Ok(());
    }
    if wanted {
        in_one_vm(job, &packages, TESTS, "packages", report)?;
    }
    if by_dkms {
        let started = Instant::now();
        let modules = job.world.cache.scratch()?;
        match build_by_dkms(job, &packages, &modules) {
            Ok(()) => in_one_vm(job, &modules, &[(DKMS, "packages dkms")], "dkms", report)?,
            Err(error) => report.add(record(DKMS, started, format!("{error:#}"))),
        }
    }
    Ok(())
}

/// Whether one of the filter's texts is the test's name, or the end of it.
fn asks_for_dkms(filter: &Filter) -> bool {
    let is_it = |text: &String| text.contains("dkms") && DKMS.contains(text.as_str());
    filter.0.iter().any(is_it)
}

/// Boots a VM that has the files of a folder, and runs tests in it, each where the one before has left off.
fn in_one_vm(
    job: &Job<'_>,
    files: &Scratch,
    tests: &[(&str, &str)],
    what: &str,
    report: &mut Report,
) -> Result<()> {
    let step = Step::start(format!("booting the VM {what}"));
    let config = Config {
        with_ours: false,
        puts: vec![Put {
            host: files.path().to_owned(),
            guest: FOLDER.into(),
        }],
        ..Config::default()
    };
    let mut vm = Vm::boot(job.world, &config)?;
    vm.use_driver(Driver::Stock)?;
    step.done();
    for (name, script) in tests {
        let started = Instant::now();
        let problem = run_one(&mut vm, name, script, LIMIT);
        let failed = problem.is_err();
        report.add(record(name, started, problem.err().unwrap_or_default()));
        if failed {
            break;
        }
    }
    let started = Instant::now();
    let log = vm.off()?;
    crate::vm::save_log(&log, &job.results.join(format!("kernel-{what}.log")))?;
    let mut complaints = klog::complaints(&log);
    complaints.truncate(20);
    report.add(record(KERNEL_LOG, started, complaints.join("\n")));
    Ok(())
}

/// Has a Debian root install the package for DKMS, build for the kernel, and remove it; takes what was built to `out`.
fn build_by_dkms(job: &Job<'_>, packages: &Scratch, out: &Scratch) -> Result<()> {
    let world = job.world;
    let version = &world.kernel.version;
    let log = job.results.join("dkms.log");
    let scratch = world.cache.scratch()?;
    let place = scratch.path().join("root");
    let step = Step::start("building a root with the kernel's headers");
    let headers = format!("linux-headers-{}={}", version.release, version.package);
    let root = world.chroot.bare(&place, &[&headers], &log, &step)?;
    step.done();
    let step = Step::start("building by DKMS");
    let image = world.kernel.image();
    let image = image.canonicalize().context("the kernel's image")?;
    let copy = scratch.path().join("vmlinuz");
    std::fs::copy(&image, &copy).with_context(|| format!("reading {}", image.display()))?;
    let binds = [
        Bind::read(packages.path(), "/build/packages"),
        Bind::read(scratch.path(), "/build/kernel"),
        Bind::write(out.path(), "/build/out"),
    ];
    let command = root.script(&binds, BUILD_BY_DKMS, &[&version.release]);
    let built = process::run_logged(command, &log, &step);
    host::remove_tree(&place);
    built?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_asked_for_by_name() {
        let asks = |text: &str| asks_for_dkms(&Filter(vec![text.into()]));
        assert!(asks("packages/dkms"));
        assert!(asks("dkms"));
        for other in ["packages/", "packages/d", "packages/install", "dkms2"] {
            assert!(!asks(other), "{other}");
        }
        assert!(!asks_for_dkms(&Filter(Vec::new())));
    }
}
