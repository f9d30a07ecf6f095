// SPDX-License-Identifier: GPL-2.0

//! Reading the pages of files before they are faulted in.
//!
//! The fault handler needs the address space, and a thread that waits in it keeps that alive, with all that the process
//! has mapped: also the queues of its RDMA device, and by these the device's file. A thread that waits for a file
//! system without a server cannot even be killed. So file pages are read into the page cache first, with a reference to
//! the file only.

use core::ptr::NonNull;

use kernel::bindings;

use crate::addr::{PageIndex, PageRange, PAGE_SHIFT};
use crate::page_table::MmapReadLock;
use crate::pfn::Access;
use crate::process::killed;
use crate::shim;

/// A part of a file that pages of an address space are mapped to.
///
/// # Invariants
///
/// `file` has a reference that is ours, and can be read.
pub(crate) struct FilePart {
    file: NonNull<bindings::file>,
    /// In bytes.
    from: i64,
    pages: u64,
}

impl FilePart {
    /// What the first of `pages` and those after it are a part of, and the first page that is not: `None` if that is no
    /// file that an `access` would have to wait for. `pages` is not empty.
    pub(crate) fn at(
        lock: &MmapReadLock<'_>,
        pages: PageRange,
        access: Access,
    ) -> (Option<Self>, PageIndex) {
        let (start, mut end, mut from) = (pages.start().addr(), pages.end().addr(), 0);
        let writes = access == Access::Write;
        // SAFETY: It has users, and `lock` is its mmap lock.
        let file = unsafe {
            shim::hmm_shim_file_to_read(lock.mm().as_raw(), start, &mut end, writes, &mut from)
        };
        let end = PageIndex::containing(end);
        let pages = PageRange::new(pages.start(), end).len();
        // INVARIANT: The reference is for us.
        let part = NonNull::new(file).map(|file| Self { file, from, pages });
        (part, end)
    }

    /// Reads it into the page cache, as far as that is possible and the current thread is not killed. Sleeps, and waits
    /// for the file system that has to bring it.
    pub(crate) fn read(&self) {
        for page in 0..self.pages {
            let at = self.from + ((page << PAGE_SHIFT) as i64);
            // SAFETY: It can be read, by the type invariant.
            if killed() || !unsafe { shim::hmm_shim_read_page(self.file.as_ptr(), at) } {
                return;
            }
        }
    }
}

impl Drop for FilePart {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, by the type invariant.
        unsafe { shim::hmm_shim_put_file(self.file.as_ptr()) };
    }
}
