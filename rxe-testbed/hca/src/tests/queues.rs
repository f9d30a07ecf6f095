// SPDX-License-Identifier: GPL-2.0
//! Events, completions and queue pairs.

use anyhow::{Context, Result};

use super::driver::{pages, Driver, Ring};
use crate::eq::Event;
use crate::layout::{
    alloc_pd_out, alloc_uar_out, alloc_xrcd_out, cqc, create_qp_in, create_qp_out, create_rmp_in,
    create_rmp_out, create_xrc_srq_in, create_xrc_srq_out, dealloc_pd_in, dealloc_xrcd_in,
    destroy_cq_in, destroy_eq_in, destroy_qp_in, destroy_rmp_in, destroy_xrc_srq_in, eqc, eqe,
    modify_cq_in, qpc, query_cq_in, query_cq_out, query_eq_in, query_eq_out, query_qp_in,
    query_qp_out, rmpc, rst2init_qp_in, wq, xrc_srqc,
};
use crate::status::Status;
use crate::trace::Rule;

const COMMANDS: u64 = 1 << Event::Command as u64;
const ERRORS: u64 = 1 << Event::CompletionQueueError as u64;

/// A driver with a page of doorbells.
fn driver() -> Result<(Driver, u32)> {
    let mut driver = Driver::initialised()?;
    let page = driver.number(0x802, &[], alloc_uar_out::UAR)?;
    Ok((driver, page))
}

/// Says what was taken of an event queue, and asks for an interrupt.
fn arm_events(driver: &mut Driver, page: u32, ring: &Ring) {
    let word = (ring.number << 24) | ring.consumed;
    driver.ring(page, 0x40, &word.to_be_bytes());
}

fn arm_completions(driver: &mut Driver, page: u32, ring: &Ring, solicited: bool) {
    let mut bytes = [0; 8];
    let word = (u32::from(solicited) << 24) | ring.consumed;
    bytes[..4].copy_from_slice(&word.to_be_bytes());
    bytes[4..].copy_from_slice(&ring.number.to_be_bytes());
    driver.ring(page, 0x20, &bytes);
}

/// What a queue's owner says of how far it is.
fn consume(driver: &Driver, ring: &Ring) -> Result<()> {
    driver.write(ring.record, &ring.consumed.to_be_bytes())
}

#[test]
fn a_command_that_is_done_is_an_event() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut ring = driver.event_queue(page, 4, COMMANDS)?;
    // The command that made the queue was waited for otherwise.
    assert_eq!(driver.next(&mut ring)?, None);
    driver.execute(0x80d, &[], 16)?;
    let first = driver.next(&mut ring)?.context("no event")?;
    assert_eq!(eqe::EVENT_TYPE.get(&first), Event::Command as u64);
    assert_eq!(eqe::EVENT_DATA.of(&first)[..4], [0, 0, 0, 1]);
    assert_eq!(driver.next(&mut ring)?, None);
    arm_events(&mut driver, page, &ring);
    for _ in 0..40 {
        driver.raised.clear();
        driver.execute(0x80d, &[], 16)?;
        assert!(driver.next(&mut ring)?.is_some());
        assert_eq!(driver.raised, [3]);
        arm_events(&mut driver, page, &ring);
    }
    assert_eq!(driver.violations(), []);
    Ok(())
}

#[test]
fn an_interrupt_comes_once_and_is_not_lost() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut ring = driver.event_queue(page, 4, COMMANDS)?;
    for _ in 0..3 {
        driver.execute(0x80d, &[], 16)?;
    }
    assert!(driver.raised.is_empty());
    // Armed with events that were not seen: at once.
    driver.next(&mut ring)?;
    arm_events(&mut driver, page, &ring);
    assert_eq!(driver.raised, [3]);
    driver.execute(0x80d, &[], 16)?;
    assert_eq!(driver.raised, [3]);
    Ok(())
}

#[test]
fn an_event_queue_that_is_full_loses_events_and_says_so() -> Result<()> {
    let (mut driver, page) = driver()?;
    let ring = driver.event_queue(page, 2, COMMANDS)?;
    for _ in 0..4 {
        driver.execute(0x80d, &[], 16)?;
    }
    assert_eq!(driver.violations(), []);
    driver.execute(0x80d, &[], 16)?;
    assert_eq!(driver.violations()[0].rule, Rule::Overrun);
    let mut input = [0; 16];
    query_eq_in::EQ_NUMBER.set(&mut input, ring.number);
    let output = driver.execute(0x303, &input, query_eq_out::BYTES)?;
    let context = query_eq_out::EQ_CONTEXT_ENTRY.of(&output);
    assert_eq!(eqc::STATUS.get(context), 0xa);
    assert_eq!(eqc::PRODUCER_COUNTER.get(context), 4);
    Ok(())
}

