// SPDX-License-Identifier: GPL-2.0
//! The commands of targets of dynamic connections (DCT).

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::eq::Event;
use crate::layout::{
    arm_dct_in, create_dct_in, create_dct_out, dctc, destroy_dct_in, drain_dct_in, query_dct_in,
    query_dct_out,
};
use crate::qp::target::Target;
use crate::qp::QueuePair;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x710,
        "CREATE_DCT",
        HcaState::Initialised,
        create_dct_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x711,
        "DESTROY_DCT",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let number = destroy_dct_in::DCTN.get32(input);
            target(device, number)?;
            device.disconnect(number);
            device.queue_pairs.remove(number).map(drop)
        },
    ),
    Command::new(
        0x712,
        "DRAIN_DCT",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let number = drain_dct_in::DCTN.get32(input);
            target(device, number)?.drain();
            device.disconnect(number);
            device.tell(Event::TargetDrained, number);
            Ok(())
        },
    ),
    Command::new(
        0x713,
        "QUERY_DCT",
        HcaState::Initialised,
        SHORT,
        query_dct_out::BYTES,
        |device, input, output| {
            let target = target(device, query_dct_in::DCTN.get32(input))?;
            target.query(query_dct_out::DCT_CONTEXT_ENTRY.of_mut(output));
            Ok(())
        },
    ),
    Command::new(
        0x714,
        "ARM_DCT_FOR_KEY_VIOLATION",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            target(device, arm_dct_in::DCT_NUMBER.get32(input))?.arm();
            Ok(())
        },
    ),
];

/// The target of that number.
fn target(device: &mut Device, number: u32) -> Result<&mut Target, Status> {
    let pair = device.queue_pairs.get_mut(number)?;
    pair.as_target().ok_or(Status::BadResource)
}

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_dct_in::DCT_CONTEXT_ENTRY.of(input).to_vec();
    device.domains.get(dctc::PD.get32(&context))?;
    device.completion_queues.get(dctc::CQN.get32(&context))?;
    device.shared_queues.get(dctc::SRQN_XRQN.get32(&context))?;
    if !(1..=5).contains(&dctc::MTU.get32(&context)) {
        return Err(Status::BadParameter);
    }
    let pair = QueuePair::receiving(&context, None);
    let pair = pair.with_target(Target::new(context));
    create_dct_out::DCTN.set(output, device.queue_pairs.add(pair)?);
    Ok(())
}
