// SPDX-License-Identifier: GPL-2.0
//! What the options of `run` mean, and whether this machine can do it: asked before anything is measured.

use anyhow::{bail, ensure, Result};
use odp_bench::{
    placement::Placement,
    shape::{self, Shape, Until},
    support, Bench, Case, Options, TRAFFIC,
};
use odp_fixture::env::Env;
use odp_verbs::Transport;

use crate::arguments::{self, Connection, Messages, Operation};

/// The options of `messages` that were given.
fn given(messages: &Messages) -> Vec<&'static str> {
    let all = [
        ("--size", !messages.size.is_empty()),
        ("--op", messages.op.is_some()),
        ("--connection", messages.connection.is_some()),
        ("--qp", messages.qp.is_some()),
        ("--tx-depth", messages.tx_depth.is_some()),
        ("--inline-size", messages.inline_size.is_some()),
        ("--iters", messages.iters.is_some()),
        ("--duration", messages.duration.is_some()),
    ];
    let given = all.into_iter().filter(|(_, given)| *given);
    given.map(|(name, _)| name).collect()
}

/// The suite whose pages come late.
const LATE: &str = "late";

/// The suites that have no access before those that are measured: each sample has an untouched region, or is of many.
const NOT_WARMED_UP: [&str; 4] = ["registration", "stream", "churn", "storm"];

/// The suites to run: those that are named; where messages are described and none is named, that which sends them.
pub fn names(arguments: &arguments::Run) -> Result<Vec<String>> {
    let options = given(&arguments.messages);
    if arguments.server {
        return match options.first().copied().or(measuring(arguments)) {
            Some(option) => {
                bail!("{option} says what is measured: give it to the one that measures")
            }
            None => Ok(Vec::new()),
        };
    }
    let named = |suites: &[&str]| {
        let suite = |name: &String| name.split('/').next().is_some_and(|s| suites.contains(&s));
        arguments
            .names
            .iter()
            .filter(move |name| suite(name))
            .count()
    };
    let (all, names) = (arguments.names.len(), arguments.names.join(" and "));
    if !arguments.delay.is_empty() && all > 0 && named(&[LATE]) == 0 {
        bail!("--delay is for the suite {LATE}; {names} withholds no page");
    }
    if arguments.warm_up.is_some() && all > 0 && named(&NOT_WARMED_UP) == all {
        bail!("--warm-up: {names} has no access before those that are measured");
    }
    match options.first() {
        Some(_) if all == 0 => Ok(vec![TRAFFIC.into()]),
        Some(option) if named(&[TRAFFIC]) == 0 => bail!(
            "{option} describes the messages of the suite {TRAFFIC}; those of {names} are always the same"
        ),
        _ => Ok(arguments.names.clone()),
    }
}

/// The first option that is given of those that say how to measure, of which there are none for a server.
fn measuring(arguments: &arguments::Run) -> Option<&'static str> {
    let all = [
        ("--delay", !arguments.delay.is_empty()),
        ("--warm-up", arguments.warm_up.is_some()),
        ("--effort", arguments.effort.is_some()),
        ("--time", arguments.time.is_some()),
        ("--instruction", arguments.instruction.is_some()),
        ("--quiet", arguments.quiet),
    ];
    all.into_iter()
        .find(|(_, given)| *given)
        .map(|(name, _)| name)
}

/// How to measure; where is not known yet.
pub fn options(arguments: &arguments::Run) -> Result<Options> {
    ensure!(
        arguments.folder.is_dir(),
        "--folder {}: not a folder",
        arguments.folder.display()
    );
    Ok(Options {
        aligned: arguments.aligned,
        effort: arguments.effort.unwrap_or(1.0),
        folder: arguments.folder.clone(),
        warm_up: arguments.warm_up,
        shape: shape(&arguments.messages)?,
        instruction: arguments.instruction,
        place: String::new(),
        delays: match arguments.delay.as_slice() {
            [] => odp_bench::DELAYS.to_vec(),
            delays => each_once(delays),
        },
    })
}

fn shape(messages: &Messages) -> Result<Shape> {
    let operation = match messages.op {
        None | Some(Operation::Write) => shape::Operation::Write,
        Some(Operation::Read) => shape::Operation::Read,
        Some(Operation::Send) => shape::Operation::Send,
        Some(Operation::CmpAndSwap) => shape::Operation::CompareSwap,
    };
    let transport = match messages.connection {
        None | Some(Connection::Rc) => Transport::Rc,
        Some(Connection::Uc) => Transport::Uc,
        Some(Connection::Ud) => Transport::Ud,
        Some(Connection::Xrc) => Transport::Xrc,
        Some(Connection::Dc) => Transport::Dc,
    };
    let sizes = match (messages.size.as_slice(), operation) {
        ([], shape::Operation::CompareSwap) => vec![8],
        ([], _) => vec![64],
        (sizes, _) => each_once(sizes),
    };
    let until = messages.iters.map(Until::Messages);
    Ok(Shape {
        operation,
        transport,
        sizes,
        qps: messages.qp.unwrap_or(1),
        depth: messages.tx_depth.unwrap_or(1),
        inline: messages.inline_size.unwrap_or(0),
        until: until.or(messages.duration.map(Until::Seconds)),
    })
}

/// Two series of one size, or of one delay, would have one name.
fn each_once<T: Copy + PartialEq>(all: &[T]) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(one) {
            once.push(*one);
        }
    }
    once
}

