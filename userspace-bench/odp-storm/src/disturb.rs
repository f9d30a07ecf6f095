// SPDX-License-Identifier: GPL-2.0
//! Everything that happens to the memory meanwhile.

use std::{
    fs,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rand::{seq::IndexedRandom, Rng};
use testkit::memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE};

use crate::{
    dice::Dice,
    field::Field,
    ground::{Ground, Nature, SIZE, SLOT, SLOTS},
    slow::{self, Order},
};

/// Something that happens to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Disturbance {
    /// Pages become read-only, or out of reach, and come back (mprotect).
    Protect,
    /// Pages are moved elsewhere and back (mremap).
    Remap,
    /// Pages are thrown away (MADV_DONTNEED).
    Empty,
    /// Pages are unmapped and mapped anew (munmap, mmap).
    Unmap,
    /// A child gets a copy of the memory and writes to it (fork, copy on write).
    Fork,
    /// Pages are swapped out (MADV_PAGEOUT).
    Swap,
    /// Pages move to another NUMA node and back (move_pages).
    Migrate,
    /// The kernel compacts all memory.
    Compact,
    /// Small pages become huge ones (MADV_COLLAPSE).
    Collapse,
    /// Huge pages become small ones (split_huge_pages in debugfs).
    Split,
    /// Pages of a file are taken out of memory; the file system takes its time to bring them back (FUSE).
    Evict,
    /// The same, and for a while it brings none, but an error.
    Fail,
    /// Pages are thrown away whose successors another program brings in its own time (userfaultfd).
    Replace,
}

/// How often what happened.
pub struct Done([AtomicU64; Disturbance::ALL.len()]);

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Protect,
        Self::Remap,
        Self::Empty,
        Self::Unmap,
        Self::Fork,
        Self::Swap,
        Self::Migrate,
        Self::Compact,
        Self::Collapse,
        Self::Split,
        Self::Evict,
        Self::Fail,
        Self::Replace,
    ];

    /// The memory that it happens to.
    fn nature(self) -> Nature {
        match self {
            Self::Protect | Self::Remap => Nature::Guarded,
            Self::Empty => Nature::Emptied,
            Self::Unmap => Nature::Unmapped,
            Self::Evict | Self::Fail => Nature::Late,
            Self::Replace => Nature::Served,
            _ => Nature::Kept,
        }
    }
}

impl Done {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Disturbance::ALL.map(|_| AtomicU64::new(0)))
    }

    fn count(&self, what: Disturbance) {
        self.0[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `what` happened.
    pub fn times(&self, what: Disturbance) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}

/// One who disturbs.
pub struct Disturber<'a> {
    field: &'a Field,
    done: &'a Done,
    kinds: Vec<Disturbance>,
    elsewhere: Mapping,
    dice: Dice,
    asked_to_compact: u64,
}

impl<'a> Disturber<'a> {
    /// One who does `kinds`.
    pub fn new(
        field: &'a Field,
        done: &'a Done,
        kinds: Vec<Disturbance>,
        dice: Dice,
    ) -> Result<Self> {
        Ok(Self {
            field,
            done,
            kinds,
            elsewhere: Mapping::new(SIZE, Backing::Vacant, Protection::None)?,
            dice,
            asked_to_compact: 0,
        })
    }

    /// Goes on until the storm is over.
    pub fn run(mut self) -> Result<()> {
        while !self.field.is_over() {
            let what = *self.kinds.choose(&mut self.dice).context("nothing to do")?;
            let nature = what.nature();
            let grounds = self.field.grounds.iter();
            let grounds: Vec<_> = grounds.filter(|g| g.nature == nature).collect();
            let ground = *grounds.choose(&mut self.dice).context("no such ground")?;
            let worked = match what {
                _ if nature == Nature::Kept => self.keep(what, ground),
                Disturbance::Evict => {
                    let pages = pages_of(&self.few());
                    let files = &self.field.slow;
                    files
                        .ask(&Order::Evict(slow::number(ground.mode), pages))
                        .map(|()| true)
                }
                _ => self.take(what, ground).map(|()| true),
            };
            if worked.with_context(|| format!("{what:?}"))? {
                self.done.count(what);
            }
            let pause = self.dice.random_range(0..3000);
            thread::sleep(Duration::from_micros(pause));
        }
        Ok(())
    }

