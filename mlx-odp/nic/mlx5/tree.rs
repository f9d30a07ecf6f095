// SPDX-License-Identifier: GPL-2.0

//! The keys of a region that is more than one ([`mlx_odp::mlx5::key_tree`]).
//!
//! The root is the MR's key. The others come with the first chunk of the mirror that needs them and go with the last:
//! a chunk is freed when it has been empty for a while, or with the region. A leaf is a [`RegionKey`], like the key of a
//! small region.
//!
//! A new key is complete before an entry leads to it: a leaf without pages, a middle key with the leaf that it is made
//! for. When keys go, the highest one's entry goes first, so nothing leads to a key that has been given back.
//!
//! In the memory scheme a fault names the key where the device has stopped: a leaf, or the key without memory that all
//! other entries name, of which each region has one of its own then. Both lead to the region ([`crate::keys`]).
//!
//! # Locking
//!
//! [`Tree::state`] is held while keys are made, linked or taken out. Nothing of hmm's is taken under it, and it is not
//! taken under the lock of a chunk: chunks are opened before they have one, and freed after.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::{new_mutex, Arc, Mutex};

use mlx_odp::mlx5::key_tree::{KeyTree, Level, Node, LEAF_PAGES};
use mlx_odp::mlx5::xlt::Ksm;

use hmm::{PageIndex, PageRange};

use crate::entries::{enable, update, Kind};
use crate::mkey_hold::MkeyHold;
use crate::mlx5;
use crate::region_key::RegionKey;
use crate::umem_head::UmemHead;

/// What an entry that leads to no key names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NullEntry {
    /// A key without memory.
    pub(crate) key: u32,
    /// Faults name this key, so each entry's address must say which part it stands for.
    pub(crate) faults: bool,
}

/// The keys of a region.
#[pin_data(PinnedDrop)]
pub(crate) struct Tree {
    keys: KeyTree,
    /// What to add to an address of the region to get that in the process's memory.
    va_offset: u64,
    null: NullEntry,
    /// The device no longer uses the root, so it reaches no key below it.
    closed: AtomicBool,
    #[pin]
    state: Mutex<State>,
}

struct State {
    /// The MR, with the root; null once it is being freed.
    mr: *mut mlx5::mlx5_ib_mr,
    below: RBTree<Node, Key>,
}

// SAFETY: An MR may be used from any thread.
unsafe impl Send for State {}

/// A key below the root.
struct Key {
    mr: *mut mlx5::mlx5_ib_mr,
    lkey: u32,
    /// The chunks in a leaf; the leaves of a middle key. Without any it stays where it could not be linked, or not be
    /// taken out of the entries above it: until it is needed again, or to the end of the region.
    users: usize,
    /// The entry above is known to lead to it.
    linked: bool,
    /// Of a leaf.
    pages: Option<Arc<RegionKey>>,
}

/// The entry of `node`: of its key, if it has one.
fn entry(keys: &KeyTree, null: NullEntry, node: Node, key: Option<u32>) -> Ksm {
    let va = keys.address(node);
    match (key, null.faults) {
        (Some(key), _) => Ksm { key, va },
        (None, true) => Ksm { key: null.key, va },
        (None, false) => Ksm {
            key: null.key,
            va: 0,
        },
    }
}

/// Writes all entries of a new root, none of which leads anywhere, and enables it.
///
/// # Errors
///
/// Those of [`enable`].
///
/// # Safety
///
/// `mr` is a new key with memory of this driver's and room for `count` entries. It is used by nothing else.
pub(crate) unsafe fn enable_root(
    mr: *mut mlx5::mlx5_ib_mr,
    keys: &KeyTree,
    null: NullEntry,
    count: u64,
) -> Result {
    let write = |index, room: &mut [u8]| {
        let node = keys.node(None, index);
        room.copy_from_slice(&entry(keys, null, node, None).encode());
    };
    // SAFETY: By the contract.
    unsafe { enable(mr, Kind::Ksm, count, keys.part(), &write) }
}

