// SPDX-License-Identifier: GPL-2.0
//! rdma-core's own tests, run on our driver and on the stock one: ours must pass whatever stock
//! passes, and every test of implicit regions and of huge pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::guest::Boots;
use super::report::Report;
use super::{table, Job, Record, Status};
use crate::build::World;
use crate::process;
use crate::ui::Step;
use crate::vm::{Driver, Outcome};

/// The tests of a module take some seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// Parts of the names of tests that must pass on ours though they do not on the stock driver.
const OURS_ONLY: &[&str] = &["implicit", "_huge_"];

/// The results on one driver, by name, with their detail.
type Results = BTreeMap<String, (Status, String)>;

/// Runs the modules that have wanted tests.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    for module in table::PYVERBS {
        let names = names_in(job.world, module)?;
        if names.iter().any(|name| job.filter.takes(name)) {
            run_module(job, module, report)?;
        }
    }
    Ok(())
}

/// The names of all tests.
pub(crate) fn names(world: &World) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for module in table::PYVERBS {
        names.extend(names_in(world, module)?);
    }
    Ok(names)
}

/// The names of the tests in a module, read from its source in the guest's root.
fn names_in(world: &World, module: &str) -> Result<Vec<String>> {
    let dir = world.guest.root.join("usr/share/doc/rdma-core/tests");
    let packed = dir.join(format!("{module}.py.gz"));
    let path = if packed.exists() {
        packed
    } else {
        dir.join(format!("{module}.py"))
    };
    let names = python_tests(&unpacked(&path)?);
    if names.is_empty() {
        bail!("no tests in the guest's {}", path.display());
    }
    let full = |name: String| format!("pyverbs/{module}/{name}");
    Ok(names.into_iter().map(full).collect())
}

/// The text of a file that the package may hold gzipped.
fn unpacked(path: &Path) -> Result<String> {
    let output = Command::new("gzip")
        .arg("-dcf")
        .arg(path)
        .output()
        .context("starting gzip")?;
    if !output.status.success() {
        bail!("cannot read {}", path.display());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The `CLASS.TEST` names in the source of a unittest module.
fn python_tests(source: &str) -> Vec<String> {
    let mut class = "";
    let mut names = Vec::new();
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("class ") {
            class = rest.split(['(', ':']).next().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("    def test_") {
            let name = rest.split('(').next().unwrap_or_default();
            names.push(format!("{class}.test_{name}"));
        }
    }
    names
}

/// Runs a module's tests on both drivers and reports what is to be said about ours.
fn run_module(job: &Job<'_>, module: &str, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let mut boots = Boots::new(job, Driver::Ours);
    let ours = results(&mut boots, module);
    let time = started.elapsed();
    let log = boots.finish()?;
    let stock = {
        let mut boots = Boots::new(job, Driver::Stock);
        let stock = results(&mut boots, module);
        boots.finish()?;
        stock
    };
    let prefix = format!("pyverbs/{module}");
    match (ours, stock) {
        (Ok(ours), Ok(stock)) => {
            for record in compare(&prefix, &ours, &stock) {
                if job.filter.takes(&record.name) {
                    report.add(record);
                }
            }
        }
        (Err(error), _) | (_, Err(error)) => report.add(Record {
            name: format!("{prefix}/run"),
            status: Status::Fail,
            time: Some(time),
            detail: format!("{error:#}"),
        }),
    }
    if let Some(mut log) = log {
        log.name = format!("{prefix}/kernel-log");
        if job.filter.takes(&log.name) {
            report.add(log);
        }
    }
    Ok(())
}

fn results(boots: &mut Boots<'_>, module: &str) -> Result<Results> {
    let log = format!("pyverbs-{module}-{}.log", boots.driver.name());
    let log = boots.job.results.join(log);
    let vm = boots.vm()?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let script = format!("/usr/local/lib/testbed/pyverbs-tests {module}");
    let step = Step::start(format!("running rdma-core's {module}"));
    let outcome = vm.run(&script, vm.patience(LIMIT), &mut output, &mut errors);
    drop(step);
    let output = String::from_utf8_lossy(&output);
    let errors = String::from_utf8_lossy(&errors);
    std::fs::write(log, format!("{output}\n{errors}"))?;
    match outcome? {
        Outcome::Exit(0) => Ok(parse(&output)),
        outcome => bail!("{outcome:?}: {}", process::tail(errors.trim_end(), 20)),
    }
}

/// Reads the lines of `pyverbs-tests`.
fn parse(output: &str) -> Results {
    output
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            let status = match words.next()? {
                "ok" => Status::Pass,
                "skip" => Status::Skip,
                "FAIL" => Status::Fail,
                _ => return None,
            };
            let name = words.next()?.to_owned();
            Some((name, (status, words.next().unwrap_or_default().to_owned())))
        })
        .collect()
}

/// The verdict on each test of ours in the light of stock's result.
fn compare(prefix: &str, ours: &Results, stock: &Results) -> Vec<Record> {
    let missing = (Status::Fail, "it was not run".to_owned());
    let names: BTreeSet<&String> = ours.keys().chain(stock.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let (status, reason) = ours.get(name).unwrap_or(&missing);
            let stock_passes = stock
                .get(name)
                .is_some_and(|(status, _)| *status == Status::Pass);
            let must_pass = stock_passes || OURS_ONLY.iter().any(|part| name.contains(part));
            let (status, detail) = match status {
                Status::Skip if must_pass => (
                    Status::Fail,
                    format!("skipped, but it has to pass: {reason}"),
                ),
                status => (*status, reason.clone()),
            };
            Record {
                name: format!("{prefix}/{name}"),
                status,
                time: None,
                detail,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_tests_are_found() {
        let source = "class A(B):\n    def setUp(self):\n    def test_x(self):\nclass C:\n    def test_y(self):\n";
        assert_eq!(python_tests(source), ["A.test_x", "C.test_y"]);
    }

    #[test]
    fn what_stock_passes_must_pass() {
        let ours = parse(
            "ok T.a \nskip T.b no\nskip T.c no\nskip T.test_implicit no\nskip T.x_huge_y no\n",
        );
        let stock = parse("ok T.a\nok T.b\nskip T.c no\nskip T.test_implicit no\nok T.d\n");
        let verdicts: Vec<_> = compare("p", &ours, &stock)
            .into_iter()
            .map(|record| (record.name, record.status))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("p/T.a".to_owned(), Status::Pass),
                ("p/T.b".to_owned(), Status::Fail),
                ("p/T.c".to_owned(), Status::Skip),
                ("p/T.d".to_owned(), Status::Fail),
                ("p/T.test_implicit".to_owned(), Status::Fail),
                ("p/T.x_huge_y".to_owned(), Status::Fail),
            ]
        );
    }
}
