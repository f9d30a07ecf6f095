// SPDX-License-Identifier: GPL-2.0
//! Pages that come late: this process serves them itself (userfaultfd), each a set time after it was asked for.
//!
//! What a NIC does until a page is there differs: it sends RNR NAKs, lets the peer time out, retransmits, holds up what
//! comes after it. The literature found both pitfalls in that: a second request that is lost while the first one waits
//! ("packet damming"), and many queue pairs that retransmit for one page ("packet flood"; Fukuoka, Sato and Taura,
//! *Pitfalls of InfiniBand with On-Demand Paging*, ISPASS 2021). Each sample is how much longer a request took than the
//! page was withheld: what the NIC and its driver add to the wait. How often they retransmitted in a round is told beside
//! it, where the device counts that.

mod lost;
mod retries;
mod stage;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::stage::{compare, given, late, rounds, served, written, Stage};
use super::{
    lane::LEN,
    pages::Kind,
    problem::lacking,
    setting::Bench,
    target::{Connection, Target},
    Case, Cost,
};
use odp_fixture::env::Mode;
use odp_verbs::{Op, QpConfig, Transport};
use testkit::{memory::PAGE, pattern::Pattern};

/// How long a page is withheld, if nothing else is asked for.
pub const DELAYS: [Duration; 3] = [
    Duration::from_micros(10),
    Duration::from_millis(1),
    Duration::from_millis(100),
];

/// How long where it is not what is varied.
const USUAL: Duration = Duration::from_millis(1);

/// How long a responder asks to be left alone, in the encoding of the specification.
const RNR_TIMERS: [(&str, u8); 3] = [("0.01ms", 1), ("0.64ms", 12), ("10.24ms", 20)];

/// How long a requester waits for an answer: 4.096 us, doubled so many times.
const TIMEOUTS: [(&str, u8); 3] = [("4ms", 10), ("67ms", 14), ("268ms", 16)];

/// Which end of a READ has the late page, where two follow each other or many ask for one: what the responder does until
/// it is there is not what the requester does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Far,
    Near,
}

impl End {
    const ALL: [Self; 2] = [Self::Far, Self::Near];

    /// What it adds to a case's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Far => "",
            Self::Near => "-sink",
        }
    }
}

/// How long after a request to the late page another one follows.
const GAPS: [(&str, Duration); 3] = [
    ("0us", Duration::ZERO),
    ("200us", Duration::from_micros(200)),
    ("2ms", Duration::from_millis(2)),
];

const QPS: [usize; 3] = [4, 16, 64];

/// Which memory is late.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The target of a WRITE.
    Write,
    /// The source of a READ.
    Read,
    /// Where a SEND is received.
    Receive,
    /// The requester's own: the source of a WRITE.
    Source,
    /// The requester's own: where a READ goes.
    Sink,
}

