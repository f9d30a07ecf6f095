// SPDX-License-Identifier: GPL-2.0
//! `trace`: what a function of the guest's kernel calls, and how many instructions each of these takes.
//!
//! A plugin of QEMU (`tracer`) records the blocks of code that run from the function's first instruction until it
//! returns. Of these (`recording`) and the kernel's symbols (`symbols`) calls become a `tree`, of which `report` tells.

mod recording;
mod report;
mod symbols;
mod tracer;
mod tree;

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted};
use crate::cli::TraceArguments;
use crate::failure::{status, Failure};
use crate::kernel::{Choice, Variant};
use crate::klog;
use crate::qemu::Extra;
use crate::script::quote;
use crate::series::Series;
use crate::ui::{self, Step};
use crate::vm::{Config, Driver, Outcome, Vm};
use recording::Recording;
use report::{Kept, Report};
use symbols::Symbols;
use tracer::Tracer;

/// How long reading the symbols may take.
const SHORT: Duration = Duration::from_secs(60);

/// Work that is looked at often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// A write of 64 bytes to memory that the NIC has translations for.
    Warm,
    /// A write to a page that nobody has touched.
    Fault,
    /// A write to a page that the CPU has and the NIC has not, in no order.
    Resident,
    /// madvise(MADV_DONTNEED) of one page of a region.
    Invalidation,
    /// ibv_reg_mr of 1 MiB on demand.
    Registration,
}

impl Case {
    /// The function, and what runs it.
    fn work(self, driver: Driver) -> (&'static str, &'static str) {
        // What the responder calls for memory on demand.
        let copy = match driver {
            Driver::Ours => "mlx_odp_rxe_copy_on_demand",
            Driver::Stock => "rxe_odp_mr_copy",
        };
        match self {
            Self::Warm => (copy, "traffic/warm --iters 200"),
            Self::Fault => (copy, "fault/explicit/4k/untouched/sequential --effort 0.1"),
            Self::Resident => (copy, "fault/explicit/4k/resident/random --effort 0.1"),
            Self::Invalidation => (
                "__mmu_notifier_invalidate_range_start",
                "invalidation/dontneed/4k --effort 0.1",
            ),
            Self::Registration => ("ib_uverbs_reg_mr", "registration/explicit/1MiB"),
        }
    }
}

impl Case {
    /// How many instructions a call of the function takes that is another case's.
    fn other(self) -> u64 {
        match self {
            // After each fault the same page is accessed again.
            Self::Fault | Self::Resident => 500,
            _ => 0,
        }
    }
}

/// What is to be looked at.
struct Work {
    function: String,
    /// What runs it, for the guest's shell.
    script: String,
    /// Calls that take no more instructions are not looked at.
    more_than: u64,
}

impl Work {
    fn of(arguments: &TraceArguments) -> Result<Self> {
        let (function, script, usual) = match (arguments.case, &arguments.function) {
            (Some(case), _) => {
                let (function, bench) = case.work(arguments.driver);
                let script =
                    format!("odp-bench run {bench} --aligned --quiet --json /run/trace.json");
                (function.to_owned(), script, case.other())
            }
            (None, Some(function)) => {
                let words: Vec<String> = arguments.command.iter().map(|word| quote(word)).collect();
                (function.clone(), words.join(" "), 0)
            }
            (None, None) => {
                bail!("nothing to look at: name a CASE, or a --function and a command that runs it")
            }
        };
        Ok(Self {
            function,
            script,
            more_than: arguments.more_than.unwrap_or(usual),
        })
    }
}

/// Runs the work, and says what it has taken.
pub(crate) fn run(arguments: &TraceArguments, series: Option<Series>) -> Result<u8> {
    let work = Work::of(arguments)?;
    let before = arguments.against.as_deref().map(read).transpose()?;
    if let Some(path) = &arguments.save {
        // Before the VM has run for it.
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.with_context(|| path.display().to_string())?;
    }
    let ours = arguments.driver == Driver::Ours;
    let world = build::ensure(Wanted {
        kernel: Choice {
            series,
            variant: Variant::Stock,
        },
        modules: ours,
        programs: arguments.case.is_some(),
        packages: Vec::new(),
    })?;
    let config = Config {
        with_ours: ours,
        extra: Extra::Counting,
        tracer: Some(tracer::ensure(&world)?),
        ..Config::default()
    };
    let step = Step::start("booting the VM");
    let mut vm = Vm::boot(&world, &config)?;
    vm.use_driver(arguments.driver)?;
    step.done();
    let of = format!(
        "{} on {}, Linux {}, while this ran: {}",
        work.function,
        arguments.driver.title(),
        world.kernel.version.release,
        work.script
    );
    let limit = Duration::from_secs(arguments.timeout);
    let recorded = record(&mut vm, &work, limit);
    let log = vm.off()?;
    crate::vm::save_log(&log, &world.cache.log("last-kernel"))?;
    let Recorded {
        recording,
        symbols,
        exit,
    } = recorded?;
    let report = Report::new(of, &recording, &symbols, work.more_than)?;
    let now = report.kept();
    let least = arguments.least.unwrap_or(now.median as f64 / 100.0);
    print!("{}", report.text(arguments.depth, least));
    if let Some(before) = before {
        print!("\n{}", report::changes(&before, &now, least));
    }
    // What a command has taken that failed is no measure for another one.
    if let (Some(path), 0) = (&arguments.save, exit) {
        let text = serde_json::to_string_pretty(&now)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    let complaints = klog::complaints(&log);
    klog::tell(&complaints);
    Ok(match exit {
        0 if !complaints.is_empty() => status::KERNEL_LOG,
        exit => exit,
    })
}

fn read(path: &Path) -> Result<Kept> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let kept = serde_json::from_str(&text);
    kept.with_context(|| format!("{} is nothing that --save has written", path.display()))
}

/// What a run has left.
struct Recorded {
    recording: Recording,
    /// What names its addresses.
    symbols: Symbols,
    /// The command's exit status.
    exit: u8,
}

/// Has the tracer record while the script runs.
fn record(vm: &mut Vm, work: &Work, limit: Duration) -> Result<Recorded> {
    let mut text = Vec::new();
    let short = vm.patience(SHORT);
    vm.run(
        "cat /proc/kallsyms",
        short,
        &mut text,
        &mut std::io::stderr(),
    )?;
    let symbols = Symbols::read(&String::from_utf8_lossy(&text));
    let tracer = Tracer::at(&vm.tracer())?;
    tracer.record(symbols.find(&work.function)?, &symbols.disturbances())?;
    let step = Step::start("running the command");
    // Standard output is for the report.
    let outcome = vm.run(
        &work.script,
        limit,
        &mut std::io::stderr(),
        &mut std::io::stderr(),
    )?;
    step.done();
    let exit = match outcome {
        Outcome::Exit(0) => 0,
        Outcome::Exit(exit) => {
            ui::note(&format!("the command has ended with {exit}"));
            exit
        }
        Outcome::TimedOut => return Err(Failure::too_long("the command", limit)),
    };
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    tracer.write(file.path())?;
    let bytes = std::fs::read(file.path()).context("what was recorded")?;
    Ok(Recorded {
        recording: Recording::read(&bytes)?,
        symbols,
        exit,
    })
}
