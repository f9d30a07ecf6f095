// SPDX-License-Identifier: GPL-2.0
//! The table of entries, and how each comes about.

use std::io;
use std::os::fd::AsFd;

use anyhow::{bail, Result};
use testkit::memory::secret_file;
use testkit::userfaultfd::{Mode, Userfaultfd};

use super::Expect::{self, Absent, AnyRights, Errno, Error, ReadOnly, Writable};
use super::{Lab, Row, SetUp};
use crate::arena::{Span, Zone, GIGANTIC, HUGE, HUGE_ORDER};
use crate::memory::{self, MADV_GUARD_INSTALL};
use crate::operation::{Backing, Operation, Store, FILE_PAGES};
use crate::view::{IS_GUARD, IS_HUGE, IS_PRESENT, IS_SWAPPED, IS_ZERO};

const FAULT: Expect = Errno(libc::EFAULT);
const FORBIDDEN: Expect = Errno(libc::EPERM);
const NOTHING: [Expect; 3] = [Error, FAULT, FAULT];
const WRITABLE: [Expect; 3] = [Writable(0); 3];
const WRITABLE_HUGE: [Expect; 3] = [Writable(HUGE_ORDER); 3];
const UNUSABLE: [Expect; 3] = [Absent, FAULT, FAULT];

const R: i32 = libc::PROT_READ;
const W: i32 = libc::PROT_WRITE;

