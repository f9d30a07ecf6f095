// SPDX-License-Identifier: GPL-2.0
//! Completion queues: rings in the driver's memory, with a doorbell record beside them in which it says what it has
//! taken.

use serde_json::json;

use crate::bus::Bus;
use crate::completion::COMPLETION;
use crate::eq::{Event, EventQueue, EventQueues};
use crate::layout::{cqc, create_cq_in, modify_cq_in, query_cq_out, words, Field};
use crate::profile::LOG_MAX_CQ_SIZE;
use crate::ring::Buffer;
use crate::status::Status;
use crate::table::Table;
use crate::trace::Rule;
use crate::umem::{Does, Named, Naming, UserMemory};

/// Indices count modulo this.
const INDICES: u32 = 1 << 24;

/// In the doorbell: only completions of requests that ask for it count.
const SOLICITED: u32 = 1 << 24;

/// States and conditions, as a query shows them.
const ARMED: u32 = 0x9;
const ARMED_SOLICITED: u32 = 0x6;
const FIRED: u32 = 0xa;
const OVERRUN: u64 = 0x9;

/// What MODIFY_CQ changes: when it may wait with an event, and for how many completions.
const MODERATION: u64 = 3;

/// What it does: that, or it moves the queue to another buffer, whose size and pages are said.
const MODIFY: u64 = 0;
const RESIZE: u64 = 1;
const GEOMETRY: u64 = 7;

/// The last completion in the old buffer.
const RESIZED: u8 = 5;

/// In an event of an overrun.
const SYNDROME_OVERRUN: u8 = 1;

/// Where CREATE_CQ and MODIFY_CQ name user memory, for the ring and for the record. The kernel's header says only whether
/// they do; the other fields are those that rdma-core's tests have (`tests/mlx5_prm_structs.py`).
pub(crate) const RING: Naming = Naming {
    valid: create_cq_in::CQ_UMEM_VALID,
    number: Field {
        name: "CQ_UMEM_ID",
        bit: 0x2c0,
        width: 0x20,
    },
    offset: Field {
        name: "CQ_UMEM_OFFSET",
        bit: 0x280,
        width: 0x40,
    },
};
const DBR_UMEM_ID: Field = Field {
    name: "DBR_UMEM_ID",
    bit: 0x20,
    width: 0x20,
};
pub(crate) const RECORD: Naming = Naming {
    valid: cqc::DBR_UMEM_VALID.within(create_cq_in::CQ_CONTEXT),
    number: DBR_UMEM_ID.within(create_cq_in::CQ_CONTEXT),
    offset: cqc::DBR_ADDR.within(create_cq_in::CQ_CONTEXT),
};

/// For which completions there is to be an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Not,
    Next,
    Solicited,
}

/// A completion queue.
pub(crate) struct CompletionQueue {
    ring: Buffer,
    log_size: u32,
    /// Bytes of an entry: as many as a completion has, or twice as many, of which the first half says nothing.
    entry: usize,
    context: Vec<u8>,
    record: u64,
    /// Numbers of the user memory that the ring and the record are in.
    memories: [Option<u32>; 2],
    event_queue: u32,
    produced: u32,
    /// The index after the last solicited completion.
    solicited: Option<u32>,
    arm: Arm,
    overrun: bool,
}

impl CompletionQueue {
    /// One as the input of CREATE_CQ says, for a driver with these event queues, pages of doorbells and user memory.
    pub(crate) fn create(
        input: &[u8],
        event_queues: &Table<EventQueue>,
        doorbell_pages: &Table<()>,
        memories: &Table<UserMemory>,
    ) -> Result<Self, Status> {
        let context = create_cq_in::CQ_CONTEXT.of(input).to_vec();
        let named = Named::by(input, &RING, &RECORD, memories);
        let pages = &input[create_cq_in::BYTES..];
        let (ring, log_size, entry) = geometry(&context, pages, &named)?;
        let event_queue = cqc::C_EQN_OR_APU_ELEMENT.get32(&context);
        event_queues.get(event_queue)?;
        doorbell_pages.get(cqc::UAR_PAGE.get32(&context))?;
        let record = named.record(cqc::DBR_ADDR.get(&context))?;
        Ok(Self {
            ring,
            log_size,
            entry,
            context,
            record,
            memories: named.numbers(),
            event_queue,
            produced: 0,
            solicited: None,
            arm: Arm::Not,
            overrun: false,
        })
    }

