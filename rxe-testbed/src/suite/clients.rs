// SPDX-License-Identifier: GPL-2.0
//! Programs that are not ours, unmodified, on our driver and on the stock one.
//!
//! On ours all of them have to work. How they fare on stock is said beside it if they are asked for.

use std::time::Instant;

use anyhow::{Context, Result};

use super::guest::Boots;
use super::one_test::failed;
use super::report::Report;
use super::side_by_side;
use super::table::VmTest;
use super::{Job, Record, Status};
use crate::kernel::Variant;
use crate::process;
use crate::qemu::Extra;
use crate::script::with_scripts;
use crate::ucx;
use crate::vm::Driver;

/// A program: its name and the script that runs it, as server and as client.
type Client = (&'static str, &'static str);

/// What the names of those begin with that need UCX.
const UCX: &str = "clients/ucx/";

/// Each takes a second or two.
const SECONDS: u64 = 120;

/// `-c` has the pingpongs check what arrives, though all of it is one byte; perftest cannot check anything.
const CLIENTS: &[Client] = &[
    (
        "pingpong/explicit",
        "uses-odp pair ibv_rc_pingpong -d rxe0 -g 1 -c -o -n 200",
    ),
    (
        "pingpong/explicit-prefetch",
        "uses-odp pair ibv_rc_pingpong -d rxe0 -g 1 -c -o -P -n 200",
    ),
    (
        "pingpong/implicit",
        "uses-odp pair ibv_rc_pingpong -d rxe0 -g 1 -c -O -n 200",
    ),
    (
        "pingpong/implicit-prefetch",
        "uses-odp pair ibv_rc_pingpong -d rxe0 -g 1 -c -O -P -n 200",
    ),
    (
        "pingpong/srq-explicit",
        "uses-odp pair ibv_srq_pingpong -d rxe0 -g 1 -c -o -n 100",
    ),
    (
        "perftest/write-bw",
        "uses-odp pair ib_write_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F",
    ),
    (
        "perftest/write-lat",
        "uses-odp pair ib_write_lat -d rxe0 -x 1 --odp -s 8192 -n 100 -F",
    ),
    (
        "perftest/read-bw",
        "uses-odp pair ib_read_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F",
    ),
    (
        "perftest/read-lat",
        "uses-odp pair ib_read_lat -d rxe0 -x 1 --odp -s 8192 -n 100 -F",
    ),
    (
        "perftest/send-bw",
        "uses-odp pair ib_send_bw -d rxe0 -x 1 --odp -s 65536 -n 100 -F",
    ),
    (
        "perftest/send-lat",
        "uses-odp pair ib_send_lat -d rxe0 -x 1 --odp -s 8192 -n 100 -F",
    ),
    (
        "perftest/atomic-bw",
        "uses-odp pair ib_atomic_bw -d rxe0 -x 1 --odp -n 100 -F",
    ),
    (
        "perftest/atomic-lat",
        "uses-odp pair ib_atomic_lat -d rxe0 -x 1 --odp -n 100 -F",
    ),
    (
        "rdma-cm/rping",
        "pair rping -s -a 10.77.0.1 -C 10 -S 4000 -V -- rping -c -a 10.77.0.1 -C 10 -S 4000 -V",
    ),
    // These take pinned memory, the kernel's own.
    ("kernel/nvme", "nvme-over-rdma"),
    ("kernel/nfs", "nfs-over-rdma"),
    // As a user who may pin 64 KiB: it has to be too little, and not needed.
    (
        "user/pinned-is-refused",
        "as-user pair ibv_rc_pingpong -d rxe0 -g 1 -s 1048576 -n 20 -r 20 >/run/said; \
         cat /run/said; grep -q \"Couldn't register MR\" /run/said",
    ),
    (
        "user/explicit",
        "uses-odp as-user pair ibv_rc_pingpong -d rxe0 -g 1 -c -o -s 1048576 -n 20 -r 20",
    ),
    (
        "user/implicit",
        "uses-odp as-user pair ibv_rc_pingpong -d rxe0 -g 1 -c -O -s 1048576 -n 20 -r 20",
    ),
    ("small-cgroup/explicit", "uses-odp small-cgroup explicit"),
    ("small-cgroup/implicit", "uses-odp small-cgroup implicit"),
    (
        "libfabric/msg",
        "export FI_VERBS_USE_ODP=1; fi='fi_pingpong -p verbs -e msg -d rxe0 -c -I 20 -S 100000'; \
         uses-odp pair $fi -- $fi 10.77.0.1",
    ),
    // With its default, 256 peers, it asks for larger completion queues than rxe has.
    (
        "libfabric/rdm",
        "export FI_VERBS_USE_ODP=1 FI_UNIVERSE_SIZE=16; \
         fi='fi_pingpong -p verbs;ofi_rxm -e rdm -d rxe0 -c -I 20 -S 100000'; uses-odp pair $fi -- $fi 10.77.0.1",
    ),
    (
        "ucx/put",
        "uses-odp pair ucx ucx_perftest -P 0 -d rxe0:1 -x rc_verbs -B -D zcopy -t put_bw -s 65536 -n 100 -w 2",
    ),
    (
        "ucx/get",
        "uses-odp pair ucx ucx_perftest -P 0 -d rxe0:1 -x rc_verbs -B -D zcopy -t get -s 65536 -n 100 -w 2",
    ),
    (
        "ucx/fetch-add",
        "uses-odp pair ucx ucx_perftest -P 0 -d rxe0:1 -x rc_verbs -B -t fadd -n 100 -w 2",
    ),
    (
        "ucx/messages",
        "uses-odp pair ucx ucx_perftest -P 0 -d rxe0:1 -x rc_verbs -B -D zcopy -t am_bw -s 4000 -n 100 -w 2",
    ),
];

