// SPDX-License-Identifier: GPL-2.0
//! BAR 0: the initialization segment, and the pages of doorbells after it. Reads are answered at once, writes become
//! [`Event`]s for the device, which takes them one after the other (`dispatch`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::segment::{self, Segment, Written};
use crate::subnet::Arrival;

/// Bytes of a page of doorbells, and the first one that a driver gets: those before it are the registers.
pub(crate) const PAGE: u64 = 0x1000;
pub(crate) const FIRST_PAGE: u32 = 8;

/// Something for the device to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Commands were put into the command queue: a bit for each entry.
    Commands(u32),
    /// A write to a page of doorbells.
    Doorbell {
        /// The page.
        page: u32,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A packet of another device has arrived.
    Packet(Arrival),
    /// The function is reset.
    Reset,
}

/// BAR 0, as far as it answers at once.
#[derive(Clone)]
pub struct Registers {
    segment: Arc<Mutex<Segment>>,
    clock: Arc<dyn Clock>,
}

impl Registers {
    /// As they are after a reset.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            segment: Arc::new(Mutex::new(Segment::new())),
            clock,
        }
    }

    /// Reads of BAR 0. Doorbells read as zeroes.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let now = self.clock.now();
        lock(&self.segment).read(offset, now, bytes);
    }

    /// Writes to BAR 0; gives what the device has to do about it.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Option<Event> {
        if offset >= segment::SIZE {
            let page = u32::try_from(offset / PAGE).ok()?;
            let bytes = bytes.to_vec();
            let offset = offset % PAGE;
            return Some(Event::Doorbell {
                page,
                offset,
                bytes,
            });
        }
        match lock(&self.segment).write(offset, bytes) {
            Written::Doorbell(entries) => Some(Event::Commands(entries)),
            Written::Register | Written::Nothing => None,
        }
    }

    /// Where the command queue is, if commands are taken.
    pub(crate) fn queue_address(&self) -> Option<u64> {
        lock(&self.segment).queue()
    }

    /// Shows an error of the firmware's, or none any more.
    pub(crate) fn show_error(&self, shown: bool) {
        lock(&self.segment).show_error(shown);
    }

    /// Puts the registers back to where they were in the beginning.
    pub fn reset(&self) -> Event {
        *lock(&self.segment) = Segment::new();
        Event::Reset
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
