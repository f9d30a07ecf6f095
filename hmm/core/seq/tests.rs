// SPDX-License-Identifier: GPL-2.0

//! The sequence protocol under many thread schedules.
//!
//! A small machine: one page whose frame the CPU replaces again and again, freeing the old frame,
//! and a device that uses the page through a translation. Whatever the schedule, the device must
//! never touch a frame that has been freed.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::vec::Vec;

use shuttle::sync::{Arc, Mutex, MutexGuard};
use shuttle::thread;

use super::*;
use crate::addr::PageIndex;
use crate::one_page::{translations, Cpu, Never, Nothing, Spinning, Translations, PAGE};
use crate::policy::Refusal;
use crate::runs::Runs;

const SWAPS: u64 = 3;

/// The notifier's side, as `mm/mmu_notifier.c` keeps it: odd while an invalidation is under way.
#[derive(Default)]
struct Notifier {
    seq: u64,
}

struct Machine {
    cpu: Cpu,
    notifier: Mutex<Notifier>,
    /// The domain's lock: the translations, and the invalidations so far.
    table: Mutex<Watched<Translations>>,
    /// A machine that forgets to check the sequence.
    broken: bool,
}

impl Machine {
    fn new(broken: bool) -> Self {
        Self {
            cpu: Cpu::new(),
            notifier: Mutex::new(Notifier::default()),
            // The count is about to wrap.
            table: Mutex::new(Watched::new(translations(), u64::MAX - 1)),
            broken,
        }
    }

    /// The CPU replaces the page: notifier first, then the page table, then the old frame is freed.
    fn replace_page(&self, blockable: bool) {
        self.notifier.lock().unwrap().seq += 1;
        Spinning(&self.table).invalidate(blockable);
        self.cpu.replace();
        self.notifier.lock().unwrap().seq += 1;
    }

    /// The device uses the page: through its translation, or by a fault.
    fn access(&self) {
        let mapped = self.cpu.touch(&self.table.lock().unwrap());
        if !mapped {
            self.cpu.fault_and_touch(self);
        }
    }
}

impl Domain for Machine {
    type Guard<'d> = MutexGuard<'d, Watched<Translations>>;

    fn read_begin(&self) -> u64 {
        let seq = self.table.lock().unwrap().seq();
        while self.notifier.lock().unwrap().seq % 2 != 0 {
            thread::yield_now();
        }
        seq
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.table.lock().unwrap()
    }

    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool {
        !self.broken && guard.touched_since(seq, pages)
    }

    fn may_have_collided(&self, _seq: u64, _pages: PageRange) -> bool {
        false
    }
}

fn run_machine(broken: bool) {
    let machine = Arc::new(Machine::new(broken));
    let cpu = {
        let machine = machine.clone();
        thread::spawn(move || (0..SWAPS).for_each(|swap| machine.replace_page(swap % 2 == 0)))
    };
    let devices: Vec<_> = (0..2)
        .map(|_| {
            let machine = machine.clone();
            thread::spawn(move || (0..3).for_each(|_| machine.access()))
        })
        .collect();
    cpu.join().unwrap();
    devices
        .into_iter()
        .for_each(|device| device.join().unwrap());
}

#[test]
fn no_schedule_lets_the_device_use_a_freed_frame() {
    shuttle::check_random(|| run_machine(false), 3000);
    shuttle::check_pct(|| run_machine(false), 3000, 3);
}

#[test]
fn the_exploration_would_notice_a_missing_check() {
    let result = catch_unwind(AssertUnwindSafe(|| {
        shuttle::check_random(|| run_machine(true), 3000);
    }));
    assert!(
        result.is_err(),
        "a machine without the check went through every schedule"
    );
}

/// A domain in which every fault collides.
struct Storm;

impl Domain for Storm {
    type Guard<'d> = ();
    fn read_begin(&self) -> u64 {
        0
    }
    fn lock(&self) -> Self::Guard<'_> {}
    fn must_retry(&self, _guard: &Self::Guard<'_>, _seq: u64, _pages: PageRange) -> bool {
        true
    }
    fn may_have_collided(&self, _seq: u64, _pages: PageRange) -> bool {
        true
    }
}

/// Passes after it was asked this many times.
struct Times(core::cell::Cell<u32>);

impl Deadline for Times {
    fn passed(&self) -> bool {
        self.0.set(self.0.get() - 1);
        self.0.get() == 0
    }
}

#[test]
fn the_deadline_counts_on_both_ways_to_collide() {
    let nothing = PageRange::new(PAGE, PAGE);
    for late in [false, true] {
        let (mut faults, mut collisions) = (0, 0);
        let deadline = Times(core::cell::Cell::new(5));
        let result = until_valid(
            &Storm,
            &deadline,
            Nothing,
            Runs::new(),
            |_, (), _| {
                faults += 1;
                match late {
                    true => Ok(nothing),
                    false => Err(FaultError::Collided),
                }
            },
            || collisions += 1,
        );
        assert_eq!(result.err(), Some(FaultError::TimedOut));
        assert_eq!((faults, collisions), (5, 5));
    }
}

