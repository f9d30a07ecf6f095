// SPDX-License-Identifier: GPL-2.0
//! The memory that the requests are about, and what is known of it: which pages can be had, and what
//! is in every byte.

use std::{io, ops::Range};

use rand::Rng;
use testkit::{
    memory::{Advice, Backing, Mapping, Protection, PAGE},
    pattern::{compare, Mismatch, Pattern},
};

use crate::dice::Dice;

/// How many pages the arena has.
pub const PAGES: usize = 96;
const SIZE: usize = PAGES * PAGE;

/// What can be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Read and written.
    Open,
    /// Read.
    ReadOnly,
    /// Nothing: there is an area, without rights.
    Shut,
    /// Nothing: there is no area.
    Hole,
}

/// Why some memory cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// There is no page, or one that may not even be read.
    NoPage,
    /// The page may not be written.
    NotWritable,
}

/// Memory whose pages come and go, and a copy of what must be in it.
pub struct Arena {
    memory: Mapping,
    pages: Vec<Page>,
    bytes: Vec<u8>,
}

impl Arena {
    /// A new one, of pages of every kind, filled with bytes that depend on their position.
    pub fn new() -> io::Result<Self> {
        let mut arena = Self {
            memory: Mapping::anonymous(SIZE)?,
            pages: vec![Page::Open; PAGES],
            bytes: vec![0; SIZE],
        };
        arena.fill(0..PAGES, Pattern::new(0));
        arena.turn(24..32, Page::ReadOnly)?;
        arena.turn(40..44, Page::Hole)?;
        arena.turn(60..64, Page::Shut)?;
        Ok(arena)
    }

    /// The first address.
    pub fn start(&self) -> u64 {
        self.memory.addr()
    }

    /// The address after the last.
    pub fn end(&self) -> u64 {
        self.start() + SIZE as u64
    }

    /// Where in the arena `addr` is.
    fn offset(&self, addr: u64) -> Option<usize> {
        let offset = addr.checked_sub(self.start())?;
        (offset < SIZE as u64).then_some(offset as usize)
    }

    /// Whether all of the `len` bytes from `addr` are in it.
    pub fn holds(&self, addr: u64, len: u64) -> bool {
        addr >= self.start() && addr.checked_add(len).is_some_and(|end| end <= self.end())
    }

