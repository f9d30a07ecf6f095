// SPDX-License-Identifier: GPL-2.0
//! `lint/versions`: the kernel's version is asked for in one Rust module and in one C header only.

use anyhow::{Context, Result};

use crate::repository::Repository;

/// The two, which `Kbuild` and the header `linux/version.h` tell the version.
const PLACES: &[&str] = &["hmm/kernel/compat.rs", "hmm/kernel/compat.h"];

/// Endings of files that may become code of the kernel's. This program's own never do.
const ENDINGS: &[&str] = &[".rs", ".c", ".h"];
const ELSEWHERE: &str = "rxe-testbed/";

/// Where else the version is asked for.
pub(super) fn check(repository: &Repository) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in repository.files()? {
        if PLACES.contains(&file.as_str()) || !may_ask(&file) {
            continue;
        }
        let path = repository.path(&file);
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            if let Some(word) = asks(line) {
                complaints.push(format!(
                    "{file}:{}: `{word}` belongs into {}",
                    number + 1,
                    PLACES.join(" or ")
                ));
            }
        }
    }
    Ok(complaints)
}

fn may_ask(file: &str) -> bool {
    !file.starts_with(ELSEWHERE) && ENDINGS.iter().any(|ending| file.ends_with(ending))
}

/// The word with which a line asks for the version.
fn asks(line: &str) -> Option<&str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .find(|word| {
            word.starts_with("LINUX_VERSION_") || *word == "KERNEL_VERSION" || is_setting(word)
        })
}

/// Whether a word is one that `Kbuild` sets: `linux_7_3`.
fn is_setting(word: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    word.strip_prefix("linux_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_asked_for_in_two_places() -> Result<()> {
        let repository = Repository::find()?;
        assert_eq!(check(&repository)?, [""; 0]);
        for file in PLACES {
            let text = std::fs::read_to_string(repository.path(file))?;
            assert!(text.lines().any(|line| asks(line).is_some()), "{file}");
        }
        Ok(())
    }

    #[test]
    fn every_way_to_ask_is_seen() {
        for line in [
            "#[cfg(not(linux_7_3))]",
            "#if LINUX_VERSION_CODE >= 1",
            "\tif (KERNEL_VERSION(7, 3, 0))",
            "#if LINUX_VERSION_MAJOR > 7",
        ] {
            assert!(asks(line).is_some(), "{line}");
        }
        for line in ["linux_7", "linux_x_3", "#include <linux/version.h>", "7.3"] {
            assert_eq!(asks(line), None, "{line}");
        }
    }
}
