// SPDX-License-Identifier: GPL-2.0
//! Whether a test in the VM passed: how its script ended, and what the kernel said meanwhile.

use std::time::Duration;

use super::table::VmTest;
use super::Status;
use crate::process;
use crate::vm::Outcome;

/// A test that has run.
pub(super) struct Ran<'a> {
    pub(super) outcome: Outcome,
    /// The time that it had.
    pub(super) limit: Duration,
    /// What it printed.
    pub(super) said: &'a str,
    /// The lines of the kernel log that must not be there.
    pub(super) complaints: &'a [String],
}

impl Ran<'_> {
    /// How `test` ended, and what there is to tell of it.
    pub(super) fn verdict(&self, test: &VmTest) -> (Status, String) {
        let (status, detail) = self.with_log(test);
        match test.provokes() {
            Some(line) => self.provoked(line, (status, detail)),
            None => (status, detail),
        }
    }

    fn with_log(&self, test: &VmTest) -> (Status, String) {
        let (status, mut detail) = self.script(test);
        // After a timeout the log holds the blocked tasks, which is no complaint of its own.
        if self.complaints.is_empty() || self.outcome == Outcome::TimedOut {
            return (status, detail);
        }
        let first: Vec<_> = self.complaints.iter().take(12).cloned().collect();
        detail.push_str(&format!("\nthe kernel complained:\n{}", first.join("\n")));
        (Status::Fail, detail)
    }

    /// Without the kernel log.
    fn script(&self, test: &VmTest) -> (Status, String) {
        let end = |lines| process::tail(self.said.trim_end(), lines);
        match self.outcome {
            Outcome::Exit(0) if test.tells() => (Status::Pass, end(40)),
            Outcome::Exit(0) => (Status::Pass, String::new()),
            Outcome::Exit(77) => (Status::Skip, end(1)),
            Outcome::Exit(exit) => {
                let lines = if test.tells() { 80 } else { 30 };
                (Status::Fail, format!("exit status {exit}\n{}", end(lines)))
            }
            Outcome::TimedOut => (
                Status::Fail,
                format!("killed after {} s\n{}", self.limit.as_secs(), end(20)),
            ),
        }
    }

    /// A test that has the kernel say `line` has passed if that, and nothing else, made it fail.
    fn provoked(&self, line: &str, (status, detail): (Status, String)) -> (Status, String) {
        let found = self.outcome == Outcome::Exit(0) && status == Status::Fail;
        if found && self.complaints.iter().all(|text| text.contains(line)) {
            return (Status::Pass, String::new());
        }
        let text = format!("the kernel was to say `{line}`, and the test to fail for that alone");
        (Status::Fail, format!("{text}\n{detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;
    use crate::kernel::Variant;
    use crate::series::Series;

    fn verdict(name: &str, outcome: Outcome, complaints: &[&str]) -> (Status, String) {
        let tests = table::all(&["a".into()], &[], Series::newest(), Variant::Stock);
        let test = tests.iter().find(|test| test.name == name).unwrap();
        let complaints: Vec<String> = complaints.iter().map(|line| (*line).into()).collect();
        let ran = Ran {
            outcome,
            limit: Duration::from_secs(9),
            said: "first\nlast\n",
            complaints: &complaints,
        };
        ran.verdict(test)
    }

    #[test]
    fn a_complaint_of_the_kernel_fails_a_test() {
        let of = |outcome, complaints: &[&str]| verdict("verbs/a", outcome, complaints);
        assert_eq!(of(Outcome::Exit(0), &[]), (Status::Pass, String::new()));
        assert_eq!(of(Outcome::Exit(77), &[]), (Status::Skip, "last".into()));
        for outcome in [0, 77, 1].map(Outcome::Exit) {
            let (status, detail) = of(outcome, &["<4>[    8.0] x"]);
            assert_eq!(status, Status::Fail);
            assert!(detail.contains("the kernel complained:\n<4>[    8.0] x"));
        }
        let (status, detail) = of(Outcome::TimedOut, &["<4>[    8.0] x"]);
        assert_eq!(status, Status::Fail);
        assert!(detail.starts_with("killed after 9 s") && !detail.contains("complained"));
    }

    #[test]
    fn the_test_of_the_check_passes_if_its_line_alone_is_found() {
        let line = "<3>[    8.0] EXT4-fs (vdb): VFS: Can't find ext4 filesystem";
        let of = |exit, complaints: &[&str]| {
            verdict("vm/kernel-log-is-checked", Outcome::Exit(exit), complaints).0
        };
        assert_eq!(of(0, &[line]), Status::Pass);
        assert_eq!(of(0, &[]), Status::Fail);
        assert_eq!(of(0, &["<4>[    8.0] x"]), Status::Fail);
        assert_eq!(of(0, &[line, "<4>[    8.0] x"]), Status::Fail);
        assert_eq!(of(1, &[line]), Status::Fail);
    }
}
