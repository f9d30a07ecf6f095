// SPDX-License-Identifier: GPL-2.0
//! Queue pairs: their commands and states.

use serde_json::json;

use crate::bus::Bus;
use crate::command::{words, Command, Run, Status, SHORT};
use crate::completion::{Completion, Outcome};
use crate::device::{Device, Life};
use crate::layout::{
    ads, create_qp_in, create_qp_out, destroy_qp_in, qpc, query_qp_in, query_qp_out,
    rst2init_qp_in, Field,
};
use crate::profile::LOG_MAX_QP_SIZE;
use crate::requester::Requester;
use crate::responder::{Receive, Responder};
use crate::ring::Buffer;
use crate::translate::{Access, Use};
use crate::wqe::{self, Malformed, Request};
use std::time::Duration;

pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        0x500,
        "CREATE_QP",
        Life::Initialised,
        create_qp_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x501,
        "DESTROY_QP",
        Life::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
    modifies(0x502, "RST2INIT_QP", |device, input, _| {
        change(device, input, &RST2INIT)
    }),
    modifies(0x503, "INIT2RTR_QP", |device, input, _| {
        change(device, input, &INIT2RTR)
    }),
    modifies(0x504, "RTR2RTS_QP", |device, input, _| {
        change(device, input, &RTR2RTS)
    }),
    modifies(0x505, "RTS2RTS_QP", |device, input, _| {
        change(device, input, &RTS2RTS)
    }),
    modifies(0x506, "SQERR2RTS_QP", |device, input, _| {
        change(device, input, &SQERR2RTS)
    }),
    modifies(0x50e, "INIT2INIT_QP", |device, input, _| {
        change(device, input, &INIT2INIT)
    }),
    Command::new(
        0x507,
        "2ERR_QP",
        Life::Initialised,
        SHORT,
        SHORT,
        |device, input, _| force(device, input, State::Error),
    ),
    Command::new(
        0x50a,
        "2RST_QP",
        Life::Initialised,
        SHORT,
        SHORT,
        |device, input, _| force(device, input, State::Reset),
    ),
    Command::new(
        0x50b,
        "QUERY_QP",
        Life::Initialised,
        SHORT,
        query_qp_out::BYTES,
        query,
    ),
];

const fn modifies(opcode: u16, name: &'static str, run: Run) -> Command {
    Command::new(
        opcode,
        name,
        Life::Initialised,
        rst2init_qp_in::BYTES,
        SHORT,
        run,
    )
}

/// Who these accesses to memory are by.
const WHO: &str = "queue pair";

/// Bytes of the pieces that a send queue consists of, units of such a piece, and bytes of the smallest entry of a
/// receive queue.
const SEND_PIECE: u64 = 64;
const UNITS: u16 = 4;
const LOG_RECEIVE: u32 = 4;

/// Receive queues: one of its own, a shared one, none.
const OWN: u32 = 0;
const SHARED: u32 = 1;
const NONE: u32 = 3;

/// States, as the contexts say them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Reset = 0,
    Initialised = 1,
    ReadyToReceive = 2,
    ReadyToSend = 3,
    SendError = 4,
    Error = 6,
}

/// What goes through a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Reliable = 0x0,
    Unreliable = 0x1,
    Datagram = 0x2,
    ExtendedReliable = 0x3,
    Management = 0x7,
    GeneralServices = 0x8,
    KeyUpdates = 0xc,
}

impl Service {
    fn read(number: u32) -> Result<Self, Status> {
        let all = [
            Self::Reliable,
            Self::Unreliable,
            Self::Datagram,
            Self::ExtendedReliable,
            Self::Management,
            Self::GeneralServices,
            Self::KeyUpdates,
        ];
        let found = all.into_iter().find(|service| *service as u32 == number);
        found.ok_or(Status::BadParameter)
    }
}

/// A command that takes a queue pair from one state to another.
struct Change {
    from: State,
    to: State,
    /// What it always sets, and what only if the driver says so: with the bit by which it does.
    sets: &'static [Field],
    may_set: &'static [(u64, Field)],
}

