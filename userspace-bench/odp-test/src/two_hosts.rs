// SPDX-License-Identifier: GPL-2.0
//! Tests of two hosts: the same program on both, each with on-demand memory that the other one uses.
//!
//! Both sides do the same at the same time, to each other. What the network loses, doubles or puts in another
//! order is not to be seen here: every byte is where it belongs, and every atomic operation was done once.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    peer::{self, Link, Peer},
};
use odp_verbs::{Access, Op, QpConfig, Remote, Transport};
use testkit::{
    memory::{self, Advice, Backing, Mapping, Protection, PAGE},
    pattern::Pattern,
    process,
};

use crate::harness::{self, Options};

/// How long the other side may take for its part of a step, and a completion for its way over a bad network.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done to the other host, and by it.
type Test = (&'static str, fn(&mut Scene<'_>) -> Result<()>);

const TESTS: &[Test] = &[
    ("messages", messages),
    ("write", write),
    ("read", read),
    ("atomics", atomics),
    ("invalidation", invalidation),
];

/// Which of the two hosts this is.
pub enum Host<'a> {
    /// The one that is called.
    Listening,
    /// The one that calls, and says what is run.
    Calling(&'a str),
}

/// What a test has.
struct Scene<'a> {
    env: &'a Env,
    peer: &'a mut Peer,
    mode: Mode,
    /// The number of this host, and of the other one. What a host writes is a pattern of its number.
    me: u64,
    other: u64,
}

impl Scene<'_> {
    fn link(&mut self) -> Result<Link> {
        self.peer.link(self.env, QpConfig::new(Transport::Rc))
    }

    /// Untouched memory and the place of the other host's.
    fn memory(&mut self, len: usize) -> Result<(Buffer, Remote)> {
        let buffer = self.env.buffer(self.mode, len)?;
        let remote = self.offer(&buffer)?;
        Ok((buffer, remote))
    }

    /// Tells where `buffer` is and hears where the other host's is.
    fn offer(&mut self, buffer: &Buffer) -> Result<Remote> {
        Ok(self.peer.exchange(&buffer.remote(0))?)
    }
}

/// Runs the tests that `names` begin, all if there are none, on both hosts.
pub fn run(options: &Options, host: Host<'_>, port: u16, names: &[String]) -> ExitCode {
    process::defer_to_kernel();
    harness::exit(run_all(options, host, port, names))
}

fn run_all(options: &Options, host: Host<'_>, port: u16, names: &[String]) -> Result<()> {
    let mut env = options.open()?;
    env.patience = PATIENCE;
    let (mut peer, numbers, names) = match host {
        Host::Listening => {
            let mut peer = Peer::accept(port, PATIENCE).context("waiting for the other host")?;
            let names: Vec<String> = peer.hear().context("what is to be run")?;
            (peer, (1, 2), names)
        }
        Host::Calling(host) => {
            let peer = Peer::connect(host, port, PATIENCE);
            let mut peer = peer.with_context(|| format!("calling {host}"))?;
            let chosen = choose(names)?;
            peer.tell(&chosen)?;
            (peer, (2, 1), chosen)
        }
    };
    for name in names {
        let start = Instant::now();
        run_one(&env, &mut peer, numbers, &name).with_context(|| name.clone())?;
        println!("passed   {name} ({:.1} s)", start.elapsed().as_secs_f64());
    }
    peer.meet("the end")?;
    Ok(())
}

/// The names of tests with their modes.
pub fn names() -> impl Iterator<Item = String> {
    let modes = |name| Mode::ON_DEMAND.map(|mode| format!("{name}.{mode}"));
    TESTS.iter().flat_map(move |(name, _)| modes(*name))
}

fn choose(wanted: &[String]) -> Result<Vec<String>> {
    let chosen: Vec<String> = names()
        .filter(|name| {
            let (test, _) = name.split_once('.').unwrap_or((name, ""));
            wanted.is_empty() || wanted.iter().any(|w| w == name || w == test)
        })
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no test of two hosts is called {}; there are {}",
        wanted.join(" or "),
        names().collect::<Vec<_>>().join(", ")
    );
    Ok(chosen)
}

fn run_one(env: &Env, peer: &mut Peer, (me, other): (u64, u64), name: &str) -> Result<()> {
    let unknown = || format!("this program has no test {name}");
    let (test, mode) = name.split_once('.').with_context(unknown)?;
    let mode = mode.parse().map_err(anyhow::Error::msg)?;
    let (_, test) = TESTS
        .iter()
        .find(|(known, _)| *known == test)
        .with_context(unknown)?;
    let mut scene = Scene {
        env,
        peer,
        mode,
        me,
        other,
    };
    test(&mut scene)?;
    scene.peer.meet(name)?;
    Ok(())
}

