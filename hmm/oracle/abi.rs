// SPDX-License-Identifier: GPL-2.0

//! What `hmm-diff` and `hmm_oracle.ko` say to each other: the ioctls of `/dev/hmm_oracle`, their
//! arguments, and the one format in which both walks report a page.
//!
//! Both are built from this file. Pointers and lengths are `u64`; errnos are positive, 0 is success.

/// The device's file.
pub(crate) const DEVICE: &str = "/dev/hmm_oracle";

/// The letter of the ioctls.
pub(crate) const MAGIC: u8 = b'h';
/// Both walks over one range: [`Compare`].
pub(crate) const COMPARE: u8 = 0xd0;
/// One of the walks, with its time: [`Walk`].
pub(crate) const WALK: u8 = 0xd1;
/// What an invalidation of one huge entry costs: [`Zap`].
pub(crate) const ZAP: u8 = 0xd2;
/// Mirrors of a range, which stay until the file is closed: [`Mirror`].
pub(crate) const MIRROR: u8 = 0xd3;

/// The largest range, in pages: 4 GiB.
pub(crate) const MAX_PAGES: u64 = 1 << 20;

/// What is wanted of a page: nothing but its state.
pub(crate) const SNAPSHOT: u8 = 0;
/// It is to be there.
pub(crate) const READ: u8 = 1;
/// It is to be there and writable.
pub(crate) const WRITE: u8 = 2;

/// [`Compare::flags`]: our walk goes first.
pub(crate) const OURS_FIRST: u32 = 1 << 0;
/// [`Compare::flags`]: our walk collects runs, a few at a time, instead of one word a page.
pub(crate) const BY_RUNS: u32 = 1 << 1;
/// [`Compare::flags`]: C's walk is the one that takes the mmap lock itself. Where the kernel has none, C's errno
/// is `EOPNOTSUPP`.
pub(crate) const UNLOCKED: u32 = 1 << 2;

/// The argument of [`COMPARE`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Compare {
    /// The address of the first page.
    pub(crate) start: u64,
    /// How many.
    pub(crate) pages: u64,
    /// The least that is wanted of every page: what C calls `default_flags`.
    pub(crate) base: u8,
    /// The most that a page's own request can ask for: what C calls `pfn_flags_mask`.
    pub(crate) most: u8,
    /// Zero.
    pub(crate) reserved: u16,
    /// [`OURS_FIRST`], [`BY_RUNS`], [`UNLOCKED`].
    pub(crate) flags: u32,
    /// Points to one byte a page, or 0.
    pub(crate) requests: u64,
    /// Points to room for one [`Word`] a page.
    pub(crate) ours: u64,
    /// The same for C's.
    pub(crate) theirs: u64,
    /// How often to try again if the range is invalidated between the two walks.
    pub(crate) tries: u32,
    /// Out: how often that was done.
    pub(crate) tried: u32,
    /// Out: our errno.
    pub(crate) ours_errno: u32,
    /// Out: C's.
    pub(crate) theirs_errno: u32,
    /// Out: 1 if the range was invalidated in the last try too, so that the results may differ.
    pub(crate) moved: u32,
    /// Zero.
    pub(crate) reserved2: u32,
}

/// [`Walk::side`]: ours, one word a page.
pub(crate) const OURS_FLAT: u32 = 0;
/// [`Walk::side`]: ours, by runs.
pub(crate) const OURS_RUNS: u32 = 1;
/// [`Walk::side`]: `hmm_range_fault`.
pub(crate) const THEIRS: u32 = 2;
/// [`Walk::side`]: `hmm_range_fault_unlocked_timeout`.
pub(crate) const THEIRS_UNLOCKED: u32 = 3;

/// The argument of [`WALK`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Walk {
    /// The address of the first page.
    pub(crate) start: u64,
    /// How many.
    pub(crate) pages: u64,
    /// Which walk.
    pub(crate) side: u32,
    /// What is wanted of all pages.
    pub(crate) policy: u8,
    /// Zero.
    pub(crate) reserved: [u8; 3],
    /// Out: how long it took, without registering the notifier.
    pub(crate) nanoseconds: u64,
    /// Out: how many pages it found.
    pub(crate) found: u64,
}

/// The argument of [`ZAP`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Zap {
    /// How many times each is measured.
    pub(crate) rounds: u32,
    /// Zero.
    pub(crate) reserved: u32,
    /// Out: the time of all rounds of ours: a table that has one slot for the huge entry.
    pub(crate) ours: u64,
    /// Out: the time of all rounds of C's: an xarray with an entry a page, erased one by one.
    pub(crate) theirs: u64,
}

/// The argument of [`MIRROR`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Mirror {
    /// The address of the first page.
    pub(crate) start: u64,
    /// How many.
    pub(crate) pages: u64,
    /// How many of them, from the first on, are brought into each mirror for reading.
    pub(crate) touched: u64,
    /// How many mirrors: kernel memory is counted too coarsely to see a single one.
    pub(crate) mirrors: u64,
}

/// A page as both walks report it.
///
/// The upper two bits are the state, then one for "writable", five for the order of the entry, and
/// the frame number. Of what is not mapped only the state is kept: C leaves other bits in there.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Word(pub(crate) u64);

