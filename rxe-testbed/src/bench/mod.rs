// SPDX-License-Identifier: GPL-2.0
//! `bench`: the stock driver and ours in one VM, in turns, and how the performance goals stand.
//!
//! `stage` is the VM, or two of them. `legs` swaps the drivers and runs odp-bench on each, `goals` says what is to
//! be reached, `verdict` judges what was measured, and `rendering` shows it; `counting` compares the instructions that paths take with those of a
//! baseline.

pub(crate) mod counting;
mod goals;
mod legs;
mod publish;
mod rendering;
mod stage;
mod verdict;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use odp_results::html;
use odp_results::run::{write_atomically, Unit};
use serde::Deserialize;

use crate::build::{self, Wanted, World};
use crate::cli::BenchArguments;
use crate::kernel::{Choice, Variant};
use crate::klog;
use crate::programs;
use crate::qemu::{Accelerator, Extra, INSTRUCTION};
use crate::repository::Repository;
use crate::series::Series;
use crate::ui::Step;
use crate::vm::{Config, Driver, Outcome, Vm};

use legs::{Leg, Plan};
use stage::Stage;
use verdict::Line;

/// The walks and the mirror beside the kernel's own, without RDMA.
const HMM: &str =
    "/usr/local/lib/testbed/with-module hmm_oracle hmm-diff bench --json /run/hmm.json";
/// How long a run of odp-bench may take at full effort.
const LEG: Duration = Duration::from_secs(1200);

const HMM_LIMIT: Duration = Duration::from_secs(900);

/// Measures; the exit status says whether data was wrong or a run broke off, not how the goals stand.
pub(crate) fn run(arguments: &BenchArguments, series: Option<Series>) -> Result<u8> {
    if let Some(folder) = &arguments.again {
        // One machine's: it cannot be asked for together with --pair.
        tell(
            &legs::load(folder)?,
            &[],
            arguments,
            folder,
            &Repository::find()?,
        )?;
        return Ok(0);
    }
    let started = Instant::now();
    let world = build::ensure(Wanted {
        kernel: Choice {
            series,
            variant: Variant::Stock,
        },
        modules: true,
        programs: true,
        packages: Vec::new(),
    })?;
    if !world.programs.has(programs::BENCH) {
        bail!("userspace-bench has no program {} yet", programs::BENCH);
    }
    let folder = match &arguments.out {
        Some(folder) => folder.clone(),
        None => world.cache.path("bench"),
    };
    // Before minutes are spent.
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    write_atomically(&folder.join("goals.txt"), b"")?;

    let step = Step::start(match arguments.pair {
        true => "booting two VMs",
        false => "booting the VM",
    });
    let mut stage = Stage::boot(&world, &config(arguments), arguments.pair)?;
    step.done();
    let measured = measure(&mut stage, arguments, &world, &folder);
    let logs = stage.off()?;
    let kept = logs.join("\nthe other VM:\n");
    crate::vm::save_log(&kept, &world.cache.log("last-kernel"))?;
    let Measured {
        legs,
        hmm,
        mut problems,
    } = measured?;

    if !legs.is_empty() {
        println!();
        tell(&legs, &hmm, arguments, &folder, &world.repository)?;
    }
    println!(
        "results in {} ({:.0} s)",
        folder.display(),
        started.elapsed().as_secs_f64()
    );
    problems.extend(legs.iter().flat_map(Leg::failures));
    let complaints = logs.iter().flat_map(|log| klog::complaints(log));
    problems.extend(complaints.map(|line| format!("kernel log: {line}")));
    for problem in &problems {
        println!("FAILED: {problem}");
    }
    Ok(u8::from(!problems.is_empty()))
}

/// Judges what was measured, and says and writes how the goals stand.
fn tell(
    legs: &[Leg],
    hmm: &[HmmFigure],
    arguments: &BenchArguments,
    folder: &Path,
    repository: &Repository,
) -> Result<()> {
    let lines = verdict::judge(legs, arguments.pair);
    let heading = heading(legs, arguments.pair);
    println!("{}", report(&lines, legs, hmm, &heading, folder)?);
    if arguments.publish {
        publish::publish(repository.root(), &lines, counted(legs), &heading)?;
    }
    Ok(())
}

/// Whether instructions were counted.
fn counted(legs: &[Leg]) -> bool {
    let mut metrics = legs.iter().flat_map(|leg| &leg.run.metrics);
    metrics.any(|metric| metric.unit == Unit::Instructions)
}

/// What a VM is to be like.
fn config(arguments: &BenchArguments) -> Config {
    let usual = Config::default();
    Config {
        extra: match arguments.icount {
            true => Extra::Counting,
            false => Extra::None,
        },
        // Two VMs share the host.
        cpus: match arguments.pair {
            true => 1,
            false => usual.cpus,
        },
        ..usual
    }
}

/// What came of it.
struct Measured {
    legs: Vec<Leg>,
    hmm: Vec<HmmFigure>,
    problems: Vec<String>,
}

