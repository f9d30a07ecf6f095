// SPDX-License-Identifier: GPL-2.0
//! Whether a filter can match anything at all, seen at a glance: before anything is built.
//!
//! The names of some tests are known beforehand, those of others only to the programs that have them. Of these the
//! sources are looked at: each word of a name is there, as names are put together at their dots and slashes. So what
//! is refused here matches nothing; what is not may still match nothing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, Result};

use super::{clients, hca, host, pairs, pyverbs, selftests, table, tier_of, Filter};
use crate::build;
use crate::cache::{files_under, Cache};
use crate::kernel::Variant;
use crate::qemu::Extra;
use crate::repository::Repository;
use crate::series::Series;

/// What is known of the names of some tiers' tests.
enum Names {
    All(Vec<String>),
    /// The words that they are made of, and others.
    Words(BTreeSet<String>),
    /// Nothing: what has them is not there yet.
    Unknown,
}

/// Fails if no test's name can be one that the filter takes.
pub(super) fn check(filter: &Filter, series: Option<Series>, kernel: Variant) -> Result<()> {
    let repository = Repository::find()?;
    let cache = Cache::open()?;
    let tiers = known(&repository, &cache, series, kernel)?;
    let possible = |text: &String| {
        let meant = tiers.iter().filter(|(names, _)| match tier_of(text) {
            Some(tier) => names.contains(&tier),
            None => true,
        });
        meant.into_iter().any(|(_, names)| names.may_have(text))
    };
    match filter.0.is_empty() || filter.0.iter().any(possible) {
        true => Ok(()),
        false => bail!("{}", super::nothing_matches(filter)),
    }
}

impl Names {
    fn may_have(&self, text: &str) -> bool {
        match self {
            Self::All(names) => {
                let filter = Filter(vec![text.into()]);
                names.iter().any(|name| filter.takes(name))
            }
            Self::Words(known) => words(text).all(|word| {
                word.bytes().all(|byte| byte.is_ascii_digit())
                    || known.iter().any(|one| one.contains(word))
            }),
            Self::Unknown => true,
        }
    }
}

/// The pieces that names are put together of.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !is_letter(c))
        .filter(|word| !word.is_empty())
}

/// What is known of each tier. Some share what is known of them.
fn known(
    repository: &Repository,
    cache: &Cache,
    series: Option<Series>,
    kernel: Variant,
) -> Result<Vec<(Vec<&'static str>, Names)>> {
    let mut tiers = vec![
        (vec!["clients"], Names::All(clients::names())),
        (vec!["pair"], Names::All(pairs::names())),
        (vec!["hca"], Names::All(hca::names(kernel))),
        (
            vec!["vm", "bench", "diff", "dma", "selftest"],
            Names::All(fixed(kernel)),
        ),
    ];
    if kernel == Variant::Stock {
        tiers.push((vec!["lint"], Names::All(host::lints())));
        tiers.push((vec!["core"], in_sources(repository, host::SOURCES, "core")?));
    }
    let Some(here) = build::at_hand(cache, repository, series) else {
        tiers.push((
            vec!["verbs", "mirror", "pyverbs", "selftest"],
            Names::Unknown,
        ));
        return Ok(tiers);
    };
    let pyverbs = pyverbs::names(&here.guest)?;
    tiers.push((vec!["pyverbs"], Names::All(pyverbs)));
    tiers.push((
        vec!["selftest"],
        Names::All(selftests::names(&here.kernel)?),
    ));
    tiers.push((
        vec!["verbs", "mirror"],
        match here.programs {
            Some(programs) => Names::All(table::listed(&programs)),
            None => in_sources(repository, host::PROGRAM_SOURCES, "verbs mirror")?,
        },
    ));
    Ok(tiers)
}

/// The names of the tests that the table has, and of those that each of its VMs ends with.
fn fixed(kernel: Variant) -> Vec<String> {
    let tests = table::all(&[], &[], Series::newest(), kernel);
    let mut names: Vec<String> = tests.into_iter().map(|test| test.name).collect();
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

    fn check_in_nothing(text: &str, kernel: Variant) -> Result<bool> {
        let dir = tempfile::tempdir()?;
        let tiers = known(&Repository::find()?, &Cache::at(dir.path()), None, kernel)?;
        let meant = tiers
            .iter()
            .filter(|(names, _)| tier_of(text).is_none_or(|tier| names.contains(&tier)));
        Ok(meant.into_iter().any(|(_, names)| names.may_have(text)))
    }

    #[test]
    fn what_is_in_no_source_is_no_test() -> Result<()> {
        let stock = |text: String| check_in_nothing(&text, Variant::Stock);
        for tier in ["core", "lint", "vm", "clients", "pair"] {
            assert!(!stock(format!("{tier}/{}", odd()))?, "{tier}");
        }
        // Nobody knows without rdma-core's own tests.
        assert!(stock(format!("pyverbs/{}", odd()))?);
        Ok(())
    }

    #[test]
    fn every_kind_of_name_is_found() -> Result<()> {
        for text in [
            "core/rxe-testbed/suite::glance::tests::every_kind_of_name_is_found",
            "core/hmm/hmm/core/seq.rs - seq::Guard (line 20)",
            "core/userspace-bench/",
            "lint/fmt",
            "vm/modules/come",
            "vm/kernel-log/ours-edu",
            "selftest/device-memory",
            "bench/odp-instructions",
            "clients/pingpong",
            "pair/bad/suffered",
            "dma/",
        ] {
            assert!(check_in_nothing(text, Variant::Stock)?, "{text}");
        }
        assert!(!check_in_nothing("core/hmm", Variant::Debug)?);
        Ok(())
    }

    #[test]
    fn a_name_of_a_program_is_found_in_its_source() -> Result<()> {
        let names = in_sources(&Repository::find()?, host::PROGRAM_SOURCES, "verbs mirror")?;
        for text in [
            "verbs/rc-send.explicit",
            "munmap",
            "mirror/refusals/not-open-yet",
            "rc-write-imm.impl",
        ] {
            assert!(names.may_have(text), "{text}");
        }
        assert!(!names.may_have(&odd()));
        Ok(())
    }
}
