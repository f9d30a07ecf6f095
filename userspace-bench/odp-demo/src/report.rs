// SPDX-License-Identifier: GPL-2.0
//! Running the parts and telling what they found, to people while it goes and to machines at the end.

use std::time::Duration;

use odp_fixture::counters::Counters;
use serde::Serialize;
use testkit::process::{self, supervise, End};

use crate::stage::{Check, Figure, Outcome, Status};

/// How long a part may take.
const LIMIT: Duration = Duration::from_secs(8);

/// Runs parts, each in a process of its own.
pub struct Runner {
    /// The device.
    pub device: String,
    /// The index of the address to speak from.
    pub gid: Option<u8>,
}

impl Runner {
    /// Runs the part called `name`.
    pub fn run(&self, name: &str) -> Outcome {
        let mut command = process::this_program();
        command.args(["--device", &self.device, "--part", name]);
        if let Some(gid) = self.gid {
            command.args(["--gid", &gid.to_string()]);
        }
        let finished = match supervise(command, LIMIT) {
            Ok(finished) => finished,
            Err(error) => return Outcome::failed(format!("cannot start: {error}")),
        };
        if let Some(Ok(outcome)) = finished.stdout.lines().last().map(serde_json::from_str) {
            return outcome;
        }
        let last = finished.stderr.trim().lines().last().unwrap_or_default();
        Outcome::failed(match finished.end {
            End::Status(status) => format!("ended with status {status}: {last}"),
            End::Signal(signal) => format!("killed by signal {signal}"),
            End::Hung => format!("hung for {} s", finished.took.as_secs()),
        })
    }
}

/// Everything that was found, for machines.
#[derive(Serialize)]
pub struct Summary {
    device: String,
    checks: Vec<CheckResult>,
    figures: Vec<FigureResult>,
}

#[derive(Serialize)]
struct CheckResult {
    name: &'static str,
    title: &'static str,
    status: Status,
    detail: String,
    required: bool,
}

#[derive(Serialize)]
struct FigureResult {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    value: Option<f64>,
}

/// Tells people while it collects for machines.
pub struct Report {
    /// What was collected.
    pub summary: Summary,
    counters: Counters,
}

impl Report {
    /// Nothing yet.
    pub fn new(device: String) -> Self {
        let summary = Summary {
            device,
            checks: Vec::new(),
            figures: Vec::new(),
        };
        Self {
            summary,
            counters: Counters::default(),
        }
    }

    /// Takes what became of a check.
    pub fn check(&mut self, check: &Check, outcome: Outcome) {
        let Check {
            name,
            title,
            required,
            ..
        } = *check;
        let Outcome {
            status,
            detail,
            counters,
            ..
        } = outcome;
        self.counters = self.counters.plus(counters);
        let word = match status {
            Status::Held => "held",
            Status::Failed => "FAILED",
            Status::Unsupported => "unsupported",
        };
        println!("  {word:<11}  {title}\n               {detail}");
        self.summary.checks.push(CheckResult {
            name,
            title,
            status,
            detail,
            required,
        });
    }

    /// Takes what was measured.
    pub fn figure(&mut self, figure: &Figure, outcome: Outcome) {
        self.counters = self.counters.plus(outcome.counters);
        let Figure {
            name, title, unit, ..
        } = *figure;
        match outcome.value {
            Some(value) => println!("  {value:>11.1}  {unit}  {title}"),
            None => println!("  {:>11}  {unit}  {title}: {}", "-", outcome.detail),
        }
        self.summary.figures.push(FigureResult {
            name,
            title,
            unit,
            value: outcome.value,
        });
    }

    /// Adds what the driver counted.
    pub fn counters(&mut self) {
        let Counters {
            page_faults,
            pages_mapped,
            invalidations,
            page_invalidations,
            ..
        } = self.counters;
        for (name, title, value) in [
            ("page_faults", "Faults that the NIC raised", page_faults),
            ("pages_mapped", "Pages given to the NIC", pages_mapped),
            ("invalidations", "Invalidations", invalidations),
            (
                "page_invalidations",
                "Pages taken from the NIC",
                page_invalidations,
            ),
        ] {
            match value {
                Some(value) => println!("  {value:>11}      {title}"),
                None => println!("  {:>11}      {title}: the driver does not count", "-"),
            }
            let value = value.map(|v| v as f64);
            self.summary.figures.push(FigureResult {
                name,
                title,
                unit: "count",
                value,
            });
        }
    }

    /// Sums up; whether all that is required held.
    pub fn summarise(&self) -> bool {
        let count = |status| {
            self.summary
                .checks
                .iter()
                .filter(|c| c.status == status)
                .count()
        };
        let (held, failed) = (count(Status::Held), count(Status::Failed));
        println!(
            "{held} held, {failed} failed, {} unsupported",
            count(Status::Unsupported)
        );
        self.summary
            .checks
            .iter()
            .all(|c| c.status == Status::Held || !c.required)
    }
}
