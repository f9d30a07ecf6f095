// SPDX-License-Identifier: GPL-2.0
//! The command interface: all commands by their opcodes. `queue.rs` takes entries of the command queue, and has each
//! executed by the command that it names; the other files here define commands, those of a kind of object in one.

mod counters;
mod cq;
mod dct;
mod definition;
mod eq;
mod hca;
mod mkey;
mod objects;
mod page_fault;
mod port;
mod qp;
mod queue;
mod registers;
mod srq;
mod users;

use definition::Command;

/// All commands that the device knows.
const COMMANDS: &[&[Command]] = &[
    hca::COMMANDS,
    objects::COMMANDS,
    registers::COMMANDS,
    port::COMMANDS,
    eq::COMMANDS,
    counters::COMMANDS,
    mkey::COMMANDS,
    page_fault::COMMANDS,
    cq::COMMANDS,
    srq::COMMANDS,
    qp::COMMANDS,
    dct::COMMANDS,
    users::COMMANDS,
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
