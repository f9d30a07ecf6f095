// SPDX-License-Identifier: GPL-2.0

//! What both walks are asked for.

use kernel::mm::MmWithUser;
use kernel::prelude::*;

use hmm::{PageRange, Policy, Requests};

use crate::abi;
use crate::argument;

/// What both are asked for.
pub(crate) struct Question {
    pub(crate) range: PageRange,
    pub(crate) base: Policy,
    pub(crate) most: Policy,
    /// What is wanted of each page; nothing of its own if there are none.
    pub(crate) requests: Option<KVVec<Policy>>,
    /// C's walk is the one that takes the mmap lock itself.
    pub(crate) unlocked: bool,
}

impl Question {
    /// The question in `argument`, checked.
    pub(crate) fn of(argument: &abi::Compare, mm: &MmWithUser) -> Result<Self> {
        if argument.reserved != 0 || argument.reserved2 != 0 {
            return Err(EINVAL);
        }
        let range = argument::range(mm, argument.start, argument.pages)?;
        Ok(Self {
            range,
            base: argument::policy(argument.base)?,
            most: argument::policy(argument.most)?,
            requests: argument::requests(argument.requests, range.len())?,
            unlocked: argument.flags & abi::UNLOCKED != 0,
        })
    }

    /// The requests in hmm's form.
    pub(crate) fn wants(&self) -> Option<Requests<'_>> {
        let pages = self.requests.as_ref()?;
        Some(Requests {
            first: self.range.start(),
            base: self.base,
            most: self.most,
            pages,
        })
    }
}
