// SPDX-License-Identifier: GPL-2.0

//! The sequence protocol between a fault and the invalidations that race with it, as types.
//!
//! The steps are those of [`Sequence`]; [`until_valid`] does all of them.

use core::iter::FusedIterator;
use core::ops::{Deref, DerefMut};

use crate::addr::{PageIndex, PageRange};
use crate::collect::{Collect, Full, Taken};
use crate::pfn::Pfn;
use crate::run::Run;
use crate::walk::FaultError;

/// A range of pages with a sequence number and a lock, in which faults and invalidations collide.
pub trait Domain {
    /// Proof that the lock is held for writing. Invalidations of the domain wait for it.
    type Guard<'d>
    where
        Self: 'd;

    /// Waits until no invalidation is under way; returns the sequence number. Sleeps.
    fn read_begin(&self) -> u64;

    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;

    /// Whether an invalidation of any of `pages` has come since `seq` was returned. May be true without one, but
    /// never misses one, as the lock is held.
    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool;

    /// The same without the lock: `true` is as reliable, `false` may be out of date.
    fn may_have_collided(&self, seq: u64, pages: PageRange) -> bool;
}

/// How many ranges a [`History`] remembers.
const REMEMBERED: usize = 3;

/// The last invalidations of a domain, so that a fault is repeated only for one of its own pages.
///
/// A range that is invalidated repeatedly takes one place.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// How many there were; wraps.
    count: u64,
    /// Low 32 bits of the sequence number of the newest evicted range. After 2^32 invalidations it may look newer, which
    /// only causes a spurious retry.
    forgotten: u32,
    /// The last invalidation in each of the ranges.
    last: [u32; REMEMBERED],
    ranges: [PageRange; REMEMBERED],
}

impl History {
    /// No invalidations. They are counted from `count` on.
    pub const fn new(count: u64) -> Self {
        Self {
            count,
            forgotten: count as u32,
            last: [count as u32; REMEMBERED],
            ranges: [NOTHING; REMEMBERED],
        }
    }

    /// The sequence number: how many invalidations there were.
    pub const fn seq(&self) -> u64 {
        self.count
    }

    /// Records an invalidation of `range`.
    pub fn record(&mut self, range: PageRange) {
        self.count = self.count.wrapping_add(1);
        // Merge only into a range at most twice as large; otherwise one large range would absorb all small ones.
        let alike = |known: &PageRange| {
            known.start() <= range.start()
                && range.end() <= known.end()
                && known.len() <= range.len().wrapping_mul(2)
        };
        let index = match self.ranges.iter().position(alike) {
            Some(index) => index,
            None => {
                let oldest = self.oldest();
                if self.age(self.last[oldest]) < self.age(self.forgotten) {
                    self.forgotten = self.last[oldest];
                }
                self.ranges[oldest] = range;
                oldest
            }
        };
        self.last[index] = self.count as u32;
    }

    fn oldest(&self) -> usize {
        let mut oldest = 0;
        for index in 1..REMEMBERED {
            if self.age(self.last[index]) >= self.age(self.last[oldest]) {
                oldest = index;
            }
        }
        oldest
    }

    /// How many invalidations have come after number `last`.
    fn age(&self, last: u32) -> u32 {
        (self.count as u32).wrapping_sub(last)
    }

    /// Whether any invalidation since `seq` may have touched `pages`.
    #[inline]
    pub fn touched_since(&self, seq: u64, pages: PageRange) -> bool {
        // As a rule there was none.
        self.count != seq && self.touched_after(seq, pages)
    }

    fn touched_after(&self, seq: u64, pages: PageRange) -> bool {
        let Ok(since) = u32::try_from(self.count.wrapping_sub(seq)) else {
            return true;
        };
        let mut remembered = self.last.iter().zip(&self.ranges);
        self.age(self.forgotten) < since
            || remembered.any(|(last, range)| self.age(*last) < since && range.overlaps(&pages))
    }
}

/// What a domain's lock protects: the driver's data and the last invalidations. Derefs to the data.
pub struct Watched<T> {
    history: History,
    data: T,
}

impl<T> Watched<T> {
    /// `data`, and no invalidations; they are counted from `count` on.
    pub const fn new(data: T, count: u64) -> Self {
        Self {
            history: History::new(count),
            data,
        }
    }

    /// The sequence number.
    #[inline]
    pub const fn seq(&self) -> u64 {
        self.history.seq()
    }

