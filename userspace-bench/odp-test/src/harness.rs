// SPDX-License-Identifier: GPL-2.0
//! How tests are written down, run and reported.

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Result;
use odp_fixture::env::{Env, Mode};
use odp_verbs::Status;
use testkit::process::{self, supervise, End, Finished};

/// The exit status of a test that does not apply here.
const SKIPPED: u8 = 77;
/// How long a test may take, whatever it does, and one that moves gigabytes.
const LIMIT: Duration = Duration::from_secs(120);
const LONG_LIMIT: Duration = Duration::from_secs(900);

/// What a remote access ends with where there is nothing to access, or no right to.
pub const REMOTE_REFUSED: &[Status] = &[Status::REM_ACCESS_ERR];
/// The same for local memory.
pub const LOCAL_REFUSED: &[Status] = &[Status::LOC_PROT_ERR];

/// A test, in one or several cases.
pub struct Test {
    name: &'static str,
    run: Run,
    limit: Duration,
    /// Whether it is run without being named.
    usual: bool,
}

/// How a test is run.
enum Run {
    Once(fn(&Env) -> Result<()>),
    Data(fn(&Env, Mode) -> Result<()>),
    OnDemand(fn(&Env, Mode) -> Result<()>),
}

/// One case of a test.
pub struct Case {
    /// The name of the test and, if there are several, of the case.
    pub name: String,
    run: &'static Run,
    mode: Option<Mode>,
    limit: Duration,
}

impl Test {
    /// One that is run once.
    pub const fn once(name: &'static str, test: fn(&Env) -> Result<()>) -> Self {
        Self {
            name,
            run: Run::Once(test),
            limit: LIMIT,
            usual: true,
        }
    }

    /// One that is run on explicit and on implicit regions; nothing in it depends on the pages
    /// not being pinned.
    pub const fn data(name: &'static str, test: fn(&Env, Mode) -> Result<()>) -> Self {
        Self {
            name,
            run: Run::Data(test),
            limit: LIMIT,
            usual: true,
        }
    }

    /// One that is run on explicit and on implicit regions.
    pub const fn on_demand(name: &'static str, test: fn(&Env, Mode) -> Result<()>) -> Self {
        Self {
            name,
            run: Run::OnDemand(test),
            limit: LIMIT,
            usual: true,
        }
    }

    /// The same, but it takes long, as it moves gigabytes: it is run only if it is named.
    pub const fn long(mut self) -> Self {
        self.limit = LONG_LIMIT;
        self.usual = false;
        self
    }

    /// The same, but it needs a machine that has more than others: it is run only if it is named.
    pub const fn elsewhere(mut self) -> Self {
        self.usual = false;
        self
    }

    /// Whether it is run without being named.
    pub fn is_usual(&self) -> bool {
        self.usual
    }

    /// Its cases.
    pub fn cases(&'static self) -> Vec<Case> {
        let case = |mode: Option<Mode>| {
            let suffix = mode.map(|m| format!(".{m}")).unwrap_or_default();
            Case {
                name: format!("{}{suffix}", self.name),
                run: &self.run,
                mode,
                limit: self.limit,
            }
        };
        match self.run {
            Run::Once(_) => vec![case(None)],
            _ => Mode::ON_DEMAND
                .into_iter()
                .map(|mode| case(Some(mode)))
                .collect(),
        }
    }
}

/// What is the same for all tests of a run.
pub struct Options {
    /// The device.
    pub device: Option<String>,
    /// The index of the address to speak from.
    pub gid: Option<u8>,
    /// Whether pinned memory takes the place of explicit regions.
    pub pinned: bool,
}

impl Options {
    /// Opens the device.
    pub fn open(&self) -> Result<Env> {
        Ok(Env::open(self.device.as_deref(), self.gid)?)
    }

    fn command(&self) -> Command {
        let mut command = process::this_program();
        if let Some(device) = &self.device {
            command.args(["--device", device]);
        }
        if let Some(gid) = self.gid {
            command.args(["--gid", &gid.to_string()]);
        }
        if self.pinned {
            command.arg("--pinned");
        }
        command
    }
}

/// The command that plays the part `role` in a test that runs on `env`.
pub fn role(env: &Env, role: &str) -> Command {
    let mut command = process::this_program();
    command.args(["--device", env.context.name()]);
    command.args(["--gid", &env.gid.index.to_string(), "--role", role]);
    command
}

