// SPDX-License-Identifier: GPL-2.0
//! What has to come of a work request: the statuses it may end with, and what it changes.
//!
//! The statuses are those of docs/src/errors.md. Where two things are wrong at different packets of a
//! message, which of them is noticed first may depend on who is faster; then both are right.

use odp_verbs::{ring::Bind, Sge, Status};

use crate::{
    arena::{Arena, Lack},
    known::{
        Known, Region, Window, BIND, FLUSH_GLOBAL, FLUSH_PERSISTENT, HUGETLB, KNOWN_TO_CORE,
        LOCAL_WRITE, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, ZERO_BASED,
    },
    work::{Twist, Wanted, Work, PIECES},
};

/// The longest message there may be.
const LONGEST: u32 = 1 << 31;
/// Messages of more packets than this are not tried: they take too long.
const PACKETS: usize = 40;
const WORD: u64 = 8;

/// What has to come of a request.
#[derive(Debug)]
pub struct Outcome {
    /// It may end with any of these.
    pub statuses: Vec<Status>,
    /// New content: all of it is there after a success, each byte of it or the old one otherwise.
    pub changes: Vec<(u64, Vec<u8>)>,
}

impl Outcome {
    fn ends(statuses: &[Status]) -> Self {
        Self {
            statuses: statuses.to_vec(),
            changes: Vec::new(),
        }
    }
}

/// What is wrong on one side, and at which packet.
#[derive(Clone, Debug)]
struct Failure {
    packet: usize,
    statuses: Vec<Status>,
}

/// One side of a transfer: where its bytes are, in order, as far as they can be had.
#[derive(Debug, Default)]
struct Side {
    parts: Vec<(u64, u64)>,
    failure: Option<Failure>,
}

impl Side {
    fn failed(packet: usize, statuses: &[Status]) -> Self {
        let failure = Some(Failure {
            packet,
            statuses: statuses.to_vec(),
        });
        Self {
            parts: Vec::new(),
            failure,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        let any = |a| other.parts.iter().any(|b| meet(a, b));
        self.parts.iter().any(any)
    }

    fn overlaps_itself(&self) -> bool {
        let meet = |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        let parts = self.parts.iter().enumerate();
        parts
            .clone()
            .any(|(i, a)| self.parts[i + 1..].iter().any(|b| meet(a, b)))
    }
}

/// Knows all that an outcome depends on.
pub struct Predictor<'a> {
    pub known: &'a Known,
    pub arena: &'a Arena,
    /// How much of a message fits into a packet, in bytes.
    pub mtu: usize,
}

