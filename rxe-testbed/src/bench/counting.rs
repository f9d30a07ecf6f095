// SPDX-License-Identifier: GPL-2.0
//! `bench --icount`: how many instructions our driver takes, on a machine whose clock counts them.
//!
//! One processor, and its clock goes on by a fixed time with each instruction, whatever the host does
//! meanwhile. What is left to vary is what differs from boot to boot in the guest: where things lie in memory,
//! and when a timer strikes. Medians of many accesses hide that.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use odp_results::compare::Comparison;
use odp_results::run::{write_atomically, Run};

use super::stage::{self, Stage};
use crate::build::World;
use crate::cli::BenchArguments;
use crate::qemu::INSTRUCTION;
use crate::series::Series;
use crate::ui::Step;
use crate::vm::Driver;

/// The baselines: the paths to the kernel, and with them what is counted, differ from series to series.
const BASELINES: &[(&str, &str)] = &[
    ("7.2", include_str!("../../baseline/7.2.json")),
    ("7.3", include_str!("../../baseline/7.3.json")),
];

/// The baseline of a series, its place in the repository and its text. A series that has none is measured
/// by the newest that there is.
fn baseline(series: Series) -> (String, &'static str) {
    let name = series.to_string();
    let own = BASELINES.iter().find(|(of, _)| *of == name);
    let (of, text) = own.unwrap_or(&BASELINES[BASELINES.len() - 1]);
    (format!("rxe-testbed/baseline/{of}.json"), text)
}

/// By what share a metric may have become worse.
const THRESHOLD: f64 = 0.05;

/// How often the test counts before it finds that a metric has become worse. On 7.3 the warm accesses of one boot,
/// pinned memory's as well, differ by up to 5 % from one run to the next.
const TRIES: u32 = 3;

/// odp-bench's cases that are counted.
const CASES: &[&str] = &[
    "warm/write",
    "registration/explicit/256MiB",
    "fault/explicit/4k/untouched/random",
    "fault/explicit/4k/resident/sequential",
    "fault/explicit/thp/untouched/sequential",
    "prefetch/explicit/4k/sync",
    "invalidation/dontneed",
];

/// The metrics of the baseline: those that repeat from boot to boot.
const METRICS: &[&str] = &[
    "warm/write/pinned",
    "warm/write/explicit",
    "warm/write/implicit",
    "fault/explicit/4k/untouched/random/cost-of-a-fault",
    "invalidation/dontneed/4k/explicit",
    "invalidation/dontneed/thp/explicit",
];

/// How many samples, as a share of odp-bench's usual number.
const EFFORT: f64 = 0.25;

const LIMIT: Duration = Duration::from_secs(900);

fn options() -> String {
    format!("--instruction {INSTRUCTION} --effort {EFFORT}")
}

/// The test: no metric of the baseline is worse by more than what is tolerated.
pub(crate) fn test(series: Series) -> String {
    let percent = THRESHOLD * 100.0;
    let (_, text) = baseline(series);
    format!(
        "cat >/run/baseline.json <<'END'\n{text}\nEND\n\
         for try in $(seq {TRIES}); do\n\
         ({}) || exit\n\
         odp-bench compare --baseline --threshold {percent} /run/baseline.json /run/counted.json && exit\n\
         done\n\
         exit 1",
        stage::script("/run/counted.json", &options(), CASES)
    )
}

/// Counts on our driver, and makes that the baseline or compares it; what has become worse by too much.
pub(super) fn against_baseline(
    stage: &mut Stage,
    arguments: &BenchArguments,
    world: &World,
    folder: &Path,
) -> Result<Vec<String>> {
    let step = Step::start("counting the instructions of our driver");
    stage.use_driver(Driver::Ours)?;
    let counted = stage.odp_bench(&options(), CASES, LIMIT)?;
    step.done();
    counted.save(&folder.join("counted.json"))?;
    if let Some(failed) = counted.failed.first() {
        bail!("{}: {}", failed.case, failed.why);
    }
    let (name, _) = baseline(world.kernel.version.series);
    let path = world.repository.path(&name);
    if arguments.update_baseline {
        update(&counted, &path)?;
        return Ok(Vec::new());
    }
    let comparison = Comparison::with_baseline(&Run::load(&path)?, &counted, THRESHOLD);
    println!("\nagainst {name}:\n\n{}", comparison.table());
    let regressions = comparison.regressions();
    let problem = format!(
        "{regressions} metrics take over {} % more instructions than {name} says; if that is on purpose: \
         cargo testbed bench --icount --update-baseline",
        THRESHOLD * 100.0
    );
    Ok((regressions > 0).then_some(problem).into_iter().collect())
}

/// Makes what was counted the baseline.
fn update(counted: &Run, path: &Path) -> Result<()> {
    let mut baseline = counted.baseline(|metric| METRICS.contains(&metric.name.as_str()));
    if baseline.metrics.len() != METRICS.len() {
        bail!("not all metrics of the baseline were measured");
    }
    // What differs from machine to machine is no part of it.
    baseline.environment.clear();
    let text = serde_json::to_string_pretty(&baseline).context("writing the baseline")? + "\n";
    write_atomically(path, text.as_bytes())?;
    for metric in &baseline.metrics {
        println!(
            "{:<56}{}",
            metric.name,
            metric.unit.show(metric.summary.p50)
        );
    }
    println!("{} written", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series;

    #[test]
    fn each_baseline_is_of_the_cases() -> Result<()> {
        for (series, text) in BASELINES {
            let baseline: Run = serde_json::from_str(text)?;
            let names: Vec<&str> = baseline.metrics.iter().map(|m| m.name.as_str()).collect();
            assert_eq!(names.len(), METRICS.len());
            for name in METRICS {
                assert!(names.contains(name), "{name} is not in that of {series}");
                assert!(CASES.iter().any(|case| name.starts_with(case)), "{name}");
            }
        }
        Ok(())
    }

    #[test]
    fn each_series_has_a_baseline() {
        for series in series::SUPPORTED {
            let (name, _) = baseline(*series);
            assert!(name.contains(&series.to_string()), "{series}: {name}");
        }
    }
}