/// Why a test does not apply here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// The end of a test that does not apply here.
pub fn skip(why: impl Into<String>) -> anyhow::Error {
    Skip(why.into()).into()
}

/// Ends a test of soft-RoCE on another device, for the reason `why`.
pub fn only_on_soft_roce(env: &Env, why: &str) -> Result<()> {
    match env.context.name().starts_with("rxe") {
        true => Ok(()),
        false => Err(skip(why)),
    }
}

/// Runs `case` in this process.
pub fn run_here(case: &Case, options: &Options) -> ExitCode {
    process::defer_to_kernel();
    exit(
        options
            .open()
            .and_then(|env| run(case, &env, options.pinned)),
    )
}

fn run(case: &Case, env: &Env, pinned: bool) -> Result<()> {
    let caps = env.context.odp_caps()?;
    if !caps.supported {
        return Err(skip(format!(
            "{} has no on-demand paging",
            env.context.name()
        )));
    }
    let mode = case.mode.unwrap_or(Mode::Explicit);
    let result = match case.run {
        Run::Once(_) | Run::OnDemand(_) if pinned => Err(skip("not a test of pinned memory")),
        Run::Data(_) if pinned && mode == Mode::Implicit => {
            Err(skip("not a test of pinned memory"))
        }
        Run::Data(test) if pinned => test(env, Mode::Pinned),
        Run::Data(test) | Run::OnDemand(test) => test(env, mode),
        Run::Once(test) => test(env),
    };
    let refused = |e: &odp_verbs::Error| {
        matches!(
            e,
            odp_verbs::Error::Call {
                call: "ibv_reg_mr",
                ..
            }
        )
    };
    match result {
        Err(e) if mode == Mode::Implicit && !caps.implicit => match e.downcast_ref() {
            Some(e) if refused(e) => Err(skip("the device has no implicit on-demand paging")),
            _ => Err(e),
        },
        result => result,
    }
}

/// Says how `result` ended, in one line on standard error and in the exit status.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(if error.is::<Skip>() { SKIPPED } else { 1 })
        }
    }
}

/// How a case ended.
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs `case` in a process of its own.
fn supervised(case: &Case, options: &Options) -> (Verdict, Duration) {
    let mut command = options.command();
    command.args(["--inner", &case.name]);
    match supervise(command, case.limit) {
        Ok(finished) => (verdict(&finished), finished.took),
        Err(error) => (
            Verdict::Failed(format!("cannot be started: {error}")),
            Duration::ZERO,
        ),
    }
}

fn verdict(finished: &Finished) -> Verdict {
    let said = finished
        .stderr
        .trim()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    match finished.end {
        End::Status(0) => Verdict::Passed,
        End::Status(status) if status == i32::from(SKIPPED) => Verdict::Skipped(said),
        End::Status(_) if !said.is_empty() => Verdict::Failed(said),
        End::Status(status) => Verdict::Failed(format!("ended with status {status}")),
        End::Signal(signal) => Verdict::Failed(format!("killed by signal {signal} {said}")),
        End::Hung => Verdict::Failed(format!(
            "hung for {} s ({})",
            finished.took.as_secs(),
            finished.threads.join("; ")
        )),
    }
}

/// Runs one case and ends as it ended.
pub fn run_one(case: &Case, options: &Options) -> ExitCode {
    match supervised(case, options).0 {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Skipped(why) => {
            eprintln!("{}: skipped: {why}", case.name);
            ExitCode::from(SKIPPED)
        }
        Verdict::Failed(why) => {
            eprintln!("{}: {why}", case.name);
            ExitCode::FAILURE
        }
    }
}

/// Runs all `cases`, with a line for each and a summary.
pub fn run_all(cases: &[&Case], options: &Options) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases {
        let (verdict, took) = supervised(case, options);
        let (name, took) = (&case.name, took.as_secs_f64());
        match verdict {
            Verdict::Passed => {
                passed += 1;
                println!("passed   {name} ({took:.1} s)");
            }
            Verdict::Skipped(why) => {
                skipped += 1;
                println!("skipped  {name}: {why}");
            }
            Verdict::Failed(why) => {
                failed += 1;
                println!("FAILED   {name}: {why}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}
