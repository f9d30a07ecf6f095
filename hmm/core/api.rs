// SPDX-License-Identifier: GPL-2.0

//! The core's part of the public API, in the order in which the author of a driver meets it. Both crates that
//! the core is compiled into re-export it: `lib.rs` on the host, `../kernel/hmm.rs` in the kernel.

// Which pages.
pub use crate::addr::{
    page_offset, pieces, pmd_range, ByteRange, PageIndex, PageRange, Piece, PAGE_SHIFT, PAGE_SIZE,
    PMD_ORDER, PMD_PAGES, PUD_ORDER,
};
// What is wanted of them, and by whom.
pub use crate::pfn::{Access, Owner, Perm, Permitted};
pub use crate::policy::{Policy, Requests, Wants};
pub use crate::walk::{Request, Waiting};
// What a fault finds, and why it may fail.
pub use crate::collect::{Collect, First, Full, Taken};
pub use crate::pfn::{Memory, PageState, Pfn};
pub use crate::pfn_array::{HmmPfn, PfnArray, PfnSlice};
pub use crate::policy::Refusal;
pub use crate::run::Run;
pub use crate::runs::{Runs, MAX_RUNS};
pub use crate::walk::FaultError;
// How long it stays true.
pub use crate::seq::{Collided, Deadline, Domain, Faulted, Sequence, Unread, ValidRange, Watched};
// What the CPU does to it.
pub use crate::event::{Event, Leaves};
// How a device that has translations of its own gets them, and gives them up.
pub use crate::fence::{DeviceChunk, Entries, Translation, Zap, Zapped};
// How a mirror is cut into chunks.
pub use crate::geometry::Geometry;
// Where a device with DMA finds it.
pub use crate::dma_run::{DmaRun, Parts, Route};
