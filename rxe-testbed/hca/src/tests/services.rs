// SPDX-License-Identifier: GPL-2.0
//! What goes through other queue pairs than plain reliable connections, and atomics and sends that free keys.

use std::collections::VecDeque;

use anyhow::{Context, Result};

use super::scene::{
    bytes, fails, inline, kind, place, Scene, Wish, DATAGRAM, DATAGRAM_KEY, EXTENDED, GENERAL, MTU,
    RELIABLE, SIGNALLED, UNRELIABLE, USUAL,
};
use crate::eq::Event;
use crate::fabric::{Fabric, Kind, Packet};
use crate::layout::{
    arm_xrc_srq_in, create_mkey_in, create_mkey_out, dealloc_q_counter_in, mkc, modify_rmp_in, qpc,
    query_mkey_in, query_mkey_out, query_q_counter_in, query_q_counter_out, query_rmp_in,
    query_rmp_out, query_xrc_srq_in, query_xrc_srq_out, rmpc, rst2init_qp_in, wq, xrc_srqc,
};
use crate::status::Status;
use crate::wqe;

/// What an atomic says of its change.
fn change(value: u64, compare: u64) -> Vec<u8> {
    [value.to_be_bytes(), compare.to_be_bytes()].concat()
}

/// Does an atomic on eight bytes of the second side; gives what it found.
fn atomic(scene: &mut Scene, opcode: u8, offset: u64, said: Vec<u8>) -> Result<[u8; 8]> {
    let list = [scene.remote(1, offset), said, scene.at(0, 0x40, 8)];
    scene.send(0, opcode, SIGNALLED, &list)?;
    let entry = scene.wait(0)?;
    assert_eq!((kind(&entry), bytes(&entry)), ((0, opcode), 8));
    let mut found = [0; 8];
    scene.driver.read(scene.memory[0] + 0x40, &mut found)?;
    Ok(found)
}

#[test]
fn atomics_change_eight_bytes_and_tell_what_was_there() -> Result<()> {
    let mut scene = Scene::new()?;
    let before = scene.fill(1, 0x21)?;
    let word = u64::from_be_bytes(before[0x100..0x108].try_into()?);
    let found = atomic(&mut scene, wqe::FETCH_AND_ADD, 0x100, change(0x1_0003, 0))?;
    assert_eq!(found, before[0x100..0x108]);
    let sum = word.wrapping_add(0x1_0003);
    let mut expected = before;
    expected[0x100..0x108].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(scene.content(1)?, expected);
    // Another value is there: nothing changes.
    let swap = change(0x0102_0304_0506_0708, word);
    let found = atomic(&mut scene, wqe::COMPARE_AND_SWAP, 0x100, swap)?;
    assert_eq!(found, sum.to_be_bytes());
    assert_eq!(scene.content(1)?, expected);
    let swap = change(0x0102_0304_0506_0708, sum);
    let found = atomic(&mut scene, wqe::COMPARE_AND_SWAP, 0x100, swap)?;
    assert_eq!(found, sum.to_be_bytes());
    expected[0x100..0x108].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(scene.content(1)?, expected);
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn a_driver_chooses_the_order_of_bytes() -> Result<()> {
    let mut driver = super::driver::Driver::new()?;
    driver.little_endian = true;
    let mut scene = Scene::on(driver, &USUAL)?;
    scene.driver.write(scene.memory[1], &7_u64.to_le_bytes())?;
    let found = atomic(&mut scene, wqe::FETCH_AND_ADD, 0, change(0x100, 0))?;
    assert_eq!(found, 7_u64.to_le_bytes());
    assert_eq!(scene.content(1)?[..8], 0x107_u64.to_le_bytes());
    Ok(())
}

#[test]
fn atomics_that_must_not_be_are_refused() -> Result<()> {
    // Not on a boundary; not eight bytes; not what the key allows.
    for (case, syndrome) in [(0, 0x12), (1, 0x02), (2, 0x13)] {
        let mut scene = Scene::new()?;
        let before = scene.fill(1, 5)?;
        let mut remote = scene.remote(1, if case == 0 { 4 } else { 0 });
        if case == 2 {
            let other = scene.key(&[mkc::LR, mkc::LW, mkc::RR, mkc::RW])?;
            remote[8..12].copy_from_slice(&other.to_be_bytes());
        }
        let local = scene.at(0, 0, if case == 1 { 4 } else { 8 });
        let list = [remote, change(1, 0), local];
        fails(&mut scene, wqe::FETCH_AND_ADD, &list, syndrome)?;
        assert_eq!(scene.content(1)?, before);
    }
    Ok(())
}

/// A key for all memory that a send may free, or not.
fn freed_key(scene: &mut Scene, may: bool) -> Result<u32> {
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::LENGTH64.set(context, 1_u64);
    mkc::RW.set(context, 1_u64);
    mkc::EN_RINVAL.set(context, u64::from(may));
    mkc::QPN.set(context, 0xff_ffff_u64);
    mkc::MKEY_7_0.set(context, 0x31_u64);
    mkc::PD.set(context, scene.domain);
    let driver = &mut scene.driver;
    let number = driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)?;
    Ok((number << 8) | 0x31)
}

