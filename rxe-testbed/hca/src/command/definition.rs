// SPDX-License-Identifier: GPL-2.0
//! What a command is: its opcode, when it is taken, how long its input and output are, and what executes it. The files
//! beside this one define commands, and `command.rs` has the table of all.

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
    /// Bytes that an output has at least: of an answer there may be only the beginning.
    pub(crate) shortest: usize,
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
            shortest: output,
            run,
        }
    }

    /// The same command, which gives as much of its answer as there is room for.
    pub(crate) const fn in_part(self) -> Self {
        Self {
            shortest: SHORT,
            ..self
        }
    }
}

/// Bytes of most inputs and outputs, for which an entry has room.
pub(crate) const SHORT: usize = 16;

/// Bytes that every output has: its status and what else there is to say of it.
pub(super) const SHORTEST: usize = 8;