#[test]
fn completions_are_told_when_asked_for() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut events = driver.event_queue(page, 6, 0)?;
    let mut ring = driver.completion_queue(page, events.number, 3)?;
    let completion = |place: u8| -> [u8; 64] { std::array::from_fn(|at| at as u8 ^ place) };
    driver.device.complete(ring.number, &completion(1), false);
    assert_eq!(driver.next(&mut events)?, None);
    // It is there already.
    arm_completions(&mut driver, page, &ring, false);
    let event = driver.next(&mut events)?.context("no event")?;
    assert_eq!(
        eqe::EVENT_DATA.of(&event)[24..28],
        ring.number.to_be_bytes()
    );
    let entry = driver.next(&mut ring)?.context("no completion")?;
    assert_eq!(entry[..63], completion(1)[..63]);
    consume(&driver, &ring)?;
    arm_completions(&mut driver, page, &ring, false);
    for place in 2..30 {
        assert_eq!(driver.next(&mut events)?, None);
        driver
            .device
            .complete(ring.number, &completion(place), false);
        assert!(driver.next(&mut events)?.is_some());
        let entry = driver.next(&mut ring)?.context("no completion")?;
        assert_eq!(entry[..63], completion(place)[..63]);
        consume(&driver, &ring)?;
        arm_completions(&mut driver, page, &ring, false);
    }
    assert_eq!(driver.violations(), []);
    Ok(())
}

/// Moves a queue to a buffer of another size.
fn resize(driver: &mut Driver, ring: &Ring, log_size: u32) -> Result<Result<Ring, u64>> {
    let size = 64 << log_size;
    let address = driver.allocate(size)?;
    for entry in 0..1 << log_size {
        driver.write(address + entry * 64 + 63, &[0xf1])?;
    }
    let mut input = vec![0; modify_cq_in::BYTES];
    modify_cq_in::OP_MOD.set(&mut input, 1_u64);
    modify_cq_in::CQN.set(&mut input, ring.number);
    modify_cq_in::MODIFY_FIELD_SELECT_RESIZE_FIELD_SELECT.set(&mut input, 7_u64);
    let context = modify_cq_in::CQ_CONTEXT.of_mut(&mut input);
    cqc::LOG_CQ_SIZE.set(context, log_size);
    input.extend(pages(address, size));
    let answer = driver.try_command(0x403, &input, 16)?;
    Ok(answer.map(|_| Ring {
        address,
        log_size,
        ..*ring
    }))
}

#[test]
fn a_completion_queue_moves_with_what_is_in_it() -> Result<()> {
    let (mut driver, page) = driver()?;
    let events = driver.event_queue(page, 6, 0)?;
    let mut ring = driver.completion_queue(page, events.number, 2)?;
    let completion = |place: u8| -> [u8; 64] { std::array::from_fn(|at| at as u8 ^ place) };
    for (round, log_size) in [3, 1, 2, 4].into_iter().enumerate() {
        let place = round as u8 * 8;
        driver
            .device
            .complete(ring.number, &completion(place), false);
        let moved = resize(&mut driver, &ring, log_size)?;
        let mut moved = moved.map_err(|status| anyhow::anyhow!("status {status:#x}"))?;
        // The old buffer has it, and says then where it ends.
        let entry = driver.next(&mut ring)?.context("no completion")?;
        assert_eq!(entry[..63], completion(place)[..63]);
        let last = driver.next(&mut ring)?.context("no end")?;
        assert_eq!(last[63] >> 4, 5);
        // The driver has taken it along. What comes goes to the new one.
        moved.consumed = ring.consumed;
        consume(&driver, &moved)?;
        driver
            .device
            .complete(ring.number, &completion(place + 1), false);
        let entry = driver.next(&mut moved)?.context("no completion")?;
        assert_eq!(entry[..63], completion(place + 1)[..63]);
        consume(&driver, &moved)?;
        ring = moved;
    }
    // More wait than there is room for.
    for place in 0..2 {
        driver
            .device
            .complete(ring.number, &completion(place), false);
    }
    let refused = resize(&mut driver, &ring, 1)?.err();
    assert_eq!(refused, Some(Status::BadSize as u64));
    for place in 0..2 {
        let entry = driver.next(&mut ring)?.context("no completion")?;
        assert_eq!(entry[..63], completion(place)[..63]);
    }
    assert_eq!(driver.violations(), []);
    Ok(())
}

