//! The tiers that run in the VM. Tests of one driver share a boot; the kernel log is checked
//! around each of them, and a VM that dies is booted again for the tests that are left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::Report;
use super::table::{self, VmTest};
use super::{Job, Record, Status};
use crate::build::World;
use crate::klog;
use crate::process;
use crate::ui::Step;
use crate::vm::{Config, Driver, Outcome, Vm};

/// After so many dead VMs the tests that are left count as failed.
const DEATHS: u32 = 3;

/// rdma-core's tests of a module take some seconds.
const PYVERBS_LIMIT: Duration = Duration::from_secs(300);

/// The results of rdma-core's tests on one driver, by name, with their detail.
type PyResults = BTreeMap<String, (Status, String)>;

/// Runs the tiers.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    let tests: Vec<VmTest> = table::all(&job.world.programs.tests())
        .into_iter()
        .filter(|test| job.filter.takes(&test.name))
        .collect();
    if !tests.is_empty() {
        Boots::new(job, Driver::Ours).run_all(&tests, report)?;
    }
    for module in table::PYVERBS {
        let names = pyverbs_names(job.world, module)?;
        if names.iter().any(|name| job.filter.takes(name)) {
            pyverbs(job, module, report)?;
        }
    }
    Ok(())
}

/// The names of all tests of these tiers.
pub(crate) fn names(world: &World) -> Result<Vec<String>> {
    let tests = table::all(&world.programs.tests());
    let mut names: Vec<String> = tests.into_iter().map(|test| test.name).collect();
    for module in table::PYVERBS {
        names.extend(pyverbs_names(world, module)?);
    }
    Ok(names)
}

/// The names of the tests in a module of rdma-core's, read from its source.
fn pyverbs_names(world: &World, module: &str) -> Result<Vec<String>> {
    let dir = world.guest.root.join("usr/share/doc/rdma-core/tests");
    let output = std::process::Command::new("gzip")
        .arg("-dcf")
        .arg(dir.join(format!("{module}.py")))
        .output()
        .context("starting gzip")?;
    let output = if output.status.success() && !output.stdout.is_empty() {
        output
    } else {
        let packed = dir.join(format!("{module}.py.gz"));
        std::process::Command::new("gzip")
            .arg("-dc")
            .arg(packed)
            .output()?
    };
    let source = String::from_utf8_lossy(&output.stdout);
    let names = python_tests(&source);
    if names.is_empty() {
        anyhow::bail!("the guest's rdma-core has no {module} in {}", dir.display());
    }
    Ok(names
        .into_iter()
        .map(|name| format!("pyverbs/{module}/{name}"))
        .collect())
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

/// A VM that is booted when it is needed, and again after it died.
struct Boots<'a> {
    job: &'a Job<'a>,
    driver: Driver,
    vm: Option<Vm>,
    count: u32,
    deaths: u32,
}

impl<'a> Boots<'a> {
    fn new(job: &'a Job<'a>, driver: Driver) -> Self {
        Self {
            job,
            driver,
            vm: None,
            count: 0,
            deaths: 0,
        }
    }

    fn vm(&mut self) -> Result<&mut Vm> {
        let vm = match self.vm.take() {
            Some(vm) => vm,
            None => {
                let step = Step::start(format!(
                    "booting the VM for the {} driver",
                    self.driver.name()
                ));
                let mut vm = Vm::boot(self.job.world, &Config::default())?;
                self.count += 1;
                vm.use_driver(self.driver)?;
                step.done();
                vm
            }
        };
        Ok(self.vm.insert(vm))
    }

    fn run_all(mut self, tests: &[VmTest], report: &mut Report) -> Result<()> {
        for test in tests {
            let record = self.run_one(test);
            report.add(record);
        }
        if let Some(record) = self.finish()? {
            report.add(record);
        }
        Ok(())
    }

    fn run_one(&mut self, test: &VmTest) -> Record {
        // The boot is not the test's time.
        if self.deaths < DEATHS && self.vm.is_none() {
            if let Err(error) = self.vm() {
                self.deaths += 1;
                return Record {
                    name: test.name.clone(),
                    status: Status::Fail,
                    time: None,
                    detail: format!("{error:#}"),
                };
            }
        }
        let started = Instant::now();
        let (status, detail) = if self.deaths >= DEATHS {
            (
                Status::Fail,
                format!("not run: the VM died {DEATHS} times before"),
            )
        } else {
            match self.attempt(test) {
                Ok(result) => result,
                Err(error) => {
                    self.bury();
                    (Status::Fail, format!("{error:#}"))
                }
            }
        };
        Record {
            name: test.name.clone(),
            status,
            time: Some(started.elapsed()),
            detail,
        }
    }

