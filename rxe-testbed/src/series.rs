// SPDX-License-Identifier: GPL-2.0
//! Which kernel: the series that are supported, what the archive has of them, and the one that is
//! taken.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::archive;

/// The series that the modules are made for, oldest first.
pub(crate) const SUPPORTED: &[Series] = &[Series::new(7, 2), Series::new(7, 3)];

/// What names a series if `--kernel-series` does not.
const VARIABLE: &str = "HMM_ODP_KERNEL_SERIES";

/// A kernel series: `7.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Series {
    major: u32,
    minor: u32,
}

impl Series {
    const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The series of a release: that of `7.3.4+deb13-amd64` is 7.3.
    fn of_release(release: &str) -> Option<Self> {
        let mut parts = release.split(['.', '+', '-']);
        let mut number = || parts.next()?.parse().ok();
        Some(Self::new(number()?, number()?))
    }

    /// The newest that is supported.
    pub(crate) fn newest() -> Self {
        SUPPORTED[SUPPORTED.len() - 1]
    }

    /// The oldest that is supported.
    fn oldest() -> Self {
        SUPPORTED[0]
    }
}

impl FromStr for Series {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let series = text.split_once('.').and_then(|(major, minor)| {
            let number = |digits: &str| {
                let all = digits.chars().all(|c| c.is_ascii_digit());
                all.then(|| digits.parse().ok()).flatten()
            };
            Some(Self::new(number(major)?, number(minor)?))
        });
        series.with_context(|| format!("`{text}` is no kernel series: 7.3 is one"))
    }
}

impl TryFrom<String> for Series {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Series> for String {
    fn from(series: Series) -> Self {
        series.to_string()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The series that the command line asks for, or the environment.
pub(crate) fn asked_for(argument: Option<Series>) -> Result<Option<Series>> {
    asked(argument, std::env::var(VARIABLE).ok())
}

fn asked(argument: Option<Series>, variable: Option<String>) -> Result<Option<Series>> {
    let named = variable.filter(|text| !text.is_empty());
    match (argument, named) {
        (None, Some(text)) => text.parse().map(Some).context(VARIABLE),
        _ => Ok(argument),
    }
}

/// One kernel of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// As in `linux-source-7.2`.
    pub(crate) series: Series,
    /// As `uname -r` says it: `7.2.12+deb13-amd64`.
    pub(crate) release: String,
    /// The packages' version: `7.2.12-1~bpo13+1`.
    pub(crate) package: String,
}

/// The archive's kernels, as far as they are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// What the archive has: of each series the newest.
    archive: Vec<Version>,
    /// What it had before, of series that it has no more.
    gone: Vec<Version>,
    /// What was made ready for a VM last, of each series: there may be a newer one that cannot be.
    #[serde(default)]
    worked: Vec<Version>,
}

/// Which kernel is taken, and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) version: Version,
    pub(crate) remark: Option<String>,
}

/// What there is of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supply {
    pub(crate) series: Series,
    /// The archive's newest.
    pub(crate) archive: Option<Version>,
    /// What is prepared.
    pub(crate) cache: Option<Version>,
}

impl Supply {
    /// Whether the modules are made for it.
    pub(crate) fn is_supported(&self) -> bool {
        SUPPORTED.contains(&self.series)
    }

    /// Whether the modules are made for it and it can be had.
    pub(crate) fn can_be_used(&self) -> bool {
        self.is_supported() && (self.archive.is_some() || self.cache.is_some())
    }
}

impl Known {
    /// Takes over what the archive has now. A series that it has no more is not forgotten.
    pub(crate) fn renew(self, archive: Vec<Version>) -> Self {
        let mut gone = self.gone;
        gone.extend(self.archive);
        gone.retain(|old| !archive.iter().any(|new| new.series == old.series));
        let worked = self.worked;
        Self {
            archive,
            gone,
            worked,
        }
    }

