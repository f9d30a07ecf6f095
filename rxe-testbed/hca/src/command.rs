// SPDX-License-Identifier: GPL-2.0
//! The command interface: entries of the command queue, mailboxes, and who executes what.

mod hca;
mod objects;
mod queue;
mod registers;

use crate::device::{Device, HcaState};
use crate::status::Status;

/// What executes a command: it reads the input, which is at least as long as the command says, and fills the output,
/// which begins as zeroes.
pub(crate) type Run = fn(&mut Device, &[u8], &mut [u8]) -> Result<(), Status>;

/// A command.
pub(crate) struct Command {
    pub(crate) opcode: u16,
    pub(crate) name: &'static str,
    /// From when on it is taken.
    pub(crate) from: HcaState,
    /// Bytes of input and output that there are at least.
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) run: Run,
}

impl Command {
    pub(crate) const fn new(
        opcode: u16,
        name: &'static str,
        from: HcaState,
        input: usize,
        output: usize,
        run: Run,
    ) -> Self {
        Self {
            opcode,
            name,
            from,
            input,
            output,
            run,
        }
    }
}

/// Bytes of most inputs and outputs, for which an entry has room.
pub(crate) const SHORT: usize = 16;

/// Bytes that every output has: its status and what else there is to say of it.
const SHORTEST: usize = 8;

/// All commands that the device knows.
const COMMANDS: &[&[Command]] = &[
    hca::COMMANDS,
    objects::COMMANDS,
    registers::COMMANDS,
    crate::port::COMMANDS,
    crate::eq::COMMANDS,
    crate::counters::COMMANDS,
    crate::mkey::COMMANDS,
    crate::faults::COMMANDS,
    crate::cq::COMMANDS,
    crate::srq::COMMANDS,
    crate::qp::COMMANDS,
    crate::dynamic::COMMANDS,
    crate::users::COMMANDS,
];

/// The command with that opcode.
fn find(opcode: u16) -> Option<&'static Command> {
    let mut all = COMMANDS.iter().copied().flatten();
    all.find(|command| command.opcode == opcode)
}

/// Every command's opcode and name.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn opcodes_are_unique() {
        let opcodes: BTreeSet<u16> = all().map(|command| command.opcode).collect();
        assert_eq!(opcodes.len(), all().count());
        assert!(find(0x100).is_some());
        assert!(find(0).is_none());
    }
}