/// Bits by which a driver says that it sets something.
const READS: u64 = 1 << 1;
const ATOMICS: u64 = 1 << 2;
const WRITES: u64 = 1 << 3;
const QKEY: u64 = 1 << 5;
const RNR_TIMER: u64 = 1 << 6;
const PATH: u64 = 1 << 7;
const SENT_READS: u64 = 1 << 8;
const TAKEN_READS: u64 = 1 << 9;
const RETRIES: u64 = 1 << 12;
const RNR_RETRIES: u64 = 1 << 13;
const PORT: u64 = 1 << 16;

const RIGHTS: [(u64, Field); 3] = [(READS, qpc::RRE), (ATOMICS, qpc::RAE), (WRITES, qpc::RWE)];

const RST2INIT: Change = Change {
    from: State::Reset,
    to: State::Initialised,
    sets: &[
        qpc::PM_STATE,
        qpc::RRE,
        qpc::RWE,
        qpc::RAE,
        qpc::Q_KEY,
        qpc::PRIMARY_ADDRESS_PATH,
        qpc::COUNTER_SET_ID,
    ],
    may_set: &[],
};

const INIT2INIT: Change = Change {
    from: State::Initialised,
    to: State::Initialised,
    sets: &[],
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (PORT, qpc::PRIMARY_ADDRESS_PATH),
    ],
};

const INIT2RTR: Change = Change {
    from: State::Initialised,
    to: State::ReadyToReceive,
    sets: &[
        qpc::MTU,
        qpc::LOG_MSG_MAX,
        qpc::REMOTE_QPN,
        qpc::NEXT_RCV_PSN,
        qpc::LOG_RRA_MAX,
        qpc::MIN_RNR_NAK,
        qpc::PRIMARY_ADDRESS_PATH,
        qpc::ATOMIC_MODE,
    ],
    may_set: &[RIGHTS[0], RIGHTS[1], RIGHTS[2], (QKEY, qpc::Q_KEY)],
};

const RTR2RTS: Change = Change {
    from: State::ReadyToReceive,
    to: State::ReadyToSend,
    sets: &[
        qpc::NEXT_SEND_PSN,
        qpc::RETRY_COUNT,
        qpc::RNR_RETRY,
        qpc::LOG_SRA_MAX,
    ],
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (RNR_TIMER, qpc::MIN_RNR_NAK),
    ],
};

const RTS2RTS: Change = Change {
    from: State::ReadyToSend,
    to: State::ReadyToSend,
    sets: &[],
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (RNR_TIMER, qpc::MIN_RNR_NAK),
        (PATH, qpc::PRIMARY_ADDRESS_PATH),
        (SENT_READS, qpc::LOG_SRA_MAX),
        (TAKEN_READS, qpc::LOG_RRA_MAX),
        (RETRIES, qpc::RETRY_COUNT),
        (RNR_RETRIES, qpc::RNR_RETRY),
    ],
};

const SQERR2RTS: Change = Change {
    from: State::SendError,
    to: State::ReadyToSend,
    sets: &[],
    may_set: &[(QKEY, qpc::Q_KEY)],
};

/// Both queues of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Receive,
    Send,
}

/// A request that was posted: as much of it as every request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posted {
    /// What is to be done; of a send queue.
    pub(crate) opcode: u8,
    /// The number of its first piece.
    pub(crate) counter: u16,
}

/// A queue pair.
pub(crate) struct QueuePair {
    context: Vec<u8>,
    state: State,
    service: Service,
    buffer: Buffer,
    /// How many pieces of each queue were taken: receives, sends.
    taken: [u16; 2],
    pub(crate) requester: Requester,
    pub(crate) responder: Responder,
}

impl QueuePair {
    /// Its protection domain.
    pub(crate) fn domain(&self) -> u32 {
        qpc::PD.get32(&self.context)
    }

