// SPDX-License-Identifier: GPL-2.0
//! Queue pairs that are reset after a failure and used again.

use anyhow::{ensure, Context as _, Result};
use odp_verbs::{
    env::{Env, Mode},
    memory::PAGE,
    pattern::Pattern,
    verbs::Op,
};

use crate::harness::{Test, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::on_demand("reset-after-failure", reset)];

/// A READ that fails after its first packets; then the same queue pairs do each kind of operation.
fn reset(env: &Env, mode: Mode) -> Result<()> {
    const ROUNDS: u64 = 40;
    let (near, far) = (env.buffer(mode, 8 * PAGE)?, env.buffer(mode, 8 * PAGE)?);
    far.memory.unmap(4 * PAGE..5 * PAGE)?;
    let mut link = env.rc()?;
    let mut sum = 0;
    for round in 0..ROUNDS {
        let context = || format!("round {round}");
        let (from, own) = (far.remote(100), near.sge(100, 6 * PAGE));
        link.refused(Op::Read(from), &[own], REMOTE_REFUSED)
            .with_context(context)?;
        link.restore(env).with_context(context)?;
        let at = far.remote(6 * PAGE);
        let pattern = Pattern::new(round);
        near.fill(pattern, 0, PAGE);
        match round % 4 {
            0 => {
                let own = [near.sge(0, 8)];
                link.ok(Op::FetchAdd { at, add: round + 1 }, &own)?;
                let (before, after) = (near.memory.word(0), far.memory.word(6 * PAGE));
                ensure!(
                    (before, after) == (sum, sum + round + 1),
                    "round {round}: FETCH_ADD of {} to {sum} gave {before} and left {after}",
                    round + 1
                );
                sum = after;
            }
            1 => {
                link.write(near.sge(0, 3000), far.remote(7 * PAGE + 5))?;
                far.check_from(pattern, 0, 7 * PAGE + 5, 3000)
                    .with_context(context)?;
            }
            2 => {
                let to = [far.sge(7 * PAGE + 5, 3000)];
                link.send(Op::Send, &[near.sge(0, 3000)], &to)?;
                far.check_from(pattern, 0, 7 * PAGE + 5, 3000)
                    .with_context(context)?;
            }
            _ => {
                far.fill(pattern, 7 * PAGE, 3000);
                link.read(far.remote(7 * PAGE), near.sge(0, 3000))?;
                near.check_from(pattern, 7 * PAGE, 0, 3000)
                    .with_context(context)?;
            }
        }
    }
    Ok(())
}
