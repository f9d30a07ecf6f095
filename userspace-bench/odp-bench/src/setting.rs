// SPDX-License-Identifier: GPL-2.0
//! Where a case is played: the device, the memory that stays registered until the driver's counters have been
//! read, and what was measured.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    ops::Deref,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, Result};
use odp_results::run::{Metric, Missing, Unit};

use super::{
    environment::environment,
    far::Far,
    meters::{self, meters},
    pages::Kind,
    problem::{lacking, Problem},
    shape::Shape,
    target::{Connection, Other, Target},
};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
    peer::Peer,
};
use odp_verbs::{Access, Mtu, OdpCaps, Op, QpConfig, Region, Transport};
use testkit::memory::Mapping;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Each packet's data starts on a page boundary.
    pub aligned: bool,
    /// How many samples, as a share of the usual number.
    pub effort: f64,
    /// Where files for pages that are read from a disk are made.
    pub folder: PathBuf,
    /// How many accesses are not measured before those that are; if not said, as many as a case usually takes.
    pub warm_up: Option<usize>,
    /// The messages of the suite `traffic`.
    pub shape: Shape,
    /// How many nanoseconds the machine's clock goes on with each instruction, if that is what it does.
    pub instruction: Option<u32>,
    /// For how long the suite `late` withholds a page.
    pub delays: Vec<Duration>,
    /// Where this process runs, as its [`Placement`](super::placement::Placement) says.
    pub place: String,
}

/// The device, and what was found out about it.
pub struct Bench {
    env: Env,
    far: Option<Far>,
    /// How to measure.
    pub options: Options,
    /// What the device says it can do; both, if there are two.
    pub caps: OdpCaps,
    kept: RefCell<Vec<Rc<Buffer>>>,
    metrics: RefCell<Vec<Metric>>,
    skipped: RefCell<Vec<Missing>>,
}

impl Deref for Bench {
    type Target = Env;

    fn deref(&self) -> &Env {
        &self.env
    }
}

impl Bench {
    /// On `env` alone.
    pub fn new(env: Env, options: Options) -> Result<Self> {
        let caps = env.context.odp_caps()?;
        Ok(Self {
            env,
            far: None,
            options,
            caps,
            kept: RefCell::default(),
            metrics: RefCell::default(),
            skipped: RefCell::default(),
        })
    }

    /// On `env` and on that of `peer`, who has to [`serve`](super::serve::serve).
    ///
    /// # Errors
    ///
    /// If the peer is no odp-bench of the same version.
    pub fn with_peer(env: Env, options: Options, peer: Peer) -> Result<Self> {
        let mut bench = Self::new(env, options)?;
        let own = bench.own_environment();
        bench.far = Some(Far::new(peer, &bench.env, own, &mut bench.caps)?);
        Ok(bench)
    }

