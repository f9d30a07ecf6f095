// SPDX-License-Identifier: GPL-2.0
//! Registrations, changes of them, and their end.
//!
//! What is wrong with a request is collected, each thing with the errno that it deserves
//! (docs/src/errors.md). The answer has to be one of them; if there are none, the request has to be
//! granted. So nothing depends on the order in which things are looked at.

use anyhow::{bail, ensure, Result};
use odp_verbs::uverbs::{self, Answer, Registration, Reregistration};
use rand::Rng;
use testkit::memory::PAGE;

use crate::{
    arena::Arena,
    dice::Dice,
    known::{
        Known, Region, BIND, FLUSH_GLOBAL, FLUSH_PERSISTENT, HUGETLB, KNOWN_TO_CORE, LOCAL_WRITE,
        ON_DEMAND, OPTIONAL, REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, WRITING, ZERO_BASED,
    },
};

/// More regions than this are not kept.
const MOST: usize = 48;

/// Compares an answer with what may be said: with any of `errnos`, or, if there are none, yes.
pub fn judge<T>(answer: Answer<T>, errnos: &[i32]) -> Result<Option<T>> {
    match answer {
        Ok(made) if errnos.is_empty() => Ok(Some(made)),
        Ok(_) => bail!("granted; expected {}", names(errnos)),
        Err(errno) if errnos.contains(&errno) => Ok(None),
        Err(errno) if errnos.is_empty() => bail!("refused with {}", names(&[errno])),
        Err(errno) => bail!(
            "refused with {}; expected {}",
            names(&[errno]),
            names(errnos)
        ),
    }
}

fn names(errnos: &[i32]) -> String {
    let name = |e: &i32| std::io::Error::from_raw_os_error(*e).to_string();
    errnos.iter().map(name).collect::<Vec<_>>().join(" or ")
}

/// The end of what a process may map.
fn user_end() -> u64 {
    use std::sync::OnceLock;
    static END: OnceLock<u64> = OnceLock::new();
    *END.get_or_init(|| {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let bits = if cpu.contains(" la57") { 56 } else { 47 };
        (1 << bits) - PAGE as u64
    })
}

/// What is wrong with rights, if a region of its own has them.
fn wrong_rights(access: u32) -> Vec<i32> {
    let mut wrong = Vec::new();
    if access & (REMOTE_WRITE | REMOTE_ATOMIC) != 0 && access & LOCAL_WRITE == 0 {
        wrong.push(libc::EINVAL);
    }
    if access & !KNOWN_TO_CORE != 0 {
        wrong.push(libc::EINVAL);
    }
    if access & ZERO_BASED != 0 {
        wrong.push(libc::EOPNOTSUPP);
    }
    if access & HUGETLB != 0 {
        // None of the memory here is in huge pages.
        wrong.extend([libc::EOPNOTSUPP, libc::EINVAL]);
    }
    wrong
}

/// What is wrong with a registration in an existing domain.
fn wrong(wanted: &Registration) -> Vec<i32> {
    let mut wrong = wrong_rights(wanted.access);
    let Registration {
        addr,
        len,
        iova,
        access,
        ..
    } = *wanted;
    if (addr ^ iova) % PAGE as u64 != 0 {
        wrong.push(libc::EINVAL);
    }
    let implicit = addr == 0 && len == u64::MAX;
    if access & ON_DEMAND == 0 {
        // Pinned memory here is all right, but it is not persistent.
        if access & FLUSH_PERSISTENT != 0 {
            wrong.push(libc::EINVAL);
        }
    } else if implicit {
        if iova != 0 {
            wrong.push(libc::EINVAL);
        }
    } else if len == 0 {
        wrong.push(libc::EINVAL);
    } else {
        match addr.checked_add(len - 1) {
            None => wrong.push(libc::EINVAL),
            Some(last) if last >= user_end() => wrong.push(libc::EFAULT),
            Some(_) => {}
        }
        if iova.checked_add(len - 1).is_none() {
            wrong.push(libc::EINVAL);
        }
    }
    wrong
}

