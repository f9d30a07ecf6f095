// SPDX-License-Identifier: GPL-2.0

//! The range fault: reads a range of a process's page table and faults in the pages that are wanted.
//!
//! Drivers call [`fault_until_valid`]. It repeats [`range_fault`] until its result is valid, by the retry loop
//! of [`crate::seq`]; [`range_fault`] is the walk of [`crate::walk`] over the page table of
//! [`crate::page_table`].

use core::cell::Cell;

use kernel::mm::MmWithUser;
use kernel::time::{Delta, Instant, Monotonic};

use crate::addr::{PageIndex, PageRange};
use crate::collect::{Collect, First};
use crate::interval::{IntervalNotifier, Invalidate};
use crate::page_table::{Batch, LockedMm, MmapWriteLock};
use crate::pfn::Owner;
use crate::policy::{Policy, Wants};
use crate::process::killed;
use crate::seq::{until_valid, Deadline, Domain, Hold, Sequence, Unread, ValidRange};
use crate::walk::{serve, walk, AddressSpace, FaultError, Request, Waiting};

/// How long a fault may lose against invalidations before it fails.
///
/// The time starts with the first collision: most faults never look at a clock. Waiting of the CPU's fault
/// handler, for a disk or a userfaultfd handler, counts only after a collision.
pub struct TimeLimit {
    limit: Delta,
    first: Cell<Option<Instant<Monotonic>>>,
}

impl TimeLimit {
    /// 10 s. Ten times what drivers in C allow (`HMM_RANGE_DEFAULT_TIMEOUT`): a fault on many pages that
    /// have to be copied collides with its own copies, one by one, and each may wait for swap.
    pub const USUAL: Delta = Delta::from_millis(10_000);

    /// For faults that must not wait: longer than most storms of invalidations, and short for those who wait for
    /// this fault.
    const SHORT: Delta = Delta::from_millis(100);

    /// A limit for one fault.
    pub const fn new(limit: Delta) -> Self {
        Self {
            limit,
            first: Cell::new(None),
        }
    }
}

impl From<Waiting> for TimeLimit {
    fn from(waiting: Waiting) -> Self {
        Self::new(match waiting {
            Waiting::Allowed => Self::USUAL,
            Waiting::Forbidden => Self::SHORT,
        })
    }
}

impl Default for TimeLimit {
    fn default() -> Self {
        Self::new(Self::USUAL)
    }
}

impl Deadline for TimeLimit {
    fn passed(&self) -> bool {
        match self.first.get() {
            Some(first) => first.elapsed() >= self.limit,
            None => {
                self.first.set(Some(Instant::now()));
                false
            }
        }
    }
}

/// Serves `request` on `mm`, which `domain` watches, and puts the pages found into `result`, an empty
/// [`crate::Runs`] or [`crate::PfnArray`]. Takes and releases the mmap lock; sleeps. The caller holds neither
/// the mmap lock nor a notifier's.
///
/// The result covers the wanted pages from the first on: all of them, or as many as `result` had room
/// for ([`ValidRange::done`]). It holds the domain's lock: the pages found stay valid until it is dropped.
///
/// The mmap lock is not held while the CPU's fault handler waits for a disk or for the handler of a
/// userfaultfd. A fault that has collided many times takes it for writing, which ends the invalidations that
/// the process itself causes; then it is held while a disk is read, too.
///
/// ```no_run
/// # #![no_std]
/// # use hmm::{fault_until_valid, Access, FaultError, IntervalNotifier, Invalidate, PageRange, Policy, Request};
/// # use hmm::{Run, Runs, TimeLimit};
/// # use kernel::mm::MmWithUser;
/// # trait PageTable: Invalidate {
/// #     fn enter(&mut self, run: &Run);
/// # }
/// # fn fault<T: PageTable>(
/// #     notifier: &IntervalNotifier<T>,
/// #     mm: &MmWithUser,
/// #     pages: PageRange,
/// # ) -> Result<(), FaultError> {
/// let request = Request::new(pages, Policy::Fault(Access::Write));
/// let mut valid = fault_until_valid(notifier, mm, &TimeLimit::default(), &request, Runs::new())?;
/// let (runs, table) = valid.split();
/// for run in runs.as_slice() {
///     table.enter(run);
/// }
/// // An invalidation waits until `valid` is dropped.
/// # Ok(())
/// # }
/// # fn main() {}
/// ```
///
/// # Errors
///
/// - [`FaultError::Invalid`] (`EINVAL`): no pages are wanted, not all of them and of those around are in the
///   domain, or the domain watches another address space.
/// - [`FaultError::Refused`]: a page was asked for that cannot be had. `NoPage` (`EFAULT`): no area
///   there, no right to read it, memory that devices cannot use, or the CPU's fault handler failed;
///   `Forbidden` (`EPERM`): a write where the area allows none.
/// - [`FaultError::TimedOut`] (`ETIMEDOUT`): invalidations of these pages kept coming in between for
///   the time of `limit`.
/// - [`FaultError::Interrupted`] (`EINTR`): the calling thread has been killed.
/// - [`FaultError::NoMemory`] (`ENOMEM`): no memory for a page.
///
/// The C counterpart is `hmm_range_fault` in `mm/hmm.c`, with the loop that its callers write.
pub fn fault_until_valid<'d, T: Invalidate, W: Wants, R: Collect>(
    domain: &'d IntervalNotifier<T>,
    mm: &MmWithUser,
    limit: &TimeLimit,
    request: &Request<W>,
    result: R,
) -> Result<ValidRange<'d, IntervalNotifier<T>, R>, FaultError> {
    let pages = request.pages();
    let watched = pages.intersection(&domain.range()) == pages && domain.watches(mm);
    if request.wanted.is_empty() || !watched {
        return Err(FaultError::Invalid);
    }
    until_valid(
        domain,
        limit,
        LockEscalation(mm, Waiting::Allowed),
        result,
        |seq, write_lock, found| range_fault(mm, seq, write_lock, request, Waiting::Allowed, found),
        || (),
    )
}

