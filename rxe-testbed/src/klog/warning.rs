// SPDX-License-Identifier: GPL-2.0
//! Warnings of the kernel's code (`WARN_ON`): many lines, of which one says where it is. If that is allowed, so are the
//! others, but not for a second time.

use std::ops::Range;

use super::allowed::{self, matches};
use super::dump;
use super::line::Line;

const BEGIN: &str = "------------[ cut here ]------------";
const WHERE: &str = "WARNING: *";
const END: &str = "---[ end trace * ]---";

/// What it consists of besides a dump.
const LINES: &[&str] = &[BEGIN, "Modules linked in: *", END];

/// A warning: its lines' numbers, and what it says of where it is.
struct Warning<'a> {
    lines: Range<usize>,
    place: &'a str,
}

impl Warning<'_> {
    /// The file and the line of the code.
    fn source(&self) -> &str {
        self.place.split(" at ").next().unwrap_or_default()
    }
}

/// The warnings of a log.
pub(super) struct Warnings<'a>(Vec<Warning<'a>>);

impl<'a> Warnings<'a> {
    /// Finds them in the lines of a log.
    pub(super) fn of(lines: &[&'a str]) -> Self {
        let is = |text: &str, pattern: &str| {
            let line = Line::read(text);
            line.is_kernels() && matches(pattern, line.text)
        };
        let begins = (0..lines.len()).filter(|number| is(lines[*number], BEGIN));
        let warning = |begin: usize| {
            let rest = &lines[begin..];
            let length = rest.iter().position(|line| is(line, END))? + 1;
            let place = rest[..length].iter().find(|line| is(line, WHERE))?;
            Some(Warning {
                lines: begin..begin + length,
                place: Line::read(place).text,
            })
        };
        Self(begins.filter_map(warning).collect())
    }

    /// Whether the line of this number is one of a warning that may be there while this test runs.
    pub(super) fn allow(&self, number: usize, line: &Line<'_>, test: Option<&str>) -> bool {
        let mut around = self.0.iter();
        let Some(warning) = around.find(|warning| warning.lines.contains(&number)) else {
            return false;
        };
        let before = self.0.iter();
        let mut before = before.take_while(|other| other.lines.end <= number);
        let again = before.any(|other| other.source() == warning.source());
        let its = LINES.iter().any(|pattern| matches(pattern, line.text)) || dump::has(line.text);
        its && !again && allowed::in_test(warning.place, test)
    }
}
