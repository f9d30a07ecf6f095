// SPDX-License-Identifier: GPL-2.0

//! The keys of a region on the device: one ([`crate::region_key`]), or a tree of them ([`crate::tree`]).
//!
//! A chunk of the region's mirror is a part of the one key, or of one leaf or more of the tree ([`Part`]).

use kernel::prelude::*;
use kernel::sync::Arc;

use hmm::{DeviceChunk, Entries, FaultError, MirrorDevice, PageRange, Zap, Zapped};

use crate::region_key::RegionKey;
use crate::tree::{Leaf, Tree};

/// The keys of a region.
pub(crate) enum DeviceKey {
    /// One key, all chunks of which are parts.
    One(Arc<RegionKey>),
    /// Several, below a root.
    Tree(Arc<Tree>),
}

impl DeviceKey {
    /// The MR is being freed, and the device no longer uses its key.
    pub(crate) fn close(&self) {
        match self {
            Self::One(key) => key.close(),
            Self::Tree(tree) => tree.close(),
        }
    }
}

impl MirrorDevice for DeviceKey {
    type Chunk = Part;

    fn open(&self, pages: PageRange) -> Result<Part> {
        let keys = match self {
            Self::One(key) => PartOf::One(key.clone()),
            Self::Tree(tree) => {
                let mut leaves = KVec::new();
                Leaf::open(tree, pages, &mut leaves)?;
                PartOf::Leaves(leaves)
            }
        };
        Ok(Part { keys, pages })
    }
}

/// The keys that have the pages of a chunk.
enum PartOf {
    One(Arc<RegionKey>),
    /// A leaf is freed with the last chunk that uses it.
    Leaves(KVec<Leaf>),
}

/// The entries of one chunk of the mirror.
pub(crate) struct Part {
    keys: PartOf,
    pages: PageRange,
}

impl Part {
    fn keys(&self) -> impl Iterator<Item = &RegionKey> {
        let (one, leaves) = match &self.keys {
            PartOf::One(key) => (Some(&**key), &[][..]),
            PartOf::Leaves(leaves) => (None, &leaves[..]),
        };
        Iterator::chain(one.into_iter(), leaves.iter().map(Leaf::key))
    }

    /// Writes the entries of `entries` that change. Returns whether there is a key.
    ///
    /// # Errors
    ///
    /// Those of [`RegionKey::update`]. Some may have been written.
    fn update(&self, entries: &Entries<'_>) -> Result<bool> {
        self.keys()
            .try_fold(true, |all, key| Ok(key.update(self.pages, entries)? && all))
    }
}

impl DeviceChunk for Part {
    fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError> {
        match self.update(entries) {
            Ok(true) => Ok(()),
            Err(error) if error == ENOMEM => Err(FaultError::NoMemory),
            Ok(false) | Err(_) => Err(FaultError::Device),
        }
    }

    fn zap<'z>(&mut self, zap: Zap<'z>, entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
        match self.update(entries) {
            // The UMRs have completed, or the key was revoked before.
            Ok(_) => Ok(zap.confirmed()),
            Err(_) => Err(zap),
        }
    }

    /// mr.c alone may revoke the region's key, when the region is deregistered. Until then the pages are kept.
    fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
        let gone = match &self.keys {
            PartOf::One(key) => key.is_gone(),
            PartOf::Leaves(leaves) => leaves.iter().all(Leaf::is_gone),
        };
        match gone {
            true => Ok(zap.confirmed()),
            false => Err(zap),
        }
    }
}
