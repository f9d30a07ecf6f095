// SPDX-License-Identifier: GPL-2.0
//! Pages that do not come: those of a file system whose server does not answer. Who waits for one holds nothing
//! that anybody else waits for, and whatever is taken down meanwhile is gone at once.

mod arrives;
mod both_ends;
mod files;
mod matrix;
mod orphan;
mod others;
mod removal;
mod thousands;
mod victim;

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::Env,
    waiting::{page, Ending, Kind, FILE},
};
use testkit::slow_file::SlowFile;

use crate::harness::{Options, Test};
use victim::{Plan, Victim};

pub use arrives::TESTS as ARRIVES;
pub use both_ends::TESTS as BOTH_ENDS;
pub use files::TESTS as FILES;
pub use matrix::TESTS as MATRIX;
pub use orphan::TESTS as ORPHAN;
pub use others::TESTS as OTHERS;
pub use thousands::TESTS as THOUSANDS;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::once("waiting.sender-goes", sender_goes),
    Test::once("waiting.address-handle", address_handle),
    Test::once("waiting.reset", reset),
];

/// What the parts of these tests begin with.
pub const ROLES: &str = "waiting.";

/// What ought to be over at once is over within this, however busy the machine is. What waits for the page
/// takes for ever, or the fifty seconds after which soft-RoCE gives up.
const PROMPT: Duration = Duration::from_secs(40);
/// How long it may take until a page is asked for.
const ASKED: Duration = Duration::from_secs(20);

/// Plays the part `role` of these tests.
pub fn play(options: &Options, role: &str) -> Result<()> {
    match role {
        victim::ROLE => victim::play(options),
        orphan::ROLE => orphan::play(options),
        thousands::ROLE => thousands::play(options),
        removal::KINDS => removal::kinds(),
        role => {
            if let Some(role) = role.strip_prefix(files::ROLES) {
                files::play(options, role)
            } else if let Some(name) = role.strip_prefix(removal::ROLES) {
                removal::stay(options, name)
            } else {
                others::play(options, role)
            }
        }
    }
}

/// A file that has enough pages for `plan`, all of which are withheld but the first.
fn withheld(kind: Kind, scenes: usize, messages: usize) -> Result<(SlowFile, Plan)> {
    let mut plan = Plan {
        scenes,
        messages,
        ..Plan::new(kind, Default::default())
    };
    let file = SlowFile::new(plan.pages(), FILE).context("a file system of one's own")?;
    file.hold(page(0)..plan.pages());
    plan.file = file.path();
    Ok((file, plan))
}

/// Starts something of `kind`, waits until it waits for its page, and lets `act` look at that. Whatever comes
/// of it, nothing waits for the page any more afterwards.
fn while_waiting(
    env: &Env,
    kind: Kind,
    act: impl FnOnce(&mut Victim, &SlowFile) -> Result<()>,
) -> Result<()> {
    let (file, plan) = withheld(kind, 1, 1)?;
    let victim = Victim::start(env, None, &plan);
    victim.and_then(|mut victim| {
        let asked = file.wait_until_asked(page(0), ASKED);
        let result = asked
            .map_err(Into::into)
            .and_then(|()| act(&mut victim, &file));
        // Before the process is ended, which may be stuck.
        file.give_up();
        result
    })
}

/// Somebody sends to memory whose page does not come, and goes. Then the page comes.
fn sender_goes(env: &Env) -> Result<()> {
    for kind in [Kind::WriteTarget, Kind::Receive] {
        while_waiting(env, kind, |victim, file| {
            victim.ends(Ending::DestroyFirst)?;
            file.release();
            victim.ends(Ending::Nothing)?;
            victim.ends(Ending::Exit)
        })
        .with_context(|| format!("{kind:?}"))?;
    }
    crate::prefetch_pending::works(env)
}

/// The address of a datagram whose data does not come is given up.
fn address_handle(env: &Env) -> Result<()> {
    while_waiting(env, Kind::DatagramSource, |victim, file| {
        victim.ends(Ending::DestroyAddressHandle)?;
        file.release();
        victim.ends(Ending::Exit)
    })?;
    crate::prefetch_pending::works(env)
}

/// A queue pair that waits is reset, or put into the error state: neither does that take long, nor does the
/// process work for it, or afterwards.
fn reset(env: &Env) -> Result<()> {
    let failed: Vec<_> = [Kind::WriteSource, Kind::WriteTarget, Kind::ReadTarget]
        .into_iter()
        .flat_map(|kind| resets(env, kind))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    crate::prefetch_pending::works(env)
}

/// What goes wrong when a queue pair of `kind` is reset.
fn resets(env: &Env, kind: Kind) -> Vec<String> {
    let (first, second) = (
        [Ending::ResetFirst, Ending::FailFirst],
        [Ending::ResetSecond, Ending::FailSecond],
    );
    let endings = match kind {
        Kind::WriteTarget => second,
        _ => first,
    };
    let one = |ending| {
        while_waiting(env, kind, |victim, _| {
            victim.ends(ending)?;
            victim.ends(Ending::Nothing)?;
            victim.ends(Ending::Exit)
        })
        .with_context(|| format!("{kind:?}"))
    };
    let results = endings.map(one);
    let errors = results.into_iter().filter_map(Result::err);
    errors.map(|error| format!("{error:#}")).collect()
}
