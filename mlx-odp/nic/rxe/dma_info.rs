// SPDX-License-Identifier: GPL-2.0

//! How far a request has come in its scatter-gather list (`struct rxe_dma_info`), when a copy has failed.
//!
//! rxe's `copy_data` moves on to the element that it fails at before it fails, and changes nothing else. So the copy can
//! be made again once that is undone.

use mlx_odp::sge::element_at;

use crate::rxe;

/// How much of a request there is to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// In bytes, of the whole request.
    pub(crate) length: u32,
    /// Not copied yet.
    pub(crate) resid: u32,
}

/// Puts `dma` back to the element that it was at before the copy that failed. `None`, and nothing is changed, if it
/// is at no place of its list.
///
/// An application may share the memory and write it at any time: each value is read once and checked.
///
/// # Safety
///
/// `dma` is that of a request with room for `max_sge` elements, and nobody else of the kernel uses it.
pub(crate) unsafe fn undo_failed_copy(
    dma: *mut rxe::rxe_dma_info,
    max_sge: u32,
) -> Option<Remaining> {
    // SAFETY: By the contract, the elements that are looked at are within the request's room.
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
