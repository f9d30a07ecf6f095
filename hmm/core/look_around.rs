// SPDX-License-Identifier: GPL-2.0

//! Look-around: whether a fault on a resident page takes along the resident pages around it.
//!
//! A device that uses memory at random, or backwards, faults on each of its pages, though the CPU has them all. So a
//! fault for which the CPU's handler had nothing to do enters the pages of the aligned block around its own that are
//! resident, too, as the kernel's own fault-around does. Nothing is faulted in or allocated for them. A block costs
//! about as much as two faults, so it pays if a few of its pages are used; where none is, it stops. Whether they are
//! used is known: an entry that was taken along says so when the device first uses it ([`crate::xlt::Slot`]).
//!
//! For pages in ascending order there is [`crate::fault_around`], which looks further and further.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

/// After so many pages, 16 MiB, it is judged whether they are used. Before, nothing can be said: of memory that is used
/// at random once, few of the first are used soon.
const ENOUGH: u16 = 4096;

/// How many pages are taken along to find out whether they are used by now.
const PROBE: u16 = 512;

/// How many faults look at nothing where looking did not pay: twice as many each time.
const FIRST_PAUSE: u16 = 64;
const LONGEST_PAUSE: u16 = 4096;

/// The device uses a page that was taken along as often, of its accesses that would fault, as these pages are of all
/// pages where it has been, if it uses all alike. Those that it uses an eighth as often are worthwhile: they become more.
const RARELY: u64 = 8;

/// A look that enters nothing costs as much as one that enters so many pages.
const LEAST: u16 = 8;

/// After a folio of one page, so many are not looked at: most memory has no larger ones.
const BETWEEN_FOLIOS: u16 = 7;

/// What has come of looking around in a mirror.
///
/// A hint: faults at once may disturb each other's counts.
#[derive(Debug)]
pub struct LookAround {
    /// How many pages have been taken along, at least [`LEAST`] by each look, and after how many that is judged.
    taken: AtomicU16,
    budget: AtomicU16,
    /// How many faults might have looked meanwhile.
    faults: AtomicU16,
    /// How many of the pages that were taken along have been used.
    used: AtomicU32,
    /// How many faults are still to look at nothing, and how many after the next try that is in vain.
    pause: AtomicU16,
    next_pause: AtomicU16,
    /// How many of the folios that faults bring in are not to be looked at.
    folios: AtomicU16,
    has_taken: AtomicBool,
}

impl LookAround {
    /// log2 of the pages in the largest block: 128 KiB. With half of it, random accesses to resident memory fault on one
    /// page in 14.
    pub const ORDER: u32 = 5;

    /// Nothing was looked at yet.
    pub const fn new() -> Self {
        Self {
            taken: AtomicU16::new(0),
            budget: AtomicU16::new(ENOUGH),
            faults: AtomicU16::new(0),
            used: AtomicU32::new(0),
            pause: AtomicU16::new(0),
            next_pause: AtomicU16::new(FIRST_PAUSE),
            folios: AtomicU16::new(0),
            has_taken: AtomicBool::new(false),
        }
    }

    /// A fault on a resident page, where the device has been at about `pages` pages: log2 of the size of the block to take
    /// along, if it is to be one. It has `largest` pages beside the page at most.
    pub fn block(&self, pages: u64, largest: u64) -> Option<u32> {
        let order = bounded(Self::ORDER, largest)?;
        self.looks(pages).then_some(order)
    }

