// SPDX-License-Identifier: GPL-2.0
//! The kernel's own `hmm-tests`, compiled unmodified from its source tree, on our `hmm_dmirror.ko`.
//!
//! What passes on the kernel's C driver must pass on ours: all tests of device-private memory. Those of
//! device-coherent memory are skipped on both, as there is none in a VM.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::one_test::failed;
use super::report::Report;
use super::{table, Job, Record, Status};
use crate::build::World;
use crate::cache::Key;
use crate::chroot::Bind;
use crate::kernel::{Kernel, Variant};
use crate::klog;
use crate::process;
use crate::session::Put;
use crate::ui::Step;
use crate::vm::{Config, Driver, Outcome, Vm};

/// All of them take about one minute and a half under emulation.
const LIMIT: Duration = Duration::from_secs(900);

/// Where the tests are in the kernel's source tree.
const SOURCE: &str = "tree/tools/testing/selftests/mm/hmm-tests.c";

const BUILD: &str = include_str!("../../scripts/build-selftests.sh");

/// Why tests may be skipped: the end of the test's name or a piece of it, and the harness's reason.
const MAY_SKIP: &[(&str, &str)] = &[
    ("_device_coherent.", "DEVICE_COHERENT not available"),
    (".hmm_gup_test", "could not find gup_test driver"),
];

