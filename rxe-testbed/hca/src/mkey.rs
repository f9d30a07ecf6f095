// SPDX-License-Identifier: GPL-2.0
//! Memory keys: what their contexts and translations say. `translate` walks them, `umr` changes them as work requests
//! say, and `invalidate` is about those that go.

use std::collections::HashMap;
use std::ops::Range;

use crate::entries::Entries;
use crate::layout::mkc;

/// The key of memory that takes what is written and reads as zeroes.
pub(crate) const NULL_MKEY: u32 = 0x100;

/// Bytes of an entry of a table of pages, and of one that leads on to another key.
const PAGE_ENTRY: usize = 8;
const LINK: usize = 16;

/// Pieces of a free key's translation that are known one by one.
const MOST_RANGES: usize = 1 << 10;

/// Pages' sizes, as powers of two.
const LOG_PAGE: std::ops::RangeInclusive<u32> = 12..=62;

/// What an entry of the table says besides the address: that the page may be read and written.
pub(crate) const READABLE: u64 = 1;
pub(crate) const WRITABLE: u64 = 2;

/// How a key translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translation {
    /// Not at all: addresses are those of memory.
    Physical,
    /// By a table of pages of so many bits.
    Pages(u32),
    /// By a list of parts of other keys.
    List,
    /// By a table of parts of other keys, each of so many bits.
    Parts(u32),
}

const PHYSICAL: u32 = 0;
const PAGES: u32 = 1;
const LIST: u32 = 2;
const PARTS: u32 = 3;

/// An entry of an indirect key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Of a list's entry.
    pub(crate) length: u32,
    pub(crate) key: u32,
    pub(crate) address: u64,
}

impl Link {
    pub(crate) fn parse(bytes: [u8; LINK]) -> Self {
        let word = |at: usize| {
            let bytes = bytes[at..at + 4].iter();
            bytes.fold(0, |word, byte| (word << 8) | u32::from(*byte))
        };
        Self {
            length: word(0),
            key: word(4),
            address: (u64::from(word(8)) << 32) | u64::from(word(12)),
        }
    }
}

/// A key.
pub(crate) struct MemoryKey {
    context: Vec<u8>,
    entries: Entries,
    page_rights: bool,
    on_demand: bool,
    /// Which bytes of the translation were written since the key is free; nothing if it is not.
    fresh: Option<Vec<Range<usize>>>,
    /// How many entries of a table of parts lead to which keys, by these keys' numbers.
    targets: HashMap<u32, u32>,
}

