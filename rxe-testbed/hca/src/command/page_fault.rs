// SPDX-License-Identifier: GPL-2.0
//! The command by which a driver says that a page fault is over (PAGE_FAULT_RESUME).

use super::definition::{Command, SHORT};
use super::opcode;
use crate::device::{Device, HcaState};
use crate::layout::{mem_page_fault_info, page_fault_resume_in, trans_page_fault_info};
use crate::on_demand::Scheme;
use crate::status::Status;

const RESUME: u16 = 0x204;

pub(super) const COMMANDS: &[Command] = &[Command::new(
    RESUME,
    "PAGE_FAULT_RESUME",
    HcaState::Initialised,
    page_fault_resume_in::BYTES,
    SHORT,
    resume,
)];

impl Device {
    /// The token that such a command gives back, and whether it says that there is nothing to be had; nothing for another
    /// command, and for a device without page faults.
    pub(crate) fn resumed(&self, input: &[u8]) -> Option<(u64, bool)> {
        let info = page_fault_resume_in::PAGE_FAULT_INFO.of(input);
        let scheme = self.capabilities.page_faults()?;
        (opcode(input) == RESUME).then(|| match scheme {
            Scheme::Transport => (
                trans_page_fault_info::FAULT_TOKEN.get(info),
                trans_page_fault_info::ERROR.is_set(info),
            ),
            Scheme::Memory => {
                let high = mem_page_fault_info::FAULT_TOKEN_47_32.get(info);
                let low = mem_page_fault_info::FAULT_TOKEN_31_0.get(info);
                ((high << 32) | low, mem_page_fault_info::ERROR.is_set(info))
            }
        })
    }
}

fn resume(device: &mut Device, input: &[u8], _: &mut [u8]) -> Result<(), Status> {
    let (token, error) = device.resumed(input).ok_or(Status::BadOperation)?;
    let goes_on = device.faults.resume(token, error, &device.bus)?;
    if let Some((number, end)) = goes_on {
        device.go_on_after_fault(number, end);
    }
    Ok(())
}
