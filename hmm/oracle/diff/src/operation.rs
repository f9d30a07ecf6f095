// SPDX-License-Identifier: GPL-2.0
//! What can happen to memory, as data: chosen by the dice, carried out by `perform`, printed when
//! the walks disagree.

use crate::arena::{Span, Zone};
use crate::dice::Dice;
use crate::memory::{MADV_GUARD_INSTALL, MADV_GUARD_REMOVE};

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Nothing but memory.
    Private,
    /// Memory that is shared with children.
    Shared,
    /// A file, from page number `offset` on.
    File {
        file: Store,
        offset: u64,
        shared: bool,
    },
    /// Device registers.
    Device,
    /// Memory without a `struct page` in an ordinary area.
    Special { shared: bool },
    /// hugetlb pages of the zone's size.
    Hugetlb { shared: bool },
}

/// A file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Disk,
    Memfd,
}

/// The choices of `madvise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    DontNeed,
    Free,
    Cold,
    PageOut,
    HugePage,
    NoHugePage,
    Collapse,
    Remove,
    DontFork,
    DoFork,
    WipeOnFork,
    KeepOnFork,
    GuardInstall,
    GuardRemove,
    SoftOffline,
}

impl Advice {
    /// The number for the system call.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::Free => libc::MADV_FREE,
            Self::Cold => libc::MADV_COLD,
            Self::PageOut => libc::MADV_PAGEOUT,
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::Collapse => libc::MADV_COLLAPSE,
            Self::Remove => libc::MADV_REMOVE,
            Self::DontFork => libc::MADV_DONTFORK,
            Self::DoFork => libc::MADV_DOFORK,
            Self::WipeOnFork => libc::MADV_WIPEONFORK,
            Self::KeepOnFork => libc::MADV_KEEPONFORK,
            Self::GuardInstall => MADV_GUARD_INSTALL,
            Self::GuardRemove => MADV_GUARD_REMOVE,
            Self::SoftOffline => libc::MADV_SOFT_OFFLINE,
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Map {
        at: Span,
        backing: Backing,
        protection: i32,
    },
    /// Memory of huge pages that are there at once.
    MapHuge {
        at: Span,
        shared: bool,
        write: bool,
    },
    Unmap {
        at: Span,
    },
    Protect {
        at: Span,
        protection: i32,
    },
    Populate {
        at: Span,
        write: bool,
    },
    Advise {
        at: Span,
        advice: Advice,
    },
    Move {
        from: Span,
        to: Span,
        keep: bool,
    },
    /// A child that writes to `writes` and then stays until it is reaped.
    Fork {
        writes: Option<Span>,
    },
    Reap,
    Truncate {
        file: Store,
        pages: u64,
    },
    Punch {
        file: Store,
        page: u64,
        pages: u64,
    },
    Sync {
        at: Span,
    },
    /// 1: the "referenced" bits; 4: the "soft-dirty" bits, which write-protects everything.
    ClearRefs {
        what: u8,
    },
    /// The kernel migrates pages to make room for larger ones.
    Compact,
    /// To another node, if the machine has more than one.
    Migrate {
        at: Span,
        node: i32,
    },
    /// A page breaks.
    Poison {
        at: Span,
    },
}

/// How many pages the files have at most.
pub(crate) const FILE_PAGES: u64 = 1024;

const NONE: i32 = libc::PROT_NONE;
const R: i32 = libc::PROT_READ;
const W: i32 = libc::PROT_WRITE;
const X: i32 = libc::PROT_EXEC;

#[derive(Clone, Copy)]
enum Choice {
    Map,
    MapHuge,
    Unmap,
    Protect,
    Populate,
    Advise,
    Move,
    Fork,
    Reap,
    Truncate,
    Punch,
    Sync,
    ClearRefs,
    Compact,
    Migrate,
    Poison,
}

