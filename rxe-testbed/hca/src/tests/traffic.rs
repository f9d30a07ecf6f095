// SPDX-License-Identifier: GPL-2.0
//! Work requests between two queue pairs of one device.

use anyhow::{ensure, Context, Result};

use super::driver::{pages, Driver, Ring};
use super::fuzz::Dice;
use crate::fabric::{Fabric, Kind, Packet};
use crate::layout::{
    ads, alloc_pd_out, alloc_uar_out, create_mkey_in, create_mkey_out, create_qp_in, create_qp_out,
    mkc, qpc, rst2init_qp_in,
};
use crate::wqe;

/// Where the send queue begins behind the receives, and what the payload of a packet may be.
const SENDS: u64 = 0x400;
const MTU: u64 = 256;

const SIGNALLED: u8 = 0x08;
const MEMORY: u64 = 0x8000;

/// A queue pair as its driver knows it.
struct End {
    number: u32,
    ring: Ring,
    buffer: u64,
    record: u64,
    sends: u16,
    receives: u16,
}

/// Two connected queue pairs, and memory of each.
struct Scene {
    driver: Driver,
    events: Ring,
    domain: u32,
    page: u32,
    ends: [End; 2],
    key: u32,
    memory: [u64; 2],
}

/// What the connection is to be like.
struct Wish {
    retries: u32,
    receive_retries: u32,
    port: u16,
    /// The longest message, as a power of two.
    longest: u32,
}

const USUAL: Wish = Wish {
    retries: 7,
    receive_retries: 7,
    port: 1,
    longest: 30,
};

/// One on which no message takes long.
const SHORT: Wish = Wish {
    longest: 11,
    ..USUAL
};

impl Scene {
    fn new() -> Result<Self> {
        Self::with(&USUAL)
    }

    fn with(wish: &Wish) -> Result<Self> {
        let mut driver = Driver::initialised()?;
        let page = driver.number(0x802, &[], alloc_uar_out::UAR)?;
        let events = driver.event_queue(page, 6, (1 << 0x05) | (1 << 0x10) | (1 << 0x11))?;
        let domain = driver.number(0x800, &[], alloc_pd_out::PD)?;
        let ends = [
            end(&mut driver, page, events.number, domain)?,
            end(&mut driver, page, events.number, domain)?,
        ];
        let memory = [driver.allocate(MEMORY)?, driver.allocate(MEMORY)?];
        let key = key(
            &mut driver,
            domain,
            &[mkc::LR, mkc::LW, mkc::RR, mkc::RW, mkc::A],
        )?;
        let scene = Self {
            driver,
            events,
            domain,
            page,
            ends,
            key,
            memory,
        };
        scene.connected(wish)
    }

    fn connected(mut self, wish: &Wish) -> Result<Self> {
        let numbers = [self.ends[0].number, self.ends[1].number];
        for (own, other) in [(0, 1), (1, 0)] {
            for opcode in [0x502, 0x503, 0x504] {
                let mut input = vec![0; rst2init_qp_in::BYTES];
                rst2init_qp_in::QPN.set(&mut input, numbers[own]);
                let context = rst2init_qp_in::QPC.of_mut(&mut input);
                qpc::RRE.set(context, 1_u64);
                qpc::RWE.set(context, 1_u64);
                qpc::RAE.set(context, 1_u64);
                qpc::MTU.set(context, 1_u64);
                qpc::LOG_MSG_MAX.set(context, wish.longest);
                qpc::REMOTE_QPN.set(context, numbers[other]);
                // The numbers of packets wrap soon.
                qpc::NEXT_RCV_PSN.set(context, 0xff_fff0 + other as u64);
                qpc::NEXT_SEND_PSN.set(context, 0xff_fff0 + own as u64);
                qpc::RETRY_COUNT.set(context, wish.retries);
                qpc::RNR_RETRY.set(context, wish.receive_retries);
                qpc::MIN_RNR_NAK.set(context, 1_u64);
                qpc::LOG_RRA_MAX.set(context, 2_u64);
                qpc::LOG_SRA_MAX.set(context, 2_u64);
                let path = qpc::PRIMARY_ADDRESS_PATH.of_mut(context);
                ads::RLID.set(path, u64::from(wish.port));
                ads::ACK_TIMEOUT.set(path, 4_u64);
                self.driver.execute(opcode, &input, 16)?;
            }
        }
        Ok(self)
    }

