// SPDX-License-Identifier: GPL-2.0

//! The chunks of one mirror, and their reaper.
//!
//! Faults make chunks. The reaper, a worker, takes them down again in the background:
//!
//! * those that hold no translation any more. The invalidation that takes a chunk's last one calls the
//!   reaper ([`Chunks::emptied`]), which comes [`A_WHILE`] later, as most memory that is thrown away is
//!   used again at once;
//! * when the chunks take more memory than [`Limits`] allow, those that have not been used for the
//!   longest time, as far as a clock's hand can tell: it goes round, passes those that have been used
//!   since it came by, and takes the others. A fault that finds too little room all the same waits for
//!   the reaper.
//!
//! An access to what has been reaped faults, and the chunk is made anew. A notifier cannot be removed in
//! its own callback, and a grace period has to pass: hence the worker. What must not be reaped while it
//! is used is in [`crate::life`].

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use kernel::time::msecs_to_jiffies;
use kernel::workqueue::{impl_has_delayed_work, DelayedWork, Queue, Work, WorkItem};

use crate::chunk::WatchedChunk;
use crate::chunk_map::{ChunkMap, Grave, Held};
use crate::life::{Life, Reap};
use crate::lock_class::LockClass;
use crate::mirror::{Limits, Observer, Removal};

/// How long an empty chunk is left alone, in milliseconds.
const A_WHILE: u32 = 100;
/// How often the clock's hand goes round at most. The last time it takes what nobody holds.
const ROUNDS: u32 = 3;

// SAFETY: It is a static's.
static HAND: LockClass = unsafe { LockClass::new(c"hmm::chunks::hand") };
// SAFETY: It is a static's.
static REAPER: LockClass = unsafe { LockClass::new(c"hmm::chunks::reaper") };
// SAFETY: It is a static's.
static REAPER_TIMER: LockClass = unsafe { LockClass::new(c"hmm::chunks::reaper_timer") };

/// The chunks of one mirror by number.
#[pin_data]
pub(crate) struct Chunks<O: Observer> {
    observer: Arc<O>,
    limits: Limits,
    /// How many bytes the chunks take.
    memory: AtomicUsize,
    /// Whether the mirror is going: nothing calls the reaper any more.
    closed: AtomicBool,
    #[pin]
    map: ChunkMap<WatchedChunk<O>>,
    /// Where the clock's hand is: the number of a chunk. Held while chunks are chosen.
    #[pin]
    hand: Mutex<usize>,
    #[pin]
    reaper: DelayedWork<Chunks<O>>,
}

impl_has_delayed_work! {
    impl{O: Observer} HasDelayedWork<Self> for Chunks<O> { self.reaper }
}

impl<O: Observer> Chunks<O> {
    /// None yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(observer: Arc<O>, limits: Limits) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                observer,
                limits,
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

    /// Who is told what happens.
    pub(crate) fn observer(&self) -> &O {
        &self.observer
    }

    /// The chunks by number.
    pub(crate) fn map(&self) -> &ChunkMap<WatchedChunk<O>> {
        &self.map
    }