/// Runs the tests that are wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    let all = tests(&job.world.kernel)?;
    let log_name = full("kernel-log");
    let wanted: Vec<&String> = all
        .iter()
        .filter(|test| job.filter.takes(&full(test)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    let mut vm = match boot(job.world) {
        Ok(vm) => vm,
        Err(error) => {
            report.add(failed(&full("run"), started, &error));
            return Ok(());
        }
    };
    let ran = run_wanted(job, &mut vm, &wanted, all.len());
    let leaks = leaks(job.world, &mut vm).unwrap_or_else(|error| Some(format!("{error:#}")));
    let log = vm.off()?;
    crate::vm::save_log(&log, &job.results.join("kernel-selftests.log"))?;
    match ran {
        Ok(results) => {
            for test in wanted {
                report.add(verdict(test, results.get(test)));
            }
        }
        Err(error) => report.add(failed(&full("run"), started, &error)),
    }
    let mut complaints = klog::complaints(&log);
    complaints.truncate(20);
    complaints.extend(leaks);
    report.add(Record {
        name: log_name,
        status: match complaints.is_empty() {
            true => Status::Pass,
            false => Status::Fail,
        },
        time: None,
        detail: complaints.join("\n"),
    });
    Ok(())
}

/// Runs `wanted` of `all` tests.
fn run_wanted(job: &Job<'_>, vm: &mut Vm, wanted: &[&String], all: usize) -> Result<Results> {
    // The list of all of them would be no shorter than the tests' own.
    let chosen: String = match wanted.len() == all {
        true => String::new(),
        false => wanted
            .iter()
            .flat_map(|test| [" -r ", test.as_str()])
            .collect(),
    };
    run_tests(job, vm, &chosen)
}

/// Where memory comes from that has leaked, as far as the kernel looks for that.
fn leaks(world: &World, vm: &mut Vm) -> Result<Option<String>> {
    if world.kernel.variant == Variant::Stock {
        return Ok(None);
    }
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let search = table::leaks(full("kmemleak"));
    let limit = vm.patience(Duration::from_secs(search.seconds));
    let outcome = vm.run(&search.script, limit, &mut output, &mut errors)?;
    output.extend(errors);
    let said = String::from_utf8_lossy(&output).into_owned();
    Ok((outcome != Outcome::Exit(0)).then_some(said))
}

/// The names of all tests.
pub(crate) fn names(kernel: &Kernel) -> Result<Vec<String>> {
    let names = tests(kernel)?;
    Ok(names.iter().map(|name| full(name)).collect())
}

fn full(test: &str) -> String {
    format!("selftest/hmm-tests/{test}")
}

fn tests(kernel: &Kernel) -> Result<Vec<String>> {
    let path = kernel.dir().join(SOURCE);
    let source =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let names = harness_tests(&source);
    if names.is_empty() {
        bail!("no tests in {}", path.display());
    }
    Ok(names)
}

/// The `FIXTURE.VARIANT.TEST` names in a source that uses the kernel's test harness.
fn harness_tests(source: &str) -> Vec<String> {
    let arguments = |line: &str, names: &[&str]| -> Option<(String, String)> {
        let (name, rest) = line.split_once('(')?;
        let (first, second) = rest.split_once(',')?;
        let second = second.split([',', ')']).next()?.trim();
        names
            .contains(&name)
            .then(|| (first.trim().to_owned(), second.to_owned()))
    };
    let find = |names: &[&str]| -> Vec<(String, String)> {
        let lines = source.lines();
        lines.filter_map(|line| arguments(line, names)).collect()
    };
    let variants = find(&["FIXTURE_VARIANT_ADD"]);
    let tests = find(&["TEST_F", "TEST_F_TIMEOUT"]);
    let mut names = Vec::new();
    for (fixture, variant) in &variants {
        let own = tests.iter().filter(|(of, _)| of == fixture);
        names.extend(own.map(|(_, test)| format!("{fixture}.{variant}.{test}")));
    }
    names
}

/// The program, compiled for this kernel.
fn program(world: &World) -> Result<PathBuf> {
    let _building = world.cache.lock_build()?;
    let key = Key::builder()
        .add("kernel", world.kernel.key().as_str())
        .add_script("script", BUILD)
        .finish();
    let dir = world
        .cache
        .ensure(&world.kernel.own("selftests"), &key, |target| {
            let step = Step::start("compiling the kernel's hmm-tests");
            let binds = [
                Bind::read(world.kernel.dir(), "/build/kernel"),
                Bind::write(target, "/build/out"),
            ];
            let command = world.chroot.script(&binds, BUILD, &[]);
            process::run_logged(command, &world.cache.log("selftests"), &step)
                .context("compiling hmm-tests")?;
            step.done();
            Ok(())
        })?;
    Ok(dir.join("hmm-tests"))
}

fn boot(world: &World) -> Result<Vm> {
    let put = Put {
        host: program(world)?,
        guest: "/root/hmm-tests".into(),
    };
    let step = Step::start("booting the VM for the kernel's hmm-tests");
    let config = Config {
        puts: vec![put],
        ..Config::default()
    };
    let mut vm = Vm::boot(world, &config)?;
    vm.use_driver(Driver::Ours)?;
    step.done();
    Ok(vm)
}

/// The results by the tests' names, with what the harness says of them.
type Results = BTreeMap<String, (Status, String)>;

fn run_tests(job: &Job<'_>, vm: &mut Vm, chosen: &str) -> Result<Results> {
    let script = format!(
        "modprobe hmm_dmirror || exit 99\n/root/hmm-tests{chosen} 2>&1; status=$?\n\
         rmmod hmm_dmirror || exit 98\nexit $status"
    );
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let step = Step::start("running the kernel's hmm-tests");
    let outcome = vm.run(&script, vm.patience(LIMIT), &mut output, &mut errors);
    drop(step);
    let output = String::from_utf8_lossy(&output);
    let errors = String::from_utf8_lossy(&errors);
    let log = job.results.join("selftests.log");
    std::fs::write(log, format!("{output}\n{errors}"))?;
    match outcome? {
        // With failures the harness ends with 1, and the results say which; with skips only, with 4.
        Outcome::Exit(0 | 1 | 4) => Ok(parse(&output)),
        outcome => bail!("{outcome:?}: {}", process::tail(errors.trim_end(), 20)),
    }
}

/// Reads TAP. What a failed test says stands before its result, as comments.
fn parse(output: &str) -> Results {
    let mut results = Results::new();
    let mut comments = Vec::new();
    for line in output.lines() {
        let (passed, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => match line.strip_prefix("ok ") {
                Some(rest) => (true, rest),
                None => {
                    comments.extend(line.strip_prefix("# ").map(str::trim));
                    continue;
                }
            },
        };
        let (name, reason) = rest.split_once(" # SKIP ").unwrap_or((rest, ""));
        let name = name.split_whitespace().nth(1).unwrap_or_default();
        let result = match (passed, rest.contains(" # SKIP ")) {
            (true, true) => (Status::Skip, reason.to_owned()),
            (true, false) => (Status::Pass, String::new()),
            (false, _) => (Status::Fail, comments.join("\n")),
        };
        results.insert(name.to_owned(), result);
        comments.clear();
    }
    results
}

fn verdict(test: &str, result: Option<&(Status, String)>) -> Record {
    let (status, detail) = match result {
        None => (Status::Fail, "it was not run".to_owned()),
        Some((Status::Skip, reason)) if !may_skip(test, reason) => {
            let detail = format!("skipped, but it has to pass: {reason}");
            (Status::Fail, detail)
        }
        Some((status, detail)) => (*status, detail.clone()),
    };
    Record {
        name: full(test),
        status,
        time: None,
        detail,
    }
}

fn may_skip(test: &str, reason: &str) -> bool {
    MAY_SKIP
        .iter()
        .any(|(name, why)| test.contains(name) && reason.contains(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_for_each_variant() {
        let source = "FIXTURE_VARIANT_ADD(a, one)\nFIXTURE_VARIANT_ADD(a, two)\nTEST_F(a, x)\n\
                      FIXTURE_VARIANT_ADD(b, three)\nTEST_F_TIMEOUT(b, y, 120)\n";
        assert_eq!(harness_tests(source), ["a.one.x", "a.two.x", "b.three.y"]);
    }

    #[test]
    fn only_what_a_vm_cannot_have_may_be_skipped() {
        let output = "# x.c:1: 1 != 2\nnot ok 1 h.h_device_private.a\n\
                      ok 2 h.h_device_coherent.a # SKIP DEVICE_COHERENT not available\n\
                      ok 3 h.h_device_private.b # SKIP Not enough huge pages\n\
                      ok 4 h.h_device_private.c\n";
        let results = parse(output);
        let status = |test: &str| verdict(test, results.get(test)).status;
        assert_eq!(status("h.h_device_private.a"), Status::Fail);
        assert_eq!(results["h.h_device_private.a"].1, "x.c:1: 1 != 2");
        assert_eq!(status("h.h_device_coherent.a"), Status::Skip);
        assert_eq!(status("h.h_device_private.b"), Status::Fail);
        assert_eq!(status("h.h_device_private.c"), Status::Pass);
        assert_eq!(status("h.h_device_private.d"), Status::Fail);
    }
}
