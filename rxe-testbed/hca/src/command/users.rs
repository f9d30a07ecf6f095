// SPDX-License-Identifier: GPL-2.0
//! Contexts of applications that talk to the device through their driver (DEVX): each command names the one that it is
//! for, or none.
//!
//! Completion queues and queue pairs may lie in [memory of applications](crate::umem); other objects for which a
//! command names such memory are not made.

use super::definition::{Command, SHORT};
use crate::device::HcaState;
use crate::layout::{
    create_mkey_in, create_rmp_in, create_uctx_out, create_xrc_srq_in, destroy_uctx_in,
    general_obj_in_cmd_hdr, rmpc, wq, xrc_srqc, Field,
};
use crate::status::Status;
use crate::table::Table;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0xa04,
        "CREATE_UCTX",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            create_uctx_out::UID.set(output, device.users.add(())?);
            Ok(())
        },
    ),
    Command::new(
        0xa06,
        "DESTROY_UCTX",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| device.users.remove(destroy_uctx_in::UID.get32(input)),
    ),
];

/// Who is meant if an object may be used in the commands of every application.
const EVERY: u32 = 0xffff;

/// Commands by their opcodes, and where they say that they name user memory, though they may not.
const NAMES_MEMORY: &[(u16, &[Field])] = &[
    (0x200, &[create_mkey_in::MKEY_UMEM_VALID]),
    (
        0x705,
        &[
            create_xrc_srq_in::XRC_SRQ_UMEM_VALID,
            xrc_srqc::DBR_UMEM_VALID.within(create_xrc_srq_in::XRC_SRQ_CONTEXT_ENTRY),
        ],
    ),
    (
        0x90c,
        &[
            wq::WQ_UMEM_VALID
                .within(rmpc::WQ)
                .within(create_rmp_in::CTX),
            wq::DBR_UMEM_VALID
                .within(rmpc::WQ)
                .within(create_rmp_in::CTX),
        ],
    ),
];

/// Whether a command may be executed, whichever of `users` it is for.
pub(super) fn may(users: &Table<()>, opcode: u16, input: &[u8]) -> Result<(), Status> {
    let user = general_obj_in_cmd_hdr::UID.get32(input);
    if user != 0 && user != EVERY {
        users.get(user)?;
    }
    let mut named = NAMES_MEMORY.iter().filter(|(known, _)| *known == opcode);
    match named.any(|(_, fields)| fields.iter().any(|field| field.is_set(input))) {
        true => Err(Status::BadParameter),
        false => Ok(()),
    }
}
