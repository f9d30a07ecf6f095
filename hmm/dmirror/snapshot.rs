// SPDX-License-Identifier: GPL-2.0

//! What the CPU's page table holds, one byte for each page, without changing anything.

use hmm::{
    fault_until_valid, is_zero_page, HmmPfn, Memory, PageState, Perm, PfnArray, Policy, TimeLimit,
    PMD_ORDER, PUD_ORDER,
};
use kernel::prelude::*;

use crate::command::Command;
use crate::session::{batches, Session, BATCH};
use crate::uapi;

impl Session {
    /// Writes what the device would see into the caller's buffer.
    pub(crate) fn snapshot(&self, command: &mut Command) -> Result {
        let mm = self.mm()?;
        let mut buffer = command.buffer(1)?.writer();
        for part in batches(command.range()) {
            let mut words = [HmmPfn::ABSENT; BATCH];
            let request = self.request(part, Policy::Snapshot);
            let found = PfnArray::new(part.start(), &mut words);
            let limit = TimeLimit::default();
            let valid = fault_until_valid(&self.table, &mm, &limit, &request, found)?;
            let mut bytes = [0; BATCH];
            for (page, byte) in part.pages().zip(&mut bytes) {
                *byte = describe(valid.result().at(page));
            }
            // Writing to the caller's memory may fault, and the lock may not be held over that.
            drop(valid);
            buffer.write_slice(&bytes[..part.len() as usize])?;
            command.add_pages(part.len());
        }
        Ok(())
    }
}

fn describe(state: PageState) -> u8 {
    let bits = match state {
        PageState::Absent => uapi::HMM_DMIRROR_PROT_NONE,
        PageState::Unusable => uapi::HMM_DMIRROR_PROT_ERROR,
        PageState::Mapped {
            pfn,
            perm,
            order,
            memory,
        } => {
            let place = match memory {
                Memory::Device => uapi::HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL,
                Memory::System if is_zero_page(pfn) => uapi::HMM_DMIRROR_PROT_ZERO,
                Memory::System => uapi::HMM_DMIRROR_PROT_NONE,
            };
            let right = match perm {
                Perm::ReadOnly => uapi::HMM_DMIRROR_PROT_READ,
                Perm::ReadWrite => uapi::HMM_DMIRROR_PROT_WRITE,
            };
            let size = match order {
                PMD_ORDER => uapi::HMM_DMIRROR_PROT_PMD,
                PUD_ORDER => uapi::HMM_DMIRROR_PROT_PUD,
                _ => 0,
            };
            place | right | size
        }
    };
    bits as u8
}
