// SPDX-License-Identifier: GPL-2.0
//! `lint/book`: what the book, the README and CONTRIBUTING mention of this repository exists: files, names, and the
//! targets of links.
//!
//! Only what is in backticks counts as mentioned, and only if it can but be ours: a path that begins with a folder of
//! the repository, a file whose ending the kernel's C files do not have, a path of Rust's (`Session::look`), a type's
//! name. A name exists if it is a word of any source.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::repository::Repository;

/// The documents beside the book.
const BESIDE: &[&str] = &["README.md", "CONTRIBUTING.md"];

/// Endings of files that are ours wherever they are; those in C may be the kernel's.
const OURS: &[&str] = &["md", "py", "rs", "sh", "toml"];

/// The kernel's files in Rust.
const KERNEL_RUST: &str = "rust/";

/// What names of ours begin with that are no types.
const PREFIXES: &[&str] = &["hmm_shim_", "mlx_odp_"];

/// What Kbuild makes, and names.
const GENERATED: &str = "_bindings.rs";

/// What the repository has.
struct Known {
    /// Files and folders.
    paths: BTreeSet<String>,
    words: BTreeSet<String>,
    kbuild: String,
}

/// What is mentioned and does not exist.
pub(super) fn check(repository: &Repository) -> Result<Vec<String>> {
    let files = repository.files()?;
    let read = |file: &String| {
        let path = repository.path(file);
        std::fs::read(&path)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .with_context(|| format!("reading {}", path.display()))
    };
    let mut known = Known::new(&files);
    let (documents, sources): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.ends_with(".md"));
    for file in sources {
        known.add_words(&read(file)?);
    }
    known.kbuild = read(&"Kbuild".to_owned())?;
    let mut texts = Vec::new();
    for file in documents {
        if file.starts_with("docs/src/") || BESIDE.contains(&file.as_str()) {
            texts.push((file.clone(), read(file)?));
        }
    }
    let mut complaints = Vec::new();
    for (file, text) in &texts {
        let missing = known.missing(text).into_iter();
        complaints.extend(missing.map(|what| format!("{file} mentions `{what}`: no such thing")));
        let dead = dead_links(file, text, &known.paths, &texts).into_iter();
        complaints.extend(dead.map(|link| format!("{file} links to {link}: no such thing")));
    }
    Ok(complaints)
}

impl Known {
    fn new(files: &[String]) -> Self {
        let mut paths = BTreeSet::new();
        for file in files {
            let mut path = file.as_str();
            paths.insert(path.to_owned());
            while let Some((folder, _)) = path.rsplit_once('/') {
                paths.insert(folder.to_owned());
                path = folder;
            }
        }
        Self {
            paths,
            words: BTreeSet::new(),
            kbuild: String::new(),
        }
    }

    fn add_words(&mut self, text: &str) {
        for word in text.split(|c| !is_letter(c)) {
            if !self.words.contains(word) {
                self.words.insert(word.to_owned());
            }
        }
    }

    /// What a document mentions and does not exist.
    fn missing(&self, document: &str) -> Vec<String> {
        let mentioned = mentioned(document).into_iter();
        mentioned.filter(|text| !self.may_be(text)).collect()
    }

    /// Whether a text in backticks is not ours, or exists.
    fn may_be(&self, text: &str) -> bool {
        let is_path = |c: char| is_letter(c) || "./-".contains(c);
        if text.chars().all(is_path) {
            let path = text.trim_end_matches('/');
            let first = path.split_once('/').map(|(first, _)| first);
            if first.is_some_and(|first| self.paths.contains(first)) {
                return self.has_path(path);
            }
            let ending = path.rsplit_once('.').map(|(_, ending)| ending);
            if ending.is_some_and(|ending| OURS.contains(&ending)) {
                return path.starts_with(KERNEL_RUST) || self.has_file(path);
            }
        }
        !is_name(text) || text.split("::").all(|word| self.words.contains(word))
    }

    /// A part in capitals stands for what differs.
    fn has_path(&self, path: &str) -> bool {
        let is_variable = |part: &str| {
            let name = part.split('.').next().unwrap_or_default();
            name.len() > 1 && name.chars().all(|c| c.is_ascii_uppercase())
        };
        match path.rsplit_once('/') {
            Some((folder, last)) if is_variable(last) => self.paths.contains(folder),
            _ => self.paths.contains(path) || self.is_generated(path),
        }
    }

