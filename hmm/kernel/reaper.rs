// SPDX-License-Identifier: GPL-2.0

//! The reaper of a mirror's chunks.
//!
//! Faults make chunks. The reaper, a work item, removes in the background:
//!
//! * chunks without translations. The invalidation that removes a chunk's last translation schedules the
//!   reaper ([`Parent::emptied`]) with a delay of [`EMPTY_DELAY_MS`], as most memory that is thrown away is
//!   used again at once;
//! * the least recently used chunks, when all together take more memory than [`Limits`] allow. The CLOCK
//!   algorithm approximates their age: the hand goes round, clears the accessed bit where it is set, and
//!   takes the chunks where it is not. A fault that finds the limit exceeded waits for the reaper.
//!
//! An access to a reaped chunk faults, and the chunk is made anew. A notifier cannot be removed in its own
//! callback, and a grace period has to pass: hence a work item. [`crate::refcount`] has the rules by which a
//! chunk in use is not reaped.
//!
//! # Why it is no shrinker
//!
//! A shrinker runs in reclaim. Removing a notifier sleeps until the invalidations of its process have ended
//! (`mmu_interval_notifier_remove`), and reclaim may run inside of one: `copy_page_range` allocates page tables
//! between its start and its end. The shrinker would wait for its own caller. It could only schedule this work
//! item, and the memory would come too late for that reclaim. So each mirror's limit bounds the memory, and the
//! memory cgroup that it is charged to.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernel::bindings;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use kernel::time::msecs_to_jiffies;
use kernel::workqueue::{impl_has_delayed_work, DelayedWork, Queue, Work, WorkItem};

use crate::addr::PageRange;
use crate::chunk::{Chunk, Parent, WatchedChunk};
use crate::chunk_map::{ChunkMap, ChunkRef, RetireList};
use crate::event::Event;
use crate::interval::IntervalNotifier;
use crate::limits::Limits;
use crate::lock_class::LockClass;
use crate::look_around::LookAround;
use crate::observer::{Observer, Removal};
use crate::pfn::Owner;
use crate::refcount::{Reap, Refcount};
use crate::table::Backing;
use crate::walk::FaultError;
use crate::xlt::Slot;

/// How long an empty chunk is left alone, in milliseconds.
const EMPTY_DELAY_MS: u32 = 100;
/// How often the clock's hand goes round at most. In the last round it ignores the accessed bit.
const ROUNDS: u32 = 3;

// SAFETY: It is a static's.
static HAND: LockClass = unsafe { LockClass::new(c"hmm::reaper::hand") };
// SAFETY: It is a static's.
static REAPER: LockClass = unsafe { LockClass::new(c"hmm::reaper::reaper") };
// SAFETY: It is a static's.
static REAPER_TIMER: LockClass = unsafe { LockClass::new(c"hmm::reaper::reaper_timer") };

/// A chunk of a mirror with observer `O` and tables of `B`, with its notifier.
///
/// It has a reference to the [`Chunks`] whose map owns it: a cycle, which ends with the chunk. The reaper drops those
/// that it has retired, after a grace period; the drop of the [`Mirror`](crate::Mirror) calls [`Chunks::close`], which
/// drops those in the map and waits for the reaper. No chunk can be made then, as that takes a borrow of the mirror. So
/// none outlives its mirror, and the [`Chunks`] go with the last reference, the mirror's or the reaper's work item's.
///
/// The reference is not weak because the kernel's `Arc` has no weak references, and [`Parent::emptied`] has to schedule
/// a work item that owns an `Arc<Chunks>`.
pub(crate) type MirrorChunk<O, B> = WatchedChunk<Arc<Chunks<O, B>>, <B as Backing>::Table>;

