// SPDX-License-Identifier: GPL-2.0
//! Event queues, by which the device tells its driver what has happened: rings of 64-byte entries in the driver's
//! memory, whose last bit tells whose an entry is.

use serde_json::json;

use crate::bus::Bus;
use crate::layout::{cmd_inter_comp_event, create_eq_in, eqc, eqe, query_eq_out, words};
use crate::pci::VECTORS;
use crate::profile::LOG_MAX_EQ_SIZE;
use crate::ring::Buffer;
use crate::status::Status;
use crate::table::Table;
use crate::trace::Rule;

/// Bytes of an entry.
const ENTRY: usize = 64;

/// Indices count modulo this.
const INDICES: u32 = 1 << 24;

/// States of a queue, as a query shows them.
const ARMED: u32 = 0x9;
const FIRED: u32 = 0xa;
const OVERRUN: u64 = 0xa;

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Of a completion queue that was armed.
    Completion = 0x00,
    /// A completion queue has overrun.
    CompletionQueueError = 0x04,
    /// A queue pair ended: by its own fault, by a request that makes no sense, by one that is not allowed.
    QueueError = 0x05,
    RequestError = 0x10,
    AccessError = 0x11,
    /// A queue pair in the error state takes nothing more from its shared receive queue.
    LastReceive = 0x13,
    /// A shared receive queue has fewer entries than its limit.
    SharedQueueLimit = 0x14,
    /// A target has no connections any more, and gets none; somebody had another key than a target's.
    TargetDrained = 0x1c,
    KeyViolation = 0x1d,
    /// Commands are done.
    Command = 0x0a,
    /// An access waits for memory.
    PageFault = 0x0c,
}

/// An event queue.
pub(crate) struct EventQueue {
    ring: Buffer,
    log_size: u32,
    context: Vec<u8>,
    mask: [u64; 4],
    vector: u16,
    produced: u32,
    consumed: u32,
    armed: bool,
    overrun: bool,
}

impl EventQueue {
    /// One as the input of CREATE_EQ says, for a driver with these pages of doorbells.
    pub(crate) fn create(input: &[u8], doorbell_pages: &Table<()>) -> Result<Self, Status> {
        let context = create_eq_in::EQ_CONTEXT_ENTRY.of(input).to_vec();
        let log_size = eqc::LOG_EQ_SIZE.get32(&context);
        let vector = eqc::INTR.get32(&context);
        if log_size > LOG_MAX_EQ_SIZE || vector >= u32::from(VECTORS) {
            return Err(Status::BadParameter);
        }
        doorbell_pages.get(eqc::UAR_PAGE.get32(&context))?;
        let pages = words(&input[create_eq_in::BYTES..]);
        let ring = Buffer::new(
            &pages,
            eqc::LOG_PAGE_SIZE.get32(&context),
            eqc::PAGE_OFFSET.get32(&context),
            (ENTRY as u64) << log_size,
        )?;
        let mut mask = [0; 4];
        for (place, word) in words(&input[create_eq_in::EVENT_BITMASK.bit / 8..])
            .into_iter()
            .take(mask.len())
            .enumerate()
        {
            mask[place] = word;
        }
        Ok(Self {
            ring,
            log_size,
            context,
            mask,
            vector: vector as u16,
            produced: 0,
            consumed: 0,
            armed: false,
            overrun: false,
        })
    }

    /// Fills the output of QUERY_EQ.
    pub(crate) fn query(&self, output: &mut [u8]) {
        let context = query_eq_out::EQ_CONTEXT_ENTRY.of_mut(output);
        context.copy_from_slice(&self.context);
        let state = if self.armed { ARMED } else { FIRED };
        let status = if self.overrun { OVERRUN } else { 0 };
        eqc::ST.set(context, state);
        eqc::STATUS.set(context, status);
        eqc::CONSUMER_COUNTER.set(context, self.consumed);
        eqc::PRODUCER_COUNTER.set(context, self.produced);
        query_eq_out::EVENT_BITMASK.set(output, self.mask[0]);
        if let Some(place) = output.get_mut(query_eq_out::BYTES..query_eq_out::BYTES + 8) {
            place.copy_from_slice(&self.ring.first_page().to_be_bytes());
        }
    }

    fn wants(&self, event: Event) -> bool {
        (self.mask[event as usize / 64] >> (event as usize % 64)) & 1 == 1
    }

    /// How many more events can be put into it.
    fn room(&self) -> usize {
        match self.overrun {
            true => 0,
            false => (1 << self.log_size) - self.waiting() as usize,
        }
    }

