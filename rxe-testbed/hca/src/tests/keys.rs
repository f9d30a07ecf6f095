// SPDX-License-Identifier: GPL-2.0
//! Requests that change memory keys.

use anyhow::Result;

use super::scene::{kind, Scene, Wish, KEY_UPDATES, RELIABLE, SIGNALLED, USUAL};
use crate::indirect::FIRST_KEY;
use crate::layout::{alloc_pd_out, create_mkey_in, create_mkey_out, mkc};
use crate::wqe;

/// A key that requests change, of `octwords` of translation.
fn free_key(scene: &mut Scene, octwords: u64) -> Result<u32> {
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::FREE.set(context, 1_u64);
    mkc::UMR_EN.set(context, 1_u64);
    mkc::ACCESS_MODE_1_0.set(context, 1_u64);
    mkc::QPN.set(context, 0xff_ffff_u64);
    mkc::TRANSLATIONS_OCTWORD_SIZE.set(context, octwords);
    mkc::LOG_PAGE_SIZE.set(context, 12_u64);
    mkc::PD.set(context, scene.domain);
    scene
        .driver
        .number(0x200, &input, create_mkey_out::MKEY_INDEX)
}

/// A request that gives a key two pages of the second side's memory, the later one first. Its domain is that of the
/// key for all memory.
fn give_meaning(scene: &Scene, flags: u8, offset: u8, inline: bool) -> Result<Vec<Vec<u8>>> {
    let mut control = vec![0; 48];
    control[0] = flags | (1 << 4) | (u8::from(inline) << 7);
    control[5] = 1;
    control[7] = offset;
    let mask: u64 = 1 | (1 << 6) | (1 << 13) | (0x1f << 17) | (1 << 29);
    control[8..16].copy_from_slice(&mask.to_be_bytes());
    let mut context = vec![0; mkc::BYTES];
    for right in [mkc::LR, mkc::LW, mkc::RR, mkc::RW] {
        right.set(&mut context, 1_u64);
    }
    mkc::PD.set(&mut context, scene.domain);
    mkc::MKEY_7_0.set(&mut context, 0x77_u64);
    mkc::START_ADDR.set(&mut context, 0x7000_0000_u64);
    mkc::LEN.set(&mut context, 0x2000_u64);
    let pages = [scene.memory[1] + 0x1000, scene.memory[1]];
    let entries = pages.iter().map(|page| page | 3);
    let entries: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
    let entries = match inline {
        true => entries,
        false => {
            scene.driver.write(scene.memory[0] + 0x7f00, &entries)?;
            scene.at(0, 0x7f00, 16)
        }
    };
    Ok(vec![control, context, entries])
}

/// Posts a change of a key on the first side; gives how it ended.
fn change_key(scene: &mut Scene, key: u32, segments: &[Vec<u8>]) -> Result<(u8, u8)> {
    change_key_on(scene, 0, key, segments)
}

fn change_key_on(
    scene: &mut Scene,
    side: usize,
    key: u32,
    segments: &[Vec<u8>],
) -> Result<(u8, u8)> {
    let place = scene.ends[side].next_send() + 12;
    scene.queue(side, wqe::UPDATE, SIGNALLED, segments)?;
    scene.driver.write(place, &(key << 8).to_be_bytes())?;
    scene.ring(side);
    let entry = scene.wait(side)?;
    Ok((entry[63] >> 4, entry[0x37]))
}

#[test]
fn a_request_gives_a_key_its_meaning() -> Result<()> {
    for inline in [true, false] {
        let mut scene = Scene::new()?;
        let sent = scene.fill(0, 8)?;
        let mut expected = scene.fill(1, 9)?;
        let key = free_key(&mut scene, 4)?;
        let list = give_meaning(&scene, 1 << 5, 0, inline)?;
        assert_eq!(change_key(&mut scene, key, &list)?, (0, 0));
        let mut remote = 0x7000_0ff0_u64.to_be_bytes().to_vec();
        remote.extend(((key << 8) | 0x77).to_be_bytes());
        remote.extend([0; 4]);
        let list = [remote, scene.at(0, 0x31, 0x20)];
        scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
        assert_eq!(kind(&scene.wait(0)?), (0, wqe::WRITE));
        expected[0x1ff0..0x2000].copy_from_slice(&sent[0x31..0x41]);
        expected[..0x10].copy_from_slice(&sent[0x41..0x51]);
        assert_eq!(scene.content(1)?, expected);
        assert_eq!(scene.driver.violations(), []);
    }
    Ok(())
}