    /// Whether any invalidation since `seq` may have touched `pages`.
    #[inline]
    pub fn touched_since(&self, seq: u64, pages: PageRange) -> bool {
        self.history.touched_since(seq, pages)
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for Watched<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// A lock around [`Watched`] data: a spinlock, or a mutex whose holder may sleep.
pub trait WatchedLock<T> {
    /// Proof that the lock is held exclusively.
    type Guard<'a>: DerefMut<Target = Watched<T>>
    where
        Self: 'a;

    /// Whether taking the lock, and holding it, may sleep.
    const SLEEPS: bool;

    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;

    /// Takes the lock if nobody has it. Does not sleep.
    fn try_lock(&self) -> Option<Self::Guard<'_>>;

    /// Calls `look` on the data. The lock may be held shared for it.
    fn look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> R;

    /// The same where nothing may sleep; `None` if somebody holds the lock, and may sleep.
    fn try_look<R>(&self, look: impl FnOnce(&Watched<T>) -> R) -> Option<R>;
}

/// The body of the notifier's callback: takes the lock, closes the sequence and calls `zap`. Returns false, with
/// nothing done, if the invalidation is refused.
///
/// An invalidation that is not `blockable` must not wait (the OOM reaper: those it would wait for may wait for the
/// memory that it frees). Where the lock sleeps, it goes on only if nobody holds the lock and the device `uses` none of
/// `pages`. `closed` is called when faults under way on `pages` are bound to retry.
#[inline]
pub fn invalidate<T, L: WatchedLock<T>>(
    lock: &L,
    pages: PageRange,
    blockable: bool,
    uses: impl FnOnce(&T) -> bool,
    closed: impl FnOnce(),
    zap: impl FnOnce(&mut T),
) -> bool {
    let must_not_sleep = L::SLEEPS && !blockable;
    let guard = match must_not_sleep {
        true => lock.try_lock().filter(|watched| !uses(&watched.data)),
        false => Some(lock.lock()),
    };
    let Some(mut watched) = guard else {
        return false;
    };
    watched.history.record(pages);
    closed();
    zap(&mut watched.data);
    true
}

/// An invalidation came in between. Gives the room for the result back.
pub struct Collided<R>(Unread<R>);

/// The sequence of one fault. `fault_until_valid` does all of these steps; a driver needs them only for its own retry
/// loop.
///
/// 1. [`Sequence::begin`] notes the sequence number and waits until no invalidation of the domain is under way.
/// 2. A walk collects pages into an [`Unread`] result. Its frames may be stale, so nothing shows them. The
///    sequence and the result are a [`Faulted`].
/// 3. [`Faulted::validate`] takes the domain's lock. If no invalidation has touched the pages found, it returns
///    a [`ValidRange`], which owns the lock: an invalidation of its pages waits until it is dropped.
///
/// A sequence is used once: each step consumes the one before. [`ValidRange::release`] gives it back, for one more walk.
///
/// ```compile_fail,E0599
/// # use hmm::{Domain, Faulted, Runs};
/// fn pfns_before_validation<D: Domain>(faulted: &Faulted<'_, D, Runs>) {
///     faulted.result(); // only a `ValidRange` has one
/// }
/// ```
///
/// ```compile_fail,E0616
/// # use hmm::{Runs, Unread};
/// fn pfns_of_a_walk(unread: &Unread<Runs>) {
///     let _ = &unread.result; // private
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use hmm::{Domain, PageRange, Runs, Sequence, Unread};
/// fn sequence_used_twice<D: Domain>(seq: Sequence<'_, D>, done: PageRange) {
///     let _ = seq.faulted(Unread::new(Runs::new()), done);
///     let _ = seq.faulted(Unread::new(Runs::new()), done);
/// }
/// ```
///
/// ```compile_fail,E0505
/// # use hmm::{Domain, Runs, ValidRange};
/// fn pfns_outlive_the_guard<'d, D: Domain>(valid: ValidRange<'d, D, Runs>) {
///     let runs = valid.result();
///     drop(valid);
///     let _ = runs.as_slice();
/// }
/// ```
pub struct Sequence<'d, D: Domain> {
    domain: &'d D,
    seq: u64,
}

impl<'d, D: Domain> Sequence<'d, D> {
    /// Begins, and waits for invalidations under way. Sleeps.
    pub fn begin(domain: &'d D) -> Self {
        let seq = domain.read_begin();
        Self { domain, seq }
    }

    /// Whether a result for `pages` is known to be stale already.
    pub fn collided(&self, pages: PageRange) -> bool {
        self.domain.may_have_collided(self.seq, pages)
    }

    /// Binds the result of a walk to this sequence. `done` is the part of the range that the walk completed.
    pub fn faulted<R>(self, found: Unread<R>, done: PageRange) -> Faulted<'d, D, R> {
        Faulted {
            seq: self,
            found,
            done,
        }
    }
}

/// The result of a walk before its validation. There is no way to look at it.
pub struct Unread<R> {
    result: R,
    /// All pages in it lie here.
    hull: PageRange,
    /// The order of the smallest entry in it.
    smallest: u32,
}

const NOTHING: PageRange = PageRange::new(PageIndex::new(0), PageIndex::new(0));

impl<R> Unread<R> {
    /// `result` has nothing in it yet.
    pub const fn new(result: R) -> Self {
        Self {
            result,
            hull: NOTHING,
            smallest: u32::MAX,
        }
    }

    /// log2 of how many pages the smallest entry found maps, to make room for it.
    pub fn smallest_order(&self) -> u32 {
        self.smallest
    }
}

impl<R> Unread<R> {
    /// Pages from those of `first` to `end` have been found.
    #[inline]
    fn reached(&mut self, first: &Run, end: PageIndex) {
        // They come in ascending order.
        let start = match self.hull.is_empty() {
            true => first.start,
            false => self.hull.start(),
        };
        self.hull = PageRange::new(start, end);
        self.smallest = self.smallest.min(first.order);
    }
}

