// SPDX-License-Identifier: GPL-2.0

//! A region of rxe's, and the accesses of rxe to its memory.

use core::ops::Deref;

use hmm::{pieces, Access, ByteRange, Bytes, MappedPage, Piece, Waiting};

use mlx_odp::rxe::announced::Announced;
use mlx_odp::{AccessError, Region, Registered, Wanted};

/// A region, and the message that it is used for.
pub(crate) struct RxeRegion {
    region: Registered,
    announced: Announced,
}

impl RxeRegion {
    /// Without a message.
    pub(crate) fn new(region: Registered) -> Self {
        Self {
            region,
            announced: Announced::default(),
        }
    }
}

impl Deref for RxeRegion {
    type Target = Region;

    #[inline]
    fn deref(&self) -> &Region {
        &self.region
    }
}

impl RxeRegion {
    /// Announces that a message will use the `len` bytes from `iova` in order.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`] if they are not all in the region.
    #[inline]
    pub(crate) fn announce(&self, iova: u64, len: u64) -> Result<(), AccessError> {
        self.announced.announce(self.region.translate(iova, len)?);
        Ok(())
    }

    /// Accesses the `len` bytes from `iova` for the NIC. `use_bytes` is as for [`hmm::Mirror::access`], and gets
    /// the number of bytes before the piece. May sleep to fault pages in, but not for a disk, a file system or another
    /// process.
    ///
    /// # Errors
    ///
    /// [`AccessError::OutOfRange`], before anything is touched; [`AccessError::MustWait`] for a page whose fault has
    /// to sleep for one of these; otherwise as the mirror. The pieces before the failed one have been used.
    #[inline]
    pub(crate) fn access(
        &self,
        iova: u64,
        len: usize,
        access: Access,
        mut use_bytes: impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let region = &*self.region;
        let bytes = region.translate(iova, len as u64)?;
        match Piece::all_of(bytes.start(), len) {
            // The common case: a packet is no longer than a page.
            Some(piece) => self.access_piece(region, bytes, piece, access, &mut use_bytes),
            None => self.access_pieces(bytes, access, &mut use_bytes),
        }
    }

    /// Accesses `bytes` piece by piece.
    #[inline(never)]
    fn access_pieces(
        &self,
        bytes: ByteRange,
        access: Access,
        use_bytes: &mut impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let region = &*self.region;
        pieces(bytes.start(), bytes.len() as usize)
            .try_for_each(|piece| self.access_piece(region, bytes, piece, access, use_bytes))
    }

    /// Accesses `piece` of `bytes`, which are of `region`: its own, read once.
    #[inline]
    fn access_piece(
        &self,
        region: &Region,
        bytes: ByteRange,
        piece: Piece,
        access: Access,
        use_bytes: &mut impl FnMut(usize, Bytes<'_>),
    ) -> Result<(), AccessError> {
        let mut use_page = |page: MappedPage<'_>| use_bytes(piece.done(), page.piece(&piece));
        let page = piece.page();
        match region.mirror().access_mapped(page, access, &mut use_page) {
            true => Ok(()),
            false => {
                let rest = bytes.after(piece.done() as u64);
                self.access_missing(rest, access, use_page)
            }
        }
    }

    /// Accesses the first page of `rest`, where no translation allows the access.
    #[cold]
    #[inline(never)]
    fn access_missing(
        &self,
        rest: ByteRange,
        access: Access,
        use_page: impl FnOnce(MappedPage<'_>),
    ) -> Result<(), AccessError> {
        let pages = self.announced.wanted(rest).pages();
        let permitted = self.region.permit(access)?;
        self.region
            .mirror()
            .access_missing(pages, permitted, Waiting::Forbidden, use_page)
            .map_err(|error| AccessError::of_fault(error, Wanted { pages, permitted }))
    }

    /// As [`RxeRegion::access`] for reading, but of pages that are there without using them ([`hmm::Mirror::look_at`]).
    ///
    /// # Errors
    ///
    /// Those of [`RxeRegion::access`].
    pub(crate) fn look_at(
        &self,
        iova: u64,
        len: usize,
        mut look: impl FnMut(Bytes<'_>),
    ) -> Result<(), AccessError> {
        let bytes = self.region.translate(iova, len as u64)?;
        for piece in pieces(bytes.start(), len) {
            let mut look = |page: MappedPage<'_>| look(page.piece(&piece));
            if !self.region.mirror().look_at(piece.page(), &mut look) {
                self.access_missing(bytes.after(piece.done() as u64), Access::Read, look)?;
            }
        }
        Ok(())
    }
}
