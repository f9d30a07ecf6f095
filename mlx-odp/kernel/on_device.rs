// SPDX-License-Identifier: GPL-2.0

//! Regions whose translations are also on a device: the NIC reads memory through a table of its own, and an invalidation
//! waits until the NIC no longer uses a page.
//!
//! The NIC does not ask for each access. It reports a fault when a translation is missing, gets it, and is resumed. The
//! binding for the NIC implements [`MirrorDevice`] for the table.

use hmm::{pmd_range, Access, ByteRange, MirrorDevice, OnDevice, PageRange, Waiting};

use crate::fault::{AccessError, Wanted};
use crate::region::Region;

impl<D: MirrorDevice> Region<OnDevice<D>> {
    /// Gives the NIC the pages of `bytes`, which is not empty and is in this region, for `access`. Those of the first
    /// `needed` bytes are required, the others optional. May sleep, but waits only for the NIC.
    ///
    /// # Errors
    ///
    /// [`AccessError::MustWait`] for a page that has to come from elsewhere; the error of a page that cannot be had.
    pub fn resolve(
        &self,
        bytes: ByteRange,
        needed: u64,
        access: Access,
    ) -> Result<(), AccessError> {
        let must = bytes.part(0, needed.clamp(1, bytes.len()));
        let must = must.ok_or(AccessError::OutOfRange)?.pages();
        let (all, permitted) = (bytes.pages(), self.permit(access)?);
        let mut reached = must.start();
        for page in must.pages() {
            // As far as the PMD goes; what follows the first page is given as well if it can be had.
            let pages = PageRange::new(page, all.end());
            self.mirror()
                .resolve(pages, permitted, Waiting::Forbidden)
                .map_err(|error| AccessError::of_fault(error, Wanted { pages, permitted }))?;
            reached = pmd_range(page).end();
        }
        let rest = PageRange::new(reached.min(all.end()), all.end());
        if !rest.is_empty() {
            // The NIC faults on it when it gets there.
            let _ = self.mirror().resolve(rest, permitted, Waiting::Forbidden);
        }
        Ok(())
    }

    /// Whether the NIC has been given all pages of `bytes`, which are of this region, for `access`. Sleeps.
    pub fn has(&self, bytes: ByteRange, access: Access) -> bool {
        bytes
            .pages()
            .pages()
            .all(|page| self.mirror().has(page, access))
    }
}
