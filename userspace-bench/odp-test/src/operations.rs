// SPDX-License-Identifier: GPL-2.0
//! Every operation there is, over memory that the NIC has never seen: the requester's on demand,
//! the target's on demand, and both.

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::{Loopback, GRH},
};
use odp_verbs::{Access, Error, Op, QpConfig, Status, Transport};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::harness::{skip, Test};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("capabilities", capabilities),
    Test::data("rc-send", rc_send),
    Test::data("rc-write", rc_write),
    Test::data("rc-write-imm", rc_write_imm),
    Test::data("rc-read", rc_read),
    Test::data("rc-read-untouched", rc_read_untouched),
    Test::data("rc-compare-swap", rc_compare_swap),
    Test::data("rc-fetch-add", rc_fetch_add),
    Test::data("rc-atomic-misaligned", rc_atomic_misaligned),
    Test::data("rc-atomic-write", rc_atomic_write),
    Test::data("rc-flush", rc_flush),
    Test::data("ud-send", ud_send),
    Test::data("uc-write", uc_write),
];

const SIZE: usize = 16 * PAGE;
/// Where the data starts and how much there is: odd, and several packets.
const AT: usize = 3 * PAGE - 5;
const LEN: usize = 2 * PAGE + 11;

/// Which modes the requester's and the target's memory have.
fn sides(mode: Mode) -> [(Mode, Mode); 3] {
    [(mode, Mode::Pinned), (Mode::Pinned, mode), (mode, mode)]
}

/// Calls `test` with fresh memory on both sides, for each combination of modes.
fn on_sides(
    env: &Env,
    mode: Mode,
    access: Access,
    test: impl Fn(&Buffer, &Buffer) -> Result<()>,
) -> Result<()> {
    for (near, far) in sides(mode) {
        let context = || format!("requester's memory {near}, target's {far}");
        let near = env
            .cover(near, anonymous(SIZE)?, access)
            .with_context(context)?;
        let far = env
            .cover(far, anonymous(SIZE)?, access)
            .with_context(context)?;
        test(&near, &far).with_context(context)?;
    }
    Ok(())
}

/// Checks that the data arrived and that nothing else did.
fn arrived(buffer: &Buffer, pattern: Pattern, at: usize, len: usize) -> Result<()> {
    buffer.check(pattern, at, len)?;
    buffer.check_zero(0, at).context("before the data")?;
    buffer
        .check_zero(at + len, SIZE - at - len)
        .context("after the data")?;
    Ok(())
}

fn capabilities(env: &Env) -> Result<()> {
    let caps = env.context.odp_caps()?;
    let (rc, ud) = (caps.rc, caps.ud);
    ensure!(
        rc.send && rc.recv && rc.write && rc.read && rc.atomic,
        "not all of RC: {rc:?}"
    );
    ensure!(ud.send && ud.recv, "not all of UD: {ud:?}");
    ensure!(
        caps.implicit,
        "the capability bit of implicit regions is not set"
    );
    env.implicit()
        .context("the capability bit of implicit regions is set")?;
    Ok(())
}

fn rc_send(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        let pattern = Pattern::new(1);
        near.fill(pattern, AT, LEN);
        let op = Op::SendImm(0x0102_0304);
        let received = env
            .rc()?
            .send(op, &[near.sge(AT, LEN)], &[far.sge(AT, LEN)])?;
        ensure!(
            received.len as usize == LEN,
            "{} bytes received",
            received.len
        );
        ensure!(
            received.imm == Some(0x0102_0304),
            "immediate value {:?}",
            received.imm
        );
        arrived(far, pattern, AT, LEN)
    })
}

fn rc_write(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        write(&env.rc()?, near, far)
    })
}

fn uc_write(env: &Env, mode: Mode) -> Result<()> {
    if !env.context.odp_caps()?.uc.write && mode != Mode::Pinned {
        return Err(skip("the device has no on-demand paging for UC"));
    }
    let link = env.pair(QpConfig::new(Transport::Uc))?;
    on_sides(env, mode, Access::ALL, |near, far| {
        near.fill(Pattern::new(2), AT, LEN);
        // A receive says when the data, sent ahead of it, has arrived.
        link.second.post_recv(1, &[])?;
        link.ok(Op::WriteImm(far.remote(AT), 7), &[near.sge(AT, LEN)])?;
        link.second
            .completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
        arrived(far, Pattern::new(2), AT, LEN)
    })
}