    /// Does something to slots whose owners are told of it.
    fn take(&mut self, what: Disturbance, ground: &Ground) -> Result<()> {
        let first = self.dice.random_range(0..SLOTS);
        let slots = first..(first + self.dice.random_range(1..5)).min(SLOTS);
        let pause = Duration::from_micros(self.dice.random_range(0..2000));
        let none = self.dice.random();
        let memory = &ground.buffer.memory;
        let (elsewhere, files) = (&self.elsewhere, &self.field.slow);
        ground.disturb(slots, |range| {
            match what {
                Disturbance::Protect => {
                    let less = if none {
                        Protection::None
                    } else {
                        Protection::Read
                    };
                    memory.protect(range.clone(), less)?;
                    thread::sleep(pause);
                    memory.protect(range, Protection::ReadWrite)?;
                }
                Disturbance::Remap => {
                    memory.move_to(range.clone(), elsewhere, range.start)?;
                    thread::sleep(pause);
                    elsewhere.move_to(range.clone(), memory, range.start)?;
                }
                Disturbance::Fail => {
                    let (file, pages) = (slow::number(ground.mode), pages_of(&range));
                    files.ask(&Order::Fail(file, pages.clone()))?;
                    thread::sleep(pause);
                    files.ask(&Order::Mend(file, pages))?;
                }
                Disturbance::Empty | Disturbance::Replace => {
                    memory.advise(range, Advice::DontNeed)?
                }
                _ => {
                    memory.unmap(range.clone())?;
                    thread::sleep(pause);
                    memory.map(range, Backing::Anonymous, Protection::ReadWrite)?;
                }
            }
            Ok(())
        })
    }

    /// Does something that nobody is to notice. Says whether it could be done: some things fail when
    /// others are about the same pages, and that is no fault.
    fn keep(&mut self, what: Disturbance, ground: &Ground) -> Result<bool> {
        let memory = &ground.buffer.memory;
        let huge = self.dice.random_range(0..SIZE / HUGE_PAGE) * HUGE_PAGE;
        let huge = huge..huge + HUGE_PAGE;
        let few = self.few();
        Ok(match what {
            Disturbance::Fork => {
                let life = Duration::from_micros(self.dice.random_range(0..5000));
                let child = memory.fork_scribbler(few, self.dice.random(), life)?;
                if self.dice.random() {
                    child.kill();
                }
                true
            }
            Disturbance::Swap => memory.advise(few, Advice::PageOut).is_ok(),
            Disturbance::Migrate => memory
                .move_to_node(few, self.dice.random_range(0..2))
                .is_ok_and(|moved| moved > 0),
            // All memory is gone through: now and then is enough.
            Disturbance::Compact => {
                const EVERY: u64 = 8;
                self.asked_to_compact += 1;
                self.asked_to_compact % EVERY == 1
                    && fs::write("/proc/sys/vm/compact_memory", "1").is_ok()
            }
            Disturbance::Collapse => memory.advise(huge, Advice::Collapse).is_ok(),
            Disturbance::Split => memory.split(huge).is_ok(),
            _ => unreachable!("{what:?} takes something away"),
        })
    }

    /// Up to two slots' worth of pages, anywhere.
    fn few(&mut self) -> Range<usize> {
        let start = self.dice.random_range(0..SIZE / PAGE) * PAGE;
        let len = self.dice.random_range(1..=2 * SLOT / PAGE) * PAGE;
        start..(start + len).min(SIZE)
    }
}

/// The pages that this range of bytes is.
fn pages_of(range: &Range<usize>) -> Range<usize> {
    range.start / PAGE..range.end / PAGE
}

/// What the kernel's own counters say of what happened: pages that were swapped, moved, split.
pub struct Evidence(Vec<(&'static str, u64)>);

/// The counters, each with what it shows.
const COUNTERS: [(&str, &[&str]); 4] = [
    ("swapped out", &["pswpout"]),
    ("swapped in", &["pswpin"]),
    ("migrated", &["pgmigrate_success"]),
    ("huge pages split", &["thp_split_page", "thp_split_pmd"]),
];

impl Evidence {
    /// The counters now.
    pub fn take() -> Self {
        let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let value = |wanted: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(wanted));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
        };
        let sum = |names: &[&str]| names.iter().map(|name| value(&format!("{name} "))).sum();
        Self(COUNTERS.map(|(what, names)| (what, sum(names))).to_vec())
    }

    /// What has been added since `before`.
    pub fn since(&self, before: &Self) -> Vec<(&'static str, u64)> {
        let pairs = self.0.iter().zip(&before.0);
        pairs
            .map(|((what, now), (_, was))| (*what, now.saturating_sub(*was)))
            .collect()
    }
}
