// SPDX-License-Identifier: GPL-2.0
//! Two VMs, between which packets really cross: over a good network, and over one that loses, doubles and
//! reorders them.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::Report;
use super::{Job, Record, Status};
use crate::kernel::Variant;
use crate::klog;
use crate::pair::Pair;
use crate::process;
use crate::script::with_scripts;
use crate::ui::Step;
use crate::vm::{Config, Driver, Outcome, Vm};

/// A test: its name, and what runs as server and as client.
type Row = (&'static str, &'static str, &'static str);

/// On either network.
const ROWS: &[Row] = &[
    (
        "messages",
        "odp-test --listen",
        "odp-test --connect 10.77.0.1 messages",
    ),
    (
        "write",
        "odp-test --listen",
        "odp-test --connect 10.77.0.1 write",
    ),
    (
        "read",
        "odp-test --listen",
        "odp-test --connect 10.77.0.1 read",
    ),
    (
        "atomics",
        "odp-test --listen",
        "odp-test --connect 10.77.0.1 atomics",
    ),
    (
        "invalidation",
        "odp-test --listen",
        "odp-test --connect 10.77.0.1 invalidation",
    ),
    (
        "perftest-write-bw",
        "ib_write_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F",
        "ib_write_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F 10.77.0.1",
    ),
    (
        "perftest-read-bw",
        "ib_read_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F",
        "ib_read_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F 10.77.0.1",
    ),
];

/// On the good network only: these end when they have seen the last message, and whoever has not seen its
/// acknowledgement then never will.
const GOOD_ROWS: &[Row] = &[
    (
        "names",
        "test $(hostname) = testbed1 && getent hosts testbed2 | grep -w 10.77.0.2",
        "test $(hostname) = testbed2 && getent hosts testbed1 | grep -w 10.77.0.1",
    ),
    (
        "rc-pingpong-implicit",
        "ibv_rc_pingpong -d rxe0 -g 1 -c -O -n 200",
        "ibv_rc_pingpong -d rxe0 -g 1 -c -O -n 200 10.77.0.1",
    ),
    (
        "rc-pingpong-explicit",
        "ibv_rc_pingpong -d rxe0 -g 1 -c -o -n 200",
        "ibv_rc_pingpong -d rxe0 -g 1 -c -o -n 200 10.77.0.1",
    ),
    (
        "rping",
        "rping -s -a 10.77.0.1 -C 10 -S 4000 -V",
        "rping -c -a 10.77.0.1 -C 10 -S 4000 -V",
    ),
    // Two machines can measure all of these, so nothing may be skipped; and it is the server's NIC that faults.
    (
        "odp-bench",
        "odp-bench run --server",
        "odp-bench run --connect 10.77.0.1 --effort 0.01 --quiet warm fault/explicit/4k/untouched \
         fault/implicit/thp/resident/random stream/implicit/thp prefetch/implicit/4k storm/explicit/4-qps \
         storm/implicit/64-qps && \
         odp-bench report --counters >report && ! grep ^skipped report && \
         grep 'peer.port.odp_page_faults ' report",
    ),
    // The peer receives, into memory that it has to fault in.
    (
        "odp-bench-send",
        "odp-bench run --server --cpu 0",
        "odp-bench run --connect 10.77.0.1 --quiet --op send -s 64,2k -q 2 -n 8 --warm-up 2 && \
         odp-bench report >report && ! grep ^skipped report && \
         grep '^traffic/send-rc-2-qps/cold/implicit/2KiB ' report",
    ),
    // The peer has to say when such messages have arrived. It has its device and its port told.
    (
        "odp-bench-unreliable",
        "odp-bench run --server && odp-bench run --server -d rxe0 -i 1 -x 1",
        "for message in 'ud --op send -s 64,1k' 'uc --op write -s 2k -m 1024'; do \
         odp-bench run --connect 10.77.0.1 --quiet -c $message -q 2 -n 8 --warm-up 2 && \
         odp-bench report >report && ! grep ^skipped report && \
         grep -E '^traffic/(send-ud|write-uc)-2-qps-answered/cold/implicit/[12]KiB ' report || exit; done",
    ),
];

/// The networks as the guest's `network` calls them, each with its tests.
const NETWORKS: [(&str, &[&[Row]]); 2] = [("good", &[ROWS, GOOD_ROWS]), ("bad", &[ROWS])];

/// All tests with their networks.
fn tests() -> impl Iterator<Item = (&'static str, &'static Row)> {
    NETWORKS.into_iter().flat_map(|(network, rows)| {
        let rows = rows.iter().copied().flatten();
        rows.map(move |row| (network, row))
    })
}

/// After the tests on the bad network: whether it was bad.
const SUFFERED: &str = "bad/suffered";

/// Each takes a few seconds, on the bad network ten; odp-bench takes half a minute.
const LIMIT: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(30);

/// The names of all tests.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = tests()
        .map(|(network, (name, _, _))| full(network, name))
        .collect();
    names.push(format!("pair/{SUFFERED}"));
    names
}

fn full(network: &str, name: &str) -> String {
    format!("pair/{network}/{name}")
}

/// Runs the tests that are wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    let names = names();
    let wanted = |name: &str| job.filter.takes(name) && names.iter().any(|known| known == name);
    if !names.iter().any(|name| wanted(name)) {
        return Ok(());
    }
    let mut tester = Tester { job, pair: None };
    for (network, (name, server, client)) in tests() {
        let name = full(network, name);
        if wanted(&name) {
            report.add(tester.test(&name, network, server, client));
        }
    }
    let name = format!("pair/{SUFFERED}");
    if wanted(&name) {
        report.add(tester.suffered(name));
    }
    report.extend(tester.finish()?);
    Ok(())
}

