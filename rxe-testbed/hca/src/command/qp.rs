// SPDX-License-Identifier: GPL-2.0
//! The commands of queue pairs: they are made, go from state to state, and are looked at.

use serde_json::json;

use super::definition::{Command, Run, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{
    ads, create_qp_in, create_qp_out, destroy_qp_in, qpc, query_qp_in, query_qp_out,
    rst2init_qp_in, words, Field,
};
use crate::qp::{QueuePair, State, SHARED};
use crate::service::Service;
use crate::status::Status;
use crate::umem::{Named, Naming};

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x500,
        "CREATE_QP",
        HcaState::Initialised,
        create_qp_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x501,
        "DESTROY_QP",
        HcaState::Initialised,
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
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| force(device, input, State::Error),
    ),
    Command::new(
        0x50a,
        "2RST_QP",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| force(device, input, State::Reset),
    ),
    Command::new(
        0x50b,
        "QUERY_QP",
        HcaState::Initialised,
        SHORT,
        query_qp_out::BYTES,
        query,
    )
    .in_part(),
];

const fn modifies(opcode: u16, name: &'static str, run: Run) -> Command {
    Command::new(
        opcode,
        name,
        HcaState::Initialised,
        rst2init_qp_in::BYTES,
        SHORT,
        run,
    )
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
const PARTITION: u64 = 1 << 4;
const QKEY: u64 = 1 << 5;
const RNR_TIMER: u64 = 1 << 6;
const PATH: u64 = 1 << 7;
const SENT_READS: u64 = 1 << 8;
const TAKEN_READS: u64 = 1 << 9;
const MIGRATION: u64 = 1 << 10;
const RETRIES: u64 = 1 << 12;
const RNR_RETRIES: u64 = 1 << 13;
const TIMEOUT: u64 = 1 << 14;
const PORT: u64 = 1 << 16;
const COUNTERS: u64 = 1 << 25;

/// Parts of the path: the timeout, and the partition key.
const ACK_TIMEOUT: Field = ads::ACK_TIMEOUT.within(qpc::PRIMARY_ADDRESS_PATH);
const PKEY_INDEX: Field = ads::PKEY_INDEX.within(qpc::PRIMARY_ADDRESS_PATH);

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
        (PARTITION, PKEY_INDEX),
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
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (PARTITION, PKEY_INDEX),
    ],
};

const RTR2RTS: Change = Change {
    from: State::ReadyToReceive,
    to: State::ReadyToSend,
    sets: &[
        qpc::NEXT_SEND_PSN,
        qpc::RETRY_COUNT,
        qpc::RNR_RETRY,
        qpc::LOG_SRA_MAX,
        ACK_TIMEOUT,
    ],
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (RNR_TIMER, qpc::MIN_RNR_NAK),
        (MIGRATION, qpc::PM_STATE),
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
        (MIGRATION, qpc::PM_STATE),
        (TIMEOUT, ACK_TIMEOUT),
        (COUNTERS, qpc::COUNTER_SET_ID),
    ],
};

const SQERR2RTS: Change = Change {
    from: State::SendError,
    to: State::ReadyToSend,
    sets: &[],
    may_set: &[
        RIGHTS[0],
        RIGHTS[1],
        RIGHTS[2],
        (QKEY, qpc::Q_KEY),
        (RNR_TIMER, qpc::MIN_RNR_NAK),
    ],
};

/// Where CREATE_QP names user memory, for the queues and for the record. What the kernel's header does not have is as
/// in rdma-core's tests (`tests/mlx5_prm_structs.py`).
pub(crate) const QUEUES: Naming = Naming {
    valid: create_qp_in::WQ_UMEM_VALID,
    number: create_qp_in::WQ_UMEM_ID,
    offset: create_qp_in::WQ_UMEM_OFFSET,
};
const DBR_UMEM_ID: Field = Field {
    name: "DBR_UMEM_ID",
    bit: 0x720,
    width: 0x20,
};
pub(crate) const RECORD: Naming = Naming {
    valid: qpc::DBR_UMEM_VALID.within(create_qp_in::QPC),
    number: DBR_UMEM_ID.within(create_qp_in::QPC),
    offset: qpc::DBR_ADDR.within(create_qp_in::QPC),
};

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_qp_in::QPC.of(input).to_vec();
    let service = Service::read(qpc::ST.get32(&context))?;
    if service != Service::KeyUpdates {
        device.domains.get(qpc::PD.get32(&context))?;
    }
    if !qpc::NO_SQ.is_set(&context) {
        device.doorbell_pages.get(qpc::UAR_PAGE.get32(&context))?;
    }
    let pages = words(&input[create_qp_in::BYTES..]);
    let named = Named::by(input, &QUEUES, &RECORD, &device.user_memories);
    let pair = QueuePair::new(context, service, &pages, &named)?;
    if pair.sends() {
        device
            .completion_queues
            .get(qpc::CQN_SND.get32(pair.context()))?;
    }
    if qpc::RQ_TYPE.get32(pair.context()) == SHARED {
        device
            .shared_queues
            .get(qpc::SRQN_RMPN_XRQN.get32(pair.context()))?;
    }
    if pair.receives() {
        device
            .completion_queues
            .get(qpc::CQN_RCV.get32(pair.context()))?;
    }
    create_qp_out::QPN.set(output, device.queue_pairs.add(pair)?);
    Ok(())
}

/// The queue pair of that number: targets have commands of their own.
fn pair(device: &mut Device, number: u32) -> Result<&mut QueuePair, Status> {
    let pair = device.queue_pairs.get_mut(number)?;
    match pair.is_of_driver() {
        true => Ok(pair),
        false => Err(Status::BadResource),
    }
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let number = destroy_qp_in::QPN.get32(input);
    pair(device, number)?;
    device.queue_pairs.remove(number)?;
    device.faults.forget(number, true);
    device.free_keys_of(number);
    Ok(())
}

fn change(device: &mut Device, input: &[u8], change: &Change) -> Result<(), Status> {
    let number = rst2init_qp_in::QPN.get32(input);
    let pair = pair(device, number)?;
    if pair.state() != change.from {
        return Err(Status::BadQpState);
    }
    let wanted = rst2init_qp_in::QPC.of(input);
    let said = rst2init_qp_in::OPT_PARAM_MASK.get(input);
    let known = change.may_set.iter().fold(0, |bits, (bit, _)| bits | bit);
    if said & !known != 0 {
        return Err(Status::BadParameter);
    }
    let optional = change.may_set.iter().filter(|(bit, _)| said & bit != 0);
    for field in change.sets.iter().chain(optional.map(|(_, field)| field)) {
        pair.modify(field, wanted);
    }
    pair.set_state(change.to);
    device.bus.event(
        "qp-state",
        || json!({"qp": number, "state": change.to as u32}),
    );
    Ok(())
}

/// States that can be gone to from any other.
fn force(device: &mut Device, input: &[u8], state: State) -> Result<(), Status> {
    let number = rst2init_qp_in::QPN.get32(input);
    pair(device, number)?;
    match state {
        State::Error => device.fail(number),
        _ => device.queue_pairs.get_mut(number)?.set_state(state),
    }
    device
        .bus
        .event("qp-state", || json!({"qp": number, "state": state as u32}));
    match state {
        State::Reset => {
            device.queue_pairs.get_mut(number)?.forget();
            device.faults.forget(number, false);
        }
        _ => device.flush(number),
    }
    Ok(())
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let pair = pair(device, query_qp_in::QPN.get32(input))?;
    pair.query(output);
    Ok(())
}
