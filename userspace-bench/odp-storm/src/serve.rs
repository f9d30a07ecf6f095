// SPDX-License-Identifier: GPL-2.0
//! The thread that serves a userfaultfd, in its own time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use testkit::memory::PAGE;

use crate::{dice::Dice, field::Field, ground::Ground, slow::pause};

/// Serves `ground`, whose pages are missing, some sooner, some later, until nobody needs it any more.
pub fn serve(ground: &Ground, field: &Field, mut dice: Dice) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(1);
    let faults = ground.faults.as_ref().context("nothing to serve")?;
    let mut due: Vec<(Instant, u64)> = Vec::new();
    while !field.is_closed() {
        if let Some(page) = faults.next_within(LOOK)? {
            let late = match field.is_over() {
                true => Duration::ZERO,
                false => pause(&mut dice),
            };
            due.push((Instant::now() + late, page));
        }
        let now = Instant::now();
        let ready: Vec<_>;
        (ready, due) = due.into_iter().partition(|(time, _)| *time <= now);
        for (_, address) in ready {
            let offset = (address - ground.buffer.memory.addr()) as usize;
            faults.give(address, &ground.nature.new_bytes(offset, PAGE))?;
        }
    }
    Ok(())
}
