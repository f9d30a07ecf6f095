// SPDX-License-Identifier: GPL-2.0
//! Random operations, each followed by a comparison. Every choice comes from the seed and none
//! depends on an answer, so the seed and a number of steps repeat a run.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::abi::{READ, SNAPSHOT, WRITE};
use crate::agree::{judge, Difference, Disagreement};
use crate::arena::{Span, Zone, PAGE};
use crate::dice::Dice;
use crate::kind::{look, Known, Tally};
use crate::machine::{dislikes_holes, Machine};
use crate::memory;
use crate::operation::Operation;
use crate::oracle::{Answer, Oracle, Question};
use crate::perform::Stage;
use crate::view::View;
use crate::RandomArguments;

/// A run that is shorter may miss kinds of entries.
const LONG: u64 = 10_000;
/// Operations shown with a disagreement.
const HISTORY: usize = 40;
/// A page under migration is absent to one walk and there for the next, and no notifier tells. So a
/// disagreement counts if it is still there after so many more tries.
const ASK_AGAIN: u32 = 5;
/// The most pages that one question faults in.
const FAULTED: u64 = 600;

/// Runs; whether all comparisons agreed and every kind of entry was met.
pub(crate) fn run(arguments: &RandomArguments) -> Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => clock()?,
    };
    println!("seed {seed}");
    memory::check_free().context("the arena's addresses are in use")?;
    let machine = Machine::for_comparing()?;
    let mut run = Run::new(seed, machine.gigantic)?;
    let begun = Instant::now();
    let mut reported = begun;
    let until = arguments
        .seconds
        .map(|seconds| begun + Duration::from_secs(seconds));
    loop {
        let done = match until {
            Some(until) => Instant::now() >= until,
            None => run.step >= arguments.steps,
        };
        if done {
            break;
        }
        if !run.one(arguments.verbose)? {
            return Ok(false);
        }
        if reported.elapsed() >= Duration::from_secs(10) {
            reported = Instant::now();
            let seconds = begun.elapsed().as_secs();
            println!("{} steps in {seconds} s, no disagreement", run.step);
        }
    }
    println!("{}", run.tally.table());
    println!(
        "{} steps in {} s, seed {seed}: {}",
        run.step,
        begun.elapsed().as_secs(),
        run.counts
    );
    let missing = run.tally.missing();
    if run.step >= LONG && !missing.is_empty() {
        println!("never met: {}", missing.join("; "));
        return Ok(false);
    }
    Ok(true)
}

fn clock() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_nanos() as u64 % 1_000_000_007)
}

/// What happened, in numbers.
#[derive(Default)]
struct Counts {
    comparisons: u64,
    pages: u64,
    failed_alike: u64,
    again: u64,
    transient: u64,
    differences: [u64; 4],
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [runs, grown, unasked, head] = self.differences;
        write!(
            f,
            "{} comparisons of {} pages, {} of them with the same error; {} repeated, as pages were \
             replaced meanwhile; {} disagreements did not last; as documented: {runs} runs without \
             errors, {grown} grown, {unasked} unasked, {head} hugetlb heads",
            self.comparisons, self.pages, self.failed_alike, self.again, self.transient
        )
    }
}

/// A run under way.
struct Run {
    seed: u64,
    step: u64,
    dice: Dice,
    gigantic: bool,
    dislikes_holes: bool,
    has_unlocked: bool,
    oracle: Oracle,
    view: View,
    stage: Stage,
    tally: Tally,
    counts: Counts,
    history: VecDeque<(u64, Operation, io::Result<()>)>,
}

impl Run {
    fn new(seed: u64, gigantic: bool) -> Result<Self> {
        let oracle = Oracle::open()?;
        Ok(Self {
            seed,
            step: 0,
            dice: Dice::new(seed),
            gigantic,
            dislikes_holes: dislikes_holes(&oracle)?,
            has_unlocked: oracle.has_unlocked()?,
            oracle,
            view: View::open()?,
            stage: Stage::new()?,
            tally: Tally::default(),
            counts: Counts::default(),
            history: VecDeque::new(),
        })
    }

