// SPDX-License-Identifier: GPL-2.0

//! The place of a WQE in its scatter-gather list (`struct rxe_dma_info`) after a failed copy.
//!
//! rxe's `copy_data` advances to the element at which it fails, and changes nothing else. Undo that, and the copy can
//! be repeated.

use mlx_odp::sge::element_at;

use crate::rxe;

/// What remains of a WQE to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// The length of the whole WQE, in bytes.
    pub(crate) length: u32,
    /// The bytes not copied yet.
    pub(crate) resid: u32,
}

/// Sets `dma` back to its element before the failed copy. `None`, and nothing is changed, if its values do not name a
/// place in the list.
///
/// The application may share the memory and write to it at any time, so each value is read once and checked.
///
/// # Safety
///
/// `dma` is that of a WQE with room for `max_sge` elements, and nothing else in the kernel uses it.
pub(crate) unsafe fn undo_failed_copy(
    dma: *mut rxe::rxe_dma_info,
    max_sge: u32,
) -> Option<Remaining> {
    // SAFETY: By the contract, the elements that are read are within the WQE's room.
    unsafe {
        let length = (&raw const (*dma).length).read_volatile();
        let resid = (&raw const (*dma).resid).read_volatile();
        let offset = (&raw const (*dma).sge_offset).read_volatile();
        let count = (&raw const (*dma).num_sge).read_volatile().min(max_sge);
        let elements = (&raw const (*dma).__bindgen_anon_1).cast::<rxe::rxe_sge>();
        let lengths =
            (0..count).map(|i| (&raw const (*elements.add(i as usize)).length).read_volatile());
        (*dma).cur_sge = element_at(length.wrapping_sub(resid), offset, lengths)?;
        Some(Remaining { length, resid })
    }
}
