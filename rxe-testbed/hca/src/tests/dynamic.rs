// SPDX-License-Identifier: GPL-2.0
//! Initiators and targets: what goes from one to the other, and how their connections come and go.

use anyhow::{Context, Result};

use super::scene::{bytes, kind, Scene, Wish, MTU, SIGNALLED, USUAL};
use crate::eq::Event;
use crate::layout::{
    arm_dct_in, create_dct_in, create_dct_out, create_qp_in, dctc, destroy_dct_in, destroy_rmp_in,
    qpc, query_dct_in, query_dct_out, rst2init_qp_in,
};
use crate::status::Status;
use crate::wqe;

pub(super) const INITIATOR: u32 = 5;
pub(super) const KEY: u64 = 0x1234_5678_9abc_def0;
const USER_INDEX: u32 = 0x55;

/// Two initiators, with shared queues for targets.
fn scene() -> Result<Scene> {
    Scene::with(&Wish {
        service: INITIATOR,
        shared: true,
        retries: 1,
        ..USUAL
    })
}

/// The input that makes a target that receives from a side's shared queue.
fn wanted(scene: &Scene, side: usize) -> Result<Vec<u8>> {
    let end = &scene.ends[side];
    let shared = end.shared.as_ref().context("no shared queue")?.number;
    let mut input = vec![0; create_dct_in::BYTES];
    let context = create_dct_in::DCT_CONTEXT_ENTRY.of_mut(&mut input);
    dctc::PD.set(context, scene.domain);
    dctc::CQN.set(context, end.ring.number);
    dctc::SRQN_XRQN.set(context, shared);
    dctc::USER_INDEX.set(context, USER_INDEX);
    dctc::COUNTER_SET_ID.set(context, scene.counters);
    for right in [dctc::RRE, dctc::RWE, dctc::RAE] {
        right.set(context, 1_u64);
    }
    dctc::MIN_RNR_NAK.set(context, 1_u64);
    dctc::MTU.set(context, 1_u64);
    dctc::DC_ACCESS_KEY.set(context, KEY);
    Ok(input)
}

pub(super) fn target(scene: &mut Scene, side: usize) -> Result<u32> {
    let input = wanted(scene, side)?;
    scene.driver.number(0x710, &input, create_dct_out::DCTN)
}

/// The segment that names a target.
pub(super) fn to(target: u32, key: u64) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..8].copy_from_slice(&key.to_be_bytes());
    bytes[8..12].copy_from_slice(&(0x8000_0000 | target).to_be_bytes());
    bytes[15] = 1;
    bytes
}

/// What comes of a command that names a target, or something else in the same place.
fn command(scene: &mut Scene, opcode: u16, number: u32) -> Result<u64> {
    let mut input = [0; 16];
    destroy_dct_in::DCTN.set(&mut input, number);
    let output = match opcode {
        0x713 => query_dct_out::BYTES,
        0x50b => 0x1d0,
        _ => 16,
    };
    let done = scene.driver.try_command(opcode, &input, output)?;
    Ok(done.err().unwrap_or(0))
}

fn context(scene: &mut Scene, target: u32) -> Result<Vec<u8>> {
    let mut input = [0; 16];
    query_dct_in::DCTN.set(&mut input, target);
    let output = scene.driver.execute(0x713, &input, query_dct_out::BYTES)?;
    Ok(query_dct_out::DCT_CONTEXT_ENTRY.of(&output).to_vec())
}

/// The events of that kind, by the numbers that they are of.
fn events(scene: &mut Scene, wanted: Event) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    while let Some(entry) = scene.driver.next(&mut scene.events)? {
        if entry[1] == wanted as u8 {
            let number = entry[0x20 + 24..0x20 + 28].try_into()?;
            all.push(u32::from_be_bytes(number));
        }
    }
    Ok(all)
}

