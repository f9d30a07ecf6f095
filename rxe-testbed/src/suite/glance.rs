// SPDX-License-Identifier: GPL-2.0
//! Whether a filter can match anything at all, and what if that is known, seen at a glance: before anything is built.
//!
//! The names of some tests are known beforehand, those of others only to the programs that have them. Of these the
//! sources are looked at: each word of a name is there, as names are put together at their dots and slashes. So what
//! is refused here matches nothing; what is not may still match nothing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, Result};

use super::{
    cli, clients, examples, hca, host, packages, pairs, power_cut, pyverbs, selftests, table,
    tier_of, Filter,
};
use crate::build;
use crate::cache::{files_under, Cache};
use crate::kernel::Variant;
use crate::programs;
use crate::qemu::Extra;
use crate::repository::Repository;
use crate::series::Series;

/// What is known of the tests' names.
pub(super) struct Glance(Vec<Tiers>);

/// Some tiers, and what is known of their tests' names.
struct Tiers {
    tiers: Vec<&'static str>,
    names: Names,
}

enum Names {
    All(Vec<String>),
    /// All of what is checked beside the tests: it comes with any of them, and is in no list.
    Beside(Vec<String>),
    /// The words that they are made of, and others.
    Words(BTreeSet<String>),
    /// Nothing: what has them is not there yet.
    Unknown,
}

impl Glance {
    /// Looks, and builds nothing.
    pub(super) fn take(series: Option<Series>, kernel: Variant) -> Result<Self> {
        known(&Repository::find()?, &Cache::open()?, series, kernel).map(Self)
    }

    /// Fails if no test's name can be one that the filter takes. Names of which nothing is known have to be asked for
    /// with their tier.
    pub(super) fn check(&self, filter: &Filter) -> Result<()> {
        if filter.0.is_empty() || filter.0.iter().any(|text| self.may_have(text)) {
            return Ok(());
        }
        let unknown = self.0.iter().filter(|one| one.is_unknown());
        let unknown: Vec<&str> = unknown.flat_map(|one| one.tiers.clone()).collect();
        let nothing = super::nothing_matches(filter);
        match unknown.is_empty() {
            true => bail!("{nothing}"),
            false => bail!(
                "{nothing}; those of {}/ are known only when the guest is built, so that the filter has to begin with it",
                unknown.join("/ and ")
            ),
        }
    }

    fn may_have(&self, text: &str) -> bool {
        self.0.iter().any(|one| match one.names {
            Names::Unknown => tier_of(text).is_some() && one.are_meant(text),
            _ => one.may_have(text),
        })
    }

    /// The names that the filter takes, if all are known that it may take.
    pub(super) fn names(&self, filter: &Filter) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for one in &self.0 {
            match &one.names {
                Names::All(all) => {
                    names.extend(all.iter().filter(|name| filter.takes(name)).cloned())
                }
                Names::Beside(_) => {}
                _ if filter.0.is_empty() || filter.0.iter().any(|text| one.may_have(text)) => {
                    return None
                }
                _ => {}
            }
        }
        Some(names)
    }
}

impl Tiers {
    fn is_unknown(&self) -> bool {
        matches!(self.names, Names::Unknown)
    }

    /// Whether `text` is about these tiers, or about any.
    fn are_meant(&self, text: &str) -> bool {
        tier_of(text).is_none_or(|tier| self.tiers.contains(&tier))
    }

    fn may_have(&self, text: &str) -> bool {
        self.are_meant(text)
            && match &self.names {
                Names::All(names) | Names::Beside(names) => {
                    let filter = Filter(vec![text.into()]);
                    names.iter().any(|name| filter.takes(name))
                }
                Names::Words(known) => words(text).all(|word| {
                    word.bytes().all(|byte| byte.is_ascii_digit())
                        || known.iter().any(|one| one.contains(word))
                }),
                Names::Unknown => true,
            }
    }
}

/// The pieces that names are put together of.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !is_letter(c))
        .filter(|word| !word.is_empty())
}

/// What is known of each tier, in the order in which they are listed. Some share what is known of them.
fn known(
    repository: &Repository,
    cache: &Cache,
    series: Option<Series>,
    kernel: Variant,
) -> Result<Vec<Tiers>> {
    let here = build::at_hand(cache, repository, series);
    let programs = here.as_ref().and_then(|here| here.programs.as_ref());
    let mut all = Vec::new();
    let mut add = |tiers: &[&'static str], names| {
        let tiers = tiers.to_vec();
        all.push(Tiers { tiers, names });
    };
    if kernel == Variant::Stock {
        add(&["core"], in_sources(repository, host::SOURCES, "core")?);
        add(&["lint"], Names::All(host::lints()));
    }
    let table = ["vm", "bench", "diff", "dma", "selftest", "pmem"];
    add(&table, Names::All(fixed(kernel)));
    add(&["vm"], Names::Beside(beside()));
    add(
        &["verbs", "mirror"],
        match programs {
            Some(programs) => Names::All(table::listed(programs)),
            None => in_sources(repository, programs::SOURCES, "verbs mirror")?,
        },
    );
    add(&["clients"], Names::All(clients::names()));
    add(
        &["pyverbs"],
        match &here {
            Some(here) => Names::All(pyverbs::names(&here.guest)?),
            None => Names::Unknown,
        },
    );
    add(&["pmem"], Names::All(power_cut::names(kernel)));
    add(&["pair"], Names::All(pairs::names()));
    add(
        &["selftest"],
        match &here {
            Some(here) => Names::All(selftests::names(&here.kernel)?),
            None => Names::Unknown,
        },
    );
    add(&["hca"], Names::All(hca::names(kernel)));
    add(&["packages"], Names::All(packages::names(kernel)));
    add(&["cli"], Names::All(cli::names(kernel)));
    add(&["examples"], Names::All(examples::names(kernel)));
    Ok(all)
}

