// SPDX-License-Identifier: GPL-2.0
//! The guest's memory as the device sees it: by the addresses that its driver, or the IOMMU before the device, lets it
//! use. Every access is checked, and a refused one has touched nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{ensure, Context, Result};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// An access that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The first address of it.
    pub address: u64,
    /// How many bytes.
    pub length: usize,
    /// Why.
    pub reason: Reason,
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is mapped at one of its addresses.
    Unmapped,
    /// It would write, and something that may only be read is mapped.
    ReadOnly,
    /// What is mapped is no memory of this process's: another device's, for instance.
    OutOfReach,
    /// The driver has not made the device a bus master.
    NoBusMaster,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Reason::Unmapped => "nothing is mapped there",
            Reason::ReadOnly => "it may only be read",
            Reason::OutOfReach => "it is out of reach",
            Reason::NoBusMaster => "the device is no bus master",
        };
        write!(f, "{:#x}, {} bytes: {reason}", self.address, self.length)
    }
}

/// A range of addresses.
#[derive(Clone)]
struct Mapping {
    size: u64,
    writable: bool,
    /// The memory, and where in it the range begins.
    memory: Option<(Arc<MmapRegion>, u64)>,
}

/// All that is mapped.
#[derive(Default)]
struct Map {
    /// By their first addresses; they do not overlap.
    ranges: BTreeMap<u64, Mapping>,
    /// Each file is mapped once, however many ranges are of it. By device and inode.
    files: HashMap<(u64, u64), Arc<MmapRegion>>,
}

impl Map {
    /// The mapping that an address is in, and how far from its beginning.
    fn find(&self, address: u64) -> Option<(&Mapping, u64)> {
        let (first, mapping) = self.ranges.range(..=address).next_back()?;
        let offset = address - first;
        (offset < mapping.size).then_some((mapping, offset))
    }

    fn overlaps(&self, address: u64, size: u64) -> bool {
        let last = address + (size - 1);
        let before = self.ranges.range(..=last).next_back();
        before.is_some_and(|(first, mapping)| first + (mapping.size - 1) >= address)
    }

    fn file(&mut self, file: File, end: u64) -> Result<Arc<MmapRegion>> {
        let metadata = file.metadata().context("asking for the file's size")?;
        let key = (metadata.dev(), metadata.ino());
        let known = self.files.get(&key);
        if let Some(region) = known.filter(|region| region.size() as u64 >= end) {
            return Ok(region.clone());
        }
        ensure!(end <= metadata.len(), "the file ends before the range");
        let size = usize::try_from(metadata.len())?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), size)?;
        let region = Arc::new(region);
        self.files.insert(key, region.clone());
        Ok(region)
    }
}

/// The guest's memory. What maps and what accesses hold one each; a range that was unmapped is not accessed any more
/// when [`GuestMemory::unmap`] returns.
#[derive(Clone, Default)]
pub struct GuestMemory {
    map: Arc<RwLock<Map>>,
    bus_master: Arc<AtomicBool>,
}

impl GuestMemory {
    /// Maps `size` bytes of `file` from `offset` on at `address`. Without a file, accesses to the range are refused.
    pub fn map(
        &self,
        address: u64,
        size: u64,
        writable: bool,
        file: Option<(File, u64)>,
    ) -> Result<()> {
        ensure!(size > 0, "an empty range");
        ensure!(address.checked_add(size - 1).is_some(), "addresses wrap");
        let mut map = self.write_map();
        ensure!(!map.overlaps(address, size), "something is mapped there");
        let memory = match file {
            Some((file, offset)) => {
                let end = offset.checked_add(size).context("offsets wrap")?;
                Some((map.file(file, end)?, offset))
            }
            None => None,
        };
        let mapping = Mapping {
            size,
            writable,
            memory,
        };
        map.ranges.insert(address, mapping);
        Ok(())
    }

    /// Unmaps all ranges that lie between these addresses. A range that is there only in part is an error.
    pub fn unmap(&self, address: u64, size: u64) -> Result<()> {
        ensure!(size > 0, "an empty range");
        let last = address.checked_add(size - 1).context("addresses wrap")?;
        let mut map = self.write_map();
        if let Some((mapping, offset)) = map.find(address) {
            ensure!(offset == 0 && mapping.size <= size, "a part of a range");
        }
        if let Some((mapping, offset)) = map.find(last) {
            ensure!(offset + 1 == mapping.size, "a part of a range");
        }
        let inside: Vec<u64> = map
            .ranges
            .range(address..=last)
            .map(|(at, _)| *at)
            .collect();
        for first in inside {
            map.ranges.remove(&first);
        }
        Ok(())
    }