/// An address space that is invalidated in every moment in which nobody holds it still.
#[derive(Default)]
struct Restless {
    held: core::cell::Cell<bool>,
    history: core::cell::Cell<u64>,
}

impl Restless {
    fn moment(&self) {
        if !self.held.get() {
            self.history.set(self.history.get() + 1);
        }
    }
}

impl Domain for Restless {
    type Guard<'d> = ();
    fn read_begin(&self) -> u64 {
        self.history.get()
    }
    fn lock(&self) -> Self::Guard<'_> {
        self.moment();
    }
    fn must_retry(&self, _guard: &Self::Guard<'_>, seq: u64, _pages: PageRange) -> bool {
        self.history.get() != seq
    }
    fn may_have_collided(&self, seq: u64, _pages: PageRange) -> bool {
        self.history.get() != seq
    }
}

struct Still<'a>(&'a Restless);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
    }
}

/// Holds the address space after three collisions.
struct AfterThree<'a>(&'a Restless);

impl<'a> Hold for AfterThree<'a> {
    type Held = Option<Still<'a>>;
    fn hold(&mut self, collisions: u32) -> Self::Held {
        self.0.held.set(collisions == 3);
        (collisions == 3).then(|| Still(self.0))
    }
}

#[test]
fn a_fault_makes_progress_in_any_storm() {
    let space = Restless::default();
    let mut collisions = 0;
    let walk = |_: &Sequence<'_, Restless>, _: &mut Option<Still<'_>>, _: &mut Unread<Runs>| {
        Ok(pages(0, 1))
    };
    let hold = AfterThree(&space);
    let valid = until_valid(&space, &Never, hold, Runs::new(), walk, || collisions += 1);
    assert_eq!(valid.unwrap().done(), pages(0, 1));
    assert_eq!(collisions, 3);
    assert!(!space.held.get(), "let go when the result was valid");
}

#[test]
fn other_failures_are_not_tried_again() {
    let refused = FaultError::Refused(Refusal::Forbidden);
    let deadline = Times(core::cell::Cell::new(5));
    let result = until_valid(
        &Storm,
        &deadline,
        Nothing,
        Runs::new(),
        |_, (), _| Err(refused),
        || panic!("not a collision"),
    );
    assert_eq!(result.err(), Some(refused));
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex::new(start), PageIndex::new(end))
}

#[test]
fn only_an_invalidation_of_the_same_pages_collides() {
    // Also where the count wraps.
    for first in [0, u64::from(u32::MAX) - 2, u64::MAX - 2] {
        let mut history = History::new(first);
        let seq = history.seq();
        assert!(!history.touched_since(seq, pages(0, 100)));
        history.record(pages(10, 20));
        history.record(pages(40, 41));
        assert!(history.touched_since(seq, pages(19, 30)));
        assert!(history.touched_since(seq, pages(0, 100)));
        assert!(!history.touched_since(seq, pages(20, 40)));
        assert!(!history.touched_since(seq, pages(15, 15)), "no page");
        let later = history.seq();
        assert!(!history.touched_since(later, pages(0, 100)));
        // The same elsewhere, again and again, is no more than once.
        for _ in 0..100 {
            history.record(pages(90, 95));
            history.record(pages(91, 94));
        }
        assert!(!history.touched_since(seq, pages(20, 40)));
        assert!(history.touched_since(later, pages(94, 96)));
        // What is forgotten may have been anywhere.
        history.record(pages(60, 61));
        assert!(history.touched_since(seq, pages(20, 40)));
        assert!(!history.touched_since(later, pages(20, 40)));
        history.record(pages(70, 71));
        history.record(pages(80, 81));
        assert!(history.touched_since(later, pages(20, 40)));
    }
}

#[test]
fn a_fault_that_waited_for_ages_has_collided() {
    let old = History::new(7).seq();
    let mut history = History::new(7 + (1 << 32));
    assert!(history.touched_since(old, pages(0, 1)));
    history.record(pages(50, 51));
    assert!(history.touched_since(old, pages(0, 1)));
}

#[test]
fn a_small_invalidation_is_not_taken_for_a_large_one() {
    let mut history = History::new(0);
    history.record(pages(0, 100));
    let later = history.seq();
    for _ in 0..10 {
        history.record(pages(3, 4));
    }
    assert!(history.touched_since(later, pages(3, 4)));
    assert!(!history.touched_since(later, pages(50, 60)));
}
