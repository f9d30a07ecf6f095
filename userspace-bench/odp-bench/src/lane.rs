// SPDX-License-Identifier: GPL-2.0
//! A connection with a pinned source of data, that writes a few bytes to page after page of a target, and
//! checks that they came to lie where they belong.

use std::{rc::Rc, time::Instant};

use anyhow::Result;

use super::{
    act::{Act, Piece},
    pages::{Kind, Order},
    setting::Bench,
    target::{Connection, Target},
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Op;
use testkit::{memory::PAGE, pattern::Pattern};

/// How many bytes an access moves.
pub(super) const LEN: usize = 64;

/// A connection and where its data comes from.
pub(super) struct Lane<'a> {
    bench: &'a Bench,
    link: Connection<'a>,
    near: Rc<Buffer>,
    seed: u64,
}

impl<'a> Lane<'a> {
    /// One whose source has `LEN` bytes for each of `pages` pages.
    pub(super) fn new(bench: &'a Bench, pages: usize) -> Result<Self> {
        let mut lane = Self {
            bench,
            link: bench.link(64)?,
            near: bench.buffer(Mode::Pinned, (pages * LEN).next_multiple_of(PAGE))?,
            seed: 0,
        };
        lane.renew();
        Ok(lane)
    }

    /// Other data from now on: what an earlier access left is not taken for what a later one should have
    /// brought.
    pub(super) fn renew(&mut self) {
        self.seed += 1;
        let pattern = Pattern::new(self.seed);
        self.near.fill(pattern, 0, self.near.memory.len());
    }

    /// Where the data for page `page` is, and where on it it goes. The source is used over and over.
    fn piece(&self, page: usize) -> Piece {
        Piece {
            position: page * LEN % self.near.memory.len(),
            offset: page * PAGE + self.bench.place(page),
            len: LEN,
        }
    }

    /// Writes to page `page` of `target`; how long it took, in nanoseconds.
    pub(super) fn write(&self, target: &Target<'_>, page: usize) -> Result<f64> {
        let piece = self.piece(page);
        let to = target.remote(piece.offset);
        let from = self.near.sge(piece.position, LEN);
        let begun = Instant::now();
        self.link.ok(Op::Write(to), &[from])?;
        Ok(begun.elapsed().as_nanos() as f64)
    }

    /// Reads what `write` writes of page `page` of `target` to the beginning of `into`.
    pub(super) fn read(&self, target: &Target<'_>, page: usize, into: &Buffer) -> Result<()> {
        let from = target.remote(self.piece(page).offset);
        Ok(self.link.ok(Op::Read(from), &[into.sge(0, LEN)])?)
    }

    /// Writes to the pages of `order`; how long each took.
    pub(super) fn sweep(&self, target: &Target<'_>, order: &Order) -> Result<Vec<f64>> {
        order.pages().map(|page| self.write(target, page)).collect()
    }

    /// Checks what a sweep left.
    pub(super) fn check(&self, target: &Target<'_>, order: &Order) -> Result<()> {
        let pieces = order.pages().map(|page| self.piece(page)).collect();
        target.does(Act::Check(self.seed, pieces))
    }

    /// Some accesses that are not measured, so that code and connection are in use.
    pub(super) fn warm_up(&self) -> Result<()> {
        let target = self.bench.target(Mode::Pinned, Kind::Small, PAGE)?;
        (0..self.bench.warm_up(50)).try_for_each(|_| self.write(&target, 0).map(drop))
    }
}
