// SPDX-License-Identifier: GPL-2.0
//! The commands of completion queues.

use super::definition::{Command, SHORT};
use crate::cq::CompletionQueue;
use crate::device::{Device, HcaState};
use crate::layout::{
    create_cq_in, create_cq_out, destroy_cq_in, modify_cq_in, query_cq_in, query_cq_out,
};
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x400,
        "CREATE_CQ",
        HcaState::Initialised,
        create_cq_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x401,
        "DESTROY_CQ",
        HcaState::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
    Command::new(
        0x402,
        "QUERY_CQ",
        HcaState::Initialised,
        SHORT,
        query_cq_out::BYTES,
        query,
    ),
    Command::new(
        0x403,
        "MODIFY_CQ",
        HcaState::Initialised,
        modify_cq_in::BYTES,
        SHORT,
        modify,
    ),
];

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let (events, pages) = (&device.events.queues, &device.doorbell_pages);
    let queue = CompletionQueue::create(input, events, pages, &device.user_memories)?;
    create_cq_out::CQN.set(output, device.completion_queues.add(queue)?);
    Ok(())
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let number = destroy_cq_in::CQN.get32(input);
    let pairs = device
        .queue_pairs
        .iter()
        .any(|(_, pair)| pair.completes_in(number));
    let mut shared = device.shared_queues.iter();
    if pairs || shared.any(|(_, queue)| queue.completes_in(number)) {
        return Err(Status::ResourceBusy);
    }
    device.completion_queues.remove(number).map(drop)
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let queues = &device.completion_queues;
    let queue = queues.get(query_cq_in::CQN.get32(input))?;
    queue.query(output, &device.bus);
    Ok(())
}

fn modify(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let queues = &mut device.completion_queues;
    let queue = queues.get_mut(modify_cq_in::CQN.get32(input))?;
    queue.modify(input, &device.user_memories, &device.bus)
}
