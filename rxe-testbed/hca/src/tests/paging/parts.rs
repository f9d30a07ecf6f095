// SPDX-License-Identifier: GPL-2.0
//! Parts of a region, each a key of its own, come on demand.

use anyhow::Result;

use super::{Stage, PAGE, READ_ONLY};
use crate::layout::mkc;
use crate::mkey::NULL_MKEY;
use crate::tests::scene::{kind, SIGNALLED};
use crate::wqe;

/// A key over a whole address space with the null key in it, and what a fault in it names.
#[test]
fn parts_of_a_region_come_on_demand() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut stage = Stage::of(profile)?;
        let newer = profile == "cx7-ib";
        let other = stage.scene.fill(1, 6)?;
        let whole = stage.table(3, 0, 0x40_0000, 20)?;
        // The null key of the newer scheme is one of the driver's own.
        let null = match newer {
            true => stage.table(1, 0, 0x40_0000, 61)?,
            false => NULL_MKEY,
        };
        let links = |keys: [u32; 4]| {
            let links = keys.into_iter().zip(0_u64..).map(|(key, at)| {
                let mut entry = vec![0; 4];
                entry.extend(key.to_be_bytes());
                entry.extend((at << 20).to_be_bytes());
                entry
            });
            links.flatten().collect::<Vec<u8>>()
        };
        stage.change(whole, 0, &links([null; 4]), None)?;
        let mut remote = 0x10_2ff0_u64.to_be_bytes().to_vec();
        remote.extend(whole.to_be_bytes());
        remote.extend([0; 4]);
        let list = [remote, stage.scene.at(0, 0x100, 0x20)];
        stage.scene.send(0, wqe::READ, SIGNALLED, &list)?;
        let fault = stage.fault()?;
        match newer {
            true => assert_eq!(
                (fault.word(16), fault.word(24), fault.word(12)),
                (null, 0x10_2000, 2 << 12)
            ),
            false => assert_eq!((fault.word(4), fault.word(20)), (whole, 0x10_2ff0)),
        }
        let child = stage.table(1, 0x10_0000, 0x10_0000, 12)?;
        let entries = [0, 0, 2, 3].map(|page| stage.scene.memory[1] + page * PAGE);
        let entries = entries.map(|entry| entry | READ_ONLY);
        let entries: Vec<u8> = entries.into_iter().flat_map(u64::to_be_bytes).collect();
        stage.change(child, 0, &entries, None)?;
        stage.change(whole, 0, &links([null, child, null, null]), None)?;
        assert_eq!(stage.resume(fault, false)?, 0);
        stage.done(0, (0, wqe::READ))?;
        assert_eq!(stage.scene.content(0)?[0x100..0x120], other[0x2ff0..0x3010]);
        stage.no_violations();
    }
    Ok(())
}

/// A part that the driver does not know any more while the region still leads to it is asked for again, some times; and
/// what lies in different parts by one null key is not one entry.
#[test]
fn a_part_that_is_taken_away_is_asked_for_again() -> Result<()> {
    for given in [true, false] {
        let mut stage = Stage::of("cx7-ib")?;
        let other = stage.scene.fill(1, 6)?;
        let whole = stage.table(3, 0, 0x40_0000, 20)?;
        let null = stage.table(1, 0, 0x40_0000, 61)?;
        let link = |key: u32, at: u64| {
            let mut entry = vec![0; 4];
            entry.extend(key.to_be_bytes());
            entry.extend((at << 20).to_be_bytes());
            entry
        };
        let all: Vec<u8> = (0..4).flat_map(|at| link(null, at)).collect();
        stage.change(whole, 0, &all, None)?;
        let mut remote = 0x10_0010_u64.to_be_bytes().to_vec();
        remote.extend(whole.to_be_bytes());
        remote.extend([0; 4]);
        let list = [remote, stage.scene.at(0, 0x100, 0x20)];
        stage.scene.send(0, wqe::READ, SIGNALLED, &list)?;
        for _ in 0..8 {
            let fault = stage.fault()?;
            assert_eq!((fault.kind, fault.word(16)), (2, null));
            assert_eq!(stage.resume(fault, true)?, 0);
        }
        let fault = stage.fault()?;
        if given {
            let pages = [stage.scene.memory[1] | READ_ONLY, 0].map(u64::to_be_bytes);
            let child = stage.table(1, 0x10_0000, 0x10_0000, 12)?;
            stage.change(child, 0, &pages.concat(), None)?;
            stage.change(whole, 1, &link(child, 1), None)?;
            assert_eq!(stage.resume(fault, false)?, 0);
            stage.done(0, (0, wqe::READ))?;
            assert_eq!(stage.scene.content(0)?[0x100..0x120], other[0x10..0x30]);
        } else {
            assert_eq!(stage.resume(fault, true)?, 0);
            let entry = stage.scene.wait(0)?;
            assert_eq!((kind(&entry), entry[0x37]), ((13, wqe::READ), 0x13));
        }
        stage.no_violations();
    }
    Ok(())
}

