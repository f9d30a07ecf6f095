// SPDX-License-Identifier: GPL-2.0
//! The kernel's other interface for registrations, by attributes, where the library writes a command: a
//! region is the same whichever way it came about.

use anyhow::{anyhow, Context as _, Result};
use odp_fixture::env::{anonymous, Env, Mode};
use odp_verbs::{
    uverbs::{self, Registration},
    Access, Op, Remote,
};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::harness::{Test, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::once("by-attributes", by_attributes)];

const SIZE: usize = 8 * PAGE;
/// Far from all memory.
const IOVA: u64 = 0x7700_0000_0000;

/// Memory that is pinned, and that is not, under its own addresses and under others.
fn by_attributes(env: &Env) -> Result<()> {
    let near = env.buffer(Mode::Explicit, SIZE)?;
    for (number, demand) in [Access::NONE, Access::ON_DEMAND].into_iter().enumerate() {
        let memory = anonymous(SIZE)?;
        for iova in [memory.addr(), IOVA] {
            let context = || format!("{demand:?}, iova {iova:#x}");
            let wanted = Registration {
                domain: env.domain.handle(),
                addr: memory.addr(),
                len: SIZE as u64,
                iova,
                access: (Access::ALL | demand).bits(),
            };
            let file = env.context.command_file();
            let errno = |errno| anyhow!(std::io::Error::from_raw_os_error(errno));
            let made = uverbs::register_by_attributes(file, &wanted)
                .map_err(errno)
                .with_context(context)?;
            let at = |offset: usize| Remote {
                addr: iova + offset as u64,
                rkey: made.key,
            };
            let pattern = Pattern::new(number as u64 ^ iova);
            near.fill(pattern, 0, 3 * PAGE);
            let link = env.rc()?;
            link.write(near.sge(0, 3 * PAGE), at(PAGE + 9))
                .with_context(context)?;
            pattern
                .check(0, &memory.bytes(PAGE + 9, 3 * PAGE))
                .with_context(context)?;
            let beyond = Op::Write(at(SIZE - 3));
            link.refused(beyond, &[near.sge(0, 4)], REMOTE_REFUSED)
                .with_context(context)?;
            uverbs::deregister(file, made.handle)
                .map_err(errno)
                .with_context(context)?;
        }
    }
    Ok(())
}
