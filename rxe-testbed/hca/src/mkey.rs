// SPDX-License-Identifier: GPL-2.0
//! Memory keys.

use crate::command::{Command, Status, SHORT};
use crate::device::{Device, Life};
use crate::layout::{
    create_mkey_in, create_mkey_out, destroy_mkey_in, mkc, query_mkey_in, query_mkey_out,
};

pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        0x200,
        "CREATE_MKEY",
        Life::Initialised,
        create_mkey_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x201,
        "QUERY_MKEY",
        Life::Initialised,
        SHORT,
        query_mkey_out::BYTES,
        query,
    ),
    Command::new(
        0x202,
        "DESTROY_MKEY",
        Life::Initialised,
        SHORT,
        SHORT,
        destroy,
    ),
];

/// Bytes of a piece of a translation.
const OCTWORD: usize = 16;

/// The longest translation that may come with the command, in these.
const MOST: usize = 1 << 14;

/// A key.
pub(crate) struct MemoryKey {
    context: Vec<u8>,
    translation: Vec<u8>,
    page_rights: bool,
}

impl MemoryKey {
    /// One with that context and the beginning of its translation, whose entries have rights of their own or not.
    pub(crate) fn new(context: Vec<u8>, translation: Vec<u8>, page_rights: bool) -> Self {
        Self {
            context,
            translation,
            page_rights,
        }
    }

    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }

    pub(crate) fn context_mut(&mut self) -> &mut [u8] {
        &mut self.context
    }

    /// Changes its translation from a byte on.
    pub(crate) fn set_translation(&mut self, first: usize, entries: &[u8]) {
        let end = first + entries.len();
        if self.translation.len() < end {
            self.translation.resize(end, 0);
        }
        self.translation[first..end].copy_from_slice(entries);
    }

    /// The beginning of its translation; behind it is nothing.
    pub(crate) fn translation(&self) -> &[u8] {
        &self.translation
    }

    /// Whether the entries of its translation say what is allowed.
    pub(crate) fn has_page_rights(&self) -> bool {
        self.page_rights
    }

    /// The protection domain that may use it.
    pub(crate) fn domain(&self) -> u32 {
        mkc::PD.get32(&self.context)
    }
}

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
    let key = MemoryKey::new(context, translation.to_vec(), page_rights);
    create_mkey_out::MKEY_INDEX.set(output, device.mkeys.add(key)?);
    Ok(())
}

fn query(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let key = device.mkeys.get(query_mkey_in::MKEY_INDEX.get32(input))?;
    let context = query_mkey_out::MEMORY_KEY_MKEY_ENTRY.of_mut(output);
    context.copy_from_slice(&key.context);
    // The beginning of the translation comes after it.
    let shown = &mut output[create_mkey_in::BYTES..];
    let length = key.translation.len().min(shown.len());
    shown[..length].copy_from_slice(&key.translation[..length]);
    Ok(())
}

fn destroy(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    device
        .mkeys
        .remove(destroy_mkey_in::MKEY_INDEX.get32(input))
        .map(drop)
}
