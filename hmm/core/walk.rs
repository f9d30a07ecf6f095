// SPDX-License-Identifier: GPL-2.0

//! The walk over the CPU's page table: it reports, faults in or refuses each page.
//!
//! The walk reads the page table through [`AddressSpace`]: the kernel's in `../kernel/page_table.rs`, a synthetic
//! one in `walk/tests.rs`.

use core::iter::FusedIterator;

use crate::addr::{PageIndex, PageRange};
use crate::collect::{Collect, Taken};
use crate::pfn::{Access, Memory, Owner, Perm, Pfn};
use crate::policy::{Decision, Entry, Policy, Refusal, VmaRights, Wants};
use crate::run::Run;

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
    /// Its kind; if it maps memory, with the frame of its first page.
    pub entry: Entry,
    /// The first page that it covers.
    pub start: PageIndex,
    /// log2 of how many pages it covers.
    pub order: u32,
}

impl Found {
    /// The entry of order `order` that covers `page`; entries are aligned to their size.
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

/// Why a fault failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// A page cannot be had.
    Refused(Refusal),
    /// The range was invalidated during the walk: repeat it.
    Collided,
    /// Invalidations of these pages came in between until the deadline passed.
    TimedOut,
    /// The address space is gone.
    Exited,
    /// No memory for the page or for the bookkeeping.
    NoMemory,
    /// The calling thread was killed.
    Interrupted,
    /// The fault would have to wait, which [`Waiting::Forbidden`] forbids.
    WouldWait,
    /// The device has not taken the translations.
    Device,
    /// An invalid request: an empty range, or one that is not all in user space or in the domain.
    Invalid,
}

/// Whether a fault may wait for I/O, for the handler of a userfaultfd, or for the holder of a lock that waits for one
/// of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It may, without a limit.
    Allowed,
    /// It must not, as others wait for this thread: it fails with [`FaultError::WouldWait`].
    Forbidden,
}

/// Whether the fault handler dropped the lock that keeps the address space as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It did not: the area is the same.
    LockHeld,
    /// It did, to wait for somebody, and the address space may have changed: look for the area again.
    LockDropped,
}

/// The address space that is walked. A lock (in the kernel: the mmap lock) keeps its areas as they are, but
/// for calls of the fault handler that return [`Handled::LockDropped`].
pub trait AddressSpace {
    /// The area that covers `page` or, if there is none, the next one above (`find_vma`).
    fn vma_from(&mut self, page: PageIndex) -> Option<Vma>;

    /// The entry for `page`, which lies in the area that `vma_from` last returned. The caller is likely to ask for
    /// those up to `until` next.
    fn entry(&mut self, page: PageIndex, until: PageIndex) -> Found;

    /// The frames of the entries after `found`, which `entry` has just returned and which maps memory: as
    /// long as they map as many pages each, with the same rights and to the same kind of memory, and end
    /// before `until` or there.
    ///
    /// May yield fewer than there are. It saves a decision about each of them.
    fn alike(&self, found: &Found, until: PageIndex) -> impl FusedIterator<Item = Pfn> {
        let _ = (found, until);
        core::iter::empty()
    }

    /// How many entries after `found`, which `entry` has just returned and which is absent, are absent,
    /// too, and end before `until` or there. May be fewer than there are.
    fn absent_after(&self, found: &Found, until: PageIndex) -> u64 {
        let _ = (found, until);
        0
    }

    /// Runs the CPU's fault handler on `pages` for `access`, one after the other, until it drops the lock or
    /// fails.
    fn fault(&mut self, pages: PageRange, access: Access) -> Result<Handled, FaultError>;

    /// Whether an invalidation has hit the range since the walk began, so that its result is useless.
    fn collided(&self) -> bool;
}

/// A request to a range fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<W = Policy> {
    /// The pages.
    pub wanted: PageRange,
    /// The policy for them, or a policy for each.
    pub wants: W,
    /// How many pages after them to report as well if they are resident: fault-around.
    pub around: u64,
    /// The owner of device memory that is reported instead of being brought back.
    pub owner: Owner,
}

impl<W> Request<W> {
    /// A request for `wanted` by a driver without device memory.
    pub const fn new(wanted: PageRange, wants: W) -> Self {
        Self {
            wanted,
            wants,
            around: 0,
            owner: Owner::NONE,
        }
    }

    /// The pages wanted, and those of fault-around.
    #[inline]
    pub const fn pages(&self) -> PageRange {
        let wanted = self.wanted;
        PageRange::new(wanted.start(), wanted.end().saturating_add(self.around))
    }
}

