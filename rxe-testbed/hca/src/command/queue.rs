// SPDX-License-Identifier: GPL-2.0
//! The command queue. The driver rings a doorbell for its entries: the input of each is gathered, the command executed,
//! its output spread, and the entry given back.
//!
//! Signatures are neither checked nor made: the driver switches them off (`cmdif_checksum`).

use serde_json::json;

use super::definition::{SHORT, SHORTEST};
use super::{find, opcode, users};
use crate::device::Device;
use crate::eq::Event;
use crate::hold::Fate;
use crate::layout::{cmd_queue_entry, query_pages_in, query_pages_out};
use crate::segment::{LOG_ENTRIES, LOG_STRIDE};
use crate::status::Status;
use crate::trace::Rule;

/// Who these accesses to memory are by.
const WHO: &str = "command";

/// Data in one mailbox, and its bytes in all.
const DATA: usize = 512;
const MAILBOX: usize = 576;
const NEXT: usize = 0x230;
const NUMBER: usize = 0x238;
const TOKEN: usize = 0x23d;

/// More than any command takes: the pages of the largest completion queue, of entries of the largest size.
const LONGEST: usize = 3 << 19;

/// How far an entry's input and output lie in it.
const INPUT: usize = 0x10;
const OUTPUT: usize = 0x20;

/// The kind of entry that PCI drivers use.
const TRANSPORT: u64 = 7;

/// Why an entry could not be executed, as its status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// A mailbox with another token.
    Token = 0x2,
    /// Mailboxes in a wrong order.
    BlockNumber = 0x3,
    /// Mailboxes where no memory is.
    Firmware = 0x6,
    /// Too much or no input.
    InputLength = 0x7,
    /// Too much or no output.
    OutputLength = 0x8,
    /// An entry of a kind that there is not.
    Descriptor = 0x10,
}

/// A message: what is in the entry, and mailboxes for the rest.
struct Message {
    mailboxes: u64,
    length: usize,
    token: u8,
}

impl Device {
    /// Executes the entries that the driver has rung the doorbell for.
    pub(crate) fn execute(&mut self, entries: u32) {
        for entry in 0..u32::BITS {
            if (entries >> entry) & 1 == 0 {
                continue;
            }
            match self.registers.queue_address() {
                Some(queue) if entry < 1 << LOG_ENTRIES => self.execute_entry(queue, entry),
                _ => {
                    let text = format!("a doorbell for entry {entry}, which is not there");
                    self.bus.violation(Rule::Interface, text);
                }
            }
        }
    }

    fn execute_entry(&mut self, queue: u64, number: u32) {
        let place = queue + u64::from(number << LOG_STRIDE);
        let mut entry = [0; 1 << LOG_STRIDE];
        if self.bus.read(WHO, place, &mut entry).is_err() {
            return;
        }
        if !cmd_queue_entry::OWNERSHIP.is_set(&entry) {
            let text = format!("a doorbell for entry {number}, which is the driver's");
            return self.bus.violation(Rule::Interface, text);
        }
        match self.fate(queue, number, &entry[INPUT..INPUT + SHORT]) {
            Fate::NotNow => {}
            Fate::Executed => self.finish_entry(queue, number),
            Fate::Refused(status) => self.finish_entry_with(queue, number, Some(status)),
        }
    }

    /// Executes an entry for which the doorbell was rung before.
    pub(crate) fn finish_entry(&mut self, queue: u64, number: u32) {
        self.finish_entry_with(queue, number, None);
    }

    /// The same; but if there is a status the command is not executed, and ends so.
    fn finish_entry_with(&mut self, queue: u64, number: u32, refused: Option<Status>) {
        let place = queue + u64::from(number << LOG_STRIDE);
        let mut entry = [0; 1 << LOG_STRIDE];
        if self.bus.read(WHO, place, &mut entry).is_err() {
            return;
        }
        // A queue that the command itself makes does not hear of it.
        let listener = self.events.listener(Event::Command);
        let status = match self.deliver(&mut entry, refused) {
            Ok(()) => 0,
            Err(delivery) => {
                let text = format!("entry {number} cannot be executed: {delivery:?}");
                self.bus.violation(Rule::Interface, text);
                delivery as u64
            }
        };
        cmd_queue_entry::STATUS.set(&mut entry, status);
        cmd_queue_entry::OWNERSHIP.set(&mut entry, 0_u64);
        let output = &entry[OUTPUT..OUTPUT + SHORT];
        let written = self.bus.write(WHO, place + OUTPUT as u64, output);
        let last = entry.len() - 4;
        if written.is_ok() {
            // The last word gives the entry back.
            let _ = self.bus.write(WHO, place + last as u64, &entry[last..]);
        }
        if let Some(queue) = listener {
            self.events.command_done(queue, number, &self.bus);
        }
    }

