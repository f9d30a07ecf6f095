// SPDX-License-Identifier: GPL-2.0
//! `odp-demo` shows on a verbs device what on-demand paging is for, and whether it holds.
//!
//! Every check runs in a process of its own with a deadline, so that a driver that hangs or
//! corrupts fails that check and no other.

mod basics;
mod figures;
mod invalidation;
mod report;
mod stage;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use odp_fixture::{
    env::{Env, Mode},
    traffic,
};
use testkit::process;

use report::{Report, Runner};
use stage::Check;

/// Shows what on-demand paging does on an RDMA device, and checks that it is right.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The RDMA device; the first there is if not given.
    #[arg(long)]
    device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given.
    #[arg(long)]
    gid: Option<u8>,
    /// Where to write the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs one check or figure in this process. For the demo itself.
    #[arg(long, hide = true)]
    part: Option<String>,
}

/// The checks, in the order in which they are told.
fn checks() -> impl Iterator<Item = &'static Check> {
    basics::CHECKS.iter().chain(invalidation::CHECKS)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(part) => run_part(&arguments, part).map(|()| true),
        None => run_all(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("odp-demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs everything, each part in its own process, and tells whether all that is required held.
fn run_all(arguments: &Arguments) -> Result<bool> {
    let env = Env::open(arguments.device.as_deref(), arguments.gid)?;
    let caps = env.context.odp_caps()?;
    let device = env.context.name().to_owned();
    println!(
        "{device}: on-demand paging {}, of the whole address space {}",
        yes(caps.supported),
        yes(caps.implicit)
    );
    drop(env);

    let runner = Runner {
        device: device.clone(),
        gid: arguments.gid,
    };
    let mut report = Report::new(device);
    for check in checks() {
        report.check(check, runner.run(check.name));
    }
    for figure in figures::FIGURES {
        report.figure(figure, runner.run(figure.name));
    }
    report.counters();
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report.summary)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.summarise())
}

fn yes(is: bool) -> &'static str {
    if is {
        "yes"
    } else {
        "no"
    }
}

/// Runs one part in this process and prints its result for the one that runs all.
fn run_part(arguments: &Arguments, part: &str) -> Result<()> {
    process::defer_to_kernel();
    let mut env = Env::open(arguments.device.as_deref(), arguments.gid)?;
    env.patience = stage::PATIENCE;
    if part == traffic::ROLE {
        return traffic::play(&env, Mode::Explicit, traffic::Placement::Aligned);
    }
    let stage = stage::Stage::new(env);
    let check = checks().find(|c| c.name == part);
    let figure = figures::FIGURES.iter().find(|f| f.name == part);
    let result = match (check, figure) {
        (Some(check), _) => stage.check(check),
        (_, Some(figure)) => stage.figure(figure),
        _ => anyhow::bail!("there is no part called {part}"),
    };
    println!("{}", serde_json::to_string(&result)?);
    // The results are out. What the driver does with objects of failed checks is not waited for.
    std::process::exit(0);
}
