// SPDX-License-Identifier: GPL-2.0
//! Work requests: what is asked of a queue pair.

use odp_verbs::{
    ring::{Bind, Request, OPCODES, REGISTER_BY_POINTER},
    Op, Remote, Sge,
};
use rand::Rng;

use crate::{
    arena::{pick, Arena},
    dice::Dice,
    known::{Known, FLUSH_GLOBAL, KNOWN_TO_CORE, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE},
};

/// How many pieces of memory a request may name.
pub const PIECES: u32 = 4;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// SEND.
    Send,
    /// COMPARE & SWAP.
    CompareSwap {
        /// The value that is expected.
        compare: u64,
        /// The value that takes its place.
        swap: u64,
    },
    /// FETCH & ADD.
    FetchAdd {
        /// What is added.
        add: u64,
    },
    /// FLUSH.
    Flush {
        /// 1: seen by all; 2: persistent.
        placement: u8,
        /// Whether the whole region is meant.
        whole: bool,
    },
    /// The binding of a memory window.
    Bind(Bind),
    /// A key is to be made invalid.
    Invalidate(u32),
    /// An operation that there is not.
    Unknown(u32),
}

impl Wanted {
    fn opcode(self) -> u32 {
        match self {
            Self::Write => 0,
            Self::Send => 2,
            Self::Read => 4,
            Self::CompareSwap { .. } => 5,
            Self::FetchAdd { .. } => 6,
            Self::Invalidate(_) => 7,
            Self::Bind(_) => 8,
            Self::Flush { .. } => 14,
            Self::Unknown(opcode) => opcode,
        }
    }
}

/// A field of the request that does not fit the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twist {
    /// More pieces than the queue pair may have.
    Pieces(u32),
    /// It begins in a piece that there cannot be.
    Piece(u32),
    /// It begins past the end of its only piece.
    Offset(u32),
    /// There is less memory than there are bytes.
    Left(u32),
}

/// A work request.
#[derive(Clone, Debug)]
pub struct Work {
    /// The operation.
    pub wanted: Wanted,
    /// The peer's memory.
    pub remote: Remote,
    /// Local memory.
    pub pieces: Vec<Sge>,
    /// The receiver's memory.
    pub receive: Vec<Sge>,
    /// What of it is out of order.
    pub twist: Option<Twist>,
    /// How many bytes a flush is about.
    pub flushed: u32,
}

impl Work {
    /// The request as it is written into the queue.
    pub fn request(&self, id: u64) -> Request {
        let (addr, key) = (self.remote.addr, self.remote.rkey);
        let mut request = Request::new(id, self.wanted.opcode(), &self.pieces).rdma(addr, key);
        request = match self.wanted {
            Wanted::CompareSwap { compare, swap } => request.atomic(addr, key, compare, swap),
            Wanted::FetchAdd { add } => request.atomic(addr, key, add, 0),
            Wanted::Flush { placement, whole } => {
                request.flush(addr, self.flushed, key, placement, whole.into())
            }
            Wanted::Bind(bind) => request.bind(&bind),
            _ => request,
        };
        if let Wanted::Invalidate(key) = self.wanted {
            request.immediate = key;
        }
        match self.twist {
            Some(Twist::Pieces(pieces)) => request.pieces = pieces,
            Some(Twist::Piece(piece)) => request.piece = piece,
            Some(Twist::Offset(offset)) => request.offset = offset,
            Some(Twist::Left(left)) => (request.len, request.left) = (left, left),
            None => {}
        }
        request
    }

    /// The same for the library, if it has it and lets it through.
    pub fn op(&self) -> Option<Op> {
        let at = self.remote;
        let aligned = at.addr % 8 == 0 && self.len() >= 8;
        match self.wanted {
            _ if self.twist.is_some() || self.pieces.len() > PIECES as usize => None,
            Wanted::Write => Some(Op::Write(at)),
            Wanted::Read => Some(Op::Read(at)),
            Wanted::Send => Some(Op::Send),
            Wanted::CompareSwap { compare, swap } if aligned => {
                Some(Op::CompareSwap { at, compare, swap })
            }
            Wanted::FetchAdd { add } if aligned => Some(Op::FetchAdd { at, add }),
            _ => None,
        }
    }

    /// How many bytes it is about, as the kernel counts them.
    pub fn len(&self) -> u32 {
        match (self.twist, self.wanted) {
            (Some(Twist::Left(left)), _) => left,
            (_, Wanted::Flush { .. }) => self.flushed,
            _ => self.pieces.iter().fold(0, |n, p| n.wrapping_add(p.len)),
        }
    }
}

