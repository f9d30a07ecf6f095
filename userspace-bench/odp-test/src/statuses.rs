// SPDX-License-Identifier: GPL-2.0
//! What each operation ends with, on both sides, for each thing that can be wrong with it: as the InfiniBand
//! specification has it (volume 1, 9.9 and 11.6.2), and the table in the book.

use std::{fmt, sync::Arc};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{anonymous, register, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{
    ring::{Request, SendRing},
    Access, CompletionQueue, Error, Op, ProtectionDomain, QpConfig, QueuePair, Remote, Sge, Status,
    Transport,
};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::{
    harness::Test,
    operations::{extended, unless_extended},
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("statuses-local", local),
    Test::data("statuses-local-later", local_later),
    Test::data("statuses-remote", remote),
    Test::data("statuses-receive", receive),
    Test::data("statuses-alignment", alignment),
    Test::data("statuses-unreliable", unreliable),
    Test::once("statuses-rights-of-the-queue-pair", queue_pair_rights),
    Test::once("statuses-takes-no-reads", takes_no_reads),
    Test::once("statuses-takes-many-reads", takes_many_reads),
];

const LEN: usize = 64;
const PATTERN: Pattern = Pattern::new(6);

/// What is wrong with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// There is no such key.
    Key,
    /// The region is of another protection domain.
    Domain,
    /// The region does not give the right.
    Right,
    /// The bytes are past the end of the region.
    Bounds,
    /// Nothing is mapped there any more.
    Gone,
}

const ALL: [Wrong; 5] = [
    Wrong::Key,
    Wrong::Domain,
    Wrong::Right,
    Wrong::Bounds,
    Wrong::Gone,
];

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Memory with something wrong.
struct Bad {
    buffer: Buffer,
    wrong: Wrong,
    _domain: Option<Arc<ProtectionDomain>>,
}

impl Bad {
    /// One whose region has only the right `lesser` where a right is wrong; none if pinned memory cannot be so.
    fn new(env: &Env, mode: Mode, wrong: Wrong, lesser: Access) -> Result<Option<Self>> {
        let memory = anonymous(PAGE)?;
        let mut domain = None;
        let buffer = match wrong {
            Wrong::Gone if mode == Mode::Pinned => return Ok(None),
            Wrong::Right => env.cover(mode, memory, lesser)?,
            Wrong::Domain => {
                let other = ProtectionDomain::new(&env.context)?;
                let region = Arc::new(register(&other, mode, &memory, Access::ALL)?);
                domain = Some(other);
                Buffer {
                    iova: memory.addr(),
                    region,
                    memory,
                }
            }
            _ => env.cover(mode, memory, Access::ALL)?,
        };
        if wrong == Wrong::Gone {
            buffer.memory.unmap(0..PAGE)?;
        }
        Ok(Some(Self {
            buffer,
            wrong,
            _domain: domain,
        }))
    }

    fn offset(&self) -> usize {
        match self.wrong {
            Wrong::Bounds => PAGE,
            _ => 0,
        }
    }

    fn key(&self, key: u32) -> u32 {
        match self.wrong {
            Wrong::Key => key ^ 0x55,
            _ => key,
        }
    }

    fn sge(&self, len: usize) -> Sge {
        let sge = self.buffer.sge(self.offset(), len);
        Sge {
            lkey: self.key(sge.lkey),
            ..sge
        }
    }

    fn remote(&self) -> Remote {
        let remote = self.buffer.remote(self.offset());
        Remote {
            rkey: self.key(remote.rkey),
            ..remote
        }
    }
}

/// The operations that use memory of the requester, and whether they write to it.
fn with_local_memory(at: Remote) -> [(Op, bool, usize); 7] {
    [
        (Op::Send, false, LEN),
        (Op::SendImm(1), false, LEN),
        (Op::Write(at), false, LEN),
        (Op::WriteImm(at, 1), false, LEN),
        (Op::Read(at), true, LEN),
        (Op::FetchAdd { at, add: 0 }, true, 8),
        (
            Op::CompareSwap {
                at,
                compare: 1,
                swap: 2,
            },
            true,
            8,
        ),
    ]
}

