// SPDX-License-Identifier: GPL-2.0
//! Whatever a guest does, the device neither panics nor writes to memory that it was not given for that.

use anyhow::Result;

use super::driver::{Driver, MEMORY};
use crate::command;
use crate::layout::create_eq_in;

/// Commands that are executed with random input.
const COMMANDS: u32 = 400_000;

/// Random entries of the command queue, mailboxes and doorbells.
const ACCESSES: u32 = 500_000;

/// A sequence of numbers that looks random, the same one for the same seed (xorshift64*).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Mostly small numbers: those that exist.
    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let sparse = self.below(4);
        let byte = |dice: &mut Self| match dice.below(sparse * 8 + 1) {
            0 => dice.next() as u8 >> (dice.below(8)),
            _ => 0,
        };
        (0..length).map(|_| byte(self)).collect()
    }
}

#[test]
fn commands_with_any_input() -> Result<()> {
    let all: Vec<_> = command::all().collect();
    let mut dice = Dice(2026);
    let mut driver = Driver::initialised()?;
    let mut done = 0;
    for _ in 0..COMMANDS {
        let command = all[dice.below(all.len() as u64) as usize];
        // Only now and then a command that ends everything.
        if matches!(command.opcode, 0x103..=0x105 | 0x109) && dice.below(50) != 0 {
            continue;
        }
        let more = [0, 0, 8, 64, 4096][dice.below(5) as usize];
        let mut input = dice.bytes(command.input + more);
        // Buffers of queues that are where memory is.
        if command.input == create_eq_in::BYTES {
            let pages = input.iter_mut().skip(command.input);
            pages.enumerate().for_each(|(at, byte)| match at % 8 {
                6 => *byte &= 0xf0,
                5 => {}
                _ => *byte = 0,
            });
        }
        let answer = driver.try_command(command.opcode, &input, command.output + more)?;
        done += u32::from(answer.is_ok());
        if driver.device.state != crate::device::HcaState::Initialised {
            driver = Driver::initialised()?;
        }
    }
    // It is not all refused at once.
    assert!(done > COMMANDS / 20, "{done}");
    Ok(())
}

#[test]
fn any_entry_any_mailbox_any_doorbell() -> Result<()> {
    let mut dice = Dice(15);
    let mut driver = Driver::initialised()?;
    let page = driver.number(0x802, &[], crate::layout::alloc_uar_out::UAR)?;
    for _ in 0..ACCESSES {
        match dice.below(4) {
            0 => {
                let bytes = dice.bytes(64);
                driver.write(0x1000 + dice.below(32) * 64, &bytes)?;
                driver.write(0x1000 + dice.below(32) * 64 + 63, &[1])?;
                driver.write(0x1000 + dice.below(32) * 64, &[7])?;
            }
            1 => driver.write(dice.below(MEMORY / 64) * 64, &dice.bytes(64))?,
            2 => {
                let length = [1, 2, 4, 8, 64][dice.below(5) as usize];
                let bytes = dice.bytes(length);
                driver.ring(page, dice.below(0x1000), &bytes);
            }
            _ => driver.write32(0x18, dice.next() as u32),
        }
    }
    let reset = driver.registers.reset();
    driver.device.handle(reset);
    driver.probe()?;
    Ok(())
}

#[test]
fn nothing_outside_of_a_queue_is_written() -> Result<()> {
    let mut driver = Driver::initialised()?;
    let page = driver.number(0x802, &[], crate::layout::alloc_uar_out::UAR)?;
    let ring = driver.event_queue(page, 2, u64::MAX)?;
    let around = |driver: &Driver| -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut before, mut after) = (vec![0; 64], vec![0; 64]);
        driver.read(ring.address - 64, &mut before)?;
        driver.read(ring.address + 256, &mut after)?;
        Ok((before, after))
    };
    driver.write(ring.address + 256, &[0x5a; 64])?;
    let expected = around(&driver)?;
    for _ in 0..20 {
        driver.execute(0x80d, &[], 16)?;
    }
    assert_eq!(around(&driver)?, expected);
    Ok(())
}
