// SPDX-License-Identifier: GPL-2.0
//! The measurements of `odp-bench`.
//!
//! A [`Suite`] is a question, a [`Case`] one answer to it: a function that is given a [`Bench`] (a device,
//! and a place for what it measures) and records metrics. Whatever a case moves is checked, byte by byte,
//! and every byte depends on its position.
//!
//! What is compared is measured in turns in one case, so that whatever else the machine does affects both
//! sides alike.
//!
//! From below: `problem` has why a case ends, `act` what is done with memory; `far` speaks with the machine at the other
//! end as `protocol` says, where `serve` answers; `target` is memory and connections wherever they are; `setting` has the
//! [`Bench`], and `support` whether it does what is asked for. `lane` and `batch` are ways of access, and then come the
//! suites.

mod act;
mod advice;
mod batch;
mod environment;
mod far;
mod lane;
mod machine;
mod meters;
mod pages;
pub mod placement;
pub mod plan;
mod problem;
mod protocol;
mod serve;
mod setting;
pub mod shape;
pub mod support;
mod sysfs;
mod target;

mod churn;
mod fault;
mod invalidation;
mod late;
mod prefetch;
mod registration;
mod storm;
mod stream;
mod traffic;
mod warm;

pub use late::DELAYS;
pub use problem::Problem;
pub use serve::serve;
pub use setting::{Bench, Options};

use anyhow::Result;

/// A question.
pub struct Suite {
    /// One word.
    pub name: &'static str,
    /// One line.
    pub title: &'static str,
    cases: fn() -> Vec<Case>,
}

/// One answer to a question.
pub struct Case {
    /// Its name, of words with `/` between them; the first word is the suite.
    pub name: String,
    /// What it takes, at the usual effort.
    cost: Cost,
    run: Measurement,
}

/// What a case does, roughly, for an estimate of how long that takes.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Accesses of a few bytes to memory that the NIC has translations for.
    accesses: f64,
    /// Faults on untouched pages, with the pages' end.
    faults: f64,
    /// Bytes that large messages move.
    bytes: f64,
    /// Seconds that each round waits, whatever the device: of [`ROUNDS`](Self::ROUNDS), and those before them.
    wait: f64,
    /// Whether each round waits once for each delay that is asked for, too.
    withheld: bool,
}

impl Cost {
    const NOTHING: Self = Self {
        accesses: 0.0,
        faults: 0.0,
        bytes: 0.0,
        wait: 0.0,
        withheld: false,
    };

    /// How many rounds a case takes that waits in each.
    const ROUNDS: usize = 20;

    const fn of_accesses(accesses: f64) -> Self {
        Self {
            accesses,
            ..Self::NOTHING
        }
    }

    const fn of_faults(faults: f64) -> Self {
        Self {
            faults,
            ..Self::NOTHING
        }
    }

    const fn of_bytes(bytes: f64) -> Self {
        Self {
            bytes,
            ..Self::NOTHING
        }
    }

    /// The same with so many seconds of waiting in each round.
    const fn with_wait(self, wait: f64) -> Self {
        Self { wait, ..self }
    }

    /// The same, and each round waits for each delay that is asked for.
    const fn withheld(self) -> Self {
        Self {
            withheld: true,
            ..self
        }
    }
}

type Measurement = Box<dyn Fn(&Bench) -> Result<()>>;

impl Case {
    fn new(
        name: impl Into<String>,
        cost: Cost,
        run: impl Fn(&Bench) -> Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            cost,
            run: Box::new(run),
        }
    }

    /// The suite that it belongs to.
    pub fn suite(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Measures. What was recorded before an error stays recorded.
    pub fn run(&self, bench: &Bench) -> Result<()> {
        (self.run)(bench)
    }
}

/// All suites, in the order in which they are run.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "registration",
        title:
            "what it costs to register memory and to deregister it, in time and in kernel memory",
        cases: registration::cases,
    },
    Suite {
        name: "warm",
        title: "access to memory that the NIC has translations for, against pinned memory",
        cases: warm::cases,
    },
    Suite {
        name: "fault",
        title: "the first access to a page: absent, resident, on disk; small pages and huge ones",
        cases: fault::cases,
    },
    Suite {
        name: "stream",
        title: "large messages into untouched memory, against pinned memory",
        cases: stream::cases,
    },
    Suite {
        name: "prefetch",
        title: "ibv_advise_mr against faults on demand",
        cases: prefetch::cases,
    },
    Suite {
        name: "invalidation",
        title: "what a region adds to munmap, madvise, mprotect, copy on write and swapping out",
        cases: invalidation::cases,
    },
    Suite {
        name: "churn",
        title: "throughput while pages are taken away, and how long it takes to recover",
        cases: churn::cases,
    },
    Suite {
        name: "storm",
        title: "many queue pairs that fault at once, and how long it takes to recover",
        cases: storm::cases,
    },
    Suite {
        name: "late",
        title:
            "pages that come 10 us to 100 ms after they were asked for: retries, timeouts, floods",
        cases: late::cases,
    },
    Suite {
        name: TRAFFIC,
        title: "messages of the size, operation and transport that options say, warm and cold",
        cases: traffic::cases,
    },
];

/// The suite whose messages are as the options describe them.
pub const TRAFFIC: &str = "traffic";

/// The cases of all suites whose names are among `wanted`, or begin with one of them and a `/`; all of them
/// if nothing is wanted in particular. The first of `wanted` that means no case is an error.
pub fn select(wanted: &[String]) -> std::result::Result<Vec<Case>, String> {
    let mut all: Vec<Case> = SUITES.iter().flat_map(|suite| (suite.cases)()).collect();
    let means = |wanted: &str, name: &str| {
        name.strip_prefix(wanted)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(unknown) = wanted
        .iter()
        .find(|wanted| !all.iter().any(|case| means(wanted, &case.name)))
    {
        return Err(unknown.clone());
    }
    if !wanted.is_empty() {
        all.retain(|case| wanted.iter().any(|wanted| means(wanted, &case.name)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_begin_with_their_suite() {
        let mut names = BTreeSet::new();
        for suite in SUITES {
            let cases = (suite.cases)();
            assert!(!cases.is_empty());
            for case in cases {
                let first = case.name.split('/').next().unwrap();
                assert_eq!(first, suite.name);
                assert!(names.insert(case.name.clone()), "{} twice", case.name);
            }
        }
    }

    #[test]
    fn a_selection_is_of_whole_words() {
        let count = |wanted: &str| select(&[wanted.into()]).map(|cases| cases.len());
        assert!(count("fault").unwrap() > count("fault/explicit").unwrap());
        assert_eq!(count("faul"), Err("faul".into()));
        assert!(select(&[]).unwrap().len() > count("fault").unwrap());
    }
}
