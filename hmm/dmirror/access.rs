// SPDX-License-Identifier: GPL-2.0

//! The device reads and writes the process's memory, and takes pages of it exclusively.
//!
//! An access goes through the device's table with its lock shared. What the table lacks is faulted in,
//! with everything after it that the command is about, and then the access is tried again.

use hmm::{
    make_exclusive, mark_dirty, Access, MappedPage, PageIndex, PageRange, Perm, Pfn, TimeLimit,
};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::command::Command;
use crate::page_table::{Place, Slot, Spare};
use crate::session::Session;

type Bounce = [u8; PAGE_SIZE];

/// How often one page may be taken away between its fault and its access.
const TRIES: u32 = 100;

impl Session {
    /// The device reads the pages into the caller's buffer.
    pub(crate) fn read(&self, command: &mut Command) -> Result {
        let mut bounce = bounce()?;
        let mut buffer = command.buffer(PAGE_SIZE)?.writer();
        for page in command.range().pages() {
            self.faulting(command, page, Access::Read, || {
                self.read_page(page, &mut bounce)
            })?;
            buffer.write_slice(&bounce[..])?;
            command.add_pages(1);
        }
        Ok(())
    }

    /// The device writes the pages from the caller's buffer.
    pub(crate) fn write(&self, command: &mut Command) -> Result {
        let mut bounce = bounce()?;
        let mut buffer = command.buffer(PAGE_SIZE)?.reader();
        for page in command.range().pages() {
            buffer.read_slice(&mut bounce[..])?;
            self.faulting(command, page, Access::Write, || {
                self.write_page(page, &bounce)
            })?;
            command.add_pages(1);
        }
        Ok(())
    }

    /// The device reads the pages, as far as it has them.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it lacks one.
    pub(crate) fn read_present(&self, command: &mut Command) -> Result {
        let mut bounce = bounce()?;
        let mut buffer = command.buffer(PAGE_SIZE)?.writer();
        for page in command.range().pages() {
            if !self.read_page(page, &mut bounce)? {
                return Err(ENOENT);
            }
            buffer.write_slice(&bounce[..])?;
            command.add_pages(1);
        }
        Ok(())
    }

    /// The device takes the pages away from the CPU, and reads them.
    pub(crate) fn take_exclusively(&self, command: &mut Command) -> Result {
        let mm = self.mm()?;
        let mut spare = Spare::new();
        for page in command.range().pages() {
            spare.refill()?;
            let limit = TimeLimit::default();
            let mut held = make_exclusive(&self.table, &mm, &limit, page)?;
            let slot = Slot {
                place: Place::System(held.pfn()),
                perm: Perm::ReadWrite,
                exclusive: true,
            };
            held.guard().set(page, slot, &mut spare)?;
        }
        self.read_present(command)
    }

    /// # Errors
    ///
    /// `EPERM` if the device has any of the pages exclusively.
    pub(crate) fn check_exclusive(&self, command: &Command) -> Result {
        match self.table.read().has_exclusive(command.range()) {
            true => Err(EPERM),
            false => Ok(()),
        }
    }

    /// Tries `access` on `page`, faulting until it has taken place.
    fn faulting(
        &self,
        command: &mut Command,
        page: PageIndex,
        access: Access,
        mut try_it: impl FnMut() -> Result<bool>,
    ) -> Result {
        for _ in 0..TRIES {
            if try_it()? {
                return Ok(());
            }
            let rest = PageRange::new(page, command.range().end());
            self.fault(&*self.mm()?, rest, access)?;
            command.add_fault();
        }
        Err(ETIMEDOUT)
    }

    /// Whether the device could read the page.
    fn read_page(&self, page: PageIndex, to: &mut Bounce) -> Result<bool> {
        let table = self.table.read();
        match table.translate(page, Access::Read) {
            None => return Ok(false),
            Some(Place::Device(page)) => self.device.pool.memory().read(page, to)?,
            // SAFETY: An entry of the table, which invalidations remove; they wait for the lock.
            Some(Place::System(pfn)) => unsafe { copy_from(pfn, to) },
        }
        Ok(true)
    }

    /// Whether the device could write the page.
    fn write_page(&self, page: PageIndex, from: &Bounce) -> Result<bool> {
        let table = self.table.read();
        match table.translate(page, Access::Write) {
            None => return Ok(false),
            Some(Place::Device(page)) => self.device.pool.memory().write(page, from)?,
            // SAFETY: As in `read_page`; the entry allows writing.
            Some(Place::System(pfn)) => unsafe { copy_to(pfn, from) },
        }
        Ok(true)
    }
}

/// A page's room: too large for the kernel's stack.
fn bounce() -> Result<KBox<Bounce>> {
    KBox::init(pin_init::init_zeroed::<Bounce>(), GFP_KERNEL)
}

/// # Safety
///
/// `pfn` is a translation whose lock is held.
unsafe fn copy_from(pfn: Pfn, to: &mut Bounce) {
    // SAFETY: By the contract.
    let page = unsafe { MappedPage::map(pfn) };
    let from = page.bytes(0, PAGE_SIZE);
    // SAFETY: Both are a page long; the user's bytes may change meanwhile, as they may under a device.
    unsafe {
        from.as_ptr()
            .copy_to_nonoverlapping(to.as_mut_ptr(), PAGE_SIZE)
    };
}

/// # Safety
///
/// `pfn` is a translation for writing whose lock is held.
unsafe fn copy_to(pfn: Pfn, from: &Bounce) {
    // SAFETY: By the contract.
    let page = unsafe { MappedPage::map(pfn) };
    page.bytes(0, PAGE_SIZE).write(from);
    // SAFETY: By the contract.
    unsafe { mark_dirty(pfn) };
}
