// SPDX-License-Identifier: GPL-2.0
//! Dynamically connected transport: an initiator (DCI) names the target (DCT) of each request, and is connected to one
//! at a time. A target is no queue pair for its driver: it has commands of its own, and receives from a shared queue.
//!
//! For each initiator that is connected there is a responder, which is a queue pair of the device's own that no driver
//! can name. It goes when its initiator connects anew, when it has refused something, and with its target.

use crate::device::Device;
use crate::eq::Event;
use crate::fabric::{Kind, Packet, Place, Refusal};
use crate::qp::QueuePair;
use crate::service::Service;

/// Responders have numbers that no driver can name: these, and that of their initiators. What comes from other ports
/// does not reach this one yet.
const RESPONDERS: u32 = 1 << 24;

impl Device {
    /// The responder for a request to a target; nothing if there is none, which has been answered where it has to be.
    pub(crate) fn connected(&mut self, packet: &Packet) -> Option<u32> {
        let connection = packet
            .connection
            .filter(|connection| connection.to == packet.to)?;
        let number = RESPONDERS | packet.from.pair;
        let known = self.queue_pairs.get(number).ok();
        match known.and_then(|pair| pair.connection()) {
            Some(known) if known.serial == connection.serial => return Some(number),
            // What is old has lost its way.
            Some(known) if known.serial > connection.serial => return None,
            _ => {}
        }
        let wanted = packet.to.pair;
        let target = self.queue_pairs.get_mut(wanted).ok()?.as_target()?;
        if !target.is_active() {
            return None;
        }
        if target.access_key() != connection.key {
            if target.violated() {
                self.tell(Event::KeyViolation, wanted);
            }
            let refused = Kind::Refuse(Refusal::Access);
            let own = Place {
                port: self.port.lid,
                pair: wanted,
            };
            let service = Service::Target;
            let answer = Packet::new(service, own, packet.from, packet.number, refused);
            self.fabric.send(answer);
            return None;
        }
        let context = target.context().to_vec();
        self.hang_up(number);
        let responder = QueuePair::receiving(&context, Some((connection, packet.from)));
        self.queue_pairs.put(number, responder);
        Some(number)
    }

    /// Ends all connections to a target.
    pub(crate) fn disconnect(&mut self, target: u32) {
        let of = |(number, pair): (u32, &QueuePair)| {
            let connection = pair.connection();
            let its = connection.is_some_and(|connection| connection.to.pair == target);
            its.then_some(number)
        };
        let all: Vec<u32> = self.queue_pairs.iter().filter_map(of).collect();
        all.into_iter().for_each(|number| self.hang_up(number));
    }

    /// Ends a connection. What it has begun to receive is flushed.
    pub(crate) fn hang_up(&mut self, responder: u32) {
        if self.queue_pairs.get(responder).is_ok() {
            self.fail(responder);
            self.flush(responder);
            self.faults.forget(responder, true);
            self.active.remove(&responder);
            let _ = self.queue_pairs.remove(responder);
        }
    }
}