/// Rights, sensible as a rule.
fn rights(dice: &mut Dice) -> u32 {
    let all = LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC;
    match dice.random_range(0..16) {
        0 => dice.random(),
        1 => dice.random::<u32>() & KNOWN_TO_CORE,
        2 => 1 << dice.random_range(0..32),
        3 => all | HUGETLB,
        4 => all | ZERO_BASED,
        5 => REMOTE_READ,
        6 => LOCAL_WRITE,
        7 => LOCAL_WRITE | REMOTE_WRITE,
        8 => LOCAL_WRITE | REMOTE_READ,
        9 => REMOTE_WRITE | REMOTE_READ,
        10 => all | BIND | FLUSH_GLOBAL,
        11 => all | FLUSH_PERSISTENT | (dice.random::<u32>() & OPTIONAL),
        12..14 => all | BIND,
        _ => all,
    }
}

/// Addresses for a registration on demand, sensible as a rule.
fn addresses(dice: &mut Dice, arena: &Arena) -> (u64, u64, u64) {
    let whole = (0, u64::MAX, 0);
    let addr = arena.address(dice);
    let len = length(dice, arena, addr);
    let same = addr % PAGE as u64;
    let page = |dice: &mut Dice| dice.random::<u64>() & !(PAGE as u64 - 1);
    match dice.random_range(0..20) {
        0..3 => whole,
        3 => (0, u64::MAX, page(dice)),
        4 => (addr, u64::MAX, addr),
        5 => (0, u64::MAX - dice.random_range(1..5000), 0),
        6 => (addr, len, dice.random()),
        // The last byte is the last there can be, or one beyond.
        7 => (addr, len, u64::MAX.wrapping_sub(len).wrapping_add(1)),
        8 => {
            let end = u64::MAX - (addr.wrapping_add(len).wrapping_sub(1)) % PAGE as u64;
            (
                addr,
                len,
                (end.wrapping_sub(len) & !(PAGE as u64 - 1)) | same,
            )
        }
        9 => (user_end() - dice.random_range(0..10_000), len, addr),
        10 => {
            let below = user_end() - dice.random_range(1..10_000);
            (below, dice.random_range(1..10_000), below)
        }
        11..14 => (addr, len, page(dice) | same),
        _ => (addr, len, addr),
    }
}

fn length(dice: &mut Dice, arena: &Arena, addr: u64) -> u64 {
    match dice.random_range(0..12) {
        0 => 0,
        1 => dice.random(),
        2 => 1 << dice.random_range(0..64),
        3 => 0u64.wrapping_sub(addr),
        4 => u64::MAX - addr,
        5 => dice.random_range(0..1 << 44),
        6 => dice.random_range(0..PAGE as u64),
        _ => dice.random_range(1..arena.end() - arena.start()),
    }
}

/// Registers something.
pub fn register(known: &mut Known, arena: &Arena, dice: &mut Dice) -> Result<String> {
    let (handle, domain) = known.domain(dice);
    let pinned = dice.random_ratio(1, 12);
    let (addr, len, iova) = if pinned {
        let pages = dice.random_range(1..8) * PAGE as u64;
        let addr = known.steady.addr();
        (addr, pages - dice.random_range(0..100), addr)
    } else {
        addresses(dice, arena)
    };
    let mut access = rights(dice);
    if pinned {
        access &= !ON_DEMAND;
    } else {
        access |= ON_DEMAND;
    }
    let wanted = Registration {
        domain: handle,
        addr,
        len,
        iova,
        access,
    };
    let mut errnos = wrong(&wanted);
    if domain.is_none() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    let file = known.env.context.command_file();
    let by_attributes = dice.random();
    let told = format!("registration by attributes: {by_attributes}, {wanted:x?}");
    let answer = match by_attributes {
        true => uverbs::register_by_attributes(file, &wanted),
        false => uverbs::register(file, &wanted),
    };
    let made = judge(answer, &errnos).map_err(|e| e.context(told.clone()))?;
    if let (Some(made), Some(domain)) = (made, domain) {
        ensure!(
            known.region(made.key).is_none(),
            "{told}: the key {:#x} has two regions",
            made.key
        );
        known.regions.push(Region {
            made,
            as_asked: wanted,
            domain,
            writable: access & WRITING != 0,
        });
    }
    while known.regions.len() > MOST {
        // Any but the newest, so that the oldest live long.
        let number = dice.random_range(0..known.regions.len());
        let region = known.regions[number].made;
        end(known, region.handle)?;
    }
    Ok(told)
}

