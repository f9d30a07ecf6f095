// SPDX-License-Identifier: GPL-2.0
//! Accesses through memory keys: who asks for which bytes, and why a key does not lead to them.
//!
//! Work requests and packets name a [`Span`] under a key; `translate` walks from there to memory, and page faults are
//! about what is [`Missing`] on the way.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    LocalRead,
    LocalWrite,
    RemoteRead,
    RemoteWrite,
    RemoteAtomic,
}

/// The protection domains whose keys somebody may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    One(u32),
    /// A driver's own queue pair changes keys of all domains.
    Every,
}

/// Who accesses, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) pair: u32,
    pub(crate) domain: Domain,
    pub(crate) access: Access,
}

/// Bytes, by a key and an address under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) key: u32,
    pub(crate) address: u64,
    pub(crate) length: u64,
}

/// Why a key does not lead to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// There is none of that number.
    NoKey,
    /// Its lowest byte is another one.
    Variant,
    /// It is free: it waits for a request that gives it a meaning.
    Free,
    /// It belongs to another protection domain, or to another queue pair.
    Domain,
    /// It does not allow this.
    Rights,
    /// Something lies before its beginning or past its end.
    Bounds,
    /// There is no page, or one for other accesses.
    Absent,
    /// The same, but it can be asked for.
    Fault(Missing),
    /// Its translation is of a kind that is not walked, or of pages that there are not.
    Kind,
    /// Keys lead to keys that lead to keys, more often than is allowed.
    Depth,
}

/// An entry of a key's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The key, without its variant.
    pub(crate) key: u32,
    pub(crate) index: u64,
}

/// What is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first entry that would have to be there, and the part of another key that leads to it, if one does.
    pub(crate) slot: Slot,
    pub(crate) via: Option<Slot>,
    /// By the last key on the way.
    pub(crate) span: Span,
}
