// SPDX-License-Identifier: GPL-2.0
//! Two queue pairs of one device with memory of each, for tests of what goes from one to the other.

use anyhow::{Context, Result};

use super::driver::{pages, Driver, Ring};
use crate::command::qp::{QUEUES, RECORD};
use crate::layout::{
    ads, alloc_pd_out, alloc_q_counter_out, alloc_uar_out, alloc_xrcd_out, create_mkey_in,
    create_mkey_out, create_qp_in, create_qp_out, create_rmp_in, create_rmp_out, create_xrc_srq_in,
    create_xrc_srq_out, mkc, qpc, rmpc, rst2init_qp_in, wq, xrc_srqc,
};
use crate::wqe;

/// Where the send queue begins, after the receives, and what the payload of a packet may be.
const SENDS: u64 = 0x400;
pub(super) const MTU: u64 = 256;

pub(super) const SIGNALLED: u8 = 0x08;
pub(super) const MEMORY: u64 = 0x8000;

/// A queue pair as its driver knows it.
pub(super) struct End {
    pub(super) number: u32,
    pub(super) ring: Ring,
    pub(super) buffer: u64,
    pub(super) record: u64,
    pub(super) sends: u16,
    pub(super) receives: u16,
    pub(super) shared: Option<Shared>,
}

impl End {
    /// Where its next request goes.
    pub(super) fn next_send(&self) -> u64 {
        let first = if self.shared.is_some() { 0 } else { SENDS };
        self.buffer + first + u64::from(self.sends % 16) * 64
    }
}

/// A shared receive queue: a list of 16 entries, whose order is not that of memory.
pub(super) struct Shared {
    pub(super) number: u32,
    buffer: u64,
    record: u64,
    pub(super) posted: u16,
    /// Completions of an extended one.
    pub(super) ring: Option<Ring>,
}

/// The number of the entry that is posted at that time.
pub(super) fn place(time: u16) -> u16 {
    time.wrapping_mul(5) % 16
}

/// Two connected queue pairs, and memory of each.
pub(super) struct Scene {
    pub(super) driver: Driver,
    pub(super) events: Ring,
    pub(super) domain: u32,
    pub(super) page: u32,
    pub(super) ends: [End; 2],
    pub(super) key: u32,
    pub(super) memory: [u64; 2],
    /// The set of counters of both ends.
    pub(super) counters: u32,
}

/// What the connection is to be like.
pub(super) struct Wish {
    pub(super) retries: u32,
    pub(super) receive_retries: u32,
    /// How long to wait for an answer: 4.096 µs, doubled so often.
    pub(super) timeout: u32,
    pub(super) port: u16,
    /// The longest message, as a power of two.
    pub(super) longest: u32,
    /// The service, by its number; whether both ends receive from shared queues.
    pub(super) service: u32,
    pub(super) shared: bool,
}

pub(super) const RELIABLE: u32 = 0;
pub(super) const UNRELIABLE: u32 = 1;
pub(super) const DATAGRAM: u32 = 2;
pub(super) const EXTENDED: u32 = 3;
pub(super) const GENERAL: u32 = 8;
pub(super) const KEY_UPDATES: u32 = 0xc;

/// The key that datagrams have to have.
pub(super) const DATAGRAM_KEY: u32 = 0x1234_5678;

pub(super) const USUAL: Wish = Wish {
    retries: 7,
    receive_retries: 7,
    timeout: 4,
    port: 1,
    longest: 30,
    service: RELIABLE,
    shared: false,
};

/// One on which no message takes long.
pub(super) const SHORT: Wish = Wish {
    longest: 11,
    ..USUAL
};

/// The events that are looked for: the ends of queue pairs, and those of shared receive queues and targets.
const EVENTS: u64 =
    (1 << 0x05) | (1 << 0x10) | (1 << 0x11) | (1 << 0x13) | (1 << 0x14) | (1 << 0x1c) | (1 << 0x1d);

impl Scene {
    pub(super) fn new() -> Result<Self> {
        Self::with(&USUAL)
    }

    pub(super) fn with(wish: &Wish) -> Result<Self> {
        Self::on(Driver::new()?, wish)
    }

