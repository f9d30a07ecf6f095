// SPDX-License-Identifier: GPL-2.0
//! `odp-bench` measures what a page fault of an RDMA device costs, apart from the traffic around it.

mod arguments;
mod comparison;
mod manual;
mod options;
mod reports;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::List(list) => reports::list(&list),
        Command::Run(options) => run::run(&options),
        Command::Report(report) => reports::report(&report),
        Command::Advise(advise) => reports::advise(&advise),
        Command::Compare(compare) => comparison::compare(&compare),
        Command::Schema => reports::schema(),
        Command::Completions(completions) => manual::completions(&completions),
        Command::Man(man) => manual::man(&man),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("odp-bench: {error:#}");
            ExitCode::from(arguments::TROUBLE)
        }
    }
}

/// What a command ends with.
type Outcome = Result<ExitCode>;
