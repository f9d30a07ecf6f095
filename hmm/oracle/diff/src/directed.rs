// SPDX-License-Identifier: GPL-2.0
//! Every kind of page table entry under every policy: a table of what both walks must say.
//!
//! Each row is set up afresh for each policy, once with our walk first and once with C's, once with
//! a word a page and once by runs; and, where the kernel has it, with C's walk that takes the mmap lock
//! itself.

use anyhow::{bail, Context, Result};
use testkit::userfaultfd::Userfaultfd;

use crate::abi::State;
use crate::agree::{in_hugetlb, judge};
use crate::arena::{self, Span};
use crate::machine::{dislikes_holes, Machine};
use crate::memory;
use crate::oracle::{Oracle, Question, Side};
use crate::perform::Stage;
use crate::view::View;

mod entries;
mod refusals;
mod requests;
mod served;

/// What a walk has to say about all pages of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Absent,
    Error,
    Errno(i32),
    /// Mapped by entries of this order.
    ReadOnly(u32),
    Writable(u32),
    /// The CPU's fault handler may give more than it was asked for.
    AnyRights(u32),
}

impl Expect {
    fn holds(self, side: &Side, by_runs: bool) -> bool {
        let states = match (self, side) {
            (Self::Errno(wanted), Err(errno)) => return wanted == *errno as i32,
            (_, Err(_)) | (Self::Errno(_), Ok(_)) => return false,
            (_, Ok(states)) => states,
        };
        states.iter().all(|state| match (self, *state) {
            (Self::Absent, state) => state == State::Absent,
            // Runs do not tell one from the other.
            (Self::Error, State::Absent) => by_runs,
            (Self::Error, state) => state == State::Error,
            (Self::AnyRights(wanted), State::Valid { order, .. }) => order == wanted,
            (
                Self::ReadOnly(wanted),
                State::Valid {
                    order, writable, ..
                },
            ) => order == wanted && !writable,
            (
                Self::Writable(wanted),
                State::Valid {
                    order, writable, ..
                },
            ) => order == wanted && writable,
            _ => false,
        })
    }
}

/// The pages of a row, ready to be looked at, or why there are none.
enum SetUp {
    Ready(Span),
    Impossible(String),
}

/// One kind of entry: its name, how it comes about, and what is to be found when a snapshot is
/// taken, and when the pages are faulted in for reading and for writing.
struct Row {
    name: &'static str,
    set_up: fn(&mut Lab) -> Result<SetUp>,
    expected: [Expect; 3],
    /// What C says, if that is something else.
    theirs: Option<[Expect; 3]>,
}

impl Row {
    const fn new(
        name: &'static str,
        set_up: fn(&mut Lab) -> Result<SetUp>,
        expected: [Expect; 3],
    ) -> Self {
        Self {
            name,
            set_up,
            expected,
            theirs: None,
        }
    }
}

/// What rows are set up with.
struct Lab {
    oracle: Oracle,
    view: View,
    stage: Stage,
    gigantic: bool,
    /// The kernel has a walk that takes the mmap lock itself.
    unlocked: bool,
    /// The kernel would complain if C was asked to fault in holes of hugetlb areas.
    dislikes_holes: bool,
    userfault: Option<Userfaultfd>,
}

/// Runs all rows whose names contain `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<bool> {
    memory::check_free().context("the arena's addresses are in use")?;
    let machine = Machine::for_comparing()?;
    let oracle = Oracle::open()?;
    let mut lab = Lab {
        unlocked: oracle.has_unlocked()?,
        dislikes_holes: dislikes_holes(&oracle)?,
        oracle,
        view: View::open()?,
        stage: Stage::new()?,
        gigantic: machine.gigantic,
        userfault: None,
    };
    let mut passed = 0;
    let mut failed = Vec::new();
    let mut report = |name: &str, result: Result<Option<String>>| match result {
        Ok(None) => {
            passed += 1;
            println!("ok    {name}");
        }
        Ok(Some(reason)) => println!("skip  {name}: {reason}"),
        Err(error) => {
            println!("FAIL  {name}: {error:#}");
            failed.push(format!("{name}: {error:#}"));
        }
    };
    let wanted = |name: &str| filter.is_none_or(|text| name.contains(text));
    for row in entries::ROWS.iter().filter(|row| wanted(row.name)) {
        let result = check_row(&mut lab, row).or_else(|error| {
            // Reclaim or compaction may have taken what the row had set up. They do not do so twice.
            println!("again {}: {error:#}", row.name);
            check_row(&mut lab, row)
        });
        report(row.name, result);
    }
    let others = requests::CHECKS
        .iter()
        .chain(served::CHECKS)
        .chain(refusals::CHECKS);
    for (name, check) in others.filter(|(name, _)| wanted(name)) {
        report(name, check(&mut lab).map(|()| None));
    }
    println!("{passed} right, {} wrong", failed.len());
    failed
        .iter()
        .for_each(|failure| println!("wrong: {failure}"));
    if passed == 0 {
        bail!("nothing was checked");
    }
    Ok(failed.is_empty())
}