impl Predictor<'_> {
    /// What has to come of `work`; none if it must not be tried.
    pub fn predict(&self, work: &Work) -> Option<Outcome> {
        if let Some(outcome) = work.twist.and_then(|twist| twisted(work, twist)) {
            return Some(outcome);
        }
        if let Some(outcome) = too_long(work) {
            return Some(outcome);
        }
        match work.wanted {
            Wanted::Write => self.write(work),
            Wanted::Read => self.read(work),
            Wanted::Send => self.send(work),
            Wanted::CompareSwap { compare, swap } => {
                self.atomic(work, |old| if old == compare { swap } else { old })
            }
            Wanted::FetchAdd { add } => self.atomic(work, |old| old.wrapping_add(add)),
            Wanted::Flush { placement, whole } => self.flush(work, placement, whole),
            Wanted::Bind(bind) => Some(self.bind(&bind)),
            Wanted::Invalidate(key) => Some(self.invalidate(key)),
            Wanted::Unknown(_) => Some(Outcome::ends(&[Status::LOC_QP_OP_ERR])),
        }
    }

    /// The local side of a transfer of `len` bytes.
    ///
    /// A wrong key, or a place outside of the region, ends with `wrong`, a page that cannot be had with
    /// `lack`, too little memory with `short`.
    fn local(
        &self,
        pieces: &[Sge],
        len: u32,
        write: bool,
        [wrong, lack, short]: [&[Status]; 3],
    ) -> Option<Side> {
        let mut side = Side::default();
        let mut room = sum(pieces);
        let (mut pieces, mut offset, mut left) = (pieces.iter().peekable(), 0u32, len);
        for packet in 0..PACKETS {
            let mut payload = left.min(self.mtu as u32);
            left -= payload;
            if room < u64::from(payload) {
                return Some(side.end(packet, short));
            }
            room -= u64::from(payload);
            while payload > 0 {
                let Some(piece) = pieces.peek() else {
                    return Some(side.end(packet, short));
                };
                if offset == piece.len {
                    pieces.next();
                    offset = 0;
                    continue;
                }
                let chunk = payload.min(piece.len - offset);
                let right = if write { LOCAL_WRITE } else { 0 };
                let region = self.region_with(piece.lkey, right);
                let addr = piece.addr.wrapping_add(u64::from(offset));
                let Some(addr) = region.and_then(|r| r.translate(addr, u64::from(chunk))) else {
                    return Some(side.end(packet, wrong));
                };
                let (done, lacking) = self.reach(addr, chunk.into(), write)?;
                side.parts.push((addr, done));
                if lacking {
                    return Some(side.end(packet, lack));
                }
                offset += chunk;
                payload -= chunk;
            }
            if left == 0 {
                return Some(side);
            }
        }
        None
    }

    /// How many of the bytes can be had, and whether not all; none if they must not be touched.
    fn reach(&self, addr: u64, len: u64, write: bool) -> Option<(u64, bool)> {
        self.arena.is_safe(addr, len).then(|| {
            let (done, lack): (u64, Option<Lack>) = self.arena.reach(addr, len, write);
            (done, lack.is_some())
        })
    }

    /// The region with `key` in the domain of the queue pairs, if it has the `rights`.
    fn region_with(&self, key: u32, rights: u32) -> Option<&Region> {
        let region = self.known.region(key)?;
        let may = region.domain == 0 && rights & !region.as_asked.access == 0;
        // What is pinned is not in the arena, and no address here is in it.
        may.then_some(region)
    }

    /// The peer's side of an access to the `len` bytes at `addr`.
    fn remote(&self, key: u32, addr: u64, len: u32, rights: u32) -> Option<Side> {
        if len > LONGEST {
            return Some(Side::failed(0, &[Status::REM_INV_REQ_ERR]));
        }
        let refused = || Some(Side::failed(0, &[Status::REM_ACCESS_ERR]));
        let bytes = u64::from(len);
        let found = match self.known.window(key) {
            Some(window) => self.through_window(window, addr, bytes, rights),
            None => {
                let region = self.region_with(key, rights);
                region.and_then(|r| r.translate(addr, bytes))
            }
        };
        let Some(addr) = found else {
            return refused();
        };
        let write = rights & (REMOTE_WRITE | REMOTE_ATOMIC) != 0;
        let (done, lacking) = self.reach(addr, bytes, write)?;
        let mut side = Side {
            parts: vec![(addr, done)],
            failure: None,
        };
        if lacking {
            let packet = done as usize / self.mtu;
            side = side.end(packet, &[Status::REM_ACCESS_ERR]);
        }
        Some(side)
    }

    /// The address behind a window, if the window gives the rights and has the bytes.
    fn through_window(&self, window: &Window, addr: u64, len: u64, rights: u32) -> Option<u64> {
        let bound = window.bound?;
        let mut regions = self.known.regions.iter();
        let region = regions.find(|r| r.made.handle == bound.region)?;
        if window.domain != 0 || rights & !bound.access != 0 {
            return None;
        }
        let offset = match bound.access & ZERO_BASED {
            0 => addr.checked_sub(bound.addr)?,
            _ => addr,
        };
        let inside = offset.checked_add(len).is_some_and(|end| end <= bound.len);
        let addr = region.translate(bound.addr.wrapping_add(offset), len);
        addr.filter(|_| inside)
    }

    /// What is in the parts of a side, one after the other.
    fn content(&self, side: &Side) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (addr, len) in side.parts.iter().filter(|(_, len)| *len > 0) {
            bytes.extend(self.arena.expected(*addr, *len as usize));
        }
        bytes
    }

    /// Moves what is at `from` to `to`, as far as both can be had.
    fn moved(&self, from: &Side, to: &Side) -> Vec<(u64, Vec<u8>)> {
        let bytes = self.content(from);
        let mut rest = bytes.as_slice();
        let mut changes = Vec::new();
        for (addr, len) in &to.parts {
            let (piece, after) = rest.split_at((*len as usize).min(rest.len()));
            if !piece.is_empty() {
                changes.push((*addr, piece.to_vec()));
            }
            rest = after;
        }
        changes
    }

    fn write(&self, work: &Work) -> Option<Outcome> {
        let (addr, key) = (work.remote.addr, work.remote.rkey);
        self.outgoing(work, |len| self.remote(key, addr, len, REMOTE_WRITE))
    }

    /// What comes of data that leaves for `remote`, which depends on how many bytes they are.
    fn outgoing(&self, work: &Work, remote: impl FnOnce(u32) -> Option<Side>) -> Option<Outcome> {
        let len = work.len();
        if len == 0 {
            // The key of no bytes is not looked at.
            return Some(Outcome::ends(&[Status::SUCCESS]));
        }
        let local = self.local(&work.pieces, len, false, OUTGOING)?;
        let remote = remote(len)?;
        if local.overlaps(&remote) || remote.overlaps_itself() {
            return None;
        }
        let statuses = match (&local.failure, &remote.failure) {
            (None, None) => vec![Status::SUCCESS],
            (Some(here), None) => here.statuses.clone(),
            (None, Some(there)) => there.statuses.clone(),
            // The packet that the peer would refuse never leaves.
            (Some(here), Some(there)) if here.packet <= there.packet => here.statuses.clone(),
            (Some(here), Some(there)) => [&here.statuses[..], &there.statuses].concat(),
        };
        let changes = self.moved(&local, &remote);
        Some(Outcome { statuses, changes })
    }

    fn read(&self, work: &Work) -> Option<Outcome> {
        let len = work.len();
        if len == 0 {
            return Some(Outcome::ends(&[Status::SUCCESS]));
        }
        let (addr, key) = (work.remote.addr, work.remote.rkey);
        let remote = self.remote(key, addr, len, REMOTE_READ)?;
        let local = match &remote.failure {
            // Too long to be gone through, and nothing comes.
            Some(failure) if failure.packet == 0 => Side::default(),
            _ => self.local(&work.pieces, len, true, INCOMING)?,
        };
        if local.overlaps(&remote) || local.overlaps_itself() {
            return None;
        }
        // Answers come in order.
        let statuses = match (&local.failure, &remote.failure) {
            (None, None) => vec![Status::SUCCESS],
            (Some(here), Some(there)) if there.packet <= here.packet => there.statuses.clone(),
            (Some(here), _) => here.statuses.clone(),
            (None, Some(there)) => there.statuses.clone(),
        };
        let changes = self.moved(&remote, &local);
        Some(Outcome { statuses, changes })
    }

    fn send(&self, work: &Work) -> Option<Outcome> {
        self.outgoing(work, |len| self.local(&work.receive, len, true, RECEIVED))
    }

    fn atomic(&self, work: &Work, new: impl FnOnce(u64) -> u64) -> Option<Outcome> {
        let (addr, key) = (work.remote.addr, work.remote.rkey);
        let remote = self.remote(key, addr, WORD as u32, REMOTE_ATOMIC)?;
        if let Some(failure) = remote.failure {
            let mut statuses = failure.statuses;
            if addr % WORD != 0 {
                statuses.push(Status::REM_INV_REQ_ERR);
            }
            return Some(Outcome::ends(&statuses));
        }
        let (word, _) = remote.parts[0];
        if word % WORD != 0 {
            return Some(Outcome::ends(&[Status::REM_INV_REQ_ERR]));
        }
        // The answer has eight bytes, whatever there is room for.
        let local = self.local(&work.pieces, WORD as u32, true, INCOMING)?;
        if local.overlaps(&remote) || local.overlaps_itself() {
            return None;
        }
        let mut changes = self.moved(&remote, &local);
        let old = self.arena.expected(word, WORD as usize);
        let old = u64::from_ne_bytes(old.try_into().expect("eight bytes"));
        changes.push((word, new(old).to_ne_bytes().to_vec()));
        let statuses = match local.failure {
            Some(failure) => failure.statuses,
            None => vec![Status::SUCCESS],
        };
        Some(Outcome { statuses, changes })
    }

    fn flush(&self, work: &Work, placement: u8, whole: bool) -> Option<Outcome> {
        let persistent = placement & 2 != 0;
        let mut rights = 0;
        if placement & 1 != 0 {
            rights |= FLUSH_GLOBAL;
        }
        if persistent {
            rights |= FLUSH_PERSISTENT;
        }
        let (addr, key) = (work.remote.addr, work.remote.rkey);
        if whole {
            // Only the key matters; a window stands for its whole region.
            let may = match self.known.window(key) {
                Some(window) => self.flushes_whole(window, rights),
                None => self.region_with(key, rights).is_some(),
            };
            return Some(Outcome::ends(&[match may {
                true => Status::SUCCESS,
                false => Status::REM_ACCESS_ERR,
            }]));
        }
        let mut side = self.remote(key, addr, work.flushed, rights)?;
        if !persistent && !side.parts.is_empty() {
            // Nothing has to be there: it is enough that it would be seen.
            side.failure = None;
        }
        let statuses = match side.failure {
            Some(failure) => failure.statuses,
            None => vec![Status::SUCCESS],
        };
        Some(Outcome::ends(&statuses))
    }

    fn flushes_whole(&self, window: &Window, rights: u32) -> bool {
        let may = |bound: crate::known::Bound| rights & !bound.access == 0;
        window.domain == 0 && window.bound.is_some_and(may)
    }

    /// The binding of a window, as the specification has it (volume 1, 10.6.7 and 11.2.9.8).
    fn bind(&self, bind: &Bind) -> Outcome {
        let refused = Outcome::ends(&[Status::MW_BIND_ERR]);
        let window = self.known.window(bind.window).filter(|w| w.domain == 0);
        let Some(window) = window else {
            return refused;
        };
        let free = match window.kind {
            1 => bind.access & ZERO_BASED == 0,
            _ => window.bound.is_none() && bind.len != 0,
        };
        if !free || bind.access & (HUGETLB | !KNOWN_TO_CORE) != 0 {
            return refused;
        }
        if bind.len == 0 {
            return Outcome::ends(&[Status::SUCCESS]);
        }
        let region = self.region_with(bind.region, BIND);
        let Some(region) = region.filter(|r| r.translate(bind.addr, bind.len).is_some()) else {
            return refused;
        };
        let writes = bind.access & (REMOTE_WRITE | REMOTE_ATOMIC) != 0;
        if writes && region.as_asked.access & LOCAL_WRITE == 0 {
            return refused;
        }
        Outcome::ends(&[Status::SUCCESS])
    }

    /// A window of type 2 can be made invalid. One that is not bound stays as it is.
    fn invalidate(&self, key: u32) -> Outcome {
        let window = self.known.window(key);
        let may = window.is_some_and(|w| w.kind == 2 && w.domain == 0);
        Outcome::ends(&[match may {
            true => Status::SUCCESS,
            false => Status::LOC_QP_OP_ERR,
        }])
    }
}

