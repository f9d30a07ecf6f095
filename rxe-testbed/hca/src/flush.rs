// SPDX-License-Identifier: GPL-2.0
//! Queue pairs in the error state: how they get there, and that each of their work requests completes as flushed, in
//! order.

use serde_json::json;

use crate::completion::{Completion, Outcome, Syndrome};
use crate::device::Device;
use crate::eq::Event;
use crate::qp::{Queue, QueuePair, State};
use crate::service::Service;

/// More requests than a queue holds are not flushed at once.
const MOST: u32 = 1 << 16;

impl Device {
    /// Something is wrong with a queue pair, or its driver says so. What it still takes from a shared receive queue has
    /// been taken, and the driver hears of that.
    pub(crate) fn fail(&mut self, number: u32) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        let first = pair.state() != State::Error;
        pair.set_state(State::Error);
        let extended = pair.service() == Service::ExtendedReliable;
        if first && !extended && pair.is_of_driver() && pair.shared_queue().is_some() {
            self.tell(Event::LastReceive, number);
        }
    }

    /// Flushes what the driver has posted to a queue pair in the error state, or to its send queue alone if only
    /// that is in it; nothing in other states.
    pub(crate) fn flush(&mut self, number: u32) {
        let Ok(pair) = self.queue_pairs.get_mut(number) else {
            return;
        };
        if !matches!(pair.state(), State::Error | State::SendError) {
            return;
        }
        let all = pair.state() == State::Error;
        // What was begun comes first.
        let sends = pair.requester.abandon();
        let receive = match all {
            true => pair.responder.abandon(),
            false => None,
        };
        self.flush_queue(number, Queue::Send, sends);
        if let Some(receive) = receive {
            let outcome = Outcome::ReceiveFailed(Syndrome::Flushed);
            self.complete_receive(number, &receive, outcome, false, |completion| completion);
        }
        if all {
            self.flush_queue(number, Queue::Receive, Vec::new());
        }
    }

    /// Looks for new requests of the pairs that are in the error state: nobody rings a doorbell for those that
    /// are to receive. Gives whether there are such pairs.
    pub(crate) fn flush_all(&mut self) -> bool {
        let failed =
            |(number, pair): (u32, &QueuePair)| (pair.state() == State::Error).then_some(number);
        let failed: Vec<u32> = self.queue_pairs.iter().filter_map(failed).collect();
        for number in &failed {
            self.flush(*number);
        }
        !failed.is_empty()
    }

    /// Flushes these requests, by their opcodes and counters, and then those that are still in the queue.
    fn flush_queue(&mut self, number: u32, queue: Queue, begun: Vec<(u8, u16)>) {
        let mut begun = begun.into_iter();
        let mut count = 0;
        for _ in 0..MOST {
            let Ok(pair) = self.queue_pairs.get_mut(number) else {
                return;
            };
            let posted = begun.next().or_else(|| {
                let posted = pair.take_posted(queue, &self.bus)?;
                Some((posted.opcode, posted.counter))
            });
            let Some((opcode, counter)) = posted else {
                break;
            };
            let outcome = match queue {
                Queue::Send => Outcome::RequestFailed(Syndrome::Flushed),
                Queue::Receive => Outcome::ReceiveFailed(Syndrome::Flushed),
            };
            let completion = Completion {
                opcode,
                ..pair.completion(number, counter, outcome)
            };
            let completions = pair.completion_queue(queue);
            self.complete(completions, &completion.bytes(), false);
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
