// SPDX-License-Identifier: GPL-2.0
//! `lint/commits`: the first line of a commit is as short as CONTRIBUTING asks for.

use std::process::Command;

use anyhow::Result;

use crate::repository::Repository;

/// Those up to this one are older than the rule.
const BASE: &str = "8867c33e7bb2837110fee81f4dfb6b6132a361cb";

/// The most characters of a first line.
const LONGEST: usize = 72;

/// The commits since [`BASE`] whose first lines are too long; none if there is no such history here.
pub(super) fn check(repository: &Repository) -> Result<Option<Vec<String>>> {
    let git = Command::new("git")
        .args(["log", "--no-merges", "--format=%h %s"])
        .arg(format!("{BASE}..HEAD"))
        .current_dir(repository.root())
        .output();
    Ok(match git {
        Ok(output) if output.status.success() => {
            let log = String::from_utf8_lossy(&output.stdout);
            Some(log.lines().filter_map(complaint).collect())
        }
        _ => None,
    })
}

/// What is wrong with a commit: its hash and its first line.
fn complaint(commit: &str) -> Option<String> {
    let (hash, subject) = commit.split_once(' ')?;
    let length = subject.chars().count();
    (length > LONGEST)
        .then(|| format!("{hash} has a first line of {length} characters, more than {LONGEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_be_as_long_as_the_rule_says() {
        let commit = |length| format!("abcdef {}", "ü".repeat(length));
        assert_eq!(complaint(&commit(LONGEST)), None);
        assert!(complaint(&commit(LONGEST + 1)).is_some());
    }
}
