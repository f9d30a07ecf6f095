// SPDX-License-Identifier: GPL-2.0
//! The command by which a driver says that a page fault is over (PAGE_FAULT_RESUME).

use super::definition::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::layout::{mem_page_fault_info, page_fault_resume_in, trans_page_fault_info};
use crate::on_demand::Scheme;
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[Command::new(
    0x204,
    "PAGE_FAULT_RESUME",
    HcaState::Initialised,
    page_fault_resume_in::BYTES,
    SHORT,
    resume,
)];

fn resume(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let info = page_fault_resume_in::PAGE_FAULT_INFO.of(input);
    let scheme = device.capabilities.page_faults();
    let (token, error) = match scheme.ok_or(Status::BadOperation)? {
        Scheme::Transport => (
            trans_page_fault_info::FAULT_TOKEN.get(info),
            trans_page_fault_info::ERROR.is_set(info),
        ),
        Scheme::Memory => {
            let high = mem_page_fault_info::FAULT_TOKEN_47_32.get(info);
            let low = mem_page_fault_info::FAULT_TOKEN_31_0.get(info);
            ((high << 32) | low, mem_page_fault_info::ERROR.is_set(info))
        }
    };
    let goes_on = device.faults.resume(token, error, &device.bus)?;
    if let Some((number, end)) = goes_on {
        device.go_on_after_fault(number, end);
    }
    Ok(())
}
