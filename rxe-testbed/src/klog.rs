// SPDX-License-Identifier: GPL-2.0
//! The check of the kernel log after a VM has run.
//!
//! Two kinds of lines are complaints: those by which any kernel says that something is wrong, and
//! lines of our own modules beyond the one that each prints when it is loaded.

use std::collections::BTreeMap;

/// Pieces of lines by which the kernel says that something is wrong.
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

/// Harmless lines that look like alarms, each with its reason.
const HARMLESS: &[(&str, &str)] = &[
    (
        "RETBleed: WARNING",
        "mitigations are off on purpose in the emulated guest",
    ),
    (
        "Spectre V2 : WARNING",
        "mitigations are off on purpose in the emulated guest",
    ),
    (
        "MDS: WARNING",
        "mitigations are off on purpose in the emulated guest",
    ),
    (
        "ENERGY_PERF_BIAS",
        "a remark about the emulated processor's power settings",
    ),
];

/// The modules of the repository.
const OURS: &[&str] = &["hmm", "mlx_odp", "rdma_rxe"];

/// What the kernel's own code says in the name of a module: the loader's remarks on any module
/// that is not the distribution's, and the word of rxe's C code when it is unloaded.
const FROM_KERNEL: &[&str] = &["taints kernel", "tainting kernel", "unloaded"];

/// What is said of a parameter that makes no sense: by the kernel, and by our modules.
const REFUSED: &[&str] = &["invalid for parameter", "is not possible: it has to be"];

/// The lines of `log` from the byte `from` on that must not be there. What comes before tells
/// which lines the modules print when they are loaded.
pub(crate) fn complaints_from(log: &str, from: usize) -> Vec<String> {
    let mut load_lines = BTreeMap::new();
    let mut at = 0;
    let mut found = Vec::new();
    for line in log.split_inclusive('\n') {
        let text = message(line);
        let wrong = is_alarm(text) || is_chatter(text, &mut load_lines);
        if wrong && at >= from {
            found.push(line.trim_end().to_owned());
        }
        at += line.len();
    }
    found
}

/// The lines of `log` that must not be there, in order.
pub(crate) fn complaints(log: &str) -> Vec<String> {
    complaints_from(log, 0)
}

/// Up to `count` lines of `log` from the first alarm on, for a log that ends in a crash.
pub(crate) fn first_alarm(log: &str, count: usize) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let first = lines.iter().position(|line| is_alarm(message(line)))?;
    Some(
        lines[first..]
            .iter()
            .take(count)
            .copied()
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

fn is_alarm(text: &str) -> bool {
    ALARMS.iter().any(|alarm| text.contains(alarm))
        && !HARMLESS.iter().any(|(harmless, _)| text.contains(harmless))
}

/// A line that one of our modules prints beyond its load line. Its first line is taken for that;
/// it may come again when the module is loaded again.
fn is_chatter<'a>(text: &'a str, load_lines: &mut BTreeMap<&'static str, &'a str>) -> bool {
    OURS.iter().any(|module| {
        let rest = text
            .strip_prefix(module)
            .and_then(|rest| rest.strip_prefix(": "));
        let expected = |rest: &&str| FROM_KERNEL.iter().chain(REFUSED).any(|s| rest.contains(s));
        let Some(rest) = rest.filter(|rest| !expected(rest)) else {
            return false;
        };
        *load_lines.entry(module).or_insert(rest) != rest
    })
}

/// A line without its time stamp.
fn message(line: &str) -> &str {
    let line = line.trim_end();
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((_, text)) => text,
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_log_has_no_complaints() {
        let log = "\
[    0.000000] Linux version 7.2.12+deb13-amd64
[    0.100000] Spectre V2 : WARNING: Unprivileged eBPF is enabled
[    1.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 27755)
[    2.000000] hmm: loading out-of-tree module taints kernel.
[    2.000001] hmm: module verification failed: signature and/or required key missing - tainting kernel
[    2.100000] hmm: loaded
[    2.150000] mlx_odp: loaded
[    2.200000] rdma_rxe: loaded
[    2.250000] mlx_odp: `x' invalid for parameter `chunk_size'
[    2.260000] mlx_odp: chunk_size=3 is not possible: it has to be 4
[    2.300000] infiniband rxe0: set active
";
        assert_eq!(complaints(log), Vec::<String>::new());
    }

    #[test]
    fn splats_are_complaints() {
        let log = "\
[    3.000000] WARNING: CPU: 0 PID: 1 at mm/hmm.c:1 x+0x1/0x2
[    3.000001] Call Trace:
[    4.000000] refcount_t: underflow; use-after-free.
";
        assert_eq!(complaints(log).len(), 3);
        assert_eq!(first_alarm(log, 2).unwrap_or_default().lines().count(), 2);
    }

    #[test]
    fn what_the_debug_kernel_finds_is_a_complaint() {
        for line in [
            "BUG: KASAN: slab-use-after-free in x+0x1/0x2 [hmm]",
            "WARNING: possible circular locking dependency detected",
            "WARNING: suspicious RCU usage",
            "BUG: sleeping function called from invalid context at mm/x.c:1",
            "DEBUG_LOCKS_WARN_ON(1)",
            "INFO: trying to register non-static key.",
            "BUG: MAX_LOCKDEP_CHAINS too low!",
            "turning off the locking correctness validator.",
            "[ BUG: Invalid wait context ]",
            "ODEBUG: free active (active state 0) object: 0 object type: work_struct",
            "UBSAN: array-index-out-of-bounds in x.c:1:2",
            "list_add corruption. prev->next should be next",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "INFO: task a:1 blocked for more than 120 seconds.",
        ] {
            assert_eq!(
                complaints(&format!("[    9.000000] {line}\n")).len(),
                1,
                "{line}"
            );
        }
    }

    #[test]
    fn chatter_of_ours_is_a_complaint() {
        let log = "\
[    3.000000] mlx_odp: loaded
[    3.100000] mlx_odp: fault at 1000
[    3.200000] mlx_odp: loaded
";
        let fault = "[    3.100000] mlx_odp: fault at 1000";
        assert_eq!(complaints(log), [fault]);
        let from = log.find("[    3.1").unwrap_or_default();
        assert_eq!(complaints_from(log, from), [fault]);
        assert!(complaints_from(log, from + 1).is_empty());
    }
}
