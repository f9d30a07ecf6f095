// SPDX-License-Identifier: GPL-2.0
//! A page that comes late, and who serves it.

use std::{
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::retries::Retries;
use crate::{
    lane::LEN,
    pages::Kind,
    problem::{lacking, Problem},
    setting::Bench,
    target::Connection,
    Cost,
};
use odp_fixture::env::{Buffer, Mode};
use odp_verbs::QpConfig;
use testkit::{
    memory::{Advice, Mapping, PAGE},
    pattern::Pattern,
    userfault::Userfault,
};

/// Runs the rounds of the case `name`, each with a number, and records what they give: how much longer a request took
/// than its page was withheld, and how often requests were sent again in each, if the device counts that.
pub(super) fn rounds(
    bench: &Bench,
    name: &str,
    mut round: impl FnMut(u64) -> Result<f64>,
) -> Result<()> {
    let warm_up = bench.warm_up(1);
    let (mut times, mut again) = (Vec::new(), Vec::new());
    let mut retries = Retries::new(bench);
    for number in 0..warm_up + bench.times(Cost::ROUNDS) {
        let time = round(number as u64)?;
        let repeated = retries.more();
        if number >= warm_up {
            times.push(time);
            again.extend(repeated);
        }
    }
    bench.times_of(format!("{name}/beyond"), times);
    bench.counts_of(format!("{name}/retransmissions"), again);
    Ok(())
}

/// A page that comes late, with one after it that does not, and pinned memory.
pub(super) struct Stage<'a> {
    bench: &'a Bench,
    pub(super) buffer: Rc<Buffer>,
    faults: Userfault,
    pub(super) pinned: Rc<Buffer>,
    /// Where the bytes of an access are, on the late page and elsewhere.
    pub(super) at: usize,
}

/// What the handler puts into a page.
pub(super) fn given(seed: u64) -> Pattern {
    Pattern::new(2 * seed + 1)
}

/// What an access writes.
pub(super) fn written(seed: u64) -> Pattern {
    Pattern::new(2 * seed + 2)
}

impl<'a> Stage<'a> {
    pub(super) fn new(bench: &'a Bench, mode: Mode) -> Result<Self> {
        bench.alone()?;
        bench.needs(mode)?;
        let memory = Kind::Small.map(2 * PAGE)?;
        let faults = served(&memory)?;
        Ok(Self {
            bench,
            buffer: bench.cover(mode, memory)?,
            faults,
            pinned: bench.buffer(Mode::Pinned, 2 * PAGE)?,
            at: bench.place(7),
        })
    }

    /// Has `act` ask for the page, which comes `delay` later; see [`late`].
    pub(super) fn late(
        &self,
        seed: u64,
        delay: Duration,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<f64> {
        late(&self.buffer.memory, &self.faults, seed, delay, act)
    }

    /// The same where it may be that nobody asks.
    pub(super) fn late_if_asked(
        &self,
        seed: u64,
        delay: Duration,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Option<f64>> {
        late_if_asked(&self.buffer.memory, &self.faults, seed, delay, act)
    }

    /// Checks that the late page holds what it was given, but `LEN` bytes at each of `places` what was written.
    pub(super) fn check(&self, seed: u64, places: &[usize]) -> Result<()> {
        let mut expected = given(seed).bytes(0, PAGE);
        for &at in places {
            expected[at..at + LEN].copy_from_slice(&written(seed).bytes(at as u64, LEN));
        }
        compare(&expected, &self.buffer.memory.bytes(0, PAGE), 0)
    }

    pub(super) fn link(&self, config: QpConfig) -> Result<Connection<'a>> {
        self.bench.link_as(config)
    }
}

/// The handler of the first page's faults.
pub(super) fn served(memory: &Mapping) -> Result<Userfault> {
    Userfault::new(memory, 0..PAGE).map_err(|error| {
        lacking(format!(
            "{error:#}: pages are served by the superuser, or where vm.unprivileged_userfaultfd is 1"
        ))
    })
}

/// Takes the first page away, has `act` ask for it, and serves it after `delay` with what `seed` gives. Gives the
/// nanoseconds that `act` took longer than the page was withheld; nothing if nobody asked for it.
pub(super) fn late_if_asked(
    memory: &Mapping,
    faults: &Userfault,
    seed: u64,
    delay: Duration,
    act: impl FnOnce() -> Result<()>,
) -> Result<Option<f64>> {
    memory.advise(0..PAGE, Advice::DontNeed)?;
    let bytes = given(seed).bytes(0, PAGE);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| serve(faults, delay, &bytes, &over));
        let begun = Instant::now();
        let done = act();
        let took = begun.elapsed();
        over.store(true, Ordering::Release);
        let withheld = serving.join().expect("the handler does not panic");
        done?;
        let beyond = |withheld: Duration| took.as_nanos() as f64 - withheld.as_nanos() as f64;
        Ok(withheld?.map(beyond))
    })
}

/// The same of a page that has to be asked for.
pub(super) fn late(
    memory: &Mapping,
    faults: &Userfault,
    seed: u64,
    delay: Duration,
    act: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let beyond = late_if_asked(memory, faults, seed, delay, act)?;
    beyond.context("nobody asked for the page that is to be late")
}

/// Fails at the first byte that is not as expected.
pub(super) fn compare(expected: &[u8], found: &[u8], offset: usize) -> Result<()> {
    let mut pairs = expected.iter().zip(found).enumerate();
    match pairs.find(|(_, (expected, found))| expected != found) {
        None => Ok(()),
        Some((at, (expected, found))) => Err(Problem::WrongData {
            offset: offset + at,
            what: format!("{found:#04x} instead of {expected:#04x}"),
        }
        .into()),
    }
}

/// Serves one page `delay` after it is asked for, and says how long it was withheld; nothing if it is `over` before
/// anybody asks.
fn serve(
    faults: &Userfault,
    delay: Duration,
    bytes: &[u8],
    over: &AtomicBool,
) -> Result<Option<Duration>> {
    const LOOK: Duration = Duration::from_millis(5);
    let address = loop {
        if let Some(address) = faults.next_within(LOOK)? {
            break address;
        }
        if over.load(Ordering::Acquire) {
            return Ok(None);
        }
    };
    let asked = Instant::now();
    // A sleep is longer than so short a time.
    match delay < Duration::from_micros(200) {
        true => while asked.elapsed() < delay {},
        false => thread::sleep(delay),
    }
    let withheld = asked.elapsed();
    faults.give(address, bytes)?;
    Ok(Some(withheld))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        assert!(compare(&[1, 2, 3], &[1, 2, 3], 8).is_ok());
        let error = compare(&[1, 2, 3], &[1, 9, 3], 8).unwrap_err();
        assert!(matches!(
            error.downcast_ref(),
            Some(Problem::WrongData { offset: 9, .. })
        ));
    }
}
