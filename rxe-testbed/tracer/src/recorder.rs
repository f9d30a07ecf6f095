// SPDX-License-Identifier: GPL-2.0
//! Which blocks a call of one function runs.

use std::io::{self, Write};

use crate::block::{Block, End};

/// Blocks that are kept at most, of all calls, and of one.
const MOST: usize = 1 << 24;
const MOST_OF_ONE: usize = 1 << 22;

/// What is to be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Where the function begins.
    pub(crate) function: u64,
    /// Calls that run what is here are not kept. In order.
    pub(crate) disturbances: Vec<u64>,
}

/// A call that is going on.
struct Call {
    /// Where its blocks begin in those that are kept.
    begin: usize,
    /// How many functions it is in, besides the first.
    depth: usize,
    last: Block,
}

/// All that is recorded.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Every block that the guest's code was translated to, by number.
    blocks: Vec<Block>,
    order: Option<Order>,
    /// The numbers of the blocks of all calls, one after the other, and where each ends.
    run: Vec<u32>,
    ends: Vec<usize>,
    call: Option<Call>,
    /// Calls that were not kept.
    lost: u64,
}

impl Recorder {
    /// Gives a block its number.
    pub(crate) fn add(&mut self, block: Block) -> u32 {
        self.blocks.push(block);
        (self.blocks.len() - 1) as u32
    }

    /// Begins to record; what was recorded before is gone.
    pub(crate) fn begin(&mut self, order: Order) {
        self.order = Some(order);
        self.run.clear();
        self.ends.clear();
        self.call = None;
        self.lost = 0;
    }

    /// Records no more.
    pub(crate) fn end(&mut self) {
        if self.call.is_some() {
            self.lose();
        }
        self.order = None;
    }

    /// The block of this number is about to run.
    pub(crate) fn runs(&mut self, number: u32) {
        let Some(order) = &self.order else {
            return;
        };
        let block = self.blocks[number as usize];
        let Some(call) = &mut self.call else {
            if block.at != order.function {
                return;
            }
            if self.run.len() >= MOST {
                self.lost += 1;
                return;
            }
            self.call = Some(Call {
                begin: self.run.len(),
                depth: 0,
                last: block,
            });
            self.run.push(number);
            return;
        };
        if call.last.is_left_for(&block) {
            return self.lose();
        }
        match call.last.end {
            End::Call if block.at != call.last.next => call.depth += 1,
            End::Return if call.depth == 0 => {
                self.ends.push(self.run.len());
                self.call = None;
                return self.runs(number);
            }
            End::Return => call.depth -= 1,
            _ => {}
        }
        call.last = block;
        let begin = call.begin;
        self.run.push(number);
        let disturbed = order.disturbances.binary_search(&block.at).is_ok();
        if disturbed || self.run.len() - begin > MOST_OF_ONE {
            self.lose();
        }
    }

    /// The call that is going on is not kept.
    fn lose(&mut self) {
        if let Some(call) = self.call.take() {
            self.run.truncate(call.begin);
            self.lost += 1;
        }
    }

