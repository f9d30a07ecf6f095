// SPDX-License-Identifier: GPL-2.0
//! Sets of counters, which queue pairs share: what came and what went wrong.

use crate::command::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{
    alloc_q_counter_out, dealloc_q_counter_in, query_q_counter_in, query_q_counter_out, Field,
};
use crate::status::Status;

pub(crate) const COMMANDS: &[Command] = &[
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

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    WriteRequests,
    ReadRequests,
    AtomicRequests,
    /// There was no receive.
    OutOfBuffer,
    /// Packets were missing, as their receiver saw it.
    OutOfSequence,
    /// What had come came again.
    DuplicateRequest,
    /// The other end had no receive.
    ReceiverNotReady,
    /// The other end missed packets.
    SequenceError,
    /// No answer came in time.
    AckTimeout,
}

const ALL: [(Counter, Field); 9] = [
    (
        Counter::WriteRequests,
        query_q_counter_out::RX_WRITE_REQUESTS,
    ),
    (Counter::ReadRequests, query_q_counter_out::RX_READ_REQUESTS),
    (
        Counter::AtomicRequests,
        query_q_counter_out::RX_ATOMIC_REQUESTS,
    ),
    (Counter::OutOfBuffer, query_q_counter_out::OUT_OF_BUFFER),
    (Counter::OutOfSequence, query_q_counter_out::OUT_OF_SEQUENCE),
    (
        Counter::DuplicateRequest,
        query_q_counter_out::DUPLICATE_REQUEST,
    ),
    (
        Counter::ReceiverNotReady,
        query_q_counter_out::RNR_NAK_RETRY_ERR,
    ),
    (Counter::SequenceError, query_q_counter_out::PACKET_SEQ_ERR),
    (
        Counter::AckTimeout,
        query_q_counter_out::LOCAL_ACK_TIMEOUT_ERR,
    ),
];

/// A set of them.
#[derive(Default)]
pub(crate) struct Counters([u32; ALL.len()]);

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    if query_q_counter_in::AGGREGATE.is_set(input) || query_q_counter_in::OTHER_VPORT.is_set(input)
    {
        return Err(Status::BadParameter);
    }
    let number = query_q_counter_in::COUNTER_SET_ID.get32(input);
    let counters = device.counters.get_mut(number)?;
    for ((_, field), value) in ALL.iter().zip(counters.0) {
        field.set(output, value);
    }
    if query_q_counter_in::CLEAR.is_set(input) {
        *counters = Counters::default();
    }
    Ok(())
}

impl Device {
    /// Counts something that happened to a queue pair, if it has a set.
    pub(crate) fn count(&mut self, number: u32, counter: Counter) {
        let set = self.queue_pairs.get(number).map(|pair| pair.counters());
        let counters = set.and_then(|set| self.counters.get_mut(set));
        let place = ALL.iter().position(|(one, _)| *one == counter);
        if let (Ok(counters), Some(place)) = (counters, place) {
            counters.0[place] = counters.0[place].wrapping_add(1);
        }
    }
}
