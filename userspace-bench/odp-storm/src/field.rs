// SPDX-License-Identifier: GPL-2.0
//! What all threads of the storm share: the memory, the late pages, and the sums of the words that all add to.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};
use odp_fixture::env::{Env, Mode};

use crate::{
    ground::{Ground, Nature},
    slow::SlowFiles,
};

/// Words that all owners add to, at the start of the first slot of a ground that is kept. Nobody owns
/// that slot.
pub const WORDS: usize = 8;

/// What the sums of the words must be.
#[derive(Debug, Default)]
pub struct Sums([AtomicU64; WORDS]);

impl Sums {
    /// Notes that `n` was added to `word`.
    pub fn add(&self, word: usize, n: u64) {
        self.0[word].fetch_add(n, Ordering::Relaxed);
    }

    /// Compares them with the words of `ground`, once all owners have ended.
    pub fn check(&self, ground: &Ground) -> Result<()> {
        for (number, sum) in self.0.iter().enumerate() {
            let (found, sum) = (
                ground.buffer.memory.word(8 * number),
                sum.load(Ordering::Relaxed),
            );
            ensure!(
                found == sum,
                "word {number} is {found:#x}, the sum of all that was added is {sum:#x}"
            );
        }
        Ok(())
    }
}

/// What all owners share.
pub struct Field {
    /// The grounds. The first is kept, with the words.
    pub grounds: Vec<Ground>,
    /// Where the pages of those are that are late.
    pub slow: SlowFiles,
    /// The sums of the words.
    pub sums: Sums,
    over: AtomicBool,
    closed: AtomicBool,
}

impl Field {
    /// A ground of every nature in both modes; pages that are late are those of `slow`.
    pub fn new(env: &Env, slow: SlowFiles) -> Result<Self> {
        let mut grounds = Vec::new();
        for nature in Nature::ALL {
            for mode in Mode::ON_DEMAND {
                grounds.push(Ground::new(env, nature, mode, slow.of(mode)?)?);
            }
        }
        Ok(Self {
            grounds,
            slow,
            sums: Sums::default(),
            over: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Whether the storm is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the storm.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether nobody uses the memory any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Nobody uses the memory any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Waits until the storm is over, for at most `time`.
    pub fn wait(&self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time && !self.is_over() {
            thread::sleep(Duration::from_millis(100));
        }
    }
}
