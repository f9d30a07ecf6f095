// SPDX-License-Identifier: GPL-2.0
//! Bad input: keys that are wrong, rights that are missing, registrations that make no sense.

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, register, Env, Mode};
use odp_verbs::{Access, Op, ProtectionDomain, Remote, Result as VerbsResult, Sge, Span};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::harness::{Test, LOCAL_REFUSED, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("deregistered-key", deregistered),
    Test::data("wrong-key", wrong_key),
    Test::data("other-domain", other_domain),
    Test::data("missing-rights", missing_rights),
    Test::once("bad-registration", bad_registration),
    Test::once("bad-implicit", bad_implicit),
    Test::on_demand("kernel-addresses", kernel_addresses),
    Test::once("register-many", register_many),
];

fn deregistered(env: &Env, mode: Mode) -> Result<()> {
    let (near, memory) = (env.buffer(mode, PAGE)?, anonymous(4 * PAGE)?);
    let (pattern, own) = (Pattern::new(1), [near.sge(0, 64)]);
    let old = env.register(mode, &memory, Access::ALL)?;
    let (remote, local) = (old.remote(memory.at(100)), old.sge(memory.at(100), 64));
    near.fill(pattern, 0, 64);
    env.rc()?.write(near.sge(0, 64), remote)?;
    old.deregister()?;
    memory.write(100, &[0; 64]);
    env.rc()?
        .refused(Op::Write(remote), &own, REMOTE_REFUSED)
        .context("WRITE")?;
    env.rc()?
        .refused(Op::Read(remote), &own, REMOTE_REFUSED)
        .context("READ")?;
    env.rc()?
        .refused(Op::Write(near.remote(0)), &[local], LOCAL_REFUSED)
        .context("local")?;
    ensure!(
        memory.bytes(100, 64) == [0; 64],
        "the memory of the old key was written"
    );
    let new = env.register(mode, &memory, Access::ALL)?;
    env.rc()?
        .write(near.sge(0, 64), new.remote(memory.at(100)))
        .context("registered again")?;
    pattern
        .check(0, &memory.bytes(100, 64))
        .context("registered again")?;
    Ok(())
}

fn wrong_key(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    let own = [near.sge(0, 64)];
    near.fill(Pattern::new(1), 0, PAGE);
    let right = far.remote(0);
    for wrong in [
        0,
        1,
        u32::MAX,
        right.rkey ^ 1,
        right.rkey ^ 0xff,
        right.rkey.wrapping_add(0x1000),
    ] {
        let context = || format!("key {wrong:#x} for {:#x}", right.rkey);
        let remote = Remote {
            rkey: wrong,
            ..right
        };
        env.rc()?
            .refused(Op::Write(remote), &own, REMOTE_REFUSED)
            .with_context(context)?;
        let sge = Sge {
            lkey: wrong,
            ..near.sge(0, 64)
        };
        env.rc()?
            .refused(Op::Write(right), &[sge], LOCAL_REFUSED)
            .with_context(context)?;
    }
    far.check_zero(0, PAGE)?;
    env.rc()?
        .write(near.sge(0, 64), right)
        .context("the right key")?;
    Ok(())
}

/// The key of a region of another protection domain.
fn other_domain(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, PAGE)?;
    let domain = ProtectionDomain::new(&env.context)?;
    let memory = anonymous(PAGE)?;
    let region = register(&domain, mode, &memory, Access::ALL)?;
    let (remote, own) = (region.remote(memory.at(0)), [near.sge(0, 64)]);
    env.rc()?
        .refused(Op::Write(remote), &own, REMOTE_REFUSED)
        .context("WRITE")?;
    env.rc()?
        .refused(Op::Read(remote), &own, REMOTE_REFUSED)
        .context("READ")?;
    let sge = [region.sge(memory.at(0), 64)];
    env.rc()?
        .refused(Op::Write(near.remote(0)), &sge, LOCAL_REFUSED)
        .context("local")?;
    Ok(())
}

