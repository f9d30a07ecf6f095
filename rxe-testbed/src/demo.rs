// SPDX-License-Identifier: GPL-2.0
//! `demo`: unmodified programs and our demo program on both drivers, and a table side by side.

use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde::Deserialize;

use crate::build::{self, Wanted};
use crate::klog;
use crate::programs;
use crate::script::with_scripts;
use crate::series::Series;
use crate::table::{Cell, Table};
use crate::ui::{self, Step};
use crate::vm::{Config, Driver, Outcome, Vm};

/// The unmodified programs: title and command.
const UNMODIFIED: &[(&str, &str)] = &[
    (
        "ibv_rc_pingpong -o (explicit)",
        "pair ibv_rc_pingpong -d rxe0 -g 1 -c -n 300 -o",
    ),
    (
        "ibv_rc_pingpong -O (implicit)",
        "pair ibv_rc_pingpong -d rxe0 -g 1 -c -n 300 -O",
    ),
];

/// All of these take seconds, but on a host that does other things, too, any number of them. What has not ended by
/// then hangs, and only for that is the limit waited out.
const PINGPONG_LIMIT: Duration = Duration::from_secs(900);
const DEMO_LIMIT: Duration = Duration::from_secs(1800);
const UNLOAD_LIMIT: Duration = Duration::from_secs(900);
const READ_LIMIT: Duration = Duration::from_secs(300);

/// What odp-demo writes.
#[derive(Debug, Default, Deserialize)]
struct Summary {
    #[serde(default)]
    checks: Vec<Check>,
    #[serde(default)]
    figures: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
struct Check {
    title: String,
    status: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    required: bool,
}

#[derive(Debug, Deserialize)]
struct Figure {
    title: String,
    unit: String,
    value: Option<f64>,
}

/// What a driver did.
#[derive(Debug, Default)]
struct Results {
    /// Of the unmodified programs, in their order; and the time of one iteration.
    unmodified: Vec<Result<String, String>>,
    summary: Summary,
    unloads: bool,
    log: Vec<String>,
}

impl Results {
    /// What had to hold and did not.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for ((title, _), result) in UNMODIFIED.iter().zip(&self.unmodified) {
            if let Err(reason) = result {
                failures.push(format!("{title}: {reason}"));
            }
        }
        for check in &self.summary.checks {
            if check.required && check.status != "held" {
                failures.push(format!(
                    "{}: {} ({})",
                    check.title, check.status, check.detail
                ));
            }
        }
        if self.summary.checks.is_empty() {
            failures.push(format!("{} gave no results", programs::DEMO));
        }
        if !self.unloads {
            failures.push("the modules cannot be unloaded".into());
        }
        failures.extend(self.log.iter().map(|line| format!("kernel log: {line}")));
        failures
    }
}

/// Runs the demo. Its exit status is 0 only if all that must hold on our driver held.
pub(crate) fn run(series: Option<Series>) -> Result<u8> {
    let started = Instant::now();
    let world = build::ensure(Wanted {
        programs: true,
        ..Wanted::stock(series)
    })?;
    if !world.programs.has(programs::DEMO) {
        bail!("userspace-bench has no program {} yet", programs::DEMO);
    }
    let step = Step::start("booting the VM");
    let mut vm = Vm::boot(&world, &Config::default())?;
    vm.use_driver(Driver::Ours)?;
    step.done();
    let accelerator = vm.accelerator().name();
    let ours = on_driver(&mut vm, Driver::Ours)?;
    // Stock's driver has known faults: what it does to its VM must not spoil the demo.
    let stock = vm
        .use_driver(Driver::Stock)
        .and_then(|()| on_driver(&mut vm, Driver::Stock));
    let log = vm.off()?;
    crate::vm::save_log(&log, &world.cache.log("last-kernel"))?;
    let stock = stock.unwrap_or_else(|error| {
        ui::note(&format!("the stock driver: {error:#}"));
        Results::default()
    });

    println!();
    println!(
        "Linux {} under {accelerator}, soft-RoCE; the same programs on both drivers:",
        world.kernel.version.release
    );
    println!();
    print!("{}", table(&ours, &stock));
    println!();
    let failures = ours.failures();
    for failure in &failures {
        println!("FAILED on our driver: {failure}");
    }
    if failures.is_empty() {
        println!(
            "All that must hold on our driver held ({:.0} s).",
            started.elapsed().as_secs_f64()
        );
    }
    Ok(u8::from(!failures.is_empty()))
}

fn on_driver(vm: &mut Vm, driver: Driver) -> Result<Results> {
    let begin = vm.kernel_log()?.len();
    println!();
    println!("=== {}", driver.title());
    let mut results = Results::default();
    for (title, command) in UNMODIFIED {
        let result = unmodified(vm, command)?;
        match &result {
            Ok(detail) | Err(detail) => {
                println!("  {:<11}  {title}\n               {detail}", word(&result));
            }
        }
        results.unmodified.push(result);
    }
    results.summary = demo_program(vm)?;
    let mut errors = Vec::new();
    let unload = vm.run(
        "rxe-driver none",
        UNLOAD_LIMIT,
        &mut std::io::sink(),
        &mut errors,
    )?;
    results.unloads = unload == Outcome::Exit(0);
    if !results.unloads {
        ui::note(String::from_utf8_lossy(&errors).trim());
    }
    results.log = klog::complaints_from(&vm.kernel_log()?, begin);
    Ok(results)
}

