// SPDX-License-Identifier: GPL-2.0

//! A page whose frame the CPU keeps replacing, and a device's access to it: shared by the explorations of thread
//! schedules in [`crate::seq`] and [`crate::refcount`]. Each adds its own notifiers, locks and domain.

use std::vec::Vec;

use shuttle::sync::{Mutex, MutexGuard};
use shuttle::thread;

use crate::addr::{PageIndex, PageRange};
use crate::collect::Collect;
use crate::pfn::{Access, Memory, Perm, Pfn};
use crate::run::Run;
use crate::runs::Runs;
use crate::seq::{invalidate, until_valid, Deadline, Domain, Hold, Unread, Watched, WatchedLock};
use crate::walk::FaultError;
use crate::xlt::{NoRoom, Pages, Room, Slot, Xlt};

pub(crate) const PAGE: PageIndex = PageIndex::new(7);
pub(crate) const RANGE: PageRange = PageRange::new(PAGE, PageIndex::new(8));

pub(crate) type Translations = Xlt<Vec<Slot>, Vec<Pages<Vec<Slot>>>>;

pub(crate) fn translations() -> Translations {
    Xlt::new(RANGE, Vec::from([Slot::default()]))
}

/// The lock around them, under which nothing sleeps.
pub(crate) struct Spinning<'l>(pub(crate) &'l Mutex<Watched<Translations>>);

impl Spinning<'_> {
    /// What the notifier's callback does; `blockable` or not, nothing is refused.
    pub(crate) fn invalidate(&self, blockable: bool) {
        let zap = |table: &mut Translations| {
            table.zap(RANGE, &mut NoRoom, |_, _| ());
        };
        let done = invalidate(self, RANGE, blockable, |_| true, || (), zap);
        assert!(done, "nothing has to be refused");
    }
}

impl WatchedLock<Translations> for Spinning<'_> {
    type Guard<'a>
        = MutexGuard<'a, Watched<Translations>>
    where
        Self: 'a;

    const SLEEPS: bool = false;

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().unwrap()
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        Some(self.lock())
    }

    fn look<R>(&self, look: impl FnOnce(&Watched<Translations>) -> R) -> R {
        look(&self.lock())
    }

    fn try_look<R>(&self, look: impl FnOnce(&Watched<Translations>) -> R) -> Option<R> {
        Some(self.look(look))
    }
}

/// Room for the one page.
pub(crate) struct OnePage;

impl Room<Vec<Pages<Vec<Slot>>>, Vec<Slot>> for OnePage {
    fn pages(&mut self, _pmds: usize) -> Option<Vec<Pages<Vec<Slot>>>> {
        Some(Vec::from([Pages::default()]))
    }

    fn slots(&mut self, _pages: u64) -> Option<Vec<Slot>> {
        Some(Vec::from([Slot::default()]))
    }
}

/// What the CPU knows of the page.
pub(crate) struct Cpu {
    /// What its page table says: the frame of [`PAGE`].
    pte: Mutex<u64>,
    /// Frames that went back to the allocator.
    freed: Mutex<Vec<u64>>,
}

impl Cpu {
    pub(crate) fn new() -> Self {
        Self {
            pte: Mutex::new(100),
            freed: Mutex::new(Vec::new()),
        }
    }

    /// Maps another frame, then frees the old one. Everybody has been told.
    pub(crate) fn replace(&self) {
        let old = self.remap();
        self.freed.lock().unwrap().push(old);
    }

    /// Maps another frame; returns the old one, which is not freed.
    pub(crate) fn remap(&self) -> u64 {
        let mut pte = self.pte.lock().unwrap();
        *pte += 1;
        *pte - 1
    }

    /// The device uses the page, if it has a translation.
    pub(crate) fn touch(&self, table: &Translations) -> bool {
        let Some(pfn) = table.translate(PAGE, Access::Read) else {
            return false;
        };
        assert!(
            !self.freed.lock().unwrap().contains(&pfn.get()),
            "the device used a freed frame"
        );
        true
    }

    /// The device faults on the page in `domain`, and uses it.
    pub(crate) fn fault_and_touch<D>(&self, domain: &D)
    where
        D: for<'d> Domain<Guard<'d> = MutexGuard<'d, Watched<Translations>>> + 'static,
    {
        let walk = |_: &_, (): &mut (), found: &mut _| self.walk(found);
        let mut valid = until_valid(domain, &Never, Nothing, Runs::new(), walk, || ()).unwrap();
        let (runs, guard) = valid.split();
        for run in runs.as_slice() {
            guard.fill(run, Perm::ReadWrite, &mut OnePage);
        }
        assert!(self.touch(valid.guard()), "a valid fault serves its access");
        // And what is found once more in the same sequence, if that is still valid.
        let seq = valid.release();
        let mut found = Unread::new(Runs::new());
        let done = self.walk(&mut found).unwrap();
        if let Ok(mut valid) = seq.faulted(found, done).validate() {
            let (runs, guard) = valid.split();
            for run in runs.as_slice() {
                guard.fill(run, Perm::ReadWrite, &mut OnePage);
            }
            self.touch(valid.guard());
        }
    }

    /// What a fault finds in the page table.
    pub(crate) fn walk<R: Collect>(&self, found: &mut Unread<R>) -> Result<PageRange, FaultError> {
        let pfn = Pfn::new(*self.pte.lock().unwrap());
        thread::yield_now();
        let run = Run {
            start: PAGE,
            pfn,
            pages: 1,
            perm: Perm::ReadWrite,
            order: 0,
            memory: Memory::System,
        };
        found.mapped(run).map_err(|_| FaultError::NoMemory)?;
        Ok(run.range())
    }
}

/// A fault that holds nothing, however often it loses.
pub(crate) struct Nothing;

impl Hold for Nothing {
    type Held = ();
    fn hold(&mut self, _collisions: u32) {}
}

/// No deadline.
pub(crate) struct Never;

impl Deadline for Never {
    fn passed(&self) -> bool {
        false
    }
}