/// Changes a registration.
pub fn reregister(known: &mut Known, arena: &Arena, dice: &mut Dice) -> Result<String> {
    let Some(region) = known.any_region(dice) else {
        return register(known, arena, dice);
    };
    let wrong_region = dice.random_ratio(1, 12).then(|| known.wrong_handle(dice));
    let flags = match dice.random_range(0..12) {
        0 => 0,
        1 => dice.random(),
        2..5 => dice.random_range(0..8),
        5 => uverbs::CHANGE_TRANSLATION,
        6..8 => uverbs::CHANGE_DOMAIN,
        8 => uverbs::CHANGE_DOMAIN | uverbs::CHANGE_ACCESS,
        _ => uverbs::CHANGE_ACCESS,
    };
    let (handle, domain) = known.domain(dice);
    let moves = flags & uverbs::CHANGE_TRANSLATION != 0;
    let turns = flags & uverbs::CHANGE_ACCESS != 0;
    // Only memory that never changes is pinned.
    let on_demand = match (region.is_on_demand(), moves, turns) {
        (_, true, true) | (false, _, true) => dice.random(),
        (kind, ..) => kind,
    };
    let (addr, len, iova) = match on_demand {
        true => addresses(dice, arena),
        false => (known.steady.addr(), PAGE as u64, known.steady.addr()),
    };
    // Where pinned pages are changed in place, rxe does not ask whether they are persistent.
    let access = match on_demand {
        true => rights(dice) | ON_DEMAND,
        false => rights(dice) & !(ON_DEMAND | FLUSH_PERSISTENT),
    };
    let asked = Registration {
        domain: handle,
        addr,
        len,
        iova,
        access,
    };
    let wanted = Reregistration {
        region: wrong_region.unwrap_or(region.made.handle),
        flags,
        new: asked,
    };
    // What the region would be.
    let new = Registration {
        access: if turns {
            access
        } else {
            region.as_asked.access
        },
        ..if moves { asked } else { region.as_asked }
    };
    let mut errnos = wrong_change(known, &region, &wanted, &new);
    if wrong_region.is_some() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    if flags & uverbs::CHANGE_DOMAIN != 0 && domain.is_none() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    let told = format!("{wanted:x?} of {region:x?}");
    let answer = uverbs::reregister(known.env.context.command_file(), &wanted);
    let key = judge(answer, &errnos).map_err(|e| e.context(told.clone()))?;
    if let Some(key) = key {
        let old = region.made;
        let found = known.regions.iter_mut().find(|r| r.made == old);
        let found = found.expect("it was found before");
        if let (true, Some(domain)) = (flags & uverbs::CHANGE_DOMAIN != 0, domain) {
            found.domain = domain;
        }
        found.as_asked = new;
        if key != old.key {
            // A new one has taken its place.
            found.made.key = key;
            found.writable = new.access & WRITING != 0;
            known.forget(old);
        }
    }
    Ok(told)
}

