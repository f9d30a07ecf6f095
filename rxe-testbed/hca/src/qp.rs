// SPDX-License-Identifier: GPL-2.0
//! Queue pairs: what their contexts say, and what was posted to them. What their ends do with it is in `requester` and
//! `responder`.

pub(crate) mod ends;
pub(crate) mod target;

use std::time::Duration;

use crate::access::{Access, Domain, Use};
use crate::bus::Bus;
use crate::completion::{Completion, Outcome};
use crate::fabric::{Connection, Place, NUMBERS};
use crate::layout::{ads, create_qp_in, dctc, qpc, query_qp_out, Field};
use crate::profile::{LOG_MAX_MESSAGE, LOG_MAX_QP_SIZE, LOG_MAX_READS};
use crate::ring::Buffer;
use crate::service::Service;
use crate::status::Status;
use crate::umem::{Does, Named};
use crate::wqe::{self, Malformed, Receive, Request};
use ends::{Requester, Responder};
use target::Target;

/// Who these accesses to memory are by.
const WHO: &str = "queue pair";

/// Bytes of the pieces that a send queue consists of, units of such a piece, and bytes of the smallest entry of a
/// receive queue.
const SEND_PIECE: u64 = 64;
const UNITS: u16 = 4;
const LOG_RECEIVE: u32 = 4;

/// Receive queues: one of its own, a shared one, none.
const OWN: u32 = 0;
pub(crate) const SHARED: u32 = 1;
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

/// What a queue pair is where a driver does not make it one.
enum Role {
    /// It did.
    Pair,
    Target(Box<Target>),
    /// What answers an initiator for a target.
    Responder(Connection),
}

/// A queue pair.
pub(crate) struct QueuePair {
    context: Vec<u8>,
    state: State,
    service: Service,
    buffer: Buffer,
    /// Where the driver counts what it has posted.
    record: u64,
    /// Numbers of the user memory that its queues and the record are in.
    memories: [Option<u32>; 2],
    /// How many pieces of each queue were taken: receives, sends.
    taken: [u16; 2],
    role: Role,
    pub(crate) requester: Requester,
    pub(crate) responder: Responder,
}

impl QueuePair {
    /// One of a driver's, with that context and its queues in these pages, unless user memory is named.
    pub(crate) fn new(
        context: Vec<u8>,
        service: Service,
        pages: &[u64],
        named: &Named<'_>,
    ) -> Result<Self, Status> {
        let size = size(&context)?;
        let buffer = named.queue(size, largest_entry(&context), Does::Reads, || {
            let log_page = qpc::LOG_PAGE_SIZE.get32(&context);
            let offset = qpc::PAGE_OFFSET.get32(&context);
            Buffer::new(pages, log_page, offset, size)
        })?;
        Ok(Self {
            record: named.record(qpc::DBR_ADDR.get(&context))?,
            memories: named.numbers(),
            context,
            state: State::Reset,
            service,
            buffer,
            taken: [0; 2],
            role: Role::Pair,
            requester: Requester::default(),
            responder: Responder::default(),
        })
    }

    /// One that only receives, as a target's context says; for a connection to that target from somewhere, if it is
    /// said.
    pub(crate) fn receiving(target: &[u8], connection: Option<(Connection, Place)>) -> Self {
        let mut context = vec![0; qpc::BYTES];
        for (from, to) in [
            (dctc::PD, qpc::PD),
            (dctc::CQN, qpc::CQN_RCV),
            (dctc::SRQN_XRQN, qpc::SRQN_RMPN_XRQN),
            (dctc::USER_INDEX, qpc::USER_INDEX),
            (dctc::COUNTER_SET_ID, qpc::COUNTER_SET_ID),
            (dctc::ATOMIC_MODE, qpc::ATOMIC_MODE),
            (dctc::RRE, qpc::RRE),
            (dctc::RWE, qpc::RWE),
            (dctc::RAE, qpc::RAE),
            (dctc::MIN_RNR_NAK, qpc::MIN_RNR_NAK),
            (dctc::MTU, qpc::MTU),
        ] {
            to.set(&mut context, from.get(target));
        }
        qpc::NO_SQ.set(&mut context, 1_u64);
        qpc::RQ_TYPE.set(&mut context, SHARED);
        qpc::LOG_MSG_MAX.set(&mut context, LOG_MAX_MESSAGE);
        qpc::LOG_RRA_MAX.set(&mut context, LOG_MAX_READS);
        let mut role = Role::Pair;
        if let Some((connection, from)) = connection {
            qpc::REMOTE_QPN.set(&mut context, from.pair);
            qpc::NEXT_RCV_PSN.set(&mut context, connection.first);
            let path = qpc::PRIMARY_ADDRESS_PATH.of_mut(&mut context);
            ads::RLID.set(path, u64::from(from.port));
            role = Role::Responder(connection);
        }
        Self {
            context,
            state: State::ReadyToReceive,
            service: Service::Target,
            buffer: Buffer::default(),
            record: 0,
            memories: [None; 2],
            taken: [0; 2],
            role,
            requester: Requester::default(),
            responder: Responder::default(),
        }
    }

