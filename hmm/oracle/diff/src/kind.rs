// SPDX-License-Identifier: GPL-2.0
//! The kinds of entries that a CPU's page table can have for a page, and how often each was compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::abi::State;
use crate::arena::{Span, GIGANTIC, HUGE, PAGE};
use crate::oracle::{Answer, Question};
use crate::view::{Area, View, IS_FILE, IS_GUARD, IS_HUGE, IS_PRESENT, IS_SWAPPED, IS_ZERO};

/// What there is for a page before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    NoArea,
    Unreadable,
    Device,
    Absent,
    BeyondEnd,
    Anonymous,
    AnonymousShared,
    File,
    FilePrivate,
    Huge,
    HugeShared,
    Zero,
    HugeZero,
    Hugetlb,
    HugetlbAbsent,
    Gigantic,
    GiganticAbsent,
    Swapped,
    Guard,
    Poisoned,
    Special,
    /// There is a page that the CPU may not touch at the moment: NUMA hinting.
    Inaccessible,
}

impl Kind {
    /// Whether a run that is long enough must have met it.
    fn is_expected(self) -> bool {
        // Pages of 1 GiB cannot be had in a small VM, and NUMA hinting takes two nodes.
        !matches!(
            self,
            Self::Gigantic | Self::GiganticAbsent | Self::Inaccessible
        )
    }

    const ALL: [Self; 22] = [
        Self::NoArea,
        Self::Unreadable,
        Self::Device,
        Self::Absent,
        Self::BeyondEnd,
        Self::Anonymous,
        Self::AnonymousShared,
        Self::File,
        Self::FilePrivate,
        Self::Huge,
        Self::HugeShared,
        Self::Zero,
        Self::HugeZero,
        Self::Hugetlb,
        Self::HugetlbAbsent,
        Self::Gigantic,
        Self::GiganticAbsent,
        Self::Swapped,
        Self::Guard,
        Self::Poisoned,
        Self::Special,
        Self::Inaccessible,
    ];

    /// Whether it is a hole in a hugetlb area.
    pub(crate) fn is_hugetlb_hole(self) -> bool {
        matches!(self, Self::HugetlbAbsent | Self::GiganticAbsent)
    }

    /// Whether there is a page whose rights can differ.
    fn has_rights(self) -> bool {
        matches!(
            self,
            Self::Anonymous
                | Self::AnonymousShared
                | Self::File
                | Self::FilePrivate
                | Self::Huge
                | Self::HugeShared
                | Self::Hugetlb
        )
    }
}

/// What is known of the arena beyond what the kernel says.
pub(crate) struct Known<'a> {
    /// The sizes of files in bytes, by inode number.
    pub(crate) files: &'a BTreeMap<u64, u64>,
    /// The addresses of poisoned pages.
    pub(crate) poisoned: &'a BTreeSet<u64>,
}

/// The kinds of pages that a span has at the moment, in ascending order.
pub(crate) fn look(view: &View, span: Span, known: &Known<'_>) -> Result<Vec<(Span, Kind)>> {
    let mut kinds = Vec::new();
    let mut add = |start, end, kind| {
        if let Some(part) = span.clipped(start, end) {
            kinds.push((part, kind));
        }
    };
    let mut at = span.start();
    let areas = view.areas(span)?;
    for area in &areas {
        add(at, area.span.start(), Kind::NoArea);
        at = area.span.end();
        if area.device {
            add(area.span.start(), area.span.end(), Kind::Device);
        } else if !area.readable {
            add(area.span.start(), area.span.end(), Kind::Unreadable);
        }
    }
    add(at, span.end(), Kind::NoArea);
    for region in view.entries(span)? {
        let within = areas.iter().filter(|area| area.readable && !area.device);
        for area in within {
            let start = region.start.max(area.span.start());
            let end = region.end.min(area.span.end());
            if start < end {
                add(start, end, of_entry(area, start, region.categories, known));
            }
        }
    }
    Ok(kinds)
}

