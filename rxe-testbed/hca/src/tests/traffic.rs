// SPDX-License-Identifier: GPL-2.0
//! Work requests between two queue pairs of one device.

use anyhow::{ensure, Context, Result};

use super::fuzz::Dice;
use super::scene::{
    bytes, fails, inline, kind, segment, Scene, Wish, DATAGRAM, EXTENDED, KEY_UPDATES, MTU,
    RELIABLE, SHORT, SIGNALLED, UNRELIABLE, USUAL,
};
use crate::fabric::{Fabric, Kind, Packet};
use crate::wqe;

#[test]
fn messages_of_any_length_arrive() -> Result<()> {
    let mut scene = Scene::new()?;
    for length in [0, 1, MTU - 1, MTU, MTU + 1, 3 * MTU, 5 * MTU + 77] {
        let sent = scene.fill(0, length as u8)?;
        let mut expected = scene.fill(1, 0x55)?;
        let list = [scene.at(1, 0x1003, 100), scene.at(1, 0x2000, 0x4000)];
        scene.receive(1, &list)?;
        let gathered = match length {
            0 => Vec::new(),
            1 => vec![scene.at(0, 0x107, 1)],
            _ => vec![scene.at(0, 0x107, 1), scene.at(0, 0x108, length - 1)],
        };
        scene.send(0, wqe::SEND_IMMEDIATE, SIGNALLED, &gathered)?;
        let entry = scene.poll(1)?.context("nothing received")?;
        assert_eq!((entry[63] >> 4, bytes(&entry)), (3, length as u32));
        assert_eq!(entry[0x24..0x28], [1, 2, 3, 4]);
        assert_eq!(entry[0x20..0x24], [0, 0, 0, 0x77]);
        let entry = scene.poll(0)?.context("not done")?;
        assert_eq!(kind(&entry), (0, wqe::SEND_IMMEDIATE));
        let message = &sent[0x107..0x107 + length as usize];
        let (head, tail) = message.split_at(message.len().min(100));
        expected[0x1003..0x1003 + head.len()].copy_from_slice(head);
        expected[0x2000..0x2000 + tail.len()].copy_from_slice(tail);
        assert_eq!(scene.content(1)?, expected);
    }
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn writes_and_reads_go_where_they_are_to() -> Result<()> {
    let mut scene = Scene::new()?;
    for (round, length) in [1, MTU, 4 * MTU + 9, 0x3000].into_iter().enumerate() {
        let sent = scene.fill(0, round as u8)?;
        let mut expected = scene.fill(1, 0xa5)?;
        let segments = [scene.remote(1, 0x123), scene.at(0, 0x45, length)];
        scene.send(0, wqe::WRITE, SIGNALLED, &segments)?;
        assert_eq!(kind(&scene.poll(0)?.context("not done")?), (0, wqe::WRITE));
        let end = length as usize;
        expected[0x123..0x123 + end].copy_from_slice(&sent[0x45..0x45 + end]);
        assert_eq!(scene.content(1)?, expected);
        // And back.
        let mut own = sent;
        let list = [scene.remote(1, 0x2001), scene.at(0, 0x4000, length)];
        scene.send(0, wqe::READ, SIGNALLED, &list)?;
        let entry = scene.poll(0)?.context("not done")?;
        assert_eq!(
            (kind(&entry), bytes(&entry)),
            ((0, wqe::READ), length as u32)
        );
        own[0x4000..0x4000 + end].copy_from_slice(&expected[0x2001..0x2001 + end]);
        assert_eq!(scene.content(0)?, own);
        assert_eq!(scene.poll(1)?, None);
    }
    assert_eq!(scene.driver.violations(), []);
    Ok(())
}

#[test]
fn data_may_be_in_the_request_and_go_unsignalled() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut expected = scene.fill(1, 3)?;
    let data: Vec<u8> = (0..60).map(|at| at ^ 0x3c).collect();
    for round in 0..40 {
        let segments = [scene.remote(1, round * 64), inline(&data)];
        scene.send(0, wqe::WRITE, 0, &segments)?;
        let place = round as usize * 64;
        expected[place..place + 60].copy_from_slice(&data);
    }
    scene.receive(1, &[])?;
    let segments = [scene.remote(1, 0x7000), inline(&data[..5])];
    scene.send(0, wqe::WRITE_IMMEDIATE, 0, &segments)?;
    expected[0x7000..0x7005].copy_from_slice(&data[..5]);
    assert_eq!(scene.content(1)?, expected);
    assert_eq!(scene.poll(0)?, None);
    let entry = scene.poll(1)?.context("no completion of the write")?;
    assert_eq!((entry[63] >> 4, bytes(&entry)), (1, 5));
    assert_eq!(scene.poll(1)?, None);
    Ok(())
}

