// SPDX-License-Identifier: GPL-2.0

//! A key with an entry for each page: that of a region, or a leaf of a tree ([`crate::tree`]).
//!
//! Entries are changed in blocks of eight ([`crate::entries`]). Those around the changed ones come from the same chunk
//! of the region's mirror, as its table has them; where a block has entries of two chunks, the other one's come from what
//! was last written of them ([`State::shared`]).
//!
//! # Locking
//!
//! Under the lock of a chunk: [`RegionKey::state`], for the time of an update; under that the mutex of the `umem`
//! ([`crate::mkey_hold`]). Reclaim takes them: nothing is allocated under them that waits for it.

use core::ops::Range;
use core::ptr::null_mut;

use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_mutex, Arc, Mutex};

use mlx_odp::mlx5::xlt::{blocks, Mtt, Table, BLOCK, MTT};

use hmm::{Entries, PageIndex, PageRange};

use crate::entries::{update, Kind};
use crate::mkey_hold::MkeyHold;
use crate::mlx5;

/// The entries of a block.
type Block = [[u8; MTT]; BLOCK / MTT];

/// A key with an entry for each page.
#[pin_data]
pub(crate) struct RegionKey {
    table: Table,
    #[pin]
    state: Mutex<State>,
}

struct State {
    /// Null once the MR is being freed.
    mr: *mut mlx5::mlx5_ib_mr,
    /// The blocks with entries of two chunks, as they were last written, by their first entry. Those with no entries
    /// are not here.
    shared: RBTree<u64, Block>,
}

// SAFETY: An MR may be used from any thread.
unsafe impl Send for State {}

impl RegionKey {
    /// The key of `mr`, a region of `pages`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `mr` is valid until [`RegionKey::close`] returns.
    pub(crate) unsafe fn new(mr: *mut mlx5::mlx5_ib_mr, pages: PageRange) -> Result<Arc<Self>> {
        let shared = RBTree::new();
        Arc::pin_init(
            pin_init!(Self {
                table: Table::new(pages, 0),
                state <- new_mutex!(State { mr, shared }, "mlx5_odp::region_key::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The MR is being freed, and the device no longer uses its key.
    pub(crate) fn close(&self) {
        self.state.lock().mr = null_mut();
    }

    /// Whether the device no longer uses the key.
    pub(crate) fn is_gone(&self) -> bool {
        let state = self.state.lock();
        // SAFETY: As in `update`.
        unsafe { MkeyHold::new(state.mr) }.is_none()
    }

    /// Writes the entries of `entries` that change, and those around them. `part` are the pages of their chunk. Returns
    /// whether there is a key.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or the UMR was not completed.
    pub(crate) fn update(&self, part: PageRange, entries: &Entries<'_>) -> Result<bool> {
        let mut state = self.state.lock();
        // SAFETY: The MR has not gone, and `close` waits for `state`.
        let Some(hold) = (unsafe { MkeyHold::new(state.mr) }) else {
            return Ok(false);
        };
        let changed = self.table.entries(entries.changed());
        if changed.is_empty() {
            return Ok(true);
        }
        let own = |number| {
            let page = self.page(number)?;
            part.contains(page).then(|| {
                let mtt = entries.at(page).map(|translation| Mtt {
                    dma: translation.addr,
                    perm: translation.perm,
                });
                mtt.map_or(Mtt::ABSENT, Mtt::encode)
            })
        };
        let written = blocks(changed.clone(), MTT);
        for block in self.shared_blocks(part) {
            if block.start < written.end && written.start < block.end {
                state.record(&block, &own)?;
            }
        }
        let state = &*state;
        let entry = |number, room: &mut [u8]| {
            room.copy_from_slice(&own(number).unwrap_or_else(|| state.of_another(number)));
        };
        // SAFETY: The key is there, and `state` is held for as long as an update takes.
        unsafe { update(hold.mr(), Kind::Mtt, changed, &entry)? };
        Ok(true)
    }

    /// The page of an entry; `None` beyond the table's end.
    fn page(&self, number: u64) -> Option<PageIndex> {
        Some(self.table.pages(number)?.start())
    }

    /// The blocks that the chunk of `part` shares with its neighbours.
    fn shared_blocks(&self, part: PageRange) -> impl Iterator<Item = Range<u64>> + '_ {
        let borders = [part.start(), part.end()].into_iter();
        borders.filter_map(|border| self.table.shared_block(border))
    }
}

impl State {
    /// Records what is about to be written of a block that two chunks share: the entries that `own` has.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn record(&mut self, block: &Range<u64>, own: &impl Fn(u64) -> Option<[u8; MTT]>) -> Result {
        if self.shared.get(&block.start).is_none() {
            if block
                .clone()
                .all(|number| own(number).is_none_or(|entry| entry == Mtt::ABSENT))
            {
                return Ok(());
            }
            let node = RBTreeNode::new(block.start, Block::default(), GFP_NOWAIT)?;
            self.shared.insert(node);
        }
        if let Some(entries) = self.shared.get_mut(&block.start) {
            for (number, entry) in block.clone().zip(entries) {
                if let Some(own) = own(number) {
                    *entry = own;
                }
            }
        }
        Ok(())
    }

    /// The entry `number`, which another chunk has written.
    fn of_another(&self, number: u64) -> [u8; MTT] {
        let in_block = (BLOCK / MTT) as u64;
        let block = self.shared.get(&(number - number % in_block));
        let entry = block.and_then(|block| block.get((number % in_block) as usize));
        entry.copied().unwrap_or(Mtt::ABSENT)
    }
}