fn of_entry(area: &Area, start: u64, categories: u64, known: &Known<'_>) -> Kind {
    let has = |category| categories & category != 0;
    if has(IS_GUARD) {
        return Kind::Guard;
    }
    if known.poisoned.contains(&start) && !has(IS_PRESENT) {
        return Kind::Poisoned;
    }
    let present = has(IS_PRESENT);
    match area.page_size / PAGE {
        GIGANTIC if present => return Kind::Gigantic,
        GIGANTIC => return Kind::GiganticAbsent,
        HUGE if present => return Kind::Hugetlb,
        HUGE => return Kind::HugetlbAbsent,
        _ => {}
    }
    if !present {
        if has(IS_SWAPPED) {
            return Kind::Swapped;
        }
        let offset = area.offset + (start - area.span.start());
        let size = known.files.get(&area.inode);
        return match size {
            Some(size) if offset >= *size => Kind::BeyondEnd,
            _ => Kind::Absent,
        };
    }
    if area.special {
        return Kind::Special;
    }
    match (has(IS_HUGE), has(IS_ZERO), has(IS_FILE)) {
        (true, true, _) => Kind::HugeZero,
        (false, true, _) => Kind::Zero,
        (true, false, true) => Kind::HugeShared,
        (true, false, false) => Kind::Huge,
        (false, false, true) if !area.shared => Kind::FilePrivate,
        (false, false, true) if known.files.contains_key(&area.inode) => Kind::File,
        (false, false, true) => Kind::AnonymousShared,
        (false, false, false) => Kind::Anonymous,
    }
}

/// How often each kind was compared, by what was wanted and what the rights were.
#[derive(Default)]
pub(crate) struct Tally {
    seen: BTreeMap<(Kind, Option<bool>), [u64; 3]>,
}

impl Tally {
    /// Counts the pages of one comparison; `kinds` is what was there before it.
    pub(crate) fn count(&mut self, question: &Question, answer: &Answer, kinds: &[(Span, Kind)]) {
        for (span, kind) in kinds {
            let page = ((span.start() - question.span.start()) / PAGE) as usize;
            let state = answer.theirs.as_ref().ok().map(|states| states[page]);
            // What was copied on write is memory like any other.
            let kind = match (kind, state) {
                (Kind::Special, Some(State::Valid { .. })) => &Kind::Anonymous,
                (kind, Some(State::Absent)) if kind.has_rights() => &Kind::Inaccessible,
                (kind, _) => kind,
            };
            let writable = match state {
                Some(State::Valid { writable, .. }) if kind.has_rights() => Some(writable),
                _ => None,
            };
            if kind.has_rights() && writable.is_none() {
                continue;
            }
            let wanted = usize::from(question.wanted(page));
            self.seen.entry((*kind, writable)).or_default()[wanted] += 1;
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<28}{:>10}{:>10}{:>10}\n",
            "entry", "snapshot", "read", "write"
        );
        for ((kind, writable), counts) in &self.seen {
            let rights = match writable {
                Some(true) => ", writable",
                Some(false) => ", read-only",
                None => "",
            };
            let name = format!("{kind:?}{rights}");
            let [snapshot, read, write] = counts;
            text.push_str(&format!("{name:<28}{snapshot:>10}{read:>10}{write:>10}\n"));
        }
        text
    }

    /// What should have been met and was not.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_expected()) {
            let rights: &[Option<bool>] = match kind.has_rights() {
                // Nobody can write a page of a file through a private mapping.
                true if kind == Kind::FilePrivate => &[Some(false)],
                true => &[Some(false), Some(true)],
                false => &[None],
            };
            for right in rights {
                let counts = self.seen.get(&(kind, *right)).copied().unwrap_or_default();
                if counts.iter().sum::<u64>() == 0 {
                    missing.push(match right {
                        None => format!("{kind:?}"),
                        Some(true) => format!("{kind:?}, writable"),
                        Some(false) => format!("{kind:?}, read-only"),
                    });
                }
            }
        }
        missing
    }
}