fn measure(
    stage: &mut Stage,
    arguments: &BenchArguments,
    world: &World,
    folder: &Path,
) -> Result<Measured> {
    let mut problems = Vec::new();
    if arguments.icount {
        // First, as in the test: what ran before in a VM leaves its traces in where memory lies.
        problems.extend(counting::against_baseline(stage, arguments, world, folder)?);
        if arguments.update_baseline {
            return Ok(Measured {
                legs: Vec::new(),
                hmm: Vec::new(),
                problems,
            });
        }
    }
    let usual = if arguments.icount { 1 } else { 3 };
    let effort = arguments.effort.unwrap_or(0.25);
    let plan = Plan {
        rounds: arguments.rounds.unwrap_or(usual),
        null: !arguments.icount,
        options: match arguments.icount {
            true => format!("--effort {effort} --instruction {INSTRUCTION}"),
            false => format!("--effort {effort}"),
        },
        limit: LEG.mul_f64(effort.max(0.5)),
        cases: goals::cases(arguments.pair),
    };
    let legs = plan.run(stage, folder)?;
    let hmm = match arguments.icount || arguments.pair || arguments.without_hmm {
        true => Vec::new(),
        false => hmm(&mut stage.vm)?,
    };
    Ok(Measured {
        legs,
        hmm,
        problems,
    })
}

/// One line of what `hmm-diff bench` found.
#[derive(Debug, Deserialize)]
struct HmmFigure {
    name: String,
    ours: f64,
    theirs: f64,
    ratio: f64,
    goal: Option<f64>,
}

fn hmm(vm: &mut Vm) -> Result<Vec<HmmFigure>> {
    let step = Step::start("hmm's walk beside the kernel's own");
    vm.use_driver(Driver::Ours)?;
    let (mut json, mut said) = (Vec::new(), Vec::new());
    let script = format!("{HMM} >&2 && cat /run/hmm.json");
    let outcome = vm.run(&script, HMM_LIMIT, &mut json, &mut said)?;
    if outcome != Outcome::Exit(0) {
        bail!(
            "{} failed: {}",
            programs::DIFF,
            String::from_utf8_lossy(&said).trim()
        );
    }
    step.done();
    serde_json::from_slice(&json).with_context(|| format!("what {} wrote", programs::DIFF))
}

/// Writes all reports into `folder`; gives the one for the terminal.
fn report(
    lines: &[Line],
    legs: &[Leg],
    hmm: &[HmmFigure],
    heading: &str,
    folder: &Path,
) -> Result<String> {
    let mut text = format!("{heading}\n\n{}", rendering::table(lines));
    text.push_str(&refusals(legs));
    if !hmm.is_empty() {
        text.push_str("\nhmm without RDMA, ours and the kernel's own:\n\n");
        text.push_str(&hmm_table(hmm));
    }
    let write = |name: &str, text: &str| write_atomically(&folder.join(name), text.as_bytes());
    write("goals.txt", &text)?;
    if let Some(picture) = rendering::picture(lines) {
        write("goals.svg", &picture)?;
    }
    // A page of each driver's last run.
    for driver in [Driver::Stock, Driver::Ours] {
        if let Some(leg) = legs.iter().rev().find(|leg| leg.driver == driver) {
            write(&format!("{}.html", driver.name()), &html::page(&leg.run))?;
        }
    }
    Ok(text)
}

/// What the stock driver cannot do, a line for each.
fn refusals(legs: &[Leg]) -> String {
    let all: BTreeSet<String> = legs
        .iter()
        .flat_map(Leg::refusals)
        .map(|missing| {
            format!(
                "the stock driver cannot: {}: {}\n",
                missing.case, missing.why
            )
        })
        .collect();
    match all.is_empty() {
        true => String::new(),
        false => format!("\n{}", Vec::from_iter(all).concat()),
    }
}

/// Where figures are from, and how to read them.
fn heading(legs: &[Leg], pair: bool) -> String {
    let about = |key: &str| legs.iter().find_map(|leg| leg.run.environment.get(key));
    let release = about("kernel").map_or("", String::as_str);
    let in_software = |text: &String| text.contains("in software");
    let accelerator = match about("emulation").is_some_and(in_software) {
        true => Accelerator::Tcg,
        false => Accelerator::Kvm,
    };
    let icount = counted(legs);
    let what = match icount {
        true => "Instructions of one emulated processor whose clock counts them, kernel and program together.",
        false => "Times, of an emulated processor if it says so: only the ratios mean something.",
    };
    let machines = match pair {
        true => " Between two VMs with one processor each.",
        false => "",
    };
    let noise = match icount {
        true => "",
        false => " C/C is the same ratio with C on both sides: the noise.",
    };
    format!(
        "Linux {release} under {}, soft-RoCE. {what}{machines} The stock driver (C) and ours in one boot, in turns; \
         accesses that C does right. Ratios come with the interval that holds the true one in 95 of 100 \
         cases.{noise} ± in a goal is how far C's ratio may be from what it is in another run. The second column is \
         what the ratio is of: C, or what the title says.",
        accelerator.name()
    )
}

fn hmm_table(figures: &[HmmFigure]) -> String {
    let mut text = String::new();
    for figure in figures {
        let verdict = match figure.goal {
            None => String::new(),
            Some(goal) if figure.ratio <= goal => format!("≤ {goal}: met"),
            Some(goal) => format!("≤ {goal}: missed"),
        };
        text.push_str(&format!(
            "{:<52}{:>14.0}{:>14.0}{:>9.3}  {verdict}\n",
            figure.name, figure.ours, figure.theirs, figure.ratio
        ));
    }
    text
}
