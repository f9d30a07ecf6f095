// SPDX-License-Identifier: GPL-2.0
//! What needs no device: the list of cases, and results that were measured before.

use std::process::ExitCode;

use anyhow::{bail, Result};
use odp_results::{
    compare::Comparison,
    csv, html,
    run::{write_atomically, Run},
    schema, table,
};
use odp_verbs::bench::{self, Case, SUITES};

use crate::{
    arguments::{Compare, List, Report, FAILED},
    Outcome,
};

/// `list`.
pub fn list(list: &List) -> Outcome {
    if list.names.is_empty() {
        for suite in SUITES {
            println!("{:<14} {}", suite.name, suite.title);
        }
        println!("\nodp-bench list SUITE prints a suite's cases.");
        return Ok(ExitCode::SUCCESS);
    }
    for case in select(&list.names)? {
        println!("{}", case.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// The cases that `names` mean.
pub fn select(names: &[String]) -> Result<Vec<Case>> {
    match bench::select(names) {
        Ok(cases) => Ok(cases),
        Err(unknown) => bail!("no suite and no case is called {unknown}: see odp-bench list"),
    }
}

/// `report`.
pub fn report(report: &Report) -> Outcome {
    let run = Run::load(&report.file)?;
    if let Some(path) = &report.html {
        write_atomically(path, html::page(&run).as_bytes())?;
    }
    if let Some(path) = &report.csv {
        write_atomically(path, csv::csv(&run).as_bytes())?;
    }
    // A file that was asked for stands for it.
    if report.html.is_none() && report.csv.is_none() {
        print!("{}", table::table(&run, report.counters));
    }
    Ok(ExitCode::SUCCESS)
}

/// `schema`.
pub fn schema() -> Outcome {
    print!("{}", schema::schema());
    Ok(ExitCode::SUCCESS)
}

/// `compare`.
pub fn compare(arguments: &Compare) -> Outcome {
    let (old, new) = (Run::load(&arguments.old)?, Run::load(&arguments.new)?);
    let threshold = arguments.threshold / 100.0;
    let comparison = match arguments.baseline {
        true => Comparison::with_baseline(&old, &new, threshold),
        false => Comparison::new(&old, &new, threshold),
    };
    if comparison.lines.is_empty() {
        bail!("the two results have no metric in common");
    }
    print!("{}", comparison.table());
    let regressions = comparison.regressions();
    println!(
        "\n{} metrics compared, {regressions} worse by more than {} %, {} too uncertain to tell",
        comparison.lines.len(),
        arguments.threshold,
        comparison.uncertain()
    );
    match comparison.effort() {
        effort if effort <= 1.0 => {}
        effort if effort <= 100.0 => {
            println!("{effort:.1} times as many samples would tell of all: run --effort");
        }
        _ => println!("of some not even 100 times as many samples (run --effort) would tell"),
    }
    Ok(match regressions {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    })
}
