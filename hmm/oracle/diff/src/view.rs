// SPDX-License-Identifier: GPL-2.0
//! What the kernel itself says about the arena, in `/proc/self`: the areas (`PROCMAP_QUERY`) and the
//! kinds of entries (`PAGEMAP_SCAN`). Neither has to do with either of the walks.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::arena::Span;

/// Categories of `PAGEMAP_SCAN`.
pub(crate) const IS_FILE: u64 = 1 << 2;
/// There is a page.
pub(crate) const IS_PRESENT: u64 = 1 << 3;
/// There is none, but an entry that leads to one.
pub(crate) const IS_SWAPPED: u64 = 1 << 4;
/// The zero page, small or huge.
pub(crate) const IS_ZERO: u64 = 1 << 5;
/// Mapped by a PMD entry, or hugetlb.
pub(crate) const IS_HUGE: u64 = 1 << 6;
/// A guard marker.
pub(crate) const IS_GUARD: u64 = 1 << 8;

/// `struct procmap_query` of the kernel's `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// `struct pm_scan_arg` of the same.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the same: pages alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Region {
    /// The address of the first.
    pub(crate) start: u64,
    /// The address after the last.
    pub(crate) end: u64,
    /// `IS_*`.
    pub(crate) categories: u64,
}

mod raw {
    nix::ioctl_readwrite!(
        /// One area.
        procmap_query, b'f', 17, super::ProcmapQuery);
    nix::ioctl_readwrite!(
        /// The entries of a range.
        pagemap_scan, b'f', 16, super::ScanArgument);
}

/// An area, cut to what was asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    /// Its pages.
    pub(crate) span: Span,
    /// `PROT_READ`.
    pub(crate) readable: bool,
    /// Bytes in a page: larger for hugetlb.
    pub(crate) page_size: u64,
    /// `MAP_SHARED`.
    pub(crate) shared: bool,
    /// The file's inode number, or 0.
    pub(crate) inode: u64,
    /// Whether the file is a device's.
    pub(crate) device: bool,
    /// Whether the file is the oracle: its memory has no `struct page`.
    pub(crate) special: bool,
    /// The offset in the file, in bytes, of the first page.
    pub(crate) offset: u64,
}

/// The two files.
pub(crate) struct View {
    maps: File,
    pagemap: File,
}

impl View {
    /// Opens them.
    pub(crate) fn open() -> Result<Self> {
        let open = |name| File::open(name).with_context(|| format!("opening {name}"));
        Ok(Self {
            maps: open("/proc/self/maps")?,
            pagemap: open("/proc/self/pagemap")?,
        })
    }

    /// The areas in `span`, in ascending order.
    pub(crate) fn areas(&self, span: Span) -> Result<Vec<Area>> {
        const OR_NEXT: u64 = 0x10;
        let mut areas = Vec::new();
        let mut at = span.start();
        while at < span.end() {
            let mut name = [0u8; 64];
            let mut query = ProcmapQuery {
                size: size_of::<ProcmapQuery>() as u64,
                query_flags: OR_NEXT,
                query_addr: at,
                vma_name_size: name.len() as u32,
                vma_name_addr: name.as_mut_ptr() as u64,
                ..Default::default()
            };
            // SAFETY: The query is what the kernel expects, with room for a name.
            match unsafe { raw::procmap_query(self.maps.as_raw_fd(), &mut query) } {
                Ok(_) => {}
                Err(nix::Error::ENOENT) => break,
                Err(error) => return Err(error).context("PROCMAP_QUERY"),
            }
            let Some(part) = span.clipped(query.vma_start, query.vma_end) else {
                break;
            };
            areas.push(Area {
                span: part,
                readable: query.vma_flags & 1 != 0,
                page_size: query.vma_page_size,
                shared: query.vma_flags & 8 != 0,
                inode: query.inode,
                device: name.starts_with(b"/dev/mem"),
                special: name.starts_with(crate::abi::DEVICE.as_bytes()),
                offset: query.vma_offset + (part.start() - query.vma_start),
            });
            at = query.vma_end;
        }
        Ok(areas)
    }

    /// The entries in `span`; pages without an area are left out.
    pub(crate) fn entries(&self, span: Span) -> Result<Vec<Region>> {
        let mut regions = vec![Region::default(); span.pages() as usize + 1];
        let everything = IS_FILE | IS_PRESENT | IS_SWAPPED | IS_ZERO | IS_HUGE | IS_GUARD;
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: span.start(),
            end: span.end(),
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            return_mask: everything,
            ..Default::default()
        };
        // SAFETY: There is room for `vec_len` regions.
        let count = unsafe { raw::pagemap_scan(self.pagemap.as_raw_fd(), &mut argument) };
        regions.truncate(count.context("PAGEMAP_SCAN")? as usize);
        Ok(regions)
    }
}
