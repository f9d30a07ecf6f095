// SPDX-License-Identifier: GPL-2.0
//! rdma-core's own tests, all of them, run on our driver and on the stock one: ours must pass whatever stock
//! passes, and every ODP test of implicit regions and of huge pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::guest::Boots;
use super::report::Report;
use super::side_by_side;
use super::{Job, Record, Status};
use crate::kernel::Variant;
use crate::klog;
use crate::process;
use crate::ui::Step;
use crate::vm::{Driver, Outcome};

/// A module's tests take some seconds, all of them less than two minutes.
const MODULE: Duration = Duration::from_secs(180);
const ALL: Duration = Duration::from_secs(1200);

/// The module of which more must pass on ours than on the stock driver, and parts of these tests' names.
const ODP: &str = "test_odp/";
const OURS_ONLY: &[&str] = &["implicit", "_huge_"];

/// The results on one driver by `MODULE/CLASS.TEST`, with their detail.
pub(super) type Results = BTreeMap<String, (Status, String)>;

/// Runs the modules that have wanted tests.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    let mut wanted = Vec::new();
    for (module, path) in modules(&job.world.guest.root)? {
        let names = names_in(&module, &path)?;
        if names.iter().any(|name| job.filter.takes(&full(name))) {
            wanted.push(module);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut boots = Boots::new(job, Driver::Ours, "ours-pyverbs");
    let ours = results(&mut boots, &wanted);
    report.extend(boots.finish(full)?);
    let stock = on_stock(job, &wanted)?;
    match (ours, stock) {
        (Ok(ours), Ok(stock)) => tell(job, report, &ours, &stock)?,
        (Err(error), _) | (_, Err(error)) => report.add(Record {
            name: full("run"),
            status: Status::Fail,
            time: None,
            detail: format!("{error:#}"),
        }),
    }
    Ok(())
}

/// The results on the stock driver. The debug kernel's checks are not for it: there are none there.
fn on_stock(job: &Job<'_>, modules: &[String]) -> Result<Result<Results>> {
    if job.world.kernel.variant == Variant::Debug {
        return Ok(Ok(Results::new()));
    }
    let mut boots = Boots::new(job, Driver::Stock, "stock-pyverbs");
    let stock = results(&mut boots, modules);
    boots.finish(full)?;
    Ok(stock)
}

/// The names of all tests, which are in the guest's root.
pub(crate) fn names(guest: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (module, path) in modules(guest)? {
        names.extend(names_in(&module, &path)?.iter().map(|name| full(name)));
    }
    Ok(names)
}

fn full(name: &str) -> String {
    format!("pyverbs/{name}")
}

/// The modules of tests in the guest's root, and where they are.
fn modules(guest: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let dir = guest.join("usr/share/doc/rdma-core/tests");
    let entries = std::fs::read_dir(&dir)
        .with_context(|| format!("reading the guest's {}", dir.display()))?;
    let modules = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let module = name.strip_suffix(".gz").unwrap_or(&name);
        let module = module.strip_suffix(".py")?;
        let is_test = module.starts_with("test_");
        is_test.then(|| (module.to_owned(), entry.path()))
    });
    Ok(modules.collect())
}

/// The names of the tests in a module, read from its source.
fn names_in(module: &str, path: &Path) -> Result<Vec<String>> {
    let names = python_tests(&unpacked(path)?);
    let full = |name: String| format!("{module}/{name}");
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

/// Runs the tests of some modules, one module after the other.
fn results(boots: &mut Boots<'_>, modules: &[String]) -> Result<Results> {
    let (driver, title) = (boots.driver.name(), boots.driver.title());
    let log = boots.job.results.join(format!("pyverbs-{driver}.log"));
    let vm = boots.vm()?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let script = format!(
        "/usr/local/lib/testbed/pyverbs-tests {} {}",
        vm.patience(MODULE).as_secs(),
        modules.join(" ")
    );
    let step = Step::start(format!("running rdma-core's tests on {title}"));
    let script = klog::marked(&full(""), &script);
    let outcome = vm.run(&script, vm.patience(ALL), &mut output, &mut errors);
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
pub(super) fn parse(output: &str) -> Results {
    output
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let status = match words.next()? {
                "ok" => Status::Pass,
                "skip" => Status::Skip,
                "FAIL" => Status::Fail,
                _ => return None,
            };
            let name = format!("{}/{}", words.next()?, words.next()?);
            Some((name, (status, words.next().unwrap_or_default().to_owned())))
        })
        .collect()
}

/// Reports on the tests of ours, and in what they differ from those of stock.
fn tell(job: &Job<'_>, report: &mut Report, ours: &Results, stock: &Results) -> Result<()> {
    let records = compare(ours, stock);
    let wanted = records
        .into_iter()
        .filter(|record| job.filter.takes(&record.name));
    report.extend(in_short(wanted.collect()));
    if job.world.kernel.variant == Variant::Debug {
        return Ok(());
    }
    let table = side_by_side::table(differences(ours, stock));
    print!("\nrdma-core's tests, where the drivers differ:\n{table}\n");
    let path = job.results.join("pyverbs.txt");
    std::fs::write(&path, table).with_context(|| format!("writing {}", path.display()))
}

