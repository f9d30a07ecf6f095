// SPDX-License-Identifier: GPL-2.0

//! Faults, accesses, invalidations, the reaper and deregistration, all at once, under many thread
//! schedules.
//!
//! A small machine: a mirror of one page whose frame the CPU replaces again and again. Its one part is
//! made by faults and reaped again. Whatever the schedule, nobody may touch a frame or a part that has
//! been freed, every access succeeds, and in the end nothing is left.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::vec::Vec;

use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::{Arc, Mutex, MutexGuard, RwLock};
use shuttle::thread;

use super::*;
use crate::addr::PageRange;
use crate::one_page::{translations, Cpu, Spinning, Translations, RANGE};
use crate::seq::{Domain, Watched};
use crate::xlt::NoRoom;

/// What a machine leaves out that must not be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Parts are retired while there are references.
    IgnoresReferences,
    /// Parts are freed while somebody may still be looking.
    NoGracePeriod,
    /// Parts are freed with their notifier registered.
    StaysRegistered,
    /// Parts go with their frames in use.
    NotOutOfTheMap,
}

/// A part of the mirror.
struct Part {
    refcount: Refcount,
    table: Mutex<Watched<Translations>>,
    freed: AtomicBool,
}

impl Part {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            refcount: Refcount::referenced(),
            table: Mutex::new(Watched::new(translations(), 0)),
            freed: AtomicBool::new(false),
        })
    }

    /// Every use of a part goes through here, or through `invalidate`.
    fn lock(&self) -> MutexGuard<'_, Watched<Translations>> {
        self.is_used();
        self.table.lock().unwrap()
    }

    fn is_used(&self) {
        assert!(
            !self.freed.load(Ordering::SeqCst),
            "a part was used that has been freed"
        );
    }

    fn invalidate(&self) {
        self.is_used();
        Spinning(&self.table).invalidate(true);
    }

    fn zap(&self) {
        self.lock().zap(RANGE, &mut NoRoom, |_, _| ());
    }
}

struct Machine {
    broken: Broken,
    cpu: Cpu,
    /// Odd while an invalidation is under way; those to be told. An invalidation holds the list.
    seq: Mutex<u64>,
    registered: Mutex<Vec<Arc<Part>>>,
    /// The map, with its lock for changes.
    map: Mutex<Option<Arc<Part>>>,
    /// Held for reading by those who look; a grace period has it for writing.
    rcu: RwLock<()>,
}

/// The part, with a reference for a fault.
struct Referenced(Arc<Machine>, Arc<Part>);

impl Drop for Referenced {
    fn drop(&mut self) {
        self.1.refcount.put();
    }
}

impl Machine {
    fn new(broken: Broken) -> Self {
        Self {
            broken,
            cpu: Cpu::new(),
            seq: Mutex::new(0),
            registered: Mutex::new(Vec::new()),
            map: Mutex::new(None),
            rcu: RwLock::new(()),
        }
    }

    /// The CPU replaces the page: everybody registered is told, then the old frame is freed.
    fn replace_page(&self) {
        *self.seq.lock().unwrap() += 1;
        {
            // A part that is unregistered meanwhile waits for this.
            let registered = self.registered.lock().unwrap();
            for part in registered.iter() {
                part.invalidate();
            }
            self.cpu.replace();
        }
        *self.seq.lock().unwrap() += 1;
    }

    /// The warm path: looks at the part without a reference.
    fn access_mapped(&self) -> bool {
        let _looking = self.rcu.read().unwrap();
        let part = self.map.lock().unwrap().clone();
        thread::yield_now();
        part.is_some_and(|part| {
            part.refcount.mark_accessed();
            let hit = self.cpu.touch(&part.lock());
            hit
        })
    }

    /// The part, with a reference; made, if there is none.
    fn get(self: &Arc<Self>) -> Referenced {
        loop {
            {
                let _looking = self.rcu.read().unwrap();
                let found = self.map.lock().unwrap().clone();
                thread::yield_now();
                if let Some(part) = found.filter(|part| part.refcount.try_get()) {
                    return Referenced(self.clone(), part);
                }
            }
            let new = Part::new();
            self.registered.lock().unwrap().push(new.clone());
            {
                let mut map = self.map.lock().unwrap();
                if map.is_none() {
                    *map = Some(new.clone());
                    return Referenced(self.clone(), new);
                }
            }
            // Somebody else was faster.
            self.free(&new);
        }
    }

    fn access(self: &Arc<Self>) {
        if self.access_mapped() {
            return;
        }
        self.cpu.fault_and_touch(&self.get());
    }