    /// Remembers that this one was made ready. Gives whether that is new.
    pub(crate) fn has_worked(&mut self, version: &Version) -> bool {
        if self.worked.contains(version) {
            return false;
        }
        self.worked.retain(|old| old.series != version.series);
        self.worked.push(version.clone());
        true
    }

    /// Those that the archive has no more, and that nobody could get again.
    pub(crate) fn irreplaceable(&self) -> &[Version] {
        &self.gone
    }

    /// Whether the archive's answer has any kernel to work with. One without is not the archive's last word: a
    /// mirror that is being renewed, or lists that are not there.
    pub(crate) fn is_usable(archive: &[Version]) -> bool {
        archive
            .iter()
            .any(|version| version.series >= Series::oldest())
    }

    /// Chooses: what is `asked` for, otherwise the newest that is supported. What the archive has no more
    /// can be taken only if it is `prepared`.
    pub(crate) fn choose(
        &self,
        asked: Option<Series>,
        prepared: impl Fn(&Version) -> bool,
    ) -> Result<Chosen> {
        match asked {
            Some(series) => self.choose_asked(series, prepared),
            None => self.choose_newest(prepared),
        }
    }

    fn choose_asked(&self, series: Series, prepared: impl Fn(&Version) -> bool) -> Result<Chosen> {
        check_age(series)?;
        let is_it = |version: &&Version| version.series == series;
        if let Some(version) = self.archive.iter().find(is_it) {
            let remark = (!SUPPORTED.contains(&series)).then(|| {
                format!(
                    "Linux {series} is not one that the modules are made for ({}): this is a try",
                    listed(SUPPORTED)
                )
            });
            let version = version.clone();
            return Ok(Chosen { version, remark });
        }
        if let Some(version) = self.gone.iter().filter(is_it).find(|old| prepared(old)) {
            return Ok(Chosen {
                version: version.clone(),
                remark: Some(gone(version)),
            });
        }
        let others = self.archive.iter().map(|version| version.series);
        let others: Vec<Series> = others.filter(|found| *found >= Series::oldest()).collect();
        match others.is_empty() {
            true => bail!(
                "the Debian archive has no kernel of series {series}, nor any that can be used; {}",
                archive::EARLIER
            ),
            false if SUPPORTED.contains(&series) => bail!(
                "the Debian archive has no kernel of series {series} any more: it has {}; choose one with \
                 --kernel-series, or {}",
                listed(&others),
                archive::EARLIER
            ),
            false => bail!(
                "the Debian archive has no kernel of series {series}: it has {}; choose one with \
                 --kernel-series",
                listed(&others)
            ),
        }
    }

    fn choose_newest(&self, prepared: impl Fn(&Version) -> bool) -> Result<Chosen> {
        let newest = |versions: &[Version], fits: &dyn Fn(&Version) -> bool| {
            let mut found = SUPPORTED.iter().rev().filter_map(|series| {
                let mut all = versions.iter();
                all.find(|version| version.series == *series && fits(version))
            });
            found.next().cloned()
        };
        if let Some(version) = newest(&self.archive, &|_| true) {
            let remark = Some(format!(
                "Linux {} (--kernel-series chooses: {})",
                version.release,
                listed(SUPPORTED)
            ));
            return Ok(Chosen { version, remark });
        }
        if let Some(version) = newest(&self.gone, &prepared) {
            let remark = Some(gone(&version));
            return Ok(Chosen { version, remark });
        }
        let newer = self.archive.iter().map(|version| version.series);
        match newer.filter(|series| *series > Series::newest()).max() {
            Some(series) => bail!(
                "the Debian archive has no kernel that the modules are made for ({}) any more: {}; or try \
                 --kernel-series {series}, or a newer state of this repository",
                listed(SUPPORTED),
                archive::EARLIER
            ),
            None => bail!(
                "the Debian archive has no kernel that the modules are made for ({}): is \
                 trixie-backports in the mirror?",
                listed(SUPPORTED)
            ),
        }
    }