    /// Fills the output of QUERY_CQ.
    pub(crate) fn query(&self, output: &mut [u8], bus: &Bus) {
        let consumed = bus.read_be32("completion queue", self.record);
        let context = query_cq_out::CQ_CONTEXT.of_mut(output);
        context.copy_from_slice(&self.context);
        let state = match self.arm {
            Arm::Not => FIRED,
            Arm::Next => ARMED,
            Arm::Solicited => ARMED_SOLICITED,
        };
        cqc::ST.set(context, state);
        cqc::STATUS.set(context, if self.overrun { OVERRUN } else { 0 });
        cqc::CONSUMER_COUNTER.set(context, consumed.unwrap_or(0));
        cqc::PRODUCER_COUNTER.set(context, self.produced);
        cqc::LAST_SOLICIT_INDEX.set(context, self.solicited.unwrap_or(0));
        if let Some(place) = output.get_mut(query_cq_out::BYTES..query_cq_out::BYTES + 8) {
            place.copy_from_slice(&self.ring.first_page().to_be_bytes());
        }
    }

    /// Does what MODIFY_CQ says. Moderation is kept for queries: an event is always sent at once.
    pub(crate) fn modify(
        &mut self,
        input: &[u8],
        memories: &Table<UserMemory>,
        bus: &Bus,
    ) -> Result<(), Status> {
        let fields = modify_cq_in::MODIFY_FIELD_SELECT_RESIZE_FIELD_SELECT.get(input);
        match modify_cq_in::OP_MOD.get(input) {
            MODIFY if fields & !MODERATION == 0 => {}
            RESIZE if fields == GEOMETRY => return self.resize(input, memories, bus),
            _ => return Err(Status::BadParameter),
        }
        let wanted = modify_cq_in::CQ_CONTEXT.of(input);
        for (bit, field) in [(1, cqc::CQ_PERIOD), (2, cqc::CQ_MAX_COUNT)] {
            if fields & bit != 0 {
                field.set(&mut self.context, field.get(wanted));
            }
        }
        Ok(())
    }

    /// Moves a queue to another buffer. A last completion in the old one says where it ends; the driver takes what lies
    /// before it along, each to the place after its own.
    fn resize(
        &mut self,
        input: &[u8],
        memories: &Table<UserMemory>,
        bus: &Bus,
    ) -> Result<(), Status> {
        let wanted = modify_cq_in::CQ_CONTEXT.of(input);
        // The command names it where CREATE_CQ does.
        let named = Named::by(input, &RING, &RECORD, memories);
        let (ring, log_size, entry) = geometry(wanted, &input[modify_cq_in::BYTES..], &named)?;
        let consumed = bus.read_be32("completion queue", self.record);
        let consumed = consumed.map_err(|_| Status::BadParameter)?;
        let waiting = self.produced.wrapping_sub(consumed) % INDICES;
        if self.overrun || waiting >= 1 << self.log_size || waiting >= 1 << log_size {
            return Err(Status::BadSize);
        }
        let mut last = [0; COMPLETION];
        last[COMPLETION - 1] = RESIZED << 4;
        self.put(&last, bus);
        self.solicited = self.solicited.map(|index| (index + 1) % INDICES);
        (self.ring, self.log_size, self.entry) = (ring, log_size, entry);
        [self.memories[0], _] = named.numbers();
        for field in [
            cqc::LOG_CQ_SIZE,
            cqc::CQE_SZ,
            cqc::LOG_PAGE_SIZE,
            cqc::PAGE_OFFSET,
        ] {
            field.set(&mut self.context, field.get(wanted));
        }
        Ok(())
    }

    /// The driver's doorbell of the queue: it wants an event for what comes after what it has taken.
    pub(crate) fn doorbell(&mut self, number: u32, word: u32, events: &mut EventQueues, bus: &Bus) {
        let arm = match word & SOLICITED {
            0 => Arm::Next,
            _ => Arm::Solicited,
        };
        if self.has(arm, word % INDICES) {
            self.arm = Arm::Not;
            self.completion_event(number, events, bus);
        } else {
            self.arm = arm;
        }
    }