    /// What a reader of the figures has to know of the machine, and of the peer's as `peer NAME`.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let far = self.far.iter().flat_map(|far| &far.environment);
        let far = far.map(|(name, value)| (format!("peer {name}"), value.clone()));
        let mut all = self.own_environment();
        all.extend(far);
        all
    }

    /// The same of this machine alone.
    pub(super) fn own_environment(&self) -> BTreeMap<String, String> {
        let mut all = environment(&self.env);
        all.insert("placement".into(), self.options.place.clone());
        all
    }

    /// The driver's own counters, and those of the peer's as `peer.NAME`.
    pub fn meters(&self) -> BTreeMap<String, u64> {
        let mut all = meters(&self.context);
        if let Some(far) = &self.far {
            let theirs = far.meters().into_iter();
            all.extend(theirs.map(|(name, count)| (format!("peer.{name}"), count)));
        }
        all
    }

    /// Those of this machine's device and port that need no more than files to be read.
    pub(super) fn meters_in_sysfs(&self) -> BTreeMap<String, u64> {
        meters::in_sysfs(&self.context)
    }

    /// Whether there are two machines.
    pub(super) fn is_pair(&self) -> bool {
        self.far.is_some()
    }

    /// The largest packet that the peer takes, if there is one.
    pub fn peer_mtu(&self) -> Option<Mtu> {
        self.far.as_ref().map(|far| far.mtu)
    }

    /// Ends a case that makes sense on one machine only, if there are two.
    pub(super) fn alone(&self) -> Result<()> {
        match self.far {
            None => Ok(()),
            Some(_) => Err(lacking("this is measured on one machine, not on two")),
        }
    }

    /// As many as usually `count`, more or fewer according to the effort; at least one.
    pub(super) fn times(&self, count: usize) -> usize {
        ((count as f64 * self.options.effort).round() as usize).max(1)
    }

    /// How many accesses to make before the first that is measured, where it is usually `count`.
    pub(super) fn warm_up(&self, count: usize) -> usize {
        self.options.warm_up.unwrap_or(count)
    }

    /// Where in the page number `page` an access of a few bytes goes.
    pub(super) fn place(&self, page: usize) -> usize {
        match self.options.aligned {
            true => 0,
            // Odd, and different from page to page.
            false => 13 + 72 * (page % 50),
        }
    }

    /// Records samples. Nothing is recorded of none.
    pub(super) fn record(
        &self,
        name: impl Into<String>,
        unit: Unit,
        size: Option<usize>,
        samples: Vec<f64>,
    ) {
        let size = size.map(|size| size as u64);
        let metric = match self.options.instruction {
            Some(time) if unit == Unit::Nanoseconds => {
                let samples = samples.iter().map(|sample| sample / f64::from(time));
                Metric::new(name, Unit::Instructions, size, samples.collect())
            }
            _ => Metric::new(name, unit, size, samples),
        };
        self.metrics.borrow_mut().extend(metric);
    }

    /// Records times in nanoseconds.
    pub(super) fn times_of(&self, name: impl Into<String>, samples: Vec<f64>) {
        self.record(name, Unit::Nanoseconds, None, samples);
    }

    /// Records how often something happened.
    pub(super) fn counts_of(&self, name: impl Into<String>, samples: Vec<f64>) {
        self.record(name, Unit::Count, None, samples);
    }

    /// Notes that a part of a case takes what is not there.
    pub(super) fn lacks(&self, case: impl Into<String>, why: impl Into<String>) {
        self.skipped.borrow_mut().push(Missing {
            case: case.into(),
            why: why.into(),
        });
    }

    /// Those of `modes` that the device has; of the others it is noted that part `name/MODE` is skipped.
    pub(super) fn modes(&self, name: &str, modes: &[Mode]) -> Vec<Mode> {
        let has = |mode: &&Mode| match self.has(**mode) {
            Ok(()) => true,
            Err(why) => {
                self.lacks(format!("{name}/{mode}"), why);
                false
            }
        };
        modes.iter().filter(has).copied().collect()
    }

    fn has(&self, mode: Mode) -> Result<(), &'static str> {
        match mode {
            Mode::Pinned => Ok(()),
            Mode::Explicit if self.caps.supported => Ok(()),
            Mode::Implicit if self.caps.implicit => Ok(()),
            Mode::Explicit => Err("the device has no on-demand paging"),
            Mode::Implicit => Err("the device has no implicit on-demand paging"),
        }
    }

    /// Ends a case that takes what the device has not.
    pub(super) fn needs(&self, mode: Mode) -> Result<()> {
        self.has(mode).map_err(lacking)
    }

    /// Keeps `buffer` until the case is over.
    pub(super) fn keep(&self, buffer: Buffer) -> Rc<Buffer> {
        let buffer = Rc::new(buffer);
        self.kept.borrow_mut().push(buffer.clone());
        buffer
    }

    /// All of `memory`, registered for everything, until the case is over.
    pub(super) fn cover(&self, mode: Mode, memory: Mapping) -> Result<Rc<Buffer>> {
        self.needs(mode)?;
        let len = memory.len();
        let buffer = self
            .env
            .cover(mode, memory, Access::ALL)
            .map_err(|error| explain(mode, len, error))?;
        Ok(self.keep(buffer))
    }

    /// `len` untouched bytes, registered for everything, until the case is over.
    pub(super) fn buffer(&self, mode: Mode, len: usize) -> Result<Rc<Buffer>> {
        self.cover(mode, anonymous(len)?)
    }

    /// Registers all of `memory`.
    pub(super) fn register(&self, mode: Mode, memory: &Mapping) -> Result<Region> {
        let region = self.env.register(mode, memory, Access::ALL);
        region.map_err(|error| explain(mode, memory.len(), error))
    }

    /// Whether the driver does messages of `len` bytes right, with the packets of this device.
    pub(super) fn allows_message(&self, len: usize) -> Result<()> {
        let packet = self.env.mtu.bytes();
        if self.options.aligned && len > packet && packet < Mtu::ALL[4].bytes() {
            return Err(lacking(format!(
                "a message of {len} bytes is of several packets of {packet}, which --aligned does without; \
                 they start on page boundaries with a path MTU of 4096"
            )));
        }
        Ok(())
    }

    /// A reliable connection to whoever has the targets, with room for `depth` requests.
    pub(super) fn link(&self, depth: u32) -> Result<Connection<'_>> {
        self.link_as(QpConfig {
            depth,
            ..QpConfig::new(Transport::Rc)
        })
    }

    /// The same with a queue pair that is made in another way.
    pub(super) fn link_as(&self, config: QpConfig) -> Result<Connection<'_>> {
        if let Some(far) = &self.far {
            let (link, number) = far.connect(self, config)?;
            let other = Other::There(far, number);
            return Ok(Connection::new(link.qp, other, link.patience));
        }
        let Loopback { first, second, .. } = self.env.pair(config)?;
        Ok(Connection::new(first, Other::Here(second), self.patience))
    }

    /// `len` untouched bytes that accesses may go to, until the case is over.
    pub(super) fn target(&self, mode: Mode, kind: Kind, len: usize) -> Result<Target<'_>> {
        self.needs(mode)?;
        match &self.far {
            Some(far) => {
                let (id, first) = far.map(mode, kind, len)?;
                Ok(Target::There(far, id, first))
            }
            None => Ok(Target::Here(self, self.cover(mode, kind.map(len)?)?)),
        }
    }

    /// Has the peer answer, with a message without data, when it has received so many messages on those of its
    /// connections: each a number and a count. Whether it did is what [`peer_answered`](Self::peer_answered) says.
    pub(super) fn peer_answers(&self, links: Vec<(usize, usize)>) -> Result<()> {
        match &self.far {
            Some(far) => far.answers(links),
            None => bail!("there is no peer"),
        }
    }

    /// Waits until the peer has answered all that it was to answer.
    pub(super) fn peer_answered(&self) -> Result<()> {
        match &self.far {
            Some(far) => far.answered(),
            None => bail!("there is no peer"),
        }
    }

    /// Ends a case: its memory is deregistered, and what it recorded is given out; an error is that of the peer,
    /// if it is gone.
    pub fn finish(&self) -> (Vec<Metric>, Vec<Missing>, Result<()>) {
        self.kept.take().clear();
        let released = self.far.as_ref().map_or(Ok(()), Far::release);
        (self.metrics.take(), self.skipped.take(), released)
    }
}

