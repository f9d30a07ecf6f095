// SPDX-License-Identifier: GPL-2.0
//! What keeps queue pairs going: doorbells, packets that arrive, and time.

use serde_json::json;

use crate::device::Device;
use crate::port::LID;
use crate::trace::Rule;

/// Steps that are done at once; what is left is done at the next tick.
const BUDGET: u32 = 1 << 16;

impl Device {
    /// The driver's doorbell of a send queue.
    pub(crate) fn work_doorbell(&mut self, number: u32) {
        self.bus.event("doorbell", || json!({"qp": number}));
        match self.queue_pairs.get(number) {
            Ok(pair) if pair.is_of_driver() => {
                self.flush(number);
                self.active.insert(number);
                self.run();
            }
            _ => {
                let text = format!("a doorbell for queue pair {number:#x}, which is not there");
                self.bus.violation(Rule::Interface, text);
            }
        }
    }

    /// Goes on with everything until there is nothing to do but to wait.
    pub(crate) fn run(&mut self) {
        for _ in 0..BUDGET {
            if let Some(packet) = self.fabric.receive(LID) {
                self.arrive(packet);
            } else if !self.step() {
                return;
            }
        }
    }

    /// Lets the next queue pair that has something to do answer or request. Each has its turn.
    fn step(&mut self) -> bool {
        while let Some(number) = self.next_active() {
            self.turn = number.wrapping_add(1);
            if self.respond(number) || self.request(number) {
                return true;
            }
            self.active.remove(&number);
        }
        false
    }

    fn next_active(&self) -> Option<u32> {
        let later = self.active.range(self.turn..).next();
        later.or_else(|| self.active.iter().next()).copied()
    }

    /// Does what the time has come for. Gives whether there is more to wait for.
    pub(crate) fn pass_time(&mut self) -> bool {
        let now = self.bus.now();
        let waiting =
            |(number, pair): (u32, &crate::qp::QueuePair)| pair.requester.waits().then_some(number);
        let waiting: Vec<u32> = self.queue_pairs.iter().filter_map(waiting).collect();
        for number in &waiting {
            self.expire(*number, now);
        }
        self.run();
        let mut pairs = self.queue_pairs.iter();
        !self.active.is_empty() || pairs.any(|(_, pair)| pair.requester.waits())
    }
}