/// Sends with a wish to free a key at the other end.
fn send_and_free(scene: &mut Scene, key: u32) -> Result<[u8; 64]> {
    let place = scene.ends[0].next_send() + 12;
    let list = [scene.at(0, 0, 5)];
    scene.queue(0, wqe::SEND_INVALIDATE, SIGNALLED, &list)?;
    scene.driver.write(place, &key.to_be_bytes())?;
    scene.ring(0);
    scene.wait(0)
}

#[test]
fn a_send_frees_a_key_that_it_may_free() -> Result<()> {
    for may in [true, false] {
        let mut scene = Scene::new()?;
        let key = freed_key(&mut scene, may)?;
        let list = [scene.at(1, 0x10, 5)];
        scene.receive(1, &list)?;
        let entry = send_and_free(&mut scene, key)?;
        let received = scene.wait(1)?;
        if !may {
            assert_eq!((entry[63] >> 4, entry[0x37]), (13, 0x13));
            assert_eq!((received[63] >> 4, received[0x37]), (14, 0x11));
            continue;
        }
        assert_eq!(kind(&entry), (0, wqe::SEND_INVALIDATE));
        assert_eq!((received[63] >> 4, bytes(&received)), (4, 5));
        assert_eq!(received[0x24..0x28], key.to_be_bytes());
        // Now it is free.
        let mut remote = scene.remote(1, 0);
        remote[8..12].copy_from_slice(&key.to_be_bytes());
        let list = [remote, scene.at(0, 0, 8)];
        fails(&mut scene, wqe::WRITE, &list, 0x13)?;
    }
    Ok(())
}

/// Both ends receive from shared queues.
fn shared(service: u32) -> Wish {
    Wish {
        service,
        shared: true,
        ..USUAL
    }
}

#[test]
fn a_shared_queue_is_a_list() -> Result<()> {
    let mut scene = Scene::with(&shared(RELIABLE))?;
    let sent = scene.fill(0, 0x61)?;
    let mut expected = scene.fill(1, 0x16)?;
    for round in 0..40_u64 {
        let length = 1 + round * 11;
        let list = [scene.at(1, round * 0x300, 2 * MTU)];
        scene.receive(1, &list)?;
        let list = [scene.at(0, round, length)];
        scene.send(0, wqe::SEND, SIGNALLED, &list)?;
        let entry = scene.poll(1)?.context("nothing received")?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (2, length as u32));
        assert_eq!(entry[0x3c..0x3e], place(round as u16).to_be_bytes());
        assert_eq!(entry[0x20..0x24], [0, 0, 0, 0x77]);
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND));
        let (at, from) = (round as usize * 0x300, round as usize);
        let end = length as usize;
        expected[at..at + end].copy_from_slice(&sent[from..from + end]);
    }
    assert_eq!(scene.content(1)?, expected);
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

