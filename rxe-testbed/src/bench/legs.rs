// SPDX-License-Identifier: GPL-2.0
//! Runs of odp-bench on one driver and the other, in turns within one boot.
//!
//! A block is A B B A: whatever drifts while it runs affects both sides alike. Each leg loads its driver anew,
//! also when the one before it was of the same driver: what a load makes different is part of the noise.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use odp_results::run::{Missing, Run, State};

use super::stage::Stage;
use crate::ui::Step;
use crate::vm::Driver;

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

/// What the stock driver is known to refuse: a case, and what it says. Its registration allocates for each
/// page, and so much memory nobody has.
const STOCK_REFUSES: [(&str, &str); 2] = [
    ("registration/explicit/1TiB", "Cannot allocate memory"),
    ("registration/explicit/16TiB", "Cannot allocate memory"),
];

impl Leg {
    /// What went wrong on it.
    pub(crate) fn failures(&self) -> Vec<String> {
        let name = format!("{}, block {}", self.driver.name(), self.block);
        let failed = self.run.failed.iter();
        let mut all: Vec<String> = failed
            .filter(|missing| !self.known(missing))
            .map(|missing| format!("{name}: {}: {}", missing.case, missing.why))
            .collect();
        if self.run.state == State::Unfinished {
            all.push(format!("{name}: not all cases were measured"));
        }
        all
    }

    /// What its driver cannot do, as expected.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = &Missing> {
        let failed = self.run.failed.iter();
        failed.filter(|missing| self.known(missing))
    }

    /// Whether it is the stock driver's, and known. Ours has to do all, and wrong data is never expected.
    fn known(&self, missing: &Missing) -> bool {
        self.driver == Driver::Stock
            && STOCK_REFUSES
                .iter()
                .any(|(case, why)| missing.case == *case && missing.why.contains(why))
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

/// The legs of a block by which `driver` is compared with the stock driver: first the stock driver's, then the other
/// one. The stock driver is compared with itself also by the ends of a block of both.
pub(crate) fn pairs(number: u32, driver: Driver) -> &'static [(usize, usize)] {
    match (number, driver) {
        (0, Driver::Ours) => &[],
        (0, Driver::Stock) | (_, Driver::Ours) => &[(0, 1), (3, 2)],
        (_, Driver::Stock) => &[(0, 3)],
    }
}

/// Where the run at `place` of block `number` is kept.
fn file(number: u32, place: usize, driver: Driver) -> String {
    format!("{number}-{place}-{}.json", driver.name())
}

/// Where the legs are that there are in `folder`, in their order.
fn left_in(folder: &Path) -> Vec<(u32, usize, Driver, PathBuf)> {
    let mut all = Vec::new();
    for number in 0.. {
        let legs = block(number).into_iter().enumerate();
        let paths =
            legs.map(|(place, driver)| (place, driver, folder.join(file(number, place, driver))));
        let before = all.len();
        all.extend(
            paths
                .filter(|(.., path)| path.exists())
                .map(|(place, driver, path)| (number, place, driver, path)),
        );
        // Where instructions are counted, there is no block 0.
        if number > 0 && all.len() == before {
            break;
        }
    }
    all
}

/// The legs that an earlier run has left in `folder`, as far as it got.
pub(crate) fn load(folder: &Path) -> Result<Vec<Leg>> {
    let left = left_in(folder);
    ensure!(
        !left.is_empty(),
        "{} holds no run of cargo testbed bench: no {}",
        folder.display(),
        file(1, 0, Driver::Stock)
    );
    let legs = left.into_iter().map(|(block, place, driver, path)| {
        Ok(Leg {
            block,
            place,
            driver,
            run: Run::load(&path)?,
        })
    });
    legs.collect()
}

impl Plan {
    /// Runs all legs; each result is kept in `folder` as soon as it is there, those of an earlier
    /// run go.
    pub(crate) fn run(&self, stage: &mut Stage, folder: &Path) -> Result<Vec<Leg>> {
        for (.., old) in left_in(folder) {
            fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))?;
        }
        let mut legs = Vec::new();
        let numbers = u32::from(!self.null)..=self.rounds;
        let total = 4 * numbers.clone().count();
        for number in numbers {
            for (place, driver) in block(number).into_iter().enumerate() {
                let step = Step::start(format!(
                    "run {} of {total}: {}",
                    legs.len() + 1,
                    driver.title()
                ));
                let run = self.leg(stage, driver)?;
                let leg = Leg {
                    block: number,
                    place,
                    driver,
                    run,
                };
                leg.run.save(&folder.join(file(number, place, driver)))?;
                leg.failures().iter().for_each(|failure| step.say(failure));
                legs.push(leg);
                step.done();
            }
        }
        Ok(legs)
    }

    fn leg(&self, stage: &mut Stage, driver: Driver) -> Result<Run> {
        stage.use_driver(driver)?;
        stage.odp_bench(&self.options, &self.cases, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    fn finished(driver: Driver) -> Leg {
        let mut run = Run::new(true, BTreeMap::new());
        run.state = State::Finished;
        Leg {
            block: 1,
            place: 0,
            driver,
            run,
        }
    }

    #[test]
    fn what_a_run_has_left_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let error = load(folder.path()).err().unwrap().to_string();
        assert!(error.contains("1-0-stock.json"), "{error}");
        // One that has counted, and broke off in its second block.
        let legs = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)];
        for (number, place) in legs {
            let driver = block(number)[place];
            let path = folder.path().join(file(number, place, driver));
            finished(driver).run.save(&path).unwrap();
        }
        let found = load(folder.path()).unwrap();
        let found = found.iter().map(|leg| (leg.block, leg.place));
        assert_eq!(Vec::from_iter(found), legs);
    }

    #[test]
    fn a_run_that_was_cut_off_has_failed() {
        for driver in [Driver::Stock, Driver::Ours] {
            let mut leg = finished(driver);
            assert!(leg.failures().is_empty());
            leg.run.state = State::Unfinished;
            assert_eq!(leg.failures().len(), 1);
        }
    }

    #[test]
    fn only_the_stock_driver_may_refuse() {
        let failures = |driver, case: &str, why: &str| {
            let mut leg = finished(driver);
            leg.run.failed.push(Missing {
                case: case.into(),
                why: why.into(),
            });
            assert_eq!(leg.failures().len() + leg.refusals().count(), 1);
            leg.failures().len()
        };
        let (case, why) = (
            "registration/explicit/16TiB",
            "ibv_reg_mr: Cannot allocate memory (os error 12)",
        );
        assert_eq!(failures(Driver::Stock, case, why), 0);
        assert_eq!(failures(Driver::Ours, case, why), 1);
        assert_eq!(failures(Driver::Stock, case, "wrong data at offset 0x0"), 1);
        assert_eq!(
            failures(Driver::Stock, "registration/explicit/4GiB", why),
            1
        );
    }

    #[test]
    fn the_sides_of_a_pair_are_of_its_drivers() {
        for number in [0, 1, 2] {
            for driver in [Driver::Stock, Driver::Ours] {
                for &(old, new) in pairs(number, driver) {
                    assert_eq!(block(number)[old], Driver::Stock);
                    assert_eq!(block(number)[new], driver);
                    assert_ne!(old, new);
                }
            }
        }
    }
}