    /// The same with a driver whose device is not in use yet.
    pub(super) fn on(mut driver: Driver, wish: &Wish) -> Result<Self> {
        driver.probe()?;
        let page = driver.number(0x802, &[], alloc_uar_out::UAR)?;
        let events = driver.event_queue(page, 6, EVENTS)?;
        let domain = driver.number(0x800, &[], alloc_pd_out::PD)?;
        let connections = driver.number(0x80e, &[], alloc_xrcd_out::XRCD)?;
        let counters = driver.number(0x771, &[], alloc_q_counter_out::COUNTER_SET_ID)?;
        let given = Given {
            page,
            events: events.number,
            domain,
            connections,
        };
        let ends = [
            end(&mut driver, &given, wish)?,
            end(&mut driver, &given, wish)?,
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
            counters,
        };
        scene.connected(wish)
    }

    pub(super) fn connected(mut self, wish: &Wish) -> Result<Self> {
        let numbers = [self.ends[0].number, self.ends[1].number];
        self.connect(numbers, 0, wish)?;
        self.connect([numbers[1], numbers[0]], 1, wish)?;
        Ok(self)
    }

    /// Brings a queue pair up, for a connection with the second of these.
    fn connect(&mut self, pairs: [u32; 2], own: u64, wish: &Wish) -> Result<()> {
        for opcode in [0x502, 0x503, 0x504] {
            let mut input = vec![0; rst2init_qp_in::BYTES];
            rst2init_qp_in::QPN.set(&mut input, pairs[0]);
            let context = rst2init_qp_in::QPC.of_mut(&mut input);
            qpc::RRE.set(context, 1_u64);
            qpc::RWE.set(context, 1_u64);
            qpc::RAE.set(context, 1_u64);
            qpc::Q_KEY.set(context, DATAGRAM_KEY);
            qpc::COUNTER_SET_ID.set(context, self.counters);
            qpc::MTU.set(context, 1_u64);
            qpc::LOG_MSG_MAX.set(context, wish.longest);
            qpc::REMOTE_QPN.set(context, pairs[1]);
            // The numbers of packets wrap soon.
            qpc::NEXT_RCV_PSN.set(context, 0xff_fff0 + (1 - own));
            qpc::NEXT_SEND_PSN.set(context, 0xff_fff0 + own);
            qpc::RETRY_COUNT.set(context, wish.retries);
            qpc::RNR_RETRY.set(context, wish.receive_retries);
            qpc::MIN_RNR_NAK.set(context, 1_u64);
            qpc::LOG_RRA_MAX.set(context, 2_u64);
            qpc::LOG_SRA_MAX.set(context, 2_u64);
            let path = qpc::PRIMARY_ADDRESS_PATH.of_mut(context);
            ads::RLID.set(path, u64::from(wish.port));
            ads::ACK_TIMEOUT.set(path, u64::from(wish.timeout));
            self.driver.execute(opcode, &input, 16)?;
        }
        Ok(())
    }

    /// One more queue pair, which changes keys.
    pub(super) fn keeper(&mut self) -> Result<End> {
        let wish = Wish {
            service: KEY_UPDATES,
            ..USUAL
        };
        let given = Given {
            page: self.page,
            events: self.events.number,
            domain: self.domain,
            connections: 0,
        };
        let end = end(&mut self.driver, &given, &wish)?;
        self.connect([end.number; 2], 0, &wish)?;
        Ok(end)
    }

    /// Makes a key for all of memory.
    pub(super) fn key(&mut self, rights: &[crate::layout::Field]) -> Result<u32> {
        key(&mut self.driver, self.domain, rights)
    }

    /// Writes bytes that depend on their places.
    pub(super) fn fill(&self, side: usize, seed: u8) -> Result<Vec<u8>> {
        let bytes: Vec<u8> = (0..MEMORY)
            .map(|at| (at as u8).wrapping_mul(13) ^ (at >> 8) as u8 ^ seed)
            .collect();
        self.driver.write(self.memory[side], &bytes)?;
        Ok(bytes)
    }