/// What is wrong with a change of `region` into `new`.
fn wrong_change(
    known: &Known,
    region: &Region,
    wanted: &Reregistration,
    new: &Registration,
) -> Vec<i32> {
    let all = uverbs::CHANGE_TRANSLATION | uverbs::CHANGE_DOMAIN | uverbs::CHANGE_ACCESS;
    let mut errnos = wrong(new);
    if wanted.flags == 0 {
        errnos.push(libc::EINVAL);
    }
    if wanted.flags & !all != 0 {
        errnos.push(libc::EOPNOTSUPP);
    }
    if known.is_bound(region.made.handle) {
        errnos.push(libc::EBUSY);
    }
    let pinned = !region.is_on_demand() && new.access & ON_DEMAND == 0;
    let moves = wanted.flags & uverbs::CHANGE_TRANSLATION != 0;
    if pinned && !moves && new.access & WRITING != 0 && !region.writable {
        errnos.push(libc::EACCES);
    }
    errnos
}

/// Deregisters something.
pub fn deregister(known: &mut Known, dice: &mut Dice) -> Result<String> {
    let handle = match (known.any_region(dice), dice.random_range(0..4)) {
        (Some(region), 0..3) => region.made.handle,
        _ if dice.random() => known.wrong_handle(dice),
        _ => known.domains[0].handle(),
    };
    end(known, handle)
}

fn end(known: &mut Known, handle: u32) -> Result<String> {
    let number = known.regions.iter().position(|r| r.made.handle == handle);
    let told = format!("deregistration of {handle:#x}");
    let mut errnos = Vec::new();
    if number.is_none() {
        errnos.extend([libc::ENOENT, libc::EINVAL]);
    }
    if known.is_bound(handle) {
        errnos.push(libc::EINVAL);
    }
    let answer = uverbs::deregister(known.env.context.command_file(), handle);
    let done = judge(answer, &errnos).map_err(|e| e.context(told.clone()))?;
    if let (Some(()), Some(number)) = (done, number) {
        let region = known.regions.swap_remove(number);
        known.forget(region.made);
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_a_registration_has_its_errno() {
        let good = Registration {
            domain: 0,
            addr: 0x10_0000_0123,
            len: 0x5000,
            iova: 0xffff_ffff_ffff_0123,
            access: LOCAL_WRITE | REMOTE_WRITE | ON_DEMAND,
        };
        let whole = Registration {
            addr: 0,
            len: u64::MAX,
            iova: 0,
            ..good
        };
        assert!(wrong(&good).is_empty());
        assert!(wrong(&whole).is_empty());
        let iova = 0x1000;
        assert_eq!(wrong(&Registration { iova, ..whole }), [libc::EINVAL]);
        let iova = good.iova + 1;
        assert_eq!(wrong(&Registration { iova, ..good }), [libc::EINVAL]);
        assert_eq!(wrong(&Registration { len: 0, ..good }), [libc::EINVAL]);
        let len = 0xfede;
        assert_eq!(wrong(&Registration { len, ..good }), [libc::EINVAL]);
        let len = 0xfedd;
        assert!(wrong(&Registration { len, ..good }).is_empty());
        let addr = u64::MAX - 0xedc;
        let found = wrong(&Registration { addr, ..good });
        assert_eq!(found, [libc::EINVAL]);
        let addr = user_end() + 0x123;
        let found = wrong(&Registration { addr, ..good });
        assert_eq!(found, [libc::EFAULT]);
        let access = REMOTE_ATOMIC | ON_DEMAND;
        assert_eq!(wrong(&Registration { access, ..good }), [libc::EINVAL]);
        let access = good.access | ZERO_BASED;
        assert_eq!(wrong(&Registration { access, ..good }), [libc::EOPNOTSUPP]);
    }

    #[test]
    fn an_answer_is_right_only_if_it_is_expected() {
        assert!(judge(Ok(1), &[]).is_ok_and(|made| made == Some(1)));
        assert!(judge::<u32>(Err(libc::EINVAL), &[libc::EPERM, libc::EINVAL]).is_ok());
        assert!(judge(Ok(1), &[libc::EINVAL]).is_err());
        assert!(judge::<u32>(Err(libc::EINVAL), &[]).is_err());
        assert!(judge::<u32>(Err(libc::EFAULT), &[libc::EINVAL]).is_err());
    }
}
