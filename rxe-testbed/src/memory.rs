// SPDX-License-Identifier: GPL-2.0
//! What is remembered of the archive's kernels between calls, and what becomes of it when the archive is asked.
//!
//! Nothing that worked is forgotten for something that does not: not for an answer without kernels, for a newer
//! kernel that cannot be prepared, nor for a series that there is not.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, Result};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::series::{self, Chosen, Known, Series, Version};

/// How long what the archive said is taken for what it has.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// When to try again what failed: to ask the archive, or to prepare a kernel.
const RETRY: Duration = Duration::from_secs(60 * 60);

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) known: Known,
    epoch: String,
    /// When to ask the archive again.
    ask_again_at: u64,
    /// A kernel that could not be prepared, and when to try again.
    #[serde(default)]
    put_off: Option<(Version, u64)>,
}

impl Memory {
    /// What the file holds; nothing if it cannot be understood.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).ok();
        let memory = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        memory.unwrap_or_default()
    }

    /// Replaces what the file holds.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        cache::write_atomically(path, &serde_json::to_vec_pretty(self)?)
    }

    /// Which kernel is taken, and what is remembered then. As long as it is there, the archive is asked for a newer
    /// one at most once a day, and what is there is used when asking fails.
    pub(crate) fn choose(
        mut self,
        now: u64,
        epoch: &str,
        series: Option<Series>,
        is_prepared: impl Fn(&Version) -> bool,
        ask: impl FnOnce() -> Result<Vec<Version>>,
    ) -> Result<(Self, Result<Chosen>)> {
        if let Some(series) = series {
            series::check_age(series)?;
        }
        if self.epoch == epoch && now < self.ask_again_at {
            if let Some(chosen) = self.without_asking(now, series, &is_prepared) {
                return Ok((self, Ok(chosen)));
            }
        }
        let answer = ask().and_then(|archive| match Known::is_usable(&archive) {
            true => Ok(archive),
            false => Err(anyhow!(
                "its lists name no kernel that the modules can be made for: is trixie-backports in the mirror?"
            )),
        });
        match answer {
            Ok(archive) => {
                self.known = self.known.renew(archive);
                self.epoch = epoch.into();
                self.ask_again_at = now + FRESH.as_secs();
                let chosen = self.known.choose(series, &is_prepared);
                let chosen =
                    chosen.map(|chosen| self.unless_put_off(now, series, chosen, &is_prepared));
                Ok((self, chosen))
            }
            Err(error) => {
                let Some(version) = self.known.choose_prepared(series, &is_prepared) else {
                    return Err(error.context("looking for kernels in the archive"));
                };
                let remark = Some(format!(
                    "cannot look for a newer kernel, staying with {}: {}",
                    version.release,
                    error.root_cause()
                ));
                self.ask_again_at = now + RETRY.as_secs();
                Ok((self, Ok(Chosen { version, remark })))
            }
        }
    }

    /// What is taken of what is known, if it is there.
    fn without_asking(
        &self,
        now: u64,
        series: Option<Series>,
        is_prepared: impl Fn(&Version) -> bool,
    ) -> Option<Chosen> {
        let chosen = self.known.choose(series, &is_prepared).ok()?;
        let chosen = self.unless_put_off(now, series, chosen, &is_prepared);
        is_prepared(&chosen.version).then_some(chosen)
    }

    /// What is there instead of a kernel that could not be prepared a moment ago.
    fn unless_put_off(
        &self,
        now: u64,
        series: Option<Series>,
        chosen: Chosen,
        is_prepared: impl Fn(&Version) -> bool,
    ) -> Chosen {
        let put_off =
            |(version, until): &(Version, u64)| *version == chosen.version && now < *until;
        if is_prepared(&chosen.version) || !self.put_off.as_ref().is_some_and(put_off) {
            return chosen;
        }
        let Some(version) = self.known.choose_prepared(series, is_prepared) else {
            return chosen;
        };
        let remark = Some(format!(
            "Linux {}: {} could not be prepared lately",
            version.release, chosen.version.release
        ));
        Chosen { version, remark }
    }

    /// Remembers that a kernel cannot be prepared, if there is one to use instead, and gives that.
    pub(crate) fn put_off(
        &mut self,
        now: u64,
        version: &Version,
        series: Option<Series>,
        is_prepared: impl Fn(&Version) -> bool,
    ) -> Option<Version> {
        let instead = self.known.choose_prepared(series, is_prepared)?;
        self.put_off = Some((version.clone(), now + RETRY.as_secs()));
        Some(instead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn series(text: &str) -> Option<Series> {
        text.parse().ok()
    }

    fn version(release: &str) -> Version {
        let (series, _) = release.rsplit_once('.').unwrap_or((release, ""));
        Version {
            series: series.parse().unwrap_or(Series::newest()),
            release: release.into(),
            package: format!("{release}-1"),
        }
    }

    fn versions(releases: &[&str]) -> Result<Vec<Version>> {
        Ok(releases.iter().map(|release| version(release)).collect())
    }

    /// What is remembered after the archive was asked a day and a half ago.
    fn memory(releases: &[&str]) -> Memory {
        Memory {
            known: Known::default().renew(versions(releases).unwrap_or_default()),
            epoch: "e".into(),
            ask_again_at: NOW - 1000,
            put_off: None,
        }
    }

    fn is(release: &'static str) -> impl Fn(&Version) -> bool {
        move |found| found.release == release
    }

    #[test]
    fn a_series_that_is_too_old_does_not_trouble_the_archive() {
        let answer =
            memory(&["6.12.9", "7.3.4"]).choose(NOW, "e", series("6.12"), is("7.3.4"), || {
                panic!("the archive was asked")
            });
        assert!(answer.is_err_and(|error| error.to_string().contains("too old")));
    }

    #[test]
    fn a_series_that_there_is_not_leaves_the_others() -> Result<()> {
        let before = memory(&["7.3.4"]);
        let ask = || versions(&["7.3.4"]);
        let (after, chosen) = before.choose(NOW, "e", series("7.9"), is("7.3.4"), ask)?;
        assert!(chosen.is_err_and(|error| error.to_string().contains("it has 7.3")));
        let (_, chosen) =
            after.choose(NOW + 1, "e", None, is("7.3.4"), || panic!("asked again"))?;
        assert_eq!(chosen?.version, version("7.3.4"));
        Ok(())
    }

    #[test]
    fn an_answer_without_kernels_replaces_nothing() -> Result<()> {
        for answer in [&[][..], &["6.12.9"]] {
            let before = memory(&["7.3.4"]);
            let (after, chosen) = before
                .clone()
                .choose(NOW, "e", None, is("7.3.4"), || versions(answer))?;
            assert_eq!(after.known, before.known);
            let chosen = chosen?;
            assert_eq!(chosen.version, version("7.3.4"));
            assert!(chosen
                .remark
                .is_some_and(|remark| remark.contains("staying with 7.3.4")));
        }
        let nothing = memory(&[]).choose(NOW, "e", None, |_| false, || versions(&[]));
        assert!(nothing.is_err_and(|error| format!("{error:#}").contains("trixie-backports")));
        Ok(())
    }

    #[test]
    fn what_is_gone_from_the_archive_is_taken_from_the_cache() -> Result<()> {
        let before = memory(&["7.2.12", "7.3.4"]);
        let ask = || versions(&["7.3.5"]);
        let (_, chosen) = before.choose(NOW, "e", series("7.2"), is("7.2.12"), ask)?;
        assert_eq!(chosen?.version, version("7.2.12"));
        Ok(())
    }

    #[test]
    fn a_newer_kernel_that_cannot_be_prepared_is_put_off() -> Result<()> {
        let mut before = memory(&["7.3.4"]);
        before.known.has_worked(&version("7.3.4"));
        let ask = || versions(&["7.3.5"]);
        let (mut after, chosen) = before.choose(NOW, "e", None, is("7.3.4"), ask)?;
        let newer = chosen?.version;
        assert_eq!(newer, version("7.3.5"));
        let instead = after.put_off(NOW, &newer, None, is("7.3.4"));
        assert_eq!(instead, Some(version("7.3.4")));
        let never = || panic!("the archive was asked");
        let (after, chosen) = after.choose(NOW + 1, "e", None, is("7.3.4"), never)?;
        assert_eq!(chosen?.version, version("7.3.4"));
        let later = NOW + RETRY.as_secs();
        let (_, chosen) = after.choose(later, "e", None, is("7.3.4"), || versions(&["7.3.5"]))?;
        assert_eq!(chosen?.version, version("7.3.5"));
        Ok(())
    }

    #[test]
    fn with_nothing_else_a_failure_is_not_hidden() {
        let mut memory = memory(&["7.3.5"]);
        assert_eq!(
            memory.put_off(NOW, &version("7.3.5"), None, |_| false),
            None
        );
        assert_eq!(memory.put_off, None);
    }

    #[test]
    fn another_epoch_asks_the_archive() -> Result<()> {
        let mut before = memory(&["7.3.4"]);
        before.ask_again_at = NOW + 1000;
        let ask = || versions(&["7.3.5"]);
        let (_, chosen) = before.choose(NOW, "f", None, |_| true, ask)?;
        assert_eq!(chosen?.version, version("7.3.5"));
        Ok(())
    }
}