/// The next event of that kind, by the number that it is of.
fn event(scene: &mut Scene, wanted: Event) -> Result<Option<u32>> {
    while let Some(entry) = scene.driver.next(&mut scene.events)? {
        if entry[1] == wanted as u8 {
            let number = entry[0x20 + 24..0x20 + 28].try_into()?;
            return Ok(Some(u32::from_be_bytes(number)));
        }
    }
    Ok(None)
}

/// Sets the limit of the second side's shared queue, and looks whether that is the limit afterwards.
fn limit(scene: &mut Scene, extended: bool, limit: u64) -> Result<u64> {
    let shared = scene.ends[1].shared.as_ref().context("no shared queue")?;
    let number = shared.number;
    let driver = &mut scene.driver;
    if extended {
        let mut input = [0; 16];
        arm_xrc_srq_in::OP_MOD.set(&mut input, 1_u64);
        arm_xrc_srq_in::XRC_SRQN.set(&mut input, number);
        arm_xrc_srq_in::LWM.set(&mut input, limit);
        driver.execute(0x708, &input, 16)?;
        query_xrc_srq_in::XRC_SRQN.set(&mut input, number);
        let output = driver.execute(0x707, &input, query_xrc_srq_out::BYTES)?;
        let context = query_xrc_srq_out::XRC_SRQ_CONTEXT_ENTRY.of(&output);
        return Ok(xrc_srqc::LWM.get(context));
    }
    let mut input = vec![0; modify_rmp_in::BYTES];
    modify_rmp_in::RMPN.set(&mut input, number);
    modify_rmp_in::BITMASK.set(&mut input, 1_u64);
    wq::LWM.set(
        rmpc::WQ.of_mut(modify_rmp_in::CTX.of_mut(&mut input)),
        limit,
    );
    driver.execute(0x90d, &input, 16)?;
    let mut input = [0; 16];
    query_rmp_in::RMPN.set(&mut input, number);
    let output = driver.execute(0x90f, &input, query_rmp_out::BYTES)?;
    let context = query_rmp_out::RMP_CONTEXT.of(&output);
    Ok(wq::LWM.get(rmpc::WQ.of(context)))
}

#[test]
fn few_entries_of_a_shared_queue_are_told_once() -> Result<()> {
    for service in [RELIABLE, EXTENDED] {
        let mut scene = Scene::with(&shared(service))?;
        for _ in 0..4 {
            let list = [scene.at(1, 0, 10)];
            scene.receive(1, &list)?;
        }
        let number = scene.ends[1].shared.as_ref().map(|shared| shared.number);
        assert_eq!(limit(&mut scene, service == EXTENDED, 3)?, 3);
        for left in [3, 2, 1, 0] {
            let mut list = vec![scene.at(0, 0, 10)];
            if service == EXTENDED {
                list.insert(0, scene.to_shared(1)?);
            }
            scene.send(0, wqe::SEND, SIGNALLED, &list)?;
            scene.wait(0)?;
            let told = event(&mut scene, Event::SharedQueueLimit)?;
            assert_eq!(told, number.filter(|_| left == 2));
        }
        // Fewer than that already.
        assert_eq!(limit(&mut scene, service == EXTENDED, 1)?, 0);
        assert_eq!(event(&mut scene, Event::SharedQueueLimit)?, number);
    }
    Ok(())
}

#[test]
fn a_queue_pair_that_ends_takes_nothing_more_from_a_shared_queue() -> Result<()> {
    let mut scene = Scene::with(&shared(RELIABLE))?;
    let list = [scene.at(1, 0, 10)];
    scene.receive(1, &list)?;
    let number = scene.ends[1].number;
    let mut input = vec![0; 16];
    rst2init_qp_in::QPN.set(&mut input, number);
    for expected in [Some(number), None] {
        scene.driver.execute(0x507, &input, 16)?;
        assert_eq!(event(&mut scene, Event::LastReceive)?, expected);
    }
    scene.driver.device.tick();
    assert_eq!(scene.poll(1)?, None);
    Ok(())
}

