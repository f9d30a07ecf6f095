// SPDX-License-Identifier: GPL-2.0

//! The walk over a CPU page table: reports, faults in or refuses page after page.
//!
//! The page table is behind [`AddressSpace`]: the kernel's in `../kernel/tables.rs`, a synthetic
//! one in `walk/tests.rs`.

use crate::addr::{PageIndex, PageRange};
use crate::pfn::Access;
use crate::policy::{Decision, Entry, Policy, Refusal, VmaRights};
use crate::run::{Full, Run, Runs};

/// A virtual memory area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vma {
    /// Its pages.
    pub range: PageRange,
    /// What it allows.
    pub rights: VmaRights,
}

/// One entry of the page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it holds; if it maps memory, the frame of its first page.
    pub entry: Entry,
    /// The first page that it covers.
    pub start: PageIndex,
    /// log2 of how many pages it covers.
    pub order: u32,
}

impl Found {
    /// An entry of this order that covers `page`; entries are aligned to their size.
    #[inline]
    pub fn around(page: PageIndex, order: u32, entry: Entry) -> Self {
        let start = PageIndex::new(page.get() >> order << order);
        Self {
            entry,
            start,
            order,
        }
    }

    /// The pages that it covers.
    #[inline]
    pub fn range(&self) -> PageRange {
        PageRange::new(self.start, self.start.saturating_add(1 << self.order))
    }
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// A page cannot be had.
    Refused(Refusal),
    /// The range was invalidated during the walk: begin again.
    Collided,
    /// Invalidations kept winning until the deadline passed.
    TimedOut,
    /// The address space is gone.
    Exited,
    /// No memory for the bookkeeping.
    NoMemory,
}

/// The address space that is walked. The caller holds it still (in the kernel: the mmap lock).
pub trait AddressSpace {
    /// The area that covers `page` or, if none does, the next one above it.
    fn vma_from(&mut self, page: PageIndex) -> Option<Vma>;

    /// The entry for `page`, which lies in the area that `vma_from` last returned.
    fn entry(&mut self, page: PageIndex) -> Found;

    /// Runs the CPU's fault handler on `page` for `access`.
    fn fault(&mut self, page: PageIndex, access: Access) -> Result<(), FaultError>;

    /// Whether an invalidation has hit the range since the walk began, so that its result will be
    /// thrown away.
    fn collided(&self) -> bool;
}

/// What a walk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The pages meant.
    pub wanted: PageRange,
    /// What is wanted of them.
    pub policy: Policy,
    /// Pages right behind them to take along if they are resident.
    pub ahead: u64,
}

/// Serves `request` and collects the pages found in `runs`.
///
/// Returns the part of the wanted pages that is done, as [`walk`] does.
pub fn serve(
    space: &mut impl AddressSpace,
    request: &Request,
    runs: &mut Runs,
) -> Result<PageRange, FaultError> {
    let done = walk(space, request.wanted, request.policy, runs)?;
    let end = request.wanted.end();
    if request.ahead > 0 && done.end() == end {
        let until = end.saturating_add(request.ahead);
        // A huge entry at the end of the wanted pages was reported whole.
        let from = runs.last().map_or(end, |run| run.range().end().max(end));
        let ahead = PageRange::new(from, until);
        // How far it gets does not matter, and looking on never fails.
        let _ = walk(space, ahead, Policy::Snapshot, runs);
    }
    Ok(done)
}

/// Walks `range` under `policy` and collects the pages found in `runs`.
///
/// Returns the part of `range` that is done: all of it, or less if `runs` is full. Pages of that
/// part that are in no run have nothing a device could use (only under [`Policy::Snapshot`]).
///
/// A huge entry is reported whole: the first and the last run may reach beyond `range`.
pub fn walk(
    space: &mut impl AddressSpace,
    range: PageRange,
    policy: Policy,
    runs: &mut Runs,
) -> Result<PageRange, FaultError> {
    let mut page = range.start();
    while page < range.end() {
        let (rights, until) = match space.vma_from(page) {
            Some(vma) if vma.range.contains(page) => (Some(vma.rights), vma.range.end()),
            Some(above) => (None, above.range.start()),
            None => (None, range.end()),
        };
        let part = PageRange::new(page, until.min(range.end()));
        page = match rights {
            Some(rights) => walk_vma(space, part, rights, policy, runs)?,
            None => skip_hole(part, policy)?,
        };
        if page < part.end() {
            break;
        }
    }
    Ok(PageRange::new(range.start(), page))
}

/// How often the fault handler is called for one page in one walk: a write to a huge page may take
/// one call to split it and another to copy the page.
const TRIES_FOR_A_PAGE: u32 = 4;

/// Walks pages of one area; returns the page after the last one done.
fn walk_vma(
    space: &mut impl AddressSpace,
    part: PageRange,
    rights: VmaRights,
    policy: Policy,
    runs: &mut Runs,
) -> Result<PageIndex, FaultError> {
    let mut page = part.start();
    let mut tries = 0;
    while page < part.end() {
        let found = space.entry(page);
        let end = found.range().end().min(part.end());
        match policy.decide(rights, found.entry) {
            Decision::Report(pfn, perm) => {
                let run = Run {
                    start: found.start,
                    pfn,
                    pages: 1 << found.order,
                    perm,
                    order: found.order,
                };
                if let Err(Full) = runs.push(run) {
                    return Ok(page);
                }
                (page, tries) = (end, 0);
            }
            Decision::Skip => (page, tries) = (end, 0),
            Decision::Fault(access) => {
                // The handler may do nothing and say that all is well: short of memory in an area
                // that may drop its pages. Then the caller's deadline has to count.
                tries += 1;
                if tries > TRIES_FOR_A_PAGE {
                    return Err(FaultError::Collided);
                }
                space.fault(page, access)?;
                if space.collided() {
                    return Err(FaultError::Collided);
                }
            }
            Decision::Refuse(why) => return Err(FaultError::Refused(why)),
        }
    }
    Ok(page)
}

fn skip_hole(part: PageRange, policy: Policy) -> Result<PageIndex, FaultError> {
    match policy.decide_unmapped() {
        Decision::Refuse(why) => Err(FaultError::Refused(why)),
        _ => Ok(part.end()),
    }
}

#[cfg(test)]
mod tests;
