// SPDX-License-Identifier: GPL-2.0
//! A driver that is no more than its way to the device: memory, the command queue and mailboxes, doorbells.

use std::sync::Arc;

use anyhow::{ensure, Context, Result};

use crate::clock::Stepping;
use crate::cq;
use crate::layout::{
    atomic_caps, cmd_hca_cap, cmd_queue_entry, cqc, create_cq_in, create_cq_out, create_eq_in,
    create_eq_out, create_umem_in, create_umem_out, eqc, init_hca_in, manage_pages_in,
    manage_pages_out, odp_cap, query_hca_cap_out, query_pages_in, query_pages_out, set_hca_cap_in,
    set_issi_in, umem, Field,
};
use crate::memory::{tests::flat, GuestMemory};
use crate::mkey::{READABLE, WRITABLE};
use crate::trace::{tests::Page, Trace, Violation};
use crate::{Device, Options, Profile, Registers, PROFILES};

/// The driver's memory, and where in it the command queue is.
pub(crate) const MEMORY: u64 = 16 << 20;
const QUEUE: u64 = 0x1000;
const FIRST_FREE: u64 = 0x4000;
const PAGE: u64 = 0x1000;

const TOKEN: u8 = 0x5a;

/// Ticks that a command takes at most.
const PATIENCE: u32 = 100_000;

/// How a command ended: its output, or the status by which it was refused.
pub(crate) type Answer = Result<Vec<u8>, u64>;

/// A driver with its device.
pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) registers: Registers,
    pub(crate) memory: GuestMemory,
    /// Vectors that were raised.
    pub(crate) raised: Vec<u16>,
    /// Whether it wants numbers that atomics change to lie in memory as on most hosts.
    pub(crate) little_endian: bool,
    /// Whether queues are in user memory.
    pub(crate) in_user_memory: bool,
    trace: Trace,
    said: Page,
    free: u64,
}

/// An event queue or a completion queue as its driver knows it.
pub(crate) struct Ring {
    pub(crate) number: u32,
    pub(crate) address: u64,
    pub(crate) log_size: u32,
    pub(crate) record: u64,
    pub(crate) consumed: u32,
}

impl Driver {
    pub(crate) fn new() -> Result<Self> {
        Self::of(PROFILES[0])
    }

    /// One whose device announces these capabilities.
    pub(crate) fn of(profile: Profile) -> Result<Self> {
        Self::at(profile, 1)
    }

    /// One whose device's port has this LID.
    pub(crate) fn at(profile: Profile, lid: u16) -> Result<Self> {
        let said = Page::default();
        let trace = Trace::to(Box::new(said.clone()));
        let memory = flat(MEMORY)?;
        let options = Options {
            profile,
            guid: 0x0002_c903_0000_0100,
            lid,
        };
        let clock = Arc::new(Stepping::default());
        let (device, registers) = Device::new(options, memory.clone(), clock, trace.clone());
        Ok(Self {
            device,
            registers,
            memory,
            raised: Vec::new(),
            little_endian: false,
            in_user_memory: false,
            trace,
            said,
            free: FIRST_FREE,
        })
    }

    /// One whose device is initialised.
    pub(crate) fn initialised() -> Result<Self> {
        let mut driver = Self::new()?;
        driver.probe()?;
        Ok(driver)
    }

    /// What `mlx5_core` does until the device works.
    pub(crate) fn probe(&mut self) -> Result<()> {
        ensure!(
            self.read32(4) >> 16 == 5,
            "the command interface's revision"
        );
        self.write32(0x10, 0);
        self.write32(0x14, QUEUE as u32);
        self.execute(0x104, &[], 16)?;
        self.execute(0x10a, &[], 0x70)?;
        let mut input = [0; 16];
        set_issi_in::CURRENT_ISSI.set(&mut input, 1_u64);
        self.execute(0x10b, &input, 16)?;
        self.give_pages(1)?;
        self.choose_capabilities()?;
        self.give_pages(2)?;
        self.execute(0x102, &[0; init_hca_in::BYTES], 16)?;
        Ok(())
    }

