// SPDX-License-Identifier: GPL-2.0
//! Pages come and go by chance, and so do requests, keys and answers.

use anyhow::{ensure, Result};

use super::{Stage, PAGE, PAGES, READ_WRITE, START};
use crate::fabric::{Fabric, Kind, Packet};
use crate::mkey::NULL_MKEY;
use crate::tests::fuzz::Dice;
use crate::tests::scene::{bytes, kind, segment, MEMORY, MTU, SHORT, SIGNALLED};
use crate::trace::Rule;
use crate::wqe;

/// A fabric that loses a packet now and then: so few that who waits for a page does not give up.
struct Leaky(std::collections::VecDeque<Packet>, Dice);

impl Fabric for Leaky {
    fn send(&mut self, packet: Packet) {
        if self.1.below(32) != 0 || matches!(packet.kind, Kind::Refuse(_)) {
            self.0.push_back(packet);
        }
    }

    fn receive(&mut self, _: u16) -> Option<Packet> {
        self.0.pop_front()
    }
}

/// Pages come and go by chance, packets are lost, and every byte goes where it is to.
#[test]
fn pages_come_and_go_and_nothing_is_lost() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut dice = Dice(4711);
        let mut stage = Stage::of(profile)?;
        stage.scene.driver.device.fabric = Box::new(Leaky(Default::default(), Dice(79)));
        come_and_go(&mut stage, &mut dice, 150)?;
    }
    Ok(())
}

/// Requests with random pages of both sides, of which some are not there: gives an error unless every byte goes where it is
/// to.
pub(super) fn come_and_go(stage: &mut Stage, dice: &mut Dice, rounds: u64) -> Result<()> {
    let mut own = stage.scene.fill(0, 1)?;
    let mut other = stage.scene.fill(1, 2)?;
    for round in 0..rounds {
        let length = dice.below(6 * MTU) + 1;
        let (here, there) = (dice.below(MEMORY - length), dice.below(MEMORY - length));
        let opcode = [wqe::WRITE, wqe::SEND, wqe::READ][round as usize % 3];
        let list = match opcode {
            wqe::SEND => {
                stage.scene.receive(1, &[stage.at(1, there, length)])?;
                vec![stage.at(0, here, length)]
            }
            _ => vec![stage.remote(1, there), stage.at(0, here, length)],
        };
        for side in 0..2 {
            let page = dice.below(PAGES);
            stage.set(side, page..PAGES, 0)?;
        }
        stage.scene.send(0, opcode, SIGNALLED, &list)?;
        let entry = served(stage, dice)?;
        ensure!(kind(&entry) == (0, opcode), "round {round}: {entry:x?}");
        let (from, to, end) = (here as usize, there as usize, length as usize);
        match opcode {
            wqe::READ => own[from..from + end].copy_from_slice(&other[to..to + end]),
            _ => other[to..to + end].copy_from_slice(&own[from..from + end]),
        }
        if opcode == wqe::SEND {
            let entry = stage.scene.wait(1)?;
            assert_eq!((entry[63] >> 4, bytes(&entry)), (2, length as u32));
        }
        assert_eq!(stage.scene.poll(1)?, None);
    }
    assert!(stage.scene.content(0)? == own && stage.scene.content(1)? == other);
    stage.no_violations();
    let (raised, resumed, waiting) = stage.scene.driver.device.faults.counts();
    assert!(
        raised > rounds / 2 && raised == resumed && waiting == 0,
        "{raised} {resumed}"
    );
    Ok(())
}