#[test]
fn only_solicited_completions_are_told_if_so_wished() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut events = driver.event_queue(page, 6, 0)?;
    let ring = driver.completion_queue(page, events.number, 3)?;
    arm_completions(&mut driver, page, &ring, true);
    driver.device.complete(ring.number, &[0; 64], false);
    assert_eq!(driver.next(&mut events)?, None);
    driver.device.complete(ring.number, &[0; 64], true);
    assert!(driver.next(&mut events)?.is_some());
    // Armed anew with the solicited one not taken: told again.
    arm_completions(&mut driver, page, &ring, true);
    assert!(driver.next(&mut events)?.is_some());
    Ok(())
}

#[test]
fn a_completion_queue_that_is_full_is_in_error() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut events = driver.event_queue(page, 6, ERRORS)?;
    let ring = driver.completion_queue(page, events.number, 1)?;
    for _ in 0..4 {
        driver.device.complete(ring.number, &[0; 64], false);
    }
    let event = driver.next(&mut events)?.context("no event")?;
    assert_eq!(
        eqe::EVENT_TYPE.get(&event),
        Event::CompletionQueueError as u64
    );
    assert_eq!(driver.next(&mut events)?, None);
    assert_eq!(driver.violations()[0].rule, Rule::Overrun);
    let mut input = [0; 16];
    query_cq_in::CQN.set(&mut input, ring.number);
    let output = driver.execute(0x402, &input, query_cq_out::BYTES)?;
    let context = query_cq_out::CQ_CONTEXT.of(&output);
    assert_eq!(cqc::STATUS.get(context), 9);
    assert_eq!(cqc::PRODUCER_COUNTER.get(context), 2);
    Ok(())
}

#[test]
fn a_doorbell_may_come_in_two_halves() -> Result<()> {
    let (mut driver, page) = driver()?;
    let mut events = driver.event_queue(page, 6, 0)?;
    let ring = driver.completion_queue(page, events.number, 3)?;
    driver.device.complete(ring.number, &[0; 64], false);
    driver.ring(page, 0x20, &[0; 4]);
    assert_eq!(driver.next(&mut events)?, None);
    driver.ring(page, 0x24, &ring.number.to_be_bytes());
    assert!(driver.next(&mut events)?.is_some());
    Ok(())
}

#[test]
fn doorbells_of_nobody_are_told() -> Result<()> {
    let (mut driver, page) = driver()?;
    for (page, offset, length) in [
        (page + 1, 0x40, 4),
        (page, 0x40, 4),
        (page, 0x20, 8),
        (page, 0x48, 1),
        (page, 0x100, 8),
    ] {
        let before = driver.violations().len();
        driver.ring(page, offset, &vec![0x7f; length]);
        assert_eq!(driver.violations().len(), before + 1, "{offset:#x}");
    }
    Ok(())
}

/// A queue pair, with what it needs.
fn queue_pair(driver: &mut Driver, page: u32) -> Result<(u32, Ring, Ring)> {
    let (number, ring, events, _) = queue_pair_with_memory(driver, page)?;
    Ok((number, ring, events))
}

/// A queue pair with its queues, and where its buffer and its doorbell record are.
type Scene = (u32, Ring, Ring, (u64, u64));

fn queue_pair_with_memory(driver: &mut Driver, page: u32) -> Result<Scene> {
    let events = driver.event_queue(page, 6, 0)?;
    let ring = driver.completion_queue(page, events.number, 3)?;
    let domain = driver.number(0x800, &[], alloc_pd_out::PD)?;
    let buffer = driver.allocate(0x1000)?;
    let record = driver.allocate(0x1000)?;
    let mut input = vec![0; create_qp_in::BYTES];
    let context = create_qp_in::QPC.of_mut(&mut input);
    qpc::PD.set(context, domain);
    qpc::UAR_PAGE.set(context, page);
    qpc::CQN_SND.set(context, ring.number);
    qpc::CQN_RCV.set(context, ring.number);
    qpc::LOG_SQ_SIZE.set(context, 4_u64);
    qpc::LOG_RQ_SIZE.set(context, 4_u64);
    qpc::DBR_ADDR.set(context, record);
    qpc::USER_INDEX.set(context, 0x7788_u64);
    input.extend(pages(buffer, 0x1000));
    let number = driver.number(0x500, &input, create_qp_out::QPN)?;
    Ok((number, ring, events, (buffer, record)))
}

