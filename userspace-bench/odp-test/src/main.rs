// SPDX-License-Identifier: GPL-2.0
//! `odp-test` tests on-demand paging on a verbs device, through libibverbs, with data whose every
//! byte depends on its position.
//!
//! Each test runs in a process of its own, so that one that crashes or hangs fails alone. Exit
//! status 0 is a pass, 77 a test that does not apply here, anything else a failure with one line
//! on standard error that says why.

mod addresses;
mod by_attributes;
mod children;
mod counters;
mod disk;
mod exec;
mod fd_sharing;
mod fork;
mod geometry;
mod harness;
mod hugetlb;
mod invalidation;
mod kinds;
mod large;
mod lengths;
mod limits;
mod machine;
mod mappings;
mod observe;
mod operations;
mod pipeline;
mod pmem;
mod prefetch;
mod prefetch_pending;
mod pressure;
mod processes;
mod receives;
mod refusals;
mod reregister;
mod reuse;
mod scatter;
mod shared_queue;
mod statuses;
mod strange_peer;
mod stress;
mod teardown;
mod two_hosts;
mod userfault;
mod waiting;
mod windows;
mod write_backs;

use std::process::ExitCode;

use clap::Parser;

use harness::{Case, Test};
use two_hosts::Host;

/// Tests on-demand paging on an RDMA device.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The tests to run: whole names, or what names start with. If none is given, all but those that move
    /// gigabytes or need another machine.
    names: Vec<String>,
    /// Print the names of the tests and do nothing else.
    #[arg(long)]
    list: bool,
    /// The RDMA device; the first there is if not given.
    #[arg(long)]
    device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given.
    #[arg(long)]
    gid: Option<u8>,
    /// Be one of two hosts: wait for the other one, and run what it says.
    #[arg(long, conflicts_with_all = ["names", "list", "connect"])]
    listen: bool,
    /// Be the other of two hosts: call HOST, and run the tests of two hosts that are named, or all of them.
    #[arg(long, value_name = "HOST", conflicts_with = "list")]
    connect: Option<String>,
    /// The TCP port on which two hosts agree on their queue pairs.
    #[arg(long, default_value_t = two_hosts::PORT)]
    port: u16,
    /// Use pinned memory where a test asks for an on-demand region: finds errors of the tests.
    #[arg(long, hide = true)]
    pinned: bool,
    /// Run the one named test in this process.
    #[arg(long, hide = true)]
    inner: bool,
    /// Play a part in a test that another process runs.
    #[arg(long, hide = true)]
    role: Option<String>,
}

/// Every test there is, in the order in which they run.
fn tests() -> impl Iterator<Item = &'static Test> {
    [
        operations::TESTS,
        geometry::TESTS,
        addresses::TESTS,
        large::TESTS,
        lengths::TESTS,
        children::TESTS,
        scatter::TESTS,
        shared_queue::TESTS,
        strange_peer::TESTS,
        pipeline::TESTS,
        receives::TESTS,
        invalidation::TESTS,
        userfault::TESTS,
        fork::TESTS,
        mappings::TESTS,
        hugetlb::TESTS,
        kinds::TESTS,
        disk::TESTS,
        pressure::TESTS,
        windows::TESTS,
        reregister::TESTS,
        refusals::TESTS,
        statuses::TESTS,
        reuse::TESTS,
        prefetch::TESTS,
        prefetch_pending::TESTS,
        counters::TESTS,
        observe::TESTS,
        limits::TESTS,
        processes::TESTS,
        exec::TESTS,
        teardown::TESTS,
        waiting::TESTS,
        waiting::OTHERS,
        waiting::ORPHAN,
        waiting::THOUSANDS,
        waiting::FILES,
        waiting::ARRIVES,
        waiting::BOTH_ENDS,
        waiting::MATRIX,
        fd_sharing::TESTS,
        by_attributes::TESTS,
        pmem::TESTS,
        stress::TESTS,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let usual: Vec<Case> = tests()
        .filter(|test| test.is_usual())
        .flat_map(Test::cases)
        .collect();
    if arguments.list {
        usual.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    let cases: Vec<Case> = tests().flat_map(Test::cases).collect();
    let options = harness::Options {
        device: arguments.device,
        gid: arguments.gid,
        pinned: arguments.pinned,
    };
    if let Some(role) = &arguments.role {
        return harness::exit(match role.strip_prefix(waiting::ROLES) {
            Some(role) => waiting::play(&options, role),
            None if role == prefetch_pending::ROLE => prefetch_pending::play(&options),
            None => processes::play(&options, role),
        });
    }
    let host = match &arguments.connect {
        Some(host) => Some(Host::Calling(host)),
        None => arguments.listen.then_some(Host::Listening),
    };
    if let Some(host) = host {
        return two_hosts::run(&options, host, arguments.port, &arguments.names);
    }
    let named = |case: &&Case| {
        let name = &case.name;
        arguments.names.iter().any(|n| {
            n == name
                || name
                    .strip_prefix(n)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    };
    let exact = arguments
        .names
        .iter()
        .all(|n| cases.iter().any(|c| c.name == *n));
    let chosen: Vec<&Case> = match arguments.names.is_empty() {
        true => usual.iter().collect(),
        false => cases.iter().filter(named).collect(),
    };
    match (chosen.as_slice(), exact) {
        ([], _) => {
            eprintln!(
                "odp-test: no test is called {}; see --list",
                arguments.names.join(" or ")
            );
            ExitCode::from(2)
        }
        ([case], true) if arguments.inner => harness::run_here(case, &options),
        ([case], true) if !arguments.names.is_empty() => harness::run_one(case, &options),
        (cases, _) => harness::run_all(cases, &options),
    }
}