    /// What it does in the end.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.execute(0x103, &[0; 16], 16)?;
        let mut lent = 1;
        while lent != 0 {
            let mut input = [0; 16];
            query_pages_in::OP_MOD.set(&mut input, 2_u64);
            manage_pages_in::INPUT_NUM_ENTRIES.set(&mut input, 10_u64);
            let output = self.execute(0x108, &input, manage_pages_out::BYTES + 80)?;
            lent = manage_pages_out::OUTPUT_NUM_ENTRIES.get(&output);
        }
        self.execute(0x105, &[], 16)?;
        Ok(())
    }

    fn give_pages(&mut self, when: u64) -> Result<()> {
        let mut input = vec![0; 16];
        query_pages_in::OP_MOD.set(&mut input, when);
        let output = self.execute(0x107, &input, 16)?;
        let count = query_pages_out::NUM_PAGES.get(&output);
        query_pages_in::OP_MOD.set(&mut input, 1_u64);
        manage_pages_in::INPUT_NUM_ENTRIES.set(&mut input, count);
        for _ in 0..count {
            input.extend(self.allocate(PAGE)?.to_be_bytes());
        }
        self.execute(0x108, &input, 16)?;
        Ok(())
    }

    fn choose_capabilities(&mut self) -> Result<()> {
        let mut input = vec![0; set_hca_cap_in::BYTES];
        query_pages_in::OP_MOD.set(&mut input[..16], 1_u64);
        let output = self.execute(0x100, &input[..16], query_hca_cap_out::BYTES)?;
        query_pages_in::OP_MOD.set(&mut input, 0_u64);
        let current = query_hca_cap_out::CAPABILITY.of(&output);
        set_hca_cap_in::CAPABILITY
            .of_mut(&mut input)
            .copy_from_slice(current);
        cmd_hca_cap::LOG_MAX_QP.set(&mut input[16..], 12_u64);
        self.execute(0x109, &input, 16)?;
        if self.little_endian {
            let mut input = vec![0; set_hca_cap_in::BYTES];
            query_pages_in::OP_MOD.set(&mut input, 3_u64 << 1);
            let mode = atomic_caps::ATOMIC_REQ_8B_ENDIANNESS_MODE;
            mode.set(set_hca_cap_in::CAPABILITY.of_mut(&mut input), 1_u64);
            self.execute(0x109, &input, 16)?;
        }
        self.choose_page_faults()
    }

    /// Chooses the newer way in which page faults are told, if there is one.
    fn choose_page_faults(&mut self) -> Result<()> {
        let mut input = vec![0; set_hca_cap_in::BYTES];
        query_pages_in::OP_MOD.set(&mut input[..16], 2_u64 << 1);
        let maximal = match self.try_command(0x100, &input[..16], query_hca_cap_out::BYTES)? {
            Ok(maximal) => maximal,
            Err(_) => return Ok(()),
        };
        query_pages_in::OP_MOD.set(&mut input[..16], (2_u64 << 1) | 1);
        let current = self.execute(0x100, &input[..16], query_hca_cap_out::BYTES)?;
        let newer = odp_cap::MEM_PAGE_FAULT.get(query_hca_cap_out::CAPABILITY.of(&maximal));
        query_pages_in::OP_MOD.set(&mut input, 2_u64 << 1);
        let chosen = set_hca_cap_in::CAPABILITY.of_mut(&mut input);
        chosen.copy_from_slice(query_hca_cap_out::CAPABILITY.of(&current));
        odp_cap::MEM_PAGE_FAULT.set(chosen, newer);
        self.execute(0x109, &input, 16)?;
        Ok(())
    }

    /// A piece of memory of its own, of whole pages.
    pub(crate) fn allocate(&mut self, size: u64) -> Result<u64> {
        let address = self.free;
        self.free += size.next_multiple_of(PAGE);
        ensure!(self.free <= MEMORY, "the driver's memory is used up");
        Ok(address)
    }

    /// Executes a command that has to succeed. `input` is filled up to the shortest one.
    pub(crate) fn execute(&mut self, opcode: u16, input: &[u8], output: usize) -> Result<Vec<u8>> {
        let answer = self.try_command(opcode, input, output)?;
        answer.map_err(|status| anyhow::anyhow!("command {opcode:#x}: status {status:#x}"))
    }

    /// Executes a command. Memory for mailboxes is given back afterwards.
    pub(crate) fn try_command(
        &mut self,
        opcode: u16,
        input: &[u8],
        output: usize,
    ) -> Result<Answer> {
        let free = self.free;
        let mut input = input.to_vec();
        input.resize(input.len().max(16), 0);
        query_pages_in::OPCODE.set(&mut input, u64::from(opcode));
        let mut entry = [0; 64];
        entry[16..32].copy_from_slice(&input[..16]);
        cmd_queue_entry::TYPE.set(&mut entry, 7_u64);
        cmd_queue_entry::TOKEN.set(&mut entry, u64::from(TOKEN));
        cmd_queue_entry::OWNERSHIP.set(&mut entry, 1_u64);
        cmd_queue_entry::INPUT_LENGTH.set(&mut entry, input.len() as u64);
        cmd_queue_entry::OUTPUT_LENGTH.set(&mut entry, output as u64);
        let inputs = self.mailboxes(&input[16..])?;
        let outputs = self.mailboxes(&vec![0xee; output.saturating_sub(16)])?;
        entry[8..16].copy_from_slice(&first(&inputs).to_be_bytes());
        entry[48..56].copy_from_slice(&first(&outputs).to_be_bytes());
        self.write(QUEUE, &entry)?;
        self.write32(0x18, 1);
        self.read(QUEUE, &mut entry)?;
        for _ in 0..PATIENCE {
            if !cmd_queue_entry::OWNERSHIP.is_set(&entry) {
                break;
            }
            self.raised.extend(self.device.tick().into_iter().flatten());
            self.read(QUEUE, &mut entry)?;
        }
        self.free = free;
        ensure!(
            !cmd_queue_entry::OWNERSHIP.is_set(&entry),
            "the entry did not come back"
        );
        let delivery = cmd_queue_entry::STATUS.get(&entry);
        ensure!(delivery == 0, "delivery status {delivery:#x}");
        let mut answer = entry[32..48].to_vec();
        for address in outputs {
            let mut data = [0; 512];
            self.read(address, &mut data)?;
            answer.extend(data);
        }
        answer.truncate(output);
        Ok(match query_pages_out::STATUS.get(&answer) {
            0 => Ok(answer),
            status => Err(status),
        })
    }

    /// Puts data into a chain of mailboxes; gives their places.
    fn mailboxes(&mut self, data: &[u8]) -> Result<Vec<u64>> {
        let count = data.len().div_ceil(512);
        let places = (0..count)
            .map(|_| self.allocate(PAGE))
            .collect::<Result<Vec<_>>>()?;
        for (number, piece) in data.chunks(512).enumerate() {
            let mut mailbox = [0; 576];
            mailbox[..piece.len()].copy_from_slice(piece);
            let next = places.get(number + 1).copied().unwrap_or(0);
            mailbox[0x230..0x238].copy_from_slice(&next.to_be_bytes());
            mailbox[0x238..0x23c].copy_from_slice(&(number as u32).to_be_bytes());
            mailbox[0x23d] = TOKEN;
            self.write(places[number], &mailbox)?;
        }
        Ok(places)
    }

    /// A command whose output is a number.
    pub(crate) fn number(&mut self, opcode: u16, input: &[u8], field: Field) -> Result<u32> {
        let output = self.execute(opcode, input, 16)?;
        Ok(field.get32(&output))
    }

    /// A command about an object of that number.
    pub(crate) fn about(&mut self, opcode: u16, field: Field, number: u32) -> Result<Answer> {
        let mut input = [0; 16];
        field.set(&mut input, number);
        self.try_command(opcode, &input, 16)
    }

    /// All entries of a ring are the device's as long as it has written none.
    fn give(&mut self, address: u64, log_size: u32) -> Result<()> {
        (0..1 << log_size).try_for_each(|at| self.write(address + at * 64 + 63, &[1]))
    }

    /// Makes an event queue for events with these bits.
    pub(crate) fn event_queue(&mut self, page: u32, log_size: u32, events: u64) -> Result<Ring> {
        let size = 64 << log_size;
        let address = self.allocate(size)?;
        self.give(address, log_size)?;
        let mut input = vec![0; create_eq_in::BYTES];
        let context = create_eq_in::EQ_CONTEXT_ENTRY.of_mut(&mut input);
        eqc::LOG_EQ_SIZE.set(context, log_size);
        eqc::UAR_PAGE.set(context, page);
        eqc::INTR.set(context, 3_u64);
        let mask = create_eq_in::EVENT_BITMASK.bit / 8;
        input[mask..mask + 8].copy_from_slice(&events.to_be_bytes());
        input.extend(pages(address, size));
        let number = self.number(0x301, &input, create_eq_out::EQ_NUMBER)?;
        Ok(Ring {
            number,
            address,
            log_size,
            record: 0,
            consumed: 0,
        })
    }

    /// Makes user memory of these pages, for reading and writing.
    pub(crate) fn user_memory(&mut self, pages: &[u64]) -> Result<u32> {
        let input = user_memory_of(pages, READABLE | WRITABLE);
        self.number(0xa08, &input, create_umem_out::UMEM_ID)
    }

    /// Makes a completion queue.
    pub(crate) fn completion_queue(&mut self, page: u32, eq: u32, log_size: u32) -> Result<Ring> {
        let size = 64 << log_size;
        let address = self.allocate(size)?;
        self.give(address, log_size)?;
        let record = self.allocate(PAGE)?;
        let mut input = vec![0; create_cq_in::BYTES];
        let context = create_cq_in::CQ_CONTEXT.of_mut(&mut input);
        cqc::LOG_CQ_SIZE.set(context, log_size);
        cqc::UAR_PAGE.set(context, page);
        cqc::C_EQN_OR_APU_ELEMENT.set(context, eq);
        cqc::DBR_ADDR.set(context, record);
        match self.in_user_memory {
            true => {
                let memory = self.user_memory(&[record, address])?;
                cq::RING.name(&mut input, memory, PAGE);
                cq::RECORD.name(&mut input, memory, 0);
            }
            false => input.extend(pages(address, size)),
        }
        let number = self.number(0x400, &input, create_cq_out::CQN)?;
        Ok(Ring {
            number,
            address,
            log_size,
            record,
            consumed: 0,
        })
    }

    /// The next entry of a ring, if there is one.
    pub(crate) fn next(&mut self, ring: &mut Ring) -> Result<Option<[u8; 64]>> {
        let size = 1 << ring.log_size;
        let mut entry = [0; 64];
        self.read(
            ring.address + u64::from(ring.consumed % size) * 64,
            &mut entry,
        )?;
        let owner = u32::from(entry[63] & 1);
        if owner != (ring.consumed >> ring.log_size) & 1 {
            return Ok(None);
        }
        ring.consumed += 1;
        Ok(Some(entry))
    }

    /// Rings a doorbell.
    pub(crate) fn ring(&mut self, page: u32, offset: u64, bytes: &[u8]) {
        let event = self.registers.write(u64::from(page) * PAGE + offset, bytes);
        if let Some(event) = event {
            let raised = self.device.handle(event);
            self.raised.extend(raised);
        }
    }

    pub(crate) fn write32(&mut self, offset: u64, value: u32) {
        self.ring(0, offset, &value.to_be_bytes());
    }

    pub(crate) fn read32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.registers.read(offset, &mut bytes);
        u32::from_be_bytes(bytes)
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let written = self.memory.write(address, bytes);
        written.map_err(|refused| anyhow::anyhow!("{refused}"))
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.memory.read(address, bytes);
        read.map_err(|refused| anyhow::anyhow!("{refused}"))
    }

    /// What was wrong.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.trace.violations()
    }

    /// The last line of the trace of that kind.
    pub(crate) fn last(&self, what: &str) -> Result<serde_json::Value> {
        let text = self.said.text();
        let mut lines = text.lines().rev();
        let line = lines.find(|line| line.contains(&format!("\"what\":\"{what}\"")));
        Ok(serde_json::from_str(line.context("no such line")?)?)
    }

    /// All of the trace.
    pub(crate) fn said(&self) -> String {
        self.said.text()
    }
}

/// The input that makes user memory of these pages, with these rights.
pub(crate) fn user_memory_of(pages: &[u64], rights: u64) -> Vec<u8> {
    let mut input = vec![0; create_umem_in::BYTES];
    let context = create_umem_in::UMEM.of_mut(&mut input);
    umem::NUM_OF_MTT.set(context, pages.len() as u64);
    let entries = pages.iter().map(|page| page | rights);
    input.extend(entries.flat_map(u64::to_be_bytes));
    input
}

/// The addresses of a buffer's pages, as commands have them.
pub(crate) fn pages(address: u64, size: u64) -> Vec<u8> {
    let count = size.div_ceil(PAGE);
    (0..count)
        .flat_map(|page| (address + page * PAGE).to_be_bytes())
        .collect()
}

fn first(places: &[u64]) -> u64 {
    places.first().copied().unwrap_or(0)
}