fn missing_rights(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, PAGE)?;
    let own = [near.sge(0, 64)];
    let cover = |access| env.cover(mode, anonymous(PAGE)?, access);

    let read_only = cover(Access::READ_ONLY)?;
    let far = read_only.remote(0);
    read_only.fill(Pattern::new(1), 0, PAGE);
    env.rc()?
        .read(far, near.sge(0, 64))
        .context("READ of a region for reading")?;
    near.check(Pattern::new(1), 0, 64)
        .context("READ of a region for reading")?;
    env.rc()?
        .write(read_only.sge(0, 64), near.remote(64))
        .context("WRITE from it")?;
    env.rc()?
        .refused(Op::Write(far), &own, REMOTE_REFUSED)
        .context("WRITE to it")?;
    let add = Op::FetchAdd { at: far, add: 1 };
    env.rc()?
        .refused(add, &[near.sge(0, 8)], REMOTE_REFUSED)
        .context("FETCH_ADD on it")?;
    let into = [read_only.sge(0, 64)];
    env.rc()?
        .refused(Op::Read(near.remote(0)), &into, LOCAL_REFUSED)
        .context("READ into it")?;
    read_only
        .check(Pattern::new(1), 0, PAGE)
        .context("its memory")?;

    let local = cover(Access::LOCAL_WRITE)?;
    env.rc()?
        .read(near.remote(0), local.sge(0, 64))
        .context("READ into a local region")?;
    env.rc()?
        .refused(Op::Write(local.remote(0)), &own, REMOTE_REFUSED)
        .context("WRITE to it")?;
    env.rc()?
        .refused(Op::Read(local.remote(0)), &own, REMOTE_REFUSED)
        .context("READ of it")?;

    let write_only = cover(Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
    env.rc()?
        .write(near.sge(0, 64), write_only.remote(0))
        .context("WRITE to a region for that")?;
    env.rc()?
        .refused(Op::Read(write_only.remote(0)), &own, REMOTE_REFUSED)
        .context("READ of it")?;
    Ok(())
}

/// Registers `span`, which has to be refused with an errno.
fn refused(env: &Env, what: &str, span: Span, access: Access) -> Result<()> {
    // SAFETY: if the span is registered after all, nothing is done with the key.
    match unsafe { env.domain.register_raw(span, access) } {
        Ok(_) => bail!("registered: {what}"),
        Err(error) => {
            ensure!(error.errno().is_some_and(|e| e > 0), "{what}: {error}");
            Ok(())
        }
    }
}

fn bad_registration(env: &Env) -> Result<()> {
    let memory = anonymous(4 * PAGE)?;
    let (addr, len) = (memory.at(0), memory.len());
    let good = Span {
        addr,
        len,
        iova: addr,
    };
    let all = Access::ALL | Access::ON_DEMAND;
    let unknown = Access::from_bits(1 << 18);
    let remote_only = Access::REMOTE_WRITE | Access::ON_DEMAND;
    let atomic_only = Access::REMOTE_ATOMIC | Access::ON_DEMAND;
    refused(env, "remote write without local write", good, remote_only)?;
    refused(env, "remote atomics without local write", good, atomic_only)?;
    refused(env, "an unknown right", good, all | unknown)?;
    refused(
        env,
        "pages that are not huge as huge pages",
        good,
        all | Access::HUGETLB,
    )?;
    refused(
        env,
        "addresses that disagree in the page",
        Span {
            iova: addr + 1,
            ..good
        },
        all,
    )?;
    let end = Span {
        addr: u64::MAX - 0xfff,
        len: 2 * PAGE,
        iova: u64::MAX - 0xfff,
    };
    refused(env, "a range that wraps around", end, all)?;
    let too_long = Span {
        len: usize::MAX - PAGE,
        ..good
    };
    refused(env, "a length that wraps around", too_long, all)?;
    let region = env
        .domain
        .register(&memory, 0..len, all)
        .context("a good one after all that")?;
    region.deregister()?;
    Ok(())
}