/// Runs one of the unmodified programs; gives what it measured, or why it failed.
fn unmodified(vm: &mut Vm, command: &str) -> Result<Result<String, String>> {
    let script = with_scripts(command);
    let mut output = Vec::new();
    let mut errors = Vec::new();
    let outcome = vm.run(&script, PINGPONG_LIMIT, &mut output, &mut errors)?;
    let output = String::from_utf8_lossy(&output);
    Ok(match outcome {
        Outcome::Exit(0) => Ok(measured(&output).unwrap_or_default()),
        Outcome::Exit(_) => Err(complaint(&output)),
        Outcome::TimedOut => Err(format!("hung for {} s", PINGPONG_LIMIT.as_secs())),
    })
}

/// How an unmodified program did, in odp-demo's words.
fn word(result: &Result<String, String>) -> &'static str {
    match result {
        Ok(_) => "held",
        Err(reason) if reason.contains("support") => "unsupported",
        Err(_) => "FAILED",
    }
}

/// The time of one iteration as a pingpong prints it.
fn measured(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains("usec/iter"))?;
    let (_, time) = line.rsplit_once("= ")?;
    Some(time.replace("usec/iter", "µs per iteration"))
}

/// The line of a failed pingpong that says why.
fn complaint(output: &str) -> String {
    output
        .lines()
        .filter(|line| !line.starts_with("---") && !line.contains("address:"))
        .find(|line| !line.trim().is_empty())
        .unwrap_or("failed")
        .trim()
        .to_owned()
}

/// Runs odp-demo with its output shown, and reads its results.
fn demo_program(vm: &mut Vm) -> Result<Summary> {
    let script = format!("{} --device rxe0 --json /run/demo.json", programs::DEMO);
    let outcome = vm.run(
        &script,
        DEMO_LIMIT,
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    )?;
    if outcome == Outcome::TimedOut {
        ui::note(&format!(
            "{} was killed after {} s",
            programs::DEMO,
            DEMO_LIMIT.as_secs()
        ));
    }
    let mut json = Vec::new();
    let outcome = vm.run(
        "cat /run/demo.json && rm /run/demo.json",
        READ_LIMIT,
        &mut json,
        &mut std::io::sink(),
    )?;
    if outcome != Outcome::Exit(0) {
        return Ok(Summary::default());
    }
    serde_json::from_slice(&json).with_context(|| format!("reading {}'s results", programs::DEMO))
}

/// The table: what worked, then what was measured, one row each, one column for each driver.
fn table(ours: &Results, stock: &Results) -> Table {
    let mut table = Table::new(["", "ours", "stock"]);
    for (number, (title, _)) in UNMODIFIED.iter().enumerate() {
        let cell = |results: &Results| match results.unmodified.get(number) {
            Some(result) => Cell::left(word(result)),
            None => Cell::left("-"),
        };
        table.row(title, [cell(ours), cell(stock)]);
    }
    for title in titles(ours, stock, |summary| {
        summary.checks.iter().map(|check| &*check.title).collect()
    }) {
        let cell = |results: &Results| {
            let found = results
                .summary
                .checks
                .iter()
                .find(|check| check.title == title);
            Cell::left(found.map_or("-", |check| match &*check.status {
                "failed" => "FAILED",
                other => other,
            }))
        };
        table.row(title, [cell(ours), cell(stock)]);
    }
    let unloads = |results: &Results| Cell::left(if results.unloads { "held" } else { "FAILED" });
    table.row("modules unload", [unloads(ours), unloads(stock)]);
    let log = |results: &Results| {
        Cell::left(if results.log.is_empty() {
            "held"
        } else {
            "FAILED"
        })
    };
    table.row("kernel log is clean", [log(ours), log(stock)]);
    table.rule();
    for title in titles(ours, stock, |summary| {
        summary
            .figures
            .iter()
            .map(|figure| &*figure.title)
            .collect()
    }) {
        let cell = |results: &Results| {
            let found = results
                .summary
                .figures
                .iter()
                .find(|figure| figure.title == title);
            Cell::right(found.map_or_else(|| "-".into(), figure_text))
        };
        table.row(title, [cell(ours), cell(stock)]);
    }
    table
}

/// The titles of either driver's results, in the order of the first that has them.
fn titles<'a>(
    ours: &'a Results,
    stock: &'a Results,
    of: impl Fn(&'a Summary) -> Vec<&'a str>,
) -> Vec<&'a str> {
    let mut titles = of(&ours.summary);
    for title in of(&stock.summary) {
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    titles
}

fn figure_text(figure: &Figure) -> String {
    let unit = match &*figure.unit {
        "count" => "",
        "us" => "µs",
        other => other,
    };
    match figure.value {
        None => "-".into(),
        Some(value) if value.fract() == 0.0 || value.abs() >= 1000.0 => {
            format!("{value:.0} {unit}").trim_end().to_owned()
        }
        Some(value) => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pingpong_is_understood() {
        let output = "--- client (exit status 0)\n  local address: x\n1000 iters in 0.35 seconds = 353.03 usec/iter\n";
        assert_eq!(measured(output).as_deref(), Some("353.03 µs per iteration"));
        let output = "--- client (exit status 1)\nThe device isn't ODP capable\n";
        assert_eq!(complaint(output), "The device isn't ODP capable");
    }

    #[test]
    fn what_must_hold_decides() -> Result<()> {
        let json = r#"{"checks":[{"name":"a","title":"A","status":"failed","detail":"d","required":true},
            {"name":"b","title":"B","status":"unsupported","detail":"","required":false}],
            "figures":[{"name":"f","title":"F","unit":"µs","value":null}]}"#;
        let results = Results {
            unmodified: vec![Ok(String::new()), Ok(String::new())],
            summary: serde_json::from_str(json)?,
            unloads: true,
            log: Vec::new(),
        };
        assert_eq!(results.failures(), ["A: failed (d)"]);
        Ok(())
    }
}
