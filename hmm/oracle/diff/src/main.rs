// SPDX-License-Identifier: GPL-2.0
//! `hmm-diff`: does hmm's walk find what the kernel's own `hmm_range_fault` finds?
//!
//! `/dev/hmm_oracle` (`../../kernel`) runs both over ranges of this process. Without a subcommand,
//! random operations on an [`arena`] are each followed by a comparison ([`random`]); `kinds` sets up
//! every kind of page table entry and knows what both have to say ([`directed`]); `bench` measures
//! ([`mod@bench`]). Runs as root in a VM of its own: it changes settings of the machine ([`machine`]).

#[path = "../../abi.rs"]
#[expect(dead_code, reason = "some of it is for the module")]
mod abi;
mod agree;
mod arena;
mod bench;
mod dice;
mod directed;
mod kind;
mod machine;
mod memory;
mod operation;
mod oracle;
mod perform;
mod poison;
mod random;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Compares hmm's walk with the kernel's hmm_range_fault.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    random: RandomArguments,
}

/// What a random run is made of.
#[derive(clap::Args, Clone, Debug)]
struct RandomArguments {
    /// Random operations, each followed by a comparison.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    steps: u64,
    /// Determines the operations; chosen by the clock if it is not given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go on for so long instead of a number of steps.
    #[arg(long, value_name = "T")]
    seconds: Option<u64>,
    /// Print every step.
    #[arg(long)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Every kind of page table entry under every policy, with what both must find.
    Kinds {
        /// Only those whose names contain this.
        filter: Option<String>,
    },
    /// Measures both walks, an invalidation, and the memory of a mirror.
    Bench {
        /// Writes the figures to this file too.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Fail if bytes, or instructions, are 15 % above their goal. Times never fail.
        #[arg(long)]
        check: bool,
        /// The machine's clock counts instructions, N nanoseconds each: print instructions for a page.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        instruction: Option<u32>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result: Result<bool> = match arguments.command {
        None => random::run(&arguments.random),
        Some(Command::Kinds { filter }) => directed::run(filter.as_deref()),
        Some(Command::Bench {
            json,
            check,
            instruction,
        }) => bench::run(json.as_deref(), check, instruction),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hmm-diff: {error:#}");
            ExitCode::from(2)
        }
    }
}