#[test]
fn a_sender_waits_for_a_receive() -> Result<()> {
    let mut scene = Scene::new()?;
    let sent = scene.fill(0, 9)?;
    let list = [scene.at(0, 0, 3 * MTU)];
    scene.send(0, wqe::SEND, SIGNALLED, &list)?;
    scene.driver.device.tick();
    assert_eq!(scene.poll(0)?, None);
    let list = [scene.at(1, 0x100, 3 * MTU)];
    scene.receive(1, &list)?;
    assert_eq!(kind(&scene.wait(0)?), (0, wqe::SEND));
    let length = 3 * MTU as usize;
    assert_eq!(scene.content(1)?[0x100..0x100 + length], sent[..length]);
    Ok(())
}

#[test]
fn a_sender_does_not_wait_for_ever() -> Result<()> {
    let mut scene = Scene::with(&Wish {
        receive_retries: 2,
        ..USUAL
    })?;
    let list = [scene.at(0, 0, 10)];
    fails(&mut scene, wqe::SEND, &list, 0x16)
}

#[test]
fn nobody_answers() -> Result<()> {
    let mut scene = Scene::with(&Wish { port: 9, ..USUAL })?;
    let list = [scene.remote(1, 0), scene.at(0, 0, 10)];
    fails(&mut scene, wqe::WRITE, &list, 0x15)
}

#[test]
fn what_is_not_allowed_ends_the_connection() -> Result<()> {
    for opcode in [wqe::WRITE, wqe::READ] {
        let mut scene = Scene::new()?;
        let before = scene.fill(1, 1)?;
        let mut remote = scene.remote(1, 0);
        remote[11] ^= 1;
        scene.receive(1, &[])?;
        let list = [remote, scene.at(0, 0, 10)];
        fails(&mut scene, opcode, &list, 0x13)?;
        assert_eq!(scene.content(1)?, before);
        // The other end has ended, too, and says so.
        let entry = scene.wait(1)?;
        assert_eq!((entry[63] >> 4, entry[0x37]), (14, 5));
        let event = scene.driver.next(&mut scene.events)?.context("no event")?;
        assert_eq!(event[1], 0x11);
    }
    Ok(())
}

#[test]
fn a_message_has_to_fit() -> Result<()> {
    let mut scene = Scene::new()?;
    let list = [scene.at(1, 0, 2 * MTU - 1)];
    scene.receive(1, &list)?;
    let list = [scene.at(0, 0, 2 * MTU)];
    fails(&mut scene, wqe::SEND, &list, 0x12)?;
    let entry = scene.wait(1)?;
    assert_eq!((entry[63] >> 4, entry[0x37]), (14, 1));
    Ok(())
}

#[test]
fn own_memory_has_to_be_there() -> Result<()> {
    let mut scene = Scene::new()?;
    let list = [segment(scene.key ^ 0x100, 0, 10)];
    fails(&mut scene, wqe::SEND, &list, 4)?;
    let mut scene = Scene::new()?;
    let list = [segment(scene.key ^ 0x100, 0, 10)];
    scene.receive(1, &list)?;
    let list = [scene.at(0, 0, 10)];
    fails(&mut scene, wqe::SEND, &list, 0x14)?;
    let entry = scene.wait(1)?;
    assert_eq!((entry[63] >> 4, entry[0x37]), (14, 4));
    Ok(())
}

#[test]
fn what_is_not_modelled_fails() -> Result<()> {
    for opcode in [0x02, 0x0e, 0x14, 0x15, 0x18, 0x1b, 0x20, 0x3f] {
        let mut scene = Scene::new()?;
        let list = [scene.remote(1, 0), scene.at(0, 0, 8)];
        fails(&mut scene, opcode, &list, 2)?;
    }
    Ok(())
}

/// A fabric that loses packets, by chance.
struct Lossy(std::collections::VecDeque<Packet>, Dice);

