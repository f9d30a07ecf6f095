// SPDX-License-Identifier: GPL-2.0
//! The commands of memory keys.

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{
    create_mkey_in, create_mkey_out, destroy_mkey_in, mkc, query_mkey_in, query_mkey_out,
};
use crate::mkey::MemoryKey;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x200,
        "CREATE_MKEY",
        HcaState::Initialised,
        create_mkey_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x201,
        "QUERY_MKEY",
        HcaState::Initialised,
        SHORT,
        query_mkey_out::BYTES,
        query,
    ),
    Command::new(
        0x202,
        "DESTROY_MKEY",
        HcaState::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
];

/// Bytes of a piece of a translation, and the longest translation that may come with the command, in these.
const OCTWORD: usize = 16;
const MOST: usize = 1 << 14;

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of(input).to_vec();
    let octwords = create_mkey_in::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.get32(input) as usize;
    let room = mkc::TRANSLATIONS_OCTWORD_SIZE.get32(&context) as usize;
    if octwords > MOST || octwords > room {
        return Err(Status::BadParameter);
    }
    let given = &input[create_mkey_in::BYTES..];
    let translation = given
        .get(..octwords * OCTWORD)
        .ok_or(Status::BadInputLength)?;
    let page_rights = create_mkey_in::PG_ACCESS.is_set(input);
    let mut key = MemoryKey::new(context, translation.to_vec(), page_rights);
    if page_rights && device.capabilities.page_faults().is_some() {
        key.comes_on_demand();
    }
    create_mkey_out::MKEY_INDEX.set(output, device.mkeys.add(key)?);
    Ok(())
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let key = device.mkeys.get(query_mkey_in::MKEY_INDEX.get32(input))?;
    let context = query_mkey_out::MEMORY_KEY_MKEY_ENTRY.of_mut(output);
    context.copy_from_slice(key.context());
    // The beginning of the translation comes after it.
    key.read_translation(&mut output[create_mkey_in::BYTES..]);
    Ok(())
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let number = destroy_mkey_in::MKEY_INDEX.get32(input);
    device.mkeys.remove(number)?;
    device.key_gone(number, "destroyed");
    Ok(())
}
