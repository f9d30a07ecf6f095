// SPDX-License-Identifier: GPL-2.0
//! What the kernel says when it kills a process because a memory cgroup is full. The guest has no cgroup but those that
//! commands make: such a limit is wanted, and so is what comes of it. Whoever did not want it sees its process killed.

use std::ops::Range;

use super::allowed::matches;
use super::dump;
use super::line::Line;

/// What begins a report.
const BEGIN: &str = "* invoked oom-killer: *";

/// What is in it if it is of a cgroup.
const CGROUP: &str = "Memory cgroup stats for *:";

/// What ends it: why somebody is to be killed, or that there is nobody left.
const END: &[&str] = &[
    "oom-kill:constraint=*",
    "Out of memory and no killable processes...",
];

/// What follows it.
const KILLED: &str = "Memory cgroup out of memory: Killed process % *";

/// What it consists of besides a dump that would be complaints elsewhere.
const LINES: &[&str] = &[
    BEGIN,
    "Memory cgroup min protection *",
    "oom-kill:constraint=CONSTRAINT_MEMCG,*",
    "Out of memory and no killable processes...",
];

/// The reports of a log.
pub(super) struct Reports(Vec<Range<usize>>);

impl Reports {
    /// Finds them in the lines of a log.
    pub(super) fn of(lines: &[&str]) -> Self {
        let is = |text: &str, patterns: &[&str]| {
            let line = Line::read(text);
            line.is_kernels() && patterns.iter().any(|pattern| matches(pattern, line.text))
        };
        let mut reports = Vec::new();
        for begin in (0..lines.len()).filter(|number| is(lines[*number], &[BEGIN])) {
            let length = lines[begin..].iter().position(|line| is(line, END));
            let report = begin..begin + length.map_or(0, |length| length + 1);
            if lines[report.clone()].iter().any(|line| is(line, &[CGROUP])) {
                reports.push(report);
            }
        }
        Self(reports)
    }

    /// Whether the line of this number is a report's.
    pub(super) fn have(&self, number: usize, line: &Line<'_>) -> bool {
        let inside = self.0.iter().any(|report| report.contains(&number));
        let after = self.0.iter().any(|report| report.end <= number);
        let its = || LINES.iter().any(|pattern| matches(pattern, line.text));
        inside && (dump::has(line.text) || its()) || after && matches(KILLED, line.text)
    }
}
