// SPDX-License-Identifier: GPL-2.0
//! The memory of a storm: what may happen to it, who owns which part of it, and what must be in it.
//!
//! A [`Ground`] is memory of one nature, in [`Slot`]s. Each slot has one owner, a thread that keeps a
//! copy of what must be there. Whoever takes a slot's pages away says so in its epoch: as long as that
//! stands still, every byte has to be exactly what the owner's operations have made of it.

use std::{
    fmt,
    fs::File,
    ops::Range,
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex, MutexGuard, PoisonError,
    },
};

use anyhow::Result;
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::Access;
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE},
    pattern::Pattern,
    userfault::Userfault,
};

/// The size of a slot.
pub const SLOT: usize = 8 * PAGE;
/// The size of a ground.
pub const SIZE: usize = 2 * HUGE_PAGE;
/// How many slots a ground has.
pub const SLOTS: usize = SIZE / SLOT;

/// What pages have that others bring.
pub const GIVEN: Pattern = Pattern::new(1 << 60);

/// What happens to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// It is always there: swapped out, migrated, copied for a child, its huge pages split and made.
    /// Every access has to succeed, and nothing may be lost.
    Kept,
    /// It becomes read-only, is out of reach, or is elsewhere for a while, and comes back as it was. An
    /// access may be refused meanwhile, but nothing may be lost.
    Guarded,
    /// Its pages are thrown away and are zero after that. Every access has to succeed.
    Emptied,
    /// It is unmapped and mapped again. An access may be refused, and pages are zero after that.
    Unmapped,
    /// It is of a file whose pages take their time, and now and then cannot be had. An access may be refused
    /// meanwhile, but nothing may be lost.
    Late,
    /// Its pages are thrown away, and another program brings new ones in its own time. Every access has to
    /// succeed.
    Served,
}

impl Nature {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Kept,
        Self::Guarded,
        Self::Emptied,
        Self::Unmapped,
        Self::Late,
        Self::Served,
    ];

    /// Whether an access may be refused while something happens.
    pub fn refuses(self) -> bool {
        matches!(self, Self::Guarded | Self::Unmapped | Self::Late)
    }

    /// Whether a page may be as new after something has happened.
    pub fn forgets(self) -> bool {
        matches!(self, Self::Emptied | Self::Unmapped | Self::Served)
    }

    /// What is in `len` bytes at `offset` that nothing has been written to.
    pub fn new_bytes(self, offset: usize, len: usize) -> Vec<u8> {
        match self {
            Self::Late | Self::Served => GIVEN.bytes(offset as u64, len),
            _ => vec![0; len],
        }
    }
}

impl fmt::Display for Nature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Guarded => "guarded",
            Self::Emptied => "emptied",
            Self::Unmapped => "unmapped",
            Self::Late => "late",
            Self::Served => "served",
        })
    }
}

/// A part of a ground.
#[derive(Debug, Default)]
pub struct Slot {
    /// Held while the pages are not there for the CPU, and while the CPU looks at them.
    lock: Mutex<()>,
    /// Odd while something happens to the pages, and another number after that.
    epoch: AtomicU64,
}

impl Slot {
    /// Keeps the pages where the CPU can reach them.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        // The lock protects no data that a panic could have left half done.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of what has happened to the pages.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

/// Memory of one nature.
#[derive(Debug)]
pub struct Ground {
    /// The memory and its region.
    pub buffer: Buffer,
    /// What happens to it.
    pub nature: Nature,
    /// How it is registered.
    pub mode: Mode,
    slots: Vec<Slot>,
    /// What brings the pages of memory that is served.
    pub faults: Option<Userfault>,
}

impl Ground {
    /// A new one, that nothing has been written to; with memory of `file`, if it is late.
    pub fn new(env: &Env, nature: Nature, mode: Mode, file: &File) -> Result<Self> {
        let memory = match nature {
            Nature::Late => Mapping::new(SIZE, Backing::Shared(file), Protection::ReadWrite)?,
            _ => anonymous(SIZE)?,
        };
        if nature == Nature::Kept {
            memory.advise(0..SIZE, Advice::HugePage)?;
        }
        let faults = match nature {
            Nature::Served => Some(Userfault::new(&memory, 0..SIZE)?),
            _ => None,
        };
        Ok(Self {
            buffer: env.cover(mode, memory, Access::ALL)?,
            nature,
            mode,
            faults,
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        })
    }

    /// One of its slots.
    pub fn slot(&self, number: usize) -> &Slot {
        &self.slots[number]
    }

    /// Where a slot is in the memory.
    pub fn range(slots: &Range<usize>) -> Range<usize> {
        slots.start * SLOT..slots.end * SLOT
    }

    /// Lets `change` do something to the pages of `slots`, after which the CPU can reach them again.
    pub fn disturb(
        &self,
        slots: Range<usize>,
        change: impl FnOnce(Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mine = &self.slots[slots.clone()];
        // In the order of their numbers, all of one ground: two who do this never wait for each other.
        let _held: Vec<_> = mine.iter().map(Slot::hold).collect();
        let turn = || {
            for slot in mine {
                slot.epoch.fetch_add(1, Ordering::SeqCst);
            }
        };
        turn();
        let result = change(Self::range(&slots));
        turn();
        result
    }
}