    /// Writes what was recorded, as numbers of 64 bits, the lowest byte first: how many calls were not kept; how many blocks
    /// there are, and of each where it begins, the code behind it, its instructions and 1 if it ends with a call or 2 with
    /// a return; how many calls, and of each the number of its blocks and their numbers.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut put = |number: u64| out.write_all(&number.to_le_bytes());
        put(self.lost)?;
        put(self.blocks.len() as u64)?;
        for block in &self.blocks {
            let end = match block.end {
                End::Call => 1,
                End::Return => 2,
                End::Other => 0,
            };
            [block.at, block.next, block.instructions.into(), end]
                .into_iter()
                .try_for_each(&mut put)?;
        }
        put(self.ends.len() as u64)?;
        let mut begin = 0;
        for end in &self.ends {
            let blocks = &self.run[begin..*end];
            put(blocks.len() as u64)?;
            blocks.iter().try_for_each(|number| put((*number).into()))?;
            begin = *end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that knows a function at 0x100, which calls one at 0x200, and what runs before and after it; interrupts are at
    /// 0x900.
    fn recorder() -> Recorder {
        let mut recorder = Recorder::default();
        for (at, next, end) in [
            (0x10, 0x18, End::Call),
            (0x18, 0x20, End::Other),
            (0x100, 0x108, End::Call),
            (0x108, 0x110, End::Return),
            (0x200, 0x210, End::Return),
            (0x900, 0x910, End::Other),
        ] {
            recorder.add(Block {
                at,
                next,
                instructions: 3,
                end,
            });
        }
        recorder.begin(Order {
            function: 0x100,
            disturbances: vec![0x900, 0xa00],
        });
        recorder
    }

    const CALL: [u32; 5] = [0, 2, 4, 3, 1];

    fn run(recorder: &mut Recorder, blocks: &[u32]) {
        blocks.iter().for_each(|number| recorder.runs(*number));
    }

    #[test]
    fn a_call_is_what_runs_until_its_return() {
        let mut recorder = recorder();
        run(&mut recorder, &CALL);
        run(&mut recorder, &CALL);
        assert_eq!(recorder.run, [2, 4, 3, 2, 4, 3]);
        assert_eq!((&recorder.ends[..], recorder.lost), (&[3, 6][..], 0));
    }

    #[test]
    fn one_may_follow_the_other_at_once() {
        let mut recorder = recorder();
        // As a caller would that calls it by a jump at its own end.
        run(&mut recorder, &[0, 2, 4, 3, 2, 4, 3, 1]);
        assert_eq!(recorder.ends, [3, 6]);
    }

    #[test]
    fn a_call_of_what_is_behind_it_is_none() {
        let mut recorder = recorder();
        run(&mut recorder, &[0, 2, 3, 1]);
        assert_eq!(
            (&recorder.run[..], &recorder.ends[..]),
            (&[2, 3][..], &[2][..])
        );
    }

    #[test]
    fn a_call_that_is_interrupted_is_not_kept() {
        let mut recorder = recorder();
        run(&mut recorder, &[0, 2, 5, 4, 3, 1]);
        run(&mut recorder, &CALL);
        assert_eq!(
            (&recorder.run[..], &recorder.ends[..]),
            (&[2, 4, 3][..], &[3][..])
        );
        assert_eq!(recorder.lost, 1);
        // Nor is one that does not come to its end.
        run(&mut recorder, &[0, 2, 4]);
        recorder.end();
        assert_eq!((recorder.ends.len(), recorder.lost), (1, 2));
        run(&mut recorder, &CALL);
        assert_eq!(recorder.ends.len(), 1);
    }

    #[test]
    fn a_call_in_which_a_block_was_left_is_not_kept() {
        let mut recorder = recorder();
        let rest = recorder.add(Block {
            at: 0x204,
            next: 0x210,
            instructions: 2,
            end: End::Return,
        });
        // The device was accessed at 0x200, and that is done once more with what comes after it.
        run(&mut recorder, &[0, 2, 4, rest, 3, 1]);
        assert_eq!((recorder.ends.len(), recorder.lost), (0, 1));
        run(&mut recorder, &CALL);
        assert_eq!((recorder.ends.len(), recorder.lost), (1, 1));
    }

    #[test]
    fn what_is_written_can_be_counted() -> io::Result<()> {
        let mut recorder = recorder();
        run(&mut recorder, &CALL);
        let mut out = Vec::new();
        recorder.write(&mut out)?;
        let numbers: Vec<u64> = out
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            .collect();
        assert_eq!(numbers[..6], [0, 6, 0x10, 0x18, 3, 1]);
        assert_eq!(numbers[2 + 4 * 6..], [1, 3, 2, 4, 3]);
        Ok(())
    }
}
