// SPDX-License-Identifier: GPL-2.0

//! Resolving page faults: from what a NIC wants to the page.
//!
//! [`Resolver::resolve`] → [`Key::translate`] → [`Memory::bring_in`] → [`PendingFault::resume`].

use hmm::addr::PageRange;
use hmm::pfn::Access;
use hmm::walk::FaultError;

use crate::fault::{AccessError, PendingFault, Waiter, Wanted};
use crate::key::Key;

/// Memory that pages are brought into for a NIC: in the kernel a mirror.
pub trait Memory {
    /// A page that is there, and stays for `'p`.
    type Page<'p>;

    /// Has the first page of `pages` there for `access`, and calls `use_page` with it while nobody can
    /// take it away; the other pages come with it as far as that is no more work. May sleep.
    ///
    /// # Errors
    ///
    /// Why it cannot be had; then `use_page` is not called.
    fn bring_in(
        &self,
        pages: PageRange,
        access: Access,
        use_page: impl FnOnce(Self::Page<'_>),
    ) -> Result<(), FaultError>;
}

/// A key and the memory that it stands for.
#[derive(Debug)]
pub struct Resolver<M> {
    key: Key,
    memory: M,
}

impl<M: Memory> Resolver<M> {
    /// Resolves faults on `key`, which stands for a part of `memory`.
    pub fn new(key: Key, memory: M) -> Self {
        Self { key, memory }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The memory.
    #[inline]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Has what `fault` waits for brought in, and resumes it, in any case. May sleep.
    pub fn resolve<W>(&self, fault: PendingFault<W>)
    where
        W: for<'p> Waiter<Page<'p> = M::Page<'p>>,
    {
        let Wanted { access, .. } = fault.wanted();
        let pages = match self.pages(fault.wanted()) {
            Ok(pages) => pages,
            Err(error) => return fault.resume(Err(error)),
        };
        let mut waiting = Some(fault);
        let brought = self.memory.bring_in(pages, access, |page| {
            if let Some(fault) = waiting.take() {
                fault.resume(Ok(page));
            }
        });
        if let (Err(error), Some(fault)) = (brought, waiting.take()) {
            fault.resume(Err(AccessError::Fault(error)));
        }
    }

    /// The pages of what is wanted.
    fn pages(&self, wanted: Wanted) -> Result<PageRange, AccessError> {
        let va = self.key.translate(wanted.iova, wanted.len);
        let va = va.map_err(|_| AccessError::OutOfRange)?;
        let pages = PageRange::covering(va, wanted.len);
        pages
            .filter(|pages| !pages.is_empty())
            .ok_or(AccessError::OutOfRange)
    }
}
