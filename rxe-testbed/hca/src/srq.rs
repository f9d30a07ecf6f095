// SPDX-License-Identifier: GPL-2.0
//! Shared receive queues: those of the service with extended connections, and plain ones, which the interface calls
//! receive memory pools.

use crate::access::Span;
use crate::bus::Bus;
use crate::cq::CompletionQueue;
use crate::layout::{create_rmp_in, create_xrc_srq_in, rmpc, words, wq, xrc_srqc};
use crate::profile::LOG_MAX_QP_SIZE;
use crate::ring::Buffer;
use crate::status::Status;
use crate::table::Table;
use crate::wqe;

/// Bytes of the smallest entry, as a power of two, and of the largest.
const LOG_ENTRY: u32 = 4;
const LOG_LARGEST: u32 = 12;

/// Bytes at the beginning of an entry, which name the next one.
const LINK: usize = 16;

/// Who these accesses to memory are by.
const WHO: &str = "shared receive queue";

/// The state of a plain queue that works.
const READY: u64 = 1;

/// Which of both a queue is. Their numbers do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
    /// An extended one as the input of CREATE_XRC_SRQ says, for a driver with these domains and completion queues.
    pub(crate) fn create_extended(
        input: &[u8],
        domains: &Table<()>,
        xrc_domains: &Table<()>,
        completion_queues: &Table<CompletionQueue>,
    ) -> Result<Self, Status> {
        let context = create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY.of(input).to_vec();
        let domain = xrc_srqc::PD.get32(&context);
        let extended = Extended {
            connections: xrc_srqc::XRCD.get32(&context),
            completion_queue: xrc_srqc::CQN.get32(&context),
            user_index: xrc_srqc::USER_INDEX.get32(&context),
        };
        domains.get(domain)?;
        xrc_domains.get(extended.connections)?;
        completion_queues.get(extended.completion_queue)?;
        let geometry = geometry(
            &input[create_xrc_srq_in::BYTES..],
            xrc_srqc::LOG_PAGE_SIZE.get32(&context),
            xrc_srqc::PAGE_OFFSET.get32(&context),
            xrc_srqc::LOG_XRC_SRQ_SIZE.get32(&context),
            xrc_srqc::LOG_RQ_STRIDE.get32(&context) + LOG_ENTRY,
        )?;
        let high = xrc_srqc::DB_RECORD_ADDR_H.get(&context) << 32;
        let low = xrc_srqc::DB_RECORD_ADDR_L.get(&context) << 2;
        Ok(Self {
            kind: Kind::Extended,
            limit: xrc_srqc::LWM.get(&context) as u16,
            context,
            domain,
            extended: Some(extended),
            geometry,
            record: high | low,
            taken: 0,
            next: 0,
        })
    }

    /// A plain one as the input of CREATE_RMP says, for a driver with these domains.
    pub(crate) fn create_plain(input: &[u8], domains: &Table<()>) -> Result<Self, Status> {
        let context = create_rmp_in::CTX.of(input).to_vec();
        let queue = rmpc::WQ.of(&context);
        let domain = wq::PD.get32(queue);
        if wq::WQ_TYPE.get(queue) != 0 {
            // Only lists are known.
            return Err(Status::BadParameter);
        }
        domains.get(domain)?;
        let geometry = geometry(
            &input[create_rmp_in::BYTES..],
            wq::LOG_WQ_PG_SZ.get32(queue),
            wq::PAGE_OFFSET.get32(queue),
            wq::LOG_WQ_SZ.get32(queue),
            wq::LOG_WQ_STRIDE.get32(queue),
        )?;
        Ok(Self {
            kind: Kind::Plain,
            limit: wq::LWM.get(queue) as u16,
            record: wq::DBR_ADDR.get(queue),
            context,
            domain,
            extended: None,
            geometry,
            taken: 0,
            next: 0,
        })
    }

    /// Fills its context for a query.
    pub(crate) fn query(&self, context: &mut [u8]) {
        context.copy_from_slice(&self.context);
        let limit = u64::from(self.limit);
        match self.kind {
            Kind::Extended => xrc_srqc::LWM.set(context, limit),
            Kind::Plain => {
                rmpc::STATE.set(context, READY);
                wq::LWM.set(rmpc::WQ.of_mut(context), limit);
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// With fewer entries than this the driver is to be told, once.
    pub(crate) fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

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
    pub(crate) fn falls_short(&mut self, bus: &Bus) -> bool {
        let short = self.waiting(bus) < self.limit;
        if short {
            self.limit = 0;
        }
        short
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