fn write(link: &Loopback, near: &Buffer, far: &Buffer) -> Result<()> {
    let pattern = Pattern::new(3);
    near.fill(pattern, AT, LEN);
    link.write(near.sge(AT, LEN), far.remote(AT))?;
    arrived(far, pattern, AT, LEN)
}

fn rc_write_imm(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        let (link, pattern) = (env.rc()?, Pattern::new(4));
        near.fill(pattern, AT, LEN);
        link.second.post_recv(1, &[])?;
        link.ok(
            Op::WriteImm(far.remote(AT), 0xdead_beef),
            &[near.sge(AT, LEN)],
        )?;
        let told = link
            .second
            .completions()
            .wait(env.patience)?
            .expect(&[Status::SUCCESS])?;
        ensure!(
            told.imm == Some(0xdead_beef),
            "immediate value {:?}",
            told.imm
        );
        arrived(far, pattern, AT, LEN)
    })
}

fn rc_read(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        let pattern = Pattern::new(5);
        far.fill(pattern, AT, LEN);
        env.rc()?.read(far.remote(AT), near.sge(AT, LEN))?;
        arrived(near, pattern, AT, LEN)
    })
}

fn rc_read_untouched(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        near.fill(Pattern::new(6), 0, SIZE);
        env.rc()?.read(far.remote(AT), near.sge(AT, LEN))?;
        near.check_zero(AT, LEN)?;
        near.check(Pattern::new(6), 0, AT)
            .context("before the data")?;
        near.check(Pattern::new(6), AT + LEN, SIZE - AT - LEN)
            .context("after the data")?;
        far.check_zero(0, SIZE).context("what was read")?;
        Ok(())
    })
}

/// Where atomics are tried: at the start, in the middle and at the very end of pages.
const WORDS: [usize; 4] = [0, PAGE - 8, PAGE + 2040, 3 * PAGE + 8];

/// Checks the word at `at` and that those beside it are still zero.
fn word_is(buffer: &Buffer, at: usize, expected: u64) -> Result<()> {
    let found = buffer.memory.word(at);
    ensure!(
        found == expected,
        "the word at {at} is {found:#x}, expected {expected:#x}"
    );
    buffer
        .check_zero(at.saturating_sub(64), at.min(64))
        .context("before the word")?;
    buffer.check_zero(at + 8, 64).context("after the word")?;
    Ok(())
}

fn rc_compare_swap(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        let link = env.rc()?;
        for at in WORDS {
            let new = 0x1122_3344_5566_7788 ^ at as u64;
            let swap = |compare, swap| {
                link.ok(
                    Op::CompareSwap {
                        at: far.remote(at),
                        compare,
                        swap,
                    },
                    &[near.sge(at, 8)],
                )
            };
            swap(0, new)?;
            word_is(far, at, new)?;
            word_is(near, at, 0)?;
            swap(new + 1, 5).context("with another value")?;
            word_is(far, at, new)?;
            word_is(near, at, new)?;
            far.memory.write(at, &[0; 8]);
            near.memory.write(at, &[0; 8]);
        }
        Ok(())
    })
}

fn rc_fetch_add(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        let link = env.rc()?;
        for at in WORDS {
            for (add, before) in [
                (0xff_ffff_ffff, 0),
                (1, 0xff_ffff_ffff),
                (u64::MAX, 1 << 40),
            ] {
                link.ok(
                    Op::FetchAdd {
                        at: far.remote(at),
                        add,
                    },
                    &[near.sge(at, 8)],
                )?;
                word_is(near, at, before)?;
            }
            word_is(far, at, (1 << 40) - 1)?;
            far.memory.write(at, &[0; 8]);
            near.memory.write(at, &[0; 8]);
        }
        Ok(())
    })
}