    /// Writes bytes that depend on their places.
    fn fill(&self, side: usize, seed: u8) -> Result<Vec<u8>> {
        let bytes: Vec<u8> = (0..MEMORY)
            .map(|at| (at as u8).wrapping_mul(13) ^ (at >> 8) as u8 ^ seed)
            .collect();
        self.driver.write(self.memory[side], &bytes)?;
        Ok(bytes)
    }

    fn content(&self, side: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; MEMORY as usize];
        self.driver.read(self.memory[side], &mut bytes)?;
        Ok(bytes)
    }

    /// A segment for memory of one side.
    fn at(&self, side: usize, offset: u64, length: u64) -> Vec<u8> {
        segment(self.key, self.memory[side] + offset, length)
    }

    /// A segment that names memory at the other end.
    fn remote(&self, side: usize, offset: u64) -> Vec<u8> {
        let mut bytes = (self.memory[side] + offset).to_be_bytes().to_vec();
        bytes.extend(self.key.to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// Posts a receive.
    fn receive(&mut self, side: usize, segments: &[Vec<u8>]) -> Result<()> {
        let end = &mut self.ends[side];
        let mut entry = segments.concat();
        entry.extend([0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        entry.resize(64, 0);
        let place = end.buffer + u64::from(end.receives % 16) * 64;
        self.driver.write(place, &entry)?;
        end.receives += 1;
        let count = u32::from(end.receives).to_be_bytes();
        self.driver.write(end.record, &count)
    }

    /// Posts a request without telling the device.
    fn queue(&mut self, side: usize, opcode: u8, flags: u8, segments: &[Vec<u8>]) -> Result<()> {
        let end = &mut self.ends[side];
        let rest = segments.concat();
        let units = 1 + rest.len().div_ceil(16) as u8;
        let counter = end.sends.to_be_bytes();
        let pair = end.number.to_be_bytes();
        let mut request = vec![0, counter[0], counter[1], opcode];
        request.extend([pair[1], pair[2], pair[3], units, 0, 0, 0, flags, 1, 2, 3, 4]);
        request.extend(rest);
        request.resize(request.len().next_multiple_of(64), 0);
        for piece in request.chunks(64) {
            let place = end.buffer + SENDS + u64::from(end.sends % 16) * 64;
            self.driver.write(place, piece)?;
            end.sends = end.sends.wrapping_add(1);
        }
        let count = u32::from(end.sends).to_be_bytes();
        self.driver.write(end.record + 4, &count)
    }

    fn ring(&mut self, side: usize) {
        let mut bytes = [0; 8];
        bytes[4..].copy_from_slice(&(self.ends[side].number << 8).to_be_bytes());
        self.driver.ring(self.page, 0x800, &bytes);
    }

    /// Posts a request.
    fn send(&mut self, side: usize, opcode: u8, flags: u8, segments: &[Vec<u8>]) -> Result<()> {
        self.queue(side, opcode, flags, segments)?;
        self.ring(side);
        Ok(())
    }

    /// The next completion of a side, if there is one.
    fn poll(&mut self, side: usize) -> Result<Option<[u8; 64]>> {
        let ring = &mut self.ends[side].ring;
        let found = self.driver.next(ring)?;
        self.driver
            .write(ring.record, &ring.consumed.to_be_bytes())?;
        Ok(found)
    }

    /// The next completion of a side, for which time goes by.
    fn wait(&mut self, side: usize) -> Result<[u8; 64]> {
        for _ in 0..100_000 {
            if let Some(entry) = self.poll(side)? {
                return Ok(entry);
            }
            self.driver.device.tick();
        }
        self.poll(side)?.context("no completion")
    }
}

fn segment(key: u32, address: u64, length: u64) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes().to_vec();
    bytes.extend(key.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    bytes
}

fn inline(data: &[u8]) -> Vec<u8> {
    let mut bytes = (0x8000_0000 | data.len() as u32).to_be_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// Makes a queue pair for reliable connections.
fn end(driver: &mut Driver, page: u32, events: u32, domain: u32) -> Result<End> {
    let ring = driver.completion_queue(page, events, 5)?;
    let (buffer, record) = (driver.allocate(0x1000)?, driver.allocate(0x1000)?);
    let mut input = vec![0; create_qp_in::BYTES];
    let context = create_qp_in::QPC.of_mut(&mut input);
    qpc::PD.set(context, domain);
    qpc::UAR_PAGE.set(context, page);
    qpc::CQN_SND.set(context, ring.number);
    qpc::CQN_RCV.set(context, ring.number);
    qpc::LOG_SQ_SIZE.set(context, 4_u64);
    qpc::LOG_RQ_SIZE.set(context, 4_u64);
    qpc::LOG_RQ_STRIDE.set(context, 2_u64);
    qpc::DBR_ADDR.set(context, record);
    qpc::USER_INDEX.set(context, 0x77_u64);
    input.extend(pages(buffer, 0x1000));
    let number = driver.number(0x500, &input, create_qp_out::QPN)?;
    Ok(End {
        number,
        ring,
        buffer,
        record,
        sends: 0,
        receives: 0,
    })
}

/// Makes a key for all of memory.
fn key(driver: &mut Driver, domain: u32, rights: &[crate::layout::Field]) -> Result<u32> {
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    rights.iter().for_each(|right| right.set(context, 1_u64));
    mkc::LENGTH64.set(context, 1_u64);
    mkc::QPN.set(context, 0xff_ffff_u64);
    mkc::MKEY_7_0.set(context, 0x5a_u64);
    mkc::PD.set(context, domain);
    let number = driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)?;
    Ok((number << 8) | 0x5a)
}

/// What kind of completion it is, and of what.
fn kind(entry: &[u8; 64]) -> (u8, u8) {
    (entry[63] >> 4, entry[0x38])
}

fn bytes(entry: &[u8; 64]) -> u32 {
    u32::from_be_bytes([entry[0x2c], entry[0x2d], entry[0x2e], entry[0x2f]])
}

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

/// Posts a request that fails, and one behind it.
fn fails(scene: &mut Scene, opcode: u8, segments: &[Vec<u8>], syndrome: u8) -> Result<()> {
    scene.queue(0, opcode, 0, segments)?;
    scene.queue(0, wqe::NOTHING, 0, &[])?;
    scene.ring(0);
    let entry = scene.wait(0)?;
    assert_eq!((kind(&entry), entry[0x37]), ((13, opcode), syndrome));
    let entry = scene.wait(0)?;
    assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::NOTHING), 5));
    assert_eq!(scene.poll(0)?, None);
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
    for opcode in [0x01, 0x0e, 0x11, 0x12, 0x18, 0x1b, 0x20, 0x3f] {
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
        let opcode = [wqe::WRITE, wqe::SEND, wqe::READ][round as usize % 3];
        let list = match opcode {
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

#[test]
fn any_request_ends() -> Result<()> {
    let mut dice = Dice(5);
    let mut scene = Scene::with(&SHORT)?;
    for _ in 0..100_000 / 16 {
        for _ in 0..16 {
            let side = dice.below(2) as usize;
            let place = scene.ends[side].buffer + dice.below(0x800 / 16) * 16;
            let data = dice.bytes(16);
            scene.driver.write(place, &data)?;
            scene.driver.write(place + 3, &[dice.below(0x14) as u8])?;
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
        }
        if dice.below(8) == 0 {
            scene = scene.again()?;
        }
    }
    Ok(())
}

impl Scene {
    /// Both queue pairs begin anew.
    fn again(mut self) -> Result<Self> {
        for side in 0..2 {
            let end = &mut self.ends[side];
            let mut input = vec![0; 16];
            rst2init_qp_in::QPN.set(&mut input, end.number);
            self.driver.execute(0x50a, &input, 16)?;
            (end.sends, end.receives) = (0, 0);
            self.driver.write(end.record, &[0; 8])?;
        }
        self.connected(&SHORT)
    }
}

/// A key that requests change, of `octwords` of translation.
fn free_key(scene: &mut Scene, octwords: u64) -> Result<u32> {
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::FREE.set(context, 1_u64);
    mkc::UMR_EN.set(context, 1_u64);
    mkc::ACCESS_MODE_1_0.set(context, 1_u64);
    mkc::QPN.set(context, 0xff_ffff_u64);
    mkc::TRANSLATIONS_OCTWORD_SIZE.set(context, octwords);
    mkc::LOG_PAGE_SIZE.set(context, 12_u64);
    scene
        .driver
        .number(0x200, &input, create_mkey_out::MKEY_INDEX)
}

/// A request that gives a key two pages of the second side's memory, the later one first. Its domain is that of the
/// key for all memory.
fn give_meaning(scene: &Scene, flags: u8, offset: u8, inline: bool) -> Result<Vec<Vec<u8>>> {
    let mut control = vec![0; 48];
    control[0] = flags | (1 << 4) | (u8::from(inline) << 7);
    control[5] = 1;
    control[7] = offset;
    let mask: u64 = 1 | (1 << 6) | (1 << 7) | (1 << 13) | (0x1f << 17) | (1 << 29);
    control[8..16].copy_from_slice(&mask.to_be_bytes());
    let mut context = vec![0; mkc::BYTES];
    for right in [mkc::LR, mkc::LW, mkc::RR, mkc::RW] {
        right.set(&mut context, 1_u64);
    }
    mkc::PD.set(&mut context, scene.domain);
    mkc::MKEY_7_0.set(&mut context, 0x77_u64);
    mkc::START_ADDR.set(&mut context, 0x7000_0000_u64);
    mkc::LEN.set(&mut context, 0x2000_u64);
    let pages = [scene.memory[1] + 0x1000, scene.memory[1]];
    let entries: Vec<u8> = pages.iter().flat_map(|page| page.to_be_bytes()).collect();
    let entries = match inline {
        true => entries,
        false => {
            scene.driver.write(scene.memory[0] + 0x7f00, &entries)?;
            scene.at(0, 0x7f00, 16)
        }
    };
    Ok(vec![control, context, entries])
}

/// Posts a change of a key; gives how it ended.
fn change_key(scene: &mut Scene, key: u32, segments: &[Vec<u8>]) -> Result<(u8, u8)> {
    let end = &scene.ends[0];
    let place = end.buffer + SENDS + u64::from(end.sends % 16) * 64 + 12;
    scene.queue(0, wqe::UPDATE, SIGNALLED, segments)?;
    scene.driver.write(place, &(key << 8).to_be_bytes())?;
    scene.ring(0);
    let entry = scene.wait(0)?;
    Ok((entry[63] >> 4, entry[0x37]))
}

#[test]
fn a_request_gives_a_key_its_meaning() -> Result<()> {
    for inline in [true, false] {
        let mut scene = Scene::new()?;
        let sent = scene.fill(0, 8)?;
        let mut expected = scene.fill(1, 9)?;
        let key = free_key(&mut scene, 4)?;
        let list = give_meaning(&scene, 1 << 5, 0, inline)?;
        assert_eq!(change_key(&mut scene, key, &list)?, (0, 0));
        let mut remote = 0x7000_0ff0_u64.to_be_bytes().to_vec();
        remote.extend(((key << 8) | 0x77).to_be_bytes());
        remote.extend([0; 4]);
        let list = [remote, scene.at(0, 0x31, 0x20)];
        scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::WRITE));
        expected[0x1ff0..0x2000].copy_from_slice(&sent[0x31..0x41]);
        expected[..0x10].copy_from_slice(&sent[0x41..0x51]);
        assert_eq!(scene.content(1)?, expected);
        assert_eq!(scene.driver.violations(), []);
    }
    Ok(())
}

#[test]
fn a_request_changes_no_key_that_it_must_not() -> Result<()> {
    // A free key that must not be; beyond the end; a field that is not known; a key that no request changes.
    for case in 0..4 {
        let mut scene = Scene::new()?;
        let mut key = free_key(&mut scene, 4)?;
        let flags = if case == 0 { 1 << 6 } else { 1 << 5 };
        let offset = if case == 1 { 4 } else { 0 };
        let mut list = give_meaning(&scene, flags, offset, true)?;
        match case {
            2 => list[0][8] = 0x80,
            3 => key = scene.key >> 8,
            _ => {}
        }
        assert_eq!(change_key(&mut scene, key, &list)?, (13, 6), "{case}");
        let all = scene.driver.violations();
        assert_eq!(all[0].rule, crate::trace::Rule::Keys);
    }
    Ok(())
}
