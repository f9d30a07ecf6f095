// SPDX-License-Identifier: GPL-2.0
//! A process that has many who wait for pages at once, and ends things meanwhile, at last itself.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    ops::Range,
    thread,
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    traffic::{Lane, Placement},
    waiting::Ending,
};
use rand::{
    seq::{IndexedRandom as _, SliceRandom as _},
    Rng, SeedableRng,
};
use testkit::process::Parent;

use super::{
    case::{Case, Fate},
    Leave, Message, Plan,
};
use crate::{arguments::Arguments, dice::Dice};

/// How many cases there are at once at most: fewer than the driver lets one user's faults wait.
const AT_ONCE: usize = 8;
/// How many pages such a case may need.
const ROOM: usize = 4;

/// A process that waits.
struct Life {
    env: Env,
    parent: Parent,
    file: File,
    /// How many pages the file has.
    pages: usize,
    /// Those that no case has had yet.
    own: Range<usize>,
    lane: Lane,
    dice: Dice,
    tally: BTreeMap<String, u64>,
    verbose: bool,
}

/// Plays [`super::ROLE`].
pub fn play(arguments: &Arguments) -> Result<()> {
    let parent = Parent::new();
    let plan: Plan = parent.hear()?;
    let mut env = Env::open(arguments.device.as_deref(), arguments.gid)?;
    env.patience = Duration::from_secs(arguments.patience);
    let file = OpenOptions::new().read(true).write(true).open(&plan.file);
    let mut life = Life {
        lane: Lane::new(&env, Mode::Explicit, Placement::Odd)?,
        env,
        parent,
        file: file.with_context(|| plan.file.display().to_string())?,
        pages: plan.pages,
        own: plan.own,
        dice: Dice::seed_from_u64(plan.seed),
        tally: BTreeMap::new(),
        verbose: arguments.verbose,
    };
    for round in 0.. {
        let last = life.own.len() < 2 * AT_ONCE * ROOM || life.dice.random_ratio(1, 8);
        let left = life.batch(last)?;
        // The device works as ever.
        life.lane.round(round)?;
        if last {
            return life.leave(&left);
        }
    }
    Ok(())
}

impl Life {
    /// Some cases at once. Gives those that are left to the end of the process, if this is the `last` time.
    fn batch(&mut self, last: bool) -> Result<Vec<Case>> {
        let count = self.dice.random_range(1..=AT_ONCE);
        let cases: Result<_> = (0..count).map(|_| self.case(last)).collect();
        let mut cases: Vec<Case> = cases?;
        for case in &mut cases {
            case.start().with_context(|| case.to_string())?;
        }
        if self.dice.random_ratio(3, 4) {
            let asked = cases.iter().filter_map(Case::first_page).collect();
            self.ask(&Message::Asked(asked))?;
        }
        cases.shuffle(&mut self.dice);
        for case in &mut cases {
            self.pause();
            self.end(case).with_context(|| case.to_string())?;
            *self.tally.entry(case.fate.to_string()).or_default() += 1;
        }
        let (left, mut ended): (Vec<_>, Vec<_>) =
            cases.into_iter().partition(|case| case.fate == Fate::Left);
        // Some are gone altogether before their pages come.
        let pages: Vec<_> = ended.iter().map(|case| case.pages.clone()).collect();
        ended.shuffle(&mut self.dice);
        if self.dice.random_ratio(1, 3) {
            let kept = self.dice.random_range(0..=ended.len());
            ended.truncate(kept);
        }
        self.ask(&Message::Release(pages))?;
        for case in &mut ended {
            case.settle().with_context(|| case.to_string())?;
        }
        Ok(left)
    }

    /// A case, ready to be started.
    fn case(&mut self, last: bool) -> Result<Case> {
        let case = Case::new(
            &self.env,
            (&self.file, self.pages),
            self.own.start,
            last,
            &mut self.dice,
        )?;
        self.own.start = case.pages.end;
        if self.verbose {
            eprintln!("{case}");
        }
        Ok(case)
    }

    /// What its fate is happens to `case`.
    fn end(&mut self, case: &mut Case) -> Result<()> {
        match case.fate.clone() {
            Fate::Left => case.check_waits(),
            Fate::Comes => {
                case.check_waits()?;
                self.ask(&Message::Release(vec![case.pages.clone()]))?;
                case.finish(&self.env)
            }
            Fate::Ends(endings) => {
                for (n, ending) in endings.into_iter().enumerate() {
                    case.end(&self.env, ending, n == 0)
                        .with_context(|| format!("{ending:?}"))?;
                    self.pause();
                }
                Ok(())
            }
        }
    }

    /// Nothing, for up to three milliseconds.
    fn pause(&mut self) {
        let pause = self.dice.random_range(0..3000);
        thread::sleep(Duration::from_micros(pause));
    }

    /// Has the other process do what `message` asks for.
    fn ask(&self, message: &Message) -> Result<()> {
        self.parent.tell(message)?;
        ensure!(self.parent.hear::<bool>()?, "refused");
        Ok(())
    }

    /// Ends the process, while the cases of `left` wait.
    fn leave(mut self, left: &[Case]) -> Result<()> {
        let ways = [Ending::Exit, Ending::Kill];
        let how = *ways.choose(&mut self.dice).context("no way")?;
        let leave = Leave {
            how,
            untouched: left.iter().map(|case| case.pages.clone()).collect(),
            tally: self.tally.clone(),
        };
        self.ask(&Message::Leave(leave))?;
        // Without dropping anything.
        std::process::exit(0)
    }
}
