// SPDX-License-Identifier: GPL-2.0
//! What keeps queue pairs going: doorbells, packets that arrive, memory that has come, and time. Each has the requesting
//! or the responding end take its next step.

use serde_json::json;

use crate::device::Device;
use crate::fabric::Packet;
use crate::faults::End;
use crate::qp::QueuePair;
use crate::service::Service;
use crate::trace::Rule;

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

    /// An end of a queue pair goes on: what it has waited for is there, or is not to be had.
    pub(crate) fn go_on_after_fault(&mut self, number: u32, end: End) {
        match end {
            End::Requester => self.request_after_fault(number),
            End::Responder => self.respond_after_fault(number),
        }
        self.run();
    }

    /// Goes on with everything until there is nothing to do but to wait.
    pub(crate) fn run(&mut self) {
        // What is left is done at the next tick, or when something happens.
        for _ in 0..self.fabric.steps() {
            if let Some(packet) = self.fabric.receive(self.port.lid) {
                for packet in self.carried(packet) {
                    self.arrive(packet);
                }
            } else if !self.step() {
                return;
            }
        }
    }

    /// A packet of another device has arrived.
    pub(crate) fn take_packet(&mut self, packet: Packet) {
        for packet in self.carried(packet) {
            self.arrive(packet);
        }
        self.run();
    }

    /// A packet has arrived.
    pub(crate) fn arrive(&mut self, packet: Packet) {
        if packet.service.is_datagram() {
            return self.take_datagram(packet);
        }
        let request = packet.kind.is_request();
        let number = match packet.service {
            Service::Initiator => match self.connected(&packet) {
                Some(number) => number,
                None => return,
            },
            _ => packet.to.pair,
        };
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        // What comes from a target is for an initiator, and the other way round.
        let service = match packet.service {
            Service::Initiator => Service::Target,
            Service::Target => Service::Initiator,
            other => other,
        };
        let known = pair.is_connected_with(packet.from) && pair.service() == service;
        if !pair.takes_packets() || !known {
            return;
        }
        self.active.insert(number);
        match (request, packet.service.is_reliable()) {
            (true, true) => self.requested(number, packet),
            (true, false) => self.unacknowledged(number, packet),
            (false, true) => self.answered(number, packet),
            (false, false) => {}
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
        let waiting = |(number, pair): (u32, &QueuePair)| pair.requester.waits().then_some(number);
        let waiting: Vec<u32> = self.queue_pairs.iter().filter_map(waiting).collect();
        for number in &waiting {
            self.expire(*number, now);
        }
        self.run();
        let mut pairs = self.queue_pairs.iter();
        !self.active.is_empty() || pairs.any(|(_, pair)| pair.requester.waits())
    }
}
