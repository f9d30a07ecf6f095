// SPDX-License-Identifier: GPL-2.0
//! `test`: every tier of tests, one line per test.
//!
//! On the debug kernel only the tests in the VM are run: the others have nothing to do with it.
//!
//! `glance` refuses what matches nothing before anything is built; `lanes` runs what may be run at once; `host` runs
//! what needs no VM, also `licences`, `versions`, `book` and `commits`, which check texts, and `pages`, which looks at one of
//! HTML; `guest` the tests that `table` declares and that `verdict` judges, `clients` programs of others,
//! `pyverbs` the tests of rdma-core, `pairs` two VMs, `power_cut` one after the other, `selftests` the tests of the kernel, `hca` the emulated ConnectX,
//! with `pinned` for pinned memory, `packages` the Debian packages, both by `one_test`; `cli` this program itself,
//! with `image` for what `image` writes, `examples` those of the repository;
//! `report` writes what remains: the lines, the summary, JUnit and KTAP.

mod adversary;
mod book;
mod cli;
mod clients;
mod commits;
mod examples;
mod glance;
mod guest;
mod hca;
mod host;
mod image;
mod lanes;
mod licences;
mod one_test;
mod packages;
mod pages;
mod pairs;
mod pinned;
mod power_cut;
mod pyverbs;
mod report;
mod selftests;
mod side_by_side;
mod table;
mod verdict;
mod versions;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted, World};
use crate::cli::TestArguments;
use crate::kernel::{Choice, Variant};
use crate::series::Series;
use crate::ui;
use glance::Glance;
use lanes::Part;
use report::Report;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Pass,
    Fail,
    Skip,
}

/// One test that was run.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) status: Status,
    /// Not known for tests that cargo runs many of at once.
    pub(crate) time: Option<Duration>,
    /// Why it failed or was skipped; what a test that passed has to tell.
    pub(crate) detail: String,
}

/// What the names of the tests begin with.
const TIERS: &[&str] = &[
    "core", "lint", "vm", "verbs", "pmem", "mirror", "diff", "bench", "clients", "pyverbs", "pair",
    "selftest", "dma", "hca", "packages", "cli", "examples",
];

/// What the names of those tests begin with that are run only if they are asked for, by their names or with `--all`: each
/// takes minutes, and shows what changes seldom.
const LONG: &[&str] = &[
    "bench/hmm-times",
    "bench/odp-options",
    "bench/odp-whole",
    "cli/",
    "lint/packages",
    "packages/",
    "examples/",
    "hca/direct/odp-bench",
    "hca/direct/test_odp",
    "hca/iommu/",
    "hca/memory/",
    "hca/stock-faults/",
];

/// What the names of those tests begin with that take longer still: neither `--all` asks for them nor their tier's name, only
/// a text that has what follows the tier's name.
const BY_NAME: &[&str] = &[packages::DKMS];

/// Which tests are wanted: all but those that are [`LONG`] or [`BY_NAME`] if it is empty.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<String>);

impl Filter {
    /// It takes every test.
    fn all() -> Self {
        Self(vec![String::new()])
    }

    /// It takes every test, also those that have to be asked for by name.
    fn listed() -> Self {
        let names = std::iter::once("").chain(BY_NAME.iter().copied());
        Self(names.map(str::to_owned).collect())
    }

    /// Whether nobody asked for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nobody asked for anything, and a test is not run then.
    pub(crate) fn leaves_out(&self, name: &str) -> bool {
        self.is_empty() && !self.takes(name)
    }

    /// Whether a test is wanted: its name contains one of the filter's texts, or begins with it if that begins
    /// with a tier's name.
    pub(crate) fn takes(&self, name: &str) -> bool {
        let by_name = BY_NAME.iter().find(|start| name.starts_with(**start));
        let own = by_name.and_then(|start| start.split('/').next_back());
        if self.0.is_empty() {
            return own.is_none() && !LONG.iter().any(|long| name.starts_with(long));
        }
        let takes = |text: &String| {
            let is_piece = match tier_of(text) {
                Some(_) => name.starts_with(text.as_str()),
                None => name.contains(text.as_str()),
            };
            is_piece && own.is_none_or(|own| text.contains(own))
        };
        self.0.iter().any(takes)
    }