impl Tree {
    /// The tree of `mr`, whose root is enabled. `va_offset` is added to an address of the region to get that in memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `mr` is valid until [`Tree::close`] returns.
    pub(crate) unsafe fn new(
        mr: *mut mlx5::mlx5_ib_mr,
        keys: KeyTree,
        va_offset: u64,
        null: NullEntry,
    ) -> Result<Arc<Self>> {
        let below = RBTree::new();
        Arc::pin_init(
            pin_init!(Self {
                keys,
                va_offset,
                null,
                closed: AtomicBool::new(false),
                state <- new_mutex!(State { mr, below }, "mlx5_odp::tree::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The MR is being freed, and the device no longer uses its key.
    pub(crate) fn close(&self) {
        self.state.lock().mr = null_mut();
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the device no longer reaches any of the keys.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What the part `index` of `above` is to be, as `state` has it.
    fn entry(&self, state: &State, above: Option<Node>, index: u64) -> Ksm {
        let node = self.keys.node(above, index);
        let key = state.below.get(&node).map(|key| key.lkey);
        entry(&self.keys, self.null, node, key)
    }

    /// Writes the entry that leads to `node`, as `state` has it.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the root has gone; those of [`update`].
    fn link(&self, state: &State, node: Node) -> Result {
        let above = self.keys.above(node);
        let index = self.keys.index(node);
        let write = |index, room: &mut [u8]| {
            room.copy_from_slice(&self.entry(state, above, index).encode());
        };
        if let Some(key) = above.and_then(|above| state.below.get(&above)) {
            // SAFETY: The key is there as long as `state` has it, which is locked for as long as an update takes.
            return unsafe { update(key.mr, Kind::Ksm, index..index + 1, &write) };
        }
        // SAFETY: The MR has not gone, and `close` waits for `state`.
        let root = unsafe { MkeyHold::new(state.mr) }.ok_or(ENODEV)?;
        // SAFETY: The root is there, and `state` is locked for as long as an update takes.
        unsafe { update(root.mr(), Kind::Ksm, index..index + 1, &write) }
    }

    /// Makes the key of `node`, which is complete, but which nothing leads to yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` if the root has gone; others if the device has not taken it.
    fn make(&self, state: &mut State, node: Node) -> Result {
        let room = RBTreeNodeReservation::new(GFP_KERNEL)?;
        // SAFETY: As in `link`.
        let root = unsafe { MkeyHold::held(state.mr) }.ok_or(ENODEV)?;
        let key = match node.level {
            Level::Leaf => self.make_leaf(&root, node)?,
            Level::Middle => self.make_middle(&root, state, node)?,
        };
        drop(root);
        state.below.insert(room.into_node(node, key));
        Ok(())
    }

    fn make_leaf(&self, root: &MkeyHold, node: Node) -> Result<Key> {
        let clip = self.keys.clip(node);
        let length = clip.end - clip.start;
        let va = clip.start.wrapping_add(self.va_offset);
        let pages = PageRange::covering(va, length).ok_or(EINVAL)?;
        // SAFETY: The root is there. The memory becomes the key's, or is released if there is no key.
        unsafe {
            let head = UmemHead::allocate_below(root.mr(), va, length)?;
            let key = mlx5::mlx5_odp_shim_new_below(root.mr(), head, false, LEAF_PAGES as usize);
            let mr = from_err_ptr(key)?;
            let free = |_: &Error| mlx5::mlx5_odp_shim_free_mr(mr);
            mlx5::mlx5_odp_shim_set_range(mr, clip.start, length);
            let no_page = |_, room: &mut [u8]| room.fill(0);
            enable(mr, Kind::Mtt, pages.len(), hmm::PAGE_SHIFT, &no_page).inspect_err(free)?;
            kernel::error::to_result(mlx5::mlx5_odp_shim_store_leaf(mr)).inspect_err(free)?;
            let pages = RegionKey::new(mr, pages).inspect_err(free)?;
            Ok(Key::new(mr, Some(pages)))
        }
    }

    fn make_middle(&self, root: &MkeyHold, state: &State, node: Node) -> Result<Key> {
        let parts = self.keys.parts(Some(node));
        let write = |index, room: &mut [u8]| {
            room.copy_from_slice(&self.entry(state, Some(node), index).encode());
        };
        // SAFETY: As in `make_leaf`.
        unsafe {
            let head = UmemHead::allocate_below(root.mr(), 0, 0)?;
            let key = mlx5::mlx5_odp_shim_new_below(root.mr(), head, true, parts as usize);
            let mr = from_err_ptr(key)?;
            // Its end is that of the root, or of a leaf.
            mlx5::mlx5_odp_shim_set_range(mr, self.keys.address(node), 0);
            enable(mr, Kind::Ksm, parts, mlx_odp::mlx5::key_tree::LEAF, &write)
                .inspect_err(|_| mlx5::mlx5_odp_shim_free_mr(mr))?;
            Ok(Key::new(mr, None))
        }
    }

    /// Makes the key of `leaf`, and the one above it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Tree::make`].
    fn add(&self, state: &mut State, leaf: Node) -> Result {
        self.make(state, leaf)?;
        let Some(above) = self.keys.above(leaf) else {
            return Ok(());
        };
        if let Some(above) = state.below.get_mut(&above) {
            above.users += 1;
            return Ok(());
        }
        if let Err(error) = self.make(state, above) {
            if let Some(key) = state.below.remove(&leaf) {
                key.free();
            }
            return Err(error);
        }
        // It has been made with the leaf's entry.
        for (node, users, linked) in [(above, 1, false), (leaf, 0, true)] {
            if let Some(key) = state.below.get_mut(&node) {
                (key.users, key.linked) = (users, linked);
            }
        }
        Ok(())
    }

    /// Makes the entry above lead to the key of `node`.
    ///
    /// # Errors
    ///
    /// Those of [`Tree::link`].
    fn lead_to(&self, state: &mut State, node: Node) -> Result {
        if state.below.get(&node).is_some_and(|key| key.linked) {
            return Ok(());
        }
        self.link(state, node)?;
        if let Some(key) = state.below.get_mut(&node) {
            key.linked = true;
        }
        Ok(())
    }

    /// One more chunk uses `leaf`; makes its key, and the one above it, if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Tree::make`] and [`Tree::link`].
    fn acquire(&self, state: &mut State, leaf: Node) -> Result<Arc<RegionKey>> {
        if state.below.get(&leaf).is_none() {
            self.add(state, leaf)?;
        }
        self.lead_to(state, leaf)?;
        if let Some(above) = self.keys.above(leaf) {
            self.lead_to(state, above)?;
        }
        let key = state.below.get_mut(&leaf).ok_or(EINVAL)?;
        let pages = key.pages.clone().ok_or(EINVAL)?;
        key.users += 1;
        Ok(pages)
    }

    /// One chunk less uses `leaf`. If it was the last one, its key goes, and the one above it that has no other leaf.
    fn release(&self, state: &mut State, leaf: Node) {
        match state.below.get_mut(&leaf) {
            Some(key) if key.users > 1 => {
                key.users -= 1;
                return;
            }
            Some(key) => key.users = 0,
            None => return,
        }
        let Some(key) = state.below.remove_node(&leaf) else {
            return;
        };
        let above = self.keys.above(leaf);
        let last = |key: &Key| key.users == 1;
        let alone = above.filter(|above| state.below.get(above).is_some_and(last));
        let middle = alone.and_then(|above| state.below.remove_node(&above));
        let highest = alone.unwrap_or(leaf);
        match self.link(state, highest) {
            // Without the root nothing leads to anything.
            Err(error) if error != ENODEV => {
                // The device may still go there, or not. The leaf has no pages.
                for node in [middle, Some(key)].into_iter().flatten() {
                    state.below.insert(node);
                }
                if let Some(key) = state.below.get_mut(&highest) {
                    key.linked = false;
                }
            }
            _ => {
                if let (Some(above), None) = (above, alone) {
                    if let Some(above) = state.below.get_mut(&above) {
                        above.users -= 1;
                    }
                }
                for node in [middle, Some(key)].into_iter().flatten() {
                    let (_, key) = node.to_key_value();
                    key.free();
                }
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Tree {
    /// Frees the keys that could not be taken out of the entries while there was a root.
    fn drop(self: Pin<&mut Self>) {
        let mut state = self.state.lock();
        while let Some(first) = state.below.cursor_front_mut() {
            let (_, node) = first.remove_current();
            let (_, key) = node.to_key_value();
            key.free();
        }
    }
}

impl Key {
    /// # Safety
    ///
    /// `mr` is valid until [`Key::free`].
    unsafe fn new(mr: *mut mlx5::mlx5_ib_mr, pages: Option<Arc<RegionKey>>) -> Self {
        Self {
            mr,
            // SAFETY: By the contract.
            lkey: unsafe { mlx5::mlx5_odp_shim_lkey(mr) },
            users: 0,
            linked: false,
            pages,
        }
    }

    /// Gives the key back. Nothing leads to it.
    fn free(self) {
        if let Some(pages) = &self.pages {
            pages.close();
        }
        // SAFETY: Made by `Tree::make`, and used by nothing else.
        unsafe { mlx5::mlx5_odp_shim_free_mr(self.mr) };
    }
}

/// A leaf that a chunk of the mirror uses.
pub(crate) struct Leaf {
    tree: Arc<Tree>,
    node: Node,
    key: Arc<RegionKey>,
}

impl Leaf {
    /// Adds the leaves that have some of `pages`, in order, to `leaves`; makes those that are not there. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Tree::make`] and [`Tree::link`].
    pub(crate) fn open(tree: &Arc<Tree>, pages: PageRange, leaves: &mut KVec<Self>) -> Result {
        let address = |page: PageIndex| page.addr().wrapping_sub(tree.va_offset);
        // The first page may begin before the region does, and with an address below 0.
        let start = match address(pages.start()) {
            start if start > address(pages.end()) => 0,
            start => start,
        };
        for node in tree.keys.leaves(start..address(pages.end())) {
            leaves.reserve(1, GFP_KERNEL)?;
            let mut state = tree.state.lock();
            let key = tree.acquire(&mut state, node)?;
            drop(state);
            let leaf = Self {
                tree: tree.clone(),
                node,
                key,
            };
            leaves.push_within_capacity(leaf).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    /// Its key.
    pub(crate) fn key(&self) -> &RegionKey {
        &self.key
    }

    /// Whether the device no longer reaches it.
    pub(crate) fn is_gone(&self) -> bool {
        self.tree.is_closed()
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let mut state = self.tree.state.lock();
        self.tree.release(&mut state, self.node);
    }
}