    /// How many of the `len` bytes from `addr` can be had, and why no more, if not all. What is not in
    /// the arena counts as not there.
    pub fn reach(&self, addr: u64, len: u64, write: bool) -> (u64, Option<Lack>) {
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done);
            match self.offset(at).map(|offset| self.pages[offset / PAGE]) {
                None | Some(Page::Hole | Page::Shut) => return (done, Some(Lack::NoPage)),
                Some(Page::ReadOnly) if write => return (done, Some(Lack::NotWritable)),
                _ => {}
            }
            done += (PAGE as u64 - at % PAGE as u64).min(len - done);
        }
        (len, None)
    }

    /// Why the `len` bytes from `addr` cannot be had, if they cannot: the first lack.
    pub fn lack(&self, addr: u64, len: u64, write: bool) -> Option<Lack> {
        self.reach(addr, len, write).1
    }

    /// What must be in the `len` bytes from `addr`.
    ///
    /// # Panics
    ///
    /// If they are not in the arena.
    pub fn expected(&self, addr: u64, len: usize) -> &[u8] {
        let offset = self.offset(addr).expect("an address in the arena");
        &self.bytes[offset..offset + len]
    }

    /// After an operation that has put `new` at `addr`, where all of it fits: checks that it is there.
    pub fn expect(&mut self, addr: u64, new: &[u8]) -> Result<(), Mismatch> {
        let offset = self.offset(addr).expect("an address in the arena");
        self.bytes[offset..offset + new.len()].copy_from_slice(new);
        compare(new, &self.memory.bytes(offset, new.len()))
    }

    /// After an operation that may have put a part of `new` at `addr`: each byte there must be the old
    /// or the new one, and that is what must be there from now on.
    pub fn settle(&mut self, addr: u64, new: &[u8]) -> Result<(), Mismatch> {
        let offset = self.offset(addr).expect("an address in the arena");
        let found = self.memory.bytes(offset, new.len());
        let old = &mut self.bytes[offset..offset + new.len()];
        for ((found, old), new) in found.iter().zip(old.iter_mut()).zip(new) {
            if found == new {
                *old = *new;
            }
        }
        compare(old, &found)
    }

    /// Checks all that can be read.
    pub fn check(&self) -> Result<(), (usize, Mismatch)> {
        for (page, kind) in self.pages.iter().enumerate() {
            if matches!(kind, Page::Open | Page::ReadOnly) {
                let range = page * PAGE..(page + 1) * PAGE;
                let found = self.memory.bytes(range.start, PAGE);
                compare(&self.bytes[range], &found).map_err(|m| (page, m))?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, pages: Range<usize>, pattern: Pattern) {
        let range = pages.start * PAGE..pages.end * PAGE;
        pattern.fill(range.start as u64, &mut self.bytes[range.clone()]);
        self.memory.write(range.start, &self.bytes[range]);
    }

    /// Makes `pages` what `kind` says. What was unmapped comes back as zeroes.
    fn turn(&mut self, pages: Range<usize>, kind: Page) -> io::Result<()> {
        let range = pages.start * PAGE..pages.end * PAGE;
        if kind == Page::Hole {
            self.memory.unmap(range.clone())?;
            self.bytes[range].fill(0);
        } else {
            let protection = match kind {
                Page::Open => Protection::ReadWrite,
                Page::ReadOnly => Protection::Read,
                Page::Shut | Page::Hole => Protection::None,
            };
            for page in pages.clone() {
                let one = page * PAGE..(page + 1) * PAGE;
                match self.pages[page] {
                    Page::Hole => self.memory.map(one, Backing::Anonymous, protection)?,
                    _ => self.memory.protect(one, protection)?,
                }
            }
        }
        self.pages[pages].fill(kind);
        Ok(())
    }

    /// Does something to a few pages: other rights, away, back, new content, zeroes.
    pub fn change(&mut self, dice: &mut Dice) -> io::Result<()> {
        let first = dice.random_range(0..PAGES);
        let pages = first..(first + dice.random_range(1..6)).min(PAGES);
        match dice.random_range(0..8) {
            0 => self.turn(pages, Page::Hole),
            1 => self.turn(pages, Page::Shut),
            2 => self.turn(pages, Page::ReadOnly),
            3 if pages.clone().all(|p| self.pages[p] != Page::Hole) => {
                let range = pages.start * PAGE..pages.end * PAGE;
                self.memory.advise(range.clone(), Advice::DontNeed)?;
                self.bytes[range].fill(0);
                Ok(())
            }
            _ => {
                self.turn(pages.clone(), Page::Open)?;
                self.fill(pages, Pattern::new(dice.random()));
                Ok(())
            }
        }
    }

    /// An address around which something is to happen: in the arena for the most part, often where
    /// pages meet, sometimes where no process has anything.
    pub fn address(&self, dice: &mut Dice) -> u64 {
        let near = |dice: &mut Dice, at: u64| match dice.random_range(0..4) {
            0 => at,
            1 => at.wrapping_add(dice.random_range(0..16)),
            2 => at.wrapping_sub(dice.random_range(1..16)),
            _ => at.wrapping_add(dice.random_range(0..4096)),
        };
        match dice.random_range(0..16) {
            0 => near(dice, self.end()),
            1 => *pick(dice, &[0, 1, 8, 0xfff, 0x1000, 0xfff8]),
            2 => {
                let far = *pick(dice, &[1 << 56, 1 << 63, 0xffff_8000_0000_0000, u64::MAX]);
                near(dice, far)
            }
            3 => self.end() + dice.random_range(0..1 << 20),
            4..8 => self.start() + dice.random_range(0..SIZE as u64),
            _ => {
                let page = self.start() + (dice.random_range(0..PAGES) * PAGE) as u64;
                near(dice, page)
            }
        }
    }

    /// Whether nothing of this process can be where the `len` bytes from `addr` are, but for the arena.
    pub fn is_safe(&self, addr: u64, len: u64) -> bool {
        // Where no process has anything, and what [`Mapping`] keeps free after the arena.
        const LOW: u64 = 0x1_0000;
        const HIGH: u64 = 1 << 47;
        const GAP: u64 = 1 << 29;
        let Some(last) = addr.checked_add(len.saturating_sub(1)) else {
            return addr >= HIGH;
        };
        last < LOW || addr >= HIGH || (addr >= self.start() && last < self.end() + GAP)
    }
}

/// One of `choices`.
pub fn pick<'a, T>(dice: &mut Dice, choices: &'a [T]) -> &'a T {
    &choices[dice.random_range(0..choices.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_found_where_it_begins() {
        let mut arena = Arena::new().unwrap();
        arena.turn(0..PAGES, Page::Open).unwrap();
        arena.turn(3..4, Page::ReadOnly).unwrap();
        arena.turn(5..6, Page::Hole).unwrap();
        let at = arena.start() + 100;
        assert_eq!(
            arena.reach(at, 3 * 4096 - 100, true),
            (3 * 4096 - 100, None)
        );
        let (done, lack) = arena.reach(at, 4 * 4096, true);
        assert_eq!((done, lack), (3 * 4096 - 100, Some(Lack::NotWritable)));
        let (done, lack) = arena.reach(at, 6 * 4096, false);
        assert_eq!((done, lack), (5 * 4096 - 100, Some(Lack::NoPage)));
        assert_eq!(arena.lack(arena.end() - 1, 1, true), None);
        assert_eq!(arena.lack(arena.end() - 1, 2, false), Some(Lack::NoPage));
    }

    #[test]
    fn a_stray_byte_is_noticed_and_a_partial_change_is_not() {
        let mut arena = Arena::new().unwrap();
        let at = arena.start() + 5;
        let new = [0xaa; 10];
        arena.memory.write(5, &new[..4]);
        assert!(arena.check().is_err());
        arena.settle(at, &new).unwrap();
        arena.check().unwrap();
        assert!(
            arena.expect(at, &new).is_err(),
            "only four of them are there"
        );
        arena.memory.write(5, &new);
        arena.expect(at, &new).unwrap();
        arena.memory.write(7, &[0xbb]);
        assert!(arena.settle(at, &new).is_err());
    }
}
