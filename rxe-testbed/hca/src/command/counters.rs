// SPDX-License-Identifier: GPL-2.0
//! The commands of sets of counters.

use super::definition::{Command, SHORT};
use crate::counters::Counters;
use crate::device::{Device, HcaState};
use crate::layout::{
    alloc_q_counter_out, dealloc_q_counter_in, query_q_counter_in, query_q_counter_out,
};
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x771,
        "ALLOC_Q_COUNTER",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            let number = device.counters.add(Counters::default())?;
            alloc_q_counter_out::COUNTER_SET_ID.set(output, number);
            Ok(())
        },
    ),
    Command::new(
        0x772,
        "DEALLOC_Q_COUNTER",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let number = dealloc_q_counter_in::COUNTER_SET_ID.get32(input);
            let mut pairs = device.queue_pairs.iter();
            match pairs.any(|(_, pair)| pair.counters() == number) {
                true => Err(Status::ResourceBusy),
                false => device.counters.remove(number).map(drop),
            }
        },
    ),
    Command::new(
        0x773,
        "QUERY_Q_COUNTER",
        HcaState::Initialised,
        query_q_counter_in::BYTES,
        query_q_counter_out::BYTES,
        query,
    ),
];

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    if query_q_counter_in::AGGREGATE.is_set(input) || query_q_counter_in::OTHER_VPORT.is_set(input)
    {
        return Err(Status::BadParameter);
    }
    let number = query_q_counter_in::COUNTER_SET_ID.get32(input);
    let counters = device.counters.get_mut(number)?;
    counters.query(output);
    if query_q_counter_in::CLEAR.is_set(input) {
        *counters = Counters::default();
    }
    Ok(())
}
