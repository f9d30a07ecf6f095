// SPDX-License-Identifier: GPL-2.0
//! The tiers that need no VM: the crates' own tests and the lints of both builds.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::report::Report;
use super::{book, commits, licences, pages, versions, Job, Record, Status};
use crate::build::World;
use crate::doc;
use crate::modules;
use crate::package;
use crate::process;
use crate::programs;
use crate::ui::Step;

/// The crates whose tests run on the host.
const CRATES: &[&str] = &[
    "hmm",
    "mlx-odp",
    "rxe-testbed",
    "odp-hca",
    "rxe-testbed-tracer",
    "odp-results",
];

/// Those of the programs for the VM that have tests. They run in the chroot, as those of the libraries do: it has the C
/// compilers.
const PROGRAMS: &[&str] = &[programs::FUZZ, programs::BENCH, programs::DIFF];

/// Where the tests of all these crates are.
pub(super) const SOURCES: &[&str] = &[
    "hmm",
    "mlx-odp",
    "rxe-testbed/hca/src",
    "rxe-testbed/tracer/src",
    "rxe-testbed/src",
    "userspace-bench",
];

/// A check that is one test: its name and its code, which gives what is wrong.
type Lint = (&'static str, fn(&Job<'_>) -> Result<Verdict>);

const LINTS: &[Lint] = &[
    ("lint/fmt", fmt),
    ("lint/clippy", clippy),
    ("lint/userspace-clippy", userspace_clippy),
    ("lint/tests-clippy", tests_clippy),
    ("lint/kernel-clippy", kernel_clippy),
    ("lint/doc", |job| {
        doc::write(job.world)?;
        // What does not build has no documentation, and none that is right.
        job.world.our_modules()?.expect_all()?;
        Ok(Verdict::Good)
    }),
    ("lint/licences", |job| {
        verdict(licences::check(&job.world.repository)?)
    }),
    ("lint/versions", |job| {
        verdict(versions::check(&job.world.repository)?)
    }),
    ("lint/book", |job| {
        verdict(book::check(&job.world.repository)?)
    }),
    ("lint/commits", |job| {
        match commits::check(job.world.repository.root())? {
            Some(complaints) => verdict(complaints),
            None => Ok(Verdict::Impossible(commits::no_history())),
        }
    }),
    ("lint/pages", |job| match pages::browser(job.world) {
        Ok(browser) => verdict(pages::check(job, &browser)?),
        Err(error) => Ok(Verdict::Impossible(format!("no browser: {error:#}"))),
    }),
    ("lint/packages", |job| verdict(package::faults(job.world)?)),
];

/// Arguments for cargo in the chroot, and for every clippy.
const OFFLINE: &[&str] = &["--locked", "--offline"];
const DENY: &[&str] = &["--", "-D", "warnings"];

/// What a check found.
enum Verdict {
    Good,
    Bad(String),
    Impossible(String),
}

/// Runs the tiers.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if !job.filter.names_other_tier("core") {
        for name in all_crates() {
            crate_tests(job, name, report)?;
        }
    }
    for (name, check) in LINTS {
        if job.filter.takes(name) {
            report.add(lint(job, name, *check));
        }
    }
    Ok(())
}

/// The names of all tests of these tiers.
pub(crate) fn names(world: &World) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in all_crates() {
        names.extend(crate_test_names(world, name)?);
    }
    names.extend(lints());
    Ok(names)
}

/// The names of the lints.
pub(super) fn lints() -> Vec<String> {
    LINTS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The crates that have tests.
fn all_crates() -> impl Iterator<Item = &'static str> {
    let for_the_vm = programs::LIBRARIES.iter().chain(PROGRAMS);
    CRATES.iter().chain(for_the_vm).copied()
}

fn cargo(world: &World, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(world.repository.root());
    // What this program's own cargo told it is not for the tests' cargo.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TERM_COLOR", "never");
    command
}