/// Where to run.
pub fn placement(arguments: &arguments::Run) -> Placement {
    let place = &arguments.place;
    match (&place.cpu, place.numa) {
        (Some(cpus), _) => Placement::Cpus(cpus.clone()),
        (None, Some(node)) => Placement::Node(node),
        (None, None) if place.no_pin => Placement::Free,
        (None, None) => Placement::Near,
    }
}

/// The device, its port and the packets.
pub fn open(arguments: &arguments::Run) -> Result<Env> {
    let mut env = Env::open_port(
        arguments.device.first().map(String::as_str),
        arguments.ib_port,
        arguments.gid,
    )?;
    let (device, port) = (env.context.name(), env.context.port());
    if !env.context.port_is_active()? {
        bail!("port {port} of {device} is not active: `rdma link` says what state it is in");
    }
    if !env.context.odp_caps()?.supported {
        bail!("{device} has no on-demand paging: there is nothing to measure");
    }
    let wanted = arguments.mtu.map(arguments::Mtu::bytes);
    if let Some(mtu) = wanted.and_then(odp_verbs::Mtu::of_bytes) {
        ensure!(
            mtu <= env.mtu,
            "--mtu {}: port {port} of {device} takes packets of at most {} bytes",
            mtu.bytes(),
            env.mtu.bytes()
        );
        env.mtu = mtu;
    }
    Ok(env)
}

/// The device and its port for people.
pub fn described(env: &Env) -> Result<String> {
    let context = &env.context;
    Ok(format!(
        "{} port {} ({}), path MTU {}",
        context.name(),
        context.port(),
        context.link_layer()?,
        env.mtu.bytes()
    ))
}

/// Fails if the machines cannot do what `cases` take.
pub fn check(arguments: &arguments::Run, bench: &Bench, cases: &[Case]) -> Result<()> {
    if let (Some(_), Some(theirs)) = (arguments.mtu, bench.peer_mtu()) {
        ensure!(
            bench.mtu <= theirs,
            "--mtu {}: the peer takes packets of at most {} bytes",
            bench.mtu.bytes(),
            theirs.bytes()
        );
    }
    let traffic = cases.iter().any(|case| case.suite() == TRAFFIC);
    // What is as usual and yet impossible here is skipped, as everywhere else.
    if traffic && !given(&arguments.messages).is_empty() {
        support::check(bench)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn run(words: &str) -> arguments::Run {
        let words = ["odp-bench", "run"]
            .into_iter()
            .chain(words.split_whitespace());
        match Arguments::parse_from(words).command {
            Command::Run(run) => *run,
            _ => unreachable!("it is called run"),
        }
    }

    #[test]
    fn messages_that_are_described_are_those_that_are_sent() {
        assert_eq!(names(&run("-s 64")).unwrap(), [TRAFFIC]);
        assert!(names(&run("")).unwrap().is_empty());
        assert_eq!(names(&run("-s 64 warm traffic/cold")).unwrap().len(), 2);
        let error = names(&run("--tx-depth 2 warm")).unwrap_err().to_string();
        assert!(error.starts_with("--tx-depth describes"), "{error}");
        for option in ["-q 2", "--delay 1ms", "--effort 2", "--time 1m", "--quiet"] {
            assert!(
                names(&run(&format!("--server {option}"))).is_err(),
                "{option}"
            );
        }
        assert!(names(&run("--server")).unwrap().is_empty());
    }

    #[test]
    fn an_option_that_nothing_heeds_is_refused() {
        for words in [
            "--delay 1ms warm",
            "--warm-up 3 storm",
            "--warm-up 3 stream churn",
        ] {
            let error = names(&run(words)).unwrap_err().to_string();
            let option = words.split(' ').next().unwrap();
            assert!(error.starts_with(option), "{error}");
        }
        for words in [
            "--delay 1ms",
            "--delay 1ms warm late/write",
            "--warm-up 3",
            "--warm-up 3 storm warm",
        ] {
            assert!(names(&run(words)).is_ok(), "{words}");
        }
        // Each is a suite.
        for name in NOT_WARMED_UP.iter().chain(&[LATE]) {
            assert!(
                odp_bench::SUITES.iter().any(|suite| suite.name == *name),
                "{name}"
            );
        }
    }

    #[test]
    fn delays_are_as_usual_unless_said_otherwise() {
        let delays = |words: &str| options(&run(words)).unwrap().delays;
        assert_eq!(delays(""), odp_bench::DELAYS);
        let short = std::time::Duration::from_micros(50);
        assert_eq!(delays("--delay 50us,50us"), [short]);
    }

    #[test]
    fn an_atomic_has_its_own_size() {
        let of = |words: &str| shape(&run(words).messages);
        assert_eq!(of("").unwrap(), Shape::default());
        assert_eq!(of("--op cmp-and-swap").unwrap().sizes, [8]);
        assert_eq!(of("-s 4k,64,4096").unwrap().sizes, [4096, 64]);
        assert_eq!(of("-D 2").unwrap().until, Some(Until::Seconds(2.0)));
        assert_eq!(of("-c XRC").unwrap().transport, Transport::Xrc);
        assert_eq!(of("-c dc").unwrap().transport, Transport::Dc);
    }

    #[test]
    fn the_place_is_near_unless_said_otherwise() {
        assert_eq!(placement(&run("")), Placement::Near);
        assert_eq!(placement(&run("--numa 1")), Placement::Node(1));
        assert_eq!(placement(&run("--no-pin")), Placement::Free);
        let cpus = Placement::of_cpus("1-2").unwrap();
        assert_eq!(placement(&run("--cpu 1-2")), Placement::Cpus(cpus));
    }
}
