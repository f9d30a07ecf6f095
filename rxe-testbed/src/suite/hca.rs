// SPDX-License-Identifier: GPL-2.0
//! The emulated ConnectX: its declarations against the kernel's header, Debian's own drivers on it, and ours.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use super::one_test::{failed, record, run_one};
use super::report::Report;
use super::{adversary, pinned, Job, Record};
use crate::kernel::Variant;
use crate::klog;
use crate::qemu::Extra;
use crate::ui::Step;
use crate::vm::{Config, Driver, Vm};

/// The check that needs no VM.
const LAYOUTS: &str = "hca/layouts";

/// Where the kernel says how the device's structures look.
const HEADER: &str = "tree/include/linux/mlx5/mlx5_ifc.h";

/// The tests in one VM, in this order: their names, their scripts, and their time limits.
type Tests = &'static [(&'static str, &'static str, u64)];

/// A VM.
struct Lane {
    name: &'static str,
    extra: Extra,
    tests: Tests,
    /// Rules that the driver is known to break in it, by their names.
    broken: &'static [&'static str],
    /// There are page faults in it.
    pages: bool,
    /// It has our drivers.
    ours: bool,
}

const LANES: &[Lane] = &[
    Lane {
        name: "direct",
        extra: Extra::Mlx5,
        tests: &[
            ("hca/direct/probe", "mlx5 load", 180),
            ("hca/direct/odp-pingpong", "mlx5-odp pingpong", 180),
            ("hca/direct/test_odp", "mlx5-odp pyverbs", 600),
            ("hca/direct/test_mlx5_dc", "mlx5-odp dynamic", 300),
            ("hca/direct/odp-bench", "mlx5-odp bench", 240),
            ("hca/direct/adversary-chance", "mlx5-odp pingpong", 240),
            ("hca/direct/adversary-twice", "mlx5-odp pingpong", 240),
            (
                "hca/direct/adversary-held-updates",
                "mlx5-odp pingpong",
                240,
            ),
            ("hca/direct/adversary-no-such-key", "mlx5-odp pingpong", 240),
            (
                "hca/direct/adversary-no-such-pair",
                "mlx5-odp pingpong",
                240,
            ),
            (
                "hca/direct/adversary-refused-resume",
                "mlx5-odp after-failure",
                240,
            ),
            ("hca/direct/adversary-ill", "mlx5-odp after-recovery", 240),
            (
                "hca/direct/adversary-failed-update",
                "mlx5-odp after-failure",
                240,
            ),
            (
                "hca/direct/adversary-overrun",
                "mlx5-odp after-overrun",
                300,
            ),
            ("hca/direct/adversary-reset", "mlx5-odp after-reset", 240),
            ("hca/direct/unload", "mlx5 unload", 60),
            ("hca/direct/reload", "mlx5 reload 3", 240),
        ],
        broken: &[],
        pages: true,
        ours: false,
    },
    Lane {
        name: "iommu",
        extra: Extra::Mlx5Iommu,
        tests: &[
            ("hca/iommu/probe", "mlx5 load", 180),
            ("hca/iommu/odp-pingpong", "mlx5-odp pingpong", 180),
            ("hca/iommu/unload", "mlx5 unload", 60),
        ],
        broken: &[],
        pages: true,
        ours: false,
    },
    Lane {
        name: "pinned",
        extra: Extra::Mlx5,
        tests: pinned::TESTS,
        broken: &[],
        pages: false,
        ours: false,
    },
    // Page faults that name memory, instead of what lacks it.
    Lane {
        name: "memory",
        extra: Extra::Mlx5Memory,
        tests: &[
            ("hca/memory/probe", "mlx5 load", 180),
            ("hca/memory/odp-pingpong", "mlx5-odp pingpong", 180),
            ("hca/memory/test_odp", "mlx5-odp pyverbs", 600),
            ("hca/memory/devx", "mlx5-odp devx", 300),
            ("hca/memory/holds", "mlx5-odp hold", 60),
            ("hca/memory/adversary-past-end", "mlx5-odp pingpong", 240),
            ("hca/memory/adversary-no-bytes", "mlx5-odp pingpong", 240),
            ("hca/memory/adversary-chance", "mlx5-odp pingpong", 240),
            ("hca/memory/unload", "mlx5 unload", 60),
        ],
        broken: &[],
        pages: true,
        ours: false,
    },
    // What Debian's driver does wrong. On a device that is right it shows.
    Lane {
        name: "stock-faults",
        extra: Extra::Mlx5,
        tests: &[
            ("hca/stock-faults/probe", "mlx5 load", 180),
            (
                "hca/stock-faults/absent-pages",
                "mlx5-faults stock absent-pages",
                180,
            ),
            (
                "hca/stock-faults/huge-pages",
                "mlx5-faults stock huge-pages",
                120,
            ),
            (
                "hca/stock-faults/huge-page-untouched",
                "mlx5-faults stock huge-page-untouched",
                120,
            ),
            (
                "hca/stock-faults/neighbours",
                "mlx5-faults stock neighbours",
                120,
            ),
            (
                "hca/stock-faults/children",
                "mlx5-faults stock children",
                240,
            ),
            (
                "hca/stock-faults/read-only",
                "mlx5-faults stock read-only",
                120,
            ),
        ],
        // A huge page that is not there is never written.
        broken: &["I2-progress"],
        pages: true,
        ours: false,
    },
    // Ours: the same tests, and the device finds nothing wrong.
    Lane {
        name: "ours",
        extra: Extra::Mlx5,
        tests: &[
            (
                "hca/ours/probe",
                "mlx5 load && modinfo -n mlx5_ib | grep /updates/",
                180,
            ),
            // Later on there are keys that wait to be used again.
            (
                "hca/ours/adversary-refused-key",
                "mlx5-odp after-failure",
                240,
            ),
            ("hca/ours/odp-pingpong", "mlx5-odp pingpong", 180),
            ("hca/ours/test_odp", "mlx5-odp pyverbs", 600),
            ("hca/ours/faults", OURS, 300),
            ("hca/ours/faults-transport", OURS_TRANSPORT, 120),
            ("hca/ours/adversary-chance", "mlx5-odp pingpong", 240),
            ("hca/ours/adversary-late", STORM, 300),
            ("hca/ours/adversary-twice", "mlx5-odp pingpong", 240),
            ("hca/ours/adversary-held-updates", "mlx5-odp pingpong", 240),
            ("hca/ours/adversary-no-such-key", "mlx5-odp pingpong", 240),
            ("hca/ours/adversary-no-such-pair", "mlx5-odp pingpong", 240),
            (
                "hca/ours/adversary-refused-resume",
                "mlx5-odp after-failure",
                240,
            ),
            ("hca/ours/adversary-ill", "mlx5-odp after-recovery", 240),
            (
                "hca/ours/adversary-failed-update",
                "mlx5-odp after-failure",
                240,
            ),
            ("hca/ours/adversary-overrun", "mlx5-odp after-overrun", 300),
            ("hca/ours/adversary-reset", "mlx5-odp after-reset", 240),
            ("hca/ours/unload", "mlx5 unload", 60),
            ("hca/ours/reload", "mlx5 reload 3", 240),
        ],
        broken: &[],
        pages: true,
        ours: true,
    },
    // Ours, with page faults that name memory, and behind an IOMMU: how pages are mapped for the device and how it says
    // that it lacks them have nothing to do with each other.
    Lane {
        name: "ours-memory",
        extra: Extra::Mlx5MemoryIommu,
        tests: &[
            ("hca/ours-memory/probe", "mlx5 load", 180),
            ("hca/ours-memory/odp-pingpong", "mlx5-odp pingpong", 180),
            ("hca/ours-memory/test_odp", "mlx5-odp pyverbs", 600),
            ("hca/ours-memory/faults", OURS, 300),
            ("hca/ours-memory/devx", "mlx5-odp devx", 300),
            ("hca/ours-memory/holds", "mlx5-odp hold", 60),
            (
                "hca/ours-memory/adversary-past-end",
                "mlx5-odp pingpong",
                240,
            ),
            (
                "hca/ours-memory/adversary-no-bytes",
                "mlx5-odp pingpong",
                240,
            ),
            ("hca/ours-memory/storm", STORM, 300),
            ("hca/ours-memory/adversary-chance", "mlx5-odp pingpong", 240),
            ("hca/ours-memory/adversary-late", STORM, 300),
            (
                "hca/ours-memory/adversary-refused-key",
                "mlx5-odp after-failure",
                240,
            ),
            (
                "hca/ours-memory/adversary-ill",
                "mlx5-odp after-recovery",
                240,
            ),
            ("hca/ours-memory/unload", "mlx5 unload", 60),
        ],
        broken: &[],
        pages: true,
        ours: true,
    },
];

