// SPDX-License-Identifier: GPL-2.0
//! Messages as the options describe them ([`Shape`]), into memory that the NIC has translations for (`warm`) and into
//! memory that it has none for (`cold`), pinned and on demand.
//!
//! A sample is the time from the first post to the last completion of as many messages as are under way at once, for
//! each of them. Of unreliable messages it is the time until they have arrived; between two machines, until the peer
//! has answered on each connection with a message without data (`answered`). Before a READ or an atomic the CPU has written what is there; the pages for a WRITE or a SEND are
//! untouched if they are cold.

use std::{rc::Rc, time::Instant};

use anyhow::{Context as _, Result};
use odp_results::run::Unit;

use super::{
    act::{Act, Piece},
    pages::Kind,
    problem::{lacking, wrong},
    registration::label,
    setting::Bench,
    shape::{Operation, Shape, Until},
    support,
    target::{Connection, Target},
    Case, Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::{self as verbs, Op, Transport};
use testkit::{memory::PAGE, pattern::Pattern};

/// Whether the NIC has translations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Warm,
    Cold,
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, faults, state| {
        let cost = Cost {
            accesses: 3.0 * 3000.0,
            faults,
            ..Cost::NOTHING
        };
        Case::new(name, cost, move |bench| traffic(bench, state))
    };
    vec![
        case("traffic/warm", 0.0, State::Warm),
        case("traffic/cold", 2.0 * 1000.0, State::Cold),
    ]
}

/// What a case takes with the messages of `shape`: what it costs, and seconds that are asked for. The effort is a matter
/// of the first alone, and only if nothing is said of their number or of time.
pub(super) fn cost(usual: Cost, shape: &Shape) -> (Cost, f64) {
    // How many messages there are as a share of those of the usual shape.
    let (messages, seconds) = match shape.until {
        None => (shape.at_once() as f64, 0.0),
        Some(Until::Messages(number)) => (number as f64 / 1000.0, 0.0),
        // Each of three modes.
        Some(Until::Seconds(seconds)) => (0.0, 3.0 * seconds * shape.sizes.len() as f64),
    };
    let sizes = shape.sizes.len() as f64;
    let total: usize = shape.sizes.iter().sum();
    let cost = Cost {
        accesses: usual.accesses * messages * sizes,
        faults: usual.faults * messages * sizes,
        bytes: usual.accesses * messages * total as f64,
        ..Cost::NOTHING
    };
    (cost, seconds)
}

fn traffic(bench: &Bench, state: State) -> Result<()> {
    let shape = &bench.options.shape;
    // What was asked for was checked before the first case: this is for what is as usual, and not to be had here.
    support::check(bench).map_err(|error| lacking(format!("{error:#}")))?;
    for &size in &shape.sizes {
        series(bench, shape, size, state)?;
    }
    Ok(())
}

/// One size: the modes in turns.
fn series(bench: &Bench, shape: &Shape, size: usize, state: State) -> Result<()> {
    let (name, modes): (_, &[Mode]) = match state {
        State::Warm => ("warm", &[Mode::Pinned, Mode::Explicit, Mode::Implicit]),
        State::Cold => ("cold", &Mode::ON_DEMAND),
    };
    let flow = Flow::new(bench, shape, size)?;
    let answered = if flow.is_answered() { "-answered" } else { "" };
    let name = format!("traffic/{}{answered}/{name}", shape.name());
    let mut lanes = Vec::new();
    for mode in bench.modes(&name, modes) {
        let target = bench.target(mode, Kind::Small, flow.len())?;
        lanes.push((mode, target, Vec::new()));
    }
    let warm_up = bench.warm_up(if state == State::Warm { 50 } else { 5 });
    let usual = bench.times(if state == State::Warm { 1000 } else { 200 });
    let (rounds, seconds) = match shape.until {
        None => (usual, f64::INFINITY),
        Some(Until::Messages(number)) => (number.div_ceil(shape.at_once()), f64::INFINITY),
        Some(Until::Seconds(seconds)) => (usize::MAX, seconds),
    };
    let (count, mut spent) = (lanes.len(), 0.0);
    let mut round = 0;
    // Each of the modes has its share of the time, as they take turns.
    while round < warm_up.saturating_add(rounds) && spent < seconds * count as f64 {
        for turn in 0..count {
            let (_, target, times) = &mut lanes[(round + turn) % count];
            let seed = (round * count + turn) as u64;
            let begun = Instant::now();
            let time = flow.run(seed, target, state)?;
            if round >= warm_up {
                times.push(time / shape.at_once() as f64);
                spent += begun.elapsed().as_secs_f64();
            }
        }
        round += 1;
    }
    for (mode, _, times) in lanes {
        let name = format!("{name}/{mode}/{}", label(size));
        bench.record(name, Unit::Nanoseconds, Some(size), times);
    }
    Ok(())
}

