// SPDX-License-Identifier: GPL-2.0
//! Accesses, faults and registrations for `cargo bench`, on the first RDMA device there is: criterion compares
//! them with the run before. `odp-bench` measures more, and each first access by itself.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion};
use odp_fixture::{
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::Access;
use testkit::{
    memory::{Advice, PAGE},
    pattern::Pattern,
    process,
};

/// How many bytes an access moves.
const LEN: usize = 64;

/// The device, if there is one with on-demand paging; and those modes that it has.
fn device() -> Option<(Env, Vec<Mode>)> {
    process::defer_to_kernel();
    let env = match Env::open(None, None) {
        Ok(env) => env,
        Err(error) => {
            eprintln!("nothing is measured: {error}");
            return None;
        }
    };
    let caps = env.context.odp_caps().ok()?;
    if !caps.supported {
        eprintln!(
            "nothing is measured: {} has no on-demand paging",
            env.context.name()
        );
        return None;
    }
    let mut modes = vec![Mode::Pinned, Mode::Explicit];
    modes.extend(caps.implicit.then_some(Mode::Implicit));
    Some((env, modes))
}

/// A connection, a pinned source and a target.
struct Lane {
    link: Loopback,
    near: Buffer,
    far: Buffer,
    pattern: Pattern,
}

impl Lane {
    fn new(env: &Env, mode: Mode) -> Self {
        let near = env.buffer(Mode::Pinned, PAGE).expect("a pinned page");
        let pattern = Pattern::new(5);
        near.fill(pattern, 0, PAGE);
        Self {
            link: env.rc().expect("a connection"),
            near,
            far: env.buffer(mode, PAGE).expect("a region"),
            pattern,
        }
    }

    fn write(&self) {
        let from = self.near.sge(0, LEN);
        self.link.write(from, self.far.remote(0)).expect("a write");
    }

    /// The data has to be where it belongs.
    fn check(&self) {
        self.far.check(self.pattern, 0, LEN).expect("right data");
    }
}

fn accesses(c: &mut Criterion) {
    let Some((env, modes)) = device() else { return };
    let mut group = c.benchmark_group("write-64");
    for mode in &modes {
        let lane = Lane::new(&env, *mode);
        group.bench_function(BenchmarkId::new("warm", mode), |b| b.iter(|| lane.write()));
        lane.check();
    }
    for mode in modes.iter().filter(|mode| **mode != Mode::Pinned) {
        let lane = Lane::new(&env, *mode);
        group.bench_function(BenchmarkId::new("fault", mode), |b| {
            b.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let taken = lane.far.memory.advise(0..PAGE, Advice::DontNeed);
                    taken.expect("madvise");
                    let begun = Instant::now();
                    lane.write();
                    total += begun.elapsed();
                }
                total
            })
        });
        lane.check();
    }
}

fn registrations(c: &mut Criterion) {
    let Some((env, _)) = device() else { return };
    let mut group = c.benchmark_group("register");
    for (mode, access) in [
        (Mode::Pinned, Access::ALL),
        (Mode::Explicit, Access::ALL | Access::ON_DEMAND),
    ] {
        for mib in [1, 64] {
            let memory = anonymous(mib << 20).expect("addresses");
            let name = format!("{mib} MiB");
            group.bench_function(BenchmarkId::new(mode.to_string(), name), |b| {
                b.iter(|| {
                    let region = env.domain.register(&memory, 0..memory.len(), access);
                    black_box(region.expect("a region"));
                })
            });
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().sample_size(30).configure_from_args();
    accesses(&mut criterion);
    registrations(&mut criterion);
    criterion.final_summary();
}
