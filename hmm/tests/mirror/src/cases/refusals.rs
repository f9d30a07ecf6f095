// SPDX-License-Identifier: GPL-2.0
//! What makes no sense is an errno, and nothing happens.

use std::io;

use anyhow::{ensure, Context, Result};

use super::scene::{Scene, CPU, DEVICE};
use crate::abi::MAX_ACCESS;
use crate::device::{refused, Device, Want};
use crate::memory::{Advice, Area, HUGE, PAGE};
use crate::system::PageMap;
use crate::Case;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "refusals/open",
        run: open,
    },
    Case {
        name: "refusals/not-open-yet",
        run: not_open,
    },
    Case {
        name: "refusals/access",
        run: access,
    },
    Case {
        name: "refusals/prefetch",
        run: prefetch,
    },
    Case {
        name: "refusals/prefetch-past-the-end",
        run: prefetch_past_the_end,
    },
    Case {
        name: "refusals/part-of-an-access",
        run: part,
    },
    Case {
        name: "refusals/no-root",
        run: no_root,
    },
];

/// The first address after the largest user space there is (five levels of page tables), and one in
/// the middle of the kernel.
const KERNEL: [u64; 2] = [1 << 56, 0xffff_8880_0000_0000];
/// All that any process can map without asking for more.
const USER: u64 = 0x7fff_ffff_f000;
const PAGE64: u64 = PAGE as u64;

fn open() -> Result<()> {
    let device = Device::open()?;
    let ranges = [
        ("unaligned start", 0x1001, PAGE64),
        ("unaligned length", 0x1000, PAGE64 + 1),
        ("empty", 0x1000, 0),
        ("wrapping", u64::MAX - PAGE64 + 1, 2 * PAGE64),
        ("endless", 0, !(PAGE64 - 1)),
        ("kernel", KERNEL[0], PAGE64),
        ("kernel, deep", KERNEL[1], PAGE64),
        ("into the kernel", KERNEL[0] - PAGE64, 2 * PAGE64),
    ];
    for (what, start, len) in ranges {
        refused(what, device.become_mirror(start, len, 1), libc::EINVAL)?;
    }
    let flags = device.become_mirror(0x1000, PAGE64, 2);
    refused("unknown flags", flags, libc::EINVAL)?;
    // Nothing of it has had any effect; all of user space is fine, and only once.
    device.become_mirror(0, USER, 1)?;
    let again = device.become_mirror(0, USER, 1);
    refused("a second time", again, libc::EBUSY)
}

fn not_open() -> Result<()> {
    let device = Device::open()?;
    let area = Area::filled(1, CPU)?;
    refused("reading", device.read(area.start(), 1), libc::ENXIO)?;
    refused("writing", device.write(area.start(), &[1]), libc::ENXIO)?;
    let prefetched = device.prefetch(area.start(), PAGE64, Want::Read);
    refused("prefetching", prefetched, libc::ENXIO)?;
    let present = device.present(area.start(), PAGE64);
    refused("asking", present, libc::ENXIO)?;
    refused("counters", device.try_stats(), libc::ENXIO)?;
    // SAFETY: No such ioctl, and a null pointer.
    let unknown = unsafe { libc::ioctl(device.fd(), 0xc008_68ff, 0) };
    let error = io::Error::last_os_error().raw_os_error();
    ensure!(
        unknown == -1 && error == Some(libc::ENOTTY),
        "an unknown ioctl: {error:?}"
    );
    area.check(0..1, CPU)
}