    /// Whether all of it begins with other tiers' names, so that finding out the names of this one's tests can
    /// be spared.
    fn names_other_tier(&self, tier: &str) -> bool {
        let other = |text: &String| tier_of(text).is_some_and(|first| first != tier);
        !self.0.is_empty() && self.0.iter().all(other)
    }
}

/// The tier that a filter's text begins with, if it does.
fn tier_of(text: &str) -> Option<&str> {
    let (first, _) = text.split_once('/')?;
    TIERS.contains(&first).then_some(first)
}

/// What every tier needs.
pub(crate) struct Job<'a> {
    pub(crate) world: &'a World,
    pub(crate) filter: &'a Filter,
    /// Where logs go.
    pub(crate) results: &'a Path,
}

/// Runs the tests; gives the program's exit status.
pub(crate) fn run(arguments: &TestArguments, series: Option<Series>) -> Result<u8> {
    let filter = match (arguments.filter.is_empty(), arguments.list, arguments.all) {
        (true, true, _) => Filter::listed(),
        (true, false, true) => Filter::all(),
        _ => Filter(arguments.filter.clone()),
    };
    let glance = Glance::take(series, arguments.kernel)?;
    glance.check(&filter)?;
    if let Some(names) = glance.names(&filter).filter(|_| arguments.list) {
        return print(&names, &filter);
    }
    let world = build::ensure(Wanted {
        kernel: Choice {
            series,
            variant: arguments.kernel,
        },
        modules: true,
        programs: true,
        packages: Vec::new(),
    })?;
    if arguments.list {
        return list(&world, &filter);
    }
    let results = results_folder(&world)?;
    let job = Job {
        world: &world,
        filter: &filter,
        results: &results,
    };
    let started = Instant::now();
    let mut report = Report::default();
    let width = lanes::width(arguments.kernel);
    lanes::run(without_vm(&job), with_vms(&job), width, &mut report)?;
    if report.is_empty() {
        bail!("{}", nothing_matches(&filter));
    }
    report.write(&results)?;
    if let Some(failures) = report.failures() {
        println!("\n{failures}");
    }
    println!();
    println!(
        "results in {} ({:.0} s)",
        results.display(),
        started.elapsed().as_secs_f64()
    );
    println!("{}", report.closing_line());
    Ok(u8::from(report.failed()))
}

/// The part that needs no VM. It has nothing to do with the debug kernel.
fn without_vm<'a>(job: &'a Job<'a>) -> Option<Part<'a>> {
    let part: Part<'a> = Box::new(|report| host::run(job, report));
    (job.world.kernel.variant == Variant::Stock).then_some(part)
}

/// The parts with VMs, in the order of the report.
fn with_vms<'a>(job: &'a Job<'a>) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for group in guest::groups(job) {
        parts.push(Box::new(move |report| group.run(job, report)));
    }
    parts.push(Box::new(|report| clients::run(job, report)));
    parts.push(Box::new(|report| pyverbs::run(job, report)));
    parts.push(Box::new(|report| power_cut::run(job, report)));
    parts.push(Box::new(|report| pairs::run(job, report)));
    parts.push(Box::new(|report| selftests::run(job, report)));
    parts.push(Box::new(|report| hca::run(job, report)));
    parts.push(Box::new(|report| packages::run(job, report)));
    parts.push(Box::new(|report| cli::run(job, report)));
    parts.push(Box::new(|report| examples::run(job, report)));
    parts
}

fn list(world: &World, filter: &Filter) -> Result<u8> {
    let mut names = match world.kernel.variant {
        Variant::Stock => host::names(world)?,
        Variant::Debug => Vec::new(),
    };
    names.extend(guest::names(world));
    names.extend(clients::names());
    names.extend(pyverbs::names(&world.guest.root)?);
    names.extend(power_cut::names(world.kernel.variant));
    names.extend(pairs::names());
    names.extend(selftests::names(&world.kernel)?);
    names.extend(hca::names(world.kernel.variant));
    names.extend(packages::names(world.kernel.variant));
    names.extend(cli::names(world.kernel.variant));
    names.extend(examples::names(world.kernel.variant));
    names.retain(|name| filter.takes(name));
    print(&names, filter)
}