/// `cargo test` of a crate, where it belongs.
fn cargo_test(world: &World, name: &str, arguments: &[&str]) -> Result<Command> {
    if !CRATES.contains(&name) {
        // As the programs for the VM are built: what they depend on is at hand. Our own code has its checks.
        let checks = checks_of(programs::LIBRARIES.iter().chain(programs::PROGRAMS));
        let mut all = vec!["test", "--release", "-p", name];
        all.extend(checks.iter().flat_map(|check| ["--config", check]));
        all.extend(OFFLINE.iter().chain(arguments));
        return world.cargo().command(&all);
    }
    let all = [&["test", "--locked", "-p", name], arguments].concat();
    Ok(cargo(world, &all))
}

/// The settings for cargo that have packages check for overflow, and what is asserted, in a release.
fn checks_of<'a>(packages: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    let settings = |name| {
        let setting = move |kind| format!("profile.release.package.{name}.{kind}=true");
        ["overflow-checks", "debug-assertions"].map(setting)
    };
    packages.flat_map(settings).collect()
}

fn crate_test_names(world: &World, name: &str) -> Result<Vec<String>> {
    let step = Step::start(format!("building the tests of {name}"));
    let log = world.cache.log(&format!("test-names-{name}"));
    let command = cargo_test(world, name, &["--", "--list"])?;
    process::run_logged(command, &log, &step).with_context(|| format!("the tests of {name}"))?;
    let names = listed(&process::read_lossy(&log)?);
    Ok(names
        .into_iter()
        .map(|test| format!("core/{name}/{test}"))
        .collect())
}

/// The tests that `cargo test -- --list` names.
fn listed(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// Runs the tests of a crate, all of them even if only some are reported: they take no time.
fn crate_tests(job: &Job<'_>, name: &str, report: &mut Report) -> Result<()> {
    let whole = format!("core/{name}/build");
    let log = job.results.join(format!("core-{name}.log"));
    let names = match crate_test_names(job.world, name) {
        Ok(names) => names,
        Err(error) => {
            report.add(failure(whole, format!("{error:#}")));
            return Ok(());
        }
    };
    if !names.iter().any(|name| job.filter.takes(name)) {
        return Ok(());
    }
    let step = Step::start(format!("running the tests of {name}"));
    let command = cargo_test(job.world, name, &["--no-fail-fast"])?;
    let status = process::run_to_log(command, &log, &step)?;
    drop(step);
    let text = process::read_lossy(&log)?;
    let results = cargo_results(&text);
    let all_passed = results.iter().all(|(_, status)| *status != Status::Fail);
    for (test, status) in results {
        let name = format!("core/{name}/{test}");
        if job.filter.takes(&name) {
            let detail = match status {
                Status::Fail => panic_of(&text, &test),
                _ => String::new(),
            };
            let time = None;
            report.add(Record {
                name,
                status,
                time,
                detail,
            });
        }
    }
    if !status.success() && all_passed {
        report.add(failure(whole, process::tail(&text, 20)));
    }
    Ok(())
}

fn failure(name: String, detail: String) -> Record {
    Record {
        name,
        status: Status::Fail,
        time: None,
        detail,
    }
}

/// The results in the output of `cargo test`: `test NAME ... ok`.
fn cargo_results(output: &str) -> Vec<(String, Status)> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.rsplit_once(" ... "))
        .filter_map(|(name, word)| {
            let status = match word.split([',', ' ']).next()? {
                "ok" => Status::Pass,
                "FAILED" => Status::Fail,
                "ignored" => Status::Skip,
                _ => return None,
            };
            Some((name.trim_end_matches(" - should panic").to_owned(), status))
        })
        .collect()
}

/// What a failed test printed: the block that `cargo test` titles with its name.
fn panic_of(output: &str, test: &str) -> String {
    let title = format!("---- {test} stdout ----");
    let block = output.lines().skip_while(|line| *line != title).skip(1);
    let lines: Vec<&str> = block
        .take_while(|line| !line.starts_with("---- "))
        .take(20)
        .collect();
    lines.join("\n")
}

fn lint(job: &Job<'_>, name: &str, check: fn(&Job<'_>) -> Result<Verdict>) -> Record {
    let started = Instant::now();
    let (status, detail) = match check(job) {
        Ok(Verdict::Good) => (Status::Pass, String::new()),
        Ok(Verdict::Bad(detail)) => (Status::Fail, detail),
        Ok(Verdict::Impossible(reason)) => (Status::Skip, reason),
        Err(error) => (Status::Fail, format!("{error:#}")),
    };
    Record {
        name: name.into(),
        status,
        time: Some(started.elapsed()),
        detail,
    }
}