    /// A file's name, or the end of its path.
    fn has_file(&self, path: &str) -> bool {
        let ends = |known: &String| {
            known
                .strip_suffix(path)
                .is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        self.paths.iter().any(ends) || self.is_generated(path)
    }

    fn is_generated(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.ends_with(GENERATED) && self.kbuild.contains(&format!("/{name}"))
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A path of Rust's, a type's name, or one with a prefix of ours.
fn is_name(text: &str) -> bool {
    let words: Vec<&str> = text.split("::").collect();
    let is_word = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.chars().all(is_letter)
    };
    let is_type = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.contains(|c: char| c.is_ascii_lowercase())
    };
    words.iter().all(is_word)
        && (words.len() > 1
            || is_type(text)
            || PREFIXES.iter().any(|prefix| text.starts_with(prefix)))
}

/// The document without its blocks of code.
fn prose(document: &str) -> String {
    let mut in_block = false;
    let mut lines = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// What stands in backticks.
fn mentioned(document: &str) -> Vec<String> {
    let prose = prose(document);
    let spans = prose.split('`').skip(1).step_by(2);
    spans
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The links of a document to files that are not there, or to headings that their documents do not have.
fn dead_links(
    file: &str,
    document: &str,
    paths: &BTreeSet<String>,
    documents: &[(String, String)],
) -> Vec<String> {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_alive = |link: &str| {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let path = match path {
            "" => file.to_owned(),
            path => resolved(folder, path),
        };
        let target = documents.iter().find(|(name, _)| *name == path);
        paths.contains(&path)
            && (heading.is_empty()
                || target.is_none_or(|(_, text)| anchors(text).contains(heading)))
    };
    let links = links(document).into_iter();
    links.filter(|link| !is_alive(link)).collect()
}

/// The targets of a document's links, but for those on the web.
fn links(document: &str) -> Vec<String> {
    let prose = prose(document);
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://"))
        .map(str::to_owned)
        .collect()
}

/// A path relative to a folder, from the root of the repository.
fn resolved(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What links may name of a document: its headings in lower case, words joined by `-`.
fn anchors(document: &str) -> BTreeSet<String> {
    let prose = prose(document);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let files = ["hmm/kernel/chunk.rs", "Kbuild", "docs/src/a.md"].map(str::to_owned);
        let mut known = Known::new(&files);
        known.add_words("impl Chunk { fn open() }");
        known.kbuild = "$(obj)/$(rxe)/rxe_bindings.rs:".into();
        known
    }

    #[test]
    fn all_that_the_book_mentions_exists() -> Result<()> {
        assert_eq!(check(&Repository::find()?)?, [""; 0]);
        Ok(())
    }

    #[test]
    fn what_exists_may_be_mentioned() {
        for text in [
            "hmm/kernel/chunk.rs",
            "hmm/kernel",
            "kernel/chunk.rs",
            "chunk.rs",
            "Chunk::open",
            "Chunk",
            "hmm/kernel/NAME.rs",
            "mlx-odp/nic/rxe/rxe_bindings.rs",
            "rust/kernel/mm.rs",
            "mm/hmm.c",
            "cargo testbed exec",
            "hmm_range_fault",
            "PMD_ORDER",
        ] {
            let document = format!("It is `{text}`.");
            assert_eq!(known().missing(&document), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_does_not_exist_is_found() {
        for text in [
            "hmm/kernel/chunks.rs",
            "hmm/core",
            "chunks.rs",
            "unk.rs",
            "Chunk::close",
            "Chunks",
            "mlx_odp_nothing",
            "hmm/kernel/other_bindings.rs",
        ] {
            let document = format!("```\n`\n```\nIt is `{text}`.");
            assert_eq!(known().missing(&document), [text], "{text}");
        }
    }

    #[test]
    fn dead_links_are_found() {
        let text = "# One `fault`, twice\n[a](#one-fault-twice) [b](a.md#no) [c](b.md) [d](../../hmm/kernel) [e](https://x/y)";
        let documents = [("docs/src/a.md".to_owned(), text.to_owned())];
        let dead = dead_links("docs/src/a.md", text, &known().paths, &documents);
        assert_eq!(dead, ["a.md#no", "b.md"]);
    }
}
