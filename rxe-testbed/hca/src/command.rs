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
pub(crate) mod qp;
mod queue;
mod registers;
mod srq;
mod umem;
mod users;

use definition::Command;

use crate::layout::query_pages_in;

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
    umem::COMMANDS,
    users::COMMANDS,
];

/// The command with that opcode.
fn find(opcode: u16) -> Option<&'static Command> {
    let mut all = COMMANDS.iter().copied().flatten();
    all.find(|command| command.opcode == opcode)
}

/// The opcode with which the input of every command begins.
pub(crate) fn opcode(input: &[u8]) -> u16 {
    query_pages_in::OPCODE.get(input) as u16
}

/// The name of the command with that opcode, if there is one.
pub(crate) fn name(opcode: u16) -> Option<&'static str> {
    find(opcode).map(|command| command.name)
}

/// Whether there is a command of that name.
pub(crate) fn is_known(name: &str) -> bool {
    let mut all = COMMANDS.iter().copied().flatten();
    all.any(|command| command.name == name)
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
