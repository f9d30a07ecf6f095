// SPDX-License-Identifier: GPL-2.0
//! Pages that come late: whatever waited for one goes on, in order, and every byte is where it belongs.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    waiting::{
        page, Extent,
        Kind::{self, *},
        Scene, FILE,
    },
};
use testkit::slow_file::SlowFile;

use super::ASKED;
use crate::harness::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("waiting.arrives.write-source", |env, mode| {
        arrives(env, mode, WriteSource)
    }),
    Test::on_demand("waiting.arrives.send-source", |env, mode| {
        arrives(env, mode, SendSource)
    }),
    Test::on_demand("waiting.arrives.datagram-source", |env, mode| {
        arrives(env, mode, DatagramSource)
    }),
    Test::on_demand("waiting.arrives.read-target", |env, mode| {
        arrives(env, mode, ReadTarget)
    }),
    Test::on_demand("waiting.arrives.atomic-result", |env, mode| {
        arrives(env, mode, AtomicResult)
    }),
    Test::on_demand("waiting.arrives.write-target", |env, mode| {
        arrives(env, mode, WriteTarget)
    }),
    Test::on_demand("waiting.arrives.read-source", |env, mode| {
        arrives(env, mode, ReadSource)
    }),
    Test::on_demand("waiting.arrives.atomic-target", |env, mode| {
        arrives(env, mode, AtomicTarget)
    }),
    Test::on_demand("waiting.arrives.window", |env, mode| {
        arrives(env, mode, Window)
    }),
    Test::on_demand("waiting.arrives.receive", |env, mode| {
        arrives(env, mode, Receive)
    }),
    Test::on_demand("waiting.arrives.shared-receive", |env, mode| {
        arrives(env, mode, SharedReceive)
    }),
    Test::on_demand("waiting.arrives.unreliable-receive", |env, mode| {
        arrives(env, mode, UnreliableReceive)
    }),
    Test::on_demand("waiting.arrives.datagram-receive", |env, mode| {
        arrives(env, mode, DatagramReceive)
    }),
    Test::on_demand("waiting.arrives.unreliable-write-target", |env, mode| {
        arrives(env, mode, UnreliableWriteTarget)
    }),
    Test::on_demand("waiting.arrives.prefetch-and-wait", |env, mode| {
        arrives(env, mode, PrefetchAndWait)
    }),
    Test::on_demand("waiting.arrives.prefetch", |env, mode| {
        arrives(env, mode, Prefetch)
    }),
];

/// How late the page is.
const DELAY: Duration = Duration::from_millis(300);
/// Only the first of these waits for its page; the others follow.
const MESSAGES: usize = 3;

/// A scene whose pages are given up before anything of it is taken down.
struct Held {
    file: SlowFile,
    scene: Scene,
}

fn arrives(env: &Env, mode: Mode, kind: Kind) -> Result<()> {
    let extent = Extent::of(MESSAGES);
    let file = SlowFile::new(extent.file, FILE).context("a file system of one's own")?;
    let scene = Scene::new(env, mode, kind, &file.open()?, extent)?;
    let mut held = Held { file, scene };
    held.file.hold(page(0)..page(1));
    for _ in 0..MESSAGES {
        held.scene.post()?;
    }
    held.file.wait_until_asked(page(0), ASKED)?;
    thread::sleep(DELAY);
    held.scene.check_waits()?;
    held.file.release();
    held.scene.finish(env)
}