/// Messages of many lengths in both directions at once, from and to pages that were just thrown away.
fn messages(scene: &mut Scene<'_>) -> Result<()> {
    const ROUNDS: usize = 40;
    const LONGEST: usize = 40_000;
    const ROOM: usize = 12 * PAGE;
    let link = scene.link()?;
    let out = scene.env.buffer(scene.mode, ROOM)?;
    let into = scene.env.buffer(scene.mode, ROOM)?;
    for round in 0..ROUNDS {
        let (start, len) = (round * 97 % PAGE, 1 + round * 7919 % LONGEST);
        let pattern = |host: u64| Pattern::new(1000 * host + round as u64);
        into.memory.advise(0..ROOM, Advice::DontNeed)?;
        link.qp.post_recv(2, &[into.sge(start, len)])?;
        out.memory.advise(0..ROOM, Advice::DontNeed)?;
        out.fill(pattern(scene.me), start, len);
        link.qp.post_send(1, Op::Send, &[out.sge(start, len)])?;
        let ends = [link.wait()?, link.wait()?];
        let received = ends.iter().find(|end| end.id == 2);
        let received = received.context("two completions of sends")?;
        ensure!(received.len as usize == len, "{received:?} of {len} bytes");
        into.check(pattern(scene.other), start, len)?;
        into.check_zero(0, start)?;
        into.check_zero(start + len, ROOM - start - len)?;
        // The other side's receive for the next round may be late: that is what RNR is for.
    }
    // A queue pair that is gone acknowledges nothing again whose acknowledgement was lost.
    Ok(scene.peer.meet("all received")?)
}

/// Where a piece of data goes: pieces of many lengths, at odd addresses, with a gap after each.
const PIECES: usize = 64;
const SLOT: usize = 8 * PAGE;

fn piece(number: usize) -> (usize, usize) {
    let start = number * SLOT + number * 61 % PAGE;
    (start, 1 + number * 3571 % (6 * PAGE))
}

/// How many requests are under way at once. No more reads or atomics than the queue pairs were made for.
const DEPTH: usize = 8;

/// Does `op` for each number below `count`, several at a time.
fn pipelined(link: &Link, count: usize, mut post: impl FnMut(usize) -> Result<()>) -> Result<()> {
    for number in 0..count {
        if number >= DEPTH {
            link.wait()?;
        }
        post(number)?;
    }
    for _ in 0..count.min(DEPTH) {
        link.wait()?;
    }
    Ok(())
}

/// Checks that `buffer` holds the pieces of `pattern` and nothing else.
fn check_pieces(buffer: &Buffer, pattern: Pattern) -> Result<()> {
    let mut end = 0;
    for number in 0..PIECES {
        let (start, len) = piece(number);
        let place = || format!("piece {number}");
        buffer.check_zero(end, start - end).with_context(place)?;
        buffer.check(pattern, start, len).with_context(place)?;
        end = start + len;
    }
    buffer.check_zero(end, PIECES * SLOT - end)?;
    Ok(())
}

/// Each writes to untouched memory of the other.
fn write(scene: &mut Scene<'_>) -> Result<()> {
    let link = scene.link()?;
    let source = scene.env.buffer(scene.mode, PIECES * SLOT)?;
    let (target, theirs) = scene.memory(PIECES * SLOT)?;
    for round in 0..2 {
        let pattern = |host: u64| Pattern::new(10 * host + round);
        for (start, len) in (0..PIECES).map(piece) {
            source.fill(pattern(scene.me), start, len);
        }
        pipelined(&link, PIECES, |number| {
            let (start, len) = piece(number);
            let op = Op::Write(theirs.plus(start));
            Ok(link.qp.post_send(1, op, &[source.sge(start, len)])?)
        })?;
        scene.peer.meet("written")?;
        check_pieces(&target, pattern(scene.other))?;
        // The next round finds it untouched again.
        target.memory.advise(0..PIECES * SLOT, Advice::DontNeed)?;
        scene.peer.meet("checked")?;
    }
    Ok(())
}

/// Each reads the other's memory into untouched memory of its own.
fn read(scene: &mut Scene<'_>) -> Result<()> {
    let link = scene.link()?;
    let target = scene.env.buffer(scene.mode, PIECES * SLOT)?;
    let (source, theirs) = scene.memory(PIECES * SLOT)?;
    for round in 0..2 {
        let pattern = |host: u64| Pattern::new(10 * host + round);
        source.memory.advise(0..PIECES * SLOT, Advice::DontNeed)?;
        source.fill(pattern(scene.me), 0, PIECES * SLOT);
        scene.peer.meet("filled")?;
        target.memory.advise(0..PIECES * SLOT, Advice::DontNeed)?;
        pipelined(&link, PIECES, |number| {
            let (start, len) = piece(number);
            let op = Op::Read(theirs.plus(start));
            Ok(link.qp.post_send(1, op, &[target.sge(start, len)])?)
        })?;
        check_pieces(&target, pattern(scene.other))?;
        scene.peer.meet("read")?;
    }
    Ok(())
}

