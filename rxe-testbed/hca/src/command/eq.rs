// SPDX-License-Identifier: GPL-2.0
//! The commands of event queues.

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::eq::EventQueue;
use crate::layout::{create_eq_in, create_eq_out, destroy_eq_in, query_eq_in, query_eq_out};
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x301,
        "CREATE_EQ",
        HcaState::Initialised,
        create_eq_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x302,
        "DESTROY_EQ",
        HcaState::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
    Command::new(
        0x303,
        "QUERY_EQ",
        HcaState::Initialised,
        SHORT,
        query_eq_out::BYTES,
        query,
    ),
];

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let queue = EventQueue::create(input, &device.doorbell_pages)?;
    create_eq_out::EQ_NUMBER.set(output, device.events.queues.add(queue)?);
    Ok(())
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let number = destroy_eq_in::EQ_NUMBER.get32(input);
    let mut users = device.completion_queues.iter();
    if users.any(|(_, queue)| queue.event_queue() == number) {
        return Err(Status::ResourceBusy);
    }
    device.events.queues.remove(number).map(drop)
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let queues = &device.events.queues;
    queues
        .get(query_eq_in::EQ_NUMBER.get32(input))?
        .query(output);
    Ok(())
}
