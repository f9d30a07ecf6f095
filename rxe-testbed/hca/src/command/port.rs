// SPDX-License-Identifier: GPL-2.0
//! The commands of the port.

use super::definition::Command;
use crate::device::{Device, HcaState};
use crate::layout::{
    mad_ifc_in, mad_ifc_out, query_hca_vport_context_in, query_hca_vport_context_out,
};
use crate::port::NUMBER;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x50d,
        "MAD_IFC",
        HcaState::Initialised,
        mad_ifc_in::BYTES,
        mad_ifc_out::BYTES,
        exchange,
    ),
    Command::new(
        0x762,
        "QUERY_HCA_VPORT_CONTEXT",
        HcaState::Initialised,
        query_hca_vport_context_in::BYTES,
        query_hca_vport_context_out::BYTES,
        query_context,
    )
    .in_part(),
];

fn exchange(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    if mad_ifc_in::PORT.get(input) != u64::from(NUMBER) {
        return Err(Status::BadParameter);
    }
    let answer = mad_ifc_out::RESPONSE_MAD_PACKET.of_mut(output);
    answer.copy_from_slice(mad_ifc_in::MAD.of(input));
    device.port.process_mad(answer);
    Ok(())
}

/// The port as its own function sees it; there are no others.
fn query_context(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let number = query_hca_vport_context_in::PORT_NUM.get(input);
    if query_hca_vport_context_in::OTHER_VPORT.is_set(input) || number > u64::from(NUMBER) {
        return Err(Status::BadParameter);
    }
    let context = query_hca_vport_context_out::HCA_VPORT_CONTEXT.of_mut(output);
    device.port.query(context);
    Ok(())
}