fn rc_atomic_misaligned(env: &Env, mode: Mode) -> Result<()> {
    on_sides(env, mode, Access::ALL, |near, far| {
        far.fill(Pattern::new(7), 0, PAGE);
        for at in [1, 4, PAGE - 4] {
            let op = Op::FetchAdd {
                at: far.remote(at),
                add: 1,
            };
            let refused = [Status::REM_INV_REQ_ERR, Status::REM_ACCESS_ERR];
            match env.rc()?.refused(op, &[near.sge(0, 8)], &refused) {
                // The library may look at the address already.
                Err(Error::Call {
                    call: "ibv_post_send",
                    errno: libc::EINVAL,
                }) => {}
                result => result.with_context(|| format!("at {at}"))?,
            }
        }
        far.check(Pattern::new(7), 0, PAGE)?;
        Ok(())
    })
}

/// A pair that can do what only the extended interface offers.
pub fn extended(env: &Env) -> Result<Loopback> {
    let config = QpConfig {
        extended: true,
        ..QpConfig::new(Transport::Rc)
    };
    env.pair(config).map_err(unless_extended)
}

/// Skips a test of extended queue pairs if the device has none.
pub fn unless_extended(error: Error) -> anyhow::Error {
    match error {
        Error::Call {
            call: "ibv_create_qp",
            ..
        } if error.is_unsupported() => {
            skip("the device has no extended queue pairs with atomic write and flush")
        }
        error => error.into(),
    }
}

fn rc_atomic_write(env: &Env, mode: Mode) -> Result<()> {
    let link = extended(env)?;
    on_sides(env, mode, Access::ALL, |_, far| {
        for at in WORDS {
            let value = Pattern::new(8)
                .bytes(at as u64, 8)
                .try_into()
                .expect("eight bytes");
            link.ok(
                Op::AtomicWrite {
                    at: far.remote(at),
                    value,
                },
                &[],
            )?;
            word_is(far, at, u64::from_ne_bytes(value))?;
            far.memory.write(at, &[0; 8]);
        }
        Ok(())
    })
}

fn rc_flush(env: &Env, mode: Mode) -> Result<()> {
    let link = extended(env)?;
    on_sides(
        env,
        mode,
        Access::ALL | Access::FLUSH_GLOBAL,
        |near, far| {
            link.ok(
                Op::Flush {
                    at: far.remote(AT),
                    len: LEN,
                },
                &[],
            )
            .context("of untouched memory")?;
            far.check_zero(0, SIZE)?;
            write(&link, near, far)?;
            for (at, len) in [(AT, LEN), (0, 1), (PAGE - 1, 2), (0, SIZE), (SIZE - 1, 1)] {
                let flushed = link.ok(
                    Op::Flush {
                        at: far.remote(at),
                        len,
                    },
                    &[],
                );
                flushed.with_context(|| format!("of {len} bytes at {at}"))?;
            }
            arrived(far, Pattern::new(3), AT, LEN)
        },
    )
}

fn ud_send(env: &Env, mode: Mode) -> Result<()> {
    let link = env.pair(QpConfig::new(Transport::Ud))?;
    let full = env.mtu.bytes();
    on_sides(env, mode, Access::ALL, |near, far| {
        for (seed, (at, len)) in [
            (0, full),
            (1, 1),
            (PAGE - 3, full),
            (4091, 64),
            (2 * PAGE + 63, full - 1),
        ]
        .into_iter()
        .enumerate()
        {
            let context = || format!("{len} bytes at {at}");
            let pattern = Pattern::new(100 + seed as u64);
            near.fill(pattern, at, len);
            // What precedes the data in the receiver's memory is the route it took.
            let to = at + PAGE;
            let sge = far.sge(to - GRH, GRH + len);
            let received = link
                .send(Op::Send, &[near.sge(at, len)], &[sge])
                .with_context(context)?;
            ensure!(
                received.len as usize == GRH + len,
                "{} bytes received",
                received.len
            );
            far.check_from(pattern, at, to, len).with_context(context)?;
            far.memory.write(to - GRH, &vec![0; GRH + len]);
            far.check_zero(0, SIZE).context("outside of the datagram")?;
        }
        Ok(())
    })
}
