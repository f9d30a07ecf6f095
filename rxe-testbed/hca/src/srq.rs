// SPDX-License-Identifier: GPL-2.0
//! Shared receive queues: those of the service with extended connections, and plain ones, which the interface calls
//! receive memory pools.

use crate::access::Span;
use crate::bus::Bus;
use crate::command::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::eq::Event;
use crate::layout::{
    arm_xrc_srq_in, create_rmp_in, create_rmp_out, create_xrc_srq_in, create_xrc_srq_out,
    destroy_rmp_in, destroy_xrc_srq_in, modify_rmp_in, query_rmp_in, query_rmp_out,
    query_xrc_srq_in, query_xrc_srq_out, rmpc, words, wq, xrc_srqc,
};
use crate::profile::LOG_MAX_QP_SIZE;
use crate::ring::Buffer;
use crate::status::Status;
use crate::wqe;

pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        0x705,
        "CREATE_XRC_SRQ",
        HcaState::Initialised,
        create_xrc_srq_in::BYTES,
        SHORT,
        create_extended,
    ),
    Command::new(
        0x706,
        "DESTROY_XRC_SRQ",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            destroy(
                device,
                destroy_xrc_srq_in::XRC_SRQN.get32(input),
                Kind::Extended,
            )
        },
    ),
    Command::new(
        0x707,
        "QUERY_XRC_SRQ",
        HcaState::Initialised,
        SHORT,
        query_xrc_srq_out::BYTES,
        |device, input, output| {
            let number = query_xrc_srq_in::XRC_SRQN.get32(input);
            let queue = find(device, number, Kind::Extended)?;
            let context = query_xrc_srq_out::XRC_SRQ_CONTEXT_ENTRY.of_mut(output);
            context.copy_from_slice(&queue.context);
            xrc_srqc::LWM.set(context, u64::from(queue.limit));
            Ok(())
        },
    ),
    Command::new(
        0x708,
        "ARM_XRC_SRQ",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            if arm_xrc_srq_in::OP_MOD.get(input) != ARM_EXTENDED {
                return Err(Status::BadParameter);
            }
            let number = arm_xrc_srq_in::XRC_SRQN.get32(input);
            let limit = arm_xrc_srq_in::LWM.get(input) as u16;
            device.limit_shared(number, Kind::Extended, limit)
        },
    ),
    Command::new(
        0x90c,
        "CREATE_RMP",
        HcaState::Initialised,
        create_rmp_in::BYTES,
        SHORT,
        create_plain,
    ),
    Command::new(
        0x90d,
        "MODIFY_RMP",
        HcaState::Initialised,
        modify_rmp_in::BYTES,
        SHORT,
        modify_plain,
    ),
    Command::new(
        0x90e,
        "DESTROY_RMP",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| destroy(device, destroy_rmp_in::RMPN.get32(input), Kind::Plain),
    ),
    Command::new(
        0x90f,
        "QUERY_RMP",
        HcaState::Initialised,
        SHORT,
        query_rmp_out::BYTES,
        |device, input, output| {
            let queue = find(device, query_rmp_in::RMPN.get32(input), Kind::Plain)?;
            let context = query_rmp_out::RMP_CONTEXT.of_mut(output);
            context.copy_from_slice(&queue.context);
            rmpc::STATE.set(context, READY);
            wq::LWM.set(rmpc::WQ.of_mut(context), u64::from(queue.limit));
            Ok(())
        },
    ),
];

/// Bytes of the smallest entry, as a power of two, and of the largest.
const LOG_ENTRY: u32 = 4;
const LOG_LARGEST: u32 = 12;

/// Bytes at the beginning of an entry, which name the next one.
const LINK: usize = 16;

/// Who these accesses to memory are by.
const WHO: &str = "shared receive queue";

/// The state of a plain queue that works, and what a command for an extended one's limit says of itself.
const READY: u64 = 1;
const ARM_EXTENDED: u64 = 1;

/// In a change of a plain queue: its limit is set.
const LIMIT: u64 = 1;

/// Which of both a queue is. Their numbers do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Extended,
    Plain,
}

/// What only an extended one has: a domain of connections, and where its completions go under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) connections: u32,
    pub(crate) completion_queue: u32,
    pub(crate) user_index: u32,
}

/// A shared receive queue: a list of entries, each of which names the next one.
pub(crate) struct SharedQueue {
    kind: Kind,
    context: Vec<u8>,
    domain: u32,
    extended: Option<Extended>,
    geometry: Geometry,
    /// Where the driver counts what it has posted; how many entries were taken, and which is the next one.
    record: u64,
    taken: u16,
    next: u16,
    /// With fewer entries than this the driver is told, once.
    limit: u16,
}

/// Where its entries are.
struct Geometry {
    buffer: Buffer,
    log_size: u32,
    log_entry: u32,
}

impl SharedQueue {
    /// Its protection domain.
    pub(crate) fn domain(&self) -> u32 {
        self.domain
    }

    pub(crate) fn extended(&self) -> Option<Extended> {
        self.extended
    }

    /// Whether it is for the extended connections of that domain.
    pub(crate) fn is_of(&self, connections: u32) -> bool {
        self.extended
            .is_some_and(|extended| extended.connections == connections)
    }

    /// Whether its completions go to that queue.
    pub(crate) fn completes_in(&self, number: u32) -> bool {
        self.extended
            .is_some_and(|extended| extended.completion_queue == number)
    }

    /// How many entries the driver has posted that were not taken; none, if it cannot be read.
    fn waiting(&self, bus: &Bus) -> u16 {
        let posted = bus.read_be32(WHO, self.record);
        posted.map_or(0, |posted| (posted as u16).wrapping_sub(self.taken))
    }

