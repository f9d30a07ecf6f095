// SPDX-License-Identifier: GPL-2.0
//! One who waits for pages, what is taken down meanwhile, and what may come of it.

use std::{fmt, fs::File, ops::Range, time::Instant};

use anyhow::{ensure, Context as _, Result};
use clap::ValueEnum as _;
use odp_fixture::{
    env::{Env, Mode},
    waiting::{
        Ending::{self, FailFirst, FailSecond, ResetFirst, ResetSecond},
        Extent, Kind, Scene,
    },
};
use odp_verbs::{Completion, QueuePair, Status};
use rand::{
    seq::{IndexedRandom as _, SliceRandom as _},
    Rng,
};
use testkit::patience;

use super::PROMPT;
use crate::dice::Dice;

/// What becomes of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its pages come, and all goes on.
    Comes,
    /// These end while it waits, one after the other.
    Ends(Vec<Ending>),
    /// It waits until the process ends.
    Left,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Comes => f.write_str("the page comes"),
            Self::Ends(endings) => match endings.first() {
                Some(first) => write!(f, "{first:?}"),
                None => f.write_str("nothing"),
            },
            Self::Left => f.write_str("the process ends"),
        }
    }
}

impl Fate {
    /// One that is possible for `kind`; in the `last` cases of a process also that they are left.
    fn random(kind: Kind, last: bool, dice: &mut Dice) -> Self {
        match dice.random_range(0..10) {
            0..2 => Self::Comes,
            2..6 if last => Self::Left,
            _ => {
                let possible = |ending: &Ending| ending.concerns(kind) && !ending.ends_process();
                let mut endings: Vec<_> = Ending::all().filter(possible).collect();
                endings.shuffle(dice);
                endings.truncate(dice.random_range(1..=2));
                // A queue pair that was reset cannot fail (InfiniBand specification, 10.3.1).
                if let [ResetFirst, FailFirst] | [ResetSecond, FailSecond] = endings[..] {
                    endings.reverse();
                }
                Self::Ends(endings)
            }
        }
    }

    fn includes(&self, ending: Ending) -> bool {
        matches!(self, Self::Ends(endings) if endings.contains(&ending))
    }
}

/// Which of the two queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

use Side::*;

/// What has been heard from a queue pair.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// How many work requests have ended.
    ends: usize,
    /// Whether one of them failed, and not because of another.
    failed: bool,
}

/// A case.
pub struct Case {
    scene: Scene,
    messages: usize,
    mode: Mode,
    /// The pages that it waits for, the one before them, and the one after.
    pub pages: Range<usize>,
    /// What becomes of it.
    pub fate: Fate,
    /// What has ended.
    ended: Vec<Ending>,
    /// Whether the pages have come.
    came: bool,
    heard: [Heard; 2],
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            mode,
            pages,
            fate,
            ..
        } = self;
        let kind = self.scene.kind();
        write!(
            f,
            "{messages} times {kind:?}, {mode}, pages {pages:?}, {fate:?}"
        )
    }
}

impl Case {
    /// A new one, for pages of `file` from `before` on: a page without a message, those with one, and another
    /// without.
    pub fn new(
        env: &Env,
        (file, pages): (&File, usize),
        before: usize,
        last: bool,
        dice: &mut Dice,
    ) -> Result<Self> {
        let kind = *Kind::value_variants().choose(dice).context("no kind")?;
        let fate = Fate::random(kind, last, dice);
        let mode = match fate.includes(Ending::Deregister) {
            // The one for the whole address space is everybody's.
            true => Mode::Explicit,
            false => *Mode::ON_DEMAND.choose(dice).context("no mode")?,
        };
        let messages = dice.random_range(1..=2);
        let extent = Extent {
            file: pages,
            before,
            messages,
        };
        Ok(Self {
            scene: Scene::new(env, mode, kind, file, extent)?,
            messages,
            mode,
            pages: before..before + messages + 2,
            fate,
            ended: Vec::new(),
            came: false,
            heard: Default::default(),
        })
    }

    /// Starts its messages.
    pub fn start(&mut self) -> Result<()> {
        (0..self.messages).try_for_each(|_| self.scene.post())
    }

    /// The first page that is waited for, if it is certain that it is asked for: only so many prefetches run in
    /// the background at once.
    pub fn first_page(&self) -> Option<usize> {
        (self.scene.kind() != Kind::Prefetch).then_some(self.pages.start + 1)
    }

    /// Nothing has ended yet.
    pub fn check_waits(&self) -> Result<()> {
        self.scene.check_waits()
    }

    /// The pages come: all ends well, every byte is where it belongs.
    pub fn finish(&mut self, env: &Env) -> Result<()> {
        self.scene.finish(env)
    }

