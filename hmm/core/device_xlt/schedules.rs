// SPDX-License-Identifier: GPL-2.0

//! A device that works while faults, invalidations and the OOM reaper go on, under many thread schedules.
//!
//! A small machine: one page whose frame the CPU replaces again and again, and a device that reads the page through a
//! translation of its own, without any lock of the driver's. It picks the translation up, and uses it some time later;
//! a thread that has it forget the translation sleeps until that is over. Whatever the schedule, the device must never use a
//! frame that is not mapped for it or has been freed, what must not sleep must not, and every access of the device
//! succeeds in the end.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::vec::Vec;

use shuttle::sync::{Arc, Mutex, MutexGuard};
use shuttle::thread::{self, ThreadId};

use super::*;
use crate::one_page::{Cpu, Never, Nothing, OnePage, PAGE, RANGE};
use crate::pfn_array::HmmPfn;
use crate::seq::{invalidate, until_valid, Domain, Watched, WatchedLock};

const SWAPS: u32 = 2;

/// What a machine leaves out, or does in the wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The driver confirms what it has not asked the device for.
    SkipsTheZap,
    /// The driver has the device forget a page only when it has been unmapped.
    ZapsAfterUnmapping,
    /// The driver confirms as soon as it has asked the device.
    WaitsForNoCompletion,
    /// A fault does not check the sequence.
    SkipsTheRetryCheck,
    /// An invalidation that must not sleep is not refused.
    ForgetsToRefuse,
    /// A failed zap counts as one.
    IgnoresFailure,
    /// What could not be taken from the device is freed.
    FreesWhatIsHeld,
}

/// Which fences work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fences {
    Both,
    /// The first one fails.
    Second,
    None,
}

/// The device: what it has of the page, and how many accesses use it.
#[derive(Default)]
struct Hardware {
    state: Mutex<(Option<u64>, u32)>,
}

impl Hardware {
    /// The device forgets the page.
    fn forget(&self) {
        self.state.lock().unwrap().0 = None;
    }

    /// Waits until no access uses a translation that was forgotten.
    fn wait(&self, machine: &Machine) {
        machine.might_sleep();
        while self.state.lock().unwrap().1 > 0 {
            thread::yield_now();
        }
    }
}

/// What the chunk's lock protects.
type Part = DeviceXlt<Vec<Slot>, Vec<Pages<Vec<Slot>>>, Bus>;

/// What maps frames for the device: the device's address is the frame.
struct Bus(Arc<Shared>);

/// What both the machine and its chunk refer to.
struct Shared {
    broken: Broken,
    fences: Fences,
    hardware: Hardware,
    mapped: Mutex<Vec<u64>>,
    held: Mutex<Vec<u64>>,
}

impl Dma for Bus {
    fn map(&mut self, run: &Run) -> Result<(), FaultError> {
        self.0.mapped.lock().unwrap().push(run.pfn.get());
        Ok(())
    }

    fn addr(&self, _page: PageIndex, pfn: Pfn) -> u64 {
        pfn.get()
    }

    fn unmap(&mut self, run: &Run, _zapped: &Zapped<'_>) {
        self.0
            .mapped
            .lock()
            .unwrap()
            .retain(|pfn| *pfn != run.pfn.get());
        if self.0.broken == Broken::ZapsAfterUnmapping {
            thread::yield_now();
            self.0.hardware.forget();
        }
    }

    fn written(&mut self, _run: &Run) {}

    fn hold(&mut self, run: &Run) {
        if self.0.broken != Broken::FreesWhatIsHeld {
            self.0.held.lock().unwrap().push(run.pfn.get());
        }
    }

    fn release(&mut self, run: &Run) {
        self.0
            .held
            .lock()
            .unwrap()
            .retain(|pfn| *pfn != run.pfn.get());
    }
}

/// The driver's side of the device.
struct Driver<'m>(&'m Machine);

impl DeviceChunk for Driver<'_> {
    fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError> {
        self.0.might_sleep();
        let entry = entries.at(PAGE).expect("it was entered");
        self.0.shared.hardware.state.lock().unwrap().0 = Some(entry.addr);
        thread::yield_now();
        Ok(())
    }

    fn zap<'z>(&mut self, zap: Zap<'z>, entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
        assert_eq!(entries.at(PAGE), None);
        let Shared {
            broken,
            fences,
            hardware,
            ..
        } = &*self.0.shared;
        match (broken, fences) {
            (Broken::SkipsTheZap | Broken::ZapsAfterUnmapping, _) => {}
            (Broken::IgnoresFailure, Fences::Second | Fences::None) => {}
            (_, Fences::Second | Fences::None) => return Err(zap),
            (Broken::WaitsForNoCompletion, _) => hardware.forget(),
            _ => {
                hardware.forget();
                hardware.wait(self.0);
            }
        }
        Ok(zap.confirmed())
    }

    fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
        if self.0.shared.fences == Fences::None {
            return Err(zap);
        }
        self.0.shared.hardware.forget();
        self.0.shared.hardware.wait(self.0);
        Ok(zap.confirmed())
    }
}