    /// How many entries the driver has not taken.
    fn waiting(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed) % INDICES
    }
}

/// All event queues, and the interrupts that they have asked for.
pub(crate) struct EventQueues {
    pub(crate) queues: Table<EventQueue>,
    /// Vectors that are to be raised, in order.
    pub(crate) interrupts: Vec<u16>,
}

impl EventQueues {
    pub(crate) fn new(queues: Table<EventQueue>) -> Self {
        Self {
            queues,
            interrupts: Vec::new(),
        }
    }

    /// The driver's doorbell of an event queue: it has taken the entries before `consumed`, and wants an interrupt
    /// for the next one if it arms.
    pub(crate) fn doorbell(&mut self, word: u32, arm: bool, bus: &Bus) {
        let (number, consumed) = (word >> 24, word % INDICES);
        let Ok(queue) = self.queues.get_mut(number) else {
            let text = format!("a doorbell for event queue {number}, which is not there");
            return bus.violation(Rule::Interface, text);
        };
        let taken = consumed.wrapping_sub(queue.consumed) % INDICES;
        if taken > queue.waiting() {
            let text = format!("event queue {number}: entries are taken that are not there");
            return bus.violation(Rule::Interface, text);
        }
        queue.consumed = consumed;
        if arm {
            queue.armed = queue.waiting() == 0;
            if !queue.armed {
                self.interrupts.push(queue.vector);
            }
        }
    }

    /// The queue that wants events of this kind.
    pub(crate) fn listener(&self, event: Event) -> Option<u32> {
        let mut all = self.queues.iter();
        all.find(|(_, queue)| queue.wants(event))
            .map(|(number, _)| number)
    }

    /// How many more events a queue takes.
    pub(crate) fn room(&self, number: u32) -> usize {
        self.queues.get(number).map_or(0, EventQueue::room)
    }

    /// A queue has overrun: it takes no events any more.
    pub(crate) fn overrun(&mut self, number: u32) {
        if let Ok(queue) = self.queues.get_mut(number) {
            queue.overrun = true;
        }
    }

    /// Tells a queue that an entry of the command queue is done.
    pub(crate) fn command_done(&mut self, queue: u32, entry: u32, bus: &Bus) {
        let mut data = [0; cmd_inter_comp_event::BYTES];
        cmd_inter_comp_event::COMMAND_COMPLETION_VECTOR.set(&mut data, 1_u64 << entry);
        self.post(queue, Event::Command, &data, bus);
    }

    /// Tells of something that happened to a queue pair or a shared receive queue.
    pub(crate) fn tell(&mut self, event: Event, number: u32, bus: &Bus) {
        let mut data = [0; 28];
        data[24..].copy_from_slice(&number.to_be_bytes());
        if let Some(queue) = self.listener(event) {
            self.post(queue, event, &data, bus);
        }
    }

    /// Puts an entry into an event queue.
    pub(crate) fn post(&mut self, number: u32, event: Event, data: &[u8], bus: &Bus) {
        self.post_of(number, event, 0, data, bus);
    }

    /// The same, for an event of which there are several kinds.
    pub(crate) fn post_of(&mut self, number: u32, event: Event, kind: u8, data: &[u8], bus: &Bus) {
        let Ok(queue) = self.queues.get_mut(number) else {
            return;
        };
        let size = 1 << queue.log_size;
        if queue.overrun {
            return;
        }
        if queue.room() == 0 {
            queue.overrun = true;
            let text = format!("event queue {number} is full: an event {event:?} is lost");
            return bus.violation(Rule::Overrun, text);
        }
        let mut entry = [0; ENTRY];
        eqe::EVENT_TYPE.set(&mut entry, event as u64);
        eqe::EVENT_SUB_TYPE.set(&mut entry, kind);
        let place = eqe::EVENT_DATA.of_mut(&mut entry);
        let length = data.len().min(place.len());
        place[..length].copy_from_slice(&data[..length]);
        let index = queue.produced % size;
        eqe::OWNER.set(&mut entry, (queue.produced >> queue.log_size) & 1);
        let address = queue.ring.address(u64::from(index) * ENTRY as u64);
        queue.produced = (queue.produced + 1) % INDICES;
        let fires = std::mem::take(&mut queue.armed);
        let vector = queue.vector;
        if let Some(address) = address {
            // A refusal has been reported.
            let _ = bus.publish("event queue", address, &entry);
        }
        bus.event(
            "event",
            || json!({"eq": number, "type": event as u32, "interrupt": fires.then_some(vector)}),
        );
        if fires {
            self.interrupts.push(vector);
        }
    }
}