impl Operation {
    /// What the dice say.
    pub(crate) fn random(dice: &mut Dice, gigantic: bool) -> Self {
        // Clearing 1 GiB takes a machine in software many seconds.
        let rare = dice.once_in(2000);
        let zone = match dice.below(10) {
            _ if rare && gigantic => Zone::Gigantic,
            0 => Zone::Huge,
            _ => Zone::Small,
        };
        let at = Span::random(dice, zone);
        let choice = dice.weighted(&[
            (500, Choice::Map),
            (150, Choice::MapHuge),
            (100, Choice::Unmap),
            (300, Choice::Protect),
            (700, Choice::Populate),
            (700, Choice::Advise),
            (150, Choice::Move),
            (60, Choice::Fork),
            (60, Choice::Reap),
            (40, Choice::Truncate),
            (40, Choice::Punch),
            (60, Choice::Sync),
            (20, Choice::ClearRefs),
            (6, Choice::Compact),
            (60, Choice::Migrate),
            (2, Choice::Poison),
        ]);
        match choice {
            Choice::Map => map(dice, at),
            Choice::MapHuge => Self::MapHuge {
                at: Span::random_huge(dice),
                shared: dice.once_in(3),
                write: dice.below(4) > 0,
            },
            Choice::Unmap => Self::Unmap { at },
            Choice::Protect => Self::Protect {
                at,
                protection: dice.one_of(&[
                    NONE,
                    R,
                    R,
                    R,
                    R | W,
                    R | W,
                    R | W,
                    R | W,
                    R | W,
                    W,
                    R | X,
                    X,
                ]),
            },
            Choice::Populate => Self::Populate {
                at,
                write: dice.below(3) > 0,
            },
            Choice::Advise => advise(dice, at),
            Choice::Move => moved(dice, at),
            Choice::Fork => Self::Fork {
                writes: (!dice.once_in(3)).then_some(at),
            },
            Choice::Reap => Self::Reap,
            Choice::Truncate => Self::Truncate {
                file: dice.one_of(&[Store::Disk, Store::Memfd]),
                pages: dice.below(FILE_PAGES),
            },
            Choice::Punch => Self::Punch {
                file: dice.one_of(&[Store::Disk, Store::Memfd]),
                page: dice.below(FILE_PAGES),
                pages: dice.between(1, 64),
            },
            Choice::Sync => Self::Sync { at },
            Choice::ClearRefs => Self::ClearRefs {
                what: dice.one_of(&[1, 4]),
            },
            Choice::Compact => Self::Compact,
            Choice::Migrate => Self::Migrate {
                at,
                node: dice.below(2) as i32,
            },
            Choice::Poison => Self::Poison {
                at: Span::random(dice, Zone::Small).part(0, 1),
            },
        }
    }

    /// Where it happens, if it happens at one place.
    pub(crate) fn span(&self) -> Option<Span> {
        match *self {
            Self::Map { at, .. }
            | Self::MapHuge { at, .. }
            | Self::Unmap { at }
            | Self::Protect { at, .. }
            | Self::Populate { at, .. }
            | Self::Advise { at, .. }
            | Self::Sync { at }
            | Self::Migrate { at, .. }
            | Self::Poison { at } => Some(at),
            Self::Move { to, .. } => Some(to),
            Self::Fork { writes } => writes,
            _ => None,
        }
    }
}

fn map(dice: &mut Dice, at: Span) -> Operation {
    let protection = dice.one_of(&[R | W, R | W, R | W, R | W, R, R, NONE]);
    let offset = dice.below(FILE_PAGES);
    let file = dice.one_of(&[Store::Disk, Store::Memfd]);
    let shared = dice.once_in(2);
    if at.zone() != Zone::Small {
        return Operation::Map {
            at,
            backing: Backing::Hugetlb { shared },
            protection,
        };
    }
    let file = Backing::File {
        file,
        offset,
        shared,
    };
    let backing = dice.weighted(&[
        (8, Backing::Private),
        (4, Backing::Shared),
        (6, file),
        (1, Backing::Device),
        (1, Backing::Special { shared }),
    ]);
    let at = match backing {
        Backing::Device | Backing::Special { .. } => at.part(0, 16),
        _ => at,
    };
    Operation::Map {
        at,
        backing,
        protection,
    }
}

fn advise(dice: &mut Dice, at: Span) -> Operation {
    let advice = dice.weighted(&[
        (120, Advice::DontNeed),
        (60, Advice::Free),
        (20, Advice::Cold),
        (160, Advice::PageOut),
        (60, Advice::HugePage),
        (20, Advice::NoHugePage),
        (80, Advice::Collapse),
        (20, Advice::Remove),
        (5, Advice::DontFork),
        (20, Advice::DoFork),
        (5, Advice::WipeOnFork),
        (20, Advice::KeepOnFork),
        (40, Advice::GuardInstall),
        (40, Advice::GuardRemove),
        (3, Advice::SoftOffline),
    ]);
    let at = match advice {
        // Each takes a page out of the machine.
        Advice::SoftOffline => at.part(0, 1),
        _ => at,
    };
    Operation::Advise { at, advice }
}

fn moved(dice: &mut Dice, from: Span) -> Operation {
    let other = Span::random(dice, from.zone());
    let keep = dice.once_in(4);
    // Most moves keep the size, so that page tables are moved and not only pages.
    let pages = match dice.below(4) {
        0 if !keep => other.pages(),
        _ => from.pages(),
    };
    Operation::Move {
        from,
        to: other.resized(pages),
        keep,
    }
}
