// SPDX-License-Identifier: GPL-2.0
//! Runs of odp-bench on one driver and the other, in turns within one VM.
//!
//! A block is A B B A: whatever drifts while it runs affects both sides alike. Each leg loads its driver anew,
//! also when the one before it was of the same driver: what a load makes different is part of the noise.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use odp_results::run::Run;

use crate::exec::quote;
use crate::process;
use crate::programs;
use crate::ui::{self, Step};
use crate::vm::{Driver, Outcome, Vm};

/// How long its result may take to fetch.
const COPY: Duration = Duration::from_secs(60);

/// What is run.
pub(crate) struct Plan {
    /// How many blocks of both drivers.
    pub(crate) rounds: u32,
    /// Whether a block of the stock driver alone goes before them.
    pub(crate) null: bool,
    /// odp-bench's options.
    pub(crate) options: String,
    /// How long a run may take.
    pub(crate) limit: Duration,
    /// odp-bench's cases.
    pub(crate) cases: Vec<&'static str>,
}

/// One run.
pub(crate) struct Leg {
    /// The block that it belongs to; 0 is that of the stock driver alone.
    pub(crate) block: u32,
    /// Its place in the block.
    pub(crate) place: usize,
    /// The driver.
    pub(crate) driver: Driver,
    /// What was measured.
    pub(crate) run: Run,
}

impl Leg {
    /// What went wrong on it.
    pub(crate) fn failures(&self) -> Vec<String> {
        let name = format!("{}, block {}", self.driver.name(), self.block);
        let failed = self.run.failed.iter();
        failed
            .map(|missing| format!("{name}: {}: {}", missing.case, missing.why))
            .collect()
    }
}

/// The drivers of the legs of a block.
fn block(number: u32) -> [Driver; 4] {
    use Driver::{Ours, Stock};
    match number {
        0 => [Stock; 4],
        _ => [Stock, Ours, Ours, Stock],
    }
}

/// The legs of a block that are compared: first one side, then the other.
pub(crate) const PAIRS: [(usize, usize); 2] = [(0, 1), (3, 2)];

impl Plan {
    /// Runs all legs; each result is kept in `folder` as soon as it is there.
    pub(crate) fn run(&self, vm: &mut Vm, folder: &Path) -> Result<Vec<Leg>> {
        let mut legs = Vec::new();
        let numbers = u32::from(!self.null)..=self.rounds;
        let total = 4 * numbers.clone().count();
        for number in numbers {
            for (place, driver) in block(number).into_iter().enumerate() {
                let step = Step::start(format!(
                    "run {} of {total}: the {} driver",
                    legs.len() + 1,
                    driver.name()
                ));
                let run = self.leg(vm, driver, &step)?;
                let leg = Leg {
                    block: number,
                    place,
                    driver,
                    run,
                };
                let name = format!("{number}-{place}-{}.json", driver.name());
                leg.run.save(&folder.join(name))?;
                legs.push(leg);
                step.done();
            }
        }
        Ok(legs)
    }

    fn leg(&self, vm: &mut Vm, driver: Driver, step: &Step) -> Result<Run> {
        vm.use_driver(driver)?;
        odp_bench(
            vm,
            &script(FILE, &self.options, &self.cases),
            self.limit,
            step,
        )
    }
}

/// Where odp-bench leaves its result in the guest.
pub(super) const FILE: &str = "/run/odp-bench.json";

/// What runs odp-bench's `cases` and leaves the result in `file`.
pub(super) fn script(file: &str, options: &str, cases: &[&str]) -> String {
    let cases: Vec<String> = cases.iter().map(|case| quote(case)).collect();
    format!(
        "rm -f {file}; cd /root; {} run --device rxe0 --aligned {options} --quiet --json {file} {} >&2",
        programs::BENCH,
        cases.join(" ")
    )
}

/// Runs such a `script`, which leaves its result in [`FILE`], and fetches that.
pub(super) fn odp_bench(vm: &mut Vm, script: &str, limit: Duration, step: &Step) -> Result<Run> {
    let (mut nothing, mut said) = (std::io::sink(), Vec::new());
    let outcome = vm.run(script, limit, &mut nothing, &mut said)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        Outcome::Exit(0) => {}
        // What failed is in the result.
        Outcome::Exit(1) => step.say(&process::tail(said.trim_end(), 5)),
        Outcome::Exit(_) => bail!("{}: {}", programs::BENCH, process::tail(&said, 5)),
        Outcome::TimedOut => ui::note(&format!("killed after {} s", limit.as_secs())),
    }
    let mut json = Vec::new();
    let fetch = format!("cat {FILE}");
    let fetched = vm.run(&fetch, COPY, &mut json, &mut std::io::sink())?;
    if fetched != Outcome::Exit(0) {
        bail!("{} left no result", programs::BENCH);
    }
    serde_json::from_slice(&json).context("reading the result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_of_a_pair_are_of_both_drivers() {
        for (old, new) in PAIRS {
            assert_eq!(block(1)[old], Driver::Stock);
            assert_eq!(block(1)[new], Driver::Ours);
        }
    }
}
