// SPDX-License-Identifier: GPL-2.0
//! A request, a receive and an answer wait for their memory, and go on when it is there.

use anyhow::{Context, Result};

use super::{Stage, PAGE, PAGES, READ_ONLY, READ_WRITE, START};
use crate::tests::dynamic::{target, to, INITIATOR, KEY};
use crate::tests::scene::{bytes, kind, place, Wish, EXTENDED, MTU, RELIABLE, SIGNALLED, USUAL};
use crate::wqe;

#[test]
fn a_request_waits_for_its_own_memory() -> Result<()> {
    let mut stage = Stage::new()?;
    let sent = stage.scene.fill(0, 1)?;
    let mut expected = stage.scene.fill(1, 2)?;
    stage.set(0, 0..2, READ_ONLY)?;
    // What comes before in the request is committed, too: as much as whole packets carry.
    let list = [
        stage.scene.remote(1, 0x100),
        stage.scene.at(0, 0x40, 0x20),
        stage.at(0, 0x1f00, 0x400),
    ];
    stage.scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    let fault = stage.fault()?;
    let requester = stage.scene.ends[0].number;
    assert_eq!((fault.kind, fault.source()), (0, (1, requester)));
    assert_eq!((fault.word(0), fault.word(4)), (0x100, 0));
    stage.quiet()?;
    stage.set(0, 2..4, READ_ONLY)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    stage.done(0, (0, wqe::WRITE))?;
    expected[0x100..0x120].copy_from_slice(&sent[0x40..0x60]);
    expected[0x120..0x520].copy_from_slice(&sent[0x1f00..0x2300]);
    assert_eq!(stage.scene.content(1)?, expected);
    stage.no_violations();
    Ok(())
}

#[test]
fn a_receive_waits_for_its_memory() -> Result<()> {
    let mut stage = Stage::new()?;
    let sent = stage.scene.fill(0, 3)?;
    let mut expected = stage.scene.fill(1, 4)?;
    stage.set(1, 2..4, READ_WRITE)?;
    stage.scene.receive(1, &[stage.at(1, 0x1f80, 0x400)])?;
    let list = [stage.scene.at(0, 0x11, 0x300)];
    stage.scene.send(0, wqe::SEND, SIGNALLED, &list)?;
    // The first packet: the receive is kept for it.
    let fault = stage.fault()?;
    let responder = stage.scene.ends[1].number;
    assert_eq!(
        (fault.kind, fault.source(), fault.word(0)),
        (0, (2, responder), 0)
    );
    stage.quiet()?;
    stage.set(1, 0..2, READ_WRITE)?;
    stage.set(1, 2..4, READ_ONLY)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    // The same packet again: the next page may not be written.
    let fault = stage.fault()?;
    assert_eq!(
        (fault.kind, fault.source(), fault.word(0)),
        (0, (2, responder), 0)
    );
    stage.set(1, 2..4, READ_WRITE)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    let entry = stage.scene.wait(1)?;
    assert_eq!((entry[63] >> 4, bytes(&entry)), (2, 0x300));
    stage.done(0, (0, wqe::SEND))?;
    expected[0x1f80..0x2280].copy_from_slice(&sent[0x11..0x311]);
    assert_eq!(stage.scene.content(1)?, expected);
    stage.no_violations();
    Ok(())
}

#[test]
fn a_receive_waits_in_the_middle_of_a_message() -> Result<()> {
    let mut stage = Stage::new()?;
    let sent = stage.scene.fill(0, 3)?;
    stage.set(1, 0..2, READ_WRITE)?;
    stage.scene.receive(1, &[stage.at(1, 0x1d00, 0x800)])?;
    stage
        .scene
        .send(0, wqe::SEND, SIGNALLED, &[stage.scene.at(0, 0x11, 0x700)])?;
    let fault = stage.fault()?;
    assert_eq!((fault.word(0), fault.source().0), (0x300, 2));
    stage.quiet()?;
    stage.set(1, 2..4, READ_WRITE)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    stage.scene.wait(1)?;
    stage.done(0, (0, wqe::SEND))?;
    assert_eq!(stage.scene.content(1)?[0x1d00..0x2400], sent[0x11..0x711]);
    stage.no_violations();
    Ok(())
}