    /// Whether a fault is to look around.
    fn looks(&self, pages: u64) -> bool {
        set(&self.faults, get(&self.faults).saturating_add(1));
        let pause = get(&self.pause);
        if pause > 0 {
            set(&self.pause, pause - 1);
            if pause > 1 {
                return false;
            }
            match self.pays(pages) {
                true => {
                    set(&self.budget, ENOUGH);
                    set(&self.next_pause, FIRST_PAUSE);
                }
                false => set(&self.budget, PROBE),
            }
            self.forget();
        }
        if get(&self.taken) >= get(&self.budget) {
            if !self.pays(pages) {
                let pause = get(&self.next_pause);
                set(&self.pause, pause);
                set(&self.next_pause, (2 * pause).min(LONGEST_PAUSE));
                return false;
            }
            self.forget();
        }
        set(&self.taken, get(&self.taken).saturating_add(LEAST));
        true
    }

    /// The same of a page that the CPU's fault handler has brought in with all of its folio, of the order that
    /// `folio_order` says.
    #[inline]
    pub fn block_of_folio(
        &self,
        folio_order: impl FnOnce() -> u32,
        pages: impl FnOnce() -> u64,
        largest: u64,
    ) -> Option<u32> {
        let folios = get(&self.folios);
        if folios > 0 {
            set(&self.folios, folios - 1);
            return None;
        }
        let order = folio_order();
        if order == 0 {
            set(&self.folios, BETWEEN_FOLIOS);
            return None;
        }
        let order = bounded(order.min(Self::ORDER), largest)?;
        self.looks(pages()).then_some(order)
    }

    /// A look has taken so many pages along.
    pub fn took(&self, pages: u64) {
        let more = (pages as u16).saturating_sub(LEAST);
        set(&self.taken, get(&self.taken).saturating_add(more));
        if pages > 0 {
            self.has_taken.store(true, Ordering::Relaxed);
        }
    }

    /// Whether pages were ever taken along: if not, none is used for the first time.
    #[inline]
    pub fn has_taken(&self) -> bool {
        // Relaxed: the lock of the chunk orders this against the entries themselves.
        self.has_taken.load(Ordering::Relaxed)
    }

    /// The device has used one of them.
    #[inline]
    pub fn used(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the pages that were taken along are used as often as is worthwhile.
    fn pays(&self, pages: u64) -> bool {
        let [faults, taken] = [&self.faults, &self.taken].map(|n| u64::from(get(n)));
        let used = u64::from(self.used.load(Ordering::Relaxed));
        // used / accesses >= taken / pages / RARELY
        used * pages * RARELY >= taken * (faults + used)
    }

    fn forget(&self) {
        set(&self.taken, 0);
        set(&self.faults, 0);
        self.used.store(0, Ordering::Relaxed);
    }
}

#[inline]
fn get(number: &AtomicU16) -> u16 {
    // Relaxed: a hint.
    number.load(Ordering::Relaxed)
}

#[inline]
fn set(number: &AtomicU16, value: u16) {
    number.store(value, Ordering::Relaxed);
}

/// `order`, or that of the largest block that has `largest` pages beside the one.
fn bounded(order: u32, largest: u64) -> Option<u32> {
    let order = largest.saturating_add(1).ilog2().min(order);
    (order > 0).then_some(order)
}

impl Default for LookAround {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const CHUNK: u64 = 1 << 15;

    /// A chunk whose pages are all resident, and a device that uses those of `accesses`.
    fn faults(accesses: impl Iterator<Item = u64>) -> (u64, u64) {
        // What a page is: without a translation, taken along, or used.
        let mut pages = vec![0u8; CHUNK as usize];
        let look_around = LookAround::new();
        let (mut faults, mut taken) = (0, 0);
        for page in accesses {
            match pages[page as usize] {
                2 => continue,
                1 => look_around.used(),
                _ => {
                    faults += 1;
                    if let Some(order) = look_around.block(CHUNK, 511) {
                        let start = (page >> order << order) as usize;
                        let block = &mut pages[start..start + (1 << order)];
                        let along = block.iter_mut().filter(|state| **state == 0);
                        let count = along.map(|state| *state = 1).count() as u64 - 1;
                        look_around.took(count);
                        taken += count;
                    }
                }
            }
            pages[page as usize] = 2;
        }
        (faults, taken)
    }