/// A [`Word`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing, which a fault might change.
    Absent,
    /// Nothing that could be used.
    Error,
    /// A page.
    Valid {
        /// Its frame.
        pfn: u64,
        /// Whether it may be written.
        writable: bool,
        /// log2 of how many pages its entry maps.
        order: u32,
    },
}

const STATE_SHIFT: u32 = 62;
const WRITABLE: u64 = 1 << 61;
const ORDER_SHIFT: u32 = 56;
const ORDER_MASK: u64 = 0x1f;
const PFN_MASK: u64 = (1 << ORDER_SHIFT) - 1;

impl Word {
    /// The word for `state`.
    pub(crate) fn new(state: State) -> Self {
        Self(match state {
            State::Absent => 0,
            State::Error => 1 << STATE_SHIFT,
            State::Valid {
                pfn,
                writable,
                order,
            } => {
                let writable = if writable { WRITABLE } else { 0 };
                let order = (u64::from(order) & ORDER_MASK) << ORDER_SHIFT;
                (2 << STATE_SHIFT) | writable | order | (pfn & PFN_MASK)
            }
        })
    }

    /// What it says.
    pub(crate) fn state(self) -> State {
        match self.0 >> STATE_SHIFT {
            0 => State::Absent,
            2 => State::Valid {
                pfn: self.0 & PFN_MASK,
                writable: self.0 & WRITABLE != 0,
                order: ((self.0 >> ORDER_SHIFT) & ORDER_MASK) as u32,
            },
            _ => State::Error,
        }
    }
}

/// The file becomes a mirror of part of the caller's address space: [`MirrorOpen`].
pub(crate) const MIRROR_OPEN: u8 = 0xd4;
/// The device reads or writes: [`MirrorAccess`].
pub(crate) const MIRROR_ACCESS: u8 = 0xd5;
/// Pages are brought into the mirror: [`MirrorPrefetch`].
pub(crate) const MIRROR_PREFETCH: u8 = 0xd6;
/// What the mirror holds: [`MirrorPresent`].
pub(crate) const MIRROR_PRESENT: u8 = 0xd7;
/// What the mirror has counted: [`MirrorStats`].
pub(crate) const MIRROR_STATS: u8 = 0xd8;

/// The most that one [`MIRROR_ACCESS`] may move, in bytes.
pub(crate) const MAX_ACCESS: u64 = 16 << 20;

/// The argument of [`MIRROR_OPEN`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MirrorOpen {
    /// The first address, a multiple of the page size.
    pub(crate) start: u64,
    /// How many bytes, another.
    pub(crate) len: u64,
    /// 1 if the device may write, otherwise 0.
    pub(crate) writable: u64,
}

/// The argument of [`MIRROR_ACCESS`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MirrorAccess {
    /// Where the device reads or writes, in the mirrored address space.
    pub(crate) va: u64,
    /// How many bytes.
    pub(crate) len: u64,
    /// The caller's buffer: what is written, or room for what is read.
    pub(crate) buffer: u64,
    /// 1 to write, 0 to read.
    pub(crate) write: u64,
}

/// The argument of [`MIRROR_PREFETCH`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MirrorPrefetch {
    /// The first address.
    pub(crate) va: u64,
    /// How many bytes.
    pub(crate) len: u64,
    /// [`SNAPSHOT`], [`READ`] or [`WRITE`].
    pub(crate) policy: u64,
    /// Out: how many pages it added.
    pub(crate) added: u64,
}

/// The argument of [`MIRROR_PRESENT`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct MirrorPresent {
    /// The first address.
    pub(crate) va: u64,
    /// How many bytes.
    pub(crate) len: u64,
    /// Out: how many of these pages the device can read without a fault.
    pub(crate) pages: u64,
}

/// The kinds of events in [`MirrorStats::events`].
pub(crate) const EVENT_KINDS: usize = 8;
/// Index of `munmap` and `mremap`.
pub(crate) const EVENT_UNMAP: usize = 0;
/// Index of entries that are cleared or replaced.
pub(crate) const EVENT_CLEAR: usize = 1;
/// Index of rights of a range that change.
pub(crate) const EVENT_PROTECT_VMA: usize = 2;
/// Index of pages that are write-protected.
pub(crate) const EVENT_PROTECT_PAGE: usize = 3;
/// Index of soft-dirty tracking.
pub(crate) const EVENT_SOFT_DIRTY: usize = 4;
/// Index of the address space's end.
pub(crate) const EVENT_RELEASE: usize = 5;
/// Index of migration to or from a device.
pub(crate) const EVENT_MIGRATE: usize = 6;
/// Index of a device's exclusive access.
pub(crate) const EVENT_EXCLUSIVE: usize = 7;

/// The argument of [`MIRROR_STATS`]: all out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MirrorStats {
    /// Faults that accesses raised and that were served.
    pub(crate) faults: u64,
    /// Pages that they added.
    pub(crate) pages: u64,
    /// Of these, pages that were not asked for.
    pub(crate) around: u64,
    /// Faults that had to begin anew.
    pub(crate) collisions: u64,
    /// Accesses that failed.
    pub(crate) failures: u64,
    /// Chunks that were made.
    pub(crate) chunks: u64,
    /// Those that were taken down in the background.
    pub(crate) reaped: u64,
    /// Translations that invalidations took away or made read-only.
    pub(crate) invalidated: u64,
    /// Invalidations, by kind.
    pub(crate) events: [u64; EVENT_KINDS],
}