/// The chunk's lock, as it is.
struct Sleeping<'m>(&'m Machine);
/// The same lock, which [`invalidate`] is told never sleeps.
struct Spinning<'m>(&'m Machine);

macro_rules! locks {
    ($lock:ident, $sleeps:literal) => {
        impl WatchedLock<Part> for $lock<'_> {
            type Guard<'a>
                = MutexGuard<'a, Watched<Part>>
            where
                Self: 'a;

            const SLEEPS: bool = $sleeps;

            fn lock(&self) -> Self::Guard<'_> {
                self.0.lock()
            }

            fn try_lock(&self) -> Option<Self::Guard<'_>> {
                self.0.part.try_lock().ok()
            }

            fn look<R>(&self, look: impl FnOnce(&Watched<Part>) -> R) -> R {
                look(&self.0.lock())
            }

            fn try_look<R>(&self, look: impl FnOnce(&Watched<Part>) -> R) -> Option<R> {
                self.try_lock().map(|watched| look(&watched))
            }
        }
    };
}
locks!(Sleeping, true);
locks!(Spinning, false);

struct Machine {
    cpu: Cpu,
    /// Frames that went back to the allocator.
    freed: Mutex<Vec<u64>>,
    /// As `mm/mmu_notifier.c` keeps it: odd while an invalidation is under way.
    seq: Mutex<u64>,
    /// Under the chunk's lock.
    part: Mutex<Watched<Part>>,
    shared: Arc<Shared>,
    /// Threads that must not sleep.
    atomic: Mutex<Vec<ThreadId>>,
    refused: Mutex<u32>,
}

impl Machine {
    fn new(broken: Broken, fences: Fences) -> Self {
        let shared = Arc::new(Shared {
            broken,
            fences,
            hardware: Hardware::default(),
            mapped: Mutex::default(),
            held: Mutex::default(),
        });
        let xlt = Xlt::new(RANGE, Vec::from([Slot::default()]));
        let part = DeviceXlt::new(xlt, Bus(shared.clone()));
        Self {
            cpu: Cpu::new(),
            freed: Mutex::default(),
            seq: Mutex::new(0),
            // The count is about to wrap.
            part: Mutex::new(Watched::new(part, u64::MAX - 1)),
            shared,
            atomic: Mutex::default(),
            refused: Mutex::new(0),
        }
    }

    fn might_sleep(&self) {
        let atomic = self.atomic.lock().unwrap();
        assert!(
            !atomic.contains(&thread::current().id()),
            "what must not sleep did"
        );
    }

