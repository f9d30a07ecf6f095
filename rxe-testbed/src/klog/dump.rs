// SPDX-License-Identifier: GPL-2.0
//! What the kernel says of a processor when something has happened on it: where it is, what is in its registers, and by
//! whom it was called. It belongs to a message that says what has happened.

use super::allowed::matches;

const LINES: &[&str] = &[
    "CPU: % *",
    "Tainted: *",
    "Hardware name: *",
    "Workqueue: *",
    "Call Trace:",
    " *",
    "RIP: *",
    "Code: *",
    "RSP: *",
    "RAX: *",
    "RDX: *",
    "RBP: *",
    "R10: *",
    "R13: *",
    "FS: *",
    "CS: *",
    "CR2: *",
    "DR0: *",
    "DR3: *",
    "PKRU: *",
];

/// Whether a line may be one of it.
pub(super) fn has(text: &str) -> bool {
    LINES.iter().any(|pattern| matches(pattern, text))
}
