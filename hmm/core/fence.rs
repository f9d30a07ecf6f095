// SPDX-License-Identifier: GPL-2.0

//! The order in which a page leaves a device that has translations of its own, as types.
//!
//! The steps are those of [`Zap`].

use core::cell::Cell;
use core::marker::PhantomData;

use crate::addr::{PageIndex, PageRange};
use crate::pfn::Perm;
use crate::walk::FaultError;

/// Makes a lifetime that no other one can be used for.
type Brand<'z> = PhantomData<Cell<&'z ()>>;

/// The pages that a device has to forget.
///
/// A device with translations of its own (a ConnectX) reads memory through a table in the device, without the CPU.
/// Taking a translation out of that table is a request that the device completes some time later. Until then it may be
/// using the page. So:
///
/// 1. The driver is given a [`Zap`]: the pages that the device has to forget.
/// 2. The device confirms that it has forgotten them. [`Zap::confirmed`] makes a [`Zapped`] of the request.
/// 3. Unmapping and freeing the pages requires a [`Zapped`].
///
/// A driver whose device does not confirm gives the [`Zap`] back, and is asked to cut the device off
/// ([`DeviceChunk::cut_off`]). If that is not confirmed either, the pages stay mapped and are never freed.
///
/// Unmapping before the device has confirmed does not compile:
///
/// ```compile_fail,E0308
/// # use hmm::{Run, Zap};
/// # use hmm::device_xlt::Dma;
/// fn unmapped_before_the_zap(dma: &mut impl Dma, run: &Run, zap: Zap<'_>) {
///     dma.unmap(run, &zap);
/// }
/// ```
///
/// Nor does a fence that nobody asked for, or one that is used again for other pages:
///
/// ```compile_fail,E0451
/// # use hmm::{PageRange, Zapped};
/// fn a_fence_of_ones_own(pages: PageRange) {
///     let zapped = Zapped { pages, _brand: core::marker::PhantomData };
/// }
/// ```
///
/// ```compile_fail
/// # use hmm::{DeviceChunk, Entries, FaultError, Zap, Zapped};
/// struct Hoards<'k>(Option<Zapped<'k>>);
/// impl<'k> DeviceChunk for Hoards<'k> {
///     fn enter(&mut self, _: &Entries<'_>) -> Result<(), FaultError> {
///         Ok(())
///     }
///     fn zap<'z>(&mut self, zap: Zap<'z>, _: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
///         self.0 = Some(zap.confirmed()); // `'z` is not `'k`
///         unreachable!()
///     }
///     fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
///         Err(zap)
///     }
/// }
/// ```
#[must_use = "the device has to confirm, or the request goes back"]
#[derive(Debug)]
pub struct Zap<'z> {
    pages: PageRange,
    brand: Brand<'z>,
}

impl<'z> Zap<'z> {
    /// A request for `pages`. `_brand` keeps its confirmation apart from that of any other.
    pub(crate) fn new(_brand: &'z (), pages: PageRange) -> Self {
        Self {
            pages,
            brand: PhantomData,
        }
    }

    /// The pages.
    pub fn pages(&self) -> PageRange {
        self.pages
    }

    /// The device has confirmed: it has no translation of any of the pages, no access of it to them is under way,
    /// and no write of it is on its way to memory.
    ///
    /// `hmm` trusts the driver here. Call it only after the request has completed successfully, not when it was posted and
    /// not when it failed.
    pub fn confirmed(self) -> Zapped<'z> {
        Zapped {
            pages: self.pages,
            _brand: self.brand,
        }
    }
}

/// A fence: a device has forgotten these pages.
#[derive(Debug)]
pub struct Zapped<'z> {
    pages: PageRange,
    _brand: Brand<'z>,
}

impl Zapped<'_> {
    /// The pages.
    pub fn pages(&self) -> PageRange {
        self.pages
    }
}

/// A page's address and rights for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The device's address of the page's first byte.
    pub addr: u64,
    /// The device's rights.
    pub perm: Perm,
}

/// A table of translations.
pub(crate) trait Lookup {
    /// The translation of `page`.
    fn translation(&self, page: PageIndex) -> Option<Translation>;
}

/// The translations that the device must have, and which of them it does not have yet.
pub struct Entries<'t> {
    changed: PageRange,
    gone: PageRange,
    table: &'t dyn Lookup,
}