/// The VMs, booted when they are needed, and again after one has died.
struct Tester<'a> {
    job: &'a Job<'a>,
    pair: Option<Pair>,
}

impl Tester<'_> {
    fn pair(&mut self) -> Result<&mut Pair> {
        let pair = match self.pair.take() {
            Some(pair) => pair,
            None => {
                let step = Step::start("booting two VMs");
                let config = Config {
                    cpus: 1,
                    ..Config::default()
                };
                let pair = Pair::boot(self.job.world, &config, Driver::Ours)?;
                step.done();
                pair
            }
        };
        Ok(self.pair.insert(pair))
    }

    fn test(&mut self, name: &str, network: &str, server: &str, client: &str) -> Record {
        // The boot is not the test's time.
        let started = match self.pair() {
            Ok(_) => Instant::now(),
            Err(error) => return failed(name, None, &error),
        };
        match self.attempt(network, server, client) {
            Ok((status, detail)) => Record {
                name: name.into(),
                status,
                time: Some(started.elapsed()),
                detail,
            },
            Err(error) => {
                self.pair = None;
                failed(name, Some(started.elapsed()), &error)
            }
        }
    }

    /// An error means that the VMs are of no use any more.
    fn attempt(&mut self, network: &str, server: &str, client: &str) -> Result<(Status, String)> {
        let pair = self.pair()?;
        for vm in [&mut pair.first, &mut pair.second] {
            quietly(vm, &format!("network {network}"))?;
        }
        let logs = [pair.first.kernel_log()?, pair.second.kernel_log()?];
        let limit = pair.first.patience(LIMIT);
        let ends = pair.run(server, client, limit)?;
        let mut detail = String::new();
        if !ends.good() {
            for (who, (end, said)) in [("server", ends.server), ("client", ends.client)] {
                let said = String::from_utf8_lossy(&said);
                let end = format!(
                    "--- {who} ({end:?})\n{}\n",
                    process::tail(said.trim_end(), 20)
                );
                detail.push_str(&end);
            }
        }
        for (vm, before) in [&pair.first, &pair.second].into_iter().zip(&logs) {
            let complaints = klog::complaints_from(&vm.kernel_log()?, before.len());
            for line in complaints.iter().take(12) {
                detail.push_str(&format!("the kernel complained: {line}\n"));
            }
        }
        let status = match detail.is_empty() {
            true => Status::Pass,
            false => Status::Fail,
        };
        Ok((status, detail))
    }

    /// Whether packets were lost, doubled and out of order in both VMs: else the tests before have shown little.
    fn suffered(&mut self, name: String) -> Record {
        let Some(pair) = &mut self.pair else {
            return Record {
                name,
                status: Status::Skip,
                time: None,
                detail: "no test on the bad network was run".into(),
            };
        };
        for vm in [&mut pair.first, &mut pair.second] {
            if let Err(error) = quietly(vm, "network suffered") {
                return failed(&name, None, &error);
            }
        }
        Record {
            name,
            status: Status::Pass,
            time: None,
            detail: String::new(),
        }
    }

    /// Ends the VMs: nothing may have leaked, the modules have to come out, and both logs have to be clean.
    fn finish(self) -> Result<Option<Record>> {
        let Some(pair) = self.pair else {
            return Ok(None);
        };
        let started = Instant::now();
        let mut problems = Vec::new();
        for (mut vm, host) in [(pair.first, 1), (pair.second, 2)] {
            if self.job.world.kernel.variant == Variant::Debug {
                if let Err(error) = quietly(&mut vm, "kmemleak") {
                    problems.push(format!("VM {host}: memory has leaked: {error:#}"));
                }
            }
            if let Err(error) = quietly(&mut vm, "rxe-driver none") {
                problems.push(format!("VM {host}: the modules stay: {error:#}"));
            }
            let log = vm.off()?;
            let name = format!("kernel-pair-{host}.log");
            crate::vm::save_log(&log, &self.job.results.join(name))?;
            let complaints = klog::complaints(&log).into_iter().take(20);
            problems.extend(complaints.map(|line| format!("VM {host}: {line}")));
        }
        Ok(Some(Record {
            name: "pair/kernel-log".into(),
            status: match problems.is_empty() {
                true => Status::Pass,
                false => Status::Fail,
            },
            time: Some(started.elapsed()),
            detail: problems.join("\n"),
        }))
    }
}

fn failed(name: &str, time: Option<Duration>, error: &anyhow::Error) -> Record {
    Record {
        name: name.into(),
        status: Status::Fail,
        time,
        detail: format!("{error:#}"),
    }
}

/// Runs a script of the guest that has to succeed.
fn quietly(vm: &mut Vm, script: &str) -> Result<()> {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let script = with_scripts(script);
    let outcome = vm.run(&script, vm.patience(SHORT), &mut output, &mut errors)?;
    if outcome == Outcome::Exit(0) {
        return Ok(());
    }
    output.extend(errors);
    let said = String::from_utf8_lossy(&output);
    anyhow::bail!("{outcome:?}: {}", process::tail(said.trim_end(), 40))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names = names();
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().any(|name| name == "pair/bad/atomics"));
        assert!(names.iter().any(|name| name == "pair/good/rping"));
        assert!(!names.iter().any(|name| name == "pair/bad/rping"));
    }
}
