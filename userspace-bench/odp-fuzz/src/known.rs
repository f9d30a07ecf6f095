// SPDX-License-Identifier: GPL-2.0
//! What exists on the device as far as this program has made it: protection domains, regions, memory
//! windows. And the keys and handles that requests name, right and wrong.

use std::sync::Arc;

use odp_fixture::env::Env;
use odp_verbs::{
    uverbs::{Made, Registration},
    Access, ProtectionDomain, Result,
};
use rand::Rng;
use testkit::memory::{Mapping, PAGE};

use crate::{
    arena::{pick, Arena},
    dice::Dice,
};

/// Writing through a region or a window.
pub const LOCAL_WRITE: u32 = Access::LOCAL_WRITE.bits();
/// Rights of a peer.
pub const REMOTE_WRITE: u32 = Access::REMOTE_WRITE.bits();
/// Rights of a peer.
pub const REMOTE_READ: u32 = Access::REMOTE_READ.bits();
/// Rights of a peer.
pub const REMOTE_ATOMIC: u32 = Access::REMOTE_ATOMIC.bits();
/// Memory windows may be bound.
pub const BIND: u32 = Access::MW_BIND.bits();
/// Flushes that other devices see.
pub const FLUSH_GLOBAL: u32 = Access::FLUSH_GLOBAL.bits();
/// Flushes that outlive a loss of power.
pub const FLUSH_PERSISTENT: u32 = 1 << 9;
/// Not pinned.
pub const ON_DEMAND: u32 = Access::ON_DEMAND.bits();
/// In huge pages.
pub const HUGETLB: u32 = Access::HUGETLB.bits();
/// Addresses count from 0.
pub const ZERO_BASED: u32 = 1 << 5;
/// Rights that a driver may ignore.
pub const OPTIONAL: u32 = 0x3ff0_0000;
/// All rights that the RDMA core knows.
pub const KNOWN_TO_CORE: u32 = 0x3ff | OPTIONAL;
/// What the owner has to have the right to write for.
pub const WRITING: u32 = LOCAL_WRITE | REMOTE_WRITE | REMOTE_ATOMIC | BIND;

/// A region that is registered.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Its handle and key.
    pub made: Made,
    /// What it was registered as; domain and rights are those of the last change.
    pub as_asked: Registration,
    /// Which of the domains it belongs to.
    pub domain: usize,
    /// Whether it was made for writing.
    pub writable: bool,
}

impl Region {
    /// Whether it is not pinned.
    pub fn is_on_demand(&self) -> bool {
        self.as_asked.access & ON_DEMAND != 0
    }

    /// The address of the `len` bytes from `iova`, if all of them are in the region.
    pub fn translate(&self, iova: u64, len: u64) -> Option<u64> {
        let offset = iova.checked_sub(self.as_asked.iova)?;
        let end = offset.checked_add(len)?;
        (end <= self.as_asked.len).then(|| self.as_asked.addr.wrapping_add(offset))
    }

    /// Under which address the region knows `addr`; nonsense if it is not in it.
    pub fn iova_of(&self, addr: u64) -> u64 {
        addr.wrapping_sub(self.as_asked.addr)
            .wrapping_add(self.as_asked.iova)
    }
}

/// A memory window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its handle and key.
    pub made: Made,
    /// Its type, 1 or 2.
    pub kind: u8,
    /// Which of the domains it belongs to.
    pub domain: usize,
    /// What it is bound to.
    pub bound: Option<Bound>,
}

/// What a window is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The handle of the region.
    pub region: u32,
    /// The first address, as the region counts them.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// The rights.
    pub access: u32,
}

/// All that there is.
pub struct Known {
    /// The device.
    pub env: Env,
    /// The domain of the queue pairs, and another.
    pub domains: [Arc<ProtectionDomain>; 2],
    /// Memory for pinned regions. It never changes.
    pub steady: Mapping,
    /// The regions.
    pub regions: Vec<Region>,
    /// The windows.
    pub windows: Vec<Window>,
    /// Keys and handles of objects that are gone.
    pub gone: Vec<Made>,
}