#[test]
fn requests_go_to_the_target_that_they_name() -> Result<()> {
    let mut scene = scene()?;
    let target = target(&mut scene, 1)?;
    let sent = scene.fill(0, 0x31)?;
    let mut expected = scene.fill(1, 0x13)?;
    let length = 5 * MTU + 17;
    let end = length as usize;
    // Several packets, over a range whose numbers wrap.
    for round in 0..4 {
        let list = [scene.at(1, 0x100, 2 * length)];
        scene.receive(1, &list)?;
        let list = [to(target, KEY), scene.at(0, round, length)];
        scene.send(0, wqe::SEND_IMMEDIATE, SIGNALLED, &list)?;
        let entry = scene.wait(1)?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (3, length as u32));
        assert_eq!(entry[0x38..0x3c], target.to_be_bytes());
        assert_eq!(entry[0x20..0x24], USER_INDEX.to_be_bytes());
        assert_eq!(entry[0x24..0x28], [1, 2, 3, 4]);
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND_IMMEDIATE));
        let from = round as usize;
        expected[0x100..0x100 + end].copy_from_slice(&sent[from..from + end]);
        assert_eq!(scene.content(1)?, expected);
    }
    let list = [
        to(target, KEY),
        scene.remote(1, 0x2001),
        scene.at(0, 9, length),
    ];
    scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::WRITE));
    expected[0x2001..0x2001 + end].copy_from_slice(&sent[9..9 + end]);
    assert_eq!(scene.content(1)?, expected);
    // And back.
    let list = [
        to(target, KEY),
        scene.remote(1, 0x2003),
        scene.at(0, 0x4000, length),
    ];
    scene.send(0, wqe::READ, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::READ));
    assert_eq!(
        scene.content(0)?[0x4000..0x4000 + end],
        expected[0x2003..0x2003 + end]
    );
    let change = [3_u64.to_be_bytes(), 0_u64.to_be_bytes()].concat();
    let list = [
        to(target, KEY),
        scene.remote(1, 0x108),
        change,
        scene.at(0, 0, 8),
    ];
    scene.send(0, wqe::FETCH_AND_ADD, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::FETCH_AND_ADD));
    let before = u64::from_be_bytes(expected[0x108..0x110].try_into()?);
    expected[0x108..0x110].copy_from_slice(&before.wrapping_add(3).to_be_bytes());
    assert_eq!(scene.content(1)?, expected);
    assert_eq!(scene.content(0)?[..8], before.to_be_bytes());
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn one_initiator_serves_several_targets_in_order() -> Result<()> {
    let mut scene = scene()?;
    let targets = [target(&mut scene, 0)?, target(&mut scene, 1)?];
    let sent = scene.fill(0, 7)?;
    for round in 0..6_u64 {
        let list = [scene.at(1, 0x4000 + round * 0x400, 0x400)];
        scene.receive((round % 2) as usize, &list)?;
        let there = to(targets[(round % 2) as usize], KEY);
        let list = [there, scene.at(0, round, 0x300 + round)];
        scene.queue(0, wqe::SEND, if round == 5 { SIGNALLED } else { 0 }, &list)?;
    }
    scene.ring(0);
    for _ in 0..3 {
        assert_eq!(scene.wait(1)?[0x38..0x3c], targets[1].to_be_bytes());
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let entry = scene.wait(0)?;
        seen.push(entry[63] >> 4);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 2, 2, 2]);
    let found = scene.content(1)?;
    for round in 0..6 {
        let (at, length) = (0x4000 + round * 0x400, 0x300 + round);
        assert_eq!(
            found[at..at + length],
            sent[round..round + length],
            "{round}"
        );
    }
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn whoever_has_another_key_is_refused_and_told_of() -> Result<()> {
    let mut scene = scene()?;
    let target = target(&mut scene, 1)?;
    let before = scene.fill(1, 1)?;
    let mut input = [0; 16];
    arm_dct_in::DCT_NUMBER.set(&mut input, target);
    scene.driver.execute(0x714, &input, 16)?;
    for (side, told) in [(0, vec![target]), (1, vec![])] {
        let list = [to(target, KEY ^ 1), scene.remote(1, 0), scene.at(0, 0, 8)];
        scene.send(side, wqe::WRITE, SIGNALLED, &list)?;
        let entry = scene.wait(side)?;
        assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::WRITE), 0x13));
        assert_eq!(events(&mut scene, Event::KeyViolation)?, told);
    }
    assert_eq!(scene.content(1)?, before);
    let seen = context(&mut scene, target)?;
    assert_eq!(dctc::DC_ACCESS_KEY_VIOLATION_COUNT.get(&seen), 2);
    assert_eq!(
        (dctc::STATE.get(&seen), dctc::DC_ACCESS_KEY.get(&seen)),
        (0, KEY)
    );
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn a_target_without_a_receive_is_asked_again() -> Result<()> {
    let mut scene = scene()?;
    let target = target(&mut scene, 1)?;
    let sent = scene.fill(0, 3)?;
    let list = [to(target, KEY), scene.at(0, 5, 100)];
    scene.send(0, wqe::SEND, SIGNALLED, &list)?;
    assert_eq!(scene.poll(0)?, None);
    let list = [scene.at(1, 0, 100)];
    scene.receive(1, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND));
    assert_eq!(bytes(&scene.wait(1)?), 100);
    assert_eq!(scene.content(1)?[..100], sent[5..105]);
    Ok(())
}