#[test]
fn memory_that_a_packet_names_is_waited_for() -> Result<()> {
    for opcode in [wqe::WRITE, wqe::WRITE_IMMEDIATE, wqe::READ] {
        let mut stage = Stage::new()?;
        let mut own = stage.scene.fill(0, 5)?;
        let mut other = stage.scene.fill(1, 6)?;
        stage.set(1, 0..2, READ_WRITE)?;
        if opcode == wqe::WRITE_IMMEDIATE {
            stage.scene.receive(1, &[])?;
        }
        let list = [stage.remote(1, 0x1e00), stage.scene.at(0, 0x20, 0x1500)];
        stage.scene.send(0, opcode, SIGNALLED, &list)?;
        let fault = stage.fault()?;
        assert_eq!((fault.kind, fault.word(4)), (1, stage.keys[1]));
        let write = opcode != wqe::READ;
        assert_eq!(fault.source().0, 4 | (u32::from(write) << 1));
        // Where the whole of it begins, or as much of it as is asked for again; and how much is done.
        let (address, done, length) = (fault.word(20), fault.word(0), fault.word(12));
        assert_eq!(u64::from(address + done), START + 0x2000);
        assert_eq!(u64::from(length - done), 0x1500 - 0x200);
        assert_eq!(fault.word(8), MTU as u32);
        stage.quiet()?;
        stage.set(1, 2..4, READ_WRITE)?;
        assert_eq!(stage.resume(fault, false)?, 0);
        stage.done(0, (0, opcode))?;
        match write {
            true => other[0x1e00..0x3300].copy_from_slice(&own[0x20..0x1520]),
            false => own[0x20..0x1520].copy_from_slice(&other[0x1e00..0x3300]),
        }
        assert!(stage.scene.content(0)? == own && stage.scene.content(1)? == other);
        if opcode == wqe::WRITE_IMMEDIATE {
            stage.scene.wait(1)?;
        }
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn an_answer_waits_for_memory_to_go_to() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut own = stage.scene.fill(0, 5)?;
    let other = stage.scene.fill(1, 6)?;
    stage.set(0, 0..2, READ_WRITE)?;
    let list = [stage.scene.remote(1, 0x77), stage.at(0, 0x1d80, 0x500)];
    stage.scene.send(0, wqe::READ, SIGNALLED, &list)?;
    let fault = stage.fault()?;
    let requester = stage.scene.ends[0].number;
    assert_eq!(
        (fault.kind, fault.source(), fault.word(0)),
        (0, (3, requester), 0x200)
    );
    stage.quiet()?;
    stage.set(0, 2..4, READ_WRITE)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    stage.done(0, (0, wqe::READ))?;
    own[0x1d80..0x2280].copy_from_slice(&other[0x77..0x577]);
    assert_eq!(stage.scene.content(0)?, own);
    stage.no_violations();
    Ok(())
}

/// What an atomic adds, as a segment.
fn add(value: u64) -> Vec<u8> {
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

#[test]
fn an_atomic_is_done_once_though_both_ends_wait() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut own = stage.scene.fill(0, 5)?;
    let mut other = stage.scene.fill(1, 6)?;
    // It changes memory: that it may be read is not enough.
    stage.set(1, 0..2, READ_ONLY)?;
    let list = [stage.remote(1, 0x1008), add(7), stage.at(0, 0x2010, 8)];
    stage.scene.send(0, wqe::FETCH_AND_ADD, SIGNALLED, &list)?;
    let fault = stage.fault()?;
    assert_eq!((fault.kind, fault.word(4)), (1, stage.keys[1]));
    assert_eq!(
        (fault.source().0, fault.word(12), fault.word(20)),
        (6, 8, START as u32 + 0x1008)
    );
    stage.quiet()?;
    assert!(stage.scene.content(1)? == other);
    stage.set(1, 0..2, READ_WRITE)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    // What was there has nowhere to go yet.
    let fault = stage.fault()?;
    let requester = stage.scene.ends[0].number;
    assert_eq!(
        (fault.kind, fault.source(), fault.word(0)),
        (0, (3, requester), 0)
    );
    stage.quiet()?;
    stage.set(0, 2..4, READ_WRITE)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    stage.done(0, (0, wqe::FETCH_AND_ADD))?;
    own[0x2010..0x2018].copy_from_slice(&other[0x1008..0x1010]);
    let mut before = [0; 8];
    before.copy_from_slice(&other[0x1008..0x1010]);
    let after = u64::from_be_bytes(before).wrapping_add(7);
    other[0x1008..0x1010].copy_from_slice(&after.to_be_bytes());
    assert!(stage.scene.content(0)? == own && stage.scene.content(1)? == other);
    stage.no_violations();
    Ok(())
}

#[test]
fn a_receive_of_a_shared_queue_waits_for_its_memory() -> Result<()> {
    for service in [RELIABLE, EXTENDED, INITIATOR] {
        let wish = Wish {
            service,
            shared: true,
            ..USUAL
        };
        let mut stage = Stage::with("cx5-ib", &wish)?;
        let sent = stage.scene.fill(0, 3)?;
        stage.set(1, 0..2, READ_WRITE)?;
        // An entry that is not the first one: it is named by its place.
        for _ in 0..2 {
            let list = [stage.at(1, 0x1f00, 0x400)];
            stage.scene.receive(1, &list)?;
        }
        let shared = stage.scene.ends[1].shared.as_ref();
        let shared = shared.context("no shared queue")?.number;
        let target = match service {
            INITIATOR => Some(target(&mut stage.scene, 1)?),
            _ => None,
        };
        for time in 0..2_u16 {
            let mut list = vec![stage.scene.at(0, 0x11, 0x300)];
            if service == EXTENDED {
                list.insert(0, stage.scene.to_shared(1)?);
            }
            list.splice(..0, target.map(|target| to(target, KEY)));
            stage.scene.send(0, wqe::SEND, SIGNALLED, &list)?;
            let fault = stage.fault()?;
            assert_eq!(
                (fault.kind, fault.source(), fault.word(0)),
                (0, (0, shared), 0x100)
            );
            assert_eq!(fault.word(4), u32::from(place(time)));
            stage.quiet()?;
            stage.set(1, 2..4, READ_WRITE)?;
            assert_eq!(stage.resume(fault, false)?, 0);
            stage.done(0, (0, wqe::SEND))?;
            let entry = match service {
                EXTENDED => stage.scene.poll_shared(1)?,
                _ => stage.scene.poll(1)?,
            };
            let entry = entry.context("nothing received")?;
            assert_eq!((entry[63] >> 4, bytes(&entry)), (2, 0x300));
            assert_eq!(stage.scene.content(1)?[0x1f00..0x2200], sent[0x11..0x311]);
            stage.set(1, 2..4, 0)?;
        }
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn what_is_not_to_be_had_fails() -> Result<()> {
    // Own memory, that of a receive, that which a packet names, that for an answer, and that which is to be read: its
    // beginning, and what comes later.
    for case in 0..6 {
        let mut stage = Stage::new()?;
        let list = match case {
            0 => vec![stage.scene.remote(1, 0), stage.at(0, 0, 8)],
            1 => {
                stage.scene.receive(1, &[stage.at(1, 0, 8)])?;
                vec![stage.scene.at(0, 0, 8)]
            }
            2 | 4 => vec![stage.remote(1, 0), stage.scene.at(0, 0, 8)],
            3 => vec![stage.scene.remote(1, 0), stage.at(0, 0, 8)],
            _ => {
                stage.set(1, 0..2, READ_ONLY)?;
                vec![stage.remote(1, 0x1f00), stage.scene.at(0, 0, 0x200)]
            }
        };
        let opcode = [
            wqe::WRITE,
            wqe::SEND,
            wqe::WRITE,
            wqe::READ,
            wqe::READ,
            wqe::READ,
        ][case];
        stage.scene.send(0, opcode, SIGNALLED, &list)?;
        let fault = stage.fault()?;
        assert_eq!(stage.resume(fault, true)?, 0);
        let entry = stage.scene.wait(0)?;
        let syndrome = [4, 0x14, 0x13, 4, 0x13, 0x13][case];
        assert_eq!(
            (kind(&entry), entry[0x37]),
            ((13, opcode), syndrome),
            "{case}"
        );
        if case == 1 {
            let entry = stage.scene.wait(1)?;
            assert_eq!((entry[63] >> 4, entry[0x37]), (14, 4));
        }
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn without_a_listener_there_is_nothing_to_be_had() -> Result<()> {
    let mut stage = Stage::new()?;
    let number = stage.faults.number;
    let destroyed =
        stage
            .scene
            .driver
            .about(0x302, crate::layout::destroy_eq_in::EQ_NUMBER, number)?;
    assert!(destroyed.is_ok());
    let list = [stage.scene.remote(1, 0), stage.at(0, 0, 8)];
    stage.scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    let entry = stage.scene.wait(0)?;
    assert_eq!(entry[0x37], 4);
    Ok(())
}

#[test]
fn the_memory_scheme_names_all_that_a_packet_lacks() -> Result<()> {
    let mut stage = Stage::of("cx7-ib")?;
    let sent = stage.scene.fill(0, 9)?;
    stage.set(1, 0..PAGES, READ_WRITE)?;
    stage.set(0, 2..4, READ_ONLY)?;
    // Two parts of one packet that are missing, and one between them that is there.
    let list = [
        stage.remote(1, 0),
        stage.at(0, 0x1010, 0x10),
        stage.at(0, 0x2000, 0x10),
        stage.at(0, 0x4ff0, 0x20),
    ];
    stage.scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    let faults = [stage.fault()?, stage.fault()?];
    for (fault, page, pages) in [(faults[0], 1, 1), (faults[1], 4, 2)] {
        assert_eq!((fault.kind, fault.word(16)), (2, stage.keys[0]));
        assert_eq!(u64::from(fault.word(24)), START + page * PAGE);
        assert_eq!(fault.word(12), pages << 12);
        assert_eq!(fault.data[2..6], [0, 4, 0, 1]);
    }
    assert_eq!(faults[0].token(), faults[1].token());
    assert_eq!(faults.map(|fault| fault.is_last()), [false, true]);
    stage.quiet()?;
    stage.set(0, 0..PAGES, READ_ONLY)?;
    assert_eq!(stage.resume(faults[1], false)?, 0);
    stage.done(0, (0, wqe::WRITE))?;
    let written = stage.scene.content(1)?;
    assert_eq!(written[..0x10], sent[0x1010..0x1020]);
    assert_eq!(written[0x10..0x20], sent[0x2000..0x2010]);
    assert_eq!(written[0x20..0x40], sent[0x4ff0..0x5010]);
    stage.no_violations();
    Ok(())
}
