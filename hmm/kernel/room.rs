// SPDX-License-Identifier: GPL-2.0

//! Memory for the translations of a chunk: made by a fault before it takes the chunk's lock ([`RoomForFault`]), or
//! under the lock without waiting ([`AtOnce`]).

use kernel::alloc::flags::__GFP_NOWARN;
use kernel::alloc::Flags;
use kernel::prelude::*;

use crate::addr::{PageIndex, PMD_ORDER};
use crate::xlt::{pmds_in, Pages, Room, Slot, Xlt};
use crate::zeroed::zeroed;

// Not vectors: a chunk with its notifier is to fit into 256 bytes (`Mirror::CHUNK_FITS`).
pub(crate) type Slots = KBox<[Slot]>;
pub(crate) type Pmds = Pin<KBox<[Pages<Slots>]>>;
/// The translations of a chunk in the kernel's memory.
pub(crate) type Translations = Xlt<Slots, Pmds>;

/// `count` empty slots, for pages or for PMDs.
pub(crate) fn empty_slots(count: u64, flags: Flags) -> Result<Slots> {
    Ok(zeroed(count as usize, flags)?)
}

/// `count` PMDs without slots.
fn empty_pmds(count: usize, flags: Flags) -> Result<Pmds> {
    KBox::pin_slice(|_| Ok::<_, Error>(Pages::default()), count, flags)
}

/// Room for the translations of a fault, made before the lock is taken and charged to the process.
#[derive(Default)]
pub(crate) struct RoomForFault {
    pmds: Option<Pmds>,
    slots: Option<Slots>,
    /// Whether to make room even if the chunk has it: it may be gone when it is needed.
    rely_on_nothing: bool,
}

/// How many PMDs and slots there is no room for.
pub(crate) struct Missing {
    pmds: Option<usize>,
    slots: Option<u64>,
}

impl RoomForFault {
    /// The slots and PMD entries still needed to map `page`: neither `table` nor this has them.
    #[inline]
    pub(crate) fn missing(&self, table: &Translations, page: PageIndex) -> Missing {
        let slots = table.has_slots(page) && !self.rely_on_nothing;
        let pmds = !table.has_pages() && self.pmds.is_none();
        Missing {
            pmds: pmds.then(|| pmds_in(table.range()) as usize),
            slots: (!slots && self.slots.is_none()).then(|| table.part_around(page).len()),
        }
    }

    /// Makes the room that is `missing`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub(crate) fn make(&mut self, missing: Missing) -> Result {
        match missing {
            // As for most faults.
            Missing {
                pmds: None,
                slots: None,
            } => Ok(()),
            missing => self.allocate(missing),
        }
    }

    #[cold]
    fn allocate(&mut self, missing: Missing) -> Result {
        if let Some(pmds) = missing.pmds {
            self.pmds = Some(empty_pmds(pmds, GFP_KERNEL_ACCOUNT)?);
        }
        if let Some(slots) = missing.slots {
            self.slots = Some(empty_slots(slots, GFP_KERNEL_ACCOUNT)?);
        }
        Ok(())
    }

    /// From now on allocates even if the chunk has slots: they may be freed before the lock is taken.
    pub(crate) fn rely_on_nothing(&mut self) {
        self.rely_on_nothing = true;
    }

    /// Whether room for single pages is needed if the smallest entry found maps `1 << smallest` pages. Always, if it
    /// was missing once, so that there is no third try.
    pub(crate) fn needed(&self, smallest: u32) -> bool {
        smallest < PMD_ORDER || self.rely_on_nothing
    }
}

impl Room<Pmds, Slots> for RoomForFault {
    fn pages(&mut self, pmds: usize) -> Option<Pmds> {
        self.pmds.take_if(|spare| spare.len() == pmds)
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        self.slots.take_if(|spare| spare.len() as u64 == pages)
    }
}

/// Room that is allocated under the lock, without waiting: for the rest of a huge page.
pub(crate) struct AtOnce;

impl Room<Pmds, Slots> for AtOnce {
    fn pages(&mut self, pmds: usize) -> Option<Pmds> {
        empty_pmds(pmds, GFP_NOWAIT | __GFP_NOWARN).ok()
    }

    fn slots(&mut self, pages: u64) -> Option<Slots> {
        empty_slots(pages, GFP_NOWAIT | __GFP_NOWARN).ok()
    }
}