fn access() -> Result<()> {
    // The mirror is of the middle.
    let area = Area::filled(12, CPU)?;
    let device = Device::open()?;
    device.become_mirror(area.va(4), 4 * PAGE64, 1)?;
    let scene = Scene { area, device };
    for page in [0, 3, 8, 11] {
        scene.refuses_read(page, libc::EFAULT)?;
        scene.refuses_write(page, libc::EFAULT)?;
    }
    let device = &scene.device;
    refused("across the end", scene.read(7..9), libc::EFAULT)?;
    for va in [KERNEL[0], KERNEL[1], u64::MAX - 1, u64::MAX, 0, 1] {
        let what = format!("reading at {va:#x}");
        refused(&what, device.read(va, 1), libc::EFAULT)?;
        refused(&what, device.read(va, 2), libc::EFAULT)?;
        refused(&what, device.write(va, &[1; 5000]), libc::EFAULT)?;
    }
    let va = scene.area.va(4);
    refused("empty", device.read(va, 0), libc::EINVAL)?;
    let much = device.read(va, MAX_ACCESS as usize + 1);
    refused("too much", much, libc::EINVAL)?;
    // SAFETY: The buffers are no memory of this process's; the length of the last is refused.
    unsafe {
        let bad = device.raw_access(va, PAGE64, 0, 0);
        refused("no buffer", bad, libc::EFAULT)?;
        let bad = device.raw_access(va, PAGE64, KERNEL[1], 0);
        refused("a buffer of the kernel's", bad, libc::EFAULT)?;
        let bad = device.raw_access(va, PAGE64, 0, 1);
        refused("nothing to write", bad, libc::EFAULT)?;
        let bad = device.raw_access(va, u64::MAX, 0, 0);
        refused("endless", bad, libc::EINVAL)?;
        let bad = device.raw_access(va, 1, 0, 2);
        refused("unknown flags", bad, libc::EINVAL)?;
    }
    scene.area.check(0..12, CPU)?;
    scene.check(4..8, CPU)
}

fn prefetch() -> Result<()> {
    let scene = Scene::new(4)?;
    let device = &scene.device;
    let va = scene.area.start();
    let empty = device.prefetch(va, 0, Want::Read);
    refused("empty", empty, libc::EINVAL)?;
    let wrapping = device.prefetch(u64::MAX - 5, PAGE64, Want::Read);
    refused("wrapping", wrapping, libc::EINVAL)?;
    let unknown = device.raw_prefetch(va, PAGE64, 3);
    refused("unknown policy", unknown, libc::EINVAL)?;
    let unknown = device.raw_prefetch(va, PAGE64, 256);
    refused("a policy of two bytes", unknown, libc::EINVAL)?;
    for start in [KERNEL[0], KERNEL[1], va - PAGE64, va + 4 * PAGE64, 0] {
        let what = format!("outside, at {start:#x}");
        for want in [Want::Snapshot, Want::Read, Want::Write] {
            refused(&what, device.prefetch(start, 1, want), libc::EFAULT)?;
        }
    }
    scene.check(0..4, CPU)
}

/// What lies after the mirror's end is not faulted in, and the caller learns of it.
fn prefetch_past_the_end() -> Result<()> {
    // Both in the same 2 MiB.
    let area = Area::reserve(4 << 20)?;
    area.advise(0..area.pages(), Advice::NoHugePage)?;
    let pmd = (area.start().next_multiple_of(HUGE as u64) - area.start()) as usize / PAGE;
    let device = Device::open()?;
    device.become_mirror(area.va(pmd), 4 * PAGE64, 1)?;
    for want in [Want::Read, Want::Write] {
        let result = device.prefetch(area.va(pmd), 8 * PAGE64, want);
        refused("past the end", result, libc::EFAULT)?;
        ensure!(
            !PageMap::of(area.va(pmd + 4))?.is_present(),
            "a page after the mirror's end was faulted in"
        );
    }
    Ok(())
}

/// The pages before the one that cannot be had have been used, whether the device had them or not.
fn part() -> Result<()> {
    for warm in [0, 1, 2] {
        let scene = Scene::new(4)?;
        if warm > 0 {
            scene.write(0..warm, CPU)?;
        }
        scene.area.unmap(2..3)?;
        let bytes = DEVICE.bytes(0, 4 * PAGE);
        let result = scene.device.write(scene.area.start(), &bytes);
        refused("across a hole", result, libc::EFAULT)?;
        scene.area.check(3..4, CPU)?;
        let used = scene.area.check(0..2, DEVICE);
        used.with_context(|| format!("{warm} pages were there before"))?;
        let failures = scene.device.stats()?.failures;
        ensure!(failures == 1, "{failures} failures were counted");
    }
    Ok(())
}

fn no_root() -> Result<()> {
    // SAFETY: Takes no pointers; this process ends with the case.
    ensure!(unsafe { libc::setuid(65534) } == 0, "setuid");
    match Device::open() {
        Ok(_) => anyhow::bail!("somebody who is not root opened the device"),
        Err(_) => Ok(()),
    }
}