impl Fabric for Lossy {
    fn send(&mut self, packet: Packet) {
        // Refusals end a connection: they are not repeated.
        let lost = self.1.below(4) == 0 && !matches!(packet.kind, Kind::Refuse(_));
        if !lost {
            self.0.push_back(packet);
        }
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}

#[test]
fn lost_packets_come_again() -> Result<()> {
    let mut dice = Dice(77);
    let mut scene = Scene::new()?;
    scene.driver.device.fabric = Box::new(Lossy(Default::default(), Dice(78)));
    let mut own = scene.fill(0, 1)?;
    let mut other = scene.fill(1, 2)?;
    for round in 0..300_u64 {
        // No more than some packets: a longer message would need more luck than retries.
        let length = dice.below(3 * MTU) + 1;
        let (here, there) = (dice.below(0x1000), 0x1000 + dice.below(0x1000));
        let (from, to) = (here as usize, there as usize);
        let end = length as usize;
        let kinds = [wqe::WRITE, wqe::SEND, wqe::READ, wqe::FETCH_AND_ADD];
        let opcode = kinds[round as usize % 4];
        let list = match opcode {
            wqe::FETCH_AND_ADD => {
                // Done exactly once, however often it is asked for.
                let at = there & !7;
                let word = at as usize..at as usize + 8;
                let before = u64::from_be_bytes(other[word.clone()].try_into()?);
                let found = other[word.clone()].to_vec();
                own[from..from + 8].copy_from_slice(&found);
                let sum = before.wrapping_add(round).to_be_bytes();
                other[word].copy_from_slice(&sum);
                let change = [round.to_be_bytes(), [0; 8]].concat();
                vec![scene.remote(1, at), change, scene.at(0, here, 8)]
            }
            wqe::SEND => {
                let list = [scene.at(1, there, length)];
                scene.receive(1, &list)?;
                vec![scene.at(0, here, length)]
            }
            _ => vec![scene.remote(1, there), scene.at(0, here, length)],
        };
        scene.send(0, opcode, SIGNALLED, &list)?;
        let entry = scene.wait(0)?;
        ensure!(kind(&entry) == (0, opcode), "round {round}: {entry:x?}");
        match opcode {
            wqe::FETCH_AND_ADD => {}
            wqe::READ => own[from..from + end].copy_from_slice(&other[to..to + end]),
            _ => other[to..to + end].copy_from_slice(&own[from..from + end]),
        }
        if opcode == wqe::SEND {
            let entry = scene.wait(1)?;
            assert_eq!((entry[63] >> 4, bytes(&entry)), (2, length as u32));
        }
        assert_eq!(scene.poll(1)?, None);
    }
    assert!(scene.content(0)? == own && scene.content(1)? == other);
    Ok(())
}

/// Services of the queue pairs that get any requests, and whether their receive queues are shared ones.
const FUZZED: [(u32, bool); 7] = [
    (RELIABLE, false),
    (RELIABLE, true),
    (UNRELIABLE, false),
    (EXTENDED, true),
    (DATAGRAM, false),
    (DATAGRAM, true),
    (KEY_UPDATES, false),
];

#[test]
fn any_request_ends() -> Result<()> {
    let mut dice = Dice(5);
    for (service, shared) in FUZZED {
        let wish = Wish {
            service,
            shared,
            ..SHORT
        };
        let mut scene = Scene::with(&wish)?;
        for _ in 0..FUZZ_ROUNDS {
            any_requests(&mut scene, &mut dice)?;
            if dice.below(8) == 0 {
                scene = scene.again(&wish)?;
            }
        }
    }
    Ok(())
}

/// Requests of such an end each, 16 at a time.
const FUZZ_ROUNDS: u32 = 140_000 / 7 / 16;

fn any_requests(scene: &mut Scene, dice: &mut Dice) -> Result<()> {
    let other = scene.ends[1].number.to_be_bytes();
    for _ in 0..16 {
        let side = dice.below(2) as usize;
        let place = scene.ends[side].buffer + dice.below(0x800 / 16) * 16;
        let data = dice.bytes(16);
        scene.driver.write(place, &data)?;
        scene.driver.write(place + 3, &[dice.below(0x27) as u8])?;
        // Now and then where a datagram goes, or a key that there is.
        match dice.below(4) {
            0 => scene
                .driver
                .write(place + 8, &[0x80, 0, other[2], other[3]])?,
            1 => {
                let key = scene.key.to_be_bytes();
                scene.driver.write(place + dice.below(3) * 4, &key)?;
            }
            _ => {}
        }
    }
    for side in 0..2 {
        if scene.ends[side].shared.is_some() && dice.below(2) == 0 {
            scene.receive(side, &[dice.bytes(16)])?;
        }
    }
    let side = dice.below(2) as usize;
    let end = &mut scene.ends[side];
    end.receives = end.receives.wrapping_add(dice.below(4) as u16);
    end.sends = end.sends.wrapping_add(dice.below(8) as u16);
    let mut counts = u32::from(end.receives).to_be_bytes().to_vec();
    counts.extend(u32::from(end.sends).to_be_bytes());
    scene.driver.write(end.record, &counts)?;
    scene.ring(side);
    scene.driver.device.tick();
    for side in 0..2 {
        while scene.poll(side)?.is_some() {}
        let extended = scene.ends[side].shared.as_ref();
        if extended.is_some_and(|shared| shared.ring.is_some()) {
            while scene.poll_shared(side)?.is_some() {}
        }
    }
    Ok(())
}
