// SPDX-License-Identifier: GPL-2.0
//! The check of the kernel log.
//!
//! Until a driver is chosen, a boot's log is only searched for the alarms by which any kernel says that something is
//! wrong. From then on it is a list of what may be there that counts: whatever the kernel says at level warning or
//! worse, and whatever our modules or the Rust runtime say at any level, is a complaint unless it is [`allowed`].
//! So is what has no level: the console lost messages, or somebody else wrote to it. What the processes in the guest
//! write to `/dev/kmsg` is not the kernel's. That a memory cgroup is full ([`cgroup`]) is no complaint, and of a
//! [`warning`] it counts where it is.

mod allowed;
mod cgroup;
mod dump;
mod line;
mod warning;

use crate::script::quote;
use crate::ui;
use cgroup::Reports;
use line::Line;
use warning::Warnings;

/// The levels from the worst to this one are complaints: `KERN_WARNING`.
const WARNING: u8 = 4;

/// Whose lines count at any level: modules of the repository with names of these beginnings, and what Rust code says
/// that has no module's name.
const OURS: &[&str] = &["hmm", "mlx_odp", "rdma_rxe", "rust_kernel"];

/// Pieces of lines by which the kernel says that something is wrong, at any level and any time.
const ALARMS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG",
    "Oops",
    "Kernel panic",
    "Call Trace",
    "general protection fault",
    "unable to handle",
    "Unable to handle",
    "KASAN",
    "KCSAN",
    "KFENCE",
    "UBSAN",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "slab-use-after-free",
    "Objects remaining",
    "possible recursive locking",
    "possible circular locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "bad unlock balance",
    "DEBUG_LOCKS_WARN_ON",
    "turning off the locking correctness validator",
    "trying to register non-static key",
    "ODEBUG:",
    "self-detected stall",
    "rcu_preempt detected",
    "detected stalls",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "suspected memory leak",
    "Bad page",
    "Bad rss-counter",
    "non-zero pgtables_bytes",
    "Out of memory",
    "oom-kill",
    "segfault",
    "traps:",
    "Unknown symbol",
    "disagrees about version",
    "Failed to register",
    "invoked oom-killer",
];

/// What the console says when another thread has taken it over in the middle of a line, which follows again, whole.
const REPLAYED: &str = "** replaying previous printk message **";

/// What the guest's runner logs before it loads a driver.
const DRIVER: &str = "testbed: driver ";

/// What a test logs that begins, before its name.
const TEST: &str = "testbed: test ";

/// What the guest's runner logs when a command has ended, before its number.
const END: &str = "testbed: end of command ";

/// Says what the kernel complained of, if of anything, to the user.
pub(crate) fn tell(complaints: &[String]) {
    if complaints.is_empty() {
        return;
    }
    ui::line("the kernel complained:");
    for line in complaints.iter().take(20) {
        ui::line(&format!("  {line}"));
    }
}

/// `script`, which first says in the log that it is this test's.
pub(crate) fn marked(test: &str, script: &str) -> String {
    let mark = quote(&format!("{TEST}{test}"));
    format!("echo {mark} >/dev/kmsg\n{script}")
}

/// Whether `log` has the runner's word that the command of this number has ended. What the kernel said during the
/// command comes before that.
pub(crate) fn has_ended(log: &str, command: u32) -> bool {
    let mark = format!("{END}{command}");
    log.split_inclusive('\n')
        .rev()
        .filter(|line| line.ends_with('\n'))
        .any(|line| Line::read(line).text == mark)
}

/// The lines of one boot's `log` from the byte `from` on that must not be there. What comes before tells whether a
/// driver was chosen, and which test is running.
pub(crate) fn complaints_from(log: &str, from: usize) -> Vec<String> {
    let mut place = Place::default();
    let mut at = 0;
    let mut found = Vec::new();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let reports = Reports::of(&lines);
    let warnings = Warnings::of(&lines);
    for (number, text) in lines.iter().enumerate() {
        let is_whole = !lines.get(number + 1).is_some_and(|next| is_replayed(next));
        if !is_whole || is_replayed(text) {
            at += text.len();
            continue;
        }
        let line = Line::read(text);
        place.follow(&line);
        let known = || reports.have(number, &line) || warnings.allow(number, &line, place.test);
        if at >= from && is_complaint(&line, &place) && !known() {
            found.push(text.trim_end().to_owned());
        }
        at += text.len();
    }
    found
}

fn is_replayed(line: &str) -> bool {
    line.trim_end() == REPLAYED
}

/// The lines of one boot's `log` that must not be there, in order.
pub(crate) fn complaints(log: &str) -> Vec<String> {
    complaints_from(log, 0)
}

/// Up to `count` lines of `log` from the first alarm on, for a log that ends in a crash.
pub(crate) fn first_alarm(log: &str, count: usize) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let alarm = |line: &Line<'_>| is_alarm(line) && !allowed::anywhere(line.text);
    let first = lines.iter().position(|line| alarm(&Line::read(line)))?;
    Some(
        lines[first..]
            .iter()
            .take(count)
            .copied()
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

/// Where in a boot a line is.
#[derive(Default)]
struct Place<'a> {
    /// A driver was chosen.
    loaded: bool,
    /// The test that is running.
    test: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn follow(&mut self, line: &Line<'a>) {
        if line.is_kernels() {
            return;
        }
        if line.text.starts_with(DRIVER) {
            self.loaded = true;
        } else if let Some(test) = line.text.strip_prefix(TEST) {
            self.test = Some(test);
        } else if line.text.starts_with(END) {
            self.test = None;
        }
    }
}

fn is_complaint(line: &Line<'_>, place: &Place<'_>) -> bool {
    let wrong = is_alarm(line) || place.loaded && counts(line);
    wrong && !allowed::in_test(line.text, place.test)
}

/// An alarm in a line that no process in the guest wrote.
fn is_alarm(line: &Line<'_>) -> bool {
    line.is_kernels() && ALARMS.iter().any(|alarm| line.text.contains(alarm))
}

/// Whether a line must be allowed once a driver was chosen.
fn counts(line: &Line<'_>) -> bool {
    match line.level() {
        None => !line.text.is_empty(),
        Some(level) => line.is_kernels() && (level <= WARNING || is_ours(line.text)),
    }
}

/// Whether a line begins with the name of a module of ours, which a colon or a device's name follows, or with that of a
/// device.
fn is_ours(text: &str) -> bool {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let module = rest.starts_with([':', ' ']) && OURS.iter().any(|start| name.starts_with(start));
    module || is_of_device(text)
}

/// Whether a line begins with the name of a soft-RoCE device, as rxe's own code and the kernel's write it. A VM may have
/// many.
fn is_of_device(text: &str) -> bool {
    let text = text.strip_prefix("infiniband ").unwrap_or(text);
    let number = text
        .strip_prefix("rxe")
        .and_then(|rest| rest.split_once(": "));
    number.is_some_and(|(number, _)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests;
