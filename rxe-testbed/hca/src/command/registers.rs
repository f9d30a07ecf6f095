// SPDX-License-Identifier: GPL-2.0
//! Registers that drivers read and write by a command.

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{access_register_in, access_register_out, pcap_reg, query_pages_in};
use crate::port::NUMBER;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[Command::new(
    0x805,
    "ACCESS_REG",
    HcaState::Enabled,
    SHORT,
    SHORT,
    access,
)];

/// The register by which a driver says how it orders bytes; that of a port's capabilities; that with what people call
/// the node.
const HOST_ENDIANNESS: u64 = 0x7004;
const PORT_CAPABILITIES: u64 = 0x5001;
const NODE_DESCRIPTION: u64 = 0x6001;

const WRITE: u64 = 0;

/// Data in memory is big-endian whatever a driver says; it may say so, as every driver does.
fn access(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let register = access_register_in::REGISTER_ID.get(input);
    let write = query_pages_in::OP_MOD.get(input) == WRITE;
    let data = input.get(access_register_in::BYTES..).unwrap_or_default();
    match register {
        HOST_ENDIANNESS if write => Ok(()),
        PORT_CAPABILITIES if write => {
            if data.len() < pcap_reg::BYTES {
                return Err(Status::BadInputLength);
            }
            if pcap_reg::LOCAL_PORT.get(data) != u64::from(NUMBER) {
                return Err(Status::BadParameter);
            }
            // All that drivers know are in the first of its four words.
            let mask = pcap_reg::PORT_CAPABILITY_MASK.of(data).first_chunk();
            device.port.capabilities = mask.map_or(0, |mask| u32::from_be_bytes(*mask));
            Ok(())
        }
        NODE_DESCRIPTION if write => {
            let text = data.first_chunk().ok_or(Status::BadInputLength)?;
            device.port.description = *text;
            Ok(())
        }
        NODE_DESCRIPTION => {
            let place = output.get_mut(access_register_out::BYTES..);
            let place = place.and_then(|place| place.first_chunk_mut());
            *place.ok_or(Status::BadOutputLength)? = device.port.description;
            Ok(())
        }
        _ => Err(Status::BadParameter),
    }
}