fn fmt(job: &Job<'_>) -> Result<Verdict> {
    check(job, "fmt", &["fmt", "--all", "--check"])
}

/// What is shipped, by the oldest compiler that has to build it.
fn clippy(job: &Job<'_>) -> Result<Verdict> {
    let targets = ["clippy", "--workspace", "--lib", "--bins", "--keep-going"];
    check(job, "clippy", &[&targets[..], OFFLINE, DENY].concat())
}

fn userspace_clippy(job: &Job<'_>) -> Result<Verdict> {
    let mut targets = vec!["clippy", "--all-targets"];
    for name in programs::LIBRARIES.iter().chain(programs::PROGRAMS) {
        targets.extend(["-p", name]);
    }
    check(
        job,
        "userspace-clippy",
        &[&targets[..], OFFLINE, DENY].concat(),
    )
}

/// The tests of the other crates use crates that take a newer compiler: the host's.
fn tests_clippy(job: &Job<'_>) -> Result<Verdict> {
    let version = cargo(job.world, &["clippy", "--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Ok(Verdict::Impossible("the host has no clippy".into()));
    }
    let mut arguments = vec!["clippy", "--locked", "--all-targets"];
    for name in CRATES {
        arguments.extend(["-p", name]);
    }
    arguments.extend(DENY);
    judge(job, "tests-clippy", cargo(job.world, &arguments))
}

fn kernel_clippy(job: &Job<'_>) -> Result<Verdict> {
    let world = job.world;
    let _building = world.cache.lock_build()?;
    let stage = world.compile()?;
    let mut warnings = world.our_modules()?.warnings()?;
    warnings.extend(modules::clippy(
        &world.cache,
        &world.chroot,
        &world.kernel,
        &stage,
    )?);
    Ok(if warnings.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad(warnings.join("\n"))
    })
}

/// The verdict on what a check complains of.
fn verdict(complaints: Vec<String>) -> Result<Verdict> {
    Ok(match complaints.is_empty() {
        true => Verdict::Good,
        false => Verdict::Bad(complaints.join("\n")),
    })
}

/// Checks the sources with the chroot's tools, so that the verdict does not depend on the host's.
fn check(job: &Job<'_>, name: &str, arguments: &[&str]) -> Result<Verdict> {
    let step = Step::start("looking for the crates");
    let cargo = job.world.cargo();
    cargo.fetch(&step)?;
    drop(step);
    judge(job, name, cargo.command(arguments)?)
}

fn judge(job: &Job<'_>, name: &str, command: Command) -> Result<Verdict> {
    let step = Step::start(format!("checking the sources with {name}"));
    let log = job.results.join(format!("{name}.log"));
    let status = process::run_to_log(command, &log, &step)?;
    let text = process::read_lossy(&log)?;
    Ok(if status.success() {
        Verdict::Good
    } else {
        let from_errors: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.starts_with("error") && !line.starts_with("Diff in"))
            .take(40)
            .collect();
        Verdict::Bad(from_errors.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test addr::tests::adds ... ok
test addr::tests::panics - should panic ... ok
test walk::tests::slow ... ignored, takes a day
test walk::tests::holes ... FAILED

failures:

---- walk::tests::holes stdout ----
assertion failed
  left: 1
";

    #[test]
    fn results_are_read() {
        let results = cargo_results(OUTPUT);
        assert_eq!(results.len(), 4);
        assert_eq!(results[1], ("addr::tests::panics".into(), Status::Pass));
        assert_eq!(results[2].1, Status::Skip);
        assert_eq!(results[3].1, Status::Fail);
        assert_eq!(
            panic_of(OUTPUT, "walk::tests::holes"),
            "assertion failed\n  left: 1"
        );
    }

    #[test]
    fn names_are_read() {
        assert_eq!(
            listed("addr::adds: test\n\n1 test, 0 benchmarks\n"),
            ["addr::adds"]
        );
    }
}