/// A check that is more than a row.
type Check = (&'static str, fn(&mut Lab) -> Result<()>);

/// Ours goes first, or C's; by runs, or a word a page; C's walk takes the mmap lock itself, or not.
const WAYS: [(bool, bool, bool); 6] = [
    (true, false, false),
    (false, false, false),
    (true, true, false),
    (false, true, false),
    (true, false, true),
    (false, false, true),
];

/// All variants of a row; gives why it cannot be had here.
fn check_row(lab: &mut Lab, row: &Row) -> Result<Option<String>> {
    for policy in 0..3u8 {
        for (ours_first, by_runs, unlocked) in WAYS {
            if unlocked && !lab.unlocked {
                continue;
            }
            lab.clear()?;
            let span = match (row.set_up)(lab).context("setting up")? {
                SetUp::Ready(span) => span,
                SetUp::Impossible(reason) => return Ok(Some(reason)),
            };
            let question = Question {
                ours_first,
                by_runs,
                unlocked,
                ..Question::uniform(span, policy)
            };
            // Where ours has been first, there are no holes any more.
            if lab.dislikes_holes && in_hugetlb(&question) && question.wants_faults() && !ours_first
            {
                continue;
            }
            check(lab, row, &question).with_context(|| {
                let way = if by_runs { "runs" } else { "flat" };
                let first = if ours_first { "ours" } else { "C" };
                let policy = ["snapshot", "read", "write"][usize::from(policy)];
                let lock = if unlocked {
                    ", C takes the lock itself"
                } else {
                    ""
                };
                format!("{policy}, {way}, {first} first{lock}")
            })?;
        }
    }
    lab.clear()?;
    Ok(None)
}

fn check(lab: &Lab, row: &Row, question: &Question) -> Result<()> {
    let answer = lab.oracle.compare(question)?;
    let policy = usize::from(question.base);
    let (ours, theirs) = (
        row.expected[policy],
        row.theirs.unwrap_or(row.expected)[policy],
    );
    if !ours.holds(&answer.ours, question.by_runs) {
        bail!("ours is not {ours:?}: {}", some(&answer.ours));
    }
    if !theirs.holds(&answer.theirs, false) {
        bail!("C's is not {theirs:?}: {}", some(&answer.theirs));
    }
    if row.theirs.is_none() {
        if let Err(disagreement) = judge(question, &answer) {
            bail!("{disagreement:?}");
        }
    }
    Ok(())
}

/// The beginning of an answer, for people.
fn some(side: &Side) -> String {
    match side {
        Ok(states) => format!("{:?}", &states[..states.len().min(3)]),
        Err(errno) => format!("{:?}", nix::Error::from_raw(*errno as i32)),
    }
}

impl Lab {
    /// Nothing is left of what was set up before.
    fn clear(&mut self) -> Result<()> {
        self.stage.reap();
        self.userfault = None;
        for zone in [arena::Zone::Small, arena::Zone::Huge, arena::Zone::Gigantic] {
            memory::unmap(zone.span()).context("clearing the arena")?;
        }
        Ok(())
    }

    /// Whether all pages of `span` have these categories.
    fn all_are(&self, span: Span, categories: u64) -> Result<bool> {
        let regions = self.view.entries(span)?;
        let covered: u64 = regions
            .iter()
            .filter(|region| region.categories & categories == categories)
            .map(|region| region.end - region.start)
            .sum();
        Ok(covered == span.bytes() as u64)
    }
}