fn bad_implicit(env: &Env) -> Result<()> {
    let all = Access::ALL | Access::ON_DEMAND;
    let whole = Span {
        addr: 0,
        len: usize::MAX,
        iova: 0,
    };
    refused(
        env,
        "the address space at another iova",
        Span {
            iova: PAGE as u64,
            ..whole
        },
        all,
    )?;
    refused(
        env,
        "the address space from an address",
        Span {
            addr: PAGE as u64,
            iova: PAGE as u64,
            ..whole
        },
        all,
    )?;
    refused(env, "the address space, pinned", whole, Access::ALL)?;
    let remote_only = Access::REMOTE_WRITE | Access::ON_DEMAND;
    refused(env, "remote write without local write", whole, remote_only)?;
    refused(
        env,
        "an unknown right",
        whole,
        all | Access::from_bits(1 << 18),
    )?;
    if env.context.odp_caps()?.implicit {
        for _ in 0..20 {
            env.new_implicit(Access::ALL)
                .context("a good one after all that")?
                .deregister()?;
        }
    }
    Ok(())
}

/// Addresses that are none of the process's: refused when registered or when used.
fn kernel_addresses(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, PAGE)?;
    let own = [near.sge(0, 64)];
    near.fill(Pattern::new(1), 0, PAGE);
    for addr in [
        0x1000,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        0xffff_ffff_ffff_e000,
    ] {
        let span = Span {
            addr,
            len: PAGE,
            iova: addr,
        };
        let region = match mode {
            Mode::Implicit => env.new_implicit(Access::ALL),
            // SAFETY: a user process has no memory there that could be written.
            _ => unsafe {
                env.domain
                    .register_raw(span, Access::ALL | Access::ON_DEMAND)
            },
        };
        match region {
            Err(error) if mode == Mode::Explicit => {
                ensure!(
                    error.errno().is_some_and(|e| e > 0),
                    "address {addr:#x}: {error}"
                );
            }
            region => {
                let (region, context) = (region?, || format!("address {addr:#x}"));
                let remote = region.remote(addr);
                env.rc()?
                    .refused(Op::Write(remote), &own, REMOTE_REFUSED)
                    .with_context(context)?;
                env.rc()?
                    .refused(Op::Read(remote), &own, REMOTE_REFUSED)
                    .with_context(context)?;
                let sge = [region.sge(addr, 64)];
                env.rc()?
                    .refused(Op::Send, &sge, LOCAL_REFUSED)
                    .with_context(context)?;
            }
        }
    }
    Ok(())
}

/// Many regions over the same memory and over their neighbours.
fn register_many(env: &Env) -> Result<()> {
    let (near, memory) = (env.buffer(Mode::Explicit, PAGE)?, anonymous(64 * PAGE)?);
    let access = Access::ALL | Access::ON_DEMAND;
    let regions = (0..256)
        .map(|i| {
            env.domain
                .register(&memory, i % 32 * PAGE + i..64 * PAGE - i, access)
        })
        .collect::<VerbsResult<Vec<_>>>()?;
    let link = env.rc()?;
    for (i, region) in regions.iter().enumerate().step_by(7) {
        let (pattern, at) = (Pattern::new(i as u64), 40 * PAGE + i);
        near.fill(pattern, 0, 500);
        link.write(near.sge(0, 500), region.remote(memory.at(at)))?;
        pattern
            .check(0, &memory.bytes(at, 500))
            .with_context(|| format!("region {i}"))?;
    }
    memory.unmap(40 * PAGE..42 * PAGE)?;
    for region in regions.iter().step_by(50) {
        let op = Op::Write(region.remote(memory.at(41 * PAGE)));
        env.rc()?.refused(op, &[near.sge(0, 8)], REMOTE_REFUSED)?;
    }
    Ok(())
}
