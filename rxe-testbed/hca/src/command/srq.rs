// SPDX-License-Identifier: GPL-2.0
//! The commands of shared receive queues. Those for one kind do not know the queues of the other.

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{
    arm_xrc_srq_in, create_rmp_in, create_rmp_out, create_xrc_srq_in, create_xrc_srq_out,
    destroy_rmp_in, destroy_xrc_srq_in, modify_rmp_in, query_rmp_in, query_rmp_out,
    query_xrc_srq_in, query_xrc_srq_out, rmpc, wq,
};
use crate::srq::{Kind, SharedQueue};
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
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
            queue.query(query_xrc_srq_out::XRC_SRQ_CONTEXT_ENTRY.of_mut(output));
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
            set_limit(device, number, Kind::Extended, limit)
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
            queue.query(query_rmp_out::RMP_CONTEXT.of_mut(output));
            Ok(())
        },
    ),
];

/// What the command for an extended queue's limit says of itself; and in a change of a plain one: its limit is set.
const ARM_EXTENDED: u64 = 1;
const LIMIT: u64 = 1;

fn find(device: &Device, number: u32, kind: Kind) -> Result<&SharedQueue, Status> {
    let queue = device.shared_queues.get(number)?;
    match queue.kind() == kind {
        true => Ok(queue),
        false => Err(Status::BadResource),
    }
}

fn create_extended(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let queue = SharedQueue::create_extended(
        input,
        &device.domains,
        &device.xrc_domains,
        &device.completion_queues,
    )?;
    create_xrc_srq_out::XRC_SRQN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

fn create_plain(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let queue = SharedQueue::create_plain(input, &device.domains)?;
    create_rmp_out::RMPN.set(output, device.shared_queues.add(queue)?);
    Ok(())
}

/// The limit is all that can be changed.
fn modify_plain(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    if modify_rmp_in::BITMASK.get(input) != LIMIT {
        return Err(Status::BadParameter);
    }
    let limit = wq::LWM.get(rmpc::WQ.of(modify_rmp_in::CTX.of(input))) as u16;
    let number = modify_rmp_in::RMPN.get32(input);
    set_limit(device, number, Kind::Plain, limit)
}

fn destroy(device: &mut Device, number: u32, kind: Kind) -> Result<(), Status> {
    find(device, number, kind)?;
    let mut users = device.queue_pairs.iter();
    if users.any(|(_, pair)| pair.receives_from(number)) {
        return Err(Status::ResourceBusy);
    }
    device.shared_queues.remove(number).map(drop)
}

fn set_limit(device: &mut Device, number: u32, kind: Kind, limit: u16) -> Result<(), Status> {
    find(device, number, kind)?;
    device.shared_queues.get_mut(number)?.set_limit(limit);
    device.tell_if_short(number);
    Ok(())
}
