// SPDX-License-Identifier: GPL-2.0

//! Which addresses a process may map, and whether it is being killed.

use kernel::mm::Mm;

use crate::addr::{PageIndex, PageRange};
use crate::shim;

/// The pages that user space of `mm` may map. Takes no lock.
pub fn user_pages(mm: &Mm) -> PageRange {
    // SAFETY: `mm` is alive; its task size never changes after exec.
    let size = unsafe { shim::hmm_shim_task_size(mm.as_raw()) };
    PageRange::new(PageIndex::new(0), PageIndex::containing(size as u64))
}

/// Whether the current thread has been killed and should do nothing else.
pub(crate) fn killed() -> bool {
    // SAFETY: Looks at the current thread.
    unsafe { shim::hmm_shim_killed() }
}