    /// How many bytes the chunks take, without the map of them.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// A chunk that took `before` bytes takes `after` now.
    pub(crate) fn account(&self, before: usize, after: usize) {
        // Most changes of a table change nothing about its memory.
        if before != after {
            self.observer.resized(before, after);
            // Relaxed, as everywhere: the sum stands for itself. It wraps on the way, and not as a whole.
            self.memory
                .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Adds `chunk` under `number`, unless there is one. Returns what is there then, held. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of `chunk`; `ENOMEM`.
    pub(crate) fn hold_or_insert(
        &self,
        number: usize,
        chunk: impl PinInit<WatchedChunk<O>, Error>,
    ) -> Result<Held<'_, WatchedChunk<O>>> {
        let (chunk, added) = self.map.hold_or_insert(number, chunk)?;
        if added {
            self.observer.chunk_added(chunk.range());
        }
        Ok(chunk)
    }

    /// A chunk has lost its last translation, or got none. Does not sleep.
    pub(crate) fn emptied(self: &Arc<Self>) {
        self.call_reaper(A_WHILE);
    }

    /// Has the reaper come, in so many milliseconds, if it has not been called already.
    fn call_reaper(self: &Arc<Self>, milliseconds: u32) {
        if !self.closed.load(Ordering::Acquire) {
            let delay = msecs_to_jiffies(milliseconds);
            // SAFETY: The kernel's own queue of work that belongs to no processor, which is always there. The
            // kernel crate knows it only by the name that the kernel has given up.
            let queue = unsafe { Queue::from_raw(bindings::system_dfl_wq) };
            let _ = queue.enqueue_delayed(self.clone(), delay);
        }
    }

    /// Sees to it that there is memory for more translations: calls the reaper when it runs short, and
    /// waits for it when it has run out. Sleeps then. The caller holds no chunk.
    pub(crate) fn make_room(self: &Arc<Self>) {
        let memory = self.memory();
        if memory <= self.limits.soon() {
            return;
        }
        self.call_reaper(0);
        if memory > self.limits.memory() {
            self.wait_for_reaper();
        }
    }

    /// Returns when the reaper, if it has been called, has done its work; it comes at once.
    fn wait_for_reaper(&self) {
        // SAFETY: `self` is valid; this only computes addresses.
        let reaper = unsafe {
            let reaper = DelayedWork::raw_as_work(&raw const self.reaper);
            kernel::container_of!(Work::raw_get(reaper), bindings::delayed_work, work)
        };
        // SAFETY: The work is initialised and stays: `self` is borrowed. May sleep.
        unsafe { bindings::flush_delayed_work(reaper) };
    }

    /// Takes down what is empty, and as much more as there is too much of. Sleeps.
    fn reap(&self) {
        let mut grave = Grave::new();
        {
            let mut hand = self.hand.lock();
            self.retire_empty(&mut grave);
            self.retire_idle(&mut hand, &mut grave);
        }
        grave.bury(|chunk| self.give_up(chunk, Removal::Reaped));
    }

    /// The last that is done to a chunk.
    fn give_up(&self, chunk: &WatchedChunk<O>, why: Removal) {
        let pages = chunk.write().give_up();
        self.observer.chunk_removed(chunk.range(), pages, why);
    }

    fn retire_empty(&self, grave: &mut Grave<WatchedChunk<O>>) {
        let judge = |_: usize, chunk: &WatchedChunk<O>, _: &Life| {
            chunk.read().is_empty().then_some(Reap::Unheld)
        };
        self.map.retire(0, grave, judge);
    }

    fn retire_idle(&self, hand: &mut usize, grave: &mut Grave<WatchedChunk<O>>) {
        if self.memory() <= self.limits.soon() {
            return;
        }
        let mut excess = self.memory().saturating_sub(self.limits.low());
        // From where the hand is to the end, and then round and round.
        let mut first = *hand;
        for round in 0..=ROUNDS {
            let judge = |number: usize, chunk: &WatchedChunk<O>, life: &Life| {
                if excess == 0 {
                    return None;
                }
                *hand = number + 1;
                let reap = match round {
                    ROUNDS => Reap::Unheld,
                    _ if life.cool() => return None,
                    _ => Reap::Idle,
                };
                excess = excess.saturating_sub(chunk.read().memory());
                Some(reap)
            };
            self.map.retire(first, grave, judge);
            if excess == 0 {
                break;
            }
            first = 0;
        }
    }

    /// Takes down everything, and returns when the reaper has gone, too. Sleeps.
    ///
    /// # Safety
    ///
    /// Nobody holds a chunk or looks at one, or ever will; the reaper may.
    pub(crate) unsafe fn close(&self) {
        // Release: pairs with `call_reaper`. Once all notifiers are gone nobody calls it at all.
        self.closed.store(true, Ordering::Release);
        {
            // The reaper is not choosing now. What it has taken out is not in the map.
            let _hand = self.hand.lock();
            // SAFETY: By the contract, and as said.
            unsafe { self.map.clear(|chunk| self.give_up(chunk, Removal::Closed)) };
        }
        // Once for what it is taking down, whose last invalidations may have called it again; and once
        // more if they have.
        self.wait_for_reaper();
        self.wait_for_reaper();
    }
}

impl<O: Observer> WorkItem for Chunks<O> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.reap();
    }
}