#[test]
fn an_extended_connection_leads_to_the_queue_that_a_request_names() -> Result<()> {
    let mut scene = Scene::with(&shared(EXTENDED))?;
    let sent = scene.fill(0, 2)?;
    let mut expected = scene.fill(1, 3)?;
    let list = [scene.at(1, 0x200, 3 * MTU)];
    scene.receive(1, &list)?;
    let list = [scene.to_shared(1)?, scene.at(0, 1, 2 * MTU + 5)];
    scene.send(0, wqe::SEND_IMMEDIATE, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND_IMMEDIATE));
    assert_eq!(scene.poll(1)?, None);
    let entry = scene.poll_shared(1)?.context("nothing received")?;
    assert_eq!((entry[63] >> 4, bytes(&entry)), (3, 2 * MTU as u32 + 5));
    assert_eq!(entry[0x20..0x24], [0, 0, 0, 0x99]);
    let end = 2 * MTU as usize + 5;
    expected[0x200..0x200 + end].copy_from_slice(&sent[1..1 + end]);
    let list = [
        scene.to_shared(1)?,
        scene.remote(1, 0x1000),
        scene.at(0, 7, 9),
    ];
    scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::WRITE));
    expected[0x1000..0x1009].copy_from_slice(&sent[7..16]);
    assert_eq!(scene.content(1)?, expected);
    let list = [
        scene.to_shared(1)?,
        scene.remote(1, 0x1000),
        scene.at(0, 0x4000, 9),
    ];
    scene.send(0, wqe::READ, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::READ));
    assert_eq!(scene.content(0)?[0x4000..0x4009], expected[0x1000..0x1009]);
    // Nobody has such a queue.
    let mut wrong = scene.to_shared(1)?;
    wrong[3] ^= 0x40;
    let list = [wrong, scene.at(0, 0, 9)];
    fails(&mut scene, wqe::SEND, &list, 0x12)?;
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

/// A segment that says where a datagram goes.
fn to(pair: u32, key: u32, global: bool) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..4].copy_from_slice(&key.to_be_bytes());
    bytes[8..12].copy_from_slice(&(0x8000_0000 | pair).to_be_bytes());
    bytes[12] = 0x03;
    bytes[15] = 1;
    if global {
        bytes[26..32].copy_from_slice(&[7, 8, 0x40, 0x01, 0x23, 0x45]);
        bytes[32..].copy_from_slice(&[9; 16]);
    }
    bytes
}

#[test]
fn datagrams_arrive_with_their_headers() -> Result<()> {
    let service = DATAGRAM;
    let mut scene = Scene::with(&Wish { service, ..USUAL })?;
    let sent = scene.fill(0, 4)?;
    let mut expected = scene.fill(1, 5)?;
    let pair = scene.ends[1].number;
    for global in [false, true] {
        let list = [scene.at(1, 0, 30), scene.at(1, 0x100, 0x200)];
        scene.receive(1, &list)?;
        let list = [to(pair, DATAGRAM_KEY, global), scene.at(0, 3, 50)];
        scene.send(0, wqe::SEND_IMMEDIATE, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND_IMMEDIATE));
        let entry = scene.poll(1)?.context("nothing received")?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (3, 90));
        assert_eq!(entry[0x16..0x18], [0, 1]);
        let from = scene.ends[0].number as u8;
        assert_eq!(
            entry[0x18..0x1c],
            [if global { 0x13 } else { 3 }, 0, 0, from]
        );
        expected[0x10a..0x10a + 50].copy_from_slice(&sent[3..53]);
        if global {
            let mut header = vec![0x60, 0x71, 0x23, 0x45, 0, 80, 0x1b, 8, 0xfe, 0x80];
            header.extend([0, 0, 0, 0, 0, 0, 0, 2, 0xc9, 3, 0, 0, 1, 0]);
            header.extend([9; 16]);
            expected[..30].copy_from_slice(&header[..30]);
            expected[0x100..0x10a].copy_from_slice(&header[30..]);
        }
        assert_eq!(scene.content(1)?, expected);
    }
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn datagrams_get_lost_without_a_word() -> Result<()> {
    let service = DATAGRAM;
    let mut scene = Scene::with(&Wish { service, ..USUAL })?;
    let pair = scene.ends[1].number;
    let list = [scene.at(1, 0, 100)];
    scene.receive(1, &list)?;
    // Another key; nobody; a port that there is not.
    let mut elsewhere = to(pair, DATAGRAM_KEY, false);
    elsewhere[15] = 9;
    for address in [
        to(pair, DATAGRAM_KEY ^ 1, false),
        to(pair + 50, DATAGRAM_KEY, false),
        elsewhere,
    ] {
        let list = [address, scene.at(0, 0, 50)];
        scene.send(0, wqe::SEND, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND));
        assert_eq!(scene.poll(1)?, None);
    }
    // Two for one receive.
    for _ in 0..2 {
        let list = [to(pair, 0x8000_0000, false), inline(&[1, 2, 3])];
        scene.send(0, wqe::SEND, 0, &list)?;
    }
    assert_eq!(bytes(&scene.poll(1)?.context("nothing received")?), 43);
    assert_eq!(scene.poll(1)?, None);
    Ok(())
}

