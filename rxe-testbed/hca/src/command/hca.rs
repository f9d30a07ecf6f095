// SPDX-License-Identifier: GPL-2.0
//! The commands of a device's life: enabled, given pages, told what to be, initialised, and all of it back.

use super::definition::{Command, SHORT, SHORTEST};
use crate::device::{Device, HcaState};
use crate::layout::{
    init_hca_in, manage_pages_in, manage_pages_out, query_adapter_out, query_hca_cap_in,
    query_hca_cap_out, query_issi_out, query_pages_in, query_pages_out, query_special_contexts_out,
    set_hca_cap_in, set_issi_in, words,
};
use crate::mkey::NULL_MKEY;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x100,
        "QUERY_HCA_CAP",
        HcaState::Enabled,
        SHORT,
        query_hca_cap_out::BYTES,
        query_hca_cap,
    )
    .in_part(),
    Command::new(
        0x101,
        "QUERY_ADAPTER",
        HcaState::Enabled,
        SHORT,
        query_adapter_out::BYTES,
        query_adapter,
    ),
    Command::new(
        0x102,
        "INIT_HCA",
        HcaState::Enabled,
        init_hca_in::BYTES,
        SHORT,
        init_hca,
    ),
    Command::new(
        0x103,
        "TEARDOWN_HCA",
        HcaState::Initialised,
        SHORT,
        SHORT,
        teardown_hca,
    ),
    Command::new(
        0x104,
        "ENABLE_HCA",
        HcaState::Off,
        SHORT,
        SHORTEST,
        enable_hca,
    ),
    Command::new(
        0x105,
        "DISABLE_HCA",
        HcaState::Enabled,
        SHORT,
        SHORTEST,
        disable_hca,
    ),
    Command::new(
        0x107,
        "QUERY_PAGES",
        HcaState::Enabled,
        SHORT,
        SHORT,
        query_pages,
    ),
    Command::new(
        0x108,
        "MANAGE_PAGES",
        HcaState::Enabled,
        SHORT,
        SHORT,
        manage_pages,
    ),
    Command::new(
        0x109,
        "SET_HCA_CAP",
        HcaState::Enabled,
        set_hca_cap_in::BYTES,
        SHORT,
        set_hca_cap,
    ),
    Command::new(
        0x10a,
        "QUERY_ISSI",
        HcaState::Enabled,
        SHORT,
        query_issi_out::BYTES,
        query_issi,
    ),
    Command::new(0x10b, "SET_ISSI", HcaState::Enabled, SHORT, SHORT, set_issi),
    Command::new(
        0x203,
        "QUERY_SPECIAL_CONTEXTS",
        HcaState::Initialised,
        SHORT,
        query_special_contexts_out::BYTES,
        query_special_contexts,
    ),
    Command::new(0x80d, "NOP", HcaState::Off, SHORT, SHORT, |_, _, _| Ok(())),
];

/// Mellanox, in the numbers of the IEEE.
const VENDOR: u64 = 0x02c9;

/// Revisions of the interface between software and silicon: 0 and 1.
const REVISIONS: u64 = 3;

/// When pages are asked for, and how many then: the device itself needs none, but drivers should see them asked for,
/// given and taken back.
const BOOT: u64 = 1;
const INIT: u64 = 2;
const REGULAR: u64 = 3;
const BOOT_PAGES: u32 = 4;
const INIT_PAGES: u32 = 60;

/// What is done with pages.
const CANNOT_GIVE: u64 = 0;
const GIVE: u64 = 1;
const TAKE: u64 = 2;

fn enable_hca(device: &mut Device, _: &[u8], _: &mut [u8]) -> Result<(), Status> {
    match device.state {
        HcaState::Off => {
            device.state = HcaState::Enabled;
            device.recover();
            Ok(())
        }
        _ => Err(Status::BadSystemState),
    }
}

fn disable_hca(device: &mut Device, _: &[u8], _: &mut [u8]) -> Result<(), Status> {
    if device.state != HcaState::Enabled || device.pages.len() != 0 {
        return Err(Status::BadSystemState);
    }
    device.forget_everything();
    Ok(())
}

