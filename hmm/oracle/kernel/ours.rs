// SPDX-License-Identifier: GPL-2.0

//! hmm's walk, called as a driver calls it.

use kernel::mm::MmWithUser;
use kernel::prelude::*;

use hmm::{
    fault_until_valid, Event, FaultError, HmmPfn, IntervalNotifier, Invalidate, Owner, PageRange,
    PageState, Perm, PfnArray, Request, Run, Runs, Spin, TimeLimit, Wants,
};

use crate::abi::{State, Word};

/// A driver that remembers nothing of the range.
pub(crate) struct Forgetful;

impl Invalidate for Forgetful {
    type Lock = Spin;

    fn invalidate(&mut self, _range: PageRange, _event: Event) {}

    fn retire(&mut self) {}
}

/// The domain of such a driver.
pub(crate) type Domain = IntervalNotifier<Forgetful>;

/// Registers one for `range`.
pub(crate) fn domain(mm: &MmWithUser, range: PageRange) -> Result<Pin<KBox<Domain>>> {
    KBox::pin_init(
        IntervalNotifier::new(mm, range, Owner::NONE, Forgetful),
        GFP_KERNEL,
    )
}

/// Walks `range`, one word a page.
pub(crate) fn by_page<W: Wants>(
    domain: &Domain,
    mm: &MmWithUser,
    range: PageRange,
    wants: W,
    words: &mut [HmmPfn],
) -> Result<(), FaultError> {
    let request = Request::new(range, wants);
    let room = PfnArray::new(range.start(), words);
    fault_until_valid(domain, mm, &TimeLimit::default(), &request, room).map(|_valid| ())
}

/// How many runs are collected at a time.
const RUNS: usize = 512;

/// Walks `range` and hands out runs. Each piece of the range is valid by itself.
pub(crate) fn by_runs<W: Wants + Copy>(
    domain: &Domain,
    mm: &MmWithUser,
    range: PageRange,
    wants: W,
    mut use_run: impl FnMut(&Run),
) -> Result<(), FaultError> {
    let mut room =
        KVec::from_elem(Run::NONE, RUNS, GFP_KERNEL).map_err(|_| FaultError::NoMemory)?;
    let mut page = range.start();
    while page < range.end() {
        let request = Request::new(PageRange::new(page, range.end()), wants);
        let runs = Runs::in_room(&mut room[..]);
        let valid = fault_until_valid(domain, mm, &TimeLimit::default(), &request, runs)?;
        valid.result().as_slice().iter().for_each(&mut use_run);
        let end = valid.done().end();
        if end <= page {
            // There is room for at least one run, so this would be an error of hmm's.
            return Err(FaultError::Invalid);
        }
        page = end;
    }
    Ok(())
}

/// Our side of a comparison.
pub(crate) struct Ours {
    domain: Pin<KBox<Domain>>,
    range: PageRange,
    by_runs: bool,
    pfns: KVVec<HmmPfn>,
    words: KVVec<u64>,
}

impl Ours {
    /// Registers a notifier for `range` and makes room for the result.
    pub(crate) fn new(mm: &MmWithUser, range: PageRange, by_runs: bool) -> Result<Self> {
        let pages = range.len() as usize;
        Ok(Self {
            domain: domain(mm, range)?,
            range,
            by_runs,
            pfns: KVVec::from_elem(HmmPfn::ABSENT, pages, GFP_KERNEL)?,
            words: KVVec::from_elem(0, pages, GFP_KERNEL)?,
        })
    }

    /// Walks, in the way that was chosen.
    pub(crate) fn walk<W: Wants + Copy>(&mut self, mm: &MmWithUser, wants: W) -> Result {
        self.words.fill(Word::new(State::Absent).0);
        if self.by_runs {
            let (range, words) = (self.range, &mut self.words);
            by_runs(&self.domain, mm, range, wants, |run| {
                expand(run, range, words)
            })?;
        } else {
            by_page(&self.domain, mm, self.range, wants, &mut self.pfns)?;
            for (word, found) in self.words.iter_mut().zip(&self.pfns) {
                *word = neutral(found.state()).0;
            }
        }
        Ok(())
    }

    /// What the last walk found.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
}

fn neutral(state: PageState) -> Word {
    Word::new(match state {
        PageState::Absent => State::Absent,
        PageState::Unusable => State::Error,
        PageState::Mapped {
            pfn, perm, order, ..
        } => State::Valid {
            pfn: pfn.get(),
            writable: perm == Perm::ReadWrite,
            order,
        },
    })
}

/// Enters the pages of `run` that are in `range`.
fn expand(run: &Run, range: PageRange, words: &mut [u64]) {
    let part = run.range().intersection(&range);
    let skipped = part.start().get() - run.start.get();
    let from = (part.start().get() - range.start().get()) as usize;
    let slots = words.iter_mut().skip(from).take(part.len() as usize);
    for (frame, slot) in (run.pfn.add(skipped).get()..).zip(slots) {
        *slot = Word::new(State::Valid {
            pfn: frame,
            writable: run.perm == Perm::ReadWrite,
            order: run.order,
        })
        .0;
    }
}