/// Runs `test` for each operation and each thing that can be wrong with the requester's memory.
fn each_local(
    env: &Env,
    mode: Mode,
    test: impl Fn(&Loopback, Op, Sge) -> Result<()>,
) -> Result<()> {
    let far = env.buffer(mode, PAGE)?;
    for (op, writes, len) in with_local_memory(far.remote(0)) {
        for wrong in ALL {
            // To be read, memory needs no right.
            if wrong == Wrong::Right && !writes {
                continue;
            }
            let Some(bad) = Bad::new(env, mode, wrong, Access::READ_ONLY)? else {
                continue;
            };
            let link = env.rc()?;
            link.second.post_recv(2, &[far.sge(0, LEN)])?;
            test(&link, op, bad.sge(len)).with_context(|| format!("{op:?}, {wrong}"))?;
            far.check_zero(0, PAGE)?;
        }
    }
    Ok(())
}

/// The requester's own memory: the peer is not told anything.
fn local(env: &Env, mode: Mode) -> Result<()> {
    each_local(env, mode, |link, op, sge| {
        link.refused(op, &[sge], &[Status::LOC_PROT_ERR])?;
        match link.second.completions().poll()? {
            None => Ok(()),
            Some(end) => bail!("the peer has a completion with {}", end.status),
        }
    })
}

/// The same, after requests that are still under way: they end first, and well.
fn local_later(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 64 * PAGE)?, env.buffer(mode, 64 * PAGE)?);
    near.fill(PATTERN, 0, 64 * PAGE);
    each_local(env, mode, |link, op, sge| {
        let whole = near.sge(0, 64 * PAGE);
        link.first
            .post_send(1, Op::Write(far.remote(0)), &[whole])?;
        link.first.post_send(2, op, &[sge])?;
        link.first
            .post_send(3, Op::Write(far.remote(0)), &[whole])?;
        let expected = [Status::SUCCESS, Status::LOC_PROT_ERR, Status::WR_FLUSH_ERR];
        for (id, status) in (1..).zip(expected) {
            let end = link.first.completions().wait(env.patience)?;
            ensure!(end.id == id, "{} ended in the place of {id}", end.id);
            end.expect(&[status])
                .with_context(|| format!("request {id}"))?;
        }
        Ok(())
    })?;
    far.check(PATTERN, 0, 64 * PAGE)?;
    Ok(())
}

/// The responder's memory that a request names: only the receive that an immediate value would have completed knows.
fn remote(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    for wrong in ALL {
        let Some(bad) = Bad::new(env, mode, wrong, Access::LOCAL_WRITE)? else {
            continue;
        };
        let at = bad.remote();
        let value = [9; 8];
        let operations = [
            (Op::Write(at), LEN),
            (Op::WriteImm(at, 1), LEN),
            (Op::Read(at), LEN),
            (Op::FetchAdd { at, add: 1 }, 8),
            (
                Op::CompareSwap {
                    at,
                    compare: 0,
                    swap: 1,
                },
                8,
            ),
            (Op::AtomicWrite { at, value }, 0),
            (Op::Flush { at, len: LEN }, 0),
        ];
        for (op, len) in operations {
            // A FLUSH to visibility does not touch the memory.
            let untouched =
                wrong == Wrong::Gone || wrong == Wrong::Bounds && mode == Mode::Implicit;
            if untouched && matches!(op, Op::Flush { .. }) {
                continue;
            }
            let context = || format!("{op:?}, {wrong}");
            let link = extended(env)?;
            link.second.post_recv(2, &[far.sge(0, LEN)])?;
            link.refused(op, &[near.sge(0, len)], &[Status::REM_ACCESS_ERR])
                .with_context(context)?;
            let receives = match op {
                Op::WriteImm(..) => Status::LOC_ACCESS_ERR,
                _ => Status::WR_FLUSH_ERR,
            };
            let end = link.second.completions().wait(env.patience)?;
            end.expect(&[receives])
                .with_context(|| format!("the receive of {op:?}, {wrong}"))?;
        }
    }
    Ok(())
}