pub(super) const ROWS: &[Row] = &[
    Row::new("no area", |_| ready(small(3)), NOTHING),
    Row::new("no rights", |_| private(libc::PROT_NONE, small(3)), NOTHING),
    Row::new("no rights, with pages", no_rights, NOTHING),
    Row::new("no right to read", |_| private(W, small(3)), NOTHING),
    Row::new(
        "absent",
        |_| private(R | W, small(20)),
        [Absent, ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "absent, read-only area",
        |_| private(R, small(20)),
        [Absent, ReadOnly(0), FORBIDDEN],
    ),
    Row::new("4 KiB, writable", |_| populated(small(20)), WRITABLE),
    Row::new(
        "4 KiB, read-only area",
        read_only,
        [ReadOnly(0), ReadOnly(0), FORBIDDEN],
    ),
    Row::new(
        "4 KiB, copy on write",
        shared_with_child,
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "4 KiB, soft-dirty cleared",
        soft_dirty,
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "zero page",
        zero_page,
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "absent, 2 MiB",
        huge_absent,
        [Absent, ReadOnly(HUGE_ORDER), Writable(HUGE_ORDER)],
    ),
    Row::new("2 MiB, writable", huge, WRITABLE_HUGE),
    Row::new("part of 2 MiB", huge_part, WRITABLE_HUGE),
    Row::new(
        "2 MiB, read-only area",
        huge_read_only,
        [ReadOnly(HUGE_ORDER), ReadOnly(HUGE_ORDER), FORBIDDEN],
    ),
    Row::new(
        "2 MiB, copy on write",
        huge_cow,
        [ReadOnly(HUGE_ORDER), ReadOnly(HUGE_ORDER), Writable(0)],
    ),
    Row::new(
        "huge zero page",
        huge_zero,
        [
            ReadOnly(HUGE_ORDER),
            ReadOnly(HUGE_ORDER),
            Writable(HUGE_ORDER),
        ],
    ),
    Row::new("2 MiB, split", huge_split, WRITABLE),
    Row::new("2 MiB, collapsed", collapsed, WRITABLE_HUGE),
    Row::new("2 MiB, shared memory", huge_shared, WRITABLE_HUGE),
    Row::new(
        "hugetlb, absent",
        |lab| hugetlb(lab, false),
        [Absent, ReadOnly(HUGE_ORDER), Writable(HUGE_ORDER)],
    ),
    Row::new(
        "hugetlb, shared, absent",
        |lab| hugetlb(lab, true),
        [Absent, AnyRights(HUGE_ORDER), Writable(HUGE_ORDER)],
    ),
    Row::new("hugetlb, writable", hugetlb_present, WRITABLE_HUGE),
    Row::new(
        "hugetlb, read-only area",
        hugetlb_read_only,
        [ReadOnly(HUGE_ORDER), ReadOnly(HUGE_ORDER), FORBIDDEN],
    ),
    Row::new(
        "hugetlb, copy on write",
        hugetlb_cow,
        [
            ReadOnly(HUGE_ORDER),
            ReadOnly(HUGE_ORDER),
            Writable(HUGE_ORDER),
        ],
    ),
    Row::new(
        "hugetlb 1 GiB, absent",
        |lab| gigantic(lab, false),
        [Absent, ReadOnly(18), Writable(18)],
    ),
    Row::new(
        "hugetlb 1 GiB, writable",
        |lab| gigantic(lab, true),
        [Writable(18); 3],
    ),
    Row::new("swapped out", swapped, [Absent, AnyRights(0), Writable(0)]),
    Row::new(
        "swapped out, read-only area",
        swapped_read_only,
        [Absent, ReadOnly(0), FORBIDDEN],
    ),
    Row::new("device", device, NOTHING),
    Row::new(
        "no struct page, shared",
        |lab| special(lab, true),
        [Error, FAULT, FAULT],
    ),
    Row::new(
        "no struct page, private",
        |lab| special(lab, false),
        [Error, FAULT, Writable(0)],
    ),
    Row::new(
        "no struct page, read-only area",
        special_read_only,
        [Error, FAULT, FORBIDDEN],
    ),
    Row::new("guard marker", guard, UNUSABLE),
    Row::new("poisoned", poisoned, UNUSABLE),
    Row::new(
        "memfd, absent",
        |lab| file(lab, Store::Memfd, true, 0),
        [Absent, AnyRights(0), Writable(0)],
    ),
    Row::new("memfd, written", |lab| written(lab, Store::Memfd), WRITABLE),
    Row::new(
        "private file, absent",
        |lab| file(lab, Store::Disk, false, 0),
        [Absent, ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "private file, resident",
        private_file,
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "shared file, written",
        |lab| written(lab, Store::Disk),
        WRITABLE,
    ),
    Row::new(
        "shared file, written back",
        written_back,
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "beyond the file's end",
        |lab| file(lab, Store::Disk, true, FILE_PAGES),
        UNUSABLE,
    ),
    Row::new(
        "beyond the memfd's end",
        |lab| file(lab, Store::Memfd, false, FILE_PAGES),
        UNUSABLE,
    ),
    Row::new(
        "write-protected by a userfaultfd",
        |lab| uffd(lab, false),
        [ReadOnly(0), ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "marker of a userfaultfd",
        |lab| uffd(lab, true),
        [Absent, ReadOnly(0), Writable(0)],
    ),
    Row::new(
        "made inaccessible by a userfaultfd",
        |lab| forbidden(lab, |_| populated(small(20))),
        [Absent, AnyRights(0), Writable(0)],
    ),
    Row::new(
        "huge, made inaccessible by a userfaultfd",
        |lab| forbidden(lab, huge),
        [Absent, AnyRights(HUGE_ORDER), Writable(HUGE_ORDER)],
    ),
    Row::new(
        "hugetlb, made inaccessible by a userfaultfd",
        |lab| forbidden(lab, hugetlb_whole),
        [Absent, AnyRights(HUGE_ORDER), Writable(HUGE_ORDER)],
    ),
    Row {
        theirs: Some([Writable(0); 3]),
        ..Row::new("secret memory", secret, NOTHING)
    },
];

fn small(pages: u64) -> Span {
    Zone::Small.span().part(7, pages)
}

/// Two entries of 2 MiB.
fn two_huge() -> Span {
    Zone::Small.span().part(HUGE, 2 * HUGE)
}

fn ready(span: Span) -> Result<SetUp> {
    Ok(SetUp::Ready(span))
}

/// Memory of 4 KiB pages.
fn private(protection: i32, span: Span) -> Result<SetUp> {
    memory::map(span, protection, libc::MAP_PRIVATE, None)?;
    memory::advise(span, libc::MADV_NOHUGEPAGE)?;
    ready(span)
}

fn populated(span: Span) -> Result<SetUp> {
    private(R | W, span)?;
    memory::populate(span, true)?;
    ready(span)
}

fn no_rights(_: &mut Lab) -> Result<SetUp> {
    populated(small(3))?;
    memory::protect(small(3), libc::PROT_NONE)?;
    ready(small(3))
}

fn read_only(_: &mut Lab) -> Result<SetUp> {
    populated(small(20))?;
    memory::protect(small(20), R)?;
    ready(small(20))
}

fn shared_with_child(lab: &mut Lab) -> Result<SetUp> {
    populated(small(20))?;
    lab.stage.fork(None)?;
    ready(small(20))
}

fn soft_dirty(lab: &mut Lab) -> Result<SetUp> {
    populated(small(20))?;
    lab.stage.perform(&Operation::ClearRefs { what: 4 })?;
    ready(small(20))
}

fn zero_page(lab: &mut Lab) -> Result<SetUp> {
    let span = small(20);
    private(R | W, span)?;
    memory::populate(span, false)?;
    expect(lab, span, IS_PRESENT | IS_ZERO)
}

/// The pages, if they have become what they should be.
fn expect(lab: &Lab, span: Span, categories: u64) -> Result<SetUp> {
    if !lab.all_are(span, categories)? {
        bail!(
            "the entries are not {categories:#x}: {:x?}",
            lab.view.entries(span)?
        );
    }
    ready(span)
}

fn huge_absent(_: &mut Lab) -> Result<SetUp> {
    memory::map_private(two_huge())?;
    memory::advise(two_huge(), libc::MADV_HUGEPAGE)?;
    ready(two_huge())
}

fn huge(lab: &mut Lab) -> Result<SetUp> {
    huge_absent(lab)?;
    memory::populate(two_huge(), true)?;
    expect(lab, two_huge(), IS_PRESENT | IS_HUGE)
}

fn huge_part(lab: &mut Lab) -> Result<SetUp> {
    huge(lab)?;
    ready(two_huge().part(100, HUGE))
}

fn huge_read_only(lab: &mut Lab) -> Result<SetUp> {
    huge(lab)?;
    memory::protect(two_huge(), R)?;
    ready(two_huge())
}

fn huge_cow(lab: &mut Lab) -> Result<SetUp> {
    huge(lab)?;
    lab.stage.fork(None)?;
    ready(two_huge())
}

fn huge_zero(lab: &mut Lab) -> Result<SetUp> {
    huge_absent(lab)?;
    memory::populate(two_huge(), false)?;
    expect(lab, two_huge(), IS_PRESENT | IS_HUGE | IS_ZERO)
}

fn huge_split(lab: &mut Lab) -> Result<SetUp> {
    huge(lab)?;
    memory::protect(two_huge().part(100, 1), R)?;
    memory::protect(two_huge().part(100, 1), R | W)?;
    let first = two_huge().part(0, HUGE);
    if lab.all_are(first, IS_HUGE)? {
        bail!("it was not split");
    }
    // Whatever was read-only is writable after the next fault.
    memory::populate(first, true)?;
    ready(first)
}

fn collapsed(lab: &mut Lab) -> Result<SetUp> {
    let span = two_huge();
    populated(span)?;
    memory::advise(span, libc::MADV_HUGEPAGE)?;
    memory::advise(span, libc::MADV_COLLAPSE)?;
    expect(lab, span, IS_PRESENT | IS_HUGE)
}

fn huge_shared(lab: &mut Lab) -> Result<SetUp> {
    let span = two_huge();
    memory::map(span, R | W, libc::MAP_SHARED, None)?;
    memory::advise(span, libc::MADV_HUGEPAGE)?;
    memory::populate(span, true)?;
    expect(lab, span, IS_PRESENT | IS_HUGE)
}

fn two_hugetlb() -> Span {
    Zone::Huge.span().part(0, 2 * HUGE)
}

fn hugetlb(lab: &mut Lab, shared: bool) -> Result<SetUp> {
    let at = two_hugetlb();
    map(lab, at, Backing::Hugetlb { shared })?;
    ready(at)
}

fn map(lab: &mut Lab, at: Span, backing: Backing) -> io::Result<()> {
    lab.stage.perform(&Operation::Map {
        at,
        backing,
        protection: R | W,
    })
}

fn hugetlb_present(lab: &mut Lab) -> Result<SetUp> {
    hugetlb(lab, false)?;
    memory::populate(two_hugetlb(), true)?;
    ready(two_hugetlb().part(3, HUGE + 5))
}

fn hugetlb_whole(lab: &mut Lab) -> Result<SetUp> {
    hugetlb_present(lab)?;
    ready(two_hugetlb())
}

fn hugetlb_read_only(lab: &mut Lab) -> Result<SetUp> {
    hugetlb_present(lab)?;
    memory::protect(two_hugetlb(), R)?;
    ready(two_hugetlb())
}

fn hugetlb_cow(lab: &mut Lab) -> Result<SetUp> {
    hugetlb_present(lab)?;
    lab.stage.fork(None)?;
    ready(two_hugetlb())
}

fn gigantic(lab: &mut Lab, write: bool) -> Result<SetUp> {
    if !lab.gigantic {
        return Ok(SetUp::Impossible("no pages of 1 GiB".into()));
    }
    let at = Zone::Gigantic.span();
    map(lab, at, Backing::Hugetlb { shared: false })?;
    if write {
        memory::populate(at.part(0, 1), true)?;
    }
    // C calls the fault handler for each 4 KiB of the range.
    ready(at.part(GIGANTIC / 2 - 10, 600))
}

fn swapped(lab: &mut Lab) -> Result<SetUp> {
    let span = small(20);
    populated(span)?;
    for page in 0..span.pages() {
        // Pages alike might be kept as one.
        memory::touch(span.part(page, 1));
    }
    memory::advise(span, libc::MADV_PAGEOUT)?;
    expect(lab, span, IS_SWAPPED)
}

fn swapped_read_only(lab: &mut Lab) -> Result<SetUp> {
    swapped(lab)?;
    memory::protect(small(20), R)?;
    ready(small(20))
}

fn device(lab: &mut Lab) -> Result<SetUp> {
    match map(lab, small(5), Backing::Device) {
        Ok(()) => ready(small(5)),
        Err(error) => Ok(SetUp::Impossible(format!("/dev/mem: {error}"))),
    }
}

fn special(lab: &mut Lab, shared: bool) -> Result<SetUp> {
    map(lab, small(5), Backing::Special { shared })?;
    ready(small(5))
}

fn special_read_only(lab: &mut Lab) -> Result<SetUp> {
    special(lab, false)?;
    memory::protect(small(5), R)?;
    ready(small(5))
}

fn guard(lab: &mut Lab) -> Result<SetUp> {
    populated(small(5))?;
    memory::advise(small(5), MADV_GUARD_INSTALL)?;
    expect(lab, small(5), IS_GUARD)
}

fn poisoned(lab: &mut Lab) -> Result<SetUp> {
    let at = small(1);
    lab.stage.perform(&Operation::Poison { at })?;
    expect(lab, at, IS_SWAPPED)
}

fn file(lab: &mut Lab, file: Store, shared: bool, offset: u64) -> Result<SetUp> {
    let backing = Backing::File {
        file,
        offset,
        shared,
    };
    map(lab, small(5), backing)?;
    ready(small(5))
}

fn written(lab: &mut Lab, store: Store) -> Result<SetUp> {
    file(lab, store, true, 0)?;
    memory::populate(small(5), true)?;
    ready(small(5))
}

fn private_file(lab: &mut Lab) -> Result<SetUp> {
    file(lab, Store::Disk, false, 0)?;
    memory::populate(small(5), false)?;
    ready(small(5))
}

fn written_back(lab: &mut Lab) -> Result<SetUp> {
    written(lab, Store::Disk)?;
    memory::sync(small(5))?;
    ready(small(5))
}

/// Shared memory that is write-protected; if it is `gone`, the protection stays as a marker.
fn uffd(lab: &mut Lab, gone: bool) -> Result<SetUp> {
    written(lab, Store::Memfd)?;
    let (start, len) = (small(5).start(), small(5).bytes() as u64);
    let userfault = Userfaultfd::unattended()?;
    userfault.register(start, len, Mode::WriteProtected)?;
    userfault.protect(start, len)?;
    lab.userfault = Some(userfault);
    if !gone {
        return ready(small(5));
    }
    memory::advise(small(5), libc::MADV_DONTNEED)?;
    // To the kernel a marker is something like a page that is swapped out.
    expect(lab, small(5), IS_SWAPPED)
}

/// What `set_up` makes, protected against all access.
fn forbidden(lab: &mut Lab, set_up: fn(&mut Lab) -> Result<SetUp>) -> Result<SetUp> {
    let Some(userfault) = Userfaultfd::forbidding()? else {
        return Ok(SetUp::Impossible("the kernel cannot protect so".into()));
    };
    let SetUp::Ready(span) = set_up(lab)? else {
        bail!("it cannot be set up");
    };
    let (start, len) = (span.start(), span.bytes() as u64);
    userfault.register(start, len, Mode::Inaccessible)?;
    userfault.forbid(start, len)?;
    lab.userfault = Some(userfault);
    ready(span)
}

/// Memory that the kernel itself has no mapping of.
fn secret(_: &mut Lab) -> Result<SetUp> {
    let span = small(5);
    let file = match secret_file(span.bytes()) {
        Ok(file) => file,
        Err(error) => return Ok(SetUp::Impossible(format!("memfd_secret: {error}"))),
    };
    memory::map(span, R | W, libc::MAP_SHARED, Some((file.as_fd(), 0)))?;
    // MADV_POPULATE is refused here.
    memory::touch(span);
    ready(span)
}
