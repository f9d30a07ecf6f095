// SPDX-License-Identifier: GPL-2.0
//! `compare`: two results, or all that there are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{anyhow, bail, ensure, Context as _, Result};
use odp_results::{
    compare::Comparison,
    history::{self, History},
    run::Run,
};

use crate::{
    arguments::{Compare, FAILED},
    Outcome,
};

/// `compare`.
pub fn compare(arguments: &Compare) -> Outcome {
    match (&arguments.history, &arguments.old, &arguments.new) {
        (Some(folder), ..) => history(arguments, folder),
        (None, Some(old), Some(new)) => two(arguments, old, new),
        _ if !arguments.olds.is_empty() => many(arguments),
        _ => bail!("two results are compared, or several of either side, or those of a --history"),
    }
}

/// Several results of either side.
fn many(arguments: &Compare) -> Outcome {
    let load = |paths: &[PathBuf]| -> Result<Vec<Run>, _> {
        paths.iter().map(|path| Run::load(path)).collect()
    };
    let (old, new) = (load(&arguments.olds)?, load(&arguments.news)?);
    let comparison = Comparison::of_runs(&old, &new, arguments.threshold / 100.0);
    ensure!(
        !comparison.lines.is_empty(),
        "there is no metric that all results have in common"
    );
    Ok(tell(arguments, &comparison))
}

/// One result with another.
fn two(arguments: &Compare, old: &Path, new: &Path) -> Outcome {
    let (old, new) = (Run::load(old)?, Run::load(new)?);
    let threshold = arguments.threshold / 100.0;
    let comparison = match arguments.baseline {
        true => Comparison::with_baseline(&old, &new, threshold),
        false => Comparison::new(&old, &new, threshold),
    };
    if comparison.lines.is_empty() {
        bail!("the two results have no metric in common");
    }
    let status = tell(arguments, &comparison);
    match comparison.effort() {
        effort if effort <= 1.0 => {}
        effort if effort <= 100.0 => {
            println!("{effort:.1} times as many samples would tell of all: run --effort");
        }
        _ => println!("of some not even 100 times as many samples (run --effort) would tell"),
    }
    Ok(status)
}

/// Prints a comparison, and says how it ended.
fn tell(arguments: &Compare, comparison: &Comparison) -> ExitCode {
    print!("{}", comparison.table());
    let regressions = comparison.regressions();
    println!(
        "\n{} metrics compared, {regressions} worse by more than {} %, {} too uncertain to tell",
        comparison.metrics(),
        arguments.threshold,
        comparison.uncertain()
    );
    match regressions {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    }
}

/// All results of a folder.
fn history(arguments: &Compare, folder: &Path) -> Outcome {
    let mut entries = history::load(folder)?;
    if let Some(device) = &arguments.device {
        entries.retain(|entry| entry.run.environment.get("device") == Some(device));
        ensure!(
            !entries.is_empty(),
            "--device {device}: {} has no result of it",
            folder.display()
        );
    }
    ensure!(!entries.is_empty(), "{} has no result", folder.display());
    let devices = Vec::from_iter(history::devices(&entries));
    ensure!(
        devices.len() < 2,
        "{} has results of {}: choose one with --device",
        folder.display(),
        devices.join(" and ")
    );
    if let Some(path) = &arguments.order {
        let list =
            fs::read_to_string(path).with_context(|| format!("--order {}", path.display()))?;
        history::arrange(&mut entries, &list)
            .map_err(|why| anyhow!("--order {}: {why}", path.display()))?;
    }
    let wanted = arguments.metric.as_deref();
    // All metrics, however few are shown: what is a step does not depend on who looks.
    let history = History::new(&entries, "");
    match wanted {
        None => print!("{}", history.table()),
        Some(wanted) => courses(&history, wanted)?,
    }
    let steps: usize = history
        .courses
        .iter()
        .map(|course| course.steps.len())
        .sum();
    let worse = history.regressions(arguments.threshold / 100.0, arguments.recent);
    println!(
        "\nmetrics: {}, runs: {}, steps: {steps}; {} worse by more than {} % within the last {} runs",
        history.courses.len(),
        history.runs.len(),
        worse.len(),
        arguments.threshold,
        arguments.recent
    );
    for course in &worse {
        println!("REGRESSION  {}", course.name);
    }
    Ok(match worse.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

fn courses(history: &History, wanted: &str) -> Result<()> {
    let mut courses = history.courses.iter();
    ensure!(
        courses.any(|course| course.name.starts_with(wanted)),
        "no metric begins with {wanted}"
    );
    for course in &history.courses {
        if course.name.starts_with(wanted) {
            print!("{}", history.course(course));
        }
    }
    Ok(())
}
