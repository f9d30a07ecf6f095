// SPDX-License-Identifier: GPL-2.0
//! What remains of a test run: one line per test, the summary, JUnit and KTAP files.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::{Record, Status};
use crate::ui;

/// The results so far.
#[derive(Default)]
pub(crate) struct Report {
    records: Vec<Record>,
}

impl Report {
    /// Takes a result and prints its line, with the reason for a failure, or the figures, below it.
    pub(crate) fn add(&mut self, record: Record) {
        let text = with_detail(&record);
        // At once: others may have something to say, too.
        ui::beside(|| println!("{text}"));
        self.records.push(record);
    }

    /// Takes those of another report, which has printed them.
    pub(crate) fn append(&mut self, other: Self) {
        self.records.extend(other.records);
    }

    /// Takes some more.
    pub(crate) fn extend(&mut self, records: impl IntoIterator<Item = Record>) {
        records.into_iter().for_each(|record| self.add(record));
    }

    /// Whether no test was run.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether any test failed.
    pub(crate) fn failed(&self) -> bool {
        self.count(Status::Fail) > 0
    }

    /// The names of the tests that were run.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<&str> {
        self.records.iter().map(|record| &*record.name).collect()
    }

    fn count(&self, status: Status) -> usize {
        self.records
            .iter()
            .filter(|record| record.status == status)
            .count()
    }

    /// What failed, once more, as it may be far above the end of the output; `None` if nothing did.
    pub(crate) fn failures(&self) -> Option<String> {
        let failed: Vec<String> = self
            .records
            .iter()
            .filter(|record| record.status == Status::Fail)
            .map(with_detail)
            .collect();
        (!failed.is_empty()).then(|| failed.join("\n"))
    }

    /// The last line of the output.
    pub(crate) fn closing_line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.count(Status::Pass),
            self.count(Status::Fail),
            self.count(Status::Skip)
        )
    }

    /// Writes `junit.xml` and `report.ktap`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        for (name, text) in [("junit.xml", self.junit()), ("report.ktap", self.ktap())] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    fn junit(&self) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"hmm-odp\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">\n",
            self.records.len(),
            self.count(Status::Fail),
            self.count(Status::Skip)
        );
        for record in &self.records {
            let (class, name) = record.name.rsplit_once('/').unwrap_or(("", &record.name));
            let time = record.time.map_or(0.0, |time| time.as_secs_f64());
            text.push_str(&format!(
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{time:.3}\">",
                escaped(class),
                escaped(name)
            ));
            let detail = escaped(&record.detail);
            match record.status {
                Status::Pass if detail.is_empty() => {}
                Status::Pass => text.push_str(&format!("<system-out>{detail}</system-out>")),
                Status::Fail => text.push_str(&format!("<failure>{detail}</failure>")),
                Status::Skip => text.push_str(&format!("<skipped message=\"{detail}\"/>")),
            }
            text.push_str("</testcase>\n");
        }
        text.push_str("</testsuite>\n");
        text
    }

    fn ktap(&self) -> String {
        let mut text = format!("KTAP version 1\n1..{}\n", self.records.len());
        for (number, record) in self.records.iter().enumerate() {
            for line in record.detail.trim_end().lines() {
                text.push_str(&format!("# {line}\n"));
            }
            let (verdict, directive) = match record.status {
                Status::Pass => ("ok", ""),
                Status::Fail => ("not ok", ""),
                Status::Skip => ("ok", " # SKIP"),
            };
            text.push_str(&format!(
                "{verdict} {} {}{directive}\n",
                number + 1,
                record.name
            ));
        }
        text
    }
}

/// The line of a test, with the reason for a failure, or the figures, below it.
fn with_detail(record: &Record) -> String {
    let mut text = line(record);
    if record.status != Status::Skip {
        for line in record.detail.trim_end().lines() {
            text.push_str(&format!("\n      | {line}"));
        }
    }
    text
}

fn line(record: &Record) -> String {
    let word = match record.status {
        Status::Pass => "ok  ",
        Status::Fail => "FAIL",
        Status::Skip => "skip",
    };
    let mut line = format!("{word}  {}", record.name);
    if let Some(time) = record.time {
        line.push_str(&format!(" ({:.1} s)", time.as_secs_f64()));
    }
    if record.status == Status::Skip && !record.detail.is_empty() {
        line.push_str(&format!(": {}", record.detail.trim().replace('\n', "; ")));
    }
    line
}

/// Text for XML. Characters that XML cannot hold at all become question marks.
fn escaped(text: &str) -> String {
    let mut result = String::new();
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\n' | '\t' => result.push(c),
            c if c.is_control() => result.push('?'),
            c => result.push(c),
        }
    }
    result
}

/// The time in UTC as `20260102-030405`, which sorts by age.
pub(crate) fn timestamp() -> Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(format_utc(now.as_secs()))
}

fn format_utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// The Gregorian date of a day after 1970-01-01, by counting whole 400-year cycles that begin in
/// March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let record = |name: &str, status, detail: &str| Record {
            name: name.into(),
            status,
            time: None,
            detail: detail.into(),
        };
        Report {
            records: vec![
                record("core/hmm/walk", Status::Pass, ""),
                record("lint/fmt", Status::Fail, "a < b\n"),
                record("pyverbs/xrc", Status::Skip, "no XRC"),
            ],
        }
    }

    #[test]
    fn the_closing_line_counts() {
        assert_eq!(report().closing_line(), "1 passed, 1 failed, 1 skipped");
        assert!(report().failed());
        assert!(!Report::default().failed());
    }

    #[test]
    fn the_end_names_what_failed() {
        let expected = "FAIL  lint/fmt\n      | a < b";
        assert_eq!(report().failures().as_deref(), Some(expected));
        assert_eq!(Report::default().failures(), None);
    }

    #[test]
    fn ktap_numbers_the_tests() {
        let expected = "KTAP version 1\n1..3\nok 1 core/hmm/walk\n# a < b\nnot ok 2 lint/fmt\n\
                        # no XRC\nok 3 pyverbs/xrc # SKIP\n";
        assert_eq!(report().ktap(), expected);
    }

    #[test]
    fn junit_escapes() {
        let text = report().junit();
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\""));
        assert!(text.contains("<failure>a &lt; b\n</failure>"));
        assert!(text.contains("classname=\"core/hmm\" name=\"walk\""));
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(format_utc(0), "19700101-000000");
        assert_eq!(format_utc(951_782_400), "20000229-000000");
        assert_eq!(format_utc(1_767_322_800 + 245), "20260102-030405");
    }
}