impl Place {
    /// Those that every delay is tried with.
    const ALL: [Self; 5] = [
        Self::Write,
        Self::Read,
        Self::Receive,
        Self::Source,
        Self::Sink,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Receive => "receive",
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// What a case does, with its name.
type Measured = Box<dyn Fn(&Bench, &str) -> Result<()>>;

/// A delay as it is part of a name.
fn label(delay: Duration) -> String {
    humantime::format_duration(delay)
        .to_string()
        .replace(' ', "")
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, cost: Cost, run: Measured| {
        let inner = name.clone();
        cases.push(Case::new(name, cost, move |bench| run(bench, &inner)));
    };
    // The waits are what takes time, and they do not depend on the device.
    let waiting =
        |wait: Duration| Cost::of_faults(200.0).with_wait((wait + retries::OLD).as_secs_f64());
    add(
        "late/cpu".into(),
        waiting(Duration::ZERO).withheld(),
        delayed(cpu),
    );
    for mode in Mode::ON_DEMAND {
        for place in Place::ALL {
            let run = delayed(move |bench, name, delay| {
                one(
                    bench,
                    name,
                    mode,
                    place,
                    delay,
                    QpConfig::new(Transport::Rc),
                )
            });
            let name = format!("late/{mode}/{}", place.name());
            add(name, waiting(Duration::ZERO).withheld(), run);
        }
        for (transport, label) in [(Transport::Uc, "uc"), (Transport::Ud, "ud")] {
            let run = delayed(move |bench, name, delay| {
                lost::receive(bench, name, mode, transport, delay)
            });
            let name = format!("late/{mode}/receive-{label}");
            add(name, waiting(Duration::ZERO).withheld(), run);
        }
        for (label, rnr_timer) in RNR_TIMERS {
            let config = QpConfig {
                rnr_timer,
                ..QpConfig::new(Transport::Rc)
            };
            let run = move |bench: &Bench, name: &str| {
                one(bench, name, mode, Place::Write, USUAL, config)
            };
            let name = format!("late/{mode}/rnr-timer/{label}");
            add(name, waiting(USUAL), Box::new(run));
        }
        for (label, timeout) in TIMEOUTS {
            let config = QpConfig {
                timeout: Some(timeout),
                ..QpConfig::new(Transport::Rc)
            };
            let run =
                move |bench: &Bench, name: &str| one(bench, name, mode, Place::Sink, USUAL, config);
            let name = format!("late/{mode}/timeout/{label}");
            add(name, waiting(USUAL), Box::new(run));
        }
        for end in End::ALL {
            for (label, gap) in GAPS {
                let run = move |bench: &Bench, name: &str| second_read(bench, name, mode, end, gap);
                let name = format!("late/{mode}/second-read{}/{label}", end.suffix());
                add(name, waiting(USUAL + gap), Box::new(run));
            }
            for qps in QPS {
                let run = move |bench: &Bench, name: &str| one_page(bench, name, mode, end, qps);
                let name = format!("late/{mode}/one-page{}/{qps}-qps", end.suffix());
                add(name, waiting(USUAL), Box::new(run));
            }
        }
    }
    cases
}

/// `run` with each delay that is asked for, which is then a part of the name.
fn delayed(run: impl Fn(&Bench, &str, Duration) -> Result<()> + 'static) -> Measured {
    Box::new(move |bench: &Bench, name: &str| {
        let mut delays = bench.options.delays.iter();
        delays.try_for_each(|delay| run(bench, &format!("{name}/{}", label(*delay)), *delay))
    })
}

/// The CPU's own touch of the late page: what is in each of the other figures of what serves and what wakes up.
fn cpu(bench: &Bench, name: &str, delay: Duration) -> Result<()> {
    bench.alone()?;
    let memory = Kind::Small.map(PAGE)?;
    let faults = served(&memory)?;
    let at = bench.place(7);
    rounds(bench, name, |seed| {
        let bytes = written(seed).bytes(at as u64, LEN);
        let time = late(&memory, &faults, seed, delay, || {
            memory.write(at, &bytes);
            Ok(())
        })?;
        let mut expected = given(seed).bytes(0, PAGE);
        expected[at..at + LEN].copy_from_slice(&bytes);
        compare(&expected, &memory.bytes(0, PAGE), 0)?;
        Ok(time)
    })
}

/// One request that needs the late page.
fn one(
    bench: &Bench,
    name: &str,
    mode: Mode,
    place: Place,
    delay: Duration,
    config: QpConfig,
) -> Result<()> {
    let stage = Stage::new(bench, mode)?;
    let link = stage.link(config)?;
    let (at, far) = (stage.at, Target::Here(bench, stage.buffer.clone()));
    let (late, pinned) = (&stage.buffer, &stage.pinned);
    rounds(bench, name, |seed| {
        pinned.fill(written(seed), 0, 2 * PAGE);
        let time = stage.late(seed, delay, || {
            match place {
                Place::Write => link.ok(Op::Write(far.remote(at)), &[pinned.sge(at, LEN)])?,
                Place::Read => link.ok(Op::Read(far.remote(at)), &[pinned.sge(at, LEN)])?,
                Place::Source => link.ok(Op::Write(pinned.remote(at)), &[late.sge(at, LEN)])?,
                Place::Sink => link.ok(Op::Read(pinned.remote(at)), &[late.sge(at, LEN)])?,
                Place::Receive => {
                    link.receive(&far, at, LEN)?;
                    link.ok(Op::Send, &[pinned.sge(at, LEN)])?;
                    link.received()?;
                }
            }
            Ok(())
        })?;
        match place {
            Place::Write | Place::Sink | Place::Receive => stage.check(seed, &[at])?,
            Place::Read | Place::Source => {
                let expected = given(seed).bytes(at as u64, LEN);
                compare(&expected, &pinned.memory.bytes(at, LEN), at)?;
            }
        }
        Ok(time)
    })
}

/// A READ that needs the late page at one of its ends, and a while after it one that does not: until both are complete.
fn second_read(bench: &Bench, name: &str, mode: Mode, end: End, gap: Duration) -> Result<()> {
    let stage = Stage::new(bench, mode)?;
    let link = stage.link(QpConfig::new(Transport::Rc))?;
    let (at, pinned) = (stage.at, &stage.pinned);
    let (from, into) = match end {
        End::Far => (&stage.buffer, pinned),
        End::Near => (pinned, &stage.buffer),
    };
    rounds(bench, name, |seed| {
        pinned.fill(written(seed), 0, 2 * PAGE);
        let there = Pattern::new(1000 + seed);
        from.fill(there, PAGE, PAGE);
        // The gap is a part of neither.
        let time = stage.late(seed, USUAL + gap, || {
            let read = |page: usize| {
                let place = page * PAGE + at;
                let op = Op::Read(from.remote(place));
                link.qp.post_send(page as u64, op, &[into.sge(place, LEN)])
            };
            read(0)?;
            let posted = Instant::now();
            while posted.elapsed() < gap {}
            read(1)?;
            link.wait()?;
            link.wait()?;
            Ok(())
        })?;
        match end {
            End::Far => {
                let expected = given(seed).bytes(at as u64, LEN);
                compare(&expected, &pinned.memory.bytes(at, LEN), at)?;
            }
            End::Near => stage.check(seed, &[at])?,
        }
        let second = PAGE + at;
        let expected = there.bytes(second as u64, LEN);
        compare(&expected, &into.memory.bytes(second, LEN), second)?;
        Ok(time)
    })
}

/// Many queue pairs that need one late page at once, each its own part: that which they write to, or that into which they
/// read. Until all are complete.
fn one_page(bench: &Bench, name: &str, mode: Mode, end: End, qps: usize) -> Result<()> {
    if bench.options.aligned {
        return Err(lacking(
            "the parts of a page do not all begin at its boundary, as --aligned asks",
        ));
    }
    let stage = Stage::new(bench, mode)?;
    let links: Vec<Connection<'_>> = (0..qps)
        .map(|_| stage.link(QpConfig::new(Transport::Rc)))
        .collect::<Result<_>>()
        .map_err(|error| lacking(format!("{qps} connections cannot be had: {error:#}")))?;
    let (late, pinned) = (&stage.buffer, &stage.pinned);
    let places: Vec<usize> = (0..qps).map(|number| number * LEN).collect();
    rounds(bench, name, |seed| {
        pinned.fill(written(seed), 0, PAGE);
        let time = stage.late(seed, USUAL, || {
            for (link, &at) in links.iter().zip(&places) {
                let (op, near) = match end {
                    End::Far => (Op::Write(late.remote(at)), pinned),
                    End::Near => (Op::Read(pinned.remote(at)), late),
                };
                link.qp.post_send(at as u64, op, &[near.sge(at, LEN)])?;
            }
            for link in &links {
                link.wait()?;
            }
            Ok(())
        })?;
        stage.check(seed, &places)?;
        Ok(time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_short_names() {
        assert_eq!(DELAYS.map(label), ["10us", "1ms", "100ms"]);
        assert_eq!(label(Duration::from_micros(1500)), "1ms500us");
    }

    #[test]
    fn the_parts_of_a_page_are_all_of_it() {
        assert!(QPS.iter().all(|qps| qps * LEN <= PAGE));
        assert_eq!(QPS[2] * LEN, PAGE);
    }
}
