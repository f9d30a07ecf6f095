// SPDX-License-Identifier: GPL-2.0
//! Several devices that reach each other: a packet for another port becomes an event for that port's device, in its
//! thread.
//!
//! A device never waits for another one. What a port does not take in time is lost, as on a wire that has no credits: a
//! reliable connection sends it again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bar::Event;
use crate::fabric::{Fabric, Packet};

/// Packets that wait for a port at most.
const MOST: usize = 1 << 12;

/// Steps that a device takes before it looks at what others send it.
const STEPS: u32 = 1 << 8;

/// A packet on its way into a device.
#[derive(Clone, Debug)]
pub struct Arrival {
    packet: Box<Packet>,
    waiting: Arc<AtomicUsize>,
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.packet == other.packet
    }
}

impl Eq for Arrival {}

impl Arrival {
    /// The packet, which does not wait any more.
    pub(crate) fn into_packet(self) -> Packet {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        *self.packet
    }
}

/// A port: the way into its device, and how many packets wait for that.
#[derive(Debug)]
struct Place {
    events: Sender<Event>,
    waiting: Arc<AtomicUsize>,
}

/// What devices are connected by. Copies are the same one.
#[derive(Clone, Debug, Default)]
pub struct Subnet(Arc<Mutex<HashMap<u16, Place>>>);

impl Subnet {
    /// One without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on packets for this LID become events, until the first of what it gives is dropped. The second carries
    /// the packets of that device.
    pub(crate) fn attach(&self, lid: u16, events: Sender<Event>) -> (Attached, Box<dyn Fabric>) {
        let waiting = Arc::<AtomicUsize>::default();
        let place = Place {
            events,
            waiting: waiting.clone(),
        };
        self.places().insert(lid, place);
        let attached = Attached {
            subnet: self.clone(),
            lid,
            waiting,
        };
        let port = Port {
            subnet: self.clone(),
            own: VecDeque::new(),
        };
        (attached, Box::new(port))
    }

    fn send(&self, packet: Packet) {
        let places = self.places();
        let Some(place) = places.get(&packet.to.port) else {
            return;
        };
        if place.waiting.fetch_add(1, Ordering::Relaxed) >= MOST {
            place.waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let arrival = Arrival {
            packet: Box::new(packet),
            waiting: place.waiting.clone(),
        };
        // A device that has ended takes nothing.
        let _ = place.events.send(Event::Packet(arrival));
    }

    fn places(&self) -> MutexGuard<'_, HashMap<u16, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a device is on a subnet under this LID. What is for it is lost when this has gone.
pub(crate) struct Attached {
    subnet: Subnet,
    lid: u16,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Another device may have the LID by now: that of a VM whose boot is tried once more.
        if let Entry::Occupied(place) = self.subnet.places().entry(self.lid) {
            if Arc::ptr_eq(&place.get().waiting, &self.waiting) {
                place.remove();
            }
        }
    }
}

/// The fabric as one device sees it: what it sends to itself stays there.
struct Port {
    subnet: Subnet,
    own: VecDeque<Packet>,
}

impl Fabric for Port {
    fn send(&mut self, packet: Packet) {
        match packet.to.port == packet.from.port {
            true => self.own.push_back(packet),
            false => self.subnet.send(packet),
        }
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.own.pop_front()
    }

    fn steps(&self) -> u32 {
        STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{Kind, Place};
    use crate::service::Service;
    use std::sync::mpsc::channel;

    fn packet(from: u16, to: u16, number: u32) -> Packet {
        let [from, to] = [from, to].map(|port| Place { port, pair: 7 });
        Packet::new(Service::Reliable, from, to, number, Kind::Send)
    }

    #[test]
    fn a_packet_reaches_its_port_and_no_other() {
        let subnet = Subnet::new();
        let (to_first, first) = channel();
        let (to_second, second) = channel();
        let (_first, mut one) = subnet.attach(1, to_first);
        let (other, _) = subnet.attach(2, to_second);
        for (number, to) in [(0, 2), (1, 1), (2, 3), (3, 2)] {
            one.send(packet(1, to, number));
        }
        assert_eq!(one.receive(1), Some(packet(1, 1, 1)));
        assert_eq!(one.receive(1), None);
        let arrived: Vec<Packet> = second
            .try_iter()
            .filter_map(|event| match event {
                Event::Packet(arrival) => Some(arrival.into_packet()),
                _ => None,
            })
            .collect();
        assert_eq!(arrived, [packet(1, 2, 0), packet(1, 2, 3)]);
        assert_eq!(first.try_iter().count(), 0);
        // The one that has taken its place stays.
        let (to_third, third) = channel();
        let (another, _) = subnet.attach(2, to_third);
        drop(other);
        one.send(packet(1, 2, 5));
        assert_eq!(
            (second.try_iter().count(), third.try_iter().count()),
            (0, 1)
        );
        drop(another);
        one.send(packet(1, 2, 4));
        assert_eq!(third.try_iter().count(), 0);
    }

    #[test]
    fn a_port_that_takes_nothing_does_not_fill_memory() {
        let subnet = Subnet::new();
        let (events, queue) = channel();
        let (_one, mut one) = subnet.attach(1, channel().0);
        let _other = subnet.attach(2, events);
        let flood = |one: &mut Box<dyn Fabric>| {
            (0..2 * MOST as u32).for_each(|number| one.send(packet(1, 2, number)));
        };
        flood(&mut one);
        let mut taken = 0;
        for event in queue.try_iter() {
            if let Event::Packet(arrival) = event {
                arrival.into_packet();
                taken += 1;
            }
        }
        assert_eq!(taken, MOST);
        // What was taken makes room.
        flood(&mut one);
        assert_eq!(queue.try_iter().count(), MOST);
    }
}
