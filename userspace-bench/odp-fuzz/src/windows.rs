// SPDX-License-Identifier: GPL-2.0
//! Memory windows: made and given back. They are bound by work requests.

use anyhow::Result;
use odp_verbs::uverbs;
use rand::Rng;

use crate::{
    dice::Dice,
    known::{Known, Window},
    registration::judge,
};

/// More windows than this are not kept.
const MOST: usize = 12;

/// Makes a window or gives one back.
pub fn request(known: &mut Known, dice: &mut Dice) -> Result<String> {
    if known.windows.len() < MOST && dice.random() {
        make(known, dice)
    } else {
        give_back(known, dice)
    }
}

fn make(known: &mut Known, dice: &mut Dice) -> Result<String> {
    let (handle, domain) = known.domain(dice);
    let kind = match dice.random_range(0..6) {
        0 => dice.random(),
        1..3 => 1,
        _ => 2,
    };
    let told = format!("a window of type {kind} in domain {handle:#x}");
    let mut errnos = Vec::new();
    if domain.is_none() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    if !matches!(kind, 1 | 2) {
        errnos.push(libc::EINVAL);
    }
    let answer = uverbs::allocate_window(known.env.context.command_file(), handle, kind);
    let made = judge(answer, &errnos).map_err(|e| e.context(told.clone()))?;
    if let (Some(made), Some(domain)) = (made, domain) {
        known.windows.push(Window {
            made,
            kind,
            domain,
            bound: None,
        });
    }
    Ok(told)
}

fn give_back(known: &mut Known, dice: &mut Dice) -> Result<String> {
    let number = match known.windows.len() {
        0 => None,
        n => dice.random_ratio(3, 4).then(|| dice.random_range(0..n)),
    };
    let handle = match number {
        Some(number) => known.windows[number].made.handle,
        // Not a region's either.
        None => dice.random_range(1 << 24..1 << 31),
    };
    let errnos: &[i32] = match number {
        Some(_) => &[],
        None => &[libc::ENOENT, libc::EINVAL],
    };
    let told = format!("the end of window {handle:#x}");
    let answer = uverbs::free_window(known.env.context.command_file(), handle);
    judge(answer, errnos).map_err(|e| e.context(told.clone()))?;
    if let Some(number) = number {
        let window = known.windows.swap_remove(number);
        known.forget(window.made);
    }
    Ok(told)
}
