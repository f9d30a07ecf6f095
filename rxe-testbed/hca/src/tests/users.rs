// SPDX-License-Identifier: GPL-2.0
//! Queues that are in memory of applications.

use anyhow::{Context, Result};

use super::driver::{pages, user_memory_of, Driver};
use super::scene::{kind, Scene, SIGNALLED, USUAL};
use crate::cq;
use crate::layout::{
    alloc_uar_out, cqc, create_cq_in, create_qp_in, create_umem_in, create_umem_out, destroy_cq_in,
    destroy_umem_in, modify_cq_in, qpc, query_cq_in, query_cq_out, umem,
};
use crate::mkey::{READABLE, WRITABLE};
use crate::status::Status;
use crate::wqe;

/// How an answer refuses.
fn refused(status: Status) -> Option<u64> {
    Some(status as u64)
}

#[test]
fn queues_may_be_in_user_memory() -> Result<()> {
    let mut driver = Driver::new()?;
    driver.in_user_memory = true;
    let mut scene = Scene::on(driver, &USUAL)?;
    // More than the queues have room for.
    for round in 0..100 {
        let sent = scene.fill(0, round)?;
        let mut expected = scene.fill(1, 0x55)?;
        let list = [scene.at(1, 0x1003, 0x2000)];
        scene.receive(1, &list)?;
        let gathered = [scene.at(0, 0x107, 0x777)];
        scene.send(0, wqe::SEND_IMMEDIATE, SIGNALLED, &gathered)?;
        scene.poll(1)?.context("nothing received")?;
        let entry = scene.poll(0)?.context("not done")?;
        assert_eq!(kind(&entry), (0, wqe::SEND_IMMEDIATE));
        expected[0x1003..0x1003 + 0x777].copy_from_slice(&sent[0x107..0x107 + 0x777]);
        assert_eq!(scene.content(1)?, expected);
    }
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

/// A driver, and the input of CREATE_CQ for 64 entries, but for their place.
fn without_place() -> Result<(Driver, Vec<u8>)> {
    let mut driver = Driver::initialised()?;
    let page = driver.number(0x802, &[], alloc_uar_out::UAR)?;
    let events = driver.event_queue(page, 2, 0)?;
    let mut input = vec![0; create_cq_in::BYTES];
    let context = create_cq_in::CQ_CONTEXT.of_mut(&mut input);
    cqc::LOG_CQ_SIZE.set(context, 6_u64);
    cqc::UAR_PAGE.set(context, page);
    cqc::C_EQN_OR_APU_ELEMENT.set(context, events.number);
    Ok((driver, input))
}

#[test]
fn user_memory_that_is_used_stays() -> Result<()> {
    let (mut driver, mut input) = without_place()?;
    let objects = driver.device.objects();
    let [ring, record] = [[0x10_0000], [0x20_0000]].map(|pages| driver.user_memory(&pages));
    let (ring, record) = (ring?, record?);
    cq::RING.name(&mut input, ring, 0);
    cq::RECORD.name(&mut input, record, 0xff8);
    let queue = driver.number(0x400, &input, crate::layout::create_cq_out::CQN)?;
    for memory in [ring, record] {
        let busy = driver.about(0xa0a, destroy_umem_in::UMEM_ID, memory)?;
        assert_eq!(busy.err(), refused(Status::ResourceBusy));
    }
    assert!(driver.about(0x401, destroy_cq_in::CQN, queue)?.is_ok());
    for memory in [ring, record] {
        assert!(driver
            .about(0xa0a, destroy_umem_in::UMEM_ID, memory)?
            .is_ok());
        let gone = driver.about(0xa0a, destroy_umem_in::UMEM_ID, memory)?;
        assert_eq!(gone.err(), refused(Status::BadResource));
    }
    assert_eq!(driver.device.objects(), objects);
    Ok(())
}

#[test]
fn a_queue_has_to_fit_into_its_memory() -> Result<()> {
    let (mut driver, bare) = without_place()?;
    let pages = [0x10_0000, 0x20_0000];
    let writable = driver.user_memory(&pages)?;
    let read_only = user_memory_of(&pages, READABLE);
    let read_only = driver.number(0xa08, &read_only, create_umem_out::UMEM_ID)?;
    let mut made = |ring: (u32, u64), record: (u32, u64)| -> Result<Option<u64>> {
        let mut input = bare.clone();
        cq::RING.name(&mut input, ring.0, ring.1);
        cq::RECORD.name(&mut input, record.0, record.1);
        Ok(driver.try_command(0x400, &input, 16)?.err())
    };
    // 4 KiB of entries.
    assert_eq!(made((writable, 0xfc0), (writable, 8))?, None);
    assert_eq!(made((writable, 0x1000), (read_only, 0x1ff8))?, None);
    let absent = refused(Status::BadResource);
    assert_eq!(made((read_only + 1, 0), (writable, 0))?, absent);
    let large = refused(Status::BadSize);
    assert_eq!(made((writable, 0x1040), (writable, 0))?, large);
    assert_eq!(made((writable, 0), (writable, 0x2000))?, large);
    let wrong = refused(Status::BadParameter);
    assert_eq!(made((read_only, 0), (writable, 0))?, wrong);
    assert_eq!(made((writable, 0x20), (writable, 0))?, wrong);
    assert_eq!(made((writable, 0), (writable, 0xffc))?, wrong);
    assert_eq!(made((writable, u64::MAX - 0x3f), (writable, 0))?, large);
    assert_eq!(made((writable, 0), (writable, u64::MAX - 7))?, large);
    Ok(())
}

#[test]
fn a_queue_that_moves_leaves_its_memory() -> Result<()> {
    let (mut driver, mut input) = without_place()?;
    let [ring, record, other] =
        [0x10_0000, 0x20_0000, 0x30_0000].map(|page| driver.user_memory(&[page]));
    let (ring, record, other) = (ring?, record?, other?);
    cq::RING.name(&mut input, ring, 0);
    cq::RECORD.name(&mut input, record, 0);
    let queue = driver.number(0x400, &input, crate::layout::create_cq_out::CQN)?;
    let mut resize = input.clone();
    modify_cq_in::OP_MOD.set(&mut resize, 1_u64);
    modify_cq_in::CQN.set(&mut resize, queue);
    modify_cq_in::MODIFY_FIELD_SELECT_RESIZE_FIELD_SELECT.set(&mut resize, 7_u64);
    cq::RING.name(&mut resize, other, 0);
    assert!(driver.try_command(0x403, &resize, 16)?.is_ok());
    for (memory, busy) in [(ring, false), (record, true), (other, true)] {
        let gone = driver.about(0xa0a, destroy_umem_in::UMEM_ID, memory)?;
        assert_eq!(gone.is_err(), busy);
    }
    let mut which = [0; 16];
    query_cq_in::CQN.set(&mut which, queue);
    let answer = driver.execute(0x402, &which, query_cq_out::BYTES + 8)?;
    assert_eq!(answer[query_cq_out::BYTES..], 0x30_0000_u64.to_be_bytes());
    Ok(())
}

#[test]
fn pieces_of_a_send_queue_cross_no_page() -> Result<()> {
    let scene = Scene::new()?;
    let mut driver = scene.driver;
    // 16 bytes of receives come before the sends.
    let mut input = vec![0; create_qp_in::BYTES];
    let context = create_qp_in::QPC.of_mut(&mut input);
    qpc::PD.set(context, scene.domain);
    qpc::UAR_PAGE.set(context, scene.page);
    qpc::CQN_SND.set(context, scene.ends[0].ring.number);
    qpc::CQN_RCV.set(context, scene.ends[0].ring.number);
    qpc::LOG_SQ_SIZE.set(context, 4_u64);
    input.extend(pages(0x10_0000, 0x1000));
    let made = driver.try_command(0x500, &input, 16)?;
    assert_eq!(made.err(), refused(Status::BadParameter));
    qpc::LOG_RQ_SIZE.set(create_qp_in::QPC.of_mut(&mut input), 2_u64);
    assert!(driver.try_command(0x500, &input, 16)?.is_ok());
    Ok(())
}

#[test]
fn user_memory_has_pages() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let all = READABLE | WRITABLE;
    let mut short = user_memory_of(&[0x10_0000; 3], all);
    short.truncate(create_umem_in::BYTES + 16);
    let ended = driver.try_command(0xa08, &short, 16)?;
    assert_eq!(ended.err(), refused(Status::BadInputLength));
    let odd = driver.try_command(0xa08, &user_memory_of(&[0x10_0010], all), 16)?;
    assert_eq!(odd.err(), refused(Status::BadParameter));
    // A page that may only be read makes all of it so.
    let mut mixed = user_memory_of(&[0x10_0000, 0x20_0000], all);
    let last = mixed.len() - 1;
    mixed[last] = READABLE as u8;
    let mixed = driver.number(0xa08, &mixed, create_umem_out::UMEM_ID)?;
    let memory = driver.device.user_memories.get(mixed);
    assert_eq!(memory.map(|memory| memory.rights), Ok(READABLE));
    let mut huge = user_memory_of(&[0x10_0000], all);
    umem::LOG_PAGE_SIZE.set(create_umem_in::UMEM.of_mut(&mut huge), 31_u64);
    let huge = driver.try_command(0xa08, &huge, 16)?;
    assert_eq!(huge.err(), refused(Status::BadParameter));
    Ok(())
}