    /// Executes an entry, and puts the beginning of the output into it.
    fn deliver(&mut self, entry: &mut [u8], refused: Option<Status>) -> Result<(), Delivery> {
        if cmd_queue_entry::TYPE.get(entry) != TRANSPORT {
            return Err(Delivery::Descriptor);
        }
        let token = cmd_queue_entry::TOKEN.get(entry) as u8;
        let pointer = |high: crate::layout::Field, low: crate::layout::Field| {
            (high.get(entry) << 32) | (low.get(entry) << 9)
        };
        let message = |mailboxes, length: u32, error| {
            let length = length as usize;
            let fits = (SHORTEST..=LONGEST).contains(&length);
            let message = Message {
                mailboxes,
                length,
                token,
            };
            fits.then_some(message).ok_or(error)
        };
        let input = message(
            pointer(
                cmd_queue_entry::INPUT_MAILBOX_POINTER_63_32,
                cmd_queue_entry::INPUT_MAILBOX_POINTER_31_9,
            ),
            cmd_queue_entry::INPUT_LENGTH.get32(entry),
            Delivery::InputLength,
        )?;
        let output = message(
            pointer(
                cmd_queue_entry::OUTPUT_MAILBOX_POINTER_63_32,
                cmd_queue_entry::OUTPUT_MAILBOX_POINTER_31_9,
            ),
            cmd_queue_entry::OUTPUT_LENGTH.get32(entry),
            Delivery::OutputLength,
        )?;
        let bytes = self.gather(&entry[INPUT..INPUT + SHORT], &input)?;
        let places = self.mailboxes(&output)?;
        let answer = self.answer(&bytes, output.length, refused);
        let (inline, rest) = answer.split_at(answer.len().min(SHORT));
        entry[OUTPUT..OUTPUT + inline.len()].copy_from_slice(inline);
        for (place, data) in places.iter().zip(rest.chunks(DATA)) {
            let written = self.bus.write(WHO, *place, data);
            written.map_err(|_| Delivery::Firmware)?;
        }
        Ok(())
    }

    /// The whole of a message's data.
    fn gather(&self, inline: &[u8], message: &Message) -> Result<Vec<u8>, Delivery> {
        let mut bytes = inline.to_vec();
        for place in self.mailboxes(message)? {
            let mut data = [0; DATA];
            let read = self.bus.read(WHO, place, &mut data);
            read.map_err(|_| Delivery::Firmware)?;
            bytes.extend(data);
        }
        bytes.truncate(message.length);
        Ok(bytes)
    }

    /// Where a message's mailboxes are, after a look at each.
    fn mailboxes(&self, message: &Message) -> Result<Vec<u64>, Delivery> {
        let count = message.length.saturating_sub(SHORT).div_ceil(DATA);
        let mut places = Vec::with_capacity(count);
        let mut place = message.mailboxes;
        for number in 0..count {
            let mut tail = [0; MAILBOX - DATA];
            let at = place.wrapping_add(DATA as u64);
            let read = self.bus.read(WHO, at, &mut tail);
            read.map_err(|_| Delivery::Firmware)?;
            let word = |offset: usize| {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&tail[offset - DATA..offset - DATA + 4]);
                u32::from_be_bytes(bytes)
            };
            if tail[TOKEN - DATA] != message.token {
                return Err(Delivery::Token);
            }
            if word(NUMBER) as usize != number {
                return Err(Delivery::BlockNumber);
            }
            places.push(place);
            place = (u64::from(word(NEXT)) << 32) | u64::from(word(NEXT + 4));
        }
        Ok(places)
    }

    /// Executes a command, unless it is refused; gives its output.
    fn answer(&mut self, input: &[u8], length: usize, refused: Option<Status>) -> Vec<u8> {
        let opcode = opcode(input);
        let modifier = query_pages_in::OP_MOD.get(input);
        let command = find(opcode);
        let mut output = vec![0; command.map_or(length, |command| length.max(command.output))];
        let result = match command {
            None => Err(Status::BadOperation),
            Some(command) if self.state < command.from => Err(Status::BadSystemState),
            Some(command) if input.len() < command.input => Err(Status::BadInputLength),
            Some(command) if length < command.shortest => Err(Status::BadOutputLength),
            Some(_) if refused.is_some() => refused.map_or(Ok(()), Err),
            Some(command) => {
                let may = users::may(&self.users, opcode, input);
                may.and_then(|()| (command.run)(self, input, &mut output))
            }
        };
        if let Err(status) = result {
            output.fill(0);
            query_pages_out::STATUS.set(&mut output, status as u64);
            // What a driver prints, for people: which command it was.
            query_pages_out::SYNDROME.set(&mut output, u64::from(opcode));
        }
        let name = command.map_or("unknown", |command| command.name);
        self.bus.event("command", || {
            let status = result.err().map(|status| format!("{status:?}"));
            json!({
                "command": name,
                "opcode": opcode,
                "op_mod": modifier,
                "status": status.unwrap_or_else(|| "OK".into()),
            })
        });
        output.truncate(length);
        output
    }
}