    /// One step; whether both agree.
    fn one(&mut self, verbose: bool) -> Result<bool> {
        let operation = Operation::random(&mut self.dice, self.gigantic);
        let result = self.stage.perform(&operation);
        if verbose {
            println!("{}: {operation:?}: {}", self.step, outcome(&result));
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((self.step, operation, result));
        let question = self.question(operation.span())?;
        let agreed = self.ask(&operation, &question)?;
        self.step += 1;
        Ok(agreed)
    }

    /// What is asked after an operation at `near`. The dice are thrown first, whatever the memory
    /// looks like.
    fn question(&mut self, near: Option<Span>) -> Result<Question> {
        let dice = &mut self.dice;
        let elsewhere = Span::random(dice, Zone::Small);
        let more = dice.below(33);
        let whole = dice.once_in(100);
        let near = near.filter(|_| !dice.once_in(8)).unwrap_or(elsewhere);
        let shape = dice.weighted(&[(3, Shape::Snapshot), (3, Shape::Fault), (4, Shape::Mixed)]);
        let levels = [SNAPSHOT, READ, WRITE];
        let (base, most) = (dice.one_of(&levels), dice.one_of(&levels));
        let fault = dice.one_of(&[READ, WRITE]);
        let one_area = dice.below(5) > 0;
        let point = dice.below(1 << 32);
        let mut pattern = Dice::new(dice.below(u64::MAX));
        let (ours_first, by_runs) = (dice.once_in(2), dice.once_in(3));
        let unlocked = dice.once_in(2) && self.has_unlocked;
        let mut span = near.widened(more);
        if shape == Shape::Snapshot && whole {
            span = Zone::Small.span();
        } else if shape != Shape::Snapshot {
            let areas = self.view.areas(span)?;
            if one_area && !areas.is_empty() {
                span = areas[(point % areas.len() as u64) as usize].span;
            }
            span = span.part(0, FAULTED);
        }
        let uniform = match shape {
            Shape::Snapshot => SNAPSHOT,
            _ => fault,
        };
        let mut question = Question {
            ours_first,
            by_runs,
            unlocked,
            ..Question::uniform(span, uniform)
        };
        if shape == Shape::Mixed {
            (question.base, question.most) = (base, most);
            question.requests = Some(requests(&mut pattern, span.pages()));
        }
        Ok(question)
    }

    fn ask(&mut self, operation: &Operation, question: &Question) -> Result<bool> {
        let files = self.stage.sizes()?;
        let poisoned = match operation {
            Operation::Poison { at } => BTreeSet::from([at.start()]),
            _ => BTreeSet::new(),
        };
        let known = Known {
            files: &files,
            poisoned: &poisoned,
        };
        let kinds = look(&self.view, question.span, &known)?;
        let holes = kinds.iter().any(|(_, kind)| kind.is_hugetlb_hole());
        let snapshot;
        let question = match self.dislikes_holes && holes && question.wants_faults() {
            true => {
                snapshot = Question {
                    ours_first: question.ours_first,
                    by_runs: question.by_runs,
                    unlocked: question.unlocked,
                    ..Question::uniform(question.span, SNAPSHOT)
                };
                &snapshot
            }
            false => question,
        };
        let answer = self.agree(question)?;
        let Some(answer) = answer else {
            return Ok(false);
        };
        self.tally.count(question, &answer, &kinds);
        Ok(true)
    }

    /// Compares; `None` if there is a disagreement, which has been printed then.
    fn agree(&mut self, question: &Question) -> Result<Option<Answer>> {
        let mut asked = 0;
        loop {
            let answer = self.oracle.compare(question);
            let answer = answer.with_context(|| format!("comparing {question:?}"))?;
            self.counts.comparisons += 1;
            self.counts.pages += question.span.pages();
            self.counts.failed_alike += u64::from(answer.ours.is_err() && answer.theirs.is_err());
            self.counts.again += u64::from(answer.tried - 1);
            match judge(question, &answer) {
                Ok(differences) => {
                    self.counts.transient += u64::from(asked > 0);
                    return Ok(self.follow_up(question, &differences)?.then_some(answer));
                }
                Err(disagreement) if asked == ASK_AGAIN => {
                    self.report(question, &answer, &disagreement);
                    return Ok(None);
                }
                Err(_) => asked += 1,
            }
        }
    }

    /// Where C may fail for what nobody asked, or overlook what somebody did, both are asked again in
    /// parts of which each asks for one thing: then they have to agree.
    fn follow_up(&mut self, question: &Question, differences: &[Difference]) -> Result<bool> {
        for difference in differences {
            self.counts.differences[*difference as usize] += 1;
            if matches!(
                difference,
                Difference::FaultsUnasked | Difference::FirstOfHugetlb
            ) {
                for part in question.parts() {
                    if self.agree(&part)?.is_none() {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn report(&self, question: &Question, answer: &Answer, disagreement: &Disagreement) {
        println!("\nDISAGREEMENT at step {}: {disagreement:?}", self.step);
        let pages = question.span.pages();
        println!(
            "range {:#x}, {pages} pages; base {}, most {}; {} first; {}; C {}; tried {}",
            question.span.start(),
            level(question.base),
            level(question.most),
            if question.ours_first { "ours" } else { "C" },
            if question.by_runs { "by runs" } else { "flat" },
            if question.unlocked {
                "takes the lock itself"
            } else {
                "with the lock"
            },
            answer.tried,
        );
        let errno = |side: &Result<_, u32>| match side {
            Ok(_) => "none".to_owned(),
            Err(errno) => format!("{:?}", nix::Error::from_raw(*errno as i32)),
        };
        println!(
            "errors: ours {}, C's {}",
            errno(&answer.ours),
            errno(&answer.theirs)
        );
        if let Disagreement::Page { page, .. } = disagreement {
            self.report_pages(question, answer, *page);
        }
        if let Ok(areas) = self.view.areas(question.span) {
            println!("areas: {areas:x?}");
        }
        if let Ok(regions) = self.view.entries(question.span) {
            let shown = regions.iter().take(40);
            println!("entries: {:x?}", shown.collect::<Vec<_>>());
        }
        println!("the last operations:");
        for (step, operation, result) in &self.history {
            println!("  {step}: {operation:?}: {}", outcome(result));
        }
        println!(
            "again: hmm-diff --seed {} --steps {}",
            self.seed,
            self.step + 1
        );
    }

    fn report_pages(&self, question: &Question, answer: &Answer, page: usize) {
        let (Ok(ours), Ok(theirs)) = (&answer.ours, &answer.theirs) else {
            return;
        };
        let around = page.saturating_sub(3)..(page + 4).min(ours.len());
        for at in around {
            println!(
                "  {:#x} (wanted: {}): ours {:?}, C {:?}",
                question.span.start() + at as u64 * PAGE,
                level(question.wanted(at)),
                ours[at],
                theirs[at]
            );
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Snapshot,
    Fault,
    Mixed,
}

/// Requests in stretches that are alike.
fn requests(dice: &mut Dice, pages: u64) -> Vec<u8> {
    let mut requests = Vec::new();
    while (requests.len() as u64) < pages {
        let left = pages - requests.len() as u64;
        let stretch = match dice.below(3) {
            0 => 1,
            1 => dice.between(1, 16),
            _ => dice.between(1, 600),
        };
        let request = dice.one_of(&[SNAPSHOT, SNAPSHOT, READ, WRITE]);
        requests.extend((0..stretch.min(left)).map(|_| request));
    }
    requests
}

fn level(policy: u8) -> &'static str {
    match policy {
        SNAPSHOT => "snapshot",
        READ => "read",
        _ => "write",
    }
}

fn outcome(result: &io::Result<()>) -> String {
    match result {
        Ok(()) => "done".into(),
        Err(error) => error.to_string(),
    }
}