    fn shuffled(step: usize, seed: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..CHUNK).step_by(step).collect();
        // Fisher and Yates, with the numbers of a linear congruential generator.
        let mut state = seed;
        for index in (1..all.len()).rev() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            all.swap(index, (state >> 33) as usize % (index + 1));
        }
        all
    }

    #[test]
    fn random_accesses_to_all_of_a_chunk_fault_once_a_block() {
        for seed in 1..20 {
            let (faults, _) = faults(shuffled(1, seed).into_iter());
            assert!(faults < CHUNK * 7 / 100, "{seed}: {faults}");
        }
    }

    #[test]
    fn backwards_it_is_a_fault_a_block() {
        assert_eq!(faults((0..CHUNK).rev()).0, CHUNK >> LookAround::ORDER);
    }

    #[test]
    fn what_is_never_used_is_soon_not_taken_along_any_more() {
        // One page of each block.
        let (faults, taken) = faults(shuffled(32, 3).into_iter());
        assert_eq!(faults, CHUNK / 32);
        assert!(taken < u64::from(ENOUGH + 5 * PROBE), "{taken}");
    }

    #[test]
    fn looks_that_find_nothing_end() {
        let look_around = LookAround::new();
        let mut looks = 0;
        for _ in 0..10_000 {
            if look_around.block(CHUNK, 511).is_some() {
                look_around.took(0);
                looks += 1;
            }
        }
        assert!((100..1200).contains(&looks), "{looks}");
        // Of folios, too.
        let of_folios =
            (0..1000).filter(|_| look_around.block_of_folio(|| 4, || CHUNK, 511).is_some());
        assert!(of_folios.count() < 200 && !look_around.has_taken());
    }

    #[test]
    fn where_it_did_not_pay_it_is_tried_again() {
        let look_around = LookAround::new();
        let in_vain = |look_around: &LookAround, faults: u16| {
            let mut looks = 0u16;
            for _ in 0..faults {
                if look_around.block(CHUNK, 511).is_some() {
                    look_around.took(31);
                    looks += 1;
                }
            }
            looks
        };
        assert!(in_vain(&look_around, 200) >= ENOUGH / 31);
        let looks = in_vain(&look_around, 20_000);
        assert!((1..200).contains(&looks), "{looks}");
        // Then they are used: within a pause and a probe it looks each time.
        let mut looked = false;
        for _ in 0..2 * LONGEST_PAUSE + PROBE {
            if look_around.block(CHUNK, 511).is_some() {
                look_around.took(31);
                looked = get(&look_around.budget) == ENOUGH;
            }
            look_around.used();
        }
        assert!(looked);
    }

    #[test]
    fn a_small_window_is_a_small_block() {
        for (largest, order) in [
            (0, None),
            (1, Some(1)),
            (6, Some(2)),
            (7, Some(3)),
            (511, Some(LookAround::ORDER)),
        ] {
            assert_eq!(LookAround::new().block(CHUNK, largest), order, "{largest}");
        }
        for (of_folio, largest, order) in [
            (0, 511, None),
            (4, 511, Some(4)),
            (9, 511, Some(LookAround::ORDER)),
            (4, 3, Some(2)),
            (4, 0, None),
        ] {
            assert_eq!(
                LookAround::new().block_of_folio(|| of_folio, || CHUNK, largest),
                order
            );
        }
    }

    #[test]
    fn folios_are_looked_at_as_long_as_they_are_large() {
        let look_around = LookAround::new();
        let mut asked = Vec::new();
        for fault in 0..40 {
            let order = || {
                asked.push(fault);
                if (16..20).contains(&fault) {
                    4
                } else {
                    0
                }
            };
            look_around.block_of_folio(order, || CHUNK, 511);
        }
        assert_eq!(asked, [0, 8, 16, 17, 18, 19, 20, 28, 36]);
    }
}
