// SPDX-License-Identifier: GPL-2.0

//! What the walks, an invalidation and a mirror cost. The clock is read around the work itself:
//! registering notifiers and making room for results, which a driver does once, is not counted.

use core::ops::ControlFlow;

use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::{Instant, Monotonic};

use hmm::{
    Access, Event, FaultError, HmmPfn, Limits, Memory, Mirror, NoRoom, Observer, PageIndex,
    PageRange, PageState, Pages, Perm, Pfn, Policy, Removal, Run, RwLock, Slot, Waiting, Xlt,
    PMD_ORDER, PMD_PAGES,
};

use crate::abi;
use crate::argument;
use crate::ours;
use crate::question::Question;
use crate::shim;
use crate::theirs::Theirs;

/// One walk, timed.
pub(crate) fn walk(argument: &mut abi::Walk, mm: &MmWithUser) -> Result {
    if argument.reserved != [0; 3] {
        return Err(EINVAL);
    }
    let range = argument::range(mm, argument.start, argument.pages)?;
    let policy = argument::policy(argument.policy)?;
    (argument.nanoseconds, argument.found) = match argument.side {
        abi::OURS_FLAT => ours_flat(mm, range, policy)?,
        abi::OURS_RUNS => ours_by_runs(mm, range, policy)?,
        abi::THEIRS => theirs(mm, range, policy, false)?,
        abi::THEIRS_UNLOCKED => theirs(mm, range, policy, true)?,
        _ => return Err(EINVAL),
    };
    Ok(())
}

fn ours_flat(mm: &MmWithUser, range: PageRange, policy: Policy) -> Result<(u64, u64)> {
    let domain = ours::domain(mm, range)?;
    let mut words = KVVec::from_elem(HmmPfn::ABSENT, range.len() as usize, GFP_KERNEL)?;
    let begun = Instant::<Monotonic>::now();
    ours::by_page(&domain, mm, range, policy, &mut words)?;
    let time = begun.elapsed().as_nanos() as u64;
    let mapped = |word: &&HmmPfn| matches!(word.state(), PageState::Mapped { .. });
    Ok((time, words.iter().filter(mapped).count() as u64))
}

fn ours_by_runs(mm: &MmWithUser, range: PageRange, policy: Policy) -> Result<(u64, u64)> {
    let domain = ours::domain(mm, range)?;
    let mut found = 0;
    let begun = Instant::<Monotonic>::now();
    // As `range` begins and ends with its huge pages, no run leaves it.
    ours::by_runs(&domain, mm, range, policy, |run| found += run.pages)?;
    Ok((begun.elapsed().as_nanos() as u64, found))
}

fn theirs(
    mm: &MmWithUser,
    range: PageRange,
    policy: Policy,
    unlocked: bool,
) -> Result<(u64, u64)> {
    let question = Question {
        range,
        base: policy,
        most: policy,
        requests: None,
        unlocked,
    };
    let mut theirs = Theirs::new(&question)?;
    theirs.walk(mm)?;
    Ok((theirs.nanoseconds(), theirs.found()))
}

/// Forgetting 2 MiB: a table of ours with one huge entry, and an array of C's with 512.
pub(crate) fn zap(argument: &mut abi::Zap, _mm: &MmWithUser) -> Result {
    const MOST: u32 = 100_000;
    if argument.rounds == 0 || argument.rounds > MOST || argument.reserved != 0 {
        return Err(EINVAL);
    }
    let range = PageRange::new(PageIndex::new(PMD_PAGES), PageIndex::new(2 * PMD_PAGES));
    let mut huge = KVec::with_capacity(1, GFP_KERNEL)?;
    huge.push(Slot::default(), GFP_KERNEL)?;
    let table: Translations = Xlt::new(range, huge);
    let table = KBox::pin_init(RwLock::new(table), GFP_KERNEL)?;
    (argument.ours, argument.theirs) = (0, 0);
    for round in 0..argument.rounds {
        if kernel::current!().signal_pending() {
            return Err(EINTR);
        }
        // Neither always profits from what the other left in the caches.
        if round % 2 == 0 {
            argument.ours += zap_huge(&table, range)?;
            argument.theirs += zap_pages(range)?;
        } else {
            argument.theirs += zap_pages(range)?;
            argument.ours += zap_huge(&table, range)?;
        }
    }
    Ok(())
}

/// As in a mirror's chunk.
type Translations = Xlt<KVec<Slot>, KVec<Pages<KVec<Slot>>>>;

fn zap_huge(table: &RwLock<Translations>, range: PageRange) -> Result<u64> {
    let run = Run {
        start: range.start(),
        pfn: Pfn::new(PMD_PAGES),
        pages: PMD_PAGES,
        perm: Perm::ReadWrite,
        order: PMD_ORDER,
        memory: Memory::System,
    };
    let filled = table.write().fill(&run, Perm::ReadWrite, &mut NoRoom);
    let begun = Instant::<Monotonic>::now();
    let zapped = table.write().zap(range, &mut NoRoom, |_, _| {});
    let time = begun.elapsed().as_nanos() as u64;
    if filled.added != PMD_PAGES || zapped != PMD_PAGES {
        return Err(EINVAL);
    }
    Ok(time)
}

fn zap_pages(range: PageRange) -> Result<u64> {
    let (first, pages) = (range.start().get() as usize, range.len() as usize);
    // SAFETY: Works on an array of its own, in a context that may sleep.
    let time = unsafe { shim::hmm_oracle_zap_pages(first, pages) };
    u64::try_from(time).map_err(|_| ENOMEM)
}

/// Counts nothing.
struct Indifferent;

impl Observer for Indifferent {
    type Fault = ();

    fn fault_begins(&self, _page: PageIndex, _access: Access) {}
    fn fault_served(&self, _fault: (), _pages: u64, _extra: u64) {}
    fn fault_failed(&self, _fault: (), _error: FaultError) {}
    fn collided(&self) {}
    fn invalidated(&self, _range: PageRange, _event: Event, _pages: u64) {}
    fn chunk_added(&self, _range: PageRange) {}
    fn chunk_removed(&self, _range: PageRange, _pages: u64, _why: Removal) {}
    fn resized(&self, _before: usize, _after: usize) {}
}

/// The mirrors of one open file. How much memory they take is seen from outside: it is charged to
/// the process's memory cgroup.
#[pin_data]
pub(crate) struct Mirrors {
    #[pin]
    held: Mutex<KVec<Mirror<Indifferent>>>,
}

impl Mirrors {
    /// None.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            held <- new_mutex!(KVec::new()),
        })
    }

    /// Adds what `argument` says.
    pub(crate) fn add(&self, argument: &mut abi::Mirror, mm: &MmWithUser) -> Result {
        const MOST: u64 = 1024;
        let span = argument::span(mm, argument.start, argument.pages)?;
        if argument.mirrors > MOST || argument.touched > argument.pages {
            return Err(EINVAL);
        }
        let end = span.start().saturating_add(argument.touched);
        let touched = PageRange::new(span.start(), end);
        for _ in 0..argument.mirrors {
            let observer = Arc::new(Indifferent, GFP_KERNEL_ACCOUNT)?;
            let mirror = Mirror::new(mm, span, Perm::ReadWrite, Limits::default(), observer)?;
            let read = Some(mirror.owned().permit(Access::Read)?);
            mirror.prefetch(touched, read, Waiting::Allowed, |_, _| ControlFlow::Continue(()))?;
            self.held.lock().push(mirror, GFP_KERNEL)?;
        }
        Ok(())
    }
}