impl Known {
    /// Nothing but the domains.
    pub fn new(env: Env) -> Result<Self> {
        let other = ProtectionDomain::new(&env.context)?;
        Ok(Self {
            domains: [env.domain.clone(), other],
            steady: odp_fixture::env::anonymous(8 * PAGE)?,
            regions: Vec::new(),
            windows: Vec::new(),
            gone: Vec::new(),
            env,
        })
    }

    /// The region with `key`.
    pub fn region(&self, key: u32) -> Option<&Region> {
        self.regions.iter().find(|r| r.made.key == key)
    }

    /// The window with `key`.
    pub fn window(&self, key: u32) -> Option<&Window> {
        self.windows.iter().find(|w| w.made.key == key)
    }

    /// Whether a window is bound to the region with `handle`.
    pub fn is_bound(&self, handle: u32) -> bool {
        let bound = |w: &Window| w.bound.is_some_and(|b| b.region == handle);
        self.windows.iter().any(bound)
    }

    /// Notes that `made` is gone.
    pub fn forget(&mut self, made: Made) {
        const REMEMBERED: usize = 64;
        self.gone.insert(0, made);
        self.gone.truncate(REMEMBERED);
    }

    /// One of the regions.
    pub fn any_region(&self, dice: &mut Dice) -> Option<Region> {
        (!self.regions.is_empty()).then(|| *pick(dice, &self.regions))
    }

    /// The handle of a domain and which it is, or of something else.
    pub fn domain(&self, dice: &mut Dice) -> (u32, Option<usize>) {
        match dice.random_range(0..16) {
            0 => (self.wrong_handle(dice), None),
            1..5 => (self.domains[1].handle(), Some(1)),
            _ => (self.domains[0].handle(), Some(0)),
        }
    }

    /// A handle of nothing, or of something that is no domain and no region.
    pub fn wrong_handle(&self, dice: &mut Dice) -> u32 {
        let gone = self.gone.first().map(|g| g.handle);
        let gone = gone.filter(|g| !self.has_handle(*g)).unwrap_or(u32::MAX);
        match dice.random_range(0..4) {
            0 => dice.random_range(1 << 24..1 << 31),
            1 => u32::MAX - dice.random_range(0..4),
            2 => self.windows.first().map_or(u32::MAX, |w| w.made.handle),
            _ => gone,
        }
    }

    fn has_handle(&self, handle: u32) -> bool {
        self.domains.iter().any(|d| d.handle() == handle)
            || self.regions.iter().any(|r| r.made.handle == handle)
            || self.windows.iter().any(|w| w.made.handle == handle)
    }

    /// A key: of a region as a rule, sometimes of a window, of something gone, or of nothing.
    pub fn key(&self, dice: &mut Dice) -> u32 {
        let region = self.any_region(dice).map_or(0, |r| r.made.key);
        match dice.random_range(0..20) {
            0 => dice.random(),
            1 => *pick(dice, &[0, 1, 0xff, u32::MAX, 0x8000_0000]),
            2 => region ^ (1 << dice.random_range(0..8)),
            3 => region.wrapping_add(0x100),
            4 => self.windows.first().map_or(0, |w| w.made.key),
            5 if !self.gone.is_empty() => pick(dice, &self.gone).key,
            _ => region,
        }
    }

    /// A key as [`Known::key`], and an address that has something to do with it.
    pub fn place(&self, dice: &mut Dice, arena: &Arena) -> (u32, u64) {
        let key = self.key(dice);
        let addr = arena.address(dice);
        let region = self.region(key).or_else(|| self.region_of_window(key));
        match region {
            Some(region) if dice.random_ratio(15, 16) => (key, region.iova_of(addr)),
            _ => (key, addr),
        }
    }

    fn region_of_window(&self, key: u32) -> Option<&Region> {
        let bound = self.window(key)?.bound?;
        self.regions.iter().find(|r| r.made.handle == bound.region)
    }
}