    /// What there is of each series that is not too old, oldest first.
    pub(crate) fn supply(&self, prepared: impl Fn(&Version) -> bool) -> Vec<Supply> {
        let archive = self.archive.iter().map(|version| version.series);
        let mut all: Vec<Series> = SUPPORTED.iter().copied().chain(archive).collect();
        all.retain(|series| *series >= Series::oldest());
        all.sort();
        all.dedup();
        let supply = all.into_iter().map(|series| Supply {
            series,
            archive: self
                .archive
                .iter()
                .find(|version| version.series == series)
                .cloned(),
            cache: self.choose_prepared(Some(series), &prepared),
        });
        supply.collect()
    }

    /// Chooses among what is prepared already, for when the archive cannot be asked.
    pub(crate) fn choose_prepared(
        &self,
        asked: Option<Series>,
        prepared: impl Fn(&Version) -> bool,
    ) -> Option<Version> {
        let all = self.archive.iter().chain(&self.worked).chain(&self.gone);
        let fitting = all.filter(|version| match asked {
            Some(series) => version.series == series,
            None => SUPPORTED.contains(&version.series),
        });
        fitting
            .filter(|version| prepared(version))
            .max_by_key(|version| version.series)
            .cloned()
    }
}

/// Fails for a series that the modules cannot be made for, whatever the archive has.
pub(crate) fn check_age(series: Series) -> Result<()> {
    if series < Series::oldest() {
        bail!(
            "Linux {series} is too old: the modules need {} or newer",
            Series::oldest()
        );
    }
    Ok(())
}

fn gone(version: &Version) -> String {
    format!(
        "the Debian archive has no kernel of series {} any more: staying with {} of the cache",
        version.series, version.release
    )
}

fn listed(series: &[Series]) -> String {
    let names: Vec<String> = series.iter().map(Series::to_string).collect();
    names.join(", ")
}

/// Of each series in a Debian package index the newest release for which there are the headers and the
/// source of one version.
pub(crate) fn available(index: &str, flavour: &str) -> Vec<Version> {
    let entries = stanzas(index);
    let ending = format!("-{flavour}");
    let mut candidates: Vec<Version> = entries
        .iter()
        .filter_map(|(name, package)| {
            let release = name.strip_prefix("linux-headers-")?;
            let series = Series::of_release(release.strip_suffix(&ending)?)?;
            let source = (format!("linux-source-{series}"), package.clone());
            entries.contains(&source).then(|| Version {
                series,
                release: release.into(),
                package: package.clone(),
            })
        })
        .collect();
    // The newest of a series first, and the others of it away.
    candidates.sort_by(|a, b| {
        let order = a.series.cmp(&b.series);
        order
            .then_with(|| by_numbers(&b.release, &a.release))
            .then_with(|| by_numbers(&b.package, &a.package))
    });
    candidates.dedup_by_key(|version| version.series);
    candidates
}

/// The (package, version) pairs of a Debian package index.
fn stanzas(index: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut package = None;
    for line in index.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = Some(name.trim().to_owned());
        } else if let Some(version) = line.strip_prefix("Version: ") {
            if let Some(package) = package.take() {
                found.push((package, version.trim().to_owned()));
            }
        }
    }
    found
}

/// Compares the numbers in two version strings: 7.2.9 is older than 7.2.12.
fn by_numbers(a: &str, b: &str) -> Ordering {
    fn numbers(text: &str) -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    }
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: linux-source-7.2
Version: 7.2.12-1~bpo13+1
Depends: xz-utils

Package: linux-source-7.2
Version: 7.2.9-1~bpo13+1

Package: linux-source-7.3
Version: 7.3.4-1~bpo13+1

Package: linux-headers-7.2.9+deb13-amd64
Source: linux
Version: 7.2.9-1~bpo13+1