    fn lock(&self) -> MutexGuard<'_, Watched<Part>> {
        self.might_sleep();
        self.part.lock().unwrap()
    }

    /// The notifier's callback; returns whether the invalidation may go on.
    fn callback(&self, blockable: bool) -> bool {
        let uses = |part: &Part| part.uses(RANGE);
        let zap = |part: &mut Part| {
            part.revoke(&mut Driver(self), RANGE);
        };
        match self.shared.broken {
            Broken::ForgetsToRefuse => {
                invalidate(&Spinning(self), RANGE, blockable, uses, || (), zap)
            }
            _ => invalidate(&Sleeping(self), RANGE, blockable, uses, || (), zap),
        }
    }

    /// The CPU replaces the page, if it may: notifier first, then the page table, then the old frame is freed, unless
    /// somebody holds it.
    fn replace_page(&self, blockable: bool) {
        let me = thread::current().id();
        if !blockable {
            self.atomic.lock().unwrap().push(me);
        }
        *self.seq.lock().unwrap() += 1;
        if self.callback(blockable) {
            let old = self.cpu.remap();
            if !self.shared.held.lock().unwrap().contains(&old) {
                self.freed.lock().unwrap().push(old);
            }
        } else {
            assert!(!blockable);
            *self.refused.lock().unwrap() += 1;
        }
        *self.seq.lock().unwrap() += 1;
        self.atomic.lock().unwrap().retain(|thread| *thread != me);
    }

    /// One access of the device: by its translation, or after a fault.
    fn access(&self) {
        while !self.use_translation() {
            match self.fault() {
                Ok(()) => {}
                // It has been cut off.
                Err(FaultError::Device) if self.shared.fences != Fences::Both => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// The device picks up its translation and uses it; returns whether it has one.
    fn use_translation(&self) -> bool {
        let picked_up = {
            let mut state = self.shared.hardware.state.lock().unwrap();
            state.1 += u32::from(state.0.is_some());
            state.0
        };
        let Some(frame) = picked_up else {
            return false;
        };
        thread::yield_now();
        let mapped = self.shared.mapped.lock().unwrap().contains(&frame);
        assert!(mapped, "the device used an address that is not mapped");
        let freed = self.freed.lock().unwrap().contains(&frame);
        assert!(!freed, "the device used a freed frame");
        self.shared.hardware.state.lock().unwrap().1 -= 1;
        true
    }

    fn fault(&self) -> Result<(), FaultError> {
        let mut pfns = [HmmPfn::ABSENT];
        let room = PmdPages::new(RANGE, &mut pfns);
        let walk = |_: &_, (): &mut (), found: &mut _| self.cpu.walk(found);
        let mut valid = until_valid(self, &Never, Nothing, room, walk, || ())?;
        let (found, part) = valid.split();
        part.enter(&mut Driver(self), found, Perm::ReadWrite, &mut OnePage)?;
        assert!(
            part.allows(PAGE, Access::Write),
            "a valid fault serves its access"
        );
        Ok(())
    }

    /// The chunk is freed: the device works no more for this mirror.
    fn close(&self) {
        let (_, forgotten) = self.lock().close(&mut Driver(self));
        assert_eq!(forgotten, self.shared.mapped.lock().unwrap().is_empty());
    }
}

impl Domain for Machine {
    type Guard<'d> = MutexGuard<'d, Watched<Part>>;

    fn read_begin(&self) -> u64 {
        let seq = Sleeping(self).look(Watched::seq);
        while *self.seq.lock().unwrap() % 2 != 0 {
            thread::yield_now();
        }
        seq
    }

    fn lock(&self) -> Self::Guard<'_> {
        Machine::lock(self)
    }

    fn must_retry(&self, guard: &Self::Guard<'_>, seq: u64, pages: PageRange) -> bool {
        self.shared.broken != Broken::SkipsTheRetryCheck && guard.touched_since(seq, pages)
    }

    fn may_have_collided(&self, seq: u64, pages: PageRange) -> bool {
        let collided = Sleeping(self).try_look(|watched| watched.touched_since(seq, pages));
        collided.unwrap_or(false)
    }
}

fn run_machine(broken: Broken, fences: Fences) {
    let machine = Arc::new(Machine::new(broken, fences));
    let with = |what: fn(&Machine)| {
        let machine = machine.clone();
        thread::spawn(move || what(&machine))
    };
    // One thread invalidates at a time, as both would write the one entry of the page table.
    let cpu = with(|machine| {
        for swap in 0..2 * SWAPS {
            machine.replace_page(swap % 2 == 0);
        }
    });
    let devices = [
        with(|machine| (0..2).for_each(|_| machine.access())),
        with(|machine| (0..2).for_each(|_| machine.access())),
    ];
    for device in devices {
        device.join().unwrap();
    }
    cpu.join().unwrap();
    machine.close();
}

fn explore(broken: Broken, fences: Fences, schedules: usize) {
    shuttle::check_random(move || run_machine(broken, fences), schedules);
    shuttle::check_pct(move || run_machine(broken, fences), schedules, 3);
}

#[test]
fn no_schedule_lets_a_device_use_what_it_has_been_told_to_forget() {
    explore(Broken::Nothing, Fences::Both, 2000);
}

#[test]
fn no_schedule_does_if_the_device_does_not_confirm() {
    explore(Broken::Nothing, Fences::Second, 1000);
    explore(Broken::Nothing, Fences::None, 1000);
}

#[test]
fn the_exploration_would_notice_each_rule_that_is_broken() {
    let twins = [
        (Broken::SkipsTheZap, Fences::Both),
        (Broken::ZapsAfterUnmapping, Fences::Both),
        (Broken::WaitsForNoCompletion, Fences::Both),
        (Broken::SkipsTheRetryCheck, Fences::Both),
        (Broken::ForgetsToRefuse, Fences::Both),
        (Broken::IgnoresFailure, Fences::Second),
        (Broken::FreesWhatIsHeld, Fences::None),
    ];
    for (broken, fences) in twins {
        let result = catch_unwind(AssertUnwindSafe(|| explore(broken, fences, 2000)));
        assert!(result.is_err(), "{broken:?} was not noticed");
    }
}

#[test]
fn what_must_not_sleep_is_refused_only_while_the_device_is_in_the_way() {
    let check = || {
        let machine = Machine::new(Broken::Nothing, Fences::Both);
        // Nothing is mapped.
        machine.replace_page(false);
        assert_eq!(*machine.refused.lock().unwrap(), 0);
        machine.access();
        machine.replace_page(false);
        assert_eq!(*machine.refused.lock().unwrap(), 1);
        assert!(machine.use_translation(), "nothing was done");
        machine.replace_page(true);
        assert!(!machine.use_translation());
        // Nothing is mapped, but somebody holds the lock.
        let guard = machine.lock();
        machine.replace_page(false);
        drop(guard);
        assert_eq!(*machine.refused.lock().unwrap(), 2);
        machine.replace_page(false);
        assert_eq!(*machine.refused.lock().unwrap(), 2);
        machine.close();
    };
    shuttle::check_random(check, 1);
}