impl Side {
    fn end(mut self, packet: usize, statuses: &[Status]) -> Self {
        self.failure = Some(Failure {
            packet,
            statuses: statuses.to_vec(),
        });
        self
    }
}

/// Requests with a field that does not fit: none of their packets is sent. None if it fits after all.
fn twisted(work: &Work, twist: Twist) -> Option<Outcome> {
    let malformed = Some(Outcome::ends(&[Status::LOC_QP_OP_ERR]));
    match twist {
        Twist::Pieces(_) => malformed,
        // Noticed before the place in it.
        _ if sum(&work.pieces) > LONGEST.into() => too_long(work),
        Twist::Offset(0) => None,
        _ => malformed,
    }
}

/// Requests that are longer than a message can be, or too short for a result: nothing is sent.
fn too_long(work: &Work) -> Option<Outcome> {
    let own = sum(&work.pieces);
    let bad = match work.wanted {
        Wanted::Unknown(_) | Wanted::Bind(_) | Wanted::Invalidate(_) => false,
        Wanted::Flush { .. } => work.flushed > LONGEST,
        Wanted::CompareSwap { .. } | Wanted::FetchAdd { .. } if own < WORD => true,
        _ => own > LONGEST.into(),
    };
    bad.then(|| Outcome::ends(&[Status::LOC_LEN_ERR]))
}

/// How many bytes there are in all.
fn sum(pieces: &[Sge]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.len)).sum()
}

/// The ends of local memory that data is taken from: a wrong place, no page. Too little there cannot be.
const OUTGOING: [&[Status]; 3] = [&[Status::LOC_PROT_ERR], &[Status::LOC_PROT_ERR], &[]];
/// The same for answers: rxe makes one status of all.
const INCOMING: [&[Status]; 3] = [&[Status::LOC_PROT_ERR]; 3];
/// The same for the memory of a receiver, as its peer sees them.
const RECEIVED: [&[Status]; 3] = [
    &[Status::REM_OP_ERR],
    &[Status::REM_OP_ERR],
    &[Status::REM_INV_REQ_ERR],
];

const _: () = assert!(PIECES > 1, "some requests name several pieces");