/// Serves `request` and collects the pages found in `found`.
///
/// Returns the part of the wanted pages that is done, as [`walk`] does.
pub fn serve<W: Wants>(
    space: &mut impl AddressSpace,
    request: &Request<W>,
    found: &mut impl Collect,
) -> Result<PageRange, FaultError> {
    let wanted = request.wanted;
    let mut walk = Walk::new(space, &request.wants, found);
    let done = walk.range(wanted)?;
    // A huge entry at the end of the wanted pages was reported whole.
    let from = walk.reached.max(wanted.end());
    if request.around > 0 && done.end() == wanted.end() {
        let around = PageRange::new(from, wanted.end().saturating_add(request.around));
        let mut walk = Walk::new(space, &Policy::Snapshot, found);
        walk.reached = from;
        // How far it gets does not matter, and a snapshot never fails.
        let _ = walk.range(around);
    }
    Ok(done)
}

/// Walks `range`, of whose pages `wants` says what is wanted, and collects those found in `found`.
///
/// Returns the part of `range` that is done: all of it, or less if `found` is full. Pages of that
/// part that were not reported have nothing a device could use at the moment (only where
/// [`Policy::Snapshot`] was wanted).
///
/// A huge entry is reported whole if all its pages have the same policy: the first and the last run may reach
/// beyond `range`.
pub fn walk<W: Wants>(
    space: &mut impl AddressSpace,
    range: PageRange,
    wants: &W,
    found: &mut impl Collect,
) -> Result<PageRange, FaultError> {
    Walk::new(space, wants, found).range(range)
}

/// How often a walk calls the fault handler for one page: a write to a huge page may take one call to split it and
/// another to copy the page.
const TRIES_FOR_A_PAGE: u32 = 4;

/// The most absent pages in a row that the fault handler is called for before the page table is read again: one at
/// first, and twice as many each time that the handler brought in no more than that. It may bring in a huge page,
/// or pages around the one that it is called for.
const LONGEST_BURST: u64 = 64;

/// How a walk through an area ended.
enum Left {
    /// At the area's end.
    Through,
    /// Before this page, as there is no room to report it.
    Full(PageIndex),
    /// At this page, as the address space may have changed.
    LockDropped(PageIndex),
}

struct Walk<'a, S, W, C> {
    space: &'a mut S,
    wants: &'a W,
    found: &'a mut C,
    /// The page after the last one reported.
    reached: PageIndex,
    /// Calls of the fault handler for the page that the walk is at.
    tries: u32,
    /// How many pages the fault handler was last called for in a row, and the page after them.
    burst: u64,
    burst_end: PageIndex,
}

impl<'a, S: AddressSpace, W: Wants, C: Collect> Walk<'a, S, W, C> {
    fn new(space: &'a mut S, wants: &'a W, found: &'a mut C) -> Self {
        Self {
            space,
            wants,
            found,
            reached: PageIndex::new(0),
            tries: 0,
            burst: 1,
            burst_end: PageIndex::new(u64::MAX),
        }
    }

    fn range(&mut self, range: PageRange) -> Result<PageRange, FaultError> {
        let mut page = range.start();
        while page < range.end() {
            let (rights, until) = match self.space.vma_from(page) {
                Some(vma) if vma.range.contains(page) => (vma.rights, vma.range.end()),
                Some(above) => (VmaRights::NONE, above.range.start()),
                None => (VmaRights::NONE, range.end()),
            };
            let part = PageRange::new(page, until.min(range.end()));
            let left = match rights.usable() {
                true => self.area(part, rights)?,
                false => self.hole(part)?,
            };
            page = match left {
                Left::Through => part.end(),
                Left::LockDropped(page) => page,
                Left::Full(page) => return Ok(PageRange::new(range.start(), page)),
            };
        }
        Ok(range)
    }