#[test]
fn a_datagram_is_one_packet_and_has_to_fit() -> Result<()> {
    let service = DATAGRAM;
    let mut scene = Scene::with(&Wish { service, ..USUAL })?;
    let pair = scene.ends[1].number;
    let list = [to(pair, DATAGRAM_KEY, false), scene.at(0, 0, MTU + 1)];
    fails(&mut scene, wqe::SEND, &list, 1)?;
    // What sends datagrams still receives.
    let list = [scene.at(0, 0, 100)];
    scene.receive(0, &list)?;
    let own = scene.ends[0].number;
    let list = [to(own, DATAGRAM_KEY, false), scene.at(1, 0, 5)];
    scene.send(1, wqe::SEND, SIGNALLED, &list)?;
    let entry = scene.wait(0)?;
    assert_eq!((entry[63] >> 4, bytes(&entry)), (2, 45));
    // No room for the header and the message.
    let list = [scene.at(0, 0, 44)];
    scene.receive(0, &list)?;
    let list = [to(own, DATAGRAM_KEY, false), scene.at(1, 0, 5)];
    scene.send(1, wqe::SEND, SIGNALLED, &list)?;
    let entry = scene.wait(0)?;
    assert_eq!((entry[63] >> 4, entry[0x37]), (14, 1));
    // Other things are no datagrams.
    let service = DATAGRAM;
    for opcode in [wqe::WRITE, wqe::READ, wqe::SEND_INVALIDATE, wqe::UPDATE] {
        let mut scene = Scene::with(&Wish { service, ..USUAL })?;
        let list = [
            to(pair, DATAGRAM_KEY, false),
            scene.remote(1, 0),
            scene.at(0, 0, 8),
            vec![0; 80],
        ];
        fails(&mut scene, opcode, &list, 2)?;
    }
    Ok(())
}

#[test]
fn general_services_have_a_number_that_others_know() -> Result<()> {
    let service = GENERAL;
    let mut scene = Scene::with(&Wish { service, ..USUAL })?;
    let list = [scene.at(0, 0, 300)];
    scene.receive(0, &list)?;
    let list = [to(1, 0x8000_0000, false), scene.at(1, 0, 200)];
    scene.send(1, wqe::SEND, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(1)?), (0, wqe::SEND));
    let entry = scene.wait(0)?;
    assert_eq!((entry[63] >> 4, bytes(&entry)), (2, 240));
    assert_eq!(entry[0x18..0x1c], [3, 0, 0, 1]);
    assert_eq!(entry[0x26..0x28], [0xff, 0xff]);
    Ok(())
}