    /// Gives the part up and unregisters it; nobody can get at it any more.
    fn free(&self, part: &Arc<Part>) {
        part.zap();
        if self.broken != Broken::StaysRegistered {
            let mut registered = self.registered.lock().unwrap();
            registered.retain(|other| !Arc::ptr_eq(other, part));
        }
        assert!(!part.freed.swap(true, Ordering::SeqCst), "freed twice");
    }

    /// The reaper. Says whether it took the part.
    fn reap(&self, reap: Reap) -> bool {
        let retired = {
            let mut map = self.map.lock().unwrap();
            let idle = map.as_ref().is_some_and(|part| match self.broken {
                Broken::IgnoresReferences => true,
                _ => part.refcount.retire(reap),
            });
            match (idle, self.broken) {
                (false, _) => None,
                (true, Broken::NotOutOfTheMap) => map.clone(),
                (true, _) => map.take(),
            }
        };
        let Some(part) = retired else {
            return false;
        };
        if self.broken != Broken::NoGracePeriod {
            drop(self.rcu.write().unwrap());
        }
        self.free(&part);
        true
    }

    /// Deregistration: no access is under way, but the reaper and invalidations may be.
    fn close(&self) {
        let left = self.map.lock().unwrap().take();
        if let Some(part) = left {
            self.free(&part);
        }
    }
}

impl Domain for Referenced {
    type Guard<'d> = MutexGuard<'d, Watched<Translations>>;

    fn read_begin(&self) -> u64 {
        let seq = self.1.lock().seq();
        while *self.0.seq.lock().unwrap() % 2 != 0 {
            thread::yield_now();
        }
        seq
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.1.lock()
    }

    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool {
        guard.touched_since(seq, pages)
    }

    fn may_have_collided(&self, _seq: u64, _pages: PageRange) -> bool {
        false
    }
}

fn run_machine(broken: Broken) {
    let machine = Arc::new(Machine::new(broken));
    let with = |what: fn(&Arc<Machine>)| {
        let machine = machine.clone();
        thread::spawn(move || what(&machine))
    };
    let cpu = with(|machine| (0..2).for_each(|_| machine.replace_page()));
    let reaper = with(|machine| {
        for reap in [
            Reap::Idle,
            Reap::Unreferenced,
            Reap::Unreferenced,
            Reap::Unreferenced,
        ] {
            machine.reap(reap);
            thread::yield_now();
        }
    });
    let devices = [
        with(|machine| (0..4).for_each(|_| machine.access())),
        with(|machine| (0..4).for_each(|_| machine.access())),
    ];
    for device in devices {
        device.join().unwrap();
    }
    machine.close();
    reaper.join().unwrap();
    cpu.join().unwrap();
    assert!(machine.map.lock().unwrap().is_none(), "a part is left");
    assert!(
        machine.registered.lock().unwrap().is_empty(),
        "a notifier is left"
    );
}

#[test]
fn no_schedule_of_the_reaper_lets_anybody_use_what_is_freed() {
    shuttle::check_random(|| run_machine(Broken::Nothing), 2000);
    shuttle::check_pct(|| run_machine(Broken::Nothing), 2000, 3);
}

#[test]
fn the_exploration_would_notice_each_thing_left_out() {
    let twins = [
        ("references", Broken::IgnoresReferences),
        ("the grace period", Broken::NoGracePeriod),
        ("unregistering", Broken::StaysRegistered),
        ("the map", Broken::NotOutOfTheMap),
    ];
    for (what, broken) in twins {
        let result = catch_unwind(AssertUnwindSafe(|| {
            shuttle::check_random(move || run_machine(broken), 3000);
            shuttle::check_pct(move || run_machine(broken), 3000, 3);
        }));
        assert!(result.is_err(), "leaving out {what} was not noticed");
    }
}

#[test]
fn only_what_is_idle_is_retired_and_only_once() {
    let check = || {
        let refcount = Refcount::referenced();
        assert!(
            !refcount.retire(Reap::Unreferenced),
            "its maker has a reference"
        );
        refcount.put();
        assert!(!refcount.retire(Reap::Idle), "it was just used");
        assert!(refcount.test_and_clear_accessed());
        assert!(!refcount.test_and_clear_accessed());
        refcount.mark_accessed();
        assert!(!refcount.retire(Reap::Idle));
        assert!(refcount.test_and_clear_accessed());
        assert!(refcount.try_get());
        assert!(refcount.try_get());
        refcount.put();
        assert!(
            !refcount.retire(Reap::Unreferenced),
            "one of two references is left"
        );
        refcount.put();
        assert!(refcount.retire(Reap::Unreferenced));
        assert!(!refcount.retire(Reap::Unreferenced), "once");
        assert!(!refcount.try_get(), "too late");
    };
    shuttle::check_random(check, 1);
}