impl MemoryKey {
    /// One with that context and the beginning of its translation, whose entries have rights of their own or not.
    pub(crate) fn new(context: Vec<u8>, translation: Vec<u8>, page_rights: bool) -> Self {
        let mut key = Self {
            fresh: mkc::FREE.is_set(&context).then(Vec::new),
            context,
            entries: Entries::default(),
            page_rights,
            on_demand: false,
            targets: HashMap::new(),
        };
        key.set_translation(0, &translation);
        key
    }

    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }

    pub(crate) fn context_mut(&mut self) -> &mut [u8] {
        &mut self.context
    }

    /// How it translates; nothing if its context says nothing that is known.
    pub(crate) fn translation(&self) -> Option<Translation> {
        let mode = (mkc::ACCESS_MODE_4_2.get32(&self.context) << 2)
            | mkc::ACCESS_MODE_1_0.get32(&self.context);
        let log_page = mkc::LOG_PAGE_SIZE.get32(&self.context);
        match mode {
            PHYSICAL => Some(Translation::Physical),
            PAGES if LOG_PAGE.contains(&log_page) => Some(Translation::Pages(log_page)),
            LIST => Some(Translation::List),
            PARTS if LOG_PAGE.contains(&log_page) => Some(Translation::Parts(log_page)),
            _ => None,
        }
    }

    /// Fills `bytes` with the beginning of its translation.
    pub(crate) fn read_translation(&self, bytes: &mut [u8]) {
        self.entries.read(0, bytes);
    }

    /// Changes its translation from a byte on. Gives the indices of entries that were there and are not any more, or
    /// allow less, or lead elsewhere; in order.
    pub(crate) fn set_translation(&mut self, first: usize, entries: &[u8]) -> Vec<u64> {
        let cleared = match self.translation() {
            Some(Translation::Pages(_)) => self.cleared_pages(first, entries),
            Some(Translation::Parts(_)) => self.count_targets(first, entries),
            _ => Vec::new(),
        };
        self.entries.write(first, entries);
        let end = first + entries.len();
        match self.fresh.as_mut().map(|fresh| (fresh.len(), fresh)) {
            Some((_, fresh)) if fresh.last().is_some_and(|last| last.end == first) => {
                fresh.last_mut().into_iter().for_each(|last| last.end = end);
            }
            Some((..MOST_RANGES, fresh)) => fresh.push(first..end),
            // Nobody writes so many pieces: what lies between them counts as written.
            Some((_, fresh)) => fresh.last_mut().into_iter().for_each(|last| {
                *last = last.start.min(first)..last.end.max(end);
            }),
            None => {}
        }
        cleared
    }

    /// What is in the place of `length` bytes from `first` on.
    fn old(&self, first: usize, length: usize) -> Vec<u8> {
        let mut old = vec![0; length];
        self.entries.read(first, &mut old);
        old
    }

    fn cleared_pages(&self, first: usize, entries: &[u8]) -> Vec<u64> {
        let old = self.old(first, entries.len());
        let pairs = old
            .chunks_exact(PAGE_ENTRY)
            .zip(entries.chunks_exact(PAGE_ENTRY));
        let lost = pairs.enumerate().filter(|(_, (old, new))| {
            let rights = u64::from(old[PAGE_ENTRY - 1] & !new[PAGE_ENTRY - 1]);
            rights & (READABLE | WRITABLE) != 0
        });
        lost.map(|(at, _)| (first / PAGE_ENTRY + at) as u64)
            .collect()
    }

    fn count_targets(&mut self, first: usize, entries: &[u8]) -> Vec<u64> {
        let old = self.old(first, entries.len());
        let number = |entry: &[u8]| {
            entry
                .try_into()
                .map_or(0, |entry| Link::parse(entry).key >> 8)
        };
        let pairs = old.chunks_exact(LINK).zip(entries.chunks_exact(LINK));
        let (mut cleared, mut alike) = (Vec::new(), (0, 0, 0));
        for (at, (old, new)) in pairs.enumerate() {
            let (old, new) = (number(old), number(new));
            if old == new {
                continue;
            }
            if old != 0 {
                cleared.push((first / LINK + at) as u64);
            }
            // Mostly there are many that change alike.
            if (alike.0, alike.1) != (old, new) {
                self.move_targets(alike);
                alike = (old, new, 0);
            }
            alike.2 += 1;
        }
        self.move_targets(alike);
        cleared
    }

    /// So many entries lead no more to the first key but to the second one.
    fn move_targets(&mut self, (old, new, count): (u32, u32, u32)) {
        let left = self
            .targets
            .get(&old)
            .map_or(0, |all| all.saturating_sub(count));
        match left {
            0 => drop(self.targets.remove(&old)),
            left => drop(self.targets.insert(old, left)),
        }
        if count > 0 && new != 0 {
            *self.targets.entry(new).or_default() += count;
        }
    }

    /// Whether one of its equal parts is one of that key.
    pub(crate) fn leads_to(&self, number: u32) -> bool {
        self.fresh.is_none() && self.targets.get(&number).is_some_and(|count| *count > 0)
    }

    /// It is free from now on, or is not any more. Gives an entry of its table that comes back with it: that is
    /// there, but was not written since it is free.
    pub(crate) fn set_free(&mut self, free: bool) -> Option<u64> {
        if free {
            self.fresh.get_or_insert_default();
            return None;
        }
        let fresh = self.fresh.take()?;
        let (old, _) = self.pages().find(|(index, _)| {
            let at = *index as usize * PAGE_ENTRY;
            !fresh.iter().any(|range| range.contains(&at))
        })?;
        Some(old)
    }

    /// The entries of its table of pages that are there, if it has one: their indices and what they say. Only those
    /// between its first address and its end.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let log_page = match self.translation() {
            Some(Translation::Pages(log_page)) => Some(log_page),
            _ => None,
        };
        let count = log_page.map_or(0, |log_page| match mkc::LENGTH64.is_set(&self.context) {
            true => u64::MAX,
            false => {
                let start = mkc::START_ADDR.get(&self.context) % (1 << log_page);
                let end = start.saturating_add(mkc::LEN.get(&self.context));
                end.div_ceil(1 << log_page)
            }
        });
        let given = (self.entries.end() / PAGE_ENTRY) as u64;
        let all = self
            .entries
            .all::<PAGE_ENTRY>()
            .map(|(index, entry)| (index, u64::from_be_bytes(entry)));
        all.filter(move |(index, entry)| {
            let there = !self.page_rights || entry & (READABLE | WRITABLE) != 0;
            *index < count.min(given) && there
        })
    }

    /// Whether the entries of its translation say what is allowed.
    pub(crate) fn has_page_rights(&self) -> bool {
        self.page_rights
    }

    /// From now on what is absent in it can be asked for.
    pub(crate) fn comes_on_demand(&mut self) {
        self.page_rights = true;
        self.on_demand = true;
    }

    /// Whether what is absent in it can be asked for.
    pub(crate) fn is_on_demand(&self) -> bool {
        self.on_demand
    }

    /// The protection domain that may use it.
    pub(crate) fn domain(&self) -> u32 {
        mkc::PD.get32(&self.context)
    }

    /// An entry of its table of pages. After the last one that was written there is none, or one that is absent.
    pub(crate) fn page(&self, index: u64) -> Option<u64> {
        let known = index < (self.entries.end() / PAGE_ENTRY) as u64;
        let entry = self.entries.entry::<PAGE_ENTRY>(index)?;
        (known || self.on_demand).then_some(u64::from_be_bytes(entry))
    }

    /// An entry of its list or table of other keys.
    pub(crate) fn link(&self, index: u64) -> Option<Link> {
        let known = index < (self.entries.end() / LINK) as u64;
        let entry = self.entries.entry(index).filter(|_| known)?;
        Some(Link::parse(entry))
    }
}