    /// Takes the next receive: by which number its driver knows it, and where the message goes.
    pub(crate) fn take(&mut self, bus: &Bus) -> Option<(u16, Vec<Span>)> {
        if self.waiting(bus) == 0 {
            return None;
        }
        let counter = self.next;
        let mut bytes = vec![0; 1 << self.geometry.log_entry];
        let place = u64::from(counter) << self.geometry.log_entry;
        let address = self.geometry.buffer.address(place)?;
        bus.read(WHO, address, &mut bytes).ok()?;
        let next = u16::from_be_bytes([bytes[2], bytes[3]]);
        self.next = next % (1 << self.geometry.log_size);
        self.taken = self.taken.wrapping_add(1);
        Some((counter, wqe::receives(&bytes[LINK..])))
    }

    /// Whether the driver has to be told that there are few entries left; then it has been.
    fn falls_short(&mut self, bus: &Bus) -> bool {
        let short = self.waiting(bus) < self.limit;
        if short {
            self.limit = 0;
        }
        short
    }
}

fn find(device: &Device, number: u32, kind: Kind) -> Result<&SharedQueue, Status> {
    let queue = device.shared_queues.get(number)?;
    match queue.kind == kind {
        true => Ok(queue),
        false => Err(Status::BadResource),
    }
}

/// A queue of that geometry in the pages that are given.
fn geometry(
    pages: &[u8],
    log_page: u32,
    offset: u32,
    log_size: u32,
    log_entry: u32,
) -> Result<Geometry, Status> {
    let sizes = log_size <= LOG_MAX_QP_SIZE && (LOG_ENTRY..=LOG_LARGEST).contains(&log_entry);
    if !sizes {
        return Err(Status::BadParameter);
    }
    let size = 1 << (log_size + log_entry);
    Ok(Geometry {
        buffer: Buffer::new(&words(pages), log_page, offset, size)?,
        log_size,
        log_entry,
    })
}

fn create_extended(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY.of(input).to_vec();
    let domain = xrc_srqc::PD.get32(&context);
    let extended = Extended {
        connections: xrc_srqc::XRCD.get32(&context),
        completion_queue: xrc_srqc::CQN.get32(&context),
        user_index: xrc_srqc::USER_INDEX.get32(&context),
    };
    device.domains.get(domain)?;
    device.xrc_domains.get(extended.connections)?;
    device.completion_queues.get(extended.completion_queue)?;
    let geometry = geometry(
        &input[create_xrc_srq_in::BYTES..],
        xrc_srqc::LOG_PAGE_SIZE.get32(&context),
        xrc_srqc::PAGE_OFFSET.get32(&context),
        xrc_srqc::LOG_XRC_SRQ_SIZE.get32(&context),
        xrc_srqc::LOG_RQ_STRIDE.get32(&context) + LOG_ENTRY,
    )?;
    let high = xrc_srqc::DB_RECORD_ADDR_H.get(&context) << 32;
    let low = xrc_srqc::DB_RECORD_ADDR_L.get(&context) << 2;
    let queue = SharedQueue {
        kind: Kind::Extended,
        limit: xrc_srqc::LWM.get(&context) as u16,
        context,
        domain,
        extended: Some(extended),
        geometry,
        record: high | low,
        taken: 0,
        next: 0,
    };
    create_xrc_srq_out::XRC_SRQN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

fn create_plain(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_rmp_in::CTX.of(input).to_vec();
    let queue = rmpc::WQ.of(&context);
    let domain = wq::PD.get32(queue);
    if wq::WQ_TYPE.get(queue) != 0 {
        // Only lists are known.
        return Err(Status::BadParameter);
    }
    device.domains.get(domain)?;
    let geometry = geometry(
        &input[create_rmp_in::BYTES..],
        wq::LOG_WQ_PG_SZ.get32(queue),
        wq::PAGE_OFFSET.get32(queue),
        wq::LOG_WQ_SZ.get32(queue),
        wq::LOG_WQ_STRIDE.get32(queue),
    )?;
    let queue = SharedQueue {
        kind: Kind::Plain,
        limit: wq::LWM.get(queue) as u16,
        record: wq::DBR_ADDR.get(queue),
        context,
        domain,
        extended: None,
        geometry,
        taken: 0,
        next: 0,
    };
    create_rmp_out::RMPN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

/// The limit is all that can be changed.
fn modify_plain(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    if modify_rmp_in::BITMASK.get(input) != LIMIT {
        return Err(Status::BadParameter);
    }
    let limit = wq::LWM.get(rmpc::WQ.of(modify_rmp_in::CTX.of(input))) as u16;
    device.limit_shared(modify_rmp_in::RMPN.get32(input), Kind::Plain, limit)
}

fn destroy(device: &mut Device, number: u32, kind: Kind) -> Result<(), Status> {
    find(device, number, kind)?;
    let mut users = device.queue_pairs.iter();
    if users.any(|(_, pair)| pair.receives_from(number)) {
        return Err(Status::ResourceBusy);
    }
    device.shared_queues.remove(number).map(drop)
}

impl Device {
    fn limit_shared(&mut self, number: u32, kind: Kind, limit: u16) -> Result<(), Status> {
        find(self, number, kind)?;
        self.shared_queues.get_mut(number)?.limit = limit;
        self.tell_if_short(number);
        Ok(())
    }

    /// Tells the driver if a queue has fewer receives than it was to have.
    pub(crate) fn tell_if_short(&mut self, number: u32) {
        let queue = self.shared_queues.get_mut(number);
        if queue.is_ok_and(|queue| queue.falls_short(&self.bus)) {
            self.tell(Event::SharedQueueLimit, number);
        }
    }
}
