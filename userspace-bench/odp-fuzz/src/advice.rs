// SPDX-License-Identifier: GPL-2.0
//! Prefetches, sensible or not.

use anyhow::Result;
use odp_verbs::uverbs::{self, AdviceRequest, Piece};
use rand::Rng;

use crate::{
    arena::{pick, Arena, Lack},
    dice::Dice,
    known::Known,
    registration::judge,
};

const PREFETCH: u64 = 0;
const PREFETCH_WRITE: u64 = 1;
const PREFETCH_NO_FAULT: u64 = 2;
/// Wait for the end.
const FLUSH: u64 = 1;

/// Gives some advice.
pub fn advise(known: &Known, arena: &Arena, dice: &mut Dice) -> Result<String> {
    let (handle, domain) = known.domain(dice);
    let advice = match dice.random_range(0..12) {
        0 => dice.random(),
        1 => dice.random_range(3..10),
        2..6 => PREFETCH,
        6..10 => PREFETCH_WRITE,
        _ => PREFETCH_NO_FAULT,
    };
    let flags = match dice.random_range(0..12) {
        0 => dice.random(),
        1 => 1 << dice.random_range(0..64),
        2..8 => FLUSH,
        _ => 0,
    };
    let count = match dice.random_range(0..40) {
        0 => 4095,
        1..8 => dice.random_range(2..9),
        _ => 1,
    };
    // Many of one kind, or the kernel would refuse nearly all of them for one that is wrong.
    let one = piece(known, arena, dice);
    let alike = count > 8 || dice.random();
    let pieces: Vec<Piece> = (0..count)
        .map(|_| match alike {
            true => one,
            false => piece(known, arena, dice),
        })
        .collect();
    let all = (pieces.len() * size_of::<Piece>()) as u16;
    let bytes = match dice.random_range(0..20) {
        0 => dice.random_range(0..all),
        _ => all,
    };
    let told = format!(
        "advice {advice} flags {flags:#x} domain {handle:#x} bytes {bytes} of {count} pieces {:x?}",
        &pieces[..pieces.len().min(8)]
    );
    let mut errnos = wrong_frame(advice, flags, bytes);
    if domain.is_none() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    if let Some(domain) = domain {
        let named = usize::from(bytes) / size_of::<Piece>();
        let distinct = if alike { named.min(1) } else { named };
        for piece in &pieces[..distinct] {
            errnos.extend(wrong_piece(known, arena, domain, advice, flags, piece));
        }
    }
    let request = AdviceRequest {
        domain: handle,
        advice,
        flags,
        pieces: &pieces,
        bytes,
    };
    let answer = uverbs::advise(known.env.context.command_file(), &request);
    judge(answer, &errnos).map_err(|e| e.context(told.clone()))?;
    Ok(told)
}

fn piece(known: &Known, arena: &Arena, dice: &mut Dice) -> Piece {
    let (key, addr) = known.place(dice, arena);
    let len = match dice.random_range(0..12) {
        0 => 0,
        1 => dice.random(),
        2 => *pick(dice, &[1 << 31, u32::MAX, (1 << 31) + 1]),
        3..6 => dice.random_range(1..100_000),
        _ => dice.random_range(1..9000),
    };
    Piece { addr, len, key }
}

/// What is wrong with the request as such.
fn wrong_frame(advice: u64, flags: u64, bytes: u16) -> Vec<i32> {
    let mut wrong = Vec::new();
    if advice > PREFETCH_NO_FAULT {
        // The core refuses what is no number of an enumeration at all.
        wrong.extend([libc::EOPNOTSUPP, libc::EINVAL, libc::ERANGE]);
    }
    if flags & !FLUSH != 0 {
        wrong.push(libc::EINVAL);
    }
    if usize::from(bytes) % size_of::<Piece>() != 0 || bytes == 0 {
        wrong.push(libc::EINVAL);
    }
    wrong
}

/// What is wrong with a piece.
fn wrong_piece(
    known: &Known,
    arena: &Arena,
    domain: usize,
    advice: u64,
    flags: u64,
    piece: &Piece,
) -> Vec<i32> {
    let Some(region) = known.region(piece.key).filter(|r| r.domain == domain) else {
        return vec![libc::ENOENT];
    };
    if !region.is_on_demand() {
        return vec![libc::EINVAL];
    }
    let mut wrong = Vec::new();
    if advice == PREFETCH_WRITE && !region.writable {
        wrong.push(libc::EPERM);
    }
    let len = u64::from(piece.len);
    match region.translate(piece.addr, len) {
        None => wrong.push(libc::EFAULT),
        Some(addr) if flags & FLUSH != 0 => wrong.extend(wrong_pages(arena, addr, len, advice)),
        Some(_) => {}
    }
    wrong
}

/// What is wrong with the pages, if they are to be there now.
fn wrong_pages(arena: &Arena, addr: u64, len: u64, advice: u64) -> Option<i32> {
    if len == 0 {
        return None;
    }
    // Whole pages are prefetched.
    let start = addr & !0xfff;
    let len = addr - start + len;
    let outside = addr.checked_add(len).is_none_or(|end| end > 1 << 47);
    if advice == PREFETCH_NO_FAULT {
        // Nothing has to be there, but it has to be a place where something could be.
        return outside.then_some(libc::EFAULT);
    }
    match arena.lack(start, len, advice == PREFETCH_WRITE)? {
        Lack::NoPage => Some(libc::EFAULT),
        Lack::NotWritable => Some(libc::EPERM),
    }
}
