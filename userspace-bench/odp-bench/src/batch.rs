// SPDX-License-Identifier: GPL-2.0
//! Accesses of several queue pairs that are under way at once, each to a page of its own.

use std::{rc::Rc, time::Instant};

use anyhow::Result;

use super::{
    act::{Act, Piece},
    lane::LEN,
    setting::Bench,
    target::{Connection, Target},
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::Op;
use testkit::{memory::PAGE, pattern::Pattern};

/// The queue pairs and their source of data.
pub(super) struct Batch<'a> {
    bench: &'a Bench,
    links: Vec<Connection<'a>>,
    near: Rc<Buffer>,
    pages: usize,
}

impl<'a> Batch<'a> {
    /// `qps` queue pairs that share `pages` accesses.
    pub(super) fn new(bench: &'a Bench, qps: usize, pages: usize) -> Result<Self> {
        let depth = 2 * pages.div_ceil(qps) as u32;
        Ok(Self {
            bench,
            links: (0..qps).map(|_| bench.link(depth)).collect::<Result<_>>()?,
            near: bench.buffer(Mode::Pinned, pages * PAGE)?,
            pages,
        })
    }

    /// The connections and where their accesses go.
    fn places(&self) -> impl Iterator<Item = (&Connection<'a>, usize)> {
        (0..self.pages).map(|page| {
            let link = &self.links[page % self.links.len()];
            (link, page * PAGE + self.bench.place(page))
        })
    }

    /// Writes the pattern of `seed` to all pages, and gives the nanoseconds until all is complete.
    pub(super) fn run(&self, seed: u64, far: &Target<'_>) -> Result<f64> {
        for (_, at) in self.places() {
            self.near.fill(Pattern::new(seed), at, LEN);
        }
        let begun = Instant::now();
        for (link, at) in self.places() {
            let to = Op::Write(far.remote(at));
            link.qp
                .post_send(at as u64, to, &[self.near.sge(at, LEN)])?;
        }
        for (link, _) in self.places() {
            link.wait()?;
        }
        let time = begun.elapsed().as_nanos() as f64;
        let pieces = self.places().map(|(_, at)| Piece::at(at, LEN)).collect();
        far.does(Act::Check(seed, pieces))?;
        Ok(time)
    }
}
