// SPDX-License-Identifier: GPL-2.0
//! Receives: taken from a queue pair's own queue or from a shared one, filled, and completed, for messages of connections
//! and for datagrams.

use crate::access::{self, Domain, Use};
use crate::completion::{Completion, Outcome};
use crate::data::{Access, DataError};
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::Refusal;
use crate::faults::{Cause, End, Verdict};
use crate::qp::Queue;
use crate::service::Service;
use crate::wqe::{Receive, Segment};

impl Device {
    /// The shared queue from which a queue pair receives: its own one, or that which a packet names. An error is what
    /// has to be said of a packet that names none where it has to, or one that is not there for it.
    fn shared_of(&self, number: u32, named: Option<u32>) -> Result<Option<u32>, Refusal> {
        let pair = self.queue_pairs.get(number);
        let pair = pair.map_err(|_| Refusal::Invalid)?;
        if pair.service() != Service::ExtendedReliable {
            return Ok(pair.shared_queue());
        }
        let named = named.ok_or(Refusal::Invalid)?;
        let queue = self.shared_queues.get(named);
        let extended = queue.ok().and_then(|queue| queue.extended());
        match extended.is_some_and(|extended| extended.connections == pair.connections()) {
            true => Ok(Some(named)),
            false => Err(Refusal::Invalid),
        }
    }

    /// Takes the next receive for a message to a queue pair, if there is one.
    pub(crate) fn take_receive(
        &mut self,
        number: u32,
        named: Option<u32>,
    ) -> Result<Option<Receive>, Refusal> {
        let Some(shared) = self.shared_of(number, named)? else {
            let pair = self.queue_pairs.get_mut(number);
            return Ok(pair.ok().and_then(|pair| pair.take_receive(&self.bus)));
        };
        let queue = self.shared_queues.get_mut(shared);
        let taken = queue.ok().and_then(|queue| queue.take(&self.bus));
        let Some((counter, spans)) = taken else {
            return Ok(None);
        };
        self.tell_if_short(shared);
        Ok(Some(Receive {
            counter,
            spans,
            shared: Some(shared),
        }))
    }

    /// Tells the driver if a shared queue has fewer receives than it was to have.
    pub(crate) fn tell_if_short(&mut self, number: u32) {
        let queue = self.shared_queues.get_mut(number);
        if queue.is_ok_and(|queue| queue.falls_short(&self.bus)) {
            self.tell(Event::SharedQueueLimit, number);
        }
    }

    /// Who an access of a packet to a queue pair is for its keys: on an extended connection the shared queue's domain
    /// counts.
    pub(crate) fn responder_use(
        &self,
        number: u32,
        named: Option<u32>,
        access: access::Access,
    ) -> Result<Use, Refusal> {
        let shared = self.shared_of(number, named)?;
        let pair = self.queue_pairs.get(number);
        let user = pair.map_err(|_| Refusal::Invalid)?.user(number, access);
        let extended = named.and(shared);
        let queue = extended.and_then(|shared| self.shared_queues.get(shared).ok());
        Ok(match queue {
            Some(queue) => Use {
                domain: Domain::One(queue.domain()),
                ..user
            },
            None => user,
        })
    }

    /// Writes a part of a message, after what came before.
    pub(crate) fn fill(
        &self,
        number: u32,
        receive: &Receive,
        done: u64,
        bytes: &[u8],
    ) -> Result<(), DataError> {
        let access = self.receiving(number, receive)?;
        access.scatter(&receive.spans, done, bytes)
    }

    /// A part of a message that is `done` bytes after its beginning cannot go where it is to. Gives whether it is to
    /// come again.
    pub(crate) fn wait_for_receive_memory(
        &mut self,
        number: u32,
        receive: &Receive,
        done: u64,
        length: u64,
    ) -> bool {
        let spans = receive.spans.iter().copied().map(Segment::Memory);
        let spans: Vec<Segment> = spans.collect();
        let access = self.receiving(number, receive);
        let lacks = access.map(|access| access.lacks(&spans, done, length));
        let cause = Cause::Receive {
            counter: receive.counter,
            shared: receive.shared,
            done,
        };
        let lacks = lacks.unwrap_or_default();
        self.page_fault(number, End::Responder, &lacks, cause) == Verdict::Wait
    }

    /// The memory of a receive: if it is of a shared queue, that one's domain counts.
    fn receiving(&self, number: u32, receive: &Receive) -> Result<Access<'_>, DataError> {
        let pair = self.queue_pairs.get(number);
        let user = pair.map_err(|_| DataError::Short)?;
        let user = user.user(number, access::Access::LocalWrite);
        let domain = match receive.shared {
            Some(shared) => {
                let queue = self.shared_queues.get(shared);
                Domain::One(queue.map_err(|_| DataError::Short)?.domain())
            }
            None => user.domain,
        };
        Ok(Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: Use { domain, ..user },
        })
    }

    /// Completes a receive. `completion` says more of it than how it ended.
    pub(crate) fn complete_receive(
        &mut self,
        number: u32,
        receive: &Receive,
        outcome: Outcome,
        solicited: bool,
        completion: impl FnOnce(Completion) -> Completion,
    ) {
        let Ok(pair) = self.queue_pairs.get(number) else {
            return;
        };
        let shared = receive.shared.map(|shared| self.shared_queues.get(shared));
        let extended = shared.and_then(|queue| queue.ok()?.extended());
        let mut done = completion(pair.completion(number, receive.counter, outcome));
        let mut queue = pair.completion_queue(Queue::Receive);
        if let Some(extended) = extended {
            done.user_index = extended.user_index;
            queue = extended.completion_queue;
        }
        self.complete(queue, &done.bytes(), solicited);
    }
}
