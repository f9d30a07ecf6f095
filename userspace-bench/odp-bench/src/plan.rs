// SPDX-License-Identifier: GPL-2.0
//! How long a run will take, said before it starts.
//!
//! Each case knows roughly how many accesses, faults and bytes it is made of; what one of each takes here is measured
//! first, in a fraction of a second. What it leaves out are disks, swap, and the time that many processes or queue
//! pairs take from each other: an estimate is of the right size, no more.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    act::Act,
    lane::Lane,
    pages::{Kind, Pattern},
    setting::{Bench, Options},
    target::Target,
    traffic, Case, Cost, TRAFFIC,
};
use odp_fixture::env::Mode;
use odp_verbs::Op;
use testkit::memory::PAGE;

/// What one of each takes, in seconds.
#[derive(Clone, Copy, Debug)]
struct Prices {
    access: f64,
    fault: f64,
    byte: f64,
}

impl Prices {
    fn of(self, cost: Cost) -> f64 {
        cost.accesses * self.access + cost.faults * self.fault + cost.bytes * self.byte
    }
}

/// How long cases take with any effort.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Seconds whatever the effort.
    fixed: f64,
    /// Seconds that the usual effort adds, and twice of it twice as many.
    usual: f64,
    /// Seconds of waiting in one round of each case.
    round: f64,
}

impl Estimate {
    /// Less is not worth while.
    pub const LEAST: f64 = 0.01;

    /// So many seconds whatever the effort, and so many with the usual one.
    pub fn of(fixed: f64, usual: f64) -> Self {
        Self {
            fixed,
            usual,
            round: 0.0,
        }
    }

    /// How long it takes.
    pub fn with(&self, effort: f64) -> Duration {
        // There is no less than one.
        let rounds = (Cost::ROUNDS as f64 * effort).round().max(1.0);
        Duration::from_secs_f64(self.fixed + effort * self.usual + rounds * self.round)
    }

    /// The effort with which it takes `time`, if there is one that is worth while.
    pub fn effort_for(&self, time: Duration) -> Option<f64> {
        let rest = time.as_secs_f64() - self.fixed;
        let effort = rest / (self.usual + Cost::ROUNDS as f64 * self.round);
        (effort >= Self::LEAST && self.with(effort) <= time.mul_f64(1.1)).then_some(effort)
    }
}

/// About how long `cases` take on `bench`.
///
/// # Errors
///
/// If not even the few accesses that it is guessed from succeed.
pub fn estimate(bench: &Bench, cases: &[Case]) -> Result<Estimate> {
    let prices = prices(bench);
    // Whatever came of it is given back.
    bench.finish().2?;
    let prices = prices?;
    Ok(total(prices, &bench.options, cases))
}

fn total(prices: Prices, options: &Options, cases: &[Case]) -> Estimate {
    // Registrations, connections, the driver's counters before and after.
    const EACH_CASE: f64 = 0.03;
    let mut total = Estimate::default();
    for case in cases {
        total.fixed += EACH_CASE;
        if case.suite() != TRAFFIC {
            total.usual += prices.of(case.cost);
            let withheld: Duration = match case.cost.withheld {
                true => options.delays.iter().sum(),
                false => Duration::ZERO,
            };
            let round = case.cost.wait + withheld.as_secs_f64();
            total.round += round;
            total.fixed += round * options.warm_up.unwrap_or(1) as f64;
            continue;
        }
        let (cost, seconds) = traffic::cost(case.cost, &options.shape);
        match options.shape.until {
            None => total.usual += prices.of(cost),
            Some(_) => total.fixed += prices.of(cost) + seconds,
        }
    }
    total
}

/// Measures them.
fn prices(bench: &Bench) -> Result<Prices> {
    const PAGES: usize = 64;
    let mut lane = Lane::new(bench, PAGES)?;
    lane.warm_up()?;
    // The time on the clock, with what is done around an access.
    let mut sweep = |target: &Target<'_>| {
        let order = Pattern::Sequential.order(0, PAGES);
        lane.renew();
        let begun = Instant::now();
        lane.sweep(target, &order)?;
        lane.check(target, &order)?;
        anyhow::Ok(begun.elapsed().as_secs_f64() / PAGES as f64)
    };
    let target = bench.target(Mode::Explicit, Kind::Small, PAGES * PAGE)?;
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        target.does(Act::Discard)?;
        first.push(sweep(&target)?);
        again.push(sweep(&target)?);
    }
    let least = |times: Vec<f64>| times.into_iter().fold(f64::INFINITY, f64::min);
    Ok(Prices {
        access: least(again),
        fault: least(first),
        byte: byte(bench)?,
    })
}