    pub(super) fn content(&self, side: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; MEMORY as usize];
        self.driver.read(self.memory[side], &mut bytes)?;
        Ok(bytes)
    }

    /// A segment for memory of one side.
    pub(super) fn at(&self, side: usize, offset: u64, length: u64) -> Vec<u8> {
        segment(self.key, self.memory[side] + offset, length)
    }

    /// A segment that names memory at the other end.
    pub(super) fn remote(&self, side: usize, offset: u64) -> Vec<u8> {
        let mut bytes = (self.memory[side] + offset).to_be_bytes().to_vec();
        bytes.extend(self.key.to_be_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// Posts a receive.
    pub(super) fn receive(&mut self, side: usize, segments: &[Vec<u8>]) -> Result<()> {
        let end = &mut self.ends[side];
        let mut entry = segments.concat();
        entry.extend([0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if let Some(shared) = &mut end.shared {
            let next = place(shared.posted + 1).to_be_bytes();
            let mut link = vec![0, 0, next[0], next[1]];
            link.resize(16, 0);
            link.extend(entry);
            link.resize(64, 0);
            let at = shared.buffer + u64::from(place(shared.posted)) * 64;
            self.driver.write(at, &link)?;
            shared.posted += 1;
            let count = u32::from(shared.posted).to_be_bytes();
            return self.driver.write(shared.record, &count);
        }
        entry.resize(64, 0);
        let place = end.buffer + u64::from(end.receives % 16) * 64;
        self.driver.write(place, &entry)?;
        end.receives += 1;
        let count = u32::from(end.receives).to_be_bytes();
        self.driver.write(end.record, &count)
    }

    /// Posts a request without telling the device.
    pub(super) fn queue(
        &mut self,
        side: usize,
        opcode: u8,
        flags: u8,
        segments: &[Vec<u8>],
    ) -> Result<()> {
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
            let place = end.next_send();
            self.driver.write(place, piece)?;
            end.sends = end.sends.wrapping_add(1);
        }
        let count = u32::from(end.sends).to_be_bytes();
        self.driver.write(end.record + 4, &count)
    }

    pub(super) fn ring(&mut self, side: usize) {
        let mut bytes = [0; 8];
        bytes[4..].copy_from_slice(&(self.ends[side].number << 8).to_be_bytes());
        self.driver.ring(self.page, 0x800, &bytes);
    }

    /// Posts a request.
    pub(super) fn send(
        &mut self,
        side: usize,
        opcode: u8,
        flags: u8,
        segments: &[Vec<u8>],
    ) -> Result<()> {
        self.queue(side, opcode, flags, segments)?;
        self.ring(side);
        Ok(())
    }

    /// The next completion of a side, if there is one.
    pub(super) fn poll(&mut self, side: usize) -> Result<Option<[u8; 64]>> {
        let ring = &mut self.ends[side].ring;
        let found = self.driver.next(ring)?;
        self.driver
            .write(ring.record, &ring.consumed.to_be_bytes())?;
        Ok(found)
    }

    /// The next completion in a side's extended queue, if there is one.
    pub(super) fn poll_shared(&mut self, side: usize) -> Result<Option<[u8; 64]>> {
        let shared = self.ends[side].shared.as_mut();
        let ring = shared.and_then(|shared| shared.ring.as_mut());
        let ring = ring.context("no extended queue")?;
        let found = self.driver.next(ring)?;
        self.driver
            .write(ring.record, &ring.consumed.to_be_bytes())?;
        Ok(found)
    }

    /// The segment that names a side's extended queue.
    pub(super) fn to_shared(&self, side: usize) -> Result<Vec<u8>> {
        let shared = self.ends[side].shared.as_ref();
        let number = shared.context("no shared queue")?.number;
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(16, 0);
        Ok(bytes)
    }

    /// The next completion of a side, for which time goes by.
    pub(super) fn wait(&mut self, side: usize) -> Result<[u8; 64]> {
        for _ in 0..100_000 {
            if let Some(entry) = self.poll(side)? {
                return Ok(entry);
            }
            self.driver.device.tick();
        }
        self.poll(side)?.context("no completion")
    }
}

pub(super) fn segment(key: u32, address: u64, length: u64) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes().to_vec();
    bytes.extend(key.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    bytes
}

pub(super) fn inline(data: &[u8]) -> Vec<u8> {
    let mut bytes = (0x8000_0000 | data.len() as u32).to_be_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// What queue pairs are made of.
struct Given {
    page: u32,
    events: u32,
    domain: u32,
    connections: u32,
}

/// Makes a queue pair.
fn end(driver: &mut Driver, given: &Given, wish: &Wish) -> Result<End> {
    let ring = driver.completion_queue(given.page, given.events, 5)?;
    let (buffer, record) = (driver.allocate(0x1000)?, driver.allocate(0x1000)?);
    let shared = match (wish.shared, wish.service) {
        (true, EXTENDED) => Some(extended(driver, given)?),
        (true, _) => Some(plain(driver, given)?),
        (false, _) => None,
    };
    let mut input = vec![0; create_qp_in::BYTES];
    let context = create_qp_in::QPC.of_mut(&mut input);
    qpc::ST.set(context, wish.service);
    if wish.service != KEY_UPDATES {
        qpc::PD.set(context, given.domain);
    }
    qpc::XRCD.set(context, given.connections);
    qpc::UAR_PAGE.set(context, given.page);
    qpc::CQN_SND.set(context, ring.number);
    qpc::CQN_RCV.set(context, ring.number);
    qpc::LOG_SQ_SIZE.set(context, 4_u64);
    qpc::DBR_ADDR.set(context, record);
    qpc::USER_INDEX.set(context, 0x77_u64);
    match &shared {
        Some(shared) => {
            qpc::RQ_TYPE.set(context, 1_u64);
            qpc::SRQN_RMPN_XRQN.set(context, shared.number);
        }
        None => {
            qpc::LOG_RQ_SIZE.set(context, 4_u64);
            qpc::LOG_RQ_STRIDE.set(context, 2_u64);
        }
    }
    match driver.in_user_memory {
        true => {
            let memory = driver.user_memory(&[record, buffer])?;
            QUEUES.name(&mut input, memory, 0x1000);
            RECORD.name(&mut input, memory, 0);
        }
        false => input.extend(pages(buffer, 0x1000)),
    }
    let number = driver.number(0x500, &input, create_qp_out::QPN)?;
    Ok(End {
        number,
        ring,
        buffer,
        record,
        sends: 0,
        receives: 0,
        shared,
    })
}

fn plain(driver: &mut Driver, given: &Given) -> Result<Shared> {
    let (buffer, record) = (driver.allocate(0x1000)?, driver.allocate(0x1000)?);
    let mut input = vec![0; create_rmp_in::BYTES];
    let queue = rmpc::WQ.of_mut(create_rmp_in::CTX.of_mut(&mut input));
    wq::PD.set(queue, given.domain);
    wq::LOG_WQ_STRIDE.set(queue, 6_u64);
    wq::LOG_WQ_SZ.set(queue, 4_u64);
    wq::DBR_ADDR.set(queue, record);
    input.extend(pages(buffer, 0x1000));
    Ok(Shared {
        number: driver.number(0x90c, &input, create_rmp_out::RMPN)?,
        buffer,
        record,
        posted: 0,
        ring: None,
    })
}

fn extended(driver: &mut Driver, given: &Given) -> Result<Shared> {
    let ring = driver.completion_queue(given.page, given.events, 5)?;
    let (buffer, record) = (driver.allocate(0x1000)?, driver.allocate(0x1000)?);
    let mut input = vec![0; create_xrc_srq_in::BYTES];
    let context = create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY.of_mut(&mut input);
    xrc_srqc::PD.set(context, given.domain);
    xrc_srqc::XRCD.set(context, given.connections);
    xrc_srqc::CQN.set(context, ring.number);
    xrc_srqc::LOG_XRC_SRQ_SIZE.set(context, 4_u64);
    xrc_srqc::LOG_RQ_STRIDE.set(context, 2_u64);
    xrc_srqc::USER_INDEX.set(context, 0x99_u64);
    xrc_srqc::DB_RECORD_ADDR_H.set(context, record >> 32);
    xrc_srqc::DB_RECORD_ADDR_L.set(context, record >> 2);
    input.extend(pages(buffer, 0x1000));
    Ok(Shared {
        number: driver.number(0x705, &input, create_xrc_srq_out::XRC_SRQN)?,
        buffer,
        record,
        posted: 0,
        ring: Some(ring),
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
pub(super) fn kind(entry: &[u8; 64]) -> (u8, u8) {
    (entry[63] >> 4, entry[0x38])
}

pub(super) fn bytes(entry: &[u8; 64]) -> u32 {
    u32::from_be_bytes([entry[0x2c], entry[0x2d], entry[0x2e], entry[0x2f]])
}

impl Scene {
    /// Both queue pairs begin anew.
    pub(super) fn again(mut self, wish: &Wish) -> Result<Self> {
        for side in 0..2 {
            let end = &mut self.ends[side];
            let mut input = vec![0; 16];
            rst2init_qp_in::QPN.set(&mut input, end.number);
            self.driver.execute(0x50a, &input, 16)?;
            (end.sends, end.receives) = (0, 0);
            self.driver.write(end.record, &[0; 8])?;
        }
        self.connected(wish)
    }
}

/// Posts a request that fails, and one after it.
pub(super) fn fails(
    scene: &mut Scene,
    opcode: u8,
    segments: &[Vec<u8>],
    syndrome: u8,
) -> Result<()> {
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