/// What Debian's driver does wrong, and ours does right; and what is only tried with ours.
const OURS: &str =
    "mlx5-faults ours absent-pages huge-pages huge-page-untouched neighbours children read-only \
     registration first-touch";

/// Data between regions whose pages come and go.
const STORM: &str = "odp-storm --device mlx5_0 --seconds 4 --seed 1";

/// More of that, which depends on how many pages the device asks for.
const OURS_TRANSPORT: &str = "mlx5-faults ours together unaligned";

/// The names of all tests. The debug kernel has no mlx5 drivers.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    if kernel == Variant::Debug {
        return Vec::new();
    }
    let of_lane = |lane: &Lane| {
        let tests = lane.tests.iter().map(|(test, ..)| (*test).to_owned());
        tests.chain(both(lane.name)).collect::<Vec<_>>()
    };
    let in_vms = LANES.iter().flat_map(of_lane);
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
        let started = Instant::now();
        report.add(layouts(job).unwrap_or_else(|error| failed(LAYOUTS, started, &error)));
    }
    for lane in LANES {
        let wanted = |test: &(&str, &str, u64)| job.filter.takes(test.0);
        let checked = both(lane.name).iter().any(|check| job.filter.takes(check));
        if checked || lane.tests.iter().any(wanted) {
            run_lane(job, lane, report)?;
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

fn boot(job: &Job<'_>, lane: &Lane) -> Result<Vm> {
    let name = lane.name;
    let step = Step::start(format!("booting the VM mlx5-{name}"));
    let config = Config {
        extra: lane.extra,
        with_ours: lane.ours,
        trace: Some(job.results.join(format!("mlx5-{name}.json"))),
        ..Config::default()
    };
    let mut vm = Vm::boot(job.world, &config)?;
    if lane.ours {
        vm.use_driver(Driver::Ours)?;
    }
    step.done();
    Ok(vm)
}

/// Runs the tests of a VM, also for one of them: each goes on from where the one before it has left off. Only what takes
/// long is left out if nobody asked for anything. Without a driver there are none.
fn run_lane(job: &Job<'_>, lane: &Lane, report: &mut Report) -> Result<()> {
    let name = lane.name;
    let started = Instant::now();
    let mut vm = match boot(job, lane) {
        Ok(vm) => vm,
        Err(error) => {
            let (first, ..) = lane.tests[0];
            report.add(failed(first, started, &error));
            return Ok(());
        }
    };
    let tests = lane.tests.iter();
    let tests = tests.filter(|(test, ..)| !job.filter.leaves_out(test));
    for (at, (test, script, seconds)) in tests.enumerate() {
        let started = Instant::now();
        let problem = adversary::before(&mut vm, test)
            .and_then(|()| run_one(&mut vm, test, script, *seconds))
            .and_then(|()| adversary::after(&vm, test));
        let failed = problem.is_err();
        report.add(record(test, started, problem.err().unwrap_or_default()));
        if failed && at == 0 {
            break;
        }
    }
    let started = Instant::now();
    let faults = match vm.nic() {
        // It ends with its VM, so one that has died answers nothing.
        Some(nic) if lane.pages => match nic.ask(&json!({"ask": "faults"})) {
            Ok(counts) => unserved(&counts),
            Err(error) => Some(format!("{error:#}")),
        },
        _ => None,
    };
    let nic = vm.take_nic();
    let [log_name, device] = both(name);
    let log = match vm.off() {
        Ok(log) => log,
        Err(error) => {
            report.add(failed(&log_name, started, &error));
            return Ok(());
        }
    };
    crate::vm::save_log(&log, &job.results.join(format!("kernel-mlx5-{name}.log")))?;
    let mut complaints = klog::complaints(&log);
    complaints.truncate(20);
    report.add(record(&log_name, started, complaints.join("\n")));
    let mut wrong = match nic {
        Some(nic) => match nic.end() {
            Ok(found) => unexpected(found, lane.broken),
            Err(error) => vec![format!("{error:#}")],
        },
        None => vec!["the VM had no emulated ConnectX".into()],
    };
    wrong.extend(faults);
    report.add(record(&device, started, wrong.join("\n")));
    Ok(())
}

/// What is odd about the page faults that the device has counted: there have to be some, and none that waits.
fn unserved(counts: &Value) -> Option<String> {
    let raised = counts["raised"].as_u64().is_some_and(|raised| raised > 0);
    let waiting = counts["waiting"].as_u64() == Some(0);
    (!raised || !waiting).then(|| format!("page faults: {counts}"))
}

/// What the device has found wrong that is not known to be, and what is known to be and did not show.
fn unexpected(violations: Vec<String>, broken: &[&str]) -> Vec<String> {
    let is = |violation: &String, rule: &&str| violation.starts_with(*rule);
    let missing = broken
        .iter()
        .filter(|rule| !violations.iter().any(|one| is(one, rule)));
    let missing: Vec<String> = missing
        .map(|rule| format!("{rule} is not broken any more"))
        .collect();
    let known = |violation: &String| broken.iter().any(|rule| is(violation, rule));
    let mut wrong: Vec<String> = violations.into_iter().filter(|one| !known(one)).collect();
    wrong.extend(missing);
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_after_their_vm() {
        adversary::assert_named(LANES.iter().flat_map(|lane| lane.tests).map(|test| test.0));
        for lane in LANES {
            let start = format!("hca/{}/", lane.name);
            assert!(lane.tests.iter().all(|(test, ..)| test.starts_with(&start)));
        }
        let all = names(Variant::Stock);
        assert!(all.contains(&"hca/direct/kernel-log".to_owned()));
        assert!(names(Variant::Debug).is_empty());
    }
    #[test]
    fn what_is_known_to_be_wrong_has_to_be() {
        let both = ["I2-progress at 1 s: x", "I1-memory at 2 s: y"].map(str::to_owned);
        let wrong = unexpected(both.to_vec(), &["I2-progress"]);
        assert_eq!(wrong, ["I1-memory at 2 s: y"]);
        let wrong = unexpected(Vec::new(), &["I2-progress"]);
        assert_eq!(wrong, ["I2-progress is not broken any more"]);
        assert_eq!(unexpected(both.to_vec(), &[]), both);
    }

    #[test]
    fn page_faults_have_to_be_there_and_to_be_served() {
        let counts = |raised: u64, waiting: u64| json!({"raised": raised, "waiting": waiting});
        assert_eq!(unserved(&counts(5, 0)), None);
        for wrong in [counts(0, 0), counts(5, 1), json!({"error": "?"})] {
            assert!(unserved(&wrong).is_some(), "{wrong}");
        }
    }
}