Package: linux-headers-7.2.12+deb13-amd64
Version: 7.2.12-1~bpo13+1

Package: linux-headers-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1~bpo13+1

Package: linux-headers-7.2.13+deb13-amd64
Version: 7.2.13-1~bpo13+1

Package: linux-headers-7.3.4+deb13-amd64
Version: 7.3.4-1~bpo13+1
";

    fn series(text: &str) -> Series {
        text.parse().unwrap_or(Series::new(0, 0))
    }

    fn version(release: &str) -> Version {
        let found = Series::of_release(release).unwrap_or(Series::new(0, 0));
        Version {
            series: found,
            release: format!("{release}+deb13-amd64"),
            package: format!("{release}-1"),
        }
    }

    fn known(archive: &[&str], gone: &[&str]) -> Known {
        let versions = |all: &[&str]| all.iter().map(|release| version(release)).collect();
        Known {
            archive: versions(archive),
            gone: versions(gone),
            worked: Vec::new(),
        }
    }

    fn refusal(known: &Known, asked: Option<Series>) -> String {
        match known.choose(asked, |_| false) {
            Ok(chosen) => format!("{chosen:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_newest_complete_release_of_each_series_is_found() {
        let releases: Vec<String> = available(INDEX, "amd64")
            .into_iter()
            .map(|version| version.release)
            .collect();
        assert_eq!(releases, ["7.2.12+deb13-amd64", "7.3.4+deb13-amd64"]);
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(by_numbers("7.2.9+deb13", "7.2.12+deb13"), Ordering::Less);
        assert_eq!(by_numbers("7.2.12", "7.2.12"), Ordering::Equal);
    }

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!(series("7.3"), Series::new(7, 3));
        assert!(series("7.10") > series("7.9"));
        for text in ["7", "7.3.4", "7.", ".3", "+7.3", "7.-3", "seven", ""] {
            assert!(text.parse::<Series>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_argument_wins_over_the_environment() -> Result<()> {
        let variable = |text: &str| Some(text.to_owned());
        let (older, newer) = (series("7.2"), series("7.3"));
        assert_eq!(asked(Some(older), variable("7.3"))?, Some(older));
        assert_eq!(asked(None, variable("7.3"))?, Some(newer));
        assert_eq!(asked(None, variable(""))?, None);
        assert!(asked(None, variable("new")).is_err());
        Ok(())
    }

    #[test]
    fn without_a_wish_the_newest_supported_one_is_taken() -> Result<()> {
        let chosen = known(&["7.2.12", "7.3.4", "7.4.1"], &[]).choose(None, |_| false)?;
        assert_eq!(chosen.version, version("7.3.4"));
        let remark = chosen.remark.unwrap_or_default();
        assert!(remark.contains("7.3.4+deb13-amd64"), "{remark}");
        let chosen = known(&["7.2.12"], &["7.3.4"]).choose(None, |_| true)?;
        assert_eq!(chosen.version, version("7.2.12"));
        Ok(())
    }

    #[test]
    fn an_unknown_series_is_tried_when_asked_for() -> Result<()> {
        let chosen = known(&["7.3.4", "7.4.1"], &[]).choose(Some(series("7.4")), |_| false)?;
        assert_eq!(chosen.version, version("7.4.1"));
        assert!(chosen.remark.is_some());
        Ok(())
    }

    #[test]
    fn a_series_that_is_gone_is_taken_from_the_cache() -> Result<()> {
        let archive = known(&["7.3.4"], &["7.2.12"]);
        let asked = Some(series("7.2"));
        let chosen = archive.choose(asked, |_| true)?;
        assert_eq!(chosen.version, version("7.2.12"));
        let remark = chosen.remark.unwrap_or_default();
        assert!(remark.contains("any more"), "{remark}");
        let message = refusal(&archive, asked);
        assert!(message.contains("7.2 any more: it has 7.3"), "{message}");
        assert!(message.contains("HMM_ODP_MIRROR=http"), "{message}");
        Ok(())
    }

    #[test]
    fn what_cannot_be_had_says_what_to_do() {
        let archive = known(&["6.12.9", "7.3.4"], &[]);
        let message = refusal(&archive, Some(series("7.9")));
        assert!(message.contains("it has 7.3; choose"), "{message}");
        let message = refusal(&archive, Some(series("6.12")));
        assert!(message.contains("too old"), "{message}");
        let message = refusal(&known(&["7.5.1", "8.0.1"], &["7.3.4"]), None);
        assert!(message.contains("--kernel-series 8.0"), "{message}");
        assert!(message.contains("HMM_ODP_MIRROR=http"), "{message}");
        let message = refusal(&known(&["6.12.9"], &[]), None);
        assert!(message.contains("trixie-backports"), "{message}");
    }

    #[test]
    fn another_answer_forgets_no_series() {
        let first = known(&["7.2.12", "7.3.4"], &[]);
        let second = first.renew(vec![version("7.3.5")]);
        assert_eq!(second, known(&["7.3.5"], &["7.2.12"]));
        let third = second.renew(vec![version("7.2.13"), version("7.3.5")]);
        assert_eq!(third, known(&["7.2.13", "7.3.5"], &[]));
    }

    #[test]
    fn the_kernel_that_worked_outlives_a_newer_one_that_does_not() {
        let mut first = known(&["7.3.4"], &[]);
        assert!(first.has_worked(&version("7.3.4")));
        assert!(!first.has_worked(&version("7.3.4")));
        let second = first.renew(vec![version("7.3.5")]);
        let old = |found: &Version| *found == version("7.3.4");
        let asked = Some(series("7.3"));
        assert_eq!(second.choose_prepared(asked, old), Some(version("7.3.4")));
        assert_eq!(second.choose_prepared(Some(series("7.2")), old), None);
    }

    #[test]
    fn what_was_remembered_before_is_understood() -> Result<()> {
        let known: Known = serde_json::from_str(r#"{"archive": [], "gone": []}"#)?;
        assert_eq!(known, Known::default());
        Ok(())
    }

    #[test]
    fn the_supply_has_what_can_be_had_of_each_series() {
        let known = known(&["6.12.9", "7.3.4", "7.4.1"], &["7.2.12"]);
        let supply = known.supply(|prepared| *prepared == version("7.3.4"));
        let names = |fits: fn(&Supply) -> bool| -> Vec<String> {
            let all = supply.iter().filter(|one| fits(one));
            all.map(|one| one.series.to_string()).collect()
        };
        assert_eq!(names(|_| true), ["7.2", "7.3", "7.4"]);
        assert_eq!(names(|one| one.archive.is_some()), ["7.3", "7.4"]);
        assert_eq!(names(|one| one.cache.is_some()), ["7.3"]);
        assert_eq!(names(Supply::can_be_used), ["7.3"]);
        let old = known.supply(|prepared| *prepared == version("7.2.12"));
        assert!(old[0].can_be_used() && old[0].archive.is_none());
    }

    #[test]
    fn an_answer_without_kernels_is_none() {
        assert!(!Known::is_usable(&[]));
        assert!(!Known::is_usable(&[version("6.12.9")]));
        assert!(Known::is_usable(&[version("6.12.9"), version("7.4.1")]));
    }

    #[test]
    fn without_the_archive_what_is_prepared_is_used() {
        let archive = known(&["7.3.4"], &["7.2.12"]);
        let old = |version: &Version| version.series == series("7.2");
        assert_eq!(archive.choose_prepared(None, old), Some(version("7.2.12")));
        assert_eq!(archive.choose_prepared(Some(series("7.3")), old), None);
        let any = archive.choose_prepared(None, |_| true);
        assert_eq!(any, Some(version("7.3.4")));
    }
}