    /// Puts a completion into the queue.
    pub(crate) fn complete(
        &mut self,
        number: u32,
        completion: &[u8; COMPLETION],
        solicited: bool,
        events: &mut EventQueues,
        bus: &Bus,
    ) {
        if self.overrun {
            return;
        }
        let size = 1 << self.log_size;
        let Ok(consumed) = bus.read_be32("completion queue", self.record) else {
            return;
        };
        let waiting = self.produced.wrapping_sub(consumed) % INDICES;
        if waiting >= size && !cqc::OI.is_set(&self.context) {
            self.overrun = true;
            let text = format!("completion queue {number:#x} is full");
            bus.violation(Rule::Overrun, text);
            return overrun_event(number, events, bus);
        }
        self.put(completion, bus);
        if solicited {
            self.solicited = Some(self.produced);
        }
        let fires = match self.arm {
            Arm::Not => false,
            Arm::Next => true,
            Arm::Solicited => solicited,
        };
        if fires {
            self.arm = Arm::Not;
        }
        let opcode = completion[COMPLETION - 1] >> 4;
        bus.event("completion", || json!({"cq": number, "opcode": opcode}));
        if fires {
            self.completion_event(number, events, bus);
        }
    }

    fn completion_event(&self, number: u32, events: &mut EventQueues, bus: &Bus) {
        let mut data = [0; 28];
        data[24..].copy_from_slice(&number.to_be_bytes());
        events.post(self.event_queue, Event::Completion, &data, bus);
    }

    /// Whether it is in that user memory.
    pub(crate) fn is_in(&self, memory: u32) -> bool {
        self.memories.contains(&Some(memory))
    }

    /// The event queue that hears of it.
    pub(crate) fn event_queue(&self) -> u32 {
        self.event_queue
    }

    /// Puts a completion into the next entry. The last byte's lowest bit is the queue's.
    fn put(&mut self, completion: &[u8; COMPLETION], bus: &Bus) {
        let mut entry = vec![0; self.entry];
        let last = self.entry - 1;
        entry[self.entry - COMPLETION..].copy_from_slice(completion);
        let owner = ((self.produced >> self.log_size) & 1) as u8;
        entry[last] = entry[last] & !1 | owner;
        let index = u64::from(self.produced % (1 << self.log_size));
        let address = self.ring.address(index * self.entry as u64);
        self.produced = (self.produced + 1) % INDICES;
        if let Some(address) = address {
            // A refusal has been reported.
            let _ = bus.publish("completion queue", address, &entry);
        }
    }

    /// Whether there is a completion after `consumed` that the driver waits for.
    fn has(&self, arm: Arm, consumed: u32) -> bool {
        let pending = |index: u32| {
            let distance = index.wrapping_sub(consumed) % INDICES;
            distance != 0 && distance <= 1 << self.log_size
        };
        match arm {
            Arm::Not => false,
            Arm::Next => pending(self.produced),
            Arm::Solicited => self.solicited.is_some_and(pending),
        }
    }
}

/// Where the entries of a queue are: the ring, its size as a power of two, and an entry's size.
fn geometry(
    context: &[u8],
    pages: &[u8],
    named: &Named<'_>,
) -> Result<(Buffer, u32, usize), Status> {
    let log_size = cqc::LOG_CQ_SIZE.get32(context);
    let entry = match cqc::CQE_SZ.get32(context) {
        0 => COMPLETION,
        1 => 2 * COMPLETION,
        _ => return Err(Status::BadParameter),
    };
    if log_size > LOG_MAX_CQ_SIZE {
        return Err(Status::BadParameter);
    }
    let size = (entry as u64) << log_size;
    let ring = named.queue(size, entry as u64, Does::Writes, || {
        let log_page = cqc::LOG_PAGE_SIZE.get32(context);
        let offset = cqc::PAGE_OFFSET.get32(context);
        Buffer::new(&words(pages), log_page, offset, size)
    })?;
    Ok((ring, log_size, entry))
}

fn overrun_event(number: u32, events: &mut EventQueues, bus: &Bus) {
    let mut data = [0; 12];
    data[..4].copy_from_slice(&number.to_be_bytes());
    data[11] = SYNDROME_OVERRUN;
    if let Some(queue) = events.listener(Event::CompletionQueueError) {
        events.post(queue, Event::CompletionQueueError, &data, bus);
    }
}
