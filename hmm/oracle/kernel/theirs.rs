// SPDX-License-Identifier: GPL-2.0

//! The kernel's `hmm_range_fault` and `hmm_range_fault_unlocked_timeout`, through the C half (`shim.c`).

use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

use hmm::{Access, Policy};

use crate::abi::{State, Word};
use crate::question::Question;
use crate::shim;

/// C's side of a comparison.
pub(crate) struct Theirs {
    start: usize,
    default_flags: usize,
    pfn_flags_mask: usize,
    requests: Option<KVVec<usize>>,
    pfns: KVVec<usize>,
    unlocked: bool,
    nanoseconds: u64,
}

impl Theirs {
    /// Translates `question` and makes room for the result.
    pub(crate) fn new(question: &Question) -> Result<Self> {
        let pages = question.range.len() as usize;
        let requests = match &question.requests {
            None => None,
            Some(policies) => {
                let mut flags = KVVec::with_capacity(pages, GFP_KERNEL)?;
                for policy in policies {
                    flags.push(request(*policy), GFP_KERNEL)?;
                }
                Some(flags)
            }
        };
        Ok(Self {
            start: question.range.start().addr() as usize,
            default_flags: request(question.base),
            pfn_flags_mask: request(question.most),
            requests,
            pfns: KVVec::from_elem(0, pages, GFP_KERNEL)?,
            unlocked: question.unlocked,
            nanoseconds: 0,
        })
    }

    /// Walks.
    pub(crate) fn walk(&mut self, mm: &MmWithUser) -> Result {
        let requests = self.requests.as_deref();
        let mut walk = shim::hmm_oracle_walk {
            start: self.start,
            pages: self.pfns.len(),
            default_flags: self.default_flags,
            pfn_flags_mask: self.pfn_flags_mask,
            requests: requests.map_or(core::ptr::null(), <[usize]>::as_ptr),
            pfns: self.pfns.as_mut_ptr(),
            unlocked: self.unlocked,
            nanoseconds: 0,
        };
        // SAFETY: The range was checked to be in user space and not empty; `requests` and `pfns`
        // have a word for each of its pages and are not used by anybody else meanwhile.
        let result = unsafe { shim::hmm_oracle_walk_range(mm.as_raw(), &mut walk) };
        self.nanoseconds = walk.nanoseconds as u64;
        to_result(result)
    }

    /// How long the last walk took.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// How many pages the last walk found.
    pub(crate) fn found(&self) -> u64 {
        let valid = self.pfns.iter().filter(|word| {
            // SAFETY: Only looks at the number.
            unsafe { shim::hmm_oracle_is_valid(**word) }
        });
        valid.count() as u64
    }

    /// What the last walk found.
    pub(crate) fn words(&self) -> Result<KVVec<u64>> {
        let mut words = KVVec::with_capacity(self.pfns.len(), GFP_KERNEL)?;
        for word in &self.pfns {
            words.push(neutral(*word).0, GFP_KERNEL)?;
        }
        Ok(words)
    }
}

fn request(policy: Policy) -> usize {
    let (fault, write) = match policy {
        Policy::Snapshot => (false, false),
        Policy::Fault(Access::Read) => (true, false),
        Policy::Fault(Access::Write) => (true, true),
    };
    // SAFETY: Only puts flags together.
    unsafe { shim::hmm_oracle_request(fault, write) }
}

fn neutral(word: usize) -> Word {
    // SAFETY: These only look at the number.
    let (valid, error) = unsafe {
        (
            shim::hmm_oracle_is_valid(word),
            shim::hmm_oracle_is_error(word),
        )
    };
    if !valid {
        return Word::new(if error { State::Error } else { State::Absent });
    }
    // SAFETY: As above.
    Word::new(unsafe {
        State::Valid {
            pfn: shim::hmm_oracle_pfn(word) as u64,
            writable: shim::hmm_oracle_is_writable(word),
            order: shim::hmm_oracle_order(word),
        }
    })
}