fn change(driver: &mut Driver, opcode: u16, number: u32, path: u8) -> Result<Result<(), u64>> {
    let mut input = vec![0; rst2init_qp_in::BYTES];
    rst2init_qp_in::QPN.set(&mut input, number);
    let context = rst2init_qp_in::QPC.of_mut(&mut input);
    qpc::PRIMARY_ADDRESS_PATH.of_mut(context).fill(path);
    qpc::REMOTE_QPN.set(context, 0x1234_u64);
    qpc::NEXT_SEND_PSN.set(context, 0x5678_u64);
    Ok(driver.try_command(opcode, &input, 16)?.map(drop))
}

fn query_pair(driver: &mut Driver, number: u32) -> Result<Vec<u8>> {
    let mut input = [0; 16];
    query_qp_in::QPN.set(&mut input, number);
    let output = driver.execute(0x50b, &input, query_qp_out::BYTES)?;
    Ok(query_qp_out::QPC.of(&output).to_vec())
}

#[test]
fn a_queue_pair_goes_from_state_to_state() -> Result<()> {
    let (mut driver, page) = driver()?;
    let (number, _, _) = queue_pair(&mut driver, page)?;
    assert_eq!(change(&mut driver, 0x502, number, 1)?, Ok(()));
    assert_eq!(change(&mut driver, 0x503, number, 2)?, Ok(()));
    let context = query_pair(&mut driver, number)?;
    assert_eq!(qpc::STATE.get(&context), 2);
    assert_eq!(qpc::REMOTE_QPN.get(&context), 0x1234);
    assert_eq!(qpc::NEXT_SEND_PSN.get(&context), 0);
    assert_eq!(qpc::PRIMARY_ADDRESS_PATH.of(&context), [2; 44]);
    assert_eq!(change(&mut driver, 0x504, number, 3)?, Ok(()));
    let context = query_pair(&mut driver, number)?;
    assert_eq!(qpc::STATE.get(&context), 3);
    assert_eq!(qpc::NEXT_SEND_PSN.get(&context), 0x5678);
    // A path is not part of this change.
    assert_eq!(qpc::PRIMARY_ADDRESS_PATH.of(&context), [2; 44]);
    Ok(())
}

#[test]
fn no_state_is_left_out() -> Result<()> {
    let (mut driver, page) = driver()?;
    let (number, _, _) = queue_pair(&mut driver, page)?;
    let refused = Err(Status::BadQpState as u64);
    for opcode in [0x503, 0x504, 0x505, 0x506, 0x50e] {
        assert_eq!(
            change(&mut driver, opcode, number, 0)?,
            refused,
            "{opcode:#x}"
        );
    }
    assert_eq!(change(&mut driver, 0x507, number, 0)?, Ok(()));
    assert_eq!(change(&mut driver, 0x502, number, 0)?, refused);
    assert_eq!(change(&mut driver, 0x50a, number, 0)?, Ok(()));
    assert_eq!(change(&mut driver, 0x502, number, 0)?, Ok(()));
    let missing = change(&mut driver, 0x502, number + 1, 0)?;
    assert_eq!(missing, Err(Status::BadResource as u64));
    Ok(())
}

/// Posts `count` receives and a send of one piece followed by one of two, and rings for the sends.
fn post(driver: &mut Driver, page: u32, (number, buffer, record): (u32, u64, u64)) -> Result<()> {
    // 16 receives of 16 bytes come first.
    for (piece, opcode, units) in [(0_u64, 0x0a_u8, 3_u8), (1, 0x08, 5), (3, 0x10, 1)] {
        let place = buffer + 16 * 16 + piece * 64;
        driver.write(
            place,
            &[0, 0, piece as u8, opcode, 0, 0, number as u8, units],
        )?;
    }
    driver.write(record, &[0, 0, 0, 5, 0, 0, 0, 4])?;
    driver.ring(page, 0x800, &[0, 0, 0, 0x0a, 0, 0, number as u8, 3]);
    Ok(())
}

