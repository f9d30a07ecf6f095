// SPDX-License-Identifier: GPL-2.0
//! What becomes of what the driver writes to the device, and of the time that goes by: the way in to all that the device
//! does.
//!
//! Nothing here or below depends on threads or on the host's time: the same events with the same memory and the same clock
//! have the same outcome.

use serde_json::json;

use crate::bar::Event;
use crate::device::Device;
use crate::trace::Rule;

/// Doorbells in a page: of event queues, with and without arming, of completion queues, of work queues.
const EVENTS_ARM: u64 = 0x40;
const EVENTS: u64 = 0x48;
const COMPLETIONS: u64 = 0x20;
const WORK: u64 = 0x800;

/// The bits of an object's number.
const NUMBER: u32 = 0xff_ffff;

impl Device {
    /// Does what an event asks for; gives the interrupt vectors to raise.
    pub fn handle(&mut self, event: Event) -> Vec<u16> {
        match event {
            // Who does not know yet goes on for a while.
            Event::Doorbell { .. } if self.ill => {}
            Event::Commands(_) if self.ill && self.registers.queue_address().is_none() => {}
            Event::Commands(entries) => self.execute(entries),
            Event::Doorbell {
                page,
                offset,
                bytes,
            } => self.doorbell(page, offset, &bytes),
            Event::Packet(arrival) => self.take_packet(arrival.into_packet()),
            Event::Reset => {
                self.bus.event("reset", || json!({}));
                self.forget_everything();
                self.recover();
            }
        }
        std::mem::take(&mut self.events.interrupts)
    }

    /// Does what has to be done from time to time: gives the vectors to raise, or nothing if there is nothing to
    /// look after.
    pub fn tick(&mut self) -> Option<Vec<u16>> {
        let waiting = self.pass_time();
        let watching = self.flush_all();
        let faults = self.faults.late(&self.bus);
        let held = self.release();
        // What ended just now may be the last that was waited for, and is told all the same.
        let raised = std::mem::take(&mut self.events.interrupts);
        (waiting || watching || faults || held || !raised.is_empty()).then_some(raised)
    }

    fn doorbell(&mut self, page: u32, offset: u64, bytes: &[u8]) {
        if self.doorbell_pages.get(page).is_err() {
            let text = format!("a doorbell in page {page}, which is nobody's");
            return self.bus.violation(Rule::Interface, text);
        }
        let place = offset & !7;
        match (offset, bytes) {
            (EVENTS_ARM | EVENTS, &[a, b, c, d]) => {
                let word = u32::from_be_bytes([a, b, c, d]);
                self.events.doorbell(word, offset == EVENTS_ARM, &self.bus);
            }
            (_, &[a, b, c, d, e, f, g, h]) if place == offset => {
                let [high, low] = [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes);
                self.wide_doorbell(place, high, low);
            }
            (_, &[a, b, c, d]) => {
                let word = u32::from_be_bytes([a, b, c, d]);
                if place == offset {
                    self.halves.insert((page, place), word);
                } else if let Some(high) = self.halves.remove(&(page, place)) {
                    self.wide_doorbell(place, high, word);
                }
            }
            _ => {
                let text = format!("{} bytes at {offset:#x} of a doorbell page", bytes.len());
                self.bus.violation(Rule::Interface, text);
            }
        }
    }

    /// A doorbell of two words.
    fn wide_doorbell(&mut self, place: u64, high: u32, low: u32) {
        match place {
            COMPLETIONS => self.completion_doorbell(high, low & NUMBER),
            WORK.. => self.work_doorbell(low >> 8),
            _ => {
                let text = format!("a doorbell at {place:#x}, where there is none");
                self.bus.violation(Rule::Interface, text);
            }
        }
    }

    /// The driver's doorbell of a completion queue.
    fn completion_doorbell(&mut self, word: u32, number: u32) {
        let Ok(queue) = self.completion_queues.get_mut(number) else {
            let text = format!("a doorbell for completion queue {number:#x}, which is not there");
            return self.bus.violation(Rule::Interface, text);
        };
        queue.doorbell(number, word, &mut self.events, &self.bus);
    }
}