    /// Pages of one area.
    fn area(&mut self, part: PageRange, rights: VmaRights) -> Result<Left, FaultError> {
        let mut page = part.start();
        while page < part.end() {
            let (policy, until) = self.wants.at(page);
            let until = until.min(part.end());
            let found = self.space.entry(page, until);
            let pages = pages_of(&found, page, until);
            match policy.decide(rights, found.entry) {
                Decision::Report(pfn, perm, memory) => {
                    let first = run_of(
                        &found,
                        self.reported(&found, pages, part),
                        pfn,
                        perm,
                        memory,
                    );
                    // The same would be decided about those that follow.
                    let following = self.space.alike(&found, until);
                    let Taken { taken, full } = self.found.entries(first, following);
                    if let Some(more) = taken.checked_sub(1) {
                        let more = more << found.order;
                        self.reached = first.range().end().saturating_add(more);
                        page = pages.end().saturating_add(more);
                        self.tries = 0;
                    }
                    if full {
                        return Ok(Left::Full(page));
                    }
                    continue;
                }
                Decision::Skip => {}
                Decision::Unusable => self.found.unusable(pages),
                Decision::Fault(access) => match self.fault(page, &found, access, until)? {
                    Handled::LockHeld => continue,
                    Handled::LockDropped => return Ok(Left::LockDropped(page)),
                },
                Decision::Refuse(why) => return Err(FaultError::Refused(why)),
            }
            (page, self.tries) = (pages.end(), 0);
        }
        Ok(Left::Through)
    }

    /// How much of the entry `found` is reported: all of it if `pages` are all that is in `part`, and none of it
    /// was reported before the address space may have changed.
    #[inline]
    fn reported(&self, found: &Found, pages: PageRange, part: PageRange) -> PageRange {
        match found.order {
            0 => pages,
            _ if found.start >= self.reached && found.range().intersection(&part) == pages => {
                found.range()
            }
            _ => pages,
        }
    }

    /// Faults in `page`, whose entry is `found`, and absent pages after it.
    fn fault(
        &mut self,
        page: PageIndex,
        found: &Found,
        access: Access,
        until: PageIndex,
    ) -> Result<Handled, FaultError> {
        // The handler may succeed without bringing the page in: short of memory, in an area with
        // droppable pages. The caller's deadline bounds this.
        self.tries += 1;
        if self.tries > TRIES_FOR_A_PAGE {
            return Err(FaultError::Collided);
        }
        let pages = self.next_burst(page, found, until);
        self.found.handler_called();
        let handled = self.space.fault(pages, access)?;
        if handled == Handled::LockHeld && pages.end() >= until {
            // A check would save nothing any more: the validation of the result finds a collision.
            return Ok(handled);
        }
        match self.space.collided() {
            true => Err(FaultError::Collided),
            false => Ok(handled),
        }
    }

    /// The pages to call the fault handler for: `page`, whose entry is `found`, and some after it.
    fn next_burst(&mut self, page: PageIndex, found: &Found, until: PageIndex) -> PageRange {
        let one = PageRange::new(page, page.saturating_add(1));
        let goes_on = page == self.burst_end;
        if found.entry != Entry::Absent || found.order > 0 {
            // In a larger hole, the first page may bring in a huge one. If not, this was no interruption.
            if found.entry == Entry::Absent && goes_on {
                self.burst_end = one.end();
            }
            return one;
        }
        self.burst = match goes_on {
            true => (self.burst * 2).min(LONGEST_BURST),
            false => 1,
        };
        let more = match self.burst {
            1 => 0,
            burst => self.space.absent_after(found, until).min(burst - 1),
        };
        self.burst_end = page.saturating_add(1 + more);
        PageRange::new(page, self.burst_end)
    }

    /// Pages that no area covers, or one that devices cannot use.
    fn hole(&mut self, part: PageRange) -> Result<Left, FaultError> {
        let mut page = part.start();
        while page < part.end() {
            let (policy, until) = self.wants.at(page);
            if let Decision::Refuse(why) = policy.decide_unmapped() {
                return Err(FaultError::Refused(why));
            }
            let alike = PageRange::new(page, until.min(part.end()));
            self.found.unusable(alike);
            page = alike.end();
        }
        Ok(Left::Through)
    }
}

/// The pages from `page` on that lie in the entry `found` and before `until`.
#[inline]
fn pages_of(found: &Found, page: PageIndex, until: PageIndex) -> PageRange {
    // Most entries are of one page.
    let end = match found.order {
        0 => page.saturating_add(1),
        _ => found.range().end().min(until),
    };
    PageRange::new(page, end)
}

/// The pages `reported` of the entry `found`.
#[inline]
fn run_of(found: &Found, reported: PageRange, pfn: Pfn, perm: Perm, memory: Memory) -> Run {
    Run {
        start: reported.start(),
        pfn: pfn.add(reported.start().get() - found.start.get()),
        pages: reported.len(),
        perm,
        order: found.order,
        memory,
    }
}

#[cfg(test)]
mod tests;
