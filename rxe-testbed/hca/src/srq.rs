// SPDX-License-Identifier: GPL-2.0
//! Shared receive queues: those of the service with extended connections, and plain ones, which the interface calls
//! receive memory pools.

use crate::command::{words, Command, Status, SHORT};
use crate::device::{Device, Life};
use crate::layout::{
    create_rmp_in, create_rmp_out, create_xrc_srq_in, create_xrc_srq_out, destroy_rmp_in,
    destroy_xrc_srq_in, query_rmp_in, query_rmp_out, query_xrc_srq_in, query_xrc_srq_out, rmpc, wq,
    xrc_srqc,
};
use crate::profile::LOG_MAX_QP_SIZE;
use crate::ring::Buffer;

pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        0x705,
        "CREATE_XRC_SRQ",
        Life::Initialised,
        create_xrc_srq_in::BYTES,
        SHORT,
        create_extended,
    ),
    Command::new(
        0x706,
        "DESTROY_XRC_SRQ",
        Life::Initialised,
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
        Life::Initialised,
        SHORT,
        query_xrc_srq_out::BYTES,
        |device, input, output| {
            let number = query_xrc_srq_in::XRC_SRQN.get32(input);
            let queue = find(device, number, Kind::Extended)?;
            let context = query_xrc_srq_out::XRC_SRQ_CONTEXT_ENTRY.of_mut(output);
            context.copy_from_slice(&queue.context);
            Ok(())
        },
    ),
    Command::new(
        0x90c,
        "CREATE_RMP",
        Life::Initialised,
        create_rmp_in::BYTES,
        SHORT,
        create_plain,
    ),
    Command::new(
        0x90e,
        "DESTROY_RMP",
        Life::Initialised,
        SHORT,
        SHORT,
        |device, input, _| destroy(device, destroy_rmp_in::RMPN.get32(input), Kind::Plain),
    ),
    Command::new(
        0x90f,
        "QUERY_RMP",
        Life::Initialised,
        SHORT,
        query_rmp_out::BYTES,
        |device, input, output| {
            let queue = find(device, query_rmp_in::RMPN.get32(input), Kind::Plain)?;
            let context = query_rmp_out::RMP_CONTEXT.of_mut(output);
            context.copy_from_slice(&queue.context);
            Ok(())
        },
    ),
];

/// Bytes of the smallest entry, as a power of two, and of the largest.
const LOG_ENTRY: u32 = 4;
const LOG_LARGEST: u32 = 12;

/// Which of both a queue is. Their numbers do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Extended,
    Plain,
}

/// A shared receive queue.
pub(crate) struct SharedQueue {
    kind: Kind,
    context: Vec<u8>,
    domain: u32,
    /// Of an extended one.
    completion_queue: Option<u32>,
}

impl SharedQueue {
    /// Its protection domain.
    pub(crate) fn domain(&self) -> u32 {
        self.domain
    }

    /// Whether its completions go to that queue.
    pub(crate) fn completes_in(&self, number: u32) -> bool {
        self.completion_queue == Some(number)
    }
}

fn find(device: &Device, number: u32, kind: Kind) -> Result<&SharedQueue, Status> {
    let queue = device.shared_queues.get(number)?;
    match queue.kind == kind {
        true => Ok(queue),
        false => Err(Status::BadResource),
    }
}

/// Checks that a queue of that shape lies in the pages that are given.
fn check_buffer(
    pages: &[u8],
    log_page: u32,
    offset: u32,
    log_size: u32,
    log_entry: u32,
) -> Result<(), Status> {
    let sizes = log_size <= LOG_MAX_QP_SIZE && (LOG_ENTRY..=LOG_LARGEST).contains(&log_entry);
    if !sizes {
        return Err(Status::BadParameter);
    }
    let size = 1 << (log_size + log_entry);
    Buffer::new(&words(pages), log_page, offset, size).map(drop)
}

fn create_extended(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY.of(input).to_vec();
    let domain = xrc_srqc::PD.get32(&context);
    let completion_queue = xrc_srqc::CQN.get32(&context);
    device.domains.get(domain)?;
    device.xrc_domains.get(xrc_srqc::XRCD.get32(&context))?;
    device.completion_queues.get(completion_queue)?;
    check_buffer(
        &input[create_xrc_srq_in::BYTES..],
        xrc_srqc::LOG_PAGE_SIZE.get32(&context),
        xrc_srqc::PAGE_OFFSET.get32(&context),
        xrc_srqc::LOG_XRC_SRQ_SIZE.get32(&context),
        xrc_srqc::LOG_RQ_STRIDE.get32(&context) + LOG_ENTRY,
    )?;
    let queue = SharedQueue {
        kind: Kind::Extended,
        context,
        domain,
        completion_queue: Some(completion_queue),
    };
    create_xrc_srq_out::XRC_SRQN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

fn create_plain(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_rmp_in::CTX.of(input).to_vec();
    let queue = rmpc::WQ.of(&context);
    let domain = wq::PD.get32(queue);
    device.domains.get(domain)?;
    check_buffer(
        &input[create_rmp_in::BYTES..],
        wq::LOG_WQ_PG_SZ.get32(queue),
        wq::PAGE_OFFSET.get32(queue),
        wq::LOG_WQ_SZ.get32(queue),
        wq::LOG_WQ_STRIDE.get32(queue),
    )?;
    let queue = SharedQueue {
        kind: Kind::Plain,
        context,
        domain,
        completion_queue: None,
    };
    create_rmp_out::RMPN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

fn destroy(device: &mut Device, number: u32, kind: Kind) -> Result<(), Status> {
    find(device, number, kind)?;
    let mut users = device.queue_pairs.iter();
    if users.any(|(_, pair)| pair.receives_from(number)) {
        return Err(Status::ResourceBusy);
    }
    device.shared_queues.remove(number).map(drop)
}
