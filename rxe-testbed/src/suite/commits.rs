// SPDX-License-Identifier: GPL-2.0
//! `lint/commits`: the first line of a commit is as short as CONTRIBUTING asks for.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

/// Those up to this one are older than the rule.
const BASE: &str = "8867c33e7bb2837110fee81f4dfb6b6132a361cb";

/// The most characters of a first line.
const LONGEST: usize = 72;

/// Why nothing was checked.
pub(super) fn no_history() -> String {
    format!(
        "not checked: commit {} is not in the history here, which may be a shallow clone (`git fetch --unshallow`) or no \
         checkout of git's",
        &BASE[..7]
    )
}

/// The commits since [`BASE`] whose first lines are too long; none if there is no such history here.
pub(super) fn check(root: &Path) -> Result<Option<Vec<String>>> {
    let git = Command::new("git")
        .args(["log", "--no-merges", "--format=%h %s"])
        .arg(format!("{BASE}..HEAD"))
        .current_dir(root)
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
    fn without_the_history_nothing_is_checked() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            let identity = ["user.name=a", "user.email=a@b.c", "commit.gpgsign=false"];
            command.args(identity.iter().flat_map(|one| ["-c", *one]));
            command.args(arguments);
            command.current_dir(dir.path()).status()
        };
        assert!(git(&["init", "--quiet"])?.success());
        assert!(git(&["commit", "--quiet", "--allow-empty", "-m", "x: y"])?.success());
        assert_eq!(check(dir.path())?, None);
        assert!(no_history().contains(&BASE[..7]));
        Ok(())
    }

    #[test]
    fn a_line_may_be_as_long_as_the_rule_says() {
        let commit = |length| format!("abcdef {}", "ü".repeat(length));
        assert_eq!(complaint(&commit(LONGEST)), None);
        assert!(complaint(&commit(LONGEST + 1)).is_some());
    }
}
