// SPDX-License-Identifier: GPL-2.0
//! Memory of every kind, in the states in which a NIC may find it, and orders in which to go through it.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::problem::lacking;
use testkit::memory::{Advice, Backing, Mapping, Protection, HUGE_PAGE, PAGE};

/// How many small pages a huge one has.
pub(super) const PER_HUGE: usize = HUGE_PAGE / PAGE;

/// What memory consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Pages of 4 KiB.
    Small,
    /// Transparent huge pages.
    Thp,
    /// Huge pages of the reserved pool.
    HugeTlb,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "4k",
            Self::Thp => "thp",
            Self::HugeTlb => "hugetlb",
        })
    }
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Small, Self::Thp, Self::HugeTlb];

    /// `len` untouched bytes of it.
    pub(super) fn map(self, len: usize) -> Result<Mapping> {
        let mapping = match self {
            Self::HugeTlb => {
                let free = huge_pages_free()? * HUGE_PAGE as u64;
                if free < len as u64 {
                    return Err(lacking(format!(
                        "{} free huge pages of 2 MiB, {} needed: see /proc/sys/vm/nr_hugepages",
                        free / HUGE_PAGE as u64,
                        len.div_ceil(HUGE_PAGE)
                    )));
                }
                Mapping::new(len, Backing::HugeTlb, Protection::ReadWrite)
            }
            _ => Mapping::anonymous(len),
        };
        let mapping = mapping.context("mapping memory")?;
        self.advise(&mapping)?;
        Ok(mapping)
    }

    /// Tells the kernel which pages to use for `mapping`.
    pub(super) fn advise(self, mapping: &Mapping) -> Result<()> {
        let advice = match self {
            Self::Small => Advice::NoHugePage,
            Self::Thp if !thp_allowed() => {
                return Err(lacking("transparent huge pages are off on this machine"))
            }
            Self::Thp => Advice::HugePage,
            Self::HugeTlb => return Ok(()),
        };
        mapping
            .advise(0..mapping.len(), advice)
            .context("advising about huge pages")
    }

    /// Ends a case whose memory is not of the kind that it was to be.
    pub(super) fn confirm(self, mapping: &Mapping) -> Result<()> {
        if self != Self::Thp {
            return Ok(());
        }
        let (huge, all) = (anon_huge(mapping)?, mapping.len() as u64);
        if huge < all / 10 * 9 {
            return Err(lacking(format!(
                "of {} MiB only {} came as transparent huge pages: free memory is in small pieces",
                all >> 20,
                huge >> 20
            )));
        }
        Ok(())
    }
}

/// Has the CPU use every page.
pub(super) fn populate(memory: &Mapping) {
    for page in 0..memory.len() / PAGE {
        memory.write(page * PAGE + PAGE - 8, &(page as u64).to_ne_bytes());
    }
}

fn huge_pages_free() -> Result<u64> {
    Ok(meminfo("HugePages_Free")?.unwrap_or(0))
}

/// A line of /proc/meminfo, as the number that it says.
pub(super) fn meminfo(name: &str) -> Result<Option<u64>> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()))
}

/// How many bytes can be used without anything being swapped out.
pub(super) fn available() -> Result<u64> {
    Ok(meminfo("MemAvailable")?.unwrap_or(0) << 10)
}

fn thp_allowed() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| !text.contains("[never]"))
}

/// How many bytes of `mapping` are huge pages.
fn anon_huge(mapping: &Mapping) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps").context("reading /proc/self/smaps")?;
    let (from, to) = (mapping.addr(), mapping.at(mapping.len()));
    let mut inside = false;
    let mut kib = 0;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((start, end)) = range {
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                inside = start < to && from < end;
            }
        }
        if let Some(value) = line.strip_prefix("AnonHugePages:").filter(|_| inside) {
            let number = value.split_whitespace().next().unwrap_or("0");
            kib += number.parse::<u64>().unwrap_or(0);
        }
    }
    Ok(kib << 10)
}

/// In which order pages are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// One after the other.
    Sequential,
    /// Every sixteenth, then those after them, and so on.
    Strided,
    /// In an order that nothing can foresee, but always the same one.
    Random,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "sequential",
            Self::Strided => "strided",
            Self::Random => "random",
        })
    }
}

impl Pattern {
    pub(super) const ALL: [Self; 3] = [Self::Sequential, Self::Strided, Self::Random];

    /// Each of the `count` pages from `first` on once.
    pub(super) fn order(self, first: usize, count: usize) -> Order {
        const STRIDE: usize = 16;
        let mut pages: Vec<usize> = (first..first + count).collect();
        match self {
            Self::Sequential => {}
            Self::Strided => pages.sort_by_key(|page| ((page - first) % STRIDE, *page)),
            Self::Random => fastrand::Rng::with_seed(first as u64).shuffle(&mut pages),
        }
        Order(pages)
    }
}

/// Pages in an order.
#[derive(Clone, Debug)]
pub(super) struct Order(Vec<usize>);

impl Order {
    /// Every so many of the first `count` pages.
    pub(super) fn every(step: usize, count: usize) -> Self {
        Self((0..count).step_by(step).collect())
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_comes_once() {
        for pattern in Pattern::ALL {
            let mut pages = pattern.order(512, 512).0;
            assert_eq!(pattern == Pattern::Sequential, pages.is_sorted());
            pages.sort_unstable();
            assert_eq!(pages, (512..1024).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stride_is_one() {
        let order = Pattern::Strided.order(0, 64).0;
        assert_eq!(order[..5], [0, 16, 32, 48, 1]);
    }
}
