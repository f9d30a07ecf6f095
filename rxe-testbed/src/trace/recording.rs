// SPDX-License-Identifier: GPL-2.0
//! What the tracer has written: the blocks of code of each call.

use anyhow::{Context, Result};

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Call,
    Return,
    Other,
}

/// A block of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) at: u64,
    /// Where the code behind it is.
    pub(super) next: u64,
    pub(super) instructions: u64,
    pub(super) end: End,
}

/// All calls that were recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recording {
    blocks: Vec<Block>,
    calls: Vec<Vec<usize>>,
    /// Calls that were not kept.
    pub(super) lost: u64,
}

impl Recording {
    /// Reads it; `rxe-testbed/tracer/src/recorder.rs` says how it is written.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let mut numbers = bytes.chunks_exact(8).map(number);
        Self::of(&mut numbers).context("what the tracer has written ends too early")
    }

    fn of(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let lost = numbers.next()?;
        let count = numbers.next()?;
        let blocks = (0..count)
            .map(|_| {
                Some(Block {
                    at: numbers.next()?,
                    next: numbers.next()?,
                    instructions: numbers.next()?,
                    end: match numbers.next()? {
                        1 => End::Call,
                        2 => End::Return,
                        _ => End::Other,
                    },
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let count = numbers.next()?;
        let calls = (0..count)
            .map(|_| {
                let len = numbers.next()?;
                let known = |number: usize| (number < blocks.len()).then_some(number);
                (0..len)
                    .map(|_| known(numbers.next()? as usize))
                    .collect::<Option<Vec<_>>>()
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            blocks,
            calls,
            lost,
        })
    }

    /// The blocks that each call has run, in order.
    pub(super) fn calls(&self) -> impl Iterator<Item = Vec<Block>> + '_ {
        let blocks = |call: &Vec<usize>| call.iter().map(|number| self.blocks[*number]).collect();
        self.calls.iter().map(blocks)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() -> Result<()> {
        let numbers = [
            3_u64, 2, 0x10, 0x18, 4, 1, 0x20, 0x28, 5, 2, 2, 1, 0, 3, 0, 1, 0,
        ];
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let read = Recording::read(&bytes)?;
        let lengths: Vec<usize> = read.calls().map(|call| call.len()).collect();
        assert_eq!((read.lost, lengths), (3, vec![1, 3]));
        let last = read.calls().last().unwrap_or_default()[1];
        let expected = Block {
            at: 0x20,
            next: 0x28,
            instructions: 5,
            end: End::Return,
        };
        assert_eq!(last, expected);
        assert!(Recording::read(&bytes[..bytes.len() - 8]).is_err());
        Ok(())
    }
}
