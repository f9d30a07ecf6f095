// SPDX-License-Identifier: GPL-2.0
//! Work requests of a queue pair in the error state: each completes as flushed, in order.

use serde_json::json;

use crate::cq::COMPLETION;
use crate::device::Device;
use crate::qp::{Queue, State};

/// Kinds of completions.
const SEND_ERROR: u8 = 13;
const RECEIVE_ERROR: u8 = 14;

/// Why: the queue pair was in the error state.
const FLUSHED: u8 = 0x5;

/// Places in a completion.
const USER_INDEX: usize = 0x20;
const SYNDROME: usize = 0x37;
const PAIR: usize = 0x38;
const COUNTER: usize = 0x3c;
const KIND: usize = 0x3f;

/// More requests than a queue holds are not flushed at once.
const MOST: u32 = 1 << 16;

/// A request that is flushed.
struct Flushed {
    pair: u32,
    user_index: u32,
    /// What it was to do, if it was to be sent.
    opcode: u8,
    counter: u16,
    kind: u8,
}

impl Flushed {
    fn completion(&self) -> [u8; COMPLETION] {
        let mut bytes = [0; COMPLETION];
        bytes[USER_INDEX..USER_INDEX + 4].copy_from_slice(&self.user_index.to_be_bytes());
        bytes[SYNDROME] = FLUSHED;
        let pair = (u32::from(self.opcode) << 24) | self.pair;
        bytes[PAIR..PAIR + 4].copy_from_slice(&pair.to_be_bytes());
        bytes[COUNTER..COUNTER + 2].copy_from_slice(&self.counter.to_be_bytes());
        bytes[KIND] = self.kind << 4;
        bytes
    }
}

impl Device {
    /// Flushes what the driver has posted to a queue pair in the error state; nothing if it is in another one.
    pub(crate) fn flush(&mut self, number: u32) {
        for queue in [Queue::Send, Queue::Receive] {
            self.flush_queue(number, queue);
        }
    }

    /// Looks for new requests of the pairs that are in the error state: nobody rings a doorbell for those that
    /// are to receive. Gives whether there are such pairs.
    pub(crate) fn flush_all(&mut self) -> bool {
        let failed = |(number, pair): (u32, &crate::qp::QueuePair)| {
            (pair.state() == State::Error).then_some(number)
        };
        let failed: Vec<u32> = self.queue_pairs.iter().filter_map(failed).collect();
        for number in &failed {
            self.flush(*number);
        }
        !failed.is_empty()
    }

    fn flush_queue(&mut self, number: u32, queue: Queue) {
        let mut count = 0;
        for _ in 0..MOST {
            let Ok(pair) = self.queue_pairs.get_mut(number) else {
                return;
            };
            if pair.state() != State::Error {
                return;
            }
            let Some(request) = pair.take_posted(queue, &self.bus) else {
                break;
            };
            let kind = match queue {
                Queue::Send => SEND_ERROR,
                Queue::Receive => RECEIVE_ERROR,
            };
            let flushed = Flushed {
                pair: number,
                user_index: pair.user_index(),
                opcode: request.opcode,
                counter: request.counter,
                kind,
            };
            let completions = pair.completion_queue(queue);
            self.complete(completions, &flushed.completion(), false);
            count += 1;
        }
        if count > 0 {
            let name = format!("{queue:?}");
            self.bus.event(
                "flushed",
                || json!({"qp": number, "queue": name, "count": count}),
            );
        }
    }
}
