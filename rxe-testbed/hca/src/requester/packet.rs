// SPDX-License-Identifier: GPL-2.0
//! Requests as they go over the wire: whether they may, and their packets.

use std::time::Duration;

use crate::access::Span;
use crate::completion::Syndrome;
use crate::data::{Access, DataError};
use crate::datagram;
use crate::fabric::{Kind, Packet, Part, Place, Remote};
use crate::port::Port;
use crate::qp::ends::{on_wire, Taken};
use crate::qp::QueuePair;
use crate::service::Service;
use crate::wqe::{Malformed, Operation, Request, Segment};

/// Bytes that an atomic changes.
const WORD: u64 = 8;

/// Whether a queue pair may execute a request.
pub(super) fn judge(pair: &QueuePair, request: &Request) -> Result<Operation, Syndrome> {
    let operation = request.operation.map_err(|error| match error {
        Malformed::Operation | Malformed::Length => Syndrome::LocalOperation,
    })?;
    if !serves(pair.service(), operation)
        || (request.invalidate.is_some() && !pair.service().is_reliable())
    {
        return Err(Syndrome::LocalOperation);
    }
    let length = request.length();
    match operation {
        Operation::Atomic { .. } if length != WORD => Err(Syndrome::LocalOperation),
        Operation::Update => Ok(operation),
        _ if length > pair.longest_message() => Err(Syndrome::LocalLength),
        _ if pair.service().is_datagram() && length > pair.mtu() => Err(Syndrome::LocalLength),
        _ => Ok(operation),
    }
}

/// Whether requests of that kind may be made with a service.
fn serves(service: Service, operation: Operation) -> bool {
    match operation {
        Operation::Nothing => true,
        Operation::Update => !service.is_datagram(),
        Operation::Send => service != Service::KeyUpdates,
        Operation::Write { .. } => service.is_reliable() || service == Service::Unreliable,
        Operation::Read { .. } | Operation::Atomic { .. } => service.is_reliable(),
    }
}

pub(super) fn spans(request: &Request) -> Vec<Span> {
    let memory = |segment: &Segment| match segment {
        Segment::Memory(span) => Some(*span),
        Segment::Inline(_) => None,
    };
    request.data.iter().filter_map(memory).collect()
}

/// The packet `count` of a queue pair.
pub(super) fn packet(
    pair: &QueuePair,
    number: u32,
    taken: &Taken,
    count: u64,
    access: Access<'_>,
    port: Port,
) -> Result<Packet, DataError> {
    let (request, mtu) = (&taken.request, pair.mtu());
    let length = request.length();
    let index = count - taken.first;
    let skip = index * mtu;
    let part = Part::of(index, taken.packets);
    let carried = (length - skip).min(mtu);
    let (kind, part, carried) = match request.operation {
        Ok(Operation::Read { address, key }) => {
            let rest = Remote {
                address: address.wrapping_add(skip),
                key,
                length: length - skip,
            };
            (Kind::Read(rest), Part::Only, 0)
        }
        Ok(Operation::Atomic {
            address,
            key,
            change,
        }) => {
            let remote = Remote {
                address,
                key,
                length,
            };
            (Kind::Atomic(remote, change), Part::Only, 0)
        }
        Ok(Operation::Write { address, key }) => {
            let remote = Remote {
                address,
                key,
                length,
            };
            let remote = part.begins().then_some(remote);
            (Kind::Write(remote), part, carried)
        }
        Ok(Operation::Send | Operation::Nothing | Operation::Update) | Err(_) => {
            (Kind::Send, part, carried)
        }
    };
    let from = Place {
        port: port.lid,
        pair: pair.wire_number(number),
    };
    let to = request.to.map_or(pair.remote(), |to| Place {
        port: to.port,
        pair: to.pair,
    });
    let payload = access.gather(&request.data, skip, carried)?;
    let immediate = request.immediate.filter(|_| part.ends());
    let to_datagram = request.to.filter(|_| pair.service().is_datagram());
    let datagram =
        to_datagram.map(|to| datagram::headers(pair, port, to, payload.len(), immediate.is_some()));
    let wire = on_wire(pair.first_number(), count);
    Ok(Packet {
        part,
        payload,
        immediate,
        datagram,
        connection: pair.requester.connection,
        invalidate: request.invalidate.filter(|_| part.ends()),
        solicited: request.solicited && part.ends(),
        shared: request.shared,
        ..Packet::new(pair.service(), from, to, wire, kind)
    })
}

/// How long to wait for a receive, by the number that a refusal names: in hundredths of a millisecond, as the
/// InfiniBand specification has them.
pub(super) fn receive_wait(timer: u32) -> Duration {
    const WAITS: [u64; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    Duration::from_micros(10 * WAITS[timer as usize % WAITS.len()])
}