    pub(crate) fn with_target(mut self, target: Target) -> Self {
        self.role = Role::Target(Box::new(target));
        self
    }

    pub(crate) fn as_target(&mut self) -> Option<&mut Target> {
        match &mut self.role {
            Role::Target(target) => Some(target),
            Role::Pair | Role::Responder(_) => None,
        }
    }

    /// The connection that it answers for a target.
    pub(crate) fn connection(&self) -> Option<Connection> {
        match &self.role {
            Role::Responder(connection) => Some(*connection),
            Role::Pair | Role::Target(_) => None,
        }
    }

    /// Whether it is a driver's queue pair.
    pub(crate) fn is_of_driver(&self) -> bool {
        matches!(self.role, Role::Pair)
    }

    /// Its protection domain.
    pub(crate) fn domain(&self) -> u32 {
        qpc::PD.get32(&self.context)
    }

    /// Whether it is in that user memory.
    pub(crate) fn is_in(&self, memory: u32) -> bool {
        self.memories.contains(&Some(memory))
    }

    /// Whether its completions go to that queue.
    pub(crate) fn completes_in(&self, number: u32) -> bool {
        let sends = self.sends() && qpc::CQN_SND.get32(&self.context) == number;
        sends || self.receives() && qpc::CQN_RCV.get32(&self.context) == number
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state;
    }

    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }

    /// Takes a field of its context from another one.
    pub(crate) fn modify(&mut self, field: &Field, wanted: &[u8]) {
        match field.width {
            0..=64 => field.set(&mut self.context, field.get(wanted)),
            _ => field
                .of_mut(&mut self.context)
                .copy_from_slice(field.of(wanted)),
        }
    }

    /// Fills the output of QUERY_QP.
    pub(crate) fn query(&self, output: &mut [u8]) {
        let context = query_qp_out::QPC.of_mut(output);
        context.copy_from_slice(&self.context);
        qpc::STATE.set(context, self.state as u64);
        qpc::ST.set(context, self.service as u64);
        if let Some(place) = output.get_mut(create_qp_in::BYTES..create_qp_in::BYTES + 8) {
            place.copy_from_slice(&self.buffer.first_page().to_be_bytes());
        }
    }

    /// The counters that count what happens to it.
    pub(crate) fn counters(&self) -> u32 {
        qpc::COUNTER_SET_ID.get32(&self.context)
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
        let place = self.record.checked_add(4 * queue as u64).filter(|_| own)?;
        let posted = bus.read_be32(WHO, place).ok()? as u16;
        let counter = self.taken[queue as usize];
        if posted == counter {
            return None;
        }
        let (opcode, pieces) = match queue {
            Queue::Send => self.read_control(counter, bus)?,
            Queue::Receive => (0, 1),
        };
        // One that is longer than what was posted must not take what comes after it.
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
        let place = self.record.checked_add(4 * Queue::Send as u64);
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
        let mut request = Request::parse(&bytes, counter, self.service);
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
        Some(Receive::own(counter, wqe::receives(&bytes)))
    }

    /// Where a piece of the send queue is.
    fn piece(&self, counter: u16) -> Option<u64> {
        let pieces = 1 << qpc::LOG_SQ_SIZE.get32(&self.context);
        let place = u64::from(counter) % pieces * SEND_PIECE;
        self.buffer.address(self.receive_bytes() + place)
    }

    /// As after it was made.
    pub(crate) fn forget(&mut self) {
        self.taken = [0; 2];
        self.requester = Requester::default();
        self.responder = Responder::default();
    }

    /// A request of its send queue failed: what sends datagrams still receives.
    pub(crate) fn fail_sending(&mut self) {
        self.state = State::SendError;
    }

    /// Who it is for a memory key.
    pub(crate) fn user(&self, pair: u32, access: Access) -> Use {
        let pair = self.connection().map_or(pair, |known| known.to.pair);
        let domain = match self.service {
            Service::KeyUpdates => Domain::Every,
            _ => Domain::One(self.domain()),
        };
        Use {
            pair,
            domain,
            access,
        }
    }

    /// A completion of one of its requests, as far as all of them are alike.
    pub(crate) fn completion(&self, pair: u32, counter: u16, outcome: Outcome) -> Completion {
        Completion {
            outcome,
            pair: self.connection().map_or(pair, |known| known.to.pair),
            user_index: self.user_index(),
            opcode: 0,
            counter,
            bytes: 0,
            immediate: [0; 4],
            port: 0,
            from: 0,
            level: 0,
            global: false,
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

    /// How many reads and atomics of the other end may be under way.
    pub(crate) fn answers_at_once(&self) -> usize {
        1 << qpc::LOG_RRA_MAX.get32(&self.context)
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

    /// The other end of its connection.
    pub(crate) fn remote(&self) -> Place {
        let path = qpc::PRIMARY_ADDRESS_PATH.of(&self.context);
        Place {
            port: ads::RLID.get32(path) as u16,
            pair: self.remote_pair(),
        }
    }

    /// Whether it is connected with that place: an initiator goes by what it has sent last.
    pub(crate) fn is_connected_with(&self, place: Place) -> bool {
        match self.service() {
            Service::Initiator => self.requester.connection.map(|now| now.to) == Some(place),
            _ => self.remote_pair() == place.pair,
        }
    }

    /// Whether it can do anything: states of a target are of no meaning.
    pub(crate) fn takes_packets(&self) -> bool {
        matches!(self.state(), State::ReadyToReceive | State::ReadyToSend)
    }

    pub(crate) fn remote_pair(&self) -> u32 {
        qpc::REMOTE_QPN.get32(&self.context)
    }

    /// The number of the first packet that it sends.
    pub(crate) fn first_number(&self) -> u32 {
        qpc::NEXT_SEND_PSN.get32(&self.context)
    }

    /// The number of the packet after so many.
    pub(crate) fn expected_number(&self, count: u64) -> u32 {
        let first = u64::from(qpc::NEXT_RCV_PSN.get32(&self.context));
        (first + count) as u32 % NUMBERS
    }

    /// How many packets come before the one with that number.
    pub(crate) fn received_before(&self, number: u32) -> u64 {
        let first = qpc::NEXT_RCV_PSN.get32(&self.context);
        u64::from(number.wrapping_sub(first) % NUMBERS)
    }

    pub(crate) fn allows_reads(&self) -> bool {
        qpc::RRE.is_set(&self.context)
    }

    pub(crate) fn allows_writes(&self) -> bool {
        qpc::RWE.is_set(&self.context)
    }

    pub(crate) fn allows_atomics(&self) -> bool {
        qpc::RAE.is_set(&self.context)
    }

    /// The key that datagrams have to have, and that of those which it sends with it.
    pub(crate) fn datagram_key(&self) -> u32 {
        qpc::Q_KEY.get32(&self.context)
    }

    /// The number by which others know it.
    pub(crate) fn wire_number(&self, number: u32) -> u32 {
        match self.connection() {
            Some(connection) => connection.to.pair,
            None => self.service.well_known().unwrap_or(number),
        }
    }

    /// Whether it is an extended connection of that domain.
    pub(crate) fn is_of(&self, connections: u32) -> bool {
        self.service == Service::ExtendedReliable && self.connections() == connections
    }

    /// The domain of its extended connection.
    pub(crate) fn connections(&self) -> u32 {
        qpc::XRCD.get32(&self.context)
    }

    /// The shared queue that it receives from, unless each packet names one.
    pub(crate) fn shared_queue(&self) -> Option<u32> {
        let shared = qpc::RQ_TYPE.get32(&self.context) == SHARED && self.receives();
        shared.then(|| qpc::SRQN_RMPN_XRQN.get32(&self.context))
    }

    /// Whether it receives from that shared queue.
    pub(crate) fn receives_from(&self, number: u32) -> bool {
        self.shared_queue() == Some(number)
    }

    pub(crate) fn sends(&self) -> bool {
        !qpc::NO_SQ.is_set(&self.context)
    }

    pub(crate) fn receives(&self) -> bool {
        // An initiator names a queue, and takes nothing from it.
        qpc::RQ_TYPE.get32(&self.context) != NONE && self.service != Service::Initiator
    }
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

/// Bytes of the largest entry of its queues.
fn largest_entry(context: &[u8]) -> u64 {
    let receive = match qpc::RQ_TYPE.get32(context) {
        OWN => 1 << (qpc::LOG_RQ_STRIDE.get32(context) + LOG_RECEIVE),
        _ => 0,
    };
    receive.max(SEND_PIECE)
}

/// Bytes of both queues, as far as they are the pair's own.
fn size(context: &[u8]) -> Result<u64, Status> {
    let log = qpc::LOG_SQ_SIZE.get32(context);
    let send = match qpc::NO_SQ.is_set(context) {
        true => 0,
        false if log > LOG_MAX_QP_SIZE => return Err(Status::BadParameter),
        false => SEND_PIECE << log,
    };
    let receive = receive_bytes(context)?;
    // Else pieces of the send queue, which comes next, would cross pages.
    match send != 0 && receive % SEND_PIECE != 0 {
        true => Err(Status::BadParameter),
        false => Ok(send + receive),
    }
}