fn init_hca(device: &mut Device, _: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let enough = device.pages.len() >= (BOOT_PAGES + INIT_PAGES) as usize;
    if device.state != HcaState::Enabled || !enough {
        return Err(Status::BadSystemState);
    }
    device.state = HcaState::Initialised;
    Ok(())
}

/// Whatever the driver has left is gone; the pages are still the device's.
fn teardown_hca(device: &mut Device, _: &[u8], _: &mut [u8]) -> Result<(), Status> {
    device.drop_held();
    device.faults.lost(&device.bus);
    device.destroy_objects();
    device.state = HcaState::Enabled;
    Ok(())
}

fn query_pages(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let wanted = match query_pages_in::OP_MOD.get(input) {
        BOOT => BOOT_PAGES,
        INIT => INIT_PAGES,
        // What is lent can be had back as long as the device is not initialised.
        REGULAR if device.state == HcaState::Enabled => (device.pages.len() as u32).wrapping_neg(),
        REGULAR => 0,
        _ => return Err(Status::BadParameter),
    };
    query_pages_out::NUM_PAGES.set(output, wanted);
    Ok(())
}

fn manage_pages(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let count = manage_pages_in::INPUT_NUM_ENTRIES.get32(input) as usize;
    match query_pages_in::OP_MOD.get(input) {
        CANNOT_GIVE => Ok(()),
        GIVE => {
            let pages = input.get(manage_pages_in::BYTES..).unwrap_or_default();
            if pages.len() / 8 < count {
                return Err(Status::BadInputLength);
            }
            device.pages.give(&words(pages)[..count])
        }
        TAKE => {
            let room = output.len().saturating_sub(manage_pages_out::BYTES) / 8;
            let count = match device.state {
                HcaState::Initialised => 0,
                _ => count.min(room),
            };
            let taken = device.pages.take(count);
            manage_pages_out::OUTPUT_NUM_ENTRIES.set(output, taken.len() as u64);
            let places = output[manage_pages_out::BYTES..].chunks_exact_mut(8);
            for (place, address) in places.zip(taken) {
                place.copy_from_slice(&address.to_be_bytes());
            }
            Ok(())
        }
        _ => Err(Status::BadParameter),
    }
}

fn query_hca_cap(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let modifier = query_hca_cap_in::OP_MOD.get32(input);
    let group = match modifier & 1 {
        0 => device.capabilities.maximal(modifier >> 1)?,
        _ => device.capabilities.current(modifier >> 1)?,
    };
    query_hca_cap_out::CAPABILITY
        .of_mut(output)
        .copy_from_slice(group);
    Ok(())
}

fn set_hca_cap(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    if device.state != HcaState::Enabled {
        return Err(Status::BadSystemState);
    }
    let group = set_hca_cap_in::OP_MOD.get32(input) >> 1;
    let wanted = set_hca_cap_in::CAPABILITY.of(input);
    device.capabilities.choose(group, wanted)
}

fn query_issi(device: &mut Device, _: &[u8], output: &mut [u8]) -> Result<(), Status> {
    query_issi_out::CURRENT_ISSI.set(output, device.revision);
    query_issi_out::SUPPORTED_ISSI_DW0.set(output, REVISIONS);
    Ok(())
}

fn set_issi(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let revision = set_issi_in::CURRENT_ISSI.get(input);
    if revision > 1 {
        return Err(Status::BadParameter);
    }
    device.revision = revision;
    Ok(())
}

fn query_adapter(_: &mut Device, _: &[u8], output: &mut [u8]) -> Result<(), Status> {
    query_adapter_out::IEEE_VENDOR_ID.set(output, VENDOR);
    query_adapter_out::VSD_VENDOR_ID.set(output, VENDOR);
    Ok(())
}

fn query_special_contexts(_: &mut Device, _: &[u8], output: &mut [u8]) -> Result<(), Status> {
    query_special_contexts_out::NULL_MKEY.set(output, NULL_MKEY);
    Ok(())
}
