// SPDX-License-Identifier: GPL-2.0

//! Pages move to the device's own memory and back.
//!
//! [`Pool`](hmm::Pool) does it. The notifier removes the pages from the device's table
//! before they move; where they are afterwards is looked up like for any page.

use kernel::prelude::*;
use kernel::time::{delay::fsleep, Delta};

use crate::command::Command;
use crate::session::Session;

/// How often pages are moved to the device until all are there: a page that somebody else has locked
/// at that moment stays.
const ATTEMPTS: u32 = 3;

/// How often pages that are busy are tried again before the device's memory is not released.
const TRIES: u32 = 100;

impl Session {
    /// Moves the pages to the device, and has it read them.
    ///
    /// # Errors
    ///
    /// `ENOENT` if not all of them are on the device then.
    pub(crate) fn migrate_to_device(&self, command: &mut Command) -> Result {
        let mm = self.mm()?;
        let range = command.range();
        let mut result = Err(ENOENT);
        for _ in 0..ATTEMPTS {
            let huge = self.huge();
            self.device.pool.migrate_to_device(&mm, range, huge)?;
            self.enter_device_pages(&mm, range)?;
            command.begin_anew();
            result = self.read_present(command);
            if result != Err(ENOENT) {
                break;
            }
        }
        result
    }

    /// Moves the pages that are on the device back.
    pub(crate) fn migrate_to_system(&self, command: &mut Command) -> Result {
        let mm = self.mm()?;
        let range = command.range();
        let moved = self
            .device
            .pool
            .migrate_to_system(&mm, range, self.huge())?;
        command.add_pages(moved);
        Ok(())
    }

    /// Moves everybody's pages that are on the device back.
    ///
    /// # Errors
    ///
    /// `EBUSY` if some cannot be moved, `EINTR` if a signal comes first.
    pub(crate) fn release_device_memory(&self) -> Result {
        for _ in 1..TRIES {
            if kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            if self.device.pool.evict().is_ok() {
                return Ok(());
            }
            fsleep(Delta::from_millis(1));
        }
        self.device.pool.evict()
    }
}