    /// Runs one test. An error means that the VM is of no use any more.
    fn attempt(&mut self, test: &VmTest) -> Result<(Status, String)> {
        let vm = self.vm()?;
        let before = vm.kernel_log()?.len();
        let mut said = Vec::new();
        let mut errors = Vec::new();
        let script = format!(
            "echo 'testbed: test {}' >/dev/kmsg\n{}",
            test.name, test.script
        );
        let limit = Duration::from_secs(test.seconds);
        let outcome = vm.run(&script, limit, &mut said, &mut errors)?;
        let log = vm.kernel_log()?;
        said.extend(errors);
        let said = String::from_utf8_lossy(&said);
        let complaints = klog::complaints_from(&log, before);
        let (status, mut detail) = match outcome {
            Outcome::Exit(0) => (Status::Pass, String::new()),
            Outcome::Exit(77) => (Status::Skip, process::tail(said.trim_end(), 1)),
            Outcome::Exit(exit) => {
                let end = process::tail(said.trim_end(), 30);
                (Status::Fail, format!("exit status {exit}\n{end}"))
            }
            Outcome::TimedOut => {
                let end = process::tail(said.trim_end(), 20);
                (
                    Status::Fail,
                    format!("killed after {} s\n{end}", test.seconds),
                )
            }
        };
        if outcome == Outcome::TimedOut {
            // The log now holds the blocked tasks, which is no complaint of its own.
            return Ok((status, detail));
        }
        if complaints.is_empty() {
            return Ok((status, detail));
        }
        let first: Vec<_> = complaints.iter().take(12).cloned().collect();
        detail.push_str(&format!("\nthe kernel complained:\n{}", first.join("\n")));
        Ok((Status::Fail, detail))
    }

    /// Keeps the log of a VM that is of no use any more.
    fn bury(&mut self) {
        self.deaths += 1;
        if let Some(vm) = self.vm.take() {
            if let Ok(log) = vm.kernel_log() {
                let _ = self.save(&log);
            }
        }
    }

    fn save(&self, log: &str) -> Result<()> {
        let name = format!("kernel-{}-{}.log", self.driver.name(), self.count);
        crate::vm::save_log(log, &self.job.results.join(name))
    }

    /// Ends the VM: the modules have to come out, and the whole log has to be clean.
    fn finish(mut self) -> Result<Option<Record>> {
        let Some(mut vm) = self.vm.take() else {
            return Ok(None);
        };
        let started = Instant::now();
        let mut said = Vec::new();
        let mut errors = Vec::new();
        let unloaded = vm.run(
            "rxe-driver none",
            Duration::from_secs(60),
            &mut said,
            &mut errors,
        );
        let log = vm.off()?;
        self.save(&log)?;
        said.extend(errors);
        let mut problems = klog::complaints(&log);
        if !matches!(unloaded, Ok(Outcome::Exit(0))) {
            problems.push(format!(
                "the modules stay: {}",
                String::from_utf8_lossy(&said).trim()
            ));
        }
        problems.truncate(20);
        Ok(Some(Record {
            name: format!("vm/kernel-log/{}", self.driver.name()),
            status: if problems.is_empty() {
                Status::Pass
            } else {
                Status::Fail
            },
            time: Some(started.elapsed()),
            detail: problems.join("\n"),
        }))
    }
}

/// Runs a module of rdma-core's tests on both drivers. Ours must pass what stock passes and every
/// implicit test.
fn pyverbs(job: &Job<'_>, module: &str, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let mut boots = Boots::new(job, Driver::Ours);
    let ours = pyverbs_results(&mut boots, module);
    let time = started.elapsed();
    let log = boots.finish()?;
    let stock = {
        let mut boots = Boots::new(job, Driver::Stock);
        let stock = pyverbs_results(&mut boots, module);
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

fn pyverbs_results(boots: &mut Boots<'_>, module: &str) -> Result<PyResults> {
    let log = format!("pyverbs-{module}-{}.log", boots.driver.name());
    let log = boots.job.results.join(log);
    let vm = boots.vm()?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let script = format!("/usr/local/lib/testbed/pyverbs-tests {module}");
    let step = Step::start(format!("running rdma-core's {module}"));
    let outcome = vm.run(&script, PYVERBS_LIMIT, &mut output, &mut errors);
    drop(step);
    let output = String::from_utf8_lossy(&output);
    let errors = String::from_utf8_lossy(&errors);
    std::fs::write(log, format!("{output}\n{errors}"))?;
    match outcome? {
        Outcome::Exit(0) => Ok(parse(&output)),
        outcome => anyhow::bail!("{outcome:?}: {}", process::tail(errors.trim_end(), 20)),
    }
}

/// Reads the lines of `pyverbs-tests`.
fn parse(output: &str) -> PyResults {
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
fn compare(prefix: &str, ours: &PyResults, stock: &PyResults) -> Vec<Record> {
    let missing = (Status::Fail, "it was not run".to_owned());
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(stock.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let (status, reason) = ours.get(name).unwrap_or(&missing);
            let stock_passes = stock
                .get(name)
                .is_some_and(|(status, _)| *status == Status::Pass);
            let must_pass = stock_passes || name.contains("implicit");
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
        let ours = parse("ok T.a \nskip T.b no\nskip T.c no\nskip T.test_implicit no\n");
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
            ]
        );
    }
}
