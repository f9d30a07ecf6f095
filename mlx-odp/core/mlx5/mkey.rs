// SPDX-License-Identifier: GPL-2.0

//! The regions that a key leads to.
//!
//! A key names a region, or it is *indirect*: a memory window, or a key of an application's own making, which stands
//! for a list of pieces of other keys ([`Klm`]), and these may be indirect again. In the transport scheme the device
//! reports a fault by the outermost key, so the driver has to find the region. The lists are the application's; they
//! may be loops and trees of any size. So the depth of a walk has a bound, and so has what all walks of a fault do
//! together ([`Budget`]).

use core::ops::ControlFlow;

/// The most levels of indirect keys, whatever the device supports.
pub const MOST_DEPTH: usize = 8;

/// What the walks of one fault may do. A fault needs one page; a walk goes on to the pieces that follow.
#[derive(Debug)]
pub struct Budget {
    /// Pieces to look at.
    steps: u32,
    /// Lists to ask the device for, which is a command each.
    lists: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            steps: 1 << 16,
            lists: 256,
        }
    }
}

/// Takes one away; `None` if none is left.
fn spend(budget: &mut u32) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}

/// A piece of another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Klm {
    /// In bytes.
    pub bcount: u32,
    /// The other key.
    pub key: u32,
    /// The first address, as the other key numbers them.
    pub va: u64,
}

impl Klm {
    /// The bytes of one in an indirect key's list.
    pub const BYTES: usize = 16;

    /// Decodes one.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [b0, b1, b2, b3, k0, k1, k2, k3, va @ ..] = bytes;
        Self {
            bcount: u32::from_be_bytes([b0, b1, b2, b3]),
            key: u32::from_be_bytes([k0, k1, k2, k3]),
            va: u64::from_be_bytes(va),
        }
    }
}

/// What a key names.
pub enum Found<R, L> {
    /// Memory that needs no paging: nothing has to be done for it.
    NotOnDemand,
    /// An ODP region.
    Region(R),
    /// Pieces of other keys.
    Indirect {
        /// The address of the first byte.
        start: u64,
        /// The pieces, in the order of their addresses.
        klms: L,
    },
}

/// The keys of a device.
pub trait Keys {
    /// A region, which exists for as long as this does.
    type Region;
    /// The list of an indirect key.
    type List: AsRef<[Klm]>;
    /// Why there is no such key.
    type Error;

    /// What `key` names.
    ///
    /// # Errors
    ///
    /// There is no such key, or it cannot be looked at.
    fn find(&self, key: u32) -> Result<Found<Self::Region, Self::List>, Self::Error>;
}

/// Why a walk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError<E> {
    /// A key is not there.
    Key(E),
    /// More levels than the device allows, or [`MOST_DEPTH`]: a loop, for instance.
    TooDeep,
    /// More pieces than are looked at.
    TooMany,
    /// A key is shorter than what is used of it.
    OutOfRange,
}

/// Memory that is named by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The key.
    pub key: u32,
    /// The first address, as the key numbers them.
    pub va: u64,
    /// In bytes.
    pub len: u64,
}

/// An indirect key that the walk is in.
struct Level<L> {
    klms: L,
    /// The next piece to look at.
    next: usize,
    /// Bytes to skip before the wanted ones, counted from the next piece.
    skip: u64,
    /// Wanted bytes that have not been seen yet.
    left: u64,
}

impl<L: AsRef<[Klm]>> Level<L> {
    /// The next piece, cut to what is wanted; `None` if no more is wanted.
    fn advance<E>(&mut self, budget: &mut Budget) -> Result<Option<Named>, WalkError<E>> {
        while self.left > 0 {
            spend(&mut budget.steps).ok_or(WalkError::TooMany)?;
            let klm = self.klms.as_ref().get(self.next);
            let klm = *klm.ok_or(WalkError::OutOfRange)?;
            self.next += 1;
            let there = u64::from(klm.bcount);
            if self.skip >= there {
                self.skip -= there;
                continue;
            }
            let len = (there - self.skip).min(self.left);
            let va = klm.va.checked_add(self.skip);
            let va = va.ok_or(WalkError::OutOfRange)?;
            self.skip = 0;
            self.left -= len;
            return Ok(Some(Named {
                key: klm.key,
                va,
                len,
            }));
        }
        Ok(None)
    }
}

/// Calls `visit` with each piece of a region that `named` leads to, in order, until it breaks: with the region,
/// if it is one on demand, and the address and length. `depth` is how many levels of indirect keys the device follows.
///
/// # Errors
///
/// [`WalkError`]; the pieces before it have been visited.
pub fn walk<K: Keys>(
    keys: &K,
    depth: usize,
    named: Named,
    budget: &mut Budget,
    mut visit: impl FnMut(Option<K::Region>, u64, u64) -> ControlFlow<()>,
) -> Result<(), WalkError<K::Error>> {
    let mut levels: [Option<Level<K::List>>; MOST_DEPTH] = [const { None }; MOST_DEPTH];
    // How many of them are in use.
    let mut used = 0;
    let mut next = Some(named);
    loop {
        if let Some(named) = next.take() {
            match keys.find(named.key).map_err(WalkError::Key)? {
                Found::NotOnDemand => {
                    if visit(None, named.va, named.len).is_break() {
                        return Ok(());
                    }
                }
                Found::Region(region) => {
                    if visit(Some(region), named.va, named.len).is_break() {
                        return Ok(());
                    }
                }
                Found::Indirect { start, klms } => {
                    spend(&mut budget.lists).ok_or(WalkError::TooMany)?;
                    let level = levels[..depth.min(MOST_DEPTH)].get_mut(used);
                    *level.ok_or(WalkError::TooDeep)? = Some(Level {
                        klms,
                        next: 0,
                        skip: named.va.checked_sub(start).ok_or(WalkError::OutOfRange)?,
                        left: named.len,
                    });
                    used += 1;
                }
            }
        }
        let Some(innermost) = used.checked_sub(1) else {
            return Ok(());
        };
        if let Some(level) = &mut levels[innermost] {
            next = level.advance(budget)?;
        }
        if next.is_none() {
            levels[innermost] = None;
            used = innermost;
        }
    }
}

#[cfg(test)]
mod tests;