/// The chunks of one mirror by number.
#[pin_data]
pub(crate) struct Chunks<O: Observer, B: Backing> {
    observer: Arc<O>,
    backing: B,
    limits: Limits,
    look_around: LookAround,
    /// How many bytes the chunks take.
    memory: AtomicUsize,
    /// Whether the mirror is being destroyed: the reaper is not scheduled any more.
    closed: AtomicBool,
    #[pin]
    map: ChunkMap<MirrorChunk<O, B>>,
    /// Where the clock's hand is: the number of a chunk. Held while chunks are selected. Without
    /// [`Backing::MAY_OVERLAP`] also while they are freed and while one is created.
    #[pin]
    hand: Mutex<usize>,
    #[pin]
    reaper: DelayedWork<Chunks<O, B>>,
}

impl_has_delayed_work! {
    impl{O: Observer, B: Backing} HasDelayedWork<Self> for Chunks<O, B> { self.reaper }
}

impl<O: Observer, B: Backing> Chunks<O, B> {
    /// No chunks.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(observer: Arc<O>, backing: B, limits: Limits) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                observer,
                backing,
                limits,
                look_around: LookAround::new(),
                memory: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                map <- ChunkMap::new(),
                hand <- Mutex::new(0, HAND.name(), HAND.key()),
                reaper <- DelayedWork::new(
                    REAPER.name(),
                    REAPER.key(),
                    REAPER_TIMER.name(),
                    REAPER_TIMER.key(),
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The observer.
    pub(crate) fn observer(&self) -> &O {
        &self.observer
    }

    /// The chunks by number.
    pub(crate) fn map(&self) -> &ChunkMap<MirrorChunk<O, B>> {
        &self.map
    }

    /// How many bytes the chunks take, without the map of them.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Makes the chunk of the pages in `range` and inserts it at `number`, unless there is one. Returns the chunk that
    /// is there then. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Backing::open`]; [`FaultError::Interrupted`]; [`FaultError::NoMemory`].
    pub(crate) fn get_or_insert(
        self: &Arc<Self>,
        number: usize,
        mm: &MmWithUser,
        range: PageRange,
    ) -> Result<ChunkRef<'_, MirrorChunk<O, B>>, FaultError> {
        // The reaper holds it until it has freed what it has retired.
        let _alone = (!B::MAY_OVERLAP).then(|| self.hand.lock());
        if !B::MAY_OVERLAP {
            if let Some(chunk) = self.map.get(number) {
                return Ok(chunk);
            }
        }
        let chunk = Chunk::new(self.backing.open(range)?, self.clone());
        let chunk = IntervalNotifier::new(mm, range, Owner::NONE, chunk);
        let inserted = self.map.get_or_insert(number, chunk);
        let (chunk, added) = inserted.map_err(|error| match error {
            // Registering gives way to signals.
            error if error == EINTR => FaultError::Interrupted,
            _ => FaultError::NoMemory,
        })?;
        if added {
            self.observer.chunk_added(chunk.range());
        }
        Ok(chunk)
    }

    /// Schedules the reaper to run in `milliseconds`, unless it is scheduled already.
    fn schedule(self: &Arc<Self>, milliseconds: u32) {
        if !self.closed.load(Ordering::Acquire) {
            let delay = msecs_to_jiffies(milliseconds);
            // SAFETY: The kernel's own queue of work that belongs to no processor, which is always there. The
            // kernel crate knows it only by the name that the kernel has given up.
            let queue = unsafe { Queue::from_raw(bindings::system_dfl_wq) };
            let _ = queue.enqueue_delayed(self.clone(), delay);
        }
    }

    /// Makes room for more translations: schedules the reaper above [`Limits::soon`], and waits for it above
    /// the limit, in which case it sleeps. The caller has no reference to a chunk, which could not be reaped
    /// then.
    pub(crate) fn make_room(self: &Arc<Self>) {
        let memory = self.memory();
        if memory <= self.limits.soon() {
            return;
        }
        self.schedule(0);
        if memory > self.limits.memory() {
            self.wait_for_reaper();
        }
    }

    /// Runs the reaper now if it is scheduled, and waits until it has ended.
    fn wait_for_reaper(&self) {
        // SAFETY: `self` is valid; this only computes addresses.
        let reaper = unsafe {
            let reaper = DelayedWork::raw_as_work(&raw const self.reaper);
            kernel::container_of!(Work::raw_get(reaper), bindings::delayed_work, work)
        };
        // SAFETY: The work is initialised and stays: `self` is borrowed. May sleep.
        unsafe { bindings::flush_delayed_work(reaper) };
    }