/// Each counts in a word of the other's, over two connections at once, and swaps through another word. Done twice
/// or not at all would be seen: a count is returned once, and a swap finds what the one before it left.
fn atomics(scene: &mut Scene<'_>) -> Result<()> {
    const COUNTS: usize = 100;
    let links = [scene.link()?, scene.link()?];
    // A page each for the counter and for the word that is swapped; nobody has touched them.
    let (words, theirs) = scene.memory(2 * PAGE)?;
    let results = scene.env.buffer(scene.mode, 3 * COUNTS * 8)?;
    let place = |link: usize, number: usize| (link * COUNTS + number) * 8;
    for number in 0..COUNTS {
        for (link, at) in links.iter().zip([0, 1].map(|link| place(link, number))) {
            if number >= DEPTH {
                link.wait()?;
            }
            let count = Op::FetchAdd { at: theirs, add: 1 };
            link.qp.post_send(1, count, &[results.sge(at, 8)])?;
        }
    }
    for link in &links {
        for _ in 0..DEPTH {
            link.wait()?;
        }
    }
    let swapped = |number: usize| number as u64 * 0x0101_0101_0101_0101;
    pipelined(&links[0], COUNTS, |number| {
        let swap = Op::CompareSwap {
            at: theirs.plus(PAGE),
            compare: swapped(number),
            swap: swapped(number + 1),
        };
        Ok(links[0]
            .qp
            .post_send(1, swap, &[results.sge(place(2, number), 8)])?)
    })?;
    let found = |link, number| results.memory.word(place(link, number));
    let mut counts = Vec::new();
    for link in 0..2 {
        let own: Vec<u64> = (0..COUNTS).map(|number| found(link, number)).collect();
        ensure!(own.is_sorted(), "counts go back: {own:?}");
        counts.extend(own);
    }
    counts.sort_unstable();
    let expected: Vec<u64> = (0..2 * COUNTS as u64).collect();
    ensure!(counts == expected, "counts are not each once: {counts:?}");
    for number in 0..COUNTS {
        let found = found(2, number);
        ensure!(found == swapped(number), "swap {number} found {found:#x}");
    }
    scene.peer.meet("counted")?;
    let counter = words.memory.word(0);
    ensure!(counter == 2 * COUNTS as u64, "the counter is at {counter}");
    ensure!(
        words.memory.word(PAGE) == swapped(COUNTS),
        "the last swap is lost"
    );
    Ok(())
}

/// Each writes to a file that the other one has mapped, whose pages the other one takes away from its process,
/// and with it from its NIC, all the time: the file keeps what was written.
fn invalidation(scene: &mut Scene<'_>) -> Result<()> {
    const LEN: usize = PIECES * SLOT;
    let link = scene.link()?;
    let source = scene.env.buffer(scene.mode, LEN)?;
    let pattern = Pattern::new(scene.me);
    for (start, len) in (0..PIECES).map(piece) {
        source.fill(pattern, start, len);
    }
    let file = memory::memory_file(LEN)?;
    let mapping = Mapping::new(LEN, Backing::Shared(&file), Protection::ReadWrite)?;
    let target = scene.env.cover(scene.mode, mapping, Access::ALL)?;
    let theirs = scene.offer(&target)?;
    let written = AtomicBool::new(false);
    let times = thread::scope(|scope| -> Result<u32> {
        let taker = scope.spawn(|| -> Result<u32> {
            let mut times = 0;
            while !written.load(Ordering::Relaxed) {
                target.memory.advise(0..LEN, Advice::DontNeed)?;
                times += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(times)
        });
        let write = pipelined(&link, PIECES, |number| {
            let (start, len) = piece(number);
            let op = Op::Write(theirs.plus(start));
            Ok(link.qp.post_send(1, op, &[source.sge(start, len)])?)
        });
        let met = write.and_then(|()| Ok(scene.peer.meet("written")?));
        written.store(true, Ordering::Relaxed);
        let times = taker.join().expect("the thread does not panic");
        met.and(times)
    })?;
    ensure!(times > 0, "the pages were never taken away");
    check_pieces(&target, Pattern::new(scene.other))
}

/// The port if none is given.
pub const PORT: u16 = peer::PORT;
