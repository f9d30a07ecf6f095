// SPDX-License-Identifier: GPL-2.0
//! What makes no sense is an errno of the ioctl, and nothing else happens.

use std::os::unix::fs::PermissionsExt;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;

use super::{Check, Lab};
use crate::abi::{self, Compare, Word};
use crate::arena::{Zone, PAGE};

pub(super) const CHECKS: &[Check] = &[
    ("refusals: arguments that make no sense", arguments),
    ("refusals: memory that is not there", memory),
    ("refusals: only root may open it", only_root),
];

fn arguments(lab: &mut Lab) -> Result<()> {
    let start = Zone::Small.span().start();
    let good = Compare {
        start,
        pages: 4,
        tries: 1,
        ..Default::default()
    };
    // With page tables of five levels; of four, it is not even canonical.
    let end = 1 << 56;
    let bad = [
        (
            "unaligned",
            Compare {
                start: start + 8,
                ..good
            },
        ),
        ("empty", Compare { pages: 0, ..good }),
        (
            "too large",
            Compare {
                pages: abi::MAX_PAGES + 1,
                ..good
            },
        ),
        (
            "all pages there are",
            Compare {
                pages: u64::MAX,
                ..good
            },
        ),
        (
            "wraps",
            Compare {
                start: 0u64.wrapping_sub(PAGE),
                ..good
            },
        ),
        (
            "wraps in bytes",
            Compare {
                pages: 1 << 52,
                ..good
            },
        ),
        (
            "over the end of user space",
            Compare {
                start: end - 3 * PAGE,
                ..good
            },
        ),
        (
            "in the kernel",
            Compare {
                start: 0xffff_8880_0000_0000,
                ..good
            },
        ),
        (
            "not canonical",
            Compare {
                start: 1 << 60,
                ..good
            },
        ),
        ("no such base", Compare { base: 3, ..good }),
        ("no such most", Compare { most: 255, ..good }),
        (
            "reserved",
            Compare {
                reserved: 1,
                ..good
            },
        ),
        (
            "reserved, too",
            Compare {
                reserved2: 1,
                ..good
            },
        ),
    ];
    for (what, mut argument) in bad {
        // SAFETY: It is refused before the pointers, which are null, are used.
        let result = unsafe { lab.oracle.raw_compare(&mut argument) };
        ensure!(result == Err(Errno::EINVAL), "{what}: {result:?}");
    }
    Ok(())
}

fn memory(lab: &mut Lab) -> Result<()> {
    let mut room = [Word::default(); 4];
    let pointer = room.as_mut_ptr() as u64;
    let good = Compare {
        start: Zone::Small.span().start(),
        pages: 4,
        tries: 1,
        ours: pointer,
        theirs: pointer,
        ..Default::default()
    };
    let kernel = 0xffff_8880_0000_0000;
    let bad = [
        ("ours", Compare { ours: 0, ..good }),
        ("theirs", Compare { theirs: 8, ..good }),
        (
            "requests",
            Compare {
                requests: 16,
                ..good
            },
        ),
        (
            "ours in the kernel",
            Compare {
                ours: kernel,
                ..good
            },
        ),
    ];
    for (what, mut argument) in bad {
        // SAFETY: `room` has a word a page; the other pointers are to nothing that can be written.
        let result = unsafe { lab.oracle.raw_compare(&mut argument) };
        ensure!(result == Err(Errno::EFAULT), "{what}: {result:?}");
    }
    let mut argument = good;
    // SAFETY: `room` has a word a page.
    let result = unsafe { lab.oracle.raw_compare(&mut argument) };
    ensure!(result == Ok(()), "a good one: {result:?}");
    Ok(())
}

fn only_root(_: &mut Lab) -> Result<()> {
    let data = std::fs::metadata(abi::DEVICE).context("looking at the device")?;
    let mode = data.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "its mode is {mode:o}");
    Ok(())
}
