// SPDX-License-Identifier: GPL-2.0
//! Sets of counters, which queue pairs share: what came and what went wrong.

use crate::layout::{query_q_counter_out, Field};

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

impl Counters {
    pub(crate) fn count(&mut self, counter: Counter) {
        if let Some(place) = ALL.iter().position(|(one, _)| *one == counter) {
            self.0[place] = self.0[place].wrapping_add(1);
        }
    }

    /// Fills the output of QUERY_Q_COUNTER.
    pub(crate) fn query(&self, output: &mut [u8]) {
        for ((_, field), value) in ALL.iter().zip(self.0) {
            field.set(output, value);
        }
    }
}