/// A fabric that loses the packets with these numbers, counted from the first one.
struct Holes(VecDeque<Packet>, u32, &'static [u32]);

impl Fabric for Holes {
    fn send(&mut self, packet: Packet) {
        if !self.2.contains(&self.1) {
            self.0.push_back(packet);
        }
        self.1 += 1;
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}

/// A fabric that makes the second packet one of an RDMA WRITE.
struct Mixed(VecDeque<Packet>, u32);

impl Fabric for Mixed {
    fn send(&mut self, mut packet: Packet) {
        self.1 += 1;
        if self.1 == 2 {
            packet.kind = Kind::Write(None);
        }
        self.0.push_back(packet);
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}

#[test]
fn a_receive_that_was_begun_is_completed_whatever_comes() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.driver.device.fabric = Box::new(Mixed(VecDeque::new(), 0));
    let list = [scene.at(1, 0, 3 * MTU)];
    scene.receive(1, &list)?;
    let list = [scene.at(0, 0, 3 * MTU)];
    fails(&mut scene, wqe::SEND, &list, 0x12)?;
    let entry = scene.wait(1)?;
    assert_eq!((entry[63] >> 4, entry[0x37]), (14, 2));
    assert_eq!(scene.poll(1)?, None);
    Ok(())
}

#[test]
fn an_unreliable_connection_loses_whole_messages() -> Result<()> {
    let service = UNRELIABLE;
    let mut scene = Scene::with(&Wish { service, ..USUAL })?;
    // The second packet of the first message, the first of the second one, the last of the third one.
    scene.driver.device.fabric = Box::new(Holes(VecDeque::new(), 0, &[1, 3, 8]));
    let sent = scene.fill(0, 0x71)?;
    let mut expected = scene.fill(1, 0x17)?;
    for slot in 0..2 {
        let list = [scene.at(1, slot * 0x1000, 0x400)];
        scene.receive(1, &list)?;
    }
    for message in 0..5 {
        let list = [scene.at(0, message * 16, 3 * MTU)];
        scene.send(0, wqe::SEND, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND));
    }
    // A part of what was lost is where the next message goes.
    for (slot, message) in [(0, 3), (1, 4)] {
        let entry = scene.poll(1)?.context("nothing received")?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (2, 3 * MTU as u32));
        assert_eq!(entry[0x3c..0x3e], [0, slot as u8]);
        let (at, from, end) = (slot * 0x1000, message * 16, 3 * MTU as usize);
        expected[at..at + end].copy_from_slice(&sent[from..from + end]);
    }
    assert_eq!(scene.poll(1)?, None);
    assert_eq!(scene.content(1)?, expected);
    // What is not allowed is lost, and so is what nobody waits for; the connection goes on.
    let mut wrong = scene.remote(1, 0);
    wrong[11] ^= 1;
    for list in [
        vec![wrong, scene.at(0, 0, 10)],
        vec![scene.remote(1, 0x3000), scene.at(0, 0, 2 * MTU + 1)],
    ] {
        scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::WRITE));
    }
    let end = 2 * MTU as usize + 1;
    expected[0x3000..0x3000 + end].copy_from_slice(&sent[..end]);
    assert_eq!(scene.content(1)?, expected);
    let list = [scene.remote(1, 0), scene.at(0, 0, 8)];
    fails(&mut scene, wqe::READ, &list, 2)?;
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn what_comes_is_counted() -> Result<()> {
    let mut scene = Scene::new()?;
    let list = [scene.remote(1, 0), scene.at(0, 0, 8)];
    scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    scene.send(0, wqe::READ, SIGNALLED, &list)?;
    let list = [scene.at(0, 0, 8)];
    scene.send(0, wqe::SEND, SIGNALLED, &list)?;
    let mut input = vec![0; query_q_counter_in::BYTES];
    query_q_counter_in::COUNTER_SET_ID.set(&mut input, scene.counters);
    query_q_counter_in::CLEAR.set(&mut input, 1_u64);
    let driver = &mut scene.driver;
    let output = driver.execute(0x773, &input, query_q_counter_out::BYTES)?;
    for field in [
        query_q_counter_out::RX_WRITE_REQUESTS,
        query_q_counter_out::RX_READ_REQUESTS,
        query_q_counter_out::OUT_OF_BUFFER,
        query_q_counter_out::RNR_NAK_RETRY_ERR,
    ] {
        assert_eq!(field.get(&output), 1, "{}", field.name);
    }
    let output = driver.execute(0x773, &input, query_q_counter_out::BYTES)?;
    assert!(output[16..].iter().all(|byte| *byte == 0));
    query_q_counter_in::COUNTER_SET_ID.set(&mut input, u64::from(scene.counters) + 1);
    let missing = driver.try_command(0x773, &input, query_q_counter_out::BYTES)?;
    assert_eq!(missing, Err(crate::status::Status::BadResource as u64));
    // Another set may be chosen on the way.
    let mut input = vec![0; rst2init_qp_in::BYTES];
    rst2init_qp_in::QPN.set(&mut input, scene.ends[1].number);
    rst2init_qp_in::OPT_PARAM_MASK.set(&mut input, 1_u64 << 25);
    qpc::COUNTER_SET_ID.set(rst2init_qp_in::QPC.of_mut(&mut input), 0_u64);
    driver.execute(0x505, &input, 16)?;
    Ok(())
}