#[test]
fn a_request_changes_no_key_that_it_must_not() -> Result<()> {
    // A free key that must not be; beyond the end; a field that is not known; a key that no request changes; a flag
    // that is not known.
    for case in 0..5 {
        for service in [RELIABLE, KEY_UPDATES] {
            let mut scene = Scene::with(&Wish { service, ..USUAL })?;
            let mut key = free_key(&mut scene, 4)?;
            let flags = if case == 0 { 1 << 6 } else { 1 << 5 };
            let offset = if case == 1 { 4 } else { 0 };
            let mut list = give_meaning(&scene, flags, offset, true)?;
            match case {
                2 => list[0][8] = 0x80,
                3 => key = scene.key >> 8,
                4 => list[0][0] |= 1,
                _ => {}
            }
            assert_eq!(change_key(&mut scene, key, &list)?, (13, 6), "{case}");
            let all = scene.driver.violations();
            match service {
                KEY_UPDATES => assert_eq!(all[0].rule, crate::trace::Rule::Keys),
                // Whoever has a connection may ask for anything.
                _ => assert_eq!(all, []),
            }
        }
    }
    Ok(())
}

#[test]
fn a_connection_changes_only_keys_of_its_domain() -> Result<()> {
    // The key is of another domain; it is to be; it has to be this queue pair's, and is not.
    for case in 0..3 {
        for service in [RELIABLE, KEY_UPDATES] {
            let mut scene = Scene::with(&Wish { service, ..USUAL })?;
            if case == 0 {
                scene.domain = scene.driver.number(0x800, &[], alloc_pd_out::PD)?;
            }
            let key = free_key(&mut scene, 4)?;
            let mut list = give_meaning(&scene, 1 << 5, 0, true)?;
            match case {
                1 => list[0][15] |= 1 << 7,
                2 => list[0][0] |= 1 << 3,
                _ => {}
            }
            let expected = match (case, service) {
                (2, _) | (_, RELIABLE) => (13, 6),
                _ => (0, 0),
            };
            let ended = change_key(&mut scene, key, &list)?;
            assert_eq!(ended, expected, "{case} {service}");
        }
    }
    Ok(())
}

#[test]
fn a_key_of_all_is_each_connections_as_long_as_it_is_not_free() -> Result<()> {
    let mut scene = Scene::new()?;
    let key = free_key(&mut scene, 4)?;
    let mut own = give_meaning(&scene, 1 << 5, 0, true)?;
    own[0][0] |= 1 << 3;
    assert_eq!(change_key(&mut scene, key, &own)?, (13, 6));
    let mut scene = scene.again(&USUAL)?;
    let list = give_meaning(&scene, 1 << 5, 0, true)?;
    assert_eq!(change_key(&mut scene, key, &list)?, (0, 0));
    let mut again = give_meaning(&scene, 1 << 6, 0, true)?;
    again[0][0] |= 1 << 3;
    assert_eq!(change_key(&mut scene, key, &again)?, (0, 0));
    Ok(())
}

#[test]
fn no_key_has_the_number_that_makes_a_list_repeat() -> Result<()> {
    let mut scene = Scene::new()?;
    for _ in 0..8 {
        let key = free_key(&mut scene, 4)?;
        assert!(key >= FIRST_KEY, "{key}");
    }
    Ok(())
}