/// The verdict on each test of ours in the light of stock's result.
fn compare(ours: &Results, stock: &Results) -> Vec<Record> {
    let missing = (Status::Fail, "it was not run".to_owned());
    all_names(ours, stock)
        .into_iter()
        .map(|name| {
            let (status, reason) = ours.get(name).unwrap_or(&missing);
            let stock_passes = stock
                .get(name)
                .is_some_and(|(status, _)| *status == Status::Pass);
            let ours_only =
                name.starts_with(ODP) && OURS_ONLY.iter().any(|part| name.contains(part));
            let (status, detail) = match status {
                Status::Skip if stock_passes || ours_only => (
                    Status::Fail,
                    format!("skipped, but it has to pass: {reason}"),
                ),
                status => (*status, reason.clone()),
            };
            Record {
                name: full(name),
                status,
                time: None,
                detail,
            }
        })
        .collect()
}

fn all_names<'a>(ours: &'a Results, stock: &'a Results) -> BTreeSet<&'a String> {
    ours.keys().chain(stock.keys()).collect()
}

/// The tests that ended differently, and the sums.
fn differences(ours: &Results, stock: &Results) -> Vec<(String, String, String)> {
    let said = |results: &Results, name: &String| match results.get(name) {
        None => "was not run".into(),
        Some((Status::Pass, _)) => "passes".into(),
        Some((Status::Skip, reason)) => format!("skips: {reason}"),
        Some((Status::Fail, reason)) => format!("FAILS: {reason}"),
    };
    let status = |results: &Results, name: &String| results.get(name).map(|(status, _)| *status);
    let sum = |results: &Results| {
        let count = |wanted| {
            let matching = results.values().filter(|(status, _)| *status == wanted);
            matching.count()
        };
        format!(
            "{} pass, {} fail, {} skip",
            count(Status::Pass),
            count(Status::Fail),
            count(Status::Skip)
        )
    };
    let mut rows: Vec<_> = all_names(ours, stock)
        .into_iter()
        .filter(|name| status(ours, name) != status(stock, name))
        .map(|name| (name.clone(), said(ours, name), said(stock, name)))
        .collect();
    rows.push(("all".into(), sum(ours), sum(stock)));
    rows
}

/// One line for a module that skips all of its tests, of which there are many: they are for other devices.
fn in_short(records: Vec<Record>) -> Vec<Record> {
    let module = |record: &Record| -> Option<String> {
        let (module, _) = record.name.rsplit_once('/')?;
        Some(module.to_owned())
    };
    let runs: BTreeSet<_> = records
        .iter()
        .filter(|record| record.status != Status::Skip)
        .filter_map(module)
        .collect();
    let mut short: Vec<Record> = Vec::new();
    for record in records {
        let module = module(&record).filter(|module| !runs.contains(module));
        match (module, short.last()) {
            (None, _) => short.push(record),
            (Some(module), Some(last)) if last.name == module => {}
            (Some(module), _) => short.push(Record {
                name: module,
                detail: format!("all of it: {}", record.detail),
                ..record
            }),
        }
    }
    short
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
            "ok m T.a \nskip m T.b no\nskip m T.c_huge_ no\nskip test_odp T.test_implicit no\n\
                   skip test_odp T.x_huge_y no\n",
        );
        let stock = parse(
            "ok m T.a\nok m T.b\nskip m T.c_huge_ no\nskip test_odp T.test_implicit no\nok m T.d\n",
        );
        let verdicts: Vec<_> = compare(&ours, &stock)
            .into_iter()
            .map(|record| (record.name, record.status))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("pyverbs/m/T.a".to_owned(), Status::Pass),
                ("pyverbs/m/T.b".to_owned(), Status::Fail),
                ("pyverbs/m/T.c_huge_".to_owned(), Status::Skip),
                ("pyverbs/m/T.d".to_owned(), Status::Fail),
                ("pyverbs/test_odp/T.test_implicit".to_owned(), Status::Fail),
                ("pyverbs/test_odp/T.x_huge_y".to_owned(), Status::Fail),
            ]
        );
    }

    #[test]
    fn differences_are_told() {
        let ours = parse("ok m T.a\nok m T.b\n");
        let stock = parse("ok m T.a\nskip m T.b not here\nFAIL m T.c\n");
        let rows = differences(&ours, &stock);
        let names: Vec<_> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(names, ["m/T.b", "m/T.c", "all"]);
        assert_eq!(rows[0].2, "skips: not here");
        assert_eq!(rows[1].1, "was not run");
        assert_eq!(rows[2].2, "1 pass, 1 fail, 1 skip");
    }

    #[test]
    fn a_module_for_other_devices_is_one_line() {
        let results =
            parse("skip a T.x no\nskip a T.y no\nok b T.x\nskip b T.y no\nskip c T.x no\n");
        let names: Vec<_> = in_short(compare(&results, &results))
            .into_iter()
            .map(|record| record.name)
            .collect();
        let expected = ["pyverbs/a", "pyverbs/b/T.x", "pyverbs/b/T.y", "pyverbs/c"];
        assert_eq!(names, expected);
    }
}
