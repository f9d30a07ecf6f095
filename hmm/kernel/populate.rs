// SPDX-License-Identifier: GPL-2.0

//! Populating the CPU's page table: the part of a fault that may wait.

use kernel::mm::{Mm, MmWithUser};
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use crate::addr::PageRange;
use crate::charge::Charge;
use crate::collect::{Collect, Full};
use crate::credentials::Credentials;
use crate::file_read::FilePart;
use crate::page_table::{Batch, LockedMm, MmapReadLock};
use crate::pfn::{Access, Owner, Perm, Permitted};
use crate::policy::{Policy, Refusal};
use crate::process::killed;
use crate::run::Run;
use crate::shim;
use crate::walk::{walk, FaultError, Waiting};

/// An address space, with the credentials of the task that registered a part of it, and the access it granted the
/// device.
///
/// A device's fault often runs where others wait for it, and must not wait itself ([`Waiting::Forbidden`]).
/// [`Owned::populate`] brings the pages in, in a thread that nobody waits for; then the device tries again. It
/// holds nothing of the device's or its mirror's: only the address space and the credentials.
pub struct Owned {
    mm: ARef<Mm>,
    credentials: Credentials,
    limit: Perm,
}

impl Owned {
    /// `mm` and the credentials of the current task. `limit` is the most that the device may do.
    pub fn by_current(mm: &Mm, limit: Perm) -> Self {
        Self {
            mm: mm.into(),
            credentials: Credentials::current(),
            limit,
        }
    }

    /// The credentials of the task that registered it.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The most that the device may do.
    pub fn limit(&self) -> Perm {
        self.limit
    }

    /// `access`, if the device may do that.
    ///
    /// # Errors
    ///
    /// [`FaultError::Refused`] (`Forbidden`).
    #[inline]
    pub fn permit(&self, access: Access) -> Result<Permitted, FaultError> {
        let permitted = self.limit.permit(access);
        permitted.ok_or(FaultError::Refused(Refusal::Forbidden))
    }

    /// A user reference, which keeps the address space from being torn down. Dropping the last one leaves the
    /// teardown to a worker, as it may take long.
    ///
    /// # Errors
    ///
    /// [`FaultError::Exited`] if the process is gone.
    #[inline]
    pub(crate) fn user(&self) -> Result<ARef<kernel::mm::MmWithUserAsync>, FaultError> {
        let mm = self.mm.mmget_not_zero().ok_or(FaultError::Exited)?;
        let mm = MmWithUser::into_mmput_async(mm);
        // Faults must not keep the memory of a dead process alive and let it grow.
        // SAFETY: `mm` is alive.
        match unsafe { shim::hmm_shim_mm_has_owner(mm.as_raw()) } {
            true => Ok(mm),
            false => Err(FaultError::Exited),
        }
    }

    /// Whether all processes that used the address space have exited, so that only waiting faults keep it alive.
    pub fn is_orphaned(&self) -> bool {
        // SAFETY: The reference keeps `mm`, if not what it maps.
        unsafe { !shim::hmm_shim_mm_has_owner(self.mm.as_raw()) }
    }

    /// Faults in `pages` for an access that [`Owned::permit`] has permitted, one after the other. They may be gone
    /// again when this returns. Sleeps until they have been read or the current thread is killed, as far as the
    /// kernel's fault handler can be killed. The mmap lock is not held while a page is read, and for pages of files as
    /// a rule not the address space either.
    ///
    /// # Errors
    ///
    /// [`FaultError::Refused`] for the first page that cannot be had, [`FaultError::Exited`],
    /// [`FaultError::Interrupted`].
    pub fn populate(&self, pages: PageRange, permitted: Permitted) -> Result<(), FaultError> {
        let access = permitted.access();
        self.read_files(pages, access)?;
        let mm = self.user()?;
        let _charge = Charge::to(&mm);
        let _user = self.credentials.take_on();
        let (mut write_lock, mut batch) = (None, Batch::new());
        let never = || false;
        let mut space = LockedMm::lock(
            &mm,
            &mut write_lock,
            &mut batch,
            Owner::NONE,
            Waiting::Allowed,
            &never,
        )?;
        match walk(&mut space, pages, &Policy::Fault(access), &mut Nowhere) {
            // The fault handler says that all is well, and the page is not there: the device will ask again.
            Ok(_) | Err(FaultError::Collided) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Owned {
    /// Reads what files `pages` are made of, without the address space; see [`crate::file_read`].
    ///
    /// # Errors
    ///
    /// [`FaultError::Exited`], [`FaultError::Interrupted`]. Read errors are ignored; the fault handler reports them.
    fn read_files(&self, pages: PageRange, access: Access) -> Result<(), FaultError> {
        let mut rest = pages;
        while !rest.is_empty() {
            let (charge, (part, end)) = {
                let mm = self.user()?;
                let lock = MmapReadLock::take(&mm, Waiting::Allowed)?;
                (Charge::to(&mm), FilePart::at(&lock, rest, access))
            };
            if let Some(part) = part {
                let _user = self.credentials.take_on();
                part.read();
            }
            drop(charge);
            if killed() {
                return Err(FaultError::Interrupted);
            }
            rest = PageRange::new(end, rest.end());
        }
        Ok(())
    }
}

/// Ignores the pages found: they may be stale at once.
struct Nowhere;

impl Collect for Nowhere {
    fn mapped(&mut self, _run: Run) -> Result<(), Full> {
        Ok(())
    }

    fn unusable(&mut self, _pages: PageRange) {}

    fn clear(&mut self) {}
}
