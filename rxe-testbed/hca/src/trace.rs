// SPDX-License-Identifier: GPL-2.0
//! What the device says of what it does: JSON, one object a line; and what was wrong.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{json, Value};

/// What the device checks in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// I1: no access to memory that is not mapped for the device.
    Memory,
    /// I2: what was resumed does not fault again for the same entry, unless that has become absent since.
    Progress,
    /// I3: each page fault is resumed, once, and before long.
    Tokens,
    /// I4: no request changes a key that it must not, or what lies beyond the end of one.
    Keys,
    /// I5: no entry leads to a key that is gone, and none comes back with a key that was free.
    Reachable,
    /// I6: no key leads to memory that was said to be nobody's.
    Frames,
    /// No entry for an event or a completion where one is that the driver has not taken yet.
    Overrun,
    /// Registers and queues are used as the interface says.
    Interface,
}

impl Rule {
    /// As the trace calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "I1-memory",
            Self::Progress => "I2-progress",
            Self::Tokens => "I3-tokens",
            Self::Keys => "I4-keys",
            Self::Reachable => "I5-reachable",
            Self::Frames => "I6-frames",
            Self::Overrun => "overrun",
            Self::Interface => "interface",
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of what.
    pub rule: Rule,
    /// When, since the device was made.
    pub time: Duration,
    /// What, and by whom.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_secs_f64();
        write!(f, "{} at {time:.6} s: {}", self.rule.name(), self.what)
    }
}

/// How many violations are kept; the first ones tell.
const KEPT: usize = 1000;

#[derive(Default)]
struct Inner {
    output: Option<Box<dyn Write + Send>>,
    violations: Vec<Violation>,
}

/// The trace. Copies of it are the same trace.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    /// One whose lines go to `output`.
    pub fn to(output: Box<dyn Write + Send>) -> Self {
        let inner = Inner {
            output: Some(output),
            violations: Vec::new(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// What was wrong so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.inner().violations.clone()
    }

    /// Writes what is still in a buffer.
    pub fn flush(&self) {
        let mut inner = self.inner();
        if let Some(output) = &mut inner.output {
            // A trace that cannot be written must not end the device.
            let _ = output.flush();
        }
    }

    /// Says that something happened. `fields` is only called if somebody listens.
    pub(crate) fn event(&self, time: Duration, what: &str, fields: impl FnOnce() -> Value) {
        self.inner().write(time, what, fields);
    }

    /// Says that something is wrong.
    pub(crate) fn violation(&self, time: Duration, rule: Rule, what: String) {
        let mut inner = self.inner();
        inner.write(
            time,
            "violation",
            || json!({"rule": rule.name(), "text": what}),
        );
        if inner.violations.len() < KEPT {
            inner.violations.push(Violation { rule, time, what });
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, time: Duration, what: &str, fields: impl FnOnce() -> Value) {
        let Some(output) = &mut self.output else {
            return;
        };
        let mut line = fields();
        if let Value::Object(object) = &mut line {
            object.insert("what".into(), what.into());
            object.insert("ns".into(), (time.as_nanos() as u64).into());
        }
        let _ = writeln!(output, "{line}");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is written to it can be read.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut page = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            page.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_an_object() {
        let page = Page::default();
        let trace = Trace::to(Box::new(page.clone()));
        trace.event(
            Duration::from_nanos(5),
            "command",
            || json!({"opcode": 0x100}),
        );
        trace.violation(Duration::from_nanos(6), Rule::Memory, "0x10".into());
        let lines: Vec<Value> = page
            .text()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        assert_eq!(
            lines[0],
            json!({"what": "command", "ns": 5, "opcode": 0x100})
        );
        assert_eq!(lines[1]["rule"], "I1-memory");
        assert_eq!(trace.violations().len(), 1);
    }

    #[test]
    fn without_a_listener_nothing_is_put_together() {
        let trace = Trace::default();
        trace.event(Duration::ZERO, "x", || unreachable!("nobody listens"));
        trace.violation(Duration::ZERO, Rule::Overrun, String::new());
        assert_eq!(trace.violations().len(), 1);
    }
}