/// The names of the tests that the table has.
fn fixed(kernel: Variant) -> Vec<String> {
    let tests = table::all(&[], &[], Series::newest(), kernel);
    tests.into_iter().map(|test| test.name).collect()
}

/// The names of what each VM ends with.
fn beside() -> Vec<String> {
    let mut names = Vec::new();
    for extra in <Extra as clap::ValueEnum>::value_variants() {
        for what in ["kernel-log", "kmemleak"] {
            for tier in ["", "-verbs"] {
                names.push(format!("vm/{what}/ours{}{tier}", extra.suffix()));
            }
        }
    }
    names
}

/// The words in Rust sources and in their names; `more` of which names are made, too.
fn in_sources(repository: &Repository, folders: &[&str], more: &str) -> Result<Names> {
    let mut known: BTreeSet<String> = words(more).map(str::to_owned).collect();
    // What cargo says of tests in documentation, and what is said if there are none.
    known.extend(["line", "build", "compile", "fail"].map(str::to_owned));
    for folder in folders {
        for path in files_under(&repository.path(folder), &["target"])? {
            if path.extension() == Some("rs".as_ref()) {
                add_words(&path, repository.root(), &mut known);
            }
        }
    }
    Ok(Names::Words(known))
}

fn add_words(path: &Path, root: &Path, known: &mut BTreeSet<String>) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
    for word in words(&text).chain(words(&name)) {
        if !known.contains(word) {
            known.insert(word.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not in one piece, as this is a source, too.
    fn odd() -> String {
        ["nosuch", "test"].concat()
    }

    /// With an empty cache.
    fn glance(kernel: Variant) -> Result<Glance> {
        let dir = tempfile::tempdir()?;
        known(&Repository::find()?, &Cache::at(dir.path()), None, kernel).map(Glance)
    }

    #[test]
    fn what_is_in_no_source_is_no_test() -> Result<()> {
        let glance = glance(Variant::Stock)?;
        for tier in ["core", "lint", "vm", "verbs", "mirror", "clients", "pair"] {
            assert!(!glance.may_have(&format!("{tier}/{}", odd())), "{tier}");
        }
        // Nobody knows without rdma-core's own tests, and without a tier nobody has to.
        assert!(glance.may_have(&format!("pyverbs/{}", odd())));
        let refusal = glance.check(&Filter(vec![odd()]));
        let message = refusal.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(message.contains("pyverbs/ and selftest/"), "{message}");
        Ok(())
    }

    #[test]
    fn names_that_are_known_are_listed_without_a_build() -> Result<()> {
        let glance = glance(Variant::Stock)?;
        let names = |text: &str| glance.names(&Filter(vec![text.into()]));
        assert_eq!(names("lint/"), Some(host::lints()));
        assert_eq!(names("lint/book"), Some(vec!["lint/book".into()]));
        assert!(names("vm/").is_some_and(|names| names.iter().all(|name| name.starts_with("vm/"))));
        for text in ["core/hmm", "verbs/munmap", "pyverbs/", "munmap"] {
            assert_eq!(names(text), None, "{text}");
        }
        assert_eq!(glance.names(&Filter(Vec::new())), None);
        Ok(())
    }

    #[test]
    fn every_kind_of_name_is_found() -> Result<()> {
        let stock = glance(Variant::Stock)?;
        for text in [
            "core/rxe-testbed/suite::glance::tests::every_kind_of_name_is_found",
            "core/hmm/hmm/core/seq.rs - seq::Guard (line 20)",
            "core/testkit/",
            "lint/fmt",
            "vm/modules/come",
            "vm/kernel-log/ours-edu",
            "selftest/device-memory",
            "bench/odp-instructions",
            "clients/pingpong",
            "pair/bad/suffered",
            "dma/",
        ] {
            assert!(stock.may_have(text), "{text}");
        }
        assert!(!glance(Variant::Debug)?.may_have("core/hmm/"));
        Ok(())
    }

    #[test]
    fn a_name_of_a_program_is_found_in_its_source() -> Result<()> {
        let glance = glance(Variant::Stock)?;
        for text in [
            "verbs/rc-send.explicit",
            "munmap",
            "mirror/refusals/not-open-yet",
            "rc-write-imm.impl",
        ] {
            assert!(glance.may_have(text), "{text}");
        }
        Ok(())
    }
}