    /// Whether its completions go to that queue.
    pub(crate) fn completes_in(&self, number: u32) -> bool {
        let sends = self.sends() && qpc::CQN_SND.get32(&self.context) == number;
        sends || self.receives() && qpc::CQN_RCV.get32(&self.context) == number
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// By what the driver's completions name it.
    pub(crate) fn user_index(&self) -> u32 {
        qpc::USER_INDEX.get32(&self.context)
    }

    /// Where the completions of a queue go.
    pub(crate) fn completion_queue(&self, queue: Queue) -> u32 {
        match queue {
            Queue::Send => qpc::CQN_SND.get32(&self.context),
            Queue::Receive => qpc::CQN_RCV.get32(&self.context),
        }
    }

    /// Takes the next request that the driver has posted to one of the pair's own queues.
    pub(crate) fn take_posted(&mut self, queue: Queue, bus: &Bus) -> Option<Posted> {
        let own = match queue {
            Queue::Send => self.sends(),
            Queue::Receive => qpc::RQ_TYPE.get32(&self.context) == OWN,
        };
        let record = qpc::DBR_ADDR.get(&self.context);
        let place = record.checked_add(4 * queue as u64).filter(|_| own)?;
        let posted = bus.read_be32(WHO, place).ok()? as u16;
        let counter = self.taken[queue as usize];
        if posted == counter {
            return None;
        }
        let (opcode, pieces) = match queue {
            Queue::Send => self.read_control(counter, bus)?,
            Queue::Receive => (0, 1),
        };
        // One that is longer than what was posted must not take what comes behind it.
        let pieces = pieces.min(posted.wrapping_sub(counter));
        self.taken[queue as usize] = counter.wrapping_add(pieces);
        Some(Posted { opcode, counter })
    }

    /// What the first segment of a send request says: what is to be done, and how many pieces it has.
    fn read_control(&self, counter: u16, bus: &Bus) -> Option<(u8, u16)> {
        let mut control = [0; 8];
        bus.read(WHO, self.piece(counter)?, &mut control).ok()?;
        let units = u16::from(control[7] & 0x3f);
        Some((control[3], units.div_ceil(UNITS).max(1)))
    }

    /// Bytes of its own receive queue, which comes first.
    fn receive_bytes(&self) -> u64 {
        receive_bytes(&self.context).unwrap_or(0)
    }

    /// The next request of its send queue, which stays there. One that is longer than what was posted is malformed.
    pub(crate) fn peek_request(&self, bus: &Bus) -> Option<Request> {
        let record = qpc::DBR_ADDR.get(&self.context);
        let place = record.checked_add(4 * Queue::Send as u64);
        let posted = bus.read_be32(WHO, place.filter(|_| self.sends())?).ok()? as u16;
        let counter = self.taken[Queue::Send as usize];
        let waiting = posted.wrapping_sub(counter);
        if waiting == 0 {
            return None;
        }
        let (_, pieces) = self.read_control(counter, bus)?;
        let mut bytes = Vec::new();
        for piece in 0..pieces.min(waiting) {
            let mut part = [0; wqe::PIECE];
            let index = counter.wrapping_add(piece);
            bus.read(WHO, self.piece(index)?, &mut part).ok()?;
            bytes.extend(part);
        }
        let mut request = Request::parse(&bytes, counter);
        if pieces > waiting {
            request.operation = Err(Malformed::Length);
            request.pieces = waiting;
        }
        Some(request)
    }

    /// Takes the request that is the next one.
    pub(crate) fn consume_request(&mut self, request: &Request) {
        let taken = &mut self.taken[Queue::Send as usize];
        *taken = request.counter.wrapping_add(request.pieces);
    }

    /// Takes the next receive of its own queue.
    pub(crate) fn take_receive(&mut self, bus: &Bus) -> Option<Receive> {
        let stride = 1 << (qpc::LOG_RQ_STRIDE.get32(&self.context) + LOG_RECEIVE);
        let size = 1 << qpc::LOG_RQ_SIZE.get32(&self.context);
        let counter = self.take_posted(Queue::Receive, bus)?.counter;
        let mut bytes = vec![0; stride as usize];
        let place = u64::from(counter) % size * stride;
        bus.read(WHO, self.buffer.address(place)?, &mut bytes)
            .ok()?;
        Some(Receive {
            counter,
            spans: wqe::receives(&bytes),
        })
    }

    /// Where a piece of the send queue is.
    fn piece(&self, counter: u16) -> Option<u64> {
        let pieces = 1 << qpc::LOG_SQ_SIZE.get32(&self.context);
        let place = u64::from(counter) % pieces * SEND_PIECE;
        self.buffer.address(self.receive_bytes() + place)
    }

    /// As after it was made.
    fn forget(&mut self) {
        self.taken = [0; 2];
        self.requester = Requester::default();
        self.responder = Responder::default();
    }

    /// Something went wrong.
    pub(crate) fn fail(&mut self) {
        self.state = State::Error;
    }

    /// A request of its send queue failed: what sends datagrams still receives.
    pub(crate) fn fail_sending(&mut self) {
        self.state = match self.service {
            Service::Datagram | Service::Management | Service::GeneralServices => State::SendError,
            _ => State::Error,
        };
    }

    /// Who it is for a memory key.
    pub(crate) fn user(&self, pair: u32, access: Access) -> Use {
        Use {
            pair,
            domain: self.domain(),
            access,
        }
    }

    /// A completion of one of its requests, as far as all of them are alike.
    pub(crate) fn completion(&self, pair: u32, counter: u16, outcome: Outcome) -> Completion {
        Completion {
            outcome,
            pair,
            user_index: self.user_index(),
            opcode: 0,
            counter,
            bytes: 0,
            immediate: [0; 4],
            port: 0,
            from: 0,
        }
    }

    pub(crate) fn service(&self) -> Service {
        self.service
    }

    /// Bytes of a packet's payload at most.
    pub(crate) fn mtu(&self) -> u64 {
        128 << qpc::MTU.get32(&self.context).clamp(1, 5)
    }

    pub(crate) fn longest_message(&self) -> u64 {
        1 << qpc::LOG_MSG_MAX.get32(&self.context).min(30)
    }

    /// How many reads may be under way.
    pub(crate) fn reads_at_once(&self) -> usize {
        1 << qpc::LOG_SRA_MAX.get32(&self.context)
    }

    /// How often something is sent again.
    pub(crate) fn retries(&self) -> u32 {
        qpc::RETRY_COUNT.get32(&self.context)
    }

    /// The same if there is no receive.
    pub(crate) fn receive_retries(&self) -> u32 {
        qpc::RNR_RETRY.get32(&self.context)
    }

    /// How long the other end is to wait for a receive, by its number.
    pub(crate) fn receive_timer(&self) -> u32 {
        qpc::MIN_RNR_NAK.get32(&self.context)
    }

    /// After which time an answer is missing; never, if nothing is said.
    pub(crate) fn ack_timeout(&self) -> Option<Duration> {
        let path = qpc::PRIMARY_ADDRESS_PATH.of(&self.context);
        match ads::ACK_TIMEOUT.get32(path) {
            0 => None,
            log => Some(Duration::from_nanos(4096 << log)),
        }
    }

    pub(crate) fn remote_port(&self) -> u16 {
        let path = qpc::PRIMARY_ADDRESS_PATH.of(&self.context);
        ads::RLID.get32(path) as u16
    }

    pub(crate) fn remote_pair(&self) -> u32 {
        qpc::REMOTE_QPN.get32(&self.context)
    }

    /// The number of the first packet that it sends.
    pub(crate) fn first_number(&self) -> u32 {
        qpc::NEXT_SEND_PSN.get32(&self.context)
    }

    /// The number of the packet that comes behind so many.
    pub(crate) fn expected_number(&self, count: u64) -> u32 {
        let first = u64::from(qpc::NEXT_RCV_PSN.get32(&self.context));
        (first + count) as u32 % crate::fabric::NUMBERS
    }

    pub(crate) fn allows_reads(&self) -> bool {
        qpc::RRE.is_set(&self.context)
    }

    pub(crate) fn allows_writes(&self) -> bool {
        qpc::RWE.is_set(&self.context)
    }

    pub(crate) fn receives_from_shared(&self) -> bool {
        qpc::RQ_TYPE.get32(&self.context) == SHARED
    }

    /// Whether it receives from that shared queue.
    pub(crate) fn receives_from(&self, number: u32) -> bool {
        let shared = qpc::RQ_TYPE.get32(&self.context) == SHARED;
        shared && qpc::SRQN_RMPN_XRQN.get32(&self.context) == number
    }

    fn sends(&self) -> bool {
        !qpc::NO_SQ.is_set(&self.context)
    }

    fn receives(&self) -> bool {
        qpc::RQ_TYPE.get32(&self.context) != NONE
    }
}

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_qp_in::QPC.of(input).to_vec();
    let service = Service::read(qpc::ST.get32(&context))?;
    device.domains.get(qpc::PD.get32(&context))?;
    device.doorbell_pages.get(qpc::UAR_PAGE.get32(&context))?;
    let size = size(&context)?;
    let buffer = Buffer::new(
        &words(&input[create_qp_in::BYTES..]),
        qpc::LOG_PAGE_SIZE.get32(&context),
        qpc::PAGE_OFFSET.get32(&context),
        size,
    )?;
    let pair = QueuePair {
        context,
        state: State::Reset,
        service,
        buffer,
        taken: [0; 2],
        requester: Requester::default(),
        responder: Responder::default(),
    };
    if pair.sends() {
        device
            .completion_queues
            .get(qpc::CQN_SND.get32(&pair.context))?;
    }
    if qpc::RQ_TYPE.get32(&pair.context) == SHARED {
        device
            .shared_queues
            .get(qpc::SRQN_RMPN_XRQN.get32(&pair.context))?;
    }
    if pair.receives() {
        device
            .completion_queues
            .get(qpc::CQN_RCV.get32(&pair.context))?;
    }
    create_qp_out::QPN.set(output, device.queue_pairs.add(pair)?);
    Ok(())
}

