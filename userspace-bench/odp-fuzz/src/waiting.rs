// SPDX-License-Identifier: GPL-2.0
//! Pages that never come, and what is taken down meanwhile, at random.
//!
//! One process withholds the pages of a file ([`host`]). Others, one after the other, have many who wait for such
//! pages at once, and end things meanwhile in any order ([`life`]), at last themselves. What is one such wait, and
//! what may come of it, is a [`case`].

mod case;
mod host;
mod life;

use std::{collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use odp_fixture::waiting::Ending;
use serde::{Deserialize, Serialize};

pub use host::all;
pub use life::play;

/// The part of a process that waits.
pub const ROLE: &str = "wait";

/// What ought to be over at once is over within this, however busy the machine is. What waits for the page
/// takes for ever, or the fifty seconds after which soft-RoCE gives up.
const PROMPT: Duration = Duration::from_secs(40);

/// What a process that waits is told first.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    seed: u64,
    /// The file whose pages do not come, and how many it has.
    file: PathBuf,
    pages: usize,
    /// Those that are for this process.
    own: Range<usize>,
}

/// What a process that waits has to say, or to ask for. It goes on when it gets an answer.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Are all of these pages waited for?
    Asked(Vec<usize>),
    /// These pages are to come.
    Release(Vec<Range<usize>>),
    /// It goes, or is to be killed.
    Leave(Leave),
}

/// How a process ends.
#[derive(Debug, Serialize, Deserialize)]
struct Leave {
    how: Ending,
    /// Pages that nothing may have touched once it is gone.
    untouched: Vec<Range<usize>>,
    /// How often what became of a case.
    tally: BTreeMap<String, u64>,
}