/// The names of all tests.
pub(crate) fn names() -> Vec<String> {
    CLIENTS.iter().map(|(name, _)| full(name)).collect()
}

fn full(name: &str) -> String {
    format!("clients/{name}")
}

/// Runs the programs that are wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    let mut wanted: Vec<VmTest> = CLIENTS
        .iter()
        .filter(|(name, _)| job.filter.takes(&full(name)))
        .map(test)
        .collect();
    let mut puts = Vec::new();
    let needs_ucx = |test: &VmTest| test.name.starts_with(UCX);
    // What it takes is downloaded only if it is wanted.
    if wanted.iter().any(needs_ucx) {
        let started = Instant::now();
        match ucx::put(job.world) {
            Ok(put) => puts.push(put),
            Err(error) => {
                let without = wanted.iter().filter(|test| needs_ucx(test));
                report.extend(without.map(|test| failed(&test.name, started, &error)));
                wanted.retain(|test| !needs_ucx(test));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut ours = Boots::new(job, Driver::Ours, "ours-clients");
    ours.puts.clone_from(&puts);
    let debug = job.world.kernel.variant == Variant::Debug;
    let mut on_ours = Vec::new();
    for test in &wanted {
        let record = ours.run_one(test);
        if debug {
            report.add(record);
        } else {
            on_ours.push(record);
        }
    }
    let end = ours.finish(full)?;
    if debug {
        // Its checks are not for the stock driver.
        report.extend(end);
        return Ok(());
    }
    let mut stock = Boots::new(job, Driver::Stock, "stock-clients");
    stock.puts = puts;
    // What ours skips has to be compared. For the rest, some of which hang on stock, there is time if somebody asks.
    let compared = |ours: &Record| !job.filter.is_empty() || ours.status == Status::Skip;
    let on_stock: Vec<Option<Record>> = wanted
        .iter()
        .zip(&on_ours)
        .map(|(test, ours)| compared(ours).then(|| stock.run_one(test)))
        .collect();
    // What the stock driver leaves in the log is its own affair.
    stock.finish(full)?;

    for (ours, stock) in on_ours.iter().zip(&on_stock) {
        report.add(match stock {
            Some(stock) => verdict(ours.clone(), stock),
            None => ours.clone(),
        });
    }
    report.extend(end);
    let both = on_ours.into_iter().zip(on_stock);
    let pairs: Vec<_> = both
        .filter_map(|(ours, stock)| Some((ours.name.clone(), said(&ours), said(&stock?))))
        .collect();
    if pairs.is_empty() {
        return Ok(());
    }
    let table = side_by_side::table(pairs);
    print!("\n{table}\n");
    let path = job.results.join("clients.txt");
    std::fs::write(&path, table).with_context(|| format!("writing {}", path.display()))
}

fn test((name, script): &Client) -> VmTest {
    VmTest {
        name: full(name),
        script: with_scripts(script),
        seconds: SECONDS,
        extra: Extra::None,
    }
}

/// What is to be said of ours in the light of stock's result.
fn verdict(ours: Record, stock: &Record) -> Record {
    match (ours.status, stock.status) {
        (Status::Skip, Status::Pass) => Record {
            status: Status::Fail,
            detail: format!("skipped, but stock passes: {}", ours.detail),
            ..ours
        },
        _ => ours,
    }
}

/// A result in a few words.
fn said(record: &Record) -> String {
    let last = process::tail(record.detail.trim_end(), 1);
    match record.status {
        Status::Pass => "passes".into(),
        Status::Skip => format!("skips: {last}"),
        Status::Fail => format!("FAILS: {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: Status) -> Record {
        Record {
            name: "clients/x".into(),
            status,
            time: None,
            detail: "first\nlast\n".into(),
        }
    }

    #[test]
    fn what_passes_on_stock_is_not_skipped_on_ours() {
        let judged = |ours, stock| verdict(record(ours), &record(stock)).status;
        assert_eq!(judged(Status::Skip, Status::Pass), Status::Fail);
        assert_eq!(judged(Status::Skip, Status::Skip), Status::Skip);
        assert_eq!(judged(Status::Fail, Status::Fail), Status::Fail);
        assert_eq!(judged(Status::Pass, Status::Fail), Status::Pass);
    }

    #[test]
    fn the_last_line_tells() {
        assert_eq!(said(&record(Status::Fail)), "FAILS: last");
        assert_eq!(said(&record(Status::Pass)), "passes");
    }
}