fn print(names: &[String], filter: &Filter) -> Result<u8> {
    if names.is_empty() {
        bail!("{}", nothing_matches(filter));
    }
    for name in names {
        println!("{name}");
    }
    Ok(0)
}

fn nothing_matches(filter: &Filter) -> String {
    let text = filter.0.join("` or `");
    format!("no test's name contains `{text}`: `cargo testbed test --list` shows them all")
}

/// A folder for this run, and `latest` leading to it. Only the last few are kept.
fn results_folder(world: &World) -> Result<PathBuf> {
    const KEPT: usize = 10;
    let parent = world.cache.path("results");
    let mut old: Vec<PathBuf> = std::fs::read_dir(&parent)
        .with_context(|| format!("reading {}", parent.display()))?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    old.sort();
    for path in old.iter().take(old.len().saturating_sub(KEPT - 1)) {
        if let Err(error) = std::fs::remove_dir_all(path) {
            ui::note(&format!("cannot remove {}: {error}", path.display()));
        }
    }
    let name = report::timestamp()?;
    let folder = parent.join(&name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let latest = parent.join("latest");
    let _ = std::fs::remove_file(&latest);
    std::os::unix::fs::symlink(&name, &latest).context("making the link `latest`")?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_has_to_be_asked_for() {
        let takes = |filter: &[&str], name| {
            Filter(filter.iter().map(|&text| text.into()).collect()).takes(name)
        };
        for name in ["lint/packages", "packages/install", "hca/iommu/kernel-log"] {
            assert!(!takes(&[], name), "{name}");
            assert!(takes(&[name], name) && Filter::all().takes(name), "{name}");
        }
        for name in ["lint/pages", "hca/ours/faults", "verbs/a"] {
            assert!(takes(&[], name) && Filter::all().takes(name), "{name}");
        }
        assert!(takes(&["hca/"], "hca/memory/probe"));
        let asked = Filter(vec!["hca/direct/unload".into()]);
        for name in ["hca/direct/test_odp", "hca/direct/odp-bench"] {
            assert!(Filter(Vec::new()).leaves_out(name) && !asked.leaves_out(name));
        }
        assert!(!Filter(Vec::new()).leaves_out("hca/direct/unload"));
    }

    #[test]
    fn what_takes_longest_has_to_be_asked_for_by_its_name() {
        let takes = |text: &str| {
            let filter = Filter(vec![text.into()]);
            [packages::DKMS, packages::DKMS_LOG].map(|name| filter.takes(name))
        };
        for text in ["packages/dkms", "dkms"] {
            assert_eq!(takes(text), [true, true], "{text}");
        }
        assert_eq!(takes(packages::DKMS_LOG), [false, true]);
        for text in [
            "",
            "packages/",
            "packages/d",
            "packages/install",
            "dkms2",
            "log",
        ] {
            assert_eq!(takes(text), [false, false], "{text}");
        }
        assert!(!Filter(Vec::new()).takes(packages::DKMS));
        assert!(!Filter::all().takes(packages::DKMS));
        assert!(Filter::listed().takes(packages::DKMS) && Filter::listed().takes("vm/x"));
    }

    #[test]
    fn filters_are_pieces_of_names() {
        let filter = |text: &str| Filter(text.split(' ').map(str::to_owned).collect());
        assert!(Filter(Vec::new()).takes("core/hmm/x"));
        assert!(!Filter(Vec::new()).names_other_tier("core"));
        assert!(filter("hmm/x").takes("core/hmm/x"));
        assert!(!filter("vm/").takes("core/hmm/x"));
        assert!(filter("vm/").names_other_tier("core"));
        assert!(!filter("hmm/x").names_other_tier("core"));
        assert!(!filter("core/").names_other_tier("core"));
        assert!(filter("verbs/mun").takes("verbs/munmap"));
        assert!(!filter("verbs/").takes("pyverbs/x"));
        assert!(filter("diff/ verbs/").takes("verbs/x"));
        assert!(filter("diff/ verbs/").names_other_tier("core"));
        assert!(!filter("diff/ x").names_other_tier("core"));
        assert!(!filter("diff/ verbs/").takes("vm/fuzz"));
    }
}