/// Says what a refused registration means.
fn explain(mode: Mode, len: usize, error: odp_verbs::Error) -> anyhow::Error {
    let Some(errno) = error.errno() else {
        return error.into();
    };
    if mode == Mode::Pinned && errno == libc::ENOMEM {
        if let Some(limit) = locked_memory().filter(|limit| *limit < len as u64) {
            return Problem::LockedMemory {
                limit: limit >> 10,
                needed: (len as u64).div_ceil(1024),
            }
            .into();
        }
    }
    let refused = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::E2BIG];
    if mode != Mode::Pinned && refused.contains(&errno) {
        let size = Unit::Bytes.show(len as f64);
        let why = io::Error::from_raw_os_error(errno);
        return lacking(format!(
            "the driver refuses a {mode} region of {size}: {why}"
        ));
    }
    error.into()
}

/// How many bytes this user may pin, if that is limited.
pub(super) fn locked_memory() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

impl Bench {
    /// Asks for `op` on `sges` of `link`, and gives the nanoseconds until it was complete.
    pub(super) fn timed(
        &self,
        link: &Connection<'_>,
        op: Op,
        sges: &[odp_verbs::Sge],
    ) -> Result<f64> {
        let begun = Instant::now();
        link.ok(op, sges)?;
        Ok(begun.elapsed().as_nanos() as f64)
    }
}