    /// Removes empty chunks, and others as far as there is too much memory in use. Sleeps.
    fn reap(&self) {
        let mut retired = RetireList::new();
        let mut hand = self.hand.lock();
        self.retire_empty(&mut retired);
        self.retire_idle(&mut hand, &mut retired);
        // Nobody makes one of these chunks anew before it is freed, if there can be only one.
        let _alone = (!B::MAY_OVERLAP).then_some(hand);
        retired.free_after_grace_period(|chunk| self.give_up(chunk, Removal::Reaped));
    }

    /// Removes the translations of a chunk that is about to be freed.
    fn give_up(&self, chunk: &MirrorChunk<O, B>, why: Removal) {
        let pages = chunk.write().give_up();
        self.observer.chunk_removed(chunk.range(), pages, why);
    }

    fn retire_empty(&self, retired: &mut RetireList<MirrorChunk<O, B>>) {
        let judge = |_: usize, chunk: &MirrorChunk<O, B>, _: &Refcount| {
            // A locked chunk is in use.
            let empty = chunk.try_look(Chunk::is_empty)?;
            empty.then_some(Reap::Unreferenced)
        };
        self.map.retire(0, retired, judge);
    }

    fn retire_idle(&self, hand: &mut usize, retired: &mut RetireList<MirrorChunk<O, B>>) {
        if self.memory() <= self.limits.soon() {
            return;
        }
        let mut excess = self.memory().saturating_sub(self.limits.low());
        // From the hand to the end, and then from the start.
        let mut first = *hand;
        for round in 0..=ROUNDS {
            let judge = |number: usize, chunk: &MirrorChunk<O, B>, refcount: &Refcount| {
                if excess == 0 {
                    return None;
                }
                *hand = number + 1;
                let reap = match round {
                    ROUNDS => Reap::Unreferenced,
                    _ if refcount.test_and_clear_accessed() => return None,
                    _ => Reap::Idle,
                };
                excess = excess.saturating_sub(chunk.try_look(Chunk::memory)?);
                Some(reap)
            };
            self.map.retire(first, retired, judge);
            if excess == 0 {
                break;
            }
            first = 0;
        }
    }

    /// Frees all chunks and waits for the reaper. Sleeps.
    ///
    /// # Safety
    ///
    /// Nobody but the reaper has a reference to a chunk or looks at one, or ever will.
    pub(crate) unsafe fn close(&self) {
        // Release: pairs with `schedule`, which nobody calls once all notifiers are gone.
        self.closed.store(true, Ordering::Release);
        {
            // The reaper is not choosing now. What it has retired is not in the map.
            let _hand = self.hand.lock();
            // SAFETY: By the contract, and as said.
            unsafe { self.map.clear(|chunk| self.give_up(chunk, Removal::Closed)) };
        }
        // Once for the chunks that it is freeing, whose last invalidations may have scheduled it again; and
        // once more if they have.
        self.wait_for_reaper();
        self.wait_for_reaper();
    }
}

/// Does not sleep.
impl<O: Observer, B: Backing> Parent for Arc<Chunks<O, B>> {
    fn resized(&self, before: usize, after: usize) {
        self.observer.resized(before, after);
        // Relaxed: the sum stands for itself. It may wrap on the way, but not as a whole.
        self.memory
            .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn invalidated(&self, range: PageRange, event: Event, pages: u64) {
        self.observer.invalidated(range, event, pages);
    }

    fn emptied(&self) {
        self.schedule(EMPTY_DELAY_MS);
    }

    #[inline]
    fn look_around(&self) -> &LookAround {
        &self.look_around
    }

    fn pages(&self) -> u64 {
        // Slots take most of it.
        (self.memory() / size_of::<Slot>()) as u64
    }
}

impl<O: Observer, B: Backing> WorkItem for Chunks<O, B> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.reap();
    }
}
