// SPDX-License-Identifier: GPL-2.0
//! Datagrams: each request says where its only packet goes, and nobody hears whether it arrives.

use crate::completion::{Completion, Outcome, Syndrome};
use crate::counters::Counter;
use crate::data::DataError;
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::{Datagram, Packet, GLOBAL_HEADER};
use crate::port::Port;
use crate::qp::{QueuePair, State};
use crate::wqe::{Address, Route};

/// The highest bit of a key: the sender's own key is meant.
const OWN_KEY: u32 = 1 << 31;

/// Bytes around a payload that its global routing header counts: two headers, checksum, immediate data.
const HEADERS: usize = 12 + 8;
const CHECKSUM: usize = 4;
const IMMEDIATE: usize = 4;

/// The version of a global routing header, and what comes after it.
const VERSION: u32 = 6 << 28;
const TRANSPORT: u8 = 0x1b;

/// What only a datagram has, for a request of a queue pair.
pub(crate) fn headers(
    pair: &QueuePair,
    port: Port,
    to: Address,
    length: usize,
    immediate: bool,
) -> Datagram {
    let key = match to.key & OWN_KEY {
        0 => to.key,
        _ => pair.datagram_key(),
    };
    let more = if immediate { IMMEDIATE } else { 0 };
    let length = HEADERS + more + length.next_multiple_of(4) + CHECKSUM;
    Datagram {
        key,
        level: to.level,
        route: to.route.map(|route| global_header(port, route, length)),
    }
}

fn global_header(port: Port, route: Route, length: usize) -> [u8; GLOBAL_HEADER] {
    let mut header = [0; GLOBAL_HEADER];
    let first = VERSION | (u32::from(route.class) << 20) | route.flow;
    header[..4].copy_from_slice(&first.to_be_bytes());
    header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    header[6] = TRANSPORT;
    header[7] = route.hops;
    header[8..24].copy_from_slice(&port.address(route.source));
    header[24..].copy_from_slice(&route.destination);
    header
}

impl Device {
    /// The queue pair for a datagram: one of management has a number that others know.
    fn addressee(&self, packet: &Packet) -> Option<u32> {
        let wanted = packet.to.pair;
        let serves = |(_, pair): &(u32, &QueuePair)| pair.service().well_known() == Some(wanted);
        let number = match wanted {
            0 | 1 => self.queue_pairs.iter().find(serves)?.0,
            _ => wanted,
        };
        let pair = self.queue_pairs.get(number).ok()?;
        let takes = matches!(
            pair.state(),
            State::ReadyToReceive | State::ReadyToSend | State::SendError
        );
        let key = packet.datagram?.key;
        let known = pair.service().is_datagram() && (wanted == 0 || pair.datagram_key() == key);
        (takes && known).then_some(number)
    }

    /// A datagram has arrived. It is lost if it is for nobody, or nobody waits for it.
    pub(crate) fn take_datagram(&mut self, packet: Packet) {
        let Some(number) = self.addressee(&packet) else {
            return;
        };
        let Some(datagram) = packet.datagram else {
            return;
        };
        let Ok(Some(receive)) = self.take_receive(number, None) else {
            return self.count(number, Counter::OutOfBuffer);
        };
        // The first bytes are for a header, whether there is one or not.
        let header = match datagram.route {
            Some(header) => self.fill(number, &receive, 0, &header),
            None => Ok(()),
        };
        let after = GLOBAL_HEADER as u64;
        let filled = header.and_then(|()| self.fill(number, &receive, after, &packet.payload));
        let syndrome = match filled {
            Ok(()) => None,
            Err(DataError::Short) => Some(Syndrome::LocalLength),
            Err(_) => Some(Syndrome::LocalProtection),
        };
        if let Some(syndrome) = syndrome {
            let outcome = Outcome::ReceiveFailed(syndrome);
            self.complete_receive(number, &receive, outcome, false, |completion| completion);
            self.fail(number);
            self.tell(Event::QueueError, number);
            return self.flush(number);
        }
        let outcome = match packet.immediate {
            Some(_) => Outcome::ReceivedImmediate,
            None => Outcome::Received,
        };
        let partition = self.port.partition();
        self.complete_receive(number, &receive, outcome, packet.solicited, |completion| {
            Completion {
                bytes: (GLOBAL_HEADER + packet.payload.len()) as u32,
                immediate: packet.immediate.unwrap_or(partition),
                port: packet.from.port,
                from: packet.from.pair,
                level: datagram.level,
                global: datagram.route.is_some(),
                ..completion
            }
        });
    }
}
