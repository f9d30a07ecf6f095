// SPDX-License-Identifier: GPL-2.0
//! `hmm-mirror`: does a mirror stay what the CPU sees, whatever the CPU does?
//!
//! `/dev/hmm_oracle` (`../../../oracle/kernel/handle.rs`) lets this program play the device: it reads and
//! writes through a [`hmm::Mirror`] of the program's own memory, without any NIC. Each case
//! ([`cases`]) runs in a process of its own. Runs as root in a VM of its own: it changes settings.
//!
//! [`hmm::Mirror`]: ../../../kernel

#[path = "../../../oracle/abi.rs"]
#[expect(dead_code, reason = "some of it is for the module and for hmm-diff")]
mod abi;
mod cases;
mod device;
mod memory;
mod process;
mod system;

use std::fmt;
use std::process::ExitCode;

use anyhow::{bail, Result};
use clap::Parser;
use testkit::process::End;

/// Tests a mirror of this program's own memory.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only those whose names contain one of these; a whole name is that case alone.
    cases: Vec<String>,
    /// Prints the names.
    #[arg(long)]
    list: bool,
    /// For a case: what this program does after exec with the inherited mirror of descriptor FD.
    #[arg(long, value_name = "FD", hide = true)]
    after_exec: Option<i32>,
}

/// A case.
pub(crate) struct Case {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// Why a case cannot be run on this machine.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(fd) = arguments.after_exec {
        return cases::life::after_exec(fd);
    }
    if arguments.list {
        for case in cases::all() {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments.cases) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hmm-mirror: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(names: &[String]) -> Result<u8> {
    let is_whole = |name: &String| cases::all().any(|case| case.name == name);
    let takes = |case: &&Case| {
        names.is_empty()
            || names.iter().any(|name| match is_whole(name) {
                true => case.name == name,
                false => case.name.contains(name.as_str()),
            })
    };
    let (mut ran, mut failed, mut skipped) = (0, 0, 0);
    for case in cases::all().filter(takes) {
        ran += 1;
        match run_alone(case)? {
            0 => println!("ok    {}", case.name),
            SKIPPED => skipped += 1,
            _ => {
                failed += 1;
                println!("FAIL  {}", case.name);
            }
        }
    }
    match (ran, failed) {
        (0, _) => bail!("no such case: --list shows them all"),
        (_, 0) if skipped == ran => Ok(SKIPPED),
        (_, 0) => Ok(0),
        _ => Ok(1),
    }
}

/// Runs one in a process of its own; gives its exit status.
fn run_alone(case: &Case) -> Result<u8> {
    let child = process::Child::fork(|| {
        let status = match (case.run)() {
            Ok(()) => 0,
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => {
                    println!("skip  {}: {}", case.name, skip.0);
                    SKIPPED
                }
                None => {
                    println!("      {}: {error:#}", case.name);
                    1
                }
            },
        };
        std::process::exit(status.into())
    })?;
    match child.ends_at_last()? {
        End::Status(status) => Ok(status as u8),
        end => {
            println!("      {}: {end:?}", case.name);
            Ok(1)
        }
    }
}