impl<'t> Entries<'t> {
    /// Those of `table`, of which `changed` are new.
    pub(crate) fn entered(table: &'t dyn Lookup, changed: PageRange) -> Self {
        Self {
            changed,
            gone: PageRange::new(changed.start(), changed.start()),
            table,
        }
    }

    /// Those of `table` without those of `gone`.
    pub(crate) fn without(table: &'t dyn Lookup, gone: PageRange) -> Self {
        Self {
            changed: gone,
            gone,
            table,
        }
    }

    /// The pages whose translations change. None of the others does.
    pub fn changed(&self) -> PageRange {
        self.changed
    }

    /// The translation of `page` from now on; `None` if there is none: the device has to fault.
    ///
    /// It can be asked for any page of the chunk. A device that is told of its entries in blocks writes each entry
    /// of a block from here, also those around [`Entries::changed`].
    pub fn at(&self, page: PageIndex) -> Option<Translation> {
        match self.gone.contains(page) {
            true => None,
            false => self.table.translation(page),
        }
    }
}

/// What a device has for one chunk of a mirror: a key, or a part of one.
///
/// All functions are called under the chunk's lock, a mutex, and may sleep until the device has done what it is asked
/// for. They must not allocate memory in a way that waits for reclaim, nor wait for anybody who does: an invalidation
/// by reclaim waits for this lock.
///
/// ```
/// use hmm::{DeviceChunk, Entries, FaultError, PageIndex, PageRange, Zap, Zapped};
///
/// /// A part of a key of the device, whose entries are written in blocks of eight.
/// struct Part {
///     pages: PageRange,
///     key: Key,
/// }
///
/// impl Part {
///     /// Writes the blocks of the entries that change, and waits until the device has completed that.
///     fn write(&mut self, entries: &Entries<'_>) -> Result<(), Failed> {
///         let changed = entries.changed();
///         let (start, end) = (changed.start().get() / 8 * 8, changed.end().get().next_multiple_of(8));
///         let blocks = PageRange::new(PageIndex::new(start), PageIndex::new(end));
///         // The rest of a block, before and after the part, is somebody else's.
///         let own = blocks.intersection(&self.pages);
///         for page in own.start().get()..own.end().get() {
///             // A neighbour keeps its entry; 0 is none.
///             let entry = entries.at(PageIndex::new(page)).map_or(0, |entry| entry.addr | 1);
///             self.key.prepare(page, entry);
///         }
///         self.key.post_and_wait()
///     }
/// }
///
/// impl DeviceChunk for Part {
///     fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError> {
///         self.write(entries).map_err(|Failed| FaultError::Device)
///     }
///
///     fn zap<'z>(&mut self, zap: Zap<'z>, entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
///         match self.write(entries) {
///             Ok(()) => Ok(zap.confirmed()),
///             Err(Failed) => Err(zap),
///         }
///     }
///
///     fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
///         match self.key.destroy() {
///             Ok(()) => Ok(zap.confirmed()),
///             Err(Failed) => Err(zap),
///         }
///     }
/// }
/// # struct Failed;
/// # struct Key;
/// # impl Key {
/// #     fn prepare(&mut self, _: u64, _: u64) {}
/// #     fn post_and_wait(&mut self) -> Result<(), Failed> { Ok(()) }
/// #     fn destroy(&mut self) -> Result<(), Failed> { Ok(()) }
/// # }
/// ```
pub trait DeviceChunk {
    /// Gives the device the translations of [`Entries::changed`]. It may use them at once, and keeps them until it is
    /// asked to forget them.
    ///
    /// # Errors
    ///
    /// What the fault that brought the pages in fails with. The device may have some of the translations: it is asked
    /// to forget them.
    fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError>;

    /// Makes the device forget the pages of `zap`. `entries` are the translations that it keeps.
    ///
    /// # Errors
    ///
    /// The request, if the device has not confirmed.
    fn zap<'z>(&mut self, zap: Zap<'z>, entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>>;

    /// The second fence, where [`DeviceChunk::zap`] failed: keeps the device from all pages of the chunk, for good, by
    /// other means: by destroying the key, or by what turns the device off. The chunk takes no translations after it.
    ///
    /// It is called again before the chunk is freed, if it failed.
    ///
    /// # Errors
    ///
    /// The request, if that is not confirmed, either: the pages of the chunk stay mapped and are not freed.
    fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>>;
}