/// A memory window: a list of one part of another key, which is free.
fn window(scene: &mut Scene) -> Result<u32> {
    let mut input = vec![0; create_mkey_in::BYTES];
    let context = create_mkey_in::MEMORY_KEY_MKEY_ENTRY.of_mut(&mut input);
    mkc::FREE.set(context, 1_u64);
    mkc::UMR_EN.set(context, 1_u64);
    mkc::LR.set(context, 1_u64);
    mkc::EN_RINVAL.set(context, 1_u64);
    mkc::ACCESS_MODE_1_0.set(context, 2_u64);
    mkc::QPN.set(context, 0xff_ffff_u64);
    mkc::TRANSLATIONS_OCTWORD_SIZE.set(context, 4_u64);
    mkc::PD.set(context, scene.domain);
    let driver = &mut scene.driver;
    driver.number(0x200, &input, create_mkey_out::MKEY_INDEX)
}

/// Binds a window to 0x100 bytes of the second side's memory from 0x200 on, for its queue pair and writes, with that
/// variant; or unbinds it.
fn bind(scene: &Scene, variant: u32, unbind: bool) -> Vec<Vec<u8>> {
    let mut control = vec![0; 48];
    let mut context = vec![0; mkc::BYTES];
    mkc::MKEY_7_0.set(&mut context, variant);
    let always: u64 = (1 << 13) | (1 << 14) | (1 << 29);
    if unbind {
        control[0] = (1 << 7) | (1 << 4) | (1 << 3);
        control[8..16].copy_from_slice(&always.to_be_bytes());
        mkc::FREE.set(&mut context, 1_u64);
        mkc::QPN.set(&mut context, 0xff_ffff_u64);
        return vec![control, context];
    }
    control[0] = (1 << 7) | (1 << 5) | (1 << 4);
    control[5] = 4;
    let mask = always | 1 | (1 << 6) | (0xf << 18);
    control[8..16].copy_from_slice(&mask.to_be_bytes());
    mkc::RW.set(&mut context, 1_u64);
    mkc::QPN.set(&mut context, scene.ends[1].number);
    mkc::START_ADDR.set(&mut context, scene.memory[1] + 0x200);
    mkc::LEN.set(&mut context, 0x100_u64);
    let mut entry = scene.at(1, 0x200, 0x100);
    entry.resize(64, 0);
    vec![control, context, entry]
}

/// Writes through a key; gives how it ended.
fn write_through(scene: &mut Scene, key: u32, offset: u64) -> Result<(u8, u8)> {
    let mut remote = scene.remote(1, offset);
    remote[8..12].copy_from_slice(&key.to_be_bytes());
    let list = [remote, scene.at(0, 0x31, 0x20)];
    scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    let entry = scene.wait(0)?;
    Ok((entry[63] >> 4, entry[0x37]))
}

#[test]
fn a_window_opens_a_part_of_a_region_to_one_queue_pair() -> Result<()> {
    // As it is; past its end; of another variant; unbound; bound by the other queue pair, which is not its own.
    for case in 0..5 {
        let mut scene = Scene::new()?;
        let sent = scene.fill(0, 8)?;
        let mut expected = scene.fill(1, 9)?;
        let window = window(&mut scene)?;
        let list = bind(&scene, 0x21, false);
        assert_eq!(change_key_on(&mut scene, 1, window, &list)?, (0, 0));
        let key = (window << 8) | if case == 2 { 0x22 } else { 0x21 };
        if case == 3 {
            let list = bind(&scene, 0x21, true);
            assert_eq!(change_key_on(&mut scene, 1, window, &list)?, (0, 0));
        }
        if case == 4 {
            let list = bind(&scene, 0x21, true);
            assert_eq!(change_key_on(&mut scene, 0, window, &list)?, (13, 6));
            continue;
        }
        let offset = if case == 1 { 0x2f0 } else { 0x240 };
        let ended = write_through(&mut scene, key, offset)?;
        assert_eq!(ended, if case == 0 { (0, 0) } else { (13, 0x13) });
        if case == 0 {
            expected[0x240..0x260].copy_from_slice(&sent[0x31..0x51]);
        }
        assert_eq!(scene.content(1)?, expected);
        assert_eq!(scene.driver.violations(), []);
    }
    Ok(())
}