#[test]
fn what_one_initiator_does_wrong_is_its_own_matter() -> Result<()> {
    let mut scene = scene()?;
    let target = target(&mut scene, 1)?;
    let mut remote = scene.remote(1, 0);
    remote[8] ^= 1;
    let list = [to(target, KEY), remote, scene.at(0, 0, 8)];
    scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    let entry = scene.wait(0)?;
    assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::WRITE), 0x13));
    for event in [Event::AccessError, Event::RequestError, Event::QueueError] {
        assert!(events(&mut scene, event)?.is_empty());
    }
    let list = [to(target, KEY), scene.remote(1, 0), scene.at(0, 0, 8)];
    scene.send(1, wqe::WRITE, SIGNALLED, &list)?;
    assert_eq!(kind(&scene.wait(1)?), (0, wqe::WRITE));
    Ok(())
}

#[test]
fn a_target_is_drained_before_it_goes() -> Result<()> {
    let mut scene = scene()?;
    let first = target(&mut scene, 1)?;
    let write = |scene: &mut Scene, side| -> Result<[u8; 64]> {
        let list = [to(first, KEY), scene.remote(1, 0), scene.at(0, 0, 8)];
        scene.send(side, wqe::WRITE, SIGNALLED, &list)?;
        scene.wait(side)
    };
    assert_eq!(kind(&write(&mut scene, 0)?), (0, wqe::WRITE));
    let shared = scene.ends[1].shared.as_ref().map(|shared| shared.number);
    let mut input = [0; 16];
    destroy_rmp_in::RMPN.set(&mut input, shared.context("no shared queue")?);
    let busy = scene.driver.try_command(0x90e, &input, 16)?;
    assert_eq!(busy.err(), Some(Status::ResourceBusy as u64));
    assert_eq!(command(&mut scene, 0x712, first)?, 0);
    assert_eq!(events(&mut scene, Event::TargetDrained)?, [first]);
    let seen = context(&mut scene, first)?;
    assert_eq!(dctc::STATE.get(&seen), 2);
    // Nobody answers any more.
    let entry = write(&mut scene, 0)?;
    assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::WRITE), 0x15));
    let objects = scene.driver.device.objects();
    assert_eq!(command(&mut scene, 0x711, first)?, 0);
    assert_eq!(scene.driver.device.objects(), objects - 1);
    // Another one has its number, and gets its connections.
    assert_eq!(target(&mut scene, 1)?, first);
    assert_eq!(kind(&write(&mut scene, 1)?), (0, wqe::WRITE));
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn a_target_is_no_queue_pair() -> Result<()> {
    let mut scene = scene()?;
    let target = target(&mut scene, 1)?;
    let absent = Status::BadResource as u64;
    for opcode in [0x501, 0x507, 0x50a, 0x50b] {
        assert_eq!(command(&mut scene, opcode, target)?, absent, "{opcode:#x}");
    }
    let mut input = vec![0; rst2init_qp_in::BYTES];
    rst2init_qp_in::QPN.set(&mut input, target);
    let changed = scene.driver.try_command(0x502, &input, 16)?;
    assert_eq!(changed.err(), Some(absent));
    let pair = scene.ends[0].number;
    for opcode in [0x711, 0x712, 0x713, 0x714] {
        assert_eq!(command(&mut scene, opcode, pair)?, absent, "{opcode:#x}");
    }
    // Nor is one made by the command for these.
    let mut input = vec![0; create_qp_in::BYTES];
    qpc::ST.set(create_qp_in::QPC.of_mut(&mut input), 6_u64);
    let made = scene.driver.try_command(0x500, &input, 16)?;
    assert_eq!(made.err(), Some(Status::BadParameter as u64));
    for (field, value) in [
        (dctc::PD, 0x999_u64),
        (dctc::CQN, 0x999),
        (dctc::SRQN_XRQN, 0x999),
        (dctc::MTU, 0),
    ] {
        let mut input = wanted(&scene, 1)?;
        field.set(create_dct_in::DCT_CONTEXT_ENTRY.of_mut(&mut input), value);
        assert!(scene.driver.try_command(0x710, &input, 16)?.is_err());
    }
    Ok(())
}
