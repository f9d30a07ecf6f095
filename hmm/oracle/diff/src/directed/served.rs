// SPDX-License-Identifier: GPL-2.0
//! Memory whose pages a program serves (userfaultfd). Ours waits for them without the mmap lock, and so does C's
//! walk that takes the lock itself; the other one of C's cannot.

use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use testkit::process::{self, End};
use testkit::userfaultfd::{Mode, Userfaultfd};

use super::{some, Check, Lab};
use crate::abi::{State, OURS_FLAT, OURS_RUNS, READ, SNAPSHOT, THEIRS, THEIRS_UNLOCKED, WRITE};
use crate::agree::judge;
use crate::arena::{Span, Zone, HUGE, PAGE};
use crate::memory;
use crate::oracle::{Oracle, Question};

pub(super) const CHECKS: &[Check] = &[
    ("served: ours waits, C finds the pages", ours_waits),
    (
        "served: C waits if it takes the lock itself, ours finds the pages",
        theirs_waits,
    ),
    ("served: C with the lock cannot wait", theirs_cannot),
    (
        "served: a process that is killed ends, whichever walk waits",
        ends_when_killed,
    ),
];

const PAGES: u64 = 5;

/// How long a fault may take to be reported.
const PATIENCE: Duration = Duration::from_secs(20);

fn span() -> Span {
    Zone::Small.span().part(4 * HUGE, PAGES)
}

fn set_up(lab: &mut Lab) -> Result<Userfaultfd> {
    lab.clear()?;
    unserved()
}

fn unserved() -> Result<Userfaultfd> {
    memory::map_private(span())?;
    memory::advise(span(), libc::MADV_NOHUGEPAGE)?;
    let userfault = Userfaultfd::new()?;
    userfault.register(span().start(), span().bytes() as u64, Mode::Missing)?;
    Ok(userfault)
}

/// Serves all pages. Before each, the address space is changed: a walk that waits holds no lock of it.
fn serve(userfault: &Userfaultfd) -> Result<()> {
    let elsewhere = Zone::Small.span().part(0, 1);
    for _ in 0..PAGES {
        let message = userfault.next(PATIENCE)?;
        ensure!(message.mode == Mode::Missing, "a fault of another kind");
        memory::map_private(elsewhere)?;
        memory::unmap(elsewhere)?;
        userfault.give(message.va, &[0x5a; PAGE as usize])?;
    }
    Ok(())
}

/// Asks while somebody serves; both have to find all pages.
fn both_find(lab: &mut Lab, question: &Question) -> Result<()> {
    let userfault = set_up(lab)?;
    let answer = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&userfault));
        let answer = lab.oracle.compare(question);
        let served = server.join();
        served
            .unwrap_or_else(|_| bail!("the server panicked"))
            .context("serving")?;
        answer.context("comparing")
    })?;
    let all = |states: &Vec<State>| {
        let mut states = states.iter();
        states.all(|state| matches!(state, State::Valid { .. }))
    };
    for side in [&answer.ours, &answer.theirs] {
        ensure!(side.as_ref().is_ok_and(all), "{}", some(side));
    }
    if let Err(disagreement) = judge(question, &answer) {
        bail!("{disagreement:?}");
    }
    Ok(())
}

fn ours_waits(lab: &mut Lab) -> Result<()> {
    for (by_runs, policy) in [(false, READ), (false, WRITE), (true, READ), (true, WRITE)] {
        let question = Question {
            by_runs,
            ..Question::uniform(span(), policy)
        };
        both_find(lab, &question)?;
    }
    lab.clear()
}

fn theirs_waits(lab: &mut Lab) -> Result<()> {
    if !lab.unlocked {
        return Ok(());
    }
    for policy in [READ, WRITE] {
        let question = Question {
            ours_first: false,
            unlocked: true,
            ..Question::uniform(span(), policy)
        };
        both_find(lab, &question)?;
    }
    lab.clear()
}

/// C fails at once, and ours is not asked: it would wait. A snapshot asks nobody for anything.
fn theirs_cannot(lab: &mut Lab) -> Result<()> {
    let _userfault = set_up(lab)?;
    for unlocked in [false, lab.unlocked] {
        let question = Question {
            unlocked,
            ..Question::uniform(span(), SNAPSHOT)
        };
        let answer = lab.oracle.compare(&question)?;
        if let Err(disagreement) = judge(&question, &answer) {
            bail!("a snapshot: {disagreement:?}");
        }
    }
    for policy in [READ, WRITE] {
        let result = lab.oracle.walk(span(), THEIRS, policy);
        ensure!(
            result == Err(nix::errno::Errno::EFAULT),
            "C with the lock: {result:?}"
        );
    }
    lab.clear()
}

fn ends_when_killed(lab: &mut Lab) -> Result<()> {
    let theirs = lab.unlocked.then_some(THEIRS_UNLOCKED);
    for side in [OURS_FLAT, OURS_RUNS].into_iter().chain(theirs) {
        for policy in [READ, WRITE] {
            lab.clear()?;
            let walker = process::fork(|| match walk_and_be_killed(side, policy) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error:#}");
                    1
                }
            })?;
            let end = walker.finish(PATIENCE)?;
            ensure!(
                end == End::Signal(libc::SIGKILL),
                "walk {side}, policy {policy}: {end:?}"
            );
        }
    }
    Ok(())
}

/// In a process of its own, which it ends as soon as a walk of it waits for a page. Nobody serves that; only the signal
/// can end the wait.
fn walk_and_be_killed(side: u32, policy: u8) -> Result<()> {
    let userfault = unserved()?;
    let oracle = Oracle::open()?;
    let walker = thread::spawn(move || oracle.walk(span(), side, policy));
    userfault.next(PATIENCE)?;
    ensure!(!walker.is_finished(), "the walk does not wait");
    // SAFETY: A system call without pointers.
    unsafe { libc::raise(libc::SIGKILL) };
    bail!("the process goes on");
}