#[test]
fn the_keys_of_a_queue_pair_go_with_it() -> Result<()> {
    let mut scene = Scene::new()?;
    let pair = scene.ends[1].number;
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::LENGTH64.set(context, 1_u64);
    mkc::RW.set(context, 1_u64);
    mkc::QPN.set(context, pair);
    mkc::PD.set(context, scene.domain);
    let driver = &mut scene.driver;
    let key = driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)?;
    let is_free = |scene: &mut Scene, key: u32| -> Result<bool> {
        let mut input = [0; 16];
        query_mkey_in::MKEY_INDEX.set(&mut input, key);
        let output = scene.driver.execute(0x201, &input, query_mkey_out::BYTES)?;
        let context = query_mkey_out::MEMORY_KEY_MKEY_ENTRY.of(&output);
        Ok(mkc::FREE.is_set(context))
    };
    assert!(!is_free(&mut scene, key)?);
    let mut input = [0; 16];
    rst2init_qp_in::QPN.set(&mut input, pair);
    scene.driver.execute(0x501, &input, 16)?;
    assert!(is_free(&mut scene, key)?);
    // That of everybody is still one.
    let shared = scene.key >> 8;
    assert!(!is_free(&mut scene, shared)?);
    Ok(())
}

#[test]
fn a_queue_pair_does_not_change_in_what_it_does_not_know() -> Result<()> {
    let mut scene = Scene::new()?;
    for (bit, status) in [
        (6, 0),
        (14, 0),
        (0, Status::BadParameter as u64),
        (22, Status::BadParameter as u64),
    ] {
        let mut input = vec![0; rst2init_qp_in::BYTES];
        rst2init_qp_in::QPN.set(&mut input, scene.ends[0].number);
        rst2init_qp_in::OPT_PARAM_MASK.set(&mut input, 1_u64 << bit);
        let done = scene.driver.try_command(0x505, &input, 16)?;
        assert_eq!(done.err().unwrap_or(0), status, "{bit}");
    }
    Ok(())
}

#[test]
fn counters_that_are_in_use_stay() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut input = [0; 16];
    dealloc_q_counter_in::COUNTER_SET_ID.set(&mut input, scene.counters);
    let busy = scene.driver.try_command(0x772, &input, 16)?;
    assert_eq!(busy.err(), Some(Status::ResourceBusy as u64));
    for side in 0..2 {
        let mut input = [0; 16];
        rst2init_qp_in::QPN.set(&mut input, scene.ends[side].number);
        scene.driver.execute(0x501, &input, 16)?;
    }
    scene.driver.execute(0x772, &input, 16)?;
    Ok(())
}
