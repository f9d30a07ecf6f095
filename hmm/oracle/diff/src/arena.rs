// SPDX-License-Identifier: GPL-2.0
//! The addresses that everything happens at. They are the same in every run, and no object of the
//! program lies there; so whatever becomes of the mappings, the program does not notice.

use std::fmt;

use testkit::memory;

use crate::dice::Dice;

/// Bytes in a page.
pub(crate) const PAGE: u64 = memory::PAGE as u64;
/// Pages that one PMD entry maps.
pub(crate) const HUGE: u64 = (memory::HUGE_PAGE / memory::PAGE) as u64;
/// log2 of that: the order of a PMD entry.
pub(crate) const HUGE_ORDER: u32 = HUGE.ilog2();
/// Pages that one PUD entry maps.
pub(crate) const GIGANTIC: u64 = HUGE * HUGE;

/// Far from where the kernel puts mappings by itself.
const BASE: u64 = 0x10_0000_0000 / PAGE;

/// A part of the arena that is only used for one size of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Everything but hugetlb.
    Small,
    /// hugetlb pages of 2 MiB.
    Huge,
    /// hugetlb pages of 1 GiB.
    Gigantic,
}

impl Zone {
    /// The whole zone.
    pub(crate) fn span(self) -> Span {
        let (first, pages) = match self {
            Self::Small => (BASE, 64 * 256),
            Self::Huge => (BASE + GIGANTIC, 16 * HUGE),
            Self::Gigantic => (BASE + 2 * GIGANTIC, GIGANTIC),
        };
        Span { first, pages }
    }

    /// Pages in the least that can be mapped.
    pub(crate) fn granule(self) -> u64 {
        match self {
            Self::Small => 1,
            Self::Huge => HUGE,
            Self::Gigantic => GIGANTIC,
        }
    }
}

/// Some pages of the arena.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    first: u64,
    pages: u64,
}

impl Span {
    /// Any number of pages up to 16 GiB, after the zones.
    pub(crate) fn for_measuring(pages: u64) -> Option<Self> {
        let first = BASE + 4 * GIGANTIC;
        (1..=16 * GIGANTIC)
            .contains(&pages)
            .then_some(Self { first, pages })
    }

    /// The address of the first page.
    pub(crate) fn start(self) -> u64 {
        self.first * PAGE
    }

    /// The address after the last.
    pub(crate) fn end(self) -> u64 {
        (self.first + self.pages) * PAGE
    }

    /// How many pages.
    pub(crate) fn pages(self) -> u64 {
        self.pages
    }

    /// How many bytes.
    pub(crate) fn bytes(self) -> usize {
        (self.pages * PAGE) as usize
    }

    /// `pages` pages from the one with number `from` on, as far as they are in this span.
    pub(crate) fn part(self, from: u64, pages: u64) -> Self {
        let from = from.min(self.pages.saturating_sub(1));
        Self {
            first: self.first + from,
            pages: pages.clamp(1, self.pages - from),
        }
    }

    /// The same from the first page on, with another number of pages, as far as the zone goes.
    pub(crate) fn resized(self, pages: u64) -> Self {
        let zone = self.zone().span();
        zone.part(self.first - zone.first, pages)
    }

    /// What lies in both this span and the addresses from `start` to `end`.
    pub(crate) fn clipped(self, start: u64, end: u64) -> Option<Self> {
        let first = self.first.max(start / PAGE);
        let end = (self.first + self.pages).min(end / PAGE);
        (first < end).then(|| Self {
            first,
            pages: end - first,
        })
    }

    /// The same with up to `pages` pages more at both ends, as far as the zone goes.
    pub(crate) fn widened(self, pages: u64) -> Self {
        let zone = self.zone().span();
        let first = self.first.saturating_sub(pages).max(zone.first);
        let end = (self.first + self.pages + pages).min(zone.first + zone.pages);
        Self {
            first,
            pages: end - first,
        }
    }

    /// The zone that it lies in.
    pub(crate) fn zone(self) -> Zone {
        [Zone::Gigantic, Zone::Huge]
            .into_iter()
            .find(|zone| self.first >= zone.span().first)
            .unwrap_or(Zone::Small)
    }

    /// One or two whole huge pages in the small zone.
    pub(crate) fn random_huge(dice: &mut Dice) -> Self {
        let (from, pages) = (dice.below(4) * HUGE, dice.between(1, 2) * HUGE);
        Zone::Small.span().part(from, pages)
    }

    /// A span in `zone`: often small, sometimes whole huge pages, mostly in the same few megabytes,
    /// so that what happens meets what happened before.
    pub(crate) fn random(dice: &mut Dice, zone: Zone) -> Self {
        let whole = zone.span();
        let granule = zone.granule();
        if granule > 1 {
            let granules = whole.pages / granule;
            let from = dice.below(granules);
            let count = dice.between(1, 3);
            return whole.part(from * granule, count * granule);
        }
        let window = match dice.below(4) {
            0 => whole.pages,
            _ => 4 * HUGE,
        };
        let (from, pages) = match dice.below(8) {
            0 | 1 => (dice.below(window), 1),
            2..=4 => (dice.below(window), dice.between(1, 16)),
            5 => (dice.below(window), dice.between(1, 300)),
            _ => (dice.below(window / HUGE) * HUGE, dice.between(1, 2) * HUGE),
        };
        whole.part(from, pages)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}", self.start(), self.pages)
    }
}