/// How often a fault may collide before it takes the mmap lock for writing.
const COLLISIONS_BEFORE_ESCALATION: u32 = 8;

/// Takes the mmap lock for writing once a fault has collided [`COLLISIONS_BEFORE_ESCALATION`] times: changes
/// that the process makes to its own address space wait for the fault. Reclaim, migration and changes to a
/// mapped file go on, as they do not take that lock; against these a fault wins sooner or later, or runs into
/// its time limit.
pub(crate) struct LockEscalation<'a>(pub(crate) &'a MmWithUser, pub(crate) Waiting);

impl<'a> Hold for LockEscalation<'a> {
    type Held = Option<MmapWriteLock<'a>>;

    #[inline]
    fn hold(&mut self, collisions: u32) -> Self::Held {
        match collisions >= COLLISIONS_BEFORE_ESCALATION {
            true => MmapWriteLock::take(self.0, self.1),
            false => None,
        }
    }
}

/// Serves `request` once. Takes and releases the mmap lock for reading, unless `write_lock` holds it; sleeps.
///
/// Returns the part of the wanted pages that is done. `found` can be read once it has been validated.
///
/// # Errors
///
/// [`FaultError::Collided`] if the wanted pages were invalidated meanwhile; [`FaultError::WouldWait`];
/// otherwise those of [`fault_until_valid`].
pub(crate) fn range_fault<D: Domain, W: Wants, R: Collect>(
    mm: &MmWithUser,
    seq: &Sequence<'_, D>,
    write_lock: &mut Option<MmapWriteLock<'_>>,
    request: &Request<W>,
    waiting: Waiting,
    found: &mut Unread<R>,
) -> Result<PageRange, FaultError> {
    if killed() {
        return Err(FaultError::Interrupted);
    }
    let mut batch = Batch::new();
    let collided = || seq.collided(request.wanted);
    let mut space = LockedMm::lock(
        mm,
        write_lock,
        &mut batch,
        request.owner,
        waiting,
        &collided,
    )?;
    serve(&mut space, request, found)
}

/// Calls `look` on the address space as it is. Takes and releases the mmap lock for reading; sleeps.
fn with_locked<R>(
    mm: &MmWithUser,
    waiting: Waiting,
    look: impl FnOnce(&mut LockedMm<'_, '_>) -> Result<R, FaultError>,
) -> Result<R, FaultError> {
    let (mut write_lock, mut batch) = (None, Batch::new());
    let never = || false;
    let mut space = LockedMm::lock(
        mm,
        &mut write_lock,
        &mut batch,
        Owner::NONE,
        waiting,
        &never,
    )?;
    look(&mut space)
}

/// The first page of `range` that is in memory: a hint. Takes and releases the mmap lock for reading; sleeps.
///
/// # Errors
///
/// [`FaultError::WouldWait`], [`FaultError::Interrupted`].
pub(crate) fn first_resident(
    mm: &MmWithUser,
    range: PageRange,
    waiting: Waiting,
) -> Result<Option<PageIndex>, FaultError> {
    with_locked(mm, waiting, |space| {
        let mut first = First::default();
        walk(space, range, &Policy::Snapshot, &mut first)?;
        Ok(first.page().map(|page| page.max(range.start())))
    })
}

/// The part of `range` that the first area with persistent memory in it covers: a hint. Takes and releases the mmap lock
/// for reading; sleeps.
///
/// # Errors
///
/// [`FaultError::WouldWait`], [`FaultError::Interrupted`].
pub(crate) fn first_persistent(
    mm: &MmWithUser,
    range: PageRange,
    waiting: Waiting,
) -> Result<Option<PageRange>, FaultError> {
    with_locked(mm, waiting, |space| {
        let mut page = range.start();
        while page < range.end() {
            let Some(vma) = space.vma_from(page) else {
                break;
            };
            if space.is_persistent() {
                let part = vma.range.intersection(&range);
                return Ok((!part.is_empty()).then_some(part));
            }
            page = vma.range.end();
        }
        Ok(None)
    })
}

/// Whether an area covers any of `pages`. Takes and releases the mmap lock for reading; sleeps.
///
/// # Errors
///
/// [`FaultError::WouldWait`], [`FaultError::Interrupted`].
pub(crate) fn has_vma(
    mm: &MmWithUser,
    pages: PageRange,
    waiting: Waiting,
) -> Result<bool, FaultError> {
    with_locked(mm, waiting, |space| {
        let next = space.vma_from(pages.start());
        Ok(next.is_some_and(|vma| !vma.range.intersection(&pages).is_empty()))
    })
}