impl<R: Collect> Collect for Unread<R> {
    #[inline]
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        self.result.mapped(run)?;
        self.reached(&run, run.range().end());
        Ok(())
    }

    #[inline]
    fn entries(&mut self, first: Run, following: impl FusedIterator<Item = Pfn>) -> Taken {
        let done = self.result.entries(first, following);
        if let Some(more) = done.taken.checked_sub(1) {
            let end = first.range().end().saturating_add(more << first.order);
            self.reached(&first, end);
        }
        done
    }

    fn unusable(&mut self, pages: PageRange) {
        // A page that becomes usable is no invalidation.
        self.result.unusable(pages);
    }

    #[inline]
    fn handler_called(&mut self) {
        self.result.handler_called();
    }

    fn clear(&mut self) {
        self.result.clear();
        self.hull = NOTHING;
        self.smallest = u32::MAX;
    }
}

/// Pages found that may be stale already.
pub struct Faulted<'d, D: Domain, R> {
    seq: Sequence<'d, D>,
    found: Unread<R>,
    done: PageRange,
}

impl<'d, D: Domain, R> Faulted<'d, D, R> {
    /// Takes the lock and checks that no invalidation came in between.
    ///
    /// # Errors
    ///
    /// [`Collided`], with the room for the result.
    pub fn validate(self) -> Result<ValidRange<'d, D, R>, Collided<R>> {
        let Sequence { domain, seq } = self.seq;
        let guard = domain.lock();
        if domain.must_retry(&guard, seq, self.found.hull) {
            return Err(Collided(self.found));
        }
        Ok(ValidRange {
            guard,
            result: self.found.result,
            done: self.done,
            seq: Sequence { domain, seq },
        })
    }
}

/// Pages as the CPU's page table has them, for as long as this value lives: it holds the domain's lock.
pub struct ValidRange<'d, D: Domain, R> {
    guard: D::Guard<'d>,
    result: R,
    done: PageRange,
    seq: Sequence<'d, D>,
}

impl<'d, D: Domain, R> ValidRange<'d, D, R> {
    /// The pages found.
    pub fn result(&self) -> &R {
        &self.result
    }

    /// The part of the wanted range that the walk completed.
    pub fn done(&self) -> PageRange {
        self.done
    }

    /// The data that the lock protects.
    pub fn guard(&self) -> &D::Guard<'d> {
        &self.guard
    }

    /// Releases the lock and returns the room for the result, empty.
    pub fn give_up(self) -> R
    where
        R: Collect,
    {
        let Self { mut result, .. } = self;
        result.clear();
        result
    }

    /// Releases the lock, and returns the sequence for another walk, without waiting for invalidations: one that has come
    /// since the sequence began, also while the lock was held, makes that walk's result invalid.
    pub fn release(self) -> Sequence<'d, D> {
        self.seq
    }

    /// The pages found, and the data that the lock protects.
    pub fn split(&mut self) -> (&R, &mut D::Guard<'d>) {
        (&self.result, &mut self.guard)
    }
}

/// When a fault stops repeating.
pub trait Deadline {
    /// Whether the time is over.
    fn passed(&self) -> bool;
}

/// How a fault holds off a storm of invalidations.
///
/// Most faults never collide and hold nothing. One that keeps losing takes the lock of the address space
/// before its sequence begins and keeps it until its result is valid, so that it makes progress.
pub trait Hold {
    /// What is held.
    type Held;

    /// Called before each try, with the number of collisions so far.
    fn hold(&mut self, collisions: u32) -> Self::Held;
}

/// Faults until the result is valid: the only retry loop.
///
/// `walk` collects into the cleared [`Unread`] and returns the part of the range that it completed. It runs
/// again, after `collided`, when an invalidation came in between, until `deadline` has passed.
pub fn until_valid<'d, D: Domain, R: Collect, H: Hold>(
    domain: &'d D,
    deadline: &impl Deadline,
    mut hold: H,
    result: R,
    mut walk: impl FnMut(
        &Sequence<'d, D>,
        &mut H::Held,
        &mut Unread<R>,
    ) -> Result<PageRange, FaultError>,
    mut collided: impl FnMut(),
) -> Result<ValidRange<'d, D, R>, FaultError> {
    let mut found = Unread::new(result);
    let mut collisions = 0;
    loop {
        found.clear();
        let mut held = hold.hold(collisions);
        let seq = Sequence::begin(domain);
        match walk(&seq, &mut held, &mut found) {
            Ok(done) => match seq.faulted(found, done).validate() {
                Ok(valid) => return Ok(valid),
                Err(Collided(room)) => found = room,
            },
            Err(FaultError::Collided) => {}
            Err(other) => return Err(other),
        }
        drop(held);
        collided();
        collisions = collisions.saturating_add(1);
        if deadline.passed() {
            return Err(FaultError::TimedOut);
        }
    }
}

#[cfg(test)]
mod tests;
