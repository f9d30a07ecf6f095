// SPDX-License-Identifier: GPL-2.0

//! Pages of one process on the device.
//!
//! A fault: [`Session::map`] → [`fault_until_valid`] → [`DmaRange::map`] → [`Table`]. A copy goes
//! through the table with the lock shared, so that an invalidation waits for it.

use hmm::{
    fault_until_valid, page_offset, Access, DmaRange, IntervalNotifier, Owner, PageIndex,
    PageRange, Perm, Policy, Request, Runs, TimeLimit, PAGE_SIZE,
};
use kernel::device::{Bound, Device};
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::engine::{Engine, Way};
use crate::table::Table;

/// Pages of the process that opened it.
#[pin_data]
pub(crate) struct Session {
    pub(crate) range: Arc<DmaRange<'static>>,
    #[pin]
    pub(crate) table: IntervalNotifier<Table>,
}

impl Session {
    pub(crate) fn open<'a>(
        mm: &'a MmWithUser,
        device: &'static Device<Bound>,
        pages: PageRange,
    ) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            range: DmaRange::new(device, pages)?,
            table <- IntervalNotifier::new(mm, pages, Owner::NONE, Table::new()?),
        })
    }

    /// Faults in the pages with the rights for `access`, and maps them for the device.
    pub(crate) fn map(&self, mm: &MmWithUser, pages: PageRange, access: Access) -> Result {
        let mut rest = pages;
        while !rest.is_empty() {
            let request = Request::new(rest, Policy::Fault(access));
            let limit = TimeLimit::default();
            let mut valid = fault_until_valid(&self.table, mm, &limit, &request, Runs::new())?;
            let done = valid.done();
            valid.split().1.take_out(done);
            DmaRange::map(&self.range, &mut valid, done, |table, mapping| {
                table.put(mapping)
            })?;
            rest = PageRange::new(done.end(), rest.end());
        }
        Ok(())
    }

    /// Copies between the process's memory, as far as it is mapped, and the device's buffer.
    pub(crate) fn copy(&self, engine: &mut Engine, user: u64, len: u64, way: Way) -> Result {
        let offset = page_offset(user) as u64;
        if len > PAGE_SIZE - offset {
            return Err(EINVAL);
        }
        let table = self.table.read();
        let page = PageIndex::containing(user);
        let run = table.find(page).ok_or(EFAULT)?;
        if way == Way::ToMemory && run.perm == Perm::ReadOnly {
            return Err(EPERM);
        }
        let addr = run.addr_of(page).ok_or(EFAULT)?;
        engine.copy(addr + offset, way, offset, len)
    }
}
