// SPDX-License-Identifier: GPL-2.0
//! The tests in the VM that `table` declares. Those that need the same VM share a boot; the kernel log is
//! checked around each of them, and a VM that dies is booted again for the tests that are left. The debug kernel
//! is searched for leaks at the end of each VM.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::Report;
use super::table::{self, VmTest};
use super::verdict::Ran;
use super::{lanes, Job, Record, Status};
use crate::build::World;
use crate::kernel::Variant;
use crate::klog;
use crate::qemu::Extra;
use crate::session::Put;
use crate::ui::Step;
use crate::vm::{Config, Driver, Outcome, Vm};

/// After so many dead VMs the tests that are left count as failed.
const DEATHS: u32 = 3;

/// How long the modules may take to come out.
const UNLOAD: Duration = Duration::from_secs(60);

/// Tests that share a boot.
pub(crate) struct Group {
    name: String,
    extra: Extra,
    tests: Vec<VmTest>,
}

impl Group {
    /// Runs them.
    pub(crate) fn run(self, job: &Job<'_>, report: &mut Report) -> Result<()> {
        let mut boots = Boots::new(job, Driver::Ours, &self.name);
        boots.extra = self.extra;
        for test in &self.tests {
            let record = boots.run_one(test);
            report.add(record);
        }
        let named = |what: &str| format!("vm/{what}/{}", self.name);
        report.extend(boots.finish(named)?);
        Ok(())
    }
}

/// The wanted tests, by the VM that they need.
pub(crate) fn groups(job: &Job<'_>) -> Vec<Group> {
    let beside = lanes::width(job.world.kernel.variant) > 1;
    let mut groups: Vec<Group> = Vec::new();
    for test in known(job.world) {
        if !job.filter.takes(&test.name) {
            continue;
        }
        let name = group_of(&test, beside);
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.tests.push(test),
            None => groups.push(Group {
                name,
                extra: test.extra,
                tests: vec![test],
            }),
        }
    }
    groups
}

/// The name of a test's group. Half of the tests are `verbs/`: they have a VM of their own where groups are run
/// `beside` each other.
fn group_of(test: &VmTest, beside: bool) -> String {
    let tier = match beside && test.name.starts_with("verbs/") {
        true => "-verbs",
        false => "",
    };
    format!("{}{}{tier}", Driver::Ours.name(), test.extra.suffix())
}

fn known(world: &World) -> Vec<VmTest> {
    let programs = &world.programs;
    let (verbs, mirror) = (programs.tests(), programs.mirror_cases());
    let kernel = &world.kernel;
    table::all(&verbs, &mirror, kernel.version.series, kernel.variant)
}

/// The names of all tests.
pub(crate) fn names(world: &World) -> Vec<String> {
    let tests = known(world);
    tests.into_iter().map(|test| test.name).collect()
}

/// A VM that is booted when it is needed, and again after it died.
pub(crate) struct Boots<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) driver: Driver,
    /// What its logs are called.
    name: String,
    extra: Extra,
    /// Files of the host for the VM.
    pub(crate) puts: Vec<Put>,
    vm: Option<Vm>,
    /// Lines of its kernel log that are there on purpose.
    provoked: Vec<String>,
    count: u32,
    deaths: u32,
}

impl<'a> Boots<'a> {
    pub(crate) fn new(job: &'a Job<'a>, driver: Driver, name: &str) -> Self {
        Self {
            job,
            driver,
            name: name.into(),
            extra: Extra::None,
            puts: Vec::new(),
            vm: None,
            provoked: Vec::new(),
            count: 0,
            deaths: 0,
        }
    }

    pub(crate) fn vm(&mut self) -> Result<&mut Vm> {
        let vm = match self.vm.take() {
            Some(vm) => vm,
            None => {
                let step = Step::start(format!("booting the VM {}", self.name));
                let config = Config {
                    extra: self.extra,
                    puts: self.puts.clone(),
                    ..Config::default()
                };
                let mut vm = Vm::boot(self.job.world, &config)?;
                self.count += 1;
                vm.use_driver(self.driver)?;
                step.done();
                vm
            }
        };
        Ok(self.vm.insert(vm))
    }

    /// Runs a test in the VM that is there, or a new one.
    pub(crate) fn run_one(&mut self, test: &VmTest) -> Record {
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
                    self.record_death();
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
        let script = klog::marked(&test.name, &test.script);
        let limit = vm.patience(Duration::from_secs(test.seconds));
        let outcome = vm.run(&script, limit, &mut said, &mut errors)?;
        let complaints = klog::complaints_from(&vm.kernel_log()?, before);
        said.extend(errors);
        let ran = Ran {
            outcome,
            limit,
            said: &String::from_utf8_lossy(&said),
            complaints: &complaints,
        };
        let verdict = ran.verdict(test);
        if test.provokes().is_some() && verdict.0 == Status::Pass {
            self.provoked.extend(complaints);
        }
        Ok(verdict)
    }

    /// Counts a VM that is of no use any more, and keeps its log.
    fn record_death(&mut self) {
        self.deaths += 1;
        if let Some(vm) = self.vm.take() {
            if let Ok(log) = vm.kernel_log() {
                let _ = self.save(&log);
            }
        }
    }

    fn save(&self, log: &str) -> Result<()> {
        let name = format!("kernel-{}-{}.log", self.name, self.count);
        crate::vm::save_log(log, &self.job.results.join(name))
    }

    /// Ends the VM: nothing may have leaked, the modules have to come out, and the whole log has to be clean.
    /// `named` gives the names of these tests.
    pub(crate) fn finish(mut self, named: impl Fn(&str) -> String) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        if self.vm.is_some() && self.job.world.kernel.variant == Variant::Debug {
            records.push(self.run_one(&table::leaks(named("kmemleak"))));
        }
        if let Some(vm) = self.vm.take() {
            let started = Instant::now();
            let problems = self.end(vm)?;
            records.push(Record {
                name: named("kernel-log"),
                status: match problems.is_empty() {
                    true => Status::Pass,
                    false => Status::Fail,
                },
                time: Some(started.elapsed()),
                detail: problems.join("\n"),
            });
        }
        Ok(records)
    }

    /// What is wrong when the modules go and in the log.
    fn end(&self, mut vm: Vm) -> Result<Vec<String>> {
        let (mut said, mut errors) = (Vec::new(), Vec::new());
        let limit = vm.patience(UNLOAD);
        let unloaded = vm.run("rxe-driver none", limit, &mut said, &mut errors);
        let log = vm.off()?;
        self.save(&log)?;
        said.extend(errors);
        let mut problems = klog::complaints(&log);
        problems.retain(|line| !self.provoked.contains(line));
        if !matches!(unloaded, Ok(Outcome::Exit(0))) {
            problems.push(format!(
                "the modules stay: {}",
                String::from_utf8_lossy(&said).trim()
            ));
        }
        problems.truncate(20);
        Ok(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Series;

    #[test]
    fn the_tests_of_verbs_have_their_own_vm_beside_others() {
        let (verbs, mirror) = (["a".into()], ["b".into()]);
        let tests = table::all(&verbs, &mirror, Series::newest(), Variant::Debug);
        let of = |name: &str, beside| {
            let test = tests.iter().find(|test| test.name == name);
            test.map(|test| group_of(test, beside)).unwrap_or_default()
        };
        assert_eq!(of("verbs/a", true), "ours-verbs");
        assert_eq!(of("mirror/b", true), "ours");
        assert_eq!(of("verbs/a", false), "ours");
        assert_eq!(of("diff/random", true), "ours-two-nodes");
    }
}
