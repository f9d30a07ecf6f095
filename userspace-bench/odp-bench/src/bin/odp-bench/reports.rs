// SPDX-License-Identifier: GPL-2.0
//! What needs no device: the list of cases, and results that were measured before.

use std::{fs, process::ExitCode};

use anyhow::{bail, Context as _, Result};
use odp_bench::{Case, SUITES};
use odp_results::{
    advise, chart, csv, html,
    run::{write_atomically, Run},
    schema, table,
};

use crate::{
    arguments::{Advise, List, Report},
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
    match odp_bench::select(names) {
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
    if let Some(folder) = &report.svg {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        for (name, picture) in chart::pictures(&run) {
            write_atomically(&folder.join(name), picture.as_bytes())?;
        }
    }
    // A file that was asked for stands for it.
    if report.html.is_none() && report.csv.is_none() && report.svg.is_none() {
        print!("{}", table::table(&run, report.counters));
    }
    Ok(ExitCode::SUCCESS)
}

/// `schema`.
pub fn schema() -> Outcome {
    print!("{}", schema::schema());
    Ok(ExitCode::SUCCESS)
}

/// `advise`.
pub fn advise(arguments: &Advise) -> Outcome {
    print!("{}", advise::advise(&Run::load(&arguments.file)?));
    Ok(ExitCode::SUCCESS)
}
