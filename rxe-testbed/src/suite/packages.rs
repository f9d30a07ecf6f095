// SPDX-License-Identifier: GPL-2.0
//! The Debian packages: installed in a VM that has only Debian's own modules, used, and removed. The one for DKMS is
//! installed in a Debian root, which has all that a machine has for it, and what it builds is used in a VM.

use std::time::Instant;

use anyhow::{Context, Result};

use super::one_test::{failed, record, run_one};
use super::report::Report;
use super::Job;
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

/// The tests of the packages that need no compiler.
const TESTS: &[(&str, &str)] = &[
    ("packages/install", "packages install"),
    ("packages/upgrade", "packages upgrade"),
    ("packages/unsigned", "packages unsigned"),
    ("packages/remove", "packages remove"),
];

/// The test of what DKMS builds.
pub(super) const DKMS: &str = "packages/dkms";

/// The check at the end of its VM.
pub(super) const DKMS_LOG: &str = "packages/dkms-kernel-log";

const BUILD_BY_DKMS: &str = include_str!("../../scripts/build-by-dkms.sh");

/// The check at the end of the others' VM.
const KERNEL_LOG: &str = "packages/kernel-log";

/// A VM.
struct Lane {
    name: &'static str,
    /// The tests, in this order: each goes on from where the one before it has left off.
    tests: &'static [(&'static str, &'static str)],
    /// The check at the end.
    kernel_log: &'static str,
}

const PACKAGES: Lane = Lane {
    name: "packages",
    tests: TESTS,
    kernel_log: KERNEL_LOG,
};

const BUILT_BY_DKMS: Lane = Lane {
    name: "dkms",
    tests: &[(DKMS, "packages dkms")],
    kernel_log: DKMS_LOG,
};

/// How long each of them may take, in seconds.
const LIMIT: u64 = 180;

/// The names of all tests. Packages are made for Debian's own kernel.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    if kernel == Variant::Debug {
        return Vec::new();
    }
    let tests = TESTS.iter().map(|(name, _)| *name);
    let all = tests.chain([KERNEL_LOG, DKMS, DKMS_LOG]);
    all.map(str::to_owned).collect()
}

/// Runs all of a VM's if one of them is wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if job.world.kernel.variant == Variant::Debug {
        return Ok(());
    }
    let takes = |name: &str| job.filter.takes(name);
    let wanted = takes(KERNEL_LOG) || TESTS.iter().any(|(name, _)| takes(name));
    let by_dkms = takes(DKMS) || takes(DKMS_LOG);
    if !wanted && !by_dkms {
        return Ok(());
    }
    let started = Instant::now();
    let packages = job.world.cache.scratch()?;
    if let Err(error) = package::make(job.world, packages.path()) {
        let first = if wanted { TESTS[0].0 } else { DKMS };
        report.add(failed(first, started, &error));
        return Ok(());
    }
    if wanted {
        in_one_vm(job, &packages, &PACKAGES, report)?;
    }
    if by_dkms {
        let started = Instant::now();
        let modules = job.world.cache.scratch()?;
        match build_by_dkms(job, &packages, &modules) {
            Ok(()) => in_one_vm(job, &modules, &BUILT_BY_DKMS, report)?,
            Err(error) => report.add(failed(DKMS, started, &error)),
        }
    }
    Ok(())
}

/// Boots a VM that has the files of a folder, and runs its tests, each where the one before has left off.
fn in_one_vm(job: &Job<'_>, files: &Scratch, lane: &Lane, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let mut vm = match boot(job, files, lane) {
        Ok(vm) => vm,
        Err(error) => {
            report.add(failed(lane.tests[0].0, started, &error));
            return Ok(());
        }
    };
    for (name, script) in lane.tests {
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
    let file = format!("kernel-{}.log", lane.name);
    crate::vm::save_log(&log, &job.results.join(file))?;
    let mut complaints = klog::complaints(&log);
    complaints.truncate(20);
    report.add(record(lane.kernel_log, started, complaints.join("\n")));
    Ok(())
}

fn boot(job: &Job<'_>, files: &Scratch, lane: &Lane) -> Result<Vm> {
    let step = Step::start(format!("booting the VM {}", lane.name));
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
    Ok(vm)
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
    // With depmod, for what is there of the kernel before DKMS is.
    let packages_before = [&*headers, "kmod"];
    let root = world.chroot.bare(&place, &packages_before, &log, &step)?;
    step.done();
    let step = Step::start("building by DKMS");
    let image = world.kernel.image();
    let image = image.canonicalize().context("the kernel's image")?;
    let copy = scratch.path().join("vmlinuz");
    std::fs::copy(&image, &copy).with_context(|| format!("reading {}", image.display()))?;
    let own_modules = world.kernel.modules();
    let binds = [
        Bind::read(packages.path(), "/build/packages"),
        Bind::read(&own_modules, "/build/own"),
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
