// SPDX-License-Identifier: GPL-2.0
//! Errors that carry an exit status of their own, and the reading of other tools' errors.

use std::fmt;
use std::time::Duration;

/// Exit statuses of the program itself; a guest command's own status is passed through.
pub(crate) mod status {
    /// Anything went wrong on the host.
    pub(crate) const FAILURE: u8 = 1;
    /// The guest command ran longer than `--timeout`.
    pub(crate) const TIMEOUT: u8 = 124;
    /// The VM did not boot, hung or died.
    pub(crate) const VM: u8 = 121;
    /// The command succeeded, but the kernel complained in its log.
    pub(crate) const KERNEL_LOG: u8 = 122;
    /// The guest has no such command.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// Ended by Ctrl-C or SIGTERM.
    pub(crate) const INTERRUPTED: i32 = 130;
}

/// An error with its exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The program's exit status.
    pub(crate) status: u8,
    message: String,
}

impl Failure {
    /// An error that makes the program exit with `status`.
    pub(crate) fn error(status: u8, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self {
            status,
            message: message.into(),
        })
    }

    /// What `command`, a command in the guest, ends with that ran longer than `limit`.
    pub(crate) fn too_long(command: &str, limit: Duration) -> anyhow::Error {
        let text = format!(
            "{command} ran longer than {} s and was killed",
            limit.as_secs()
        );
        Self::error(status::TIMEOUT, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit status that an error stands for.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref::<Failure>()
        .map_or(status::FAILURE, |failure| failure.status)
}

/// What is known about the messages of apt, mmdebstrap and friends: a piece of the message, and
/// what the user should know or do.
const KNOWN: &[(&str, &str)] = &[
    (
        "No space left on device",
        "the disk is full: free some space (`cargo testbed clean --all` drops the whole cache) or \
         set HMM_ODP_CACHE to a roomier disk",
    ),
    (
        "NO_PUBKEY",
        "the host's debian-archive-keyring is too old for this archive: upgrade that package",
    ),
    (
        "EXPKEYSIG",
        "the host's debian-archive-keyring has expired keys: upgrade that package",
    ),
    (
        "Temporary failure resolving",
        "no network: the Debian archive's name does not resolve",
    ),
    (
        "Could not resolve",
        "no network: the Debian archive's name does not resolve",
    ),
    (
        "Could not connect",
        "no network: the Debian archive does not answer",
    ),
    (
        "Network is unreachable",
        "no network: the Debian archive cannot be reached",
    ),
    (
        "Connection timed out",
        "no network: the Debian archive does not answer",
    ),
    (
        "Hash Sum mismatch",
        "the archive changed while it was read: try again with `cargo testbed build --update`",
    ),
    (
        "unexpected size",
        "the archive changed while it was read: try again with `cargo testbed build --update`",
    ),
    (
        "404  Not Found",
        "the archive has moved on: try again with `cargo testbed build --update`",
    ),
    (
        "' was not found",
        "the archive has moved on: try again with `cargo testbed build --update`",
    ),
    (
        "Unable to locate package",
        "the archive has no such package (any more): try `cargo testbed build --update`",
    ),
];

/// Why the network could not be used, if what apt said is known to mean that.
pub(crate) fn network(log: &str) -> Option<&'static str> {
    explain(log).filter(|cause| cause.starts_with("no network"))
}

/// Finds the cause of a failed step in its log, if it is one of the known ones.
pub(crate) fn explain(log: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(symptom, _)| log.contains(symptom))
        .map(|(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_in_the_log() {
        let log = "E: Failed to fetch http://deb.debian.org/x  404  Not Found [IP: 1.2.3.4 80]";
        assert!(explain(log).is_some_and(|cause| cause.contains("--update")));
        assert!(explain("tar: write error: No space left on device")
            .is_some_and(|cause| cause.contains("disk is full")));
        assert!(explain("syntax error").is_none());
    }

    #[test]
    fn a_failure_keeps_its_status_under_context() {
        let error = Failure::error(status::VM, "silent").context("booting");
        assert_eq!(exit_status(&error), status::VM);
        assert_eq!(exit_status(&anyhow::anyhow!("other")), status::FAILURE);
    }
}