/// Bytes of both queues, as far as they are the pair's own.
fn size(context: &[u8]) -> Result<u64, Status> {
    let log = qpc::LOG_SQ_SIZE.get32(context);
    let send = match qpc::NO_SQ.is_set(context) {
        true => 0,
        false if log > LOG_MAX_QP_SIZE => return Err(Status::BadParameter),
        false => SEND_PIECE << log,
    };
    Ok(send + receive_bytes(context)?)
}

/// Bytes of a receive queue that is the pair's own.
fn receive_bytes(context: &[u8]) -> Result<u64, Status> {
    let log = qpc::LOG_RQ_SIZE.get32(context);
    match qpc::RQ_TYPE.get32(context) {
        OWN if log > LOG_MAX_QP_SIZE => Err(Status::BadParameter),
        OWN => Ok(1 << (log + qpc::LOG_RQ_STRIDE.get32(context) + LOG_RECEIVE)),
        SHARED | NONE => Ok(0),
        _ => Err(Status::BadParameter),
    }
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    device
        .queue_pairs
        .remove(destroy_qp_in::QPN.get32(input))
        .map(drop)
}

fn change(device: &mut Device, input: &[u8], change: &Change) -> Result<(), Status> {
    let number = rst2init_qp_in::QPN.get32(input);
    let pair = device.queue_pairs.get_mut(number)?;
    if pair.state != change.from {
        return Err(Status::BadQpState);
    }
    let wanted = rst2init_qp_in::QPC.of(input);
    let said = rst2init_qp_in::OPT_PARAM_MASK.get(input);
    let optional = change.may_set.iter().filter(|(bit, _)| said & bit != 0);
    for field in change.sets.iter().chain(optional.map(|(_, field)| field)) {
        match field.width {
            0..=64 => field.set(&mut pair.context, field.get(wanted)),
            _ => field
                .of_mut(&mut pair.context)
                .copy_from_slice(field.of(wanted)),
        }
    }
    pair.state = change.to;
    device.bus.event(
        "qp-state",
        || json!({"qp": number, "state": change.to as u32}),
    );
    Ok(())
}

/// States that can be gone to from any other.
fn force(device: &mut Device, input: &[u8], state: State) -> Result<(), Status> {
    let number = rst2init_qp_in::QPN.get32(input);
    let pair = device.queue_pairs.get_mut(number)?;
    pair.state = state;
    device
        .bus
        .event("qp-state", || json!({"qp": number, "state": state as u32}));
    match state {
        State::Reset => pair.forget(),
        _ => device.flush(number),
    }
    Ok(())
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let pair = device.queue_pairs.get(query_qp_in::QPN.get32(input))?;
    let context = query_qp_out::QPC.of_mut(output);
    context.copy_from_slice(&pair.context);
    qpc::STATE.set(context, pair.state as u64);
    qpc::ST.set(context, pair.service as u64);
    if let Some(place) = output.get_mut(create_qp_in::BYTES..create_qp_in::BYTES + 8) {
        place.copy_from_slice(&pair.buffer.first_page().to_be_bytes());
    }
    Ok(())
}