/// A driver that serves what is lacked until a completion of the first side: not at once, and now and then a page is
/// gone again before it is used.
fn served(stage: &mut Stage, dice: &mut Dice) -> Result<[u8; 64]> {
    for _ in 0..100_000 {
        if let Some(entry) = stage.scene.poll(0)? {
            return Ok(entry);
        }
        stage.scene.driver.device.tick();
        let Some(fault) = stage.poll_fault()?.filter(|fault| fault.is_last()) else {
            continue;
        };
        for _ in 0..dice.below(50) {
            stage.scene.driver.device.tick();
        }
        for side in 0..2 {
            stage.set(side, 0..PAGES, READ_WRITE)?;
        }
        if dice.below(4) == 0 {
            let page = dice.below(PAGES);
            stage.set(dice.below(2) as usize, page..PAGES, 0)?;
        }
        assert_eq!(stage.resume(fault, false)?, 0);
    }
    anyhow::bail!("no completion")
}

/// Random requests, random entries in keys of all kinds that lead to each other, random answers to faults: nothing
/// panics, and nothing is written outside of the regions.
#[test]
fn any_request_and_any_key_end() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut dice = Dice(31);
        let mut stage = Stage::of(profile)?;
        let mut keys = stage.keys.to_vec();
        for mode in [1, 2, 2, 3, 3, 3] {
            let log_page = 12 + dice.below(3);
            keys.push(stage.table(mode, START, MEMORY, log_page)?);
        }
        let all = keys.len() as u64;
        let mut known = Vec::new();
        for round in 0..3_000 {
            let key = keys[dice.below(all) as usize];
            let mut entry = dice.bytes(16);
            match dice.below(3) {
                // Pages of the regions.
                0 => {
                    let side = dice.below(2) as usize;
                    let page = stage.scene.memory[side] + dice.below(PAGES) * PAGE + dice.below(4);
                    entry[8..].copy_from_slice(&page.to_be_bytes());
                    entry.copy_within(8.., 0);
                }
                // A part of a key.
                1 => {
                    let inner = match dice.below(8) {
                        0 => NULL_MKEY,
                        other => keys[(other % all) as usize],
                    };
                    entry[..4].copy_from_slice(&(dice.below(0x3000) as u32 + 1).to_be_bytes());
                    entry[4..8].copy_from_slice(&inner.to_be_bytes());
                    let address = START + dice.below(MEMORY);
                    entry[8..].copy_from_slice(&address.to_be_bytes());
                }
                _ => entry = vec![0; 16],
            }
            stage.change(key, dice.below(4), &entry, None)?;
            let side = dice.below(2) as usize;
            let opcode = [wqe::WRITE, wqe::SEND, wqe::READ][dice.below(3) as usize];
            let place =
                |dice: &mut Dice| (keys[dice.below(all) as usize], START + dice.below(MEMORY));
            let (own, far) = (place(&mut dice), place(&mut dice));
            let mut list = Vec::new();
            if opcode != wqe::SEND {
                let mut remote = far.1.to_be_bytes().to_vec();
                remote.extend(far.0.to_be_bytes());
                remote.extend([0; 4]);
                list.push(remote);
            }
            list.push(segment(own.0, own.1, dice.below(0x900) + 1));
            let receive = segment(far.0, far.1, 0x1000);
            stage.scene.receive(1 - side, &[receive])?;
            stage.scene.send(side, opcode, SIGNALLED, &list)?;
            while let Some(fault) = stage.poll_fault()? {
                known.push(fault);
            }
            if dice.below(3) == 0 && !known.is_empty() {
                let fault = known.swap_remove(dice.below(known.len() as u64) as usize);
                stage.resume(fault, dice.below(2) == 0)?;
            }
            stage.scene.driver.device.tick();
            for side in 0..2 {
                while stage.scene.poll(side)?.is_some() {}
            }
            if round % 16 == 15 {
                stage.scene = stage.scene.again(&SHORT)?;
            }
        }
        // Entries lead to the regions, or to addresses where there is no memory.
        let wrong = stage.scene.driver.violations();
        let tokens = |rule: Rule| {
            matches!(
                rule,
                Rule::Tokens | Rule::Memory | Rule::Progress | Rule::Overrun
            )
        };
        assert!(wrong.iter().all(|one| tokens(one.rule)), "{wrong:?}");
    }
    Ok(())
}
