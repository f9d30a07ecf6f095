// SPDX-License-Identifier: GPL-2.0

//! Persistent memory: what was written to it stays there without power once the CPU's caches have been written back.
//!
//! A device in software writes through the caches, as a program does. [`Mirror::write_back`] makes sure of what was
//! written to a range. It goes by the CPU's page table, and not by the mirror's own: what the device has written is mapped
//! there, as long as there is a translation, and so is what the process has written itself. Pages that were written
//! through a translation which has gone since are in no table of either: these are written back when their translation
//! goes, or becomes read-only ([`crate::table`]). In between there is no gap: an invalidation comes, and is done, before the
//! CPU's page table changes.
//!
//! Only areas that map such memory directly (DAX), and may be read, are looked at. What is between a file on a disk and its mapping, the page
//! cache, is volatile whatever is done here.

use core::ops::ControlFlow;

use crate::addr::{PageIndex, PageRange, PUD_ORDER};
use crate::mirror::{Mirror, LARGEST_BLOCK};
use crate::observer::Observer;
use crate::page::{persist, write_back};
use crate::pmd_pages::PmdPages;
use crate::range::{first_persistent, first_resident};
use crate::run::Run;
use crate::walk::{FaultError, Waiting};

impl<O: Observer> Mirror<O> {
    /// Writes back the CPU's caches of all persistent memory that the process maps in `range`, whether or not the device
    /// has used it. Brings nothing in, and leaves the translations as they are.
    ///
    /// Calls `step` after each step, of 128 KiB of such memory or 1 GiB of addresses without any at most, with the page
    /// that it has come to; `step` returns whether to go on. Sleeps, but waits for nobody if `waiting` forbids it.
    ///
    /// # Errors
    ///
    /// [`FaultError::Exited`] if the process is gone, or goes: what was written there may not be written back yet.
    /// [`FaultError::NoMemory`], [`FaultError::TimedOut`], [`FaultError::Interrupted`],
    /// [`FaultError::WouldWait`]: what comes before the page of the last step is done.
    pub fn write_back(
        &self,
        range: PageRange,
        waiting: Waiting,
        mut step: impl FnMut(PageIndex) -> ControlFlow<()>,
    ) -> Result<(), FaultError> {
        let mut rest = range.intersection(&self.span());
        while !rest.is_empty() {
            let mm = self.owned().user()?;
            let Some(area) = first_persistent(&mm, rest, waiting)? else {
                break;
            };
            // The lock of the address space is not held for more than this.
            let part = around(area.start(), PUD_ORDER).intersection(&area);
            let page = match first_resident(&mm, part, waiting)? {
                Some(page) => {
                    let block = around(page, LARGEST_BLOCK.ilog2()).intersection(&part);
                    let block = PageRange::new(page, block.end());
                    self.see_resident(block, waiting, |found| write_back_found(found, block))?;
                    block.end()
                }
                None => part.end(),
            };
            rest = PageRange::new(page, rest.end());
            if step(page).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The aligned `1 << order` pages around `page`.
fn around(page: PageIndex, order: u32) -> PageRange {
    let start = PageIndex::new(page.get() >> order << order);
    PageRange::new(start, start.saturating_add(1 << order))
}

/// Writes back what was `found` of `block`. Under the lock of the chunk.
fn write_back_found(found: &PmdPages<'_>, block: PageRange) {
    let mut any = false;
    // A huge entry reaches beyond the block.
    for run in found.runs().filter_map(|run| run.part(block)) {
        for entry in entries(&run) {
            // SAFETY: The pages were found in the process's page table, and an invalidation that lets go of them has to come
            // through the chunk's lock first.
            any |= unsafe { write_back(entry.pfn, entry.pages) };
        }
    }
    if any {
        persist();
    }
}

/// The parts of `run` that are of one entry each: single pages, or what there is of a huge one.
fn entries(run: &Run) -> impl Iterator<Item = Run> {
    let run = *run;
    let size = match run.order {
        0 => 1,
        _ => run.pages,
    };
    (0..run.pages / size).map(move |number| Run {
        pfn: run.pfn.add(number * size),
        pages: size,
        ..run
    })
}