/// Some work.
pub fn random(known: &Known, arena: &Arena, dice: &mut Dice) -> Work {
    let remote = |dice: &mut Dice| {
        let (rkey, addr) = known.place(dice, arena);
        Remote { addr, rkey }
    };
    let pieces = |dice: &mut Dice| -> Vec<Sge> {
        let count = match dice.random_range(0..8) {
            0 => 0,
            1 => dice.random_range(2..=PIECES),
            _ => 1,
        };
        (0..count).map(|_| piece(known, arena, dice)).collect()
    };
    let (mut wanted, mut twist) = (wanted(known, dice), None);
    let mut work = Work {
        remote: remote(dice),
        pieces: pieces(dice),
        receive: pieces(dice),
        flushed: length(dice),
        wanted,
        twist,
    };
    match wanted {
        Wanted::CompareSwap { .. } | Wanted::FetchAdd { .. } => {
            if dice.random_ratio(15, 16) {
                work.remote.addr &= !7;
            }
            if dice.random_ratio(7, 8) {
                work.pieces.truncate(1);
                work.pieces.iter_mut().for_each(|p| p.len = 8);
            }
            if let (Wanted::CompareSwap { swap, .. }, true) = (wanted, dice.random()) {
                // What is there, so that the swap takes place.
                let region = known.region(work.remote.rkey);
                let addr = region.and_then(|r| r.translate(work.remote.addr, 8));
                if let Some(addr) = addr.filter(|addr| arena.holds(*addr, 8)) {
                    let found = arena.expected(addr, 8).try_into().expect("eight bytes");
                    let compare = u64::from_ne_bytes(found);
                    wanted = Wanted::CompareSwap { compare, swap };
                }
            }
        }
        Wanted::Write if dice.random_ratio(1, 6) => {
            let own = u64::from(work.len());
            twist = Some(match dice.random_range(0..4) {
                0 => Twist::Pieces(dice.random_range(PIECES + 1..=u32::MAX)),
                1 => Twist::Piece(dice.random_range(PIECES..=u32::MAX)),
                2 => Twist::Offset(dice.random_range(own.min(1 << 31) as u32..=u32::MAX)),
                _ => Twist::Left(dice.random_range(own.min(1 << 31) as u32 + 1..=u32::MAX)),
            });
            work.pieces.truncate(1);
        }
        Wanted::Bind(_) | Wanted::Invalidate(_) => work.pieces.clear(),
        _ => {}
    }
    work.wanted = wanted;
    work.twist = twist;
    work
}

fn wanted(known: &Known, dice: &mut Dice) -> Wanted {
    match dice.random_range(0..100) {
        0..32 => Wanted::Write,
        32..56 => Wanted::Read,
        56..68 => Wanted::Send,
        68..74 => Wanted::CompareSwap {
            compare: dice.random(),
            swap: dice.random(),
        },
        74..80 => Wanted::FetchAdd { add: dice.random() },
        80..85 => Wanted::Flush {
            placement: *pick(dice, &[1, 2, 3]),
            whole: dice.random_ratio(1, 4),
        },
        85..94 => Wanted::Bind(bind(known, dice)),
        94..97 => Wanted::Invalidate(match known.windows.len() {
            0 => known.key(dice),
            _ if dice.random() => known.key(dice),
            _ => pick(dice, &known.windows).made.key,
        }),
        // Those in between are the library's, or have consequences of their own.
        _ => Wanted::Unknown(match dice.random_range(0..4) {
            0 => dice.random_range(10..14),
            1 => REGISTER_BY_POINTER,
            2 => dice.random_range(OPCODES..=u32::MAX),
            _ => dice.random_range(16..OPCODES),
        }),
    }
}

fn bind(known: &Known, dice: &mut Dice) -> Bind {
    let window = match known.windows.len() {
        0 => known.key(dice),
        _ if dice.random_ratio(1, 12) => known.key(dice),
        _ => pick(dice, &known.windows).made.key,
    };
    let region = known.key(dice);
    let span = known
        .region(region)
        .map(|r| (r.as_asked.iova, r.as_asked.len));
    let (start, len) = span.unwrap_or((0, 1 << 20));
    let offset = dice.random_range(0..len.min(1 << 20));
    let (addr, len) = match dice.random_range(0..10) {
        0 => (dice.random(), dice.random()),
        1 => (start, len.wrapping_add(1)),
        2 => (start.wrapping_sub(1), len),
        3 => (
            start.wrapping_add(offset),
            u64::MAX - dice.random_range(0..5000),
        ),
        4 => (start.wrapping_add(offset), 0),
        5 => (start, len),
        _ => (
            start.wrapping_add(offset),
            dice.random_range(0..=len - offset),
        ),
    };
    let access = match dice.random_range(0..10) {
        0 => dice.random(),
        1 => dice.random::<u32>() & KNOWN_TO_CORE,
        2 => FLUSH_GLOBAL | REMOTE_READ,
        3 => REMOTE_READ,
        _ => REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC,
    };
    Bind {
        addr,
        len,
        region,
        window,
        key: dice.random(),
        access,
    }
}

fn piece(known: &Known, arena: &Arena, dice: &mut Dice) -> Sge {
    let (lkey, addr) = known.place(dice, arena);
    let len = length(dice);
    Sge { addr, len, lkey }
}

fn length(dice: &mut Dice) -> u32 {
    match dice.random_range(0..24) {
        0 => 0,
        1 => *pick(dice, &[1 << 31, (1 << 31) + 1, u32::MAX, 1 << 30]),
        2 => dice.random(),
        3..6 => dice.random_range(1..40_000),
        6..12 => dice.random_range(1..9000),
        _ => dice.random_range(1..600),
    }
}