#[test]
fn posted_requests_are_flushed_in_order() -> Result<()> {
    let (mut driver, page) = driver()?;
    let (number, mut ring, _, memory) = queue_pair_with_memory(&mut driver, page)?;
    assert_eq!(change(&mut driver, 0x502, number, 0)?, Ok(()));
    post(&mut driver, page, (number, memory.0, memory.1))?;
    assert_eq!(driver.next(&mut ring)?, None);
    assert_eq!(driver.device.tick(), None);
    assert_eq!(change(&mut driver, 0x507, number, 0)?, Ok(()));
    for (opcode, counter) in [(0x0a, 0), (0x08, 1), (0x10, 3)] {
        let entry = driver.next(&mut ring)?.context("no completion")?;
        assert_eq!(entry[0x37], 5);
        assert_eq!(entry[0x38..0x3d], [opcode, 0, 0, number as u8, 0]);
        assert_eq!((entry[0x3d], entry[0x3f] >> 4), (counter, 13));
        assert_eq!(entry[0x20..0x24], [0, 0, 0x77, 0x88]);
    }
    for counter in 0..5 {
        let entry = driver.next(&mut ring)?.context("no completion")?;
        assert_eq!((entry[0x3d], entry[0x3f] >> 4), (counter, 14));
    }
    assert_eq!(driver.next(&mut ring)?, None);
    consume(&driver, &ring)?;
    // One more, for which no doorbell is rung.
    driver.write(memory.1, &[0, 0, 0, 6])?;
    assert!(driver.device.tick().is_some());
    assert!(driver.next(&mut ring)?.is_some());
    assert_eq!(driver.violations(), []);
    Ok(())
}

#[test]
fn what_is_used_is_not_destroyed() -> Result<()> {
    let (mut driver, page) = driver()?;
    let (number, ring, events) = queue_pair(&mut driver, page)?;
    let busy = Err(Status::ResourceBusy as u64);
    assert_eq!(driver.about(0x401, destroy_cq_in::CQN, ring.number)?, busy);
    assert_eq!(
        driver.about(0x302, destroy_eq_in::EQ_NUMBER, events.number)?,
        busy
    );
    assert!(driver.about(0x501, destroy_qp_in::QPN, number)?.is_ok());
    assert!(driver
        .about(0x401, destroy_cq_in::CQN, ring.number)?
        .is_ok());
    assert!(driver
        .about(0x302, destroy_eq_in::EQ_NUMBER, events.number)?
        .is_ok());
    Ok(())
}

#[test]
fn shared_receive_queues_are_held_by_who_uses_them() -> Result<()> {
    let (mut driver, page) = driver()?;
    let events = driver.event_queue(page, 6, 0)?;
    let ring = driver.completion_queue(page, events.number, 3)?;
    let domain = driver.number(0x800, &[], alloc_pd_out::PD)?;
    let connections = driver.number(0x80e, &[], alloc_xrcd_out::XRCD)?;
    let buffer = driver.allocate(0x1000)?;
    let mut input = vec![0; create_xrc_srq_in::BYTES];
    let context = create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY.of_mut(&mut input);
    xrc_srqc::PD.set(context, domain);
    xrc_srqc::XRCD.set(context, connections);
    xrc_srqc::CQN.set(context, ring.number);
    input.extend(pages(buffer, 0x1000));
    let extended = driver.number(0x705, &input, create_xrc_srq_out::XRC_SRQN)?;
    let mut input = vec![0; create_rmp_in::BYTES];
    let context = create_rmp_in::CTX.of_mut(&mut input);
    let queue = rmpc::WQ.of_mut(context);
    wq::PD.set(queue, domain);
    wq::LOG_WQ_STRIDE.set(queue, 5_u64);
    wq::LOG_WQ_SZ.set(queue, 4_u64);
    input.extend(pages(buffer, 0x1000));
    let plain = driver.number(0x90c, &input, create_rmp_out::RMPN)?;
    let (busy, missing) = (Status::ResourceBusy as u64, Status::BadResource as u64);
    assert_eq!(
        driver.about(0x401, destroy_cq_in::CQN, ring.number)?,
        Err(busy)
    );
    assert_eq!(driver.about(0x801, dealloc_pd_in::PD, domain)?, Err(busy));
    let in_use = driver.about(0x80f, dealloc_xrcd_in::XRCD, connections)?;
    assert_eq!(in_use, Err(busy));
    // A number is of one kind only.
    assert_eq!(
        driver.about(0x706, destroy_xrc_srq_in::XRC_SRQN, plain)?,
        Err(missing)
    );
    assert_eq!(
        driver.about(0x90e, destroy_rmp_in::RMPN, extended)?,
        Err(missing)
    );
    assert!(driver
        .about(0x706, destroy_xrc_srq_in::XRC_SRQN, extended)?
        .is_ok());
    assert!(driver.about(0x90e, destroy_rmp_in::RMPN, plain)?.is_ok());
    assert!(driver
        .about(0x401, destroy_cq_in::CQN, ring.number)?
        .is_ok());
    assert!(driver.about(0x801, dealloc_pd_in::PD, domain)?.is_ok());
    assert!(driver
        .about(0x80f, dealloc_xrcd_in::XRCD, connections)?
        .is_ok());
    Ok(())
}
