// SPDX-License-Identifier: GPL-2.0
//! What the superuser sees of the driver: tracepoints and debugfs, and that nobody else does.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    counters,
    env::{Buffer, Env, Mode},
};
use odp_verbs::{Advise, Op, Sge, PREFETCH_FLUSH};
use testkit::{
    memory::{Advice, PAGE},
    patience,
};

use crate::harness::{skip, Test, REMOTE_REFUSED};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::on_demand("trace", traced),
    Test::once("trace-chunks", traced_chunks),
    Test::on_demand("debugfs", debugfs),
    Test::once("debugfs-gone", gone),
    Test::once("debugfs-superuser", superuser),
];

/// The fields of a line, by name.
type Fields = BTreeMap<String, String>;

fn fields(text: &str) -> Fields {
    let pairs = text.split_whitespace().filter_map(|w| w.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Whether `found` has all of these.
fn has(found: &Fields, expected: &[(&str, String)]) -> bool {
    expected
        .iter()
        .all(|(name, value)| found.get(*name) == Some(value))
}

/// Only the superuser may look at what these tests are about.
fn need_superuser() -> Result<()> {
    // SAFETY: asks for a number.
    match unsafe { libc::geteuid() } {
        0 => Ok(()),
        _ => Err(skip("only the superuser may look")),
    }
}

/// The driver's tracepoints, recorded apart from all others while this lives.
struct Tracing {
    instance: PathBuf,
}

impl Tracing {
    const ROOT: &'static str = "/sys/kernel/tracing";

    fn begin() -> Result<Self> {
        let root = Path::new(Self::ROOT);
        if !root.join("events/mlx_odp").is_dir() {
            return Err(skip("the driver has no tracepoints"));
        }
        let name = format!("instances/odp-test-{}", std::process::id());
        let tracing = Self {
            instance: root.join(name),
        };
        fs::create_dir(&tracing.instance).context("an instance of tracing")?;
        tracing.set("events/mlx_odp/enable", "1")?;
        Ok(tracing)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.instance.join(file), value).with_context(|| file.to_owned())
    }

    /// The events so far whose key is `lkey`, in order: each one's name and its fields.
    fn events(&self, lkey: u32) -> Result<Vec<(String, Fields)>> {
        let text = fs::read_to_string(self.instance.join("trace"))?;
        let parse = |line: &str| {
            let (_, event) = line.split_once(": mlx_odp_")?;
            let (name, rest) = event.split_once(": ")?;
            Some((name.to_owned(), fields(rest)))
        };
        let ours = |(_, fields): &(_, Fields)| has(fields, &[("lkey", format!("{lkey:#x}"))]);
        Ok(text.lines().filter_map(parse).filter(ours).collect())
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.set("events/mlx_odp/enable", "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// What an event has to say, beside its key.
type Expected = (&'static str, Vec<(&'static str, String)>);

fn address(far: &Buffer, page: usize) -> String {
    format!("{:#x}", far.memory.at(page * PAGE))
}

fn range(far: &Buffer, pages: Range<usize>) -> String {
    format!("{}-{}", address(far, pages.start), address(far, pages.end))
}

fn fault_begin(far: &Buffer, page: usize, access: &str) -> Expected {
    let fields = vec![
        ("address", address(far, page)),
        ("access", access.to_owned()),
    ];
    ("fault_begin", fields)
}

fn fault_end(far: &Buffer, page: usize, access: &str, pages: u64, result: i32) -> Expected {
    let (_, mut fields) = fault_begin(far, page, access);
    fields.push(("pages", pages.to_string()));
    fields.push(("around", 0.to_string()));
    fields.push(("result", result.to_string()));
    ("fault_end", fields)
}

fn invalidate(far: &Buffer, pages: Range<usize>, event: &str, gone: u64) -> Expected {
    let fields = vec![
        ("range", range(far, pages)),
        ("event", event.to_owned()),
        ("pages", gone.to_string()),
    ];
    ("invalidate", fields)
}

/// The events of a known pattern of accesses, each with what it has to say, and nothing while they are off.
fn traced(env: &Env, mode: Mode) -> Result<()> {
    need_superuser()?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let far = env.buffer(mode, 64 * PAGE)?;
    far.memory.unmap(50 * PAGE..51 * PAGE)?;
    let (link, lkey) = (env.rc()?, far.region.lkey());
    let sge = near.sge(0, 100);
    let tracing = Tracing::begin()?;

    link.write(sge, far.remote(8 * PAGE + 7))?;
    link.write(sge, far.remote(8 * PAGE))?;
    link.read(far.remote(20 * PAGE - 50), sge)?;
    far.memory.advise(8 * PAGE..10 * PAGE, Advice::DontNeed)?;
    let wanted: Sge = far.sge(30 * PAGE, 4 * PAGE);
    let domain = &env.domain;
    domain.advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[wanted])?;
    far.memory.unmap(31 * PAGE..32 * PAGE)?;
    link.refused(Op::Write(far.remote(50 * PAGE)), &[sge], REMOTE_REFUSED)?;

    let prefetched = vec![
        ("range", range(&far, 30..34)),
        ("advice", "write".to_owned()),
        ("pages", 4.to_string()),
        ("result", 0.to_string()),
    ];
    let expected = [
        fault_begin(&far, 8, "write"),
        ("chunk_add", vec![]),
        fault_end(&far, 8, "write", 1, 0),
        fault_begin(&far, 19, "read"),
        fault_end(&far, 19, "read", 2, 0),
        invalidate(&far, 8..10, "clear", 1),
        ("prefetch", prefetched),
        invalidate(&far, 31..32, "unmap", 1),
        fault_begin(&far, 50, "write"),
        fault_end(&far, 50, "write", 0, -libc::EFAULT),
    ];
    let found = tracing.events(lkey)?;
    ensure!(
        found.len() == expected.len(),
        "{} events, not {}: {found:?}",
        found.len(),
        expected.len()
    );
    for ((name, fields), (expected, values)) in found.iter().zip(&expected) {
        ensure!(
            name == expected && has(fields, values),
            "{name} {fields:?}, expected {expected} {values:?}"
        );
        let took = fields.get("ns").and_then(|ns| ns.parse().ok());
        ensure!(
            name != "fault_end" || took > Some(0u64),
            "a fault took {took:?} ns"
        );
    }

    tracing.set("events/mlx_odp/enable", "0")?;
    far.memory.advise(0..30 * PAGE, Advice::DontNeed)?;
    let after = tracing.events(lkey)?.len();
    ensure!(after == expected.len(), "events come though they are off");
    Ok(())
}

/// The part of a region that the NIC has come to goes when nothing is left in it, comes again, and goes with
/// the region.
fn traced_chunks(env: &Env) -> Result<()> {
    need_superuser()?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let far = env.buffer(Mode::Explicit, 64 * PAGE)?;
    let (link, lkey) = (env.rc()?, far.region.lkey());
    let tracing = Tracing::begin()?;
    let seen = || -> Result<Vec<(String, Fields)>> {
        let events = tracing.events(lkey)?.into_iter();
        Ok(events.filter(|(n, _)| n.starts_with("chunk_")).collect())
    };
    let range = ("range", range(&far, 0..64));
    link.write(near.sge(0, 100), far.remote(8 * PAGE))?;
    far.memory.advise(0..64 * PAGE, Advice::DontNeed)?;
    let (start, limit) = (Instant::now(), patience::scaled(Duration::from_secs(30)));
    while seen()?.len() < 2 {
        ensure!(start.elapsed() < limit, "nothing is taken down");
        thread::sleep(Duration::from_millis(20));
    }
    link.write(near.sge(0, 100), far.remote(8 * PAGE))?;
    link.write(near.sge(0, 100), far.remote(18 * PAGE))?;
    drop(far);
    let removed = |why: &str, pages: u64| {
        let fields = [("why", why.to_owned()), ("pages", pages.to_string())];
        ("chunk_remove", Vec::from(fields))
    };
    let expected: [Expected; 4] = [
        ("chunk_add", vec![]),
        removed("reaped", 0),
        ("chunk_add", vec![]),
        removed("deregistered", 2),
    ];
    let found = seen()?;
    let same = |((name, fields), (expected, values)): (&(String, Fields), &Expected)| {
        name == expected && has(fields, values) && has(fields, std::slice::from_ref(&range))
    };
    ensure!(
        found.len() == expected.len() && found.iter().zip(&expected).all(same),
        "{found:?}, expected {expected:?} with {range:?}"
    );
    Ok(())
}

/// Where the files of the device are.
fn folder(env: &Env) -> Result<PathBuf> {
    let root = Path::new("/sys/kernel/debug/mlx_odp");
    if !root.is_dir() {
        return Err(skip("the driver has nothing in debugfs"));
    }
    Ok(root.join(env.context.name()))
}

/// What debugfs says of the region with the key `lkey`.
fn region(env: &Env, lkey: u32) -> Result<Option<Fields>> {
    let text = fs::read_to_string(folder(env)?.join("regions")).context("regions")?;
    let key = [("lkey", format!("{lkey:#x}"))];
    Ok(text.lines().map(fields).find(|fields| has(fields, &key)))
}

/// How many faults the histogram of the device has.
fn in_histogram(env: &Env) -> Result<u64> {
    let text = fs::read_to_string(folder(env)?.join("fault_latency")).context("fault_latency")?;
    let mut sum = 0;
    let mut next = Some("0".to_owned());
    for line in text.lines() {
        let [from, below, count] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("a bucket is {line}");
        };
        ensure!(next.as_deref() == Some(from), "a gap before {line}");
        next = Some(below.to_owned()).filter(|below| below != "-");
        sum += count.parse::<u64>().context(line.to_owned())?;
    }
    ensure!(next.is_none(), "the last bucket has a bound");
    Ok(sum)
}

fn debugfs(env: &Env, mode: Mode) -> Result<()> {
    need_superuser()?;
    let faults = in_histogram(env)?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    let far = env.buffer(mode, 64 * PAGE)?;
    let link = env.rc()?;
    for page in [5, 15, 50] {
        link.write(near.sge(0, 100), far.remote(page * PAGE))?;
    }
    let lkey = far.region.lkey();
    let found = region(env, lkey)?.context("the region is not there")?;
    let span = far.region.span();
    let expected = match mode {
        Mode::Implicit => [0, u64::MAX, 0],
        _ => [span.addr, span.len as u64, span.iova],
    };
    let [va, length, iova] = expected.map(|value| format!("{value:#x}"));
    let mut expected = vec![
        ("pid", std::process::id().to_string()),
        ("kind", mode.to_string()),
        ("access", "write".to_owned()),
        ("va", va),
        ("length", length),
        ("iova", iova),
    ];
    // What netlink says, too.
    let name = env.context.name();
    let counted = counters::of_region(name, lkey).context("the region's counters")?;
    ensure!(
        counted.get("page_faults") == Some(&3),
        "{counted:?} after three faults"
    );
    let counted = counted.iter();
    expected.extend(counted.map(|(name, value)| (name.as_str(), value.to_string())));
    ensure!(
        has(&found, &expected),
        "the region is {found:?}, expected {expected:?}"
    );
    let histogram = found.get("fault_latency").map_or("", String::as_str);
    let buckets = histogram.split(',').filter_map(|b| b.split_once(':'));
    let own: u64 = buckets.filter_map(|(_, n)| n.parse::<u64>().ok()).sum();
    ensure!(own == 3, "{own} of 3 faults are in the region's histogram");
    let all = in_histogram(env)?;
    ensure!(
        all == faults + 3,
        "the device's histogram went from {faults} to {all} faults"
    );
    // And the device's counters are those of sysfs.
    thread::sleep(Duration::from_millis(30));
    let text = fs::read_to_string(folder(env)?.join("counters")).context("counters")?;
    let parse = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let values: counters::Values = text.lines().filter_map(parse).collect();
    let sysfs = counters::of_device(name)?;
    ensure!(values == sysfs, "debugfs has {values:?}, sysfs {sysfs:?}");
    Ok(())
}

fn gone(env: &Env) -> Result<()> {
    need_superuser()?;
    let far = env.buffer(Mode::Explicit, 64 * PAGE)?;
    let lkey = far.region.lkey();
    ensure!(region(env, lkey)?.is_some(), "the region is not there");
    drop(far);
    ensure!(
        region(env, lkey)?.is_none(),
        "the region is there when it is gone"
    );
    let all = fs::read_to_string(folder(env)?.join("regions"))?;
    ensure!(all.is_empty(), "regions of nobody: {all}");
    Ok(())
}

/// Another user does not get to see addresses and keys: not in debugfs, and not by netlink, which anyone may
/// ask for counters.
fn superuser(env: &Env) -> Result<()> {
    need_superuser()?;
    let far = env.buffer(Mode::Explicit, 64 * PAGE)?;
    let near = env.buffer(Mode::Pinned, PAGE)?;
    env.rc()?.write(near.sge(0, 100), far.remote(0))?;
    let file = folder(env)?.join("regions");
    let file = file.to_str().context("a path")?;
    ensure!(
        as_nobody("cat", &[file])?.is_none(),
        "{file} can be read by anyone"
    );
    let secrets = [
        "key".to_owned(),
        format!("{:#x}", far.region.lkey()),
        format!("{:x}", far.memory.addr()),
        far.memory.addr().to_string(),
    ];
    for what in ["resource", "statistic"] {
        let said = as_nobody("rdma", &["-dd", what, "show", "mr"])?
            .with_context(|| format!("nobody may not ask for rdma {what}"))?;
        ensure!(said.contains("mrn"), "rdma {what} says nothing: {said}");
        let told = secrets.iter().find(|secret| said.contains(*secret));
        ensure!(told.is_none(), "rdma {what} tells {told:?}: {said}");
    }
    Ok(())
}

/// What a program run by another user says; `None` if it fails.
fn as_nobody(program: &str, arguments: &[&str]) -> io::Result<Option<String>> {
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    let mut command = Command::new(program);
    let output = command.args(arguments).uid(NOBODY).gid(NOBODY).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(said))
}