/// Each time a part that is not there by the null key, which itself is never changed.
#[test]
fn parts_may_come_and_go() -> Result<()> {
    let mut stage = Stage::of("cx7-ib")?;
    let whole = stage.table(3, 0, 0x20_0000, 20)?;
    let null = stage.table(1, 0, 0x20_0000, 61)?;
    let link = |key: u32| {
        let mut entry = vec![0; 4];
        entry.extend(key.to_be_bytes());
        entry.extend([0; 8]);
        entry
    };
    let child = stage.table(1, 0, 0x10_0000, 12)?;
    let page = [stage.scene.memory[1] | READ_ONLY, 0].map(u64::to_be_bytes);
    stage.change(child, 0, &page.concat(), None)?;
    for _ in 0..20 {
        stage.change(whole, 0, &link(null), None)?;
        let mut remote = vec![0; 8];
        remote.extend(whole.to_be_bytes());
        remote.extend([0; 4]);
        let list = [remote, stage.scene.at(0, 0x100, 0x20)];
        stage.scene.send(0, wqe::READ, SIGNALLED, &list)?;
        let fault = stage.fault()?;
        stage.change(whole, 0, &link(child), None)?;
        assert_eq!(stage.resume(fault, false)?, 0);
        stage.done(0, (0, wqe::READ))?;
    }
    stage.no_violations();
    Ok(())
}

/// Address spaces with five levels of page tables have parts of 16 GiB.
#[test]
fn parts_may_be_large() -> Result<()> {
    let mut stage = Stage::of("cx7-ib")?;
    let other = stage.scene.fill(1, 6)?;
    let part = 34;
    let whole = stage.table(3, 0, 1 << 56, 12)?;
    // The size of parts has six bits, of which the highest one is set apart.
    stage.change(whole, 0, &[], Some((1, mkc::LOG_PAGE_SIZE, part)))?;
    stage.change(whole, 0, &[], Some((42, mkc::LOG_PAGE_SIZE, part)))?;
    let index = (1_u64 << 22) - 1;
    let start = index << part;
    let child = stage.table(1, start, 1 << part, 12)?;
    let mut entry = vec![0; 4];
    entry.extend(child.to_be_bytes());
    entry.extend(start.to_be_bytes());
    stage.change(whole, index, &entry, None)?;
    let last = (1_u64 << (part - 12)) - 2;
    let pages = [stage.scene.memory[1] + PAGE, stage.scene.memory[1]];
    let pages = pages.map(|page| (page | READ_ONLY).to_be_bytes());
    stage.change(child, last / 2, &pages.concat(), None)?;
    let mut remote = (start + (last << 12) + 0xff8).to_be_bytes().to_vec();
    remote.extend(whole.to_be_bytes());
    remote.extend([0; 4]);
    let list = [remote, stage.scene.at(0, 0x100, 0x10)];
    stage.scene.send(0, wqe::READ, SIGNALLED, &list)?;
    stage.done(0, (0, wqe::READ))?;
    let read = stage.scene.content(0)?;
    assert_eq!(read[0x100..0x108], other[0x1ff8..0x2000]);
    assert_eq!(read[0x108..0x110], other[..8]);
    stage.no_violations();
    Ok(())
}
