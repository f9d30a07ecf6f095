// SPDX-License-Identifier: GPL-2.0

//! Room for the pfns that a fault of a mirror finds: on the stack for a few pages, allocated for more.

use core::mem::MaybeUninit;

use kernel::alloc::flags::__GFP_NOWARN;
use kernel::prelude::*;

use crate::pfn_array::HmmPfn;
use crate::walk::FaultError;
use crate::zeroed::zeroed;

/// For so many pages the room is on the stack: 512 bytes.
const FEW: usize = 64;

/// The room of one fault.
pub(crate) struct PfnRoom {
    /// Not initialised: for most faults one word is.
    few: [MaybeUninit<HmmPfn>; FEW],
    many: Option<KBox<[HmmPfn]>>,
}

impl PfnRoom {
    /// None yet.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            few: [const { MaybeUninit::uninit() }; FEW],
            many: None,
        }
    }

    /// Room for `pages`.
    ///
    /// # Errors
    ///
    /// [`FaultError::NoMemory`].
    #[inline]
    pub(crate) fn of(&mut self, pages: usize) -> Result<&mut [HmmPfn], FaultError> {
        if pages == 1 {
            // Most faults are for one page.
            return Ok(core::slice::from_mut(self.few[0].write(HmmPfn::ABSENT)));
        }
        if pages > FEW {
            self.many = Some(allocate(pages)?);
        }
        Ok(self.made(pages))
    }

    /// Room for `pages`, or for a few if there is no memory for so many.
    pub(crate) fn up_to(&mut self, pages: usize) -> &mut [HmmPfn] {
        if pages > FEW {
            self.many = allocate(pages).ok();
        }
        self.made(pages)
    }

    #[inline]
    fn made(&mut self, pages: usize) -> &mut [HmmPfn] {
        if let Some(many) = &mut self.many {
            return many;
        }
        let few = &mut self.few[..pages.min(FEW)];
        for pfn in &mut *few {
            pfn.write(HmmPfn::ABSENT);
        }
        // SAFETY: All of them have just been initialised.
        unsafe { &mut *(core::ptr::from_mut(few) as *mut [HmmPfn]) }
    }
}

#[cold]
fn allocate(pages: usize) -> Result<KBox<[HmmPfn]>, FaultError> {
    zeroed(pages, GFP_KERNEL | __GFP_NOWARN).map_err(|_| FaultError::NoMemory)
}