/// The connections, where their data comes from or goes to here, and where each message lies.
struct Flow<'a> {
    bench: &'a Bench,
    shape: &'a Shape,
    size: usize,
    links: Vec<Connection<'a>>,
    near: Rc<Buffer>,
}

impl<'a> Flow<'a> {
    fn new(bench: &'a Bench, shape: &'a Shape, size: usize) -> Result<Self> {
        let links = (0..shape.qps).map(|_| bench.link_as(shape.config()));
        let len = shape.stride(size) * shape.at_once();
        Ok(Self {
            bench,
            shape,
            size,
            links: links.collect::<Result<_>>()?,
            // One page more, for what comes before an answer.
            near: bench.buffer(Mode::Pinned, len + PAGE)?,
        })
    }

    /// How much memory the messages of a round take.
    fn len(&self) -> usize {
        self.shape.stride(self.size) * self.shape.at_once()
    }

    /// The connections, and where their messages lie, here as there.
    fn places(&self) -> impl Iterator<Item = (&Connection<'a>, usize)> {
        (0..self.shape.at_once()).map(|number| {
            let link = &self.links[number % self.links.len()];
            let (header, place) = (self.shape.header(), self.bench.place(number));
            let place = match self.shape.operation {
                // Atomics go to eight bytes that lie together.
                Operation::CompareSwap => place / 8 * 8,
                // The data on the boundary, and what comes before it on the page before.
                _ if self.bench.options.aligned && header > 0 => PAGE,
                _ => place + header,
            };
            (link, number * self.shape.stride(self.size) + place)
        })
    }

    fn pieces(&self) -> Vec<Piece> {
        let at = |(_, at)| Piece::at(at, self.size);
        self.places().map(at).collect()
    }

    /// Sends all messages of a round, and gives the nanoseconds until all are complete. What is moved is that of
    /// `seed`.
    fn run(&self, seed: u64, far: &Target<'_>, state: State) -> Result<f64> {
        if state == State::Cold {
            far.does(Act::Discard)?;
        }
        let (old, new) = (2 * seed + 1, 2 * seed + 2);
        match self.shape.operation {
            Operation::Write | Operation::Send => self.fill(new),
            Operation::Read => {
                self.fill(old);
                far.does(Act::Fill(new, self.pieces()))?;
            }
            Operation::CompareSwap => {
                self.fill(0);
                far.does(Act::Fill(old, self.pieces()))?;
            }
        }
        if self.shape.operation == Operation::Send {
            for (link, at) in self.places() {
                let header = self.shape.header();
                link.receive(far, at - header, header + self.size)?;
            }
        }
        let time = self.timed(far, old, new)?;
        match self.shape.operation {
            Operation::Write | Operation::Send => far.does(Act::Check(new, self.pieces()))?,
            Operation::Read => self.check(new)?,
            Operation::CompareSwap => {
                self.check(old)?;
                far.does(Act::Check(new, self.pieces()))?;
            }
        }
        Ok(time)
    }

    fn fill(&self, seed: u64) {
        for (_, at) in self.places() {
            self.near.fill(Pattern::new(seed), at, self.size);
        }
    }