/// The memory of a receive.
fn receive(env: &Env, mode: Mode) -> Result<()> {
    let near = env.buffer(mode, 8 * PAGE)?;
    for wrong in ALL {
        let Some(bad) = Bad::new(env, mode, wrong, Access::READ_ONLY)? else {
            continue;
        };
        for op in [Op::Send, Op::SendImm(1)] {
            let link = env.rc()?;
            link.second.post_recv(2, &[bad.sge(LEN)])?;
            link.refused(op, &[near.sge(0, LEN)], &[Status::REM_OP_ERR])
                .with_context(|| format!("{op:?}, {wrong}"))?;
            let end = link.second.completions().wait(env.patience)?;
            end.expect(&[Status::LOC_PROT_ERR])
                .with_context(|| format!("the receive of {op:?}, {wrong}"))?;
        }
    }
    Ok(())
}

/// Atomics that are not aligned, which the library would not let through.
fn alignment(env: &Env, mode: Mode) -> Result<()> {
    const FETCH_ADD: u32 = 6;
    const ATOMIC_WRITE: u32 = 15;
    let (near, far) = (env.buffer(mode, PAGE)?, env.buffer(mode, PAGE)?);
    let config = QpConfig {
        extended: true,
        ..QpConfig::new(Transport::Rc)
    };
    for opcode in [FETCH_ADD, ATOMIC_WRITE] {
        for offset in [1, 4, 7] {
            let queue = || CompletionQueue::new(&env.context, 2 * config.depth);
            let reported = queue()?;
            let (first, ring) = SendRing::of(&env.context, || {
                QueuePair::new(&env.domain, &reported, env.gid, config)
            })
            .map_err(unless_extended)?;
            let second = QueuePair::new(&env.domain, &queue()?, env.gid, config)?;
            first.connect(&second.endpoint()?, env.mtu)?;
            second.connect(&first.endpoint()?, env.mtu)?;
            let remote = far.remote(offset);
            let pieces = [near.sge(0, 8)];
            let mut request = Request::new(1, opcode, &pieces);
            request = match opcode {
                FETCH_ADD => request.atomic(remote.addr, remote.rkey, 1, 0),
                _ => request.rdma(remote.addr, remote.rkey),
            };
            ring.post(&first, &request, &pieces)?;
            let end = first.completions().wait(env.patience)?;
            end.expect(&[Status::REM_INV_REQ_ERR])
                .with_context(|| format!("operation {opcode} at {offset}"))?;
        }
    }
    far.check_zero(0, PAGE)?;
    Ok(())
}

/// Without acknowledgements a sender does not learn of its peer's failures, and of its own all the same.
fn unreliable(env: &Env, mode: Mode) -> Result<()> {
    let (near, far) = (env.buffer(mode, 2 * PAGE)?, env.buffer(mode, PAGE)?);
    near.fill(PATTERN, 0, 2 * PAGE);
    for transport in [Transport::Uc, Transport::Ud] {
        for wrong in ALL {
            let context = || format!("{transport:?}, {wrong}");
            let Some(bad) = Bad::new(env, mode, wrong, Access::LOCAL_WRITE)? else {
                continue;
            };
            if wrong != Wrong::Right {
                let link = env.pair(QpConfig::new(transport))?;
                link.refused(Op::Send, &[bad.sge(LEN)], &[Status::LOC_PROT_ERR])
                    .with_context(context)?;
            }
            if transport == Transport::Uc {
                let link = env.pair(QpConfig::new(transport))?;
                link.write(near.sge(0, LEN), bad.remote())
                    .with_context(context)?;
                goes_on(&link, &near, &far).with_context(context)?;
            }
        }
    }
    if mode != Mode::Pinned {
        // It is refused when a part of it has been written.
        let half = env.buffer(mode, 2 * PAGE)?;
        half.memory.unmap(PAGE..2 * PAGE)?;
        let link = env.pair(QpConfig::new(Transport::Uc))?;
        link.write(near.sge(0, 2 * PAGE), half.remote(0))?;
        goes_on(&link, &near, &far).context("after half a WRITE")?;
        half.check(PATTERN, 0, PAGE)?;
    }
    Ok(())
}

/// The next messages arrive, of one packet and of several.
fn goes_on(link: &Loopback, near: &Buffer, far: &Buffer) -> Result<()> {
    for len in [LEN, PAGE] {
        far.memory.write(0, &[0; PAGE]);
        link.send(Op::WriteImm(far.remote(0), 1), &[near.sge(0, len)], &[])?;
        far.check(PATTERN, 0, len)?;
    }
    Ok(())
}