    /// Ends something, promptly, and hears of what has to come of it though the page does not come; only the
    /// `first` time, as later on there may be nobody left to hear it from.
    pub fn end(&mut self, env: &Env, ending: Ending, first: bool) -> Result<()> {
        self.poll().context("before")?;
        let start = Instant::now();
        ending.end(&mut self.scene)?;
        let took = start.elapsed();
        ensure!(took < patience::scaled(PROMPT), "it took {took:?}");
        self.ended.push(ending);
        if first {
            for (side, ends) in self.consequences(ending) {
                self.wait(env, side, ends)
                    .with_context(|| format!("{ends} ends at the {side:?}"))?;
            }
        }
        self.poll()
    }

    /// The pages have come, to whom they may concern: what may happen now has happened, and nothing else.
    pub fn settle(&mut self) -> Result<()> {
        // Then all has been looked at.
        if self.fate == Fate::Comes {
            return Ok(());
        }
        self.came = true;
        for prefetch in self.scene.join_prefetches()? {
            let gone = self.ended.contains(&Ending::Deregister);
            ensure!(gone || prefetch.is_ok(), "a prefetch: {prefetch:?}");
        }
        self.poll()?;
        let kind = self.scene.kind();
        let gone = self.ended.iter().any(|e| e.keeps_from_memory(kind));
        self.scene.check_interrupted(gone)
    }

    fn queue_pair(&self, side: Side) -> Option<&QueuePair> {
        match side {
            First => self.scene.first.as_ref(),
            Second => self.scene.second.as_ref(),
        }
    }

    /// How many work requests have to end at a queue pair because of `ending`.
    fn consequences(&self, ending: Ending) -> Vec<(Side, usize)> {
        let (kind, all) = (self.scene.kind(), self.messages);
        match ending {
            FailFirst | Ending::DeallocateWindow => vec![(First, all)],
            // Receives that are shared are others', too.
            FailSecond if kind.is_received() && kind != Kind::SharedReceive => {
                vec![(Second, all)]
            }
            Ending::Deregister if kind.is_answered() => vec![(First, all)],
            Ending::Deregister if kind.is_received() => vec![(Second, 1)],
            _ => Vec::new(),
        }
    }

    /// Waits until so many have ended.
    fn wait(&mut self, env: &Env, side: Side, ends: usize) -> Result<()> {
        while self.heard[side as usize].ends < ends {
            let qp = self.queue_pair(side).context("no queue pair")?;
            let end = qp.completions().wait(env.patience)?;
            self.judge(side, end)?;
        }
        Ok(())
    }

    /// What has ended at a queue pair, if there is one and something has.
    fn next(&self, side: Side) -> Result<Option<Completion>> {
        match self.queue_pair(side) {
            Some(qp) => Ok(qp.completions().poll()?),
            None => Ok(None),
        }
    }

    /// Looks at all that has ended.
    fn poll(&mut self) -> Result<()> {
        for side in [First, Second] {
            while let Some(end) = self.next(side)? {
                self.judge(side, end)?;
            }
        }
        Ok(())
    }

    /// One work request has ended: in its turn, and as it may.
    fn judge(&mut self, side: Side, end: Completion) -> Result<()> {
        let (allowed, heard) = (
            self.allows(side, end.status),
            &mut self.heard[side as usize],
        );
        ensure!(
            end.id == heard.ends as u64,
            "{} ended in the place of {} at the {side:?}",
            end.id,
            heard.ends
        );
        ensure!(
            allowed,
            "{} ended with {} at the {side:?}, after {:?}{}",
            end.id,
            end.status,
            self.ended,
            if self.came { " and the page" } else { "" }
        );
        heard.ends += 1;
        heard.failed |= ![Status::SUCCESS, Status::WR_FLUSH_ERR].contains(&end.status);
        Ok(())
    }

    /// Whether a work request may end so now.
    fn allows(&self, side: Side, status: Status) -> bool {
        let (kind, did) = (self.scene.kind(), |ending| self.ended.contains(&ending));
        let near = kind.is_near_side();
        let gone = did(Ending::Deregister) || did(Ending::DeallocateWindow);
        match (side, status) {
            (First, Status::SUCCESS) => self.came || !kind.is_answered(),
            (Second, Status::SUCCESS) => self.came,
            (First, Status::WR_FLUSH_ERR) => did(FailFirst) || self.heard[0].failed,
            (Second, Status::WR_FLUSH_ERR) => did(FailSecond) || self.heard[1].failed,
            (First, Status::REM_ACCESS_ERR) => gone && !near && !kind.is_received(),
            (First, Status::REM_OP_ERR) => gone && !near && kind.is_received(),
            (First, Status::LOC_PROT_ERR) => gone && near,
            (First, Status::LOC_QP_OP_ERR) => (gone && near) || did(Ending::DestroyAddressHandle),
            (Second, Status::LOC_PROT_ERR | Status::LOC_QP_OP_ERR) => gone && !near,
            _ => false,
        }
    }
}