/// What a byte of a large message takes, with the check that it has arrived.
fn byte(bench: &Bench) -> Result<f64> {
    // A driver that is wrong in several packets is not asked for them.
    let size = match bench.options.aligned {
        true => bench.mtu.bytes(),
        false => 256 << 10,
    };
    let link = bench.link(4)?;
    let near = bench.buffer(Mode::Pinned, size)?;
    let target = bench.target(Mode::Pinned, Kind::Small, size)?;
    let begun = Instant::now();
    bench.timed(&link, Op::Write(target.remote(0)), &[near.sge(0, size)])?;
    // What is written and checked around it takes as long again.
    Ok(2.0 * begun.elapsed().as_secs_f64() / size as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Shape, Until};

    fn options(effort: f64, shape: Shape) -> Options {
        Options {
            aligned: false,
            effort,
            folder: ".".into(),
            warm_up: None,
            shape,
            instruction: None,
            place: String::new(),
            delays: crate::DELAYS.to_vec(),
        }
    }

    #[test]
    fn messages_that_are_asked_for_count() {
        let prices = Prices {
            access: 1.0,
            fault: 0.0,
            byte: 0.0,
        };
        let case = [Case::new("traffic/warm", Cost::of_accesses(3000.0), |_| {
            Ok(())
        })];
        let seconds = |until, qps| {
            let shape = Shape {
                qps,
                until,
                sizes: vec![64, 128],
                ..Shape::default()
            };
            let estimate = total(prices, &options(0.1, shape), &case);
            estimate.with(0.1).as_secs_f64().round()
        };
        assert_eq!(seconds(None, 1), 600.0);
        assert_eq!(seconds(None, 4), 2400.0);
        for qps in [1, 4] {
            assert_eq!(seconds(Some(Until::Messages(500)), qps), 3000.0);
            assert_eq!(seconds(Some(Until::Seconds(5.0)), qps), 30.0);
        }
    }

    #[test]
    fn what_is_estimated_grows_with_the_effort() {
        let prices = Prices {
            access: 1.0,
            fault: 10.0,
            byte: 0.1,
        };
        let cost = Cost {
            accesses: 4.0,
            faults: 2.0,
            bytes: 10.0,
            ..Cost::NOTHING
        };
        let cases = [
            Case::new("a", cost, |_| Ok(())),
            Case::new("b", cost, |_| Ok(())),
        ];
        let estimate = total(prices, &options(1.0, Shape::default()), &cases);
        let seconds = |effort| estimate.with(effort).as_secs_f64();
        assert!((seconds(1.0) - 50.06).abs() < 1e-6);
        assert!((seconds(0.1) - 5.06).abs() < 1e-6);
        // What does not depend on the effort cannot be saved by less of it.
        let effort = |seconds| estimate.effort_for(Duration::from_secs_f64(seconds));
        assert!((effort(5.06).unwrap() - 0.1).abs() < 1e-6);
        assert_eq!((effort(0.05), effort(0.1)), (None, None));
    }

    #[test]
    fn waits_take_the_time_that_is_waited() {
        let prices = Prices {
            access: 1e-6,
            fault: 1e-5,
            byte: 1e-9,
        };
        let cases = crate::select(&["late".into()]).unwrap();
        let estimate = total(prices, &options(1.0, Shape::default()), &cases);
        // At least five places with 100 ms in either mode, twenty times and once before.
        assert!(estimate.with(1.0).as_secs_f64() > 21.0);
        let short = Options {
            delays: vec![Duration::from_millis(1)],
            ..options(1.0, Shape::default())
        };
        assert!(total(prices, &short, &cases).with(1.0).as_secs_f64() < 30.0);
        // Once, and once before.
        let least = estimate.with(0.001).as_secs_f64();
        assert!((2.0..10.0).contains(&least), "{least}");
    }

    #[test]
    fn every_case_costs_something() {
        for case in crate::select(&[]).unwrap() {
            let Cost {
                accesses,
                faults,
                bytes,
                wait,
                withheld: _,
            } = case.cost;
            assert!(accesses + faults + bytes + wait > 0.0, "{}", case.name);
        }
    }
}
