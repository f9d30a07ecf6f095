// SPDX-License-Identifier: GPL-2.0
//! Every way to wait for a page that never comes, and all that can be taken down meanwhile.

use std::time::Instant;

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::Env,
    waiting::{
        Ending,
        Kind::{self, *},
    },
};
use testkit::patience;

use super::{while_waiting, PROMPT};
use crate::{harness::Test, prefetch_pending};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("waiting.matrix.write-source", |env| all(env, WriteSource)),
    Test::once("waiting.matrix.send-source", |env| all(env, SendSource)),
    Test::once("waiting.matrix.datagram-source", |env| {
        all(env, DatagramSource)
    }),
    Test::once("waiting.matrix.read-target", |env| all(env, ReadTarget)),
    Test::once("waiting.matrix.atomic-result", |env| all(env, AtomicResult)),
    Test::once("waiting.matrix.write-target", |env| all(env, WriteTarget)),
    Test::once("waiting.matrix.read-source", |env| all(env, ReadSource)),
    Test::once("waiting.matrix.atomic-target", |env| all(env, AtomicTarget)),
    Test::once("waiting.matrix.window", |env| all(env, Window)),
    Test::once("waiting.matrix.receive", |env| all(env, Receive)),
    Test::once("waiting.matrix.shared-receive", |env| {
        all(env, SharedReceive)
    }),
    Test::once("waiting.matrix.unreliable-receive", |env| {
        all(env, UnreliableReceive)
    }),
    Test::once("waiting.matrix.datagram-receive", |env| {
        all(env, DatagramReceive)
    }),
    Test::once("waiting.matrix.unreliable-write-target", |env| {
        all(env, UnreliableWriteTarget)
    }),
    Test::once("waiting.matrix.prefetch-and-wait", |env| {
        all(env, PrefetchAndWait)
    }),
    Test::once("waiting.matrix.prefetch", |env| all(env, Prefetch)),
];

/// All that can be ended while something of `kind` waits. What is left then goes with the process.
fn all(env: &Env, kind: Kind) -> Result<()> {
    let start = Instant::now();
    let mut failed = Vec::new();
    for ending in Ending::all() {
        // After failures, the rest would take longer than a test may.
        let late = !failed.is_empty() && start.elapsed() > 2 * patience::scaled(PROMPT);
        if late || !ending.concerns(kind) {
            continue;
        }
        let result = while_waiting(env, kind, |victim, _| {
            victim.ends(ending)?;
            match ending {
                Ending::Exit | Ending::Kill => Ok(()),
                _ => victim
                    .ends(Ending::Exit)
                    .with_context(|| format!("after {ending:?}")),
            }
        });
        failed.extend(result.err().map(|error| format!("{error:#}")));
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    prefetch_pending::works(env)
}
