// SPDX-License-Identifier: GPL-2.0
//! The commands of user memory.

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{create_umem_in, create_umem_out, destroy_umem_in};
use crate::status::Status;
use crate::umem::UserMemory;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0xa08,
        "CREATE_UMEM",
        HcaState::Initialised,
        create_umem_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0xa0a,
        "DESTROY_UMEM",
        HcaState::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
];

/// Pages of all user memory at most, which the device has to keep.
const MOST_PAGES: usize = 1 << 22;

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let memory = UserMemory::create(input)?;
    let all = device.user_memories.iter();
    let pages: usize = all.map(|(_, memory)| memory.pages()).sum();
    if pages + memory.pages() > MOST_PAGES {
        return Err(Status::NoResources);
    }
    create_umem_out::UMEM_ID.set(output, device.user_memories.add(memory)?);
    Ok(())
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let number = destroy_umem_in::UMEM_ID.get32(input);
    let mut queues = device.completion_queues.iter();
    let mut pairs = device.queue_pairs.iter();
    let used = queues.any(|(_, queue)| queue.is_in(number));
    match used || pairs.any(|(_, pair)| pair.is_in(number)) {
        true => Err(Status::ResourceBusy),
        false => device.user_memories.remove(number).map(drop),
    }
}