    fn check(&self, seed: u64) -> Result<()> {
        for (_, at) in self.places() {
            let found = self.near.check(Pattern::new(seed), at, self.size);
            found.map_err(|mismatch| wrong(at, mismatch))?;
        }
        Ok(())
    }

    fn timed(&self, far: &Target<'_>, old: u64, new: u64) -> Result<f64> {
        let word = |seed: u64, at: usize| {
            let bytes = Pattern::new(seed).bytes(at as u64, 8);
            u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
        };
        let ops: Vec<_> = self
            .places()
            .map(|(link, at)| {
                let there = far.remote(at);
                let op = match self.shape.operation {
                    // Nobody but the receiver sees when an unreliable message has arrived.
                    Operation::Write if self.shape.transport == Transport::Uc => {
                        Op::WriteImm(there, at as u32)
                    }
                    Operation::Write => Op::Write(there),
                    Operation::Read => Op::Read(there),
                    Operation::Send => Op::Send,
                    Operation::CompareSwap => Op::CompareSwap {
                        at: there,
                        compare: word(old, at),
                        swap: word(new, at),
                    },
                };
                let bytes = match self.shape.inline {
                    0 => Vec::new(),
                    _ => self.near.memory.bytes(at, self.size),
                };
                (link, at, op, bytes)
            })
            .collect();
        if self.unreliable_write() {
            for (link, ..) in &ops {
                link.receive_nothing()?;
            }
        }
        self.expect_answers()?;
        let begun = Instant::now();
        let posted = ops.iter().try_for_each(|(link, at, op, bytes)| {
            let id = *at as u64;
            match self.shape.inline {
                0 => link.qp.post_send(id, *op, &[self.near.sge(*at, self.size)]),
                _ => link.qp.post_inline(id, *op, bytes),
            }
        });
        let ended = posted.and_then(|()| self.ended());
        if self.is_answered() {
            let time = begun.elapsed().as_nanos() as f64;
            // The peer knows better what went wrong, and has to be heard in any case.
            self.bench.peer_answered()?;
            ended?;
            return Ok(time);
        }
        ended?;
        let receives = self.shape.operation == Operation::Send || self.unreliable_write();
        let reliable = self.shape.transport.is_reliable();
        if receives && !reliable {
            self.received()?;
        }
        let time = begun.elapsed().as_nanos() as f64;
        if receives && reliable {
            self.received()?;
        }
        Ok(time)
    }

    /// Waits until all messages of a round are complete, and answered where they are to be.
    fn ended(&self) -> verbs::Result<()> {
        let answers = if self.is_answered() {
            self.links.len()
        } else {
            0
        };
        // Messages and answers may come to an end in any order, and each connection has as many.
        for number in 0..self.shape.at_once() + answers {
            self.links[number % self.links.len()].wait()?;
        }
        Ok(())
    }

    /// Whether the peer has to say when messages have arrived, as nobody here sees it.
    fn is_answered(&self) -> bool {
        self.bench.is_pair() && !self.shape.transport.is_reliable()
    }

    /// Prepares for an answer on each connection, if there are any.
    fn expect_answers(&self) -> Result<()> {
        if !self.is_answered() {
            return Ok(());
        }
        let room = match self.shape.header() {
            0 => vec![],
            header => vec![self.near.sge(self.len(), header)],
        };
        let mut links = Vec::new();
        for link in &self.links {
            link.qp.post_recv(4, &room)?;
            links.extend(link.at_peer().map(|number| (number, self.shape.depth)));
        }
        self.bench.peer_answers(links)
    }

    fn unreliable_write(&self) -> bool {
        (self.shape.operation, self.shape.transport) == (Operation::Write, Transport::Uc)
    }

    /// Waits until the other side has all messages.
    fn received(&self) -> Result<()> {
        for (link, _) in self.places() {
            link.received().context("a message did not arrive")?;
        }
        Ok(())
    }
}