/// Operations that the peer's queue pair does not allow are invalid there, whatever the region gives.
fn queue_pair_rights(env: &Env) -> Result<()> {
    let (near, far) = (
        env.buffer(Mode::Explicit, PAGE)?,
        env.buffer(Mode::Explicit, PAGE)?,
    );
    let at = far.remote(0);
    let value = [1; 8];
    for (op, len) in [
        (Op::Write(at), LEN),
        (Op::Read(at), LEN),
        (Op::FetchAdd { at, add: 1 }, 8),
        (Op::AtomicWrite { at, value }, 0),
        (Op::Flush { at, len: LEN }, 0),
    ] {
        let config = QpConfig {
            extended: true,
            rights: Access::NONE,
            ..QpConfig::new(Transport::Rc)
        };
        let link = env.pair(config).map_err(unless_extended)?;
        link.refused(op, &[near.sge(0, len)], &[Status::REM_INV_REQ_ERR])
            .with_context(|| format!("{op:?}"))?;
    }
    far.check_zero(0, PAGE)?;
    Ok(())
}

/// A queue pair that takes no READs has no place for what it would answer to one, nor to its relatives.
fn takes_no_reads(env: &Env) -> Result<()> {
    let (near, far) = (
        env.buffer(Mode::Explicit, PAGE)?,
        env.buffer(Mode::Explicit, PAGE)?,
    );
    far.fill(PATTERN, 0, PAGE);
    let at = far.remote(0);
    let value = [1; 8];
    let operations = [
        (Op::Read(at), LEN),
        (Op::FetchAdd { at, add: 1 }, 8),
        (Op::AtomicWrite { at, value }, 0),
        (Op::Flush { at, len: LEN }, 0),
    ];
    for (op, len) in operations {
        let config = QpConfig {
            extended: true,
            reads: 0,
            ..QpConfig::new(Transport::Rc)
        };
        let link = env.pair(config).map_err(unless_extended)?;
        link.second.post_recv(2, &[])?;
        link.refused(op, &[near.sge(0, len)], &[Status::REM_INV_REQ_ERR])
            .with_context(|| format!("{op:?}"))?;
        let end = link.second.completions().wait(env.patience)?;
        end.expect(&[Status::WR_FLUSH_ERR])
            .with_context(|| format!("the receive of {op:?}"))?;
    }
    near.check_zero(0, PAGE)?;
    far.check(PATTERN, 0, PAGE)?;
    Ok(())
}

/// A queue pair takes as many READs as the device says; more than that is refused, and it is as it was.
fn takes_many_reads(env: &Env) -> Result<()> {
    let near = env.buffer(Mode::Explicit, PAGE)?;
    let rights = Access::ALL | Access::FLUSH_GLOBAL;
    let far = env.cover(Mode::Explicit, anonymous(PAGE)?, rights)?;
    far.fill(PATTERN, 0, PAGE);
    let most = u8::try_from(env.context.limits()?.reads)?;
    let config = |reads| QpConfig {
        extended: true,
        reads,
        ..QpConfig::new(Transport::Rc)
    };
    for reads in [most + 1, most | 0x40 | 1, u8::MAX] {
        match env.pair(config(reads)).map_err(unless_extended) {
            Ok(_) => {
                bail!("a queue pair that takes {reads} READs was made, and the most is {most}")
            }
            Err(error) => {
                let refused = error.downcast_ref::<Error>().and_then(Error::errno);
                ensure!(refused == Some(libc::EINVAL), "{reads} READs: {error:#}");
            }
        }
    }
    let link = env.pair(config(most)).map_err(unless_extended)?;
    // All of them are kept, and the first is forgotten for one more.
    for number in 0..=usize::from(most) {
        let at = far.remote(number);
        link.read(at, near.sge(0, LEN))
            .with_context(|| format!("READ {number}"))?;
        near.check_from(PATTERN, number, 0, LEN)?;
        link.ok(Op::Flush { at, len: LEN }, &[])
            .with_context(|| format!("FLUSH {number}"))?;
    }
    Ok(())
}
