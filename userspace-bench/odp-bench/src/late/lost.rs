// SPDX-License-Identifier: GPL-2.0
//! Messages of unreliable transports that are to be received into a late page: nobody asks the sender to come back, so
//! whoever has no room for them until the page is there loses them.

use std::time::Duration;

use anyhow::Result;

use super::stage::{compare, given, written, Stage};
use crate::{lane::LEN, problem::lacking, setting::Bench, target::Target, Cost};
use odp_fixture::{env::Mode, loopback::GRH};
use odp_verbs::{Op, QpConfig, Transport};
use testkit::memory::PAGE;

/// How much longer than the page is late a message may take that is not lost.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// How many of the messages are lost, and how much longer than the page was withheld the others took.
pub(super) fn receive(
    bench: &Bench,
    name: &str,
    mode: Mode,
    transport: Transport,
    delay: Duration,
) -> Result<()> {
    let caps = bench.caps.of(transport);
    if !(caps.send && caps.recv) {
        return Err(lacking(
            "the device has no receives of this transport into on-demand memory",
        ));
    }
    let header = if transport == Transport::Ud { GRH } else { 0 };
    let stage = Stage::new(bench, mode)?;
    let at = stage.at;
    if at < header {
        return Err(lacking(
            "what precedes a datagram is on another page than its data, as --aligned asks",
        ));
    }
    let far = Target::Here(bench, stage.buffer.clone());
    let warm_up = bench.warm_up(1);
    let (mut times, mut lost) = (Vec::new(), Vec::new());
    for round in 0..warm_up + bench.times(Cost::ROUNDS) {
        let seed = round as u64;
        stage.pinned.fill(written(seed), 0, 2 * PAGE);
        // A receive that is left would take the next message.
        let link = stage.link(QpConfig::new(transport))?;
        link.receive(&far, at - header, header + LEN)?;
        let mut arrived = false;
        let beyond = stage.late_if_asked(seed, delay, || {
            link.ok(Op::Send, &[stage.pinned.sge(at, LEN)])?;
            arrived = link.received_within(delay + PATIENCE)?;
            Ok(())
        })?;
        let memory = &stage.buffer.memory;
        if arrived {
            let expected = written(seed).bytes(at as u64, LEN);
            compare(&expected, &memory.bytes(at, LEN), at)?;
            let after = at + LEN;
            let expected = given(seed).bytes(after as u64, PAGE - after);
            compare(&expected, &memory.bytes(after, PAGE - after), after)?;
        }
        if round >= warm_up {
            lost.push(f64::from(u8::from(!arrived)));
            times.extend(beyond.filter(|_| arrived));
        }
    }
    bench.counts_of(format!("{name}/lost"), lost);
    bench.times_of(format!("{name}/beyond"), times);
    Ok(())
}