    /// Unmaps everything.
    pub fn unmap_all(&self) {
        *self.write_map() = Map::default();
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.read_map().ranges.len()
    }

    /// Lets the device access memory, or not.
    pub fn set_bus_master(&self, on: bool) {
        self.bus_master.store(on, Ordering::SeqCst);
    }

    /// Reads `bytes` from `address` on.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let map = self.read_map();
        self.check(&map, address, bytes.len(), false)?;
        let mut done = 0;
        for (memory, offset, length) in pieces(&map, address, bytes.len()) {
            let piece = &mut bytes[done..done + length];
            let slice = memory.as_volatile_slice();
            if slice.read_slice(piece, offset).is_err() {
                return Err(refused(address, length, Reason::OutOfReach));
            }
            done += length;
        }
        fence(Ordering::Acquire);
        Ok(())
    }

    /// Writes `bytes` to `address` and further.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Refused> {
        let map = self.read_map();
        self.check(&map, address, bytes.len(), true)?;
        fence(Ordering::Release);
        let mut done = 0;
        for (memory, offset, length) in pieces(&map, address, bytes.len()) {
            let piece = &bytes[done..done + length];
            let slice = memory.as_volatile_slice();
            if slice.write_slice(piece, offset).is_err() {
                return Err(refused(address, length, Reason::OutOfReach));
            }
            done += length;
        }
        Ok(())
    }

    /// Writes `bytes`, and their last four not before all others can be seen: with them an entry changes hands.
    pub(crate) fn publish(&self, address: u64, bytes: &[u8]) -> Result<(), Refused> {
        let (entry, last) = bytes.split_at(bytes.len().saturating_sub(4));
        self.write(address, entry)?;
        self.write(address.wrapping_add(entry.len() as u64), last)
    }

    /// Reads a big-endian word.
    pub(crate) fn read_be32(&self, address: u64) -> Result<u32, Refused> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Whether the whole access is allowed.
    fn check(&self, map: &Map, address: u64, length: usize, write: bool) -> Result<(), Refused> {
        let refuse = |reason| Err(refused(address, length, reason));
        if !self.bus_master.load(Ordering::SeqCst) {
            return refuse(Reason::NoBusMaster);
        }
        let mut done = 0;
        while done < length as u64 {
            let found = address.checked_add(done).and_then(|at| map.find(at));
            match found {
                None => return refuse(Reason::Unmapped),
                Some((mapping, _)) if write && !mapping.writable => {
                    return refuse(Reason::ReadOnly)
                }
                Some((mapping, _)) if mapping.memory.is_none() => {
                    return refuse(Reason::OutOfReach)
                }
                Some((mapping, offset)) => done += mapping.size - offset,
            }
        }
        Ok(())
    }

    fn read_map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_map(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(address: u64, length: usize, reason: Reason) -> Refused {
    Refused {
        address,
        length,
        reason,
    }
}

/// A checked access in pieces that lie in one mapping each: the memory, the place in it, the length.
fn pieces(
    map: &Map,
    address: u64,
    length: usize,
) -> impl Iterator<Item = (&MmapRegion, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = (length - done) as u64;
        if left == 0 {
            return None;
        }
        let (mapping, offset) = map.find(address + done as u64)?;
        let (memory, start) = mapping.memory.as_ref()?;
        let length = left.min(mapping.size - offset) as usize;
        done += length;
        Some((&**memory, (start + offset) as usize, length))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory of `size` bytes at address zero.
    pub(crate) fn flat(size: u64) -> Result<GuestMemory> {
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        memory.map(0, size, true, Some((file(size)?, 0)))?;
        Ok(memory)
    }

    fn file(size: u64) -> Result<File> {
        let file = tempfile::tempfile()?;
        file.set_len(size)?;
        Ok(file)
    }

    /// A byte that depends on its place.
    fn pattern(length: usize, seed: u8) -> Vec<u8> {
        (0..length)
            .map(|at| (at as u8).wrapping_mul(7) ^ seed)
            .collect()
    }

    #[test]
    fn an_access_may_cross_mappings() -> Result<()> {
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        let file = file(0x3000)?;
        // Neighbours for the device that are not neighbours in the file.
        memory.map(0x10000, 0x1000, true, Some((file.try_clone()?, 0x2000)))?;
        memory.map(0x11000, 0x1000, true, Some((file.try_clone()?, 0)))?;
        let bytes = pattern(0x100, 3);
        assert_eq!(memory.write(0x10f80, &bytes), Ok(()));
        let mut back = vec![0; 0x100];
        assert_eq!(memory.read(0x10f80, &mut back), Ok(()));
        assert_eq!(back, bytes);
        let mut inside = vec![0; 0x80];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut inside, 0x2f80)?;
        assert_eq!(inside, bytes[..0x80]);
        Ok(())
    }

    #[test]
    fn a_file_is_mapped_once() -> Result<()> {
        let memory = GuestMemory::default();
        let file = file(0x100_0000)?;
        for page in 0..0x1000 {
            let part = Some((file.try_clone()?, page * 0x1000));
            memory.map(page * 0x2000, 0x1000, true, part)?;
        }
        assert_eq!(memory.read_map().files.len(), 1);
        assert_eq!(memory.ranges(), 0x1000);
        Ok(())
    }

    #[test]
    fn what_is_not_allowed_is_refused() -> Result<()> {
        let memory = flat(0x1000)?;
        memory.map(0x2000, 0x1000, false, Some((file(0x1000)?, 0)))?;
        memory.map(0x3000, 0x1000, true, None)?;
        let reason = |result: Result<(), Refused>| result.err().map(|refused| refused.reason);
        assert_eq!(reason(memory.write(0xfff, &[0; 2])), Some(Reason::Unmapped));
        assert_eq!(reason(memory.write(0x2000, &[0])), Some(Reason::ReadOnly));
        assert_eq!(
            reason(memory.read(0x2fff, &mut [0; 2])),
            Some(Reason::OutOfReach)
        );
        assert_eq!(
            reason(memory.read(u64::MAX, &mut [0; 2])),
            Some(Reason::Unmapped)
        );
        memory.set_bus_master(false);
        assert_eq!(reason(memory.read(0, &mut [0])), Some(Reason::NoBusMaster));
        Ok(())
    }

    #[test]
    fn a_refused_write_has_written_nothing() -> Result<()> {
        let memory = flat(0x1000)?;
        assert!(memory.write(0xff0, &[0xff; 0x20]).is_err());
        let mut end = [0xff; 0x10];
        assert_eq!(memory.read(0xff0, &mut end), Ok(()));
        assert_eq!(end, [0; 0x10]);
        Ok(())
    }

    #[test]
    fn ranges_come_and_go_as_a_whole() -> Result<()> {
        let memory = flat(0x4000)?;
        assert!(memory.map(0x3fff, 2, true, None).is_err());
        assert!(memory.unmap(0, 0x1000).is_err());
        assert!(memory.unmap(0x1000, 0x3000).is_err());
        assert!(memory.map(u64::MAX, 2, true, None).is_err());
        memory.map(0x4000, 0x1000, true, None)?;
        memory.unmap(0, 0x10000)?;
        assert_eq!(memory.ranges(), 0);
        let short = file(0x1000)?;
        assert!(memory.map(0, 0x2000, true, Some((short, 0))).is_err());
        Ok(())
    }

    proptest! {
        /// The map against one that is too simple to be wrong: a page each.
        #[test]
        fn pages_are_where_they_were_mapped(
            steps in prop::collection::vec((any::<bool>(), 0_u64..16, 1_u64..5), 1..40),
        ) {
            let memory = GuestMemory::default();
            memory.set_bus_master(true);
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            let backing = file(0x20000).map_err(|error| TestCaseError::fail(error.to_string()))?;
            for (map, page, pages) in steps {
                if map {
                    let free = ranges.iter().all(|(at, n)| at + n <= page || *at >= page + pages);
                    let part = backing.try_clone().ok().map(|file| (file, page * 0x1000));
                    let done = memory.map(page * 0x1000, pages * 0x1000, true, part);
                    prop_assert_eq!(done.is_ok(), free);
                    if free {
                        ranges.push((page, pages));
                    }
                } else {
                    let whole = ranges.iter().all(|(at, n)| {
                        let inside = *at >= page && at + n <= page + pages;
                        let outside = at + n <= page || *at >= page + pages;
                        inside || outside
                    });
                    let done = memory.unmap(page * 0x1000, pages * 0x1000);
                    prop_assert_eq!(done.is_ok(), whole);
                    if whole {
                        ranges.retain(|(at, n)| at + n <= page || *at >= page + pages);
                    }
                }
                for page in 0..21 {
                    let there = ranges.iter().any(|(at, n)| (*at..at + n).contains(&page));
                    prop_assert_eq!(memory.read(page * 0x1000, &mut [0; 0x1000]).is_ok(), there);
                }
            }
        }
    }
}
