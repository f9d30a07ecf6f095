// SPDX-License-Identifier: GPL-2.0
//! `port`: what is to be read and done before the modules may be trusted on another kernel.
//!
//! `list` is what we rely on, `source` finds it in the kernel's sources. What has been read is recorded in the
//! list by the hash of its text, so that nothing is read twice and nothing is forgotten.

mod list;
mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;
use crate::cache::{write_atomically, Cache};
use crate::chroot::Chroot;
use crate::cli::PortArguments;
use crate::kernel::{Choice, Kernel, Variant};
use crate::modules::Modules;
use crate::process::Scratch;
use crate::repository::Repository;
use crate::series::{Series, SUPPORTED};
use crate::ui;

use list::{Item, List, FILE, NONE};

/// How something stands in the kernel that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// As in the kernel before.
    Same,
    /// Another than before, and read.
    Read,
    /// To be read.
    Unread,
}

/// Looks at a kernel; the exit status says whether something is left to do.
pub(crate) fn run(arguments: &PortArguments) -> Result<u8> {
    let cache = Cache::open()?;
    let repository = Repository::find()?;
    let _building = cache.lock_build()?;
    let (chroot, epoch) = build::prepare(&cache, &repository)?;
    let ensure = |series| {
        let variant = Variant::Stock;
        let choice = Choice {
            series: Some(series),
            variant,
        };
        Kernel::ensure(&cache, &chroot, &epoch, choice)
    };
    let kernel = ensure(arguments.series)?;
    let before = before(arguments.series);
    // Without it there is still the record of what was read.
    let old = before.and_then(|series| match ensure(series) {
        Ok(old) => Some(old),
        Err(error) => {
            ui::note(&format!(
                "Linux {series} cannot be shown beside it: {error:#}"
            ));
            None
        }
    });
    let path = repository.path(FILE);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut list = List::parse(&text).with_context(|| path.display().to_string())?;
    let scratch = cache.scratch()?;
    let mut reading = Reading {
        series: arguments.series,
        before,
        new: kernel.dir().join("tree"),
        old: old.map(|old| old.dir().join("tree")),
        scratch: &scratch,
        arguments,
        counts: BTreeMap::new(),
    };
    println!(
        "Linux {}: what {FILE} lists{}\n",
        kernel.version.release,
        before.map_or(String::new(), |series| format!(", beside Linux {series}")),
    );
    for group in &mut list.groups {
        let why = group.why.join(" ");
        for item in &mut group.items {
            reading.look_at(item, &why)?;
        }
    }
    let written = list.to_string();
    if written != text {
        write_atomically(&path, written.as_bytes())?;
    }
    let builds = builds(&cache, &repository, &chroot, &kernel);
    let left = left(arguments.series, &reading, builds);
    println!("\n{}", reading.summary());
    if left.is_empty() {
        println!(
            "nothing is left to do but to run the tests: cargo testbed test --kernel-series {}",
            arguments.series
        );
    }
    for task in &left {
        println!("to do: {task}");
    }
    Ok(u8::from(!left.is_empty()))
}

/// The kernel that another one is compared with: the newest that is supported and older.
fn before(series: Series) -> Option<Series> {
    let older = SUPPORTED.iter().filter(|known| **known < series);
    older.max().copied()
}

/// Whether the modules build; what the compiler says goes to the terminal.
fn builds(cache: &Cache, repository: &Repository, chroot: &Chroot, kernel: &Kernel) -> bool {
    let modules = Modules::ensure(cache, repository, chroot, kernel);
    match modules.and_then(|modules| modules.expect_all()) {
        Ok(()) => true,
        Err(error) => {
            ui::line(&format!("{error:#}"));
            false
        }
    }
}

fn left(series: Series, reading: &Reading<'_>, builds: bool) -> Vec<String> {
    let mut left = Vec::new();
    let unread = reading.count(Standing::Unread);
    if unread > 0 {
        left.push(format!(
            "read the {unread} texts above that have changed, change what relies on them, and record it: \
             cargo testbed port {series} --read NAME"
        ));
    }
    if !builds {
        left.push(
            "make the modules build; what differs by version goes into hmm/kernel/compat.rs and compat.h, and \
             the version into `kernels` in Kbuild"
                .into(),
        );
    }
    if !SUPPORTED.contains(&series) {
        left.push(format!(
            "add {series} to SUPPORTED in rxe-testbed/src/series.rs, and rxe-testbed/baseline/{series}.json: \
             cargo testbed bench --icount --update-baseline --kernel-series {series}"
        ));
    }
    left
}

