// SPDX-License-Identifier: GPL-2.0

//! What a mirror tells its observer, counted.

use core::sync::atomic::{AtomicU64, Ordering};

use hmm::{Access, Event, FaultError, Observer, PageIndex, PageRange, Removal};

use crate::abi;

/// The counters.
#[derive(Default)]
pub(crate) struct Tally {
    faults: AtomicU64,
    pages: AtomicU64,
    around: AtomicU64,
    collisions: AtomicU64,
    failures: AtomicU64,
    chunks: AtomicU64,
    reaped: AtomicU64,
    invalidated: AtomicU64,
    events: [AtomicU64; abi::EVENT_KINDS],
}

/// Each counter is exact by itself; there is no order between them.
fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    /// Their values.
    pub(crate) fn stats(&self) -> abi::MirrorStats {
        abi::MirrorStats {
            faults: read(&self.faults),
            pages: read(&self.pages),
            around: read(&self.around),
            collisions: read(&self.collisions),
            failures: read(&self.failures),
            chunks: read(&self.chunks),
            reaped: read(&self.reaped),
            invalidated: read(&self.invalidated),
            events: self.events.each_ref().map(read),
        }
    }
}

fn index(event: Event) -> usize {
    match event {
        Event::Unmap => abi::EVENT_UNMAP,
        Event::Clear => abi::EVENT_CLEAR,
        Event::ProtectVma => abi::EVENT_PROTECT_VMA,
        Event::ProtectPage => abi::EVENT_PROTECT_PAGE,
        Event::SoftDirty => abi::EVENT_SOFT_DIRTY,
        Event::Release => abi::EVENT_RELEASE,
        Event::Migrate => abi::EVENT_MIGRATE,
        Event::Exclusive => abi::EVENT_EXCLUSIVE,
    }
}

impl Observer for Tally {
    type Fault = ();

    fn fault_begins(&self, _page: PageIndex, _access: Access) {}

    fn fault_served(&self, _fault: (), pages: u64, around: u64) {
        add(&self.faults, 1);
        add(&self.pages, pages);
        add(&self.around, around);
    }

    fn collided(&self) {
        add(&self.collisions, 1);
    }

    fn fault_failed(&self, _fault: (), _error: FaultError) {
        add(&self.failures, 1);
    }

    fn invalidated(&self, _range: PageRange, event: Event, pages: u64) {
        add(&self.invalidated, pages);
        add(&self.events[index(event)], 1);
    }

    fn chunk_added(&self, _range: PageRange) {
        add(&self.chunks, 1);
    }

    fn chunk_removed(&self, _range: PageRange, _pages: u64, why: Removal) {
        if why == Removal::Reaped {
            add(&self.reaped, 1);
        }
    }

    fn resized(&self, _before: usize, _after: usize) {}
}
