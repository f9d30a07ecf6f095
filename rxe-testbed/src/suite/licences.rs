// SPDX-License-Identifier: GPL-2.0
//! `lint/licences`: each file says its licence in its first lines.

use anyhow::{Context, Result};

use crate::repository::Repository;

const TAG: &str = "SPDX-License-Identifier: GPL-2.0";

/// In the first line, or after `#!`.
const LINES: usize = 2;

/// Endings of files without comments.
const WITHOUT_COMMENTS: &[&str] = &[".json"];

/// Files that say nothing of it, for the reasons given.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("Cargo.lock", "cargo writes it"),
    ("LICENSE", "it is the licence"),
    (
        "docs/src/SUMMARY.md",
        "mdbook takes it for the list of chapters",
    ),
    ("docs/src/instructions.svg", "`bench --publish` writes it"),
    ("docs/src/times.svg", "`bench --publish` writes it"),
];

/// The files that should say it and do not.
pub(super) fn check(repository: &Repository) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in repository.files()? {
        let excepted = EXCEPTIONS.iter().any(|(path, _)| *path == file);
        if excepted || WITHOUT_COMMENTS.iter().any(|ending| file.ends_with(ending)) {
            continue;
        }
        let path = repository.path(&file);
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if !says_it(&String::from_utf8_lossy(&text)) {
            complaints.push(format!("{file} does not begin with `{TAG}`"));
        }
    }
    Ok(complaints)
}

fn says_it(text: &str) -> bool {
    text.lines().take(LINES).any(|line| line.contains(TAG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_says_its_licence() -> Result<()> {
        let repository = Repository::find()?;
        assert_eq!(check(&repository)?, [""; 0]);
        let files = repository.files()?;
        assert!(files.len() > 100, "only {} files", files.len());
        for (path, _) in EXCEPTIONS {
            assert!(files.iter().any(|file| file == path), "{path} is no more");
        }
        Ok(())
    }

    #[test]
    fn it_stands_at_the_beginning() {
        assert!(says_it(&format!("#!/bin/sh\n# {TAG}\n")));
        assert!(!says_it(&format!("\n\n# {TAG}\n")));
        assert!(!says_it("#!/bin/sh\n"));
    }
}