/// A kernel that is being looked at.
struct Reading<'a> {
    series: Series,
    before: Option<Series>,
    new: std::path::PathBuf,
    old: Option<std::path::PathBuf>,
    scratch: &'a Scratch,
    arguments: &'a PortArguments,
    counts: BTreeMap<&'static str, usize>,
}

impl Reading<'_> {
    /// Says how `item` stands, and shows it if it is to be read; records that it was, if so asked.
    fn look_at(&mut self, item: &mut Item, why: &str) -> Result<()> {
        let text = text_of(&self.new, item)?;
        let hash = text.as_deref().map_or(NONE.to_owned(), source::hash);
        let earlier = self.before.and_then(|series| item.read.get(&series));
        let standing = standing(&hash, item.read.get(&self.series), earlier);
        let named = |pattern: &String| item.to_string().contains(pattern.as_str());
        let marked = self.arguments.read.iter().any(named);
        let standing = match standing {
            Standing::Unread if marked => Standing::Read,
            other => other,
        };
        *self.counts.entry(word(standing)).or_default() += 1;
        if standing == Standing::Unread || (standing == Standing::Read && self.arguments.all) {
            println!("--- {item}: {}", word(standing));
            println!("    {why}\n");
            println!("{}\n", self.beside(item, text.as_deref())?);
        }
        // What is as it was in a kernel that has been read is read.
        if standing != Standing::Unread {
            item.read.insert(self.series, hash);
        }
        Ok(())
    }

    /// The new text beside the old one.
    fn beside(&self, item: &Item, new: Option<&str>) -> Result<String> {
        let old = match &self.old {
            Some(tree) => text_of(tree, item)?,
            None => None,
        };
        let (Some(old), Some(new)) = (old, new) else {
            return Ok(match new {
                Some(text) => text.to_owned(),
                None => "(this kernel does not have it)".into(),
            });
        };
        let path = |name: &str| self.scratch.path().join(name);
        std::fs::write(path("old"), old + "\n")?;
        std::fs::write(path("new"), format!("{new}\n"))?;
        let label = |series: Option<Series>| {
            format!(
                "--label={} {}",
                series.map_or(String::new(), |s| s.to_string()),
                item.file
            )
        };
        let output = Command::new("diff")
            .args([
                "--unified=10",
                &label(self.before),
                &label(Some(self.series)),
            ])
            .args([path("old"), path("new")])
            .output()
            .context("running diff")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn count(&self, standing: Standing) -> usize {
        self.counts.get(word(standing)).copied().unwrap_or(0)
    }

    fn summary(&self) -> String {
        format!(
            "{} as before, {} changed and read, {} to be read",
            self.count(Standing::Same),
            self.count(Standing::Read),
            self.count(Standing::Unread)
        )
    }
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Same => "as before",
        Standing::Read => "changed, and read",
        Standing::Unread => "to be read",
    }
}

/// How a text stands whose hash is `now`: `recorded` was read in this series, `earlier` in the one before.
fn standing(now: &str, recorded: Option<&String>, earlier: Option<&String>) -> Standing {
    if earlier.is_some_and(|hash| hash == now) {
        return Standing::Same;
    }
    match recorded {
        // Of the oldest series there is only the record.
        Some(hash) if hash == now && earlier.is_none() => Standing::Same,
        Some(hash) if hash == now => Standing::Read,
        _ => Standing::Unread,
    }
}

fn text_of(tree: &Path, item: &Item) -> Result<Option<String>> {
    let path = tree.join(&item.file);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(source::find(&String::from_utf8_lossy(&bytes), &item.name)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_is_not_read_again() {
        let (old, new) = ("old".to_owned(), "new".to_owned());
        assert_eq!(standing("old", None, Some(&old)), Standing::Same);
        assert_eq!(standing("new", None, Some(&old)), Standing::Unread);
        assert_eq!(standing("new", Some(&new), Some(&old)), Standing::Read);
        assert_eq!(standing("newer", Some(&new), Some(&old)), Standing::Unread);
        assert_eq!(standing("old", Some(&old), None), Standing::Same);
        assert_eq!(standing("new", None, None), Standing::Unread);
    }

    #[test]
    fn a_kernel_is_compared_with_the_one_before() {
        assert_eq!(before(SUPPORTED[0]), None);
        assert_eq!(before(SUPPORTED[1]), Some(SUPPORTED[0]));
    }
}
