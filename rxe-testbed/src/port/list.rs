// SPDX-License-Identifier: GPL-2.0
//! `relied-on.txt`: what we rely on of the kernel beyond its types, and why.
//!
//! A line that begins with `=` is part of a reason; the lines after it name what it holds for:
//! `FILE NAME SERIES=HASH …`, with the hash of the text that was read, or `-` where that kernel has none.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{bail, Context, Result};

use crate::series::Series;

/// Its place in the repository.
pub(crate) const FILE: &str = "rxe-testbed/relied-on.txt";

/// What stands for the hash of what a kernel does not have.
pub(crate) const NONE: &str = "-";

/// Something of the kernel's that we rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// From the root of the kernel's sources.
    pub(crate) file: String,
    /// A function or a macro, or `struct NAME`, which is written `struct:NAME`.
    pub(crate) name: String,
    /// The hash of the text that was read in each series.
    pub(crate) read: BTreeMap<Series, String>,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file, self.name)
    }
}

/// A reason, and what it holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) why: Vec<String>,
    pub(crate) items: Vec<Item>,
}

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    /// What stands before the first group.
    heading: Vec<String>,
    pub(crate) groups: Vec<Group>,
}

impl List {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut list = Self::default();
        let mut in_reason = false;
        for (number, line) in text.lines().enumerate() {
            let at = || format!("line {}: {line}", number + 1);
            if line.starts_with('#') {
                list.heading.push(line.to_owned());
            } else if let Some(reason) = line.strip_prefix('=') {
                if !in_reason {
                    list.groups.push(Group::default());
                }
                in_reason = true;
                let group = list.groups.last_mut().with_context(at)?;
                group.why.push(reason.trim().to_owned());
            } else if !line.trim().is_empty() {
                in_reason = false;
                let group = list.groups.last_mut().with_context(at)?;
                group.items.push(item(line).with_context(at)?);
            }
        }
        Ok(list)
    }
}

fn item(line: &str) -> Result<Item> {
    let mut words = line.split_whitespace();
    let (Some(file), Some(name)) = (words.next(), words.next()) else {
        bail!("neither a reason nor FILE NAME");
    };
    let mut read = BTreeMap::new();
    for word in words {
        let (series, hash) = word.split_once('=').context("no SERIES=HASH")?;
        read.insert(series.parse()?, hash.to_owned());
    }
    Ok(Item {
        file: file.into(),
        name: name.replace(':', " "),
        read,
    })
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.heading {
            writeln!(f, "{line}")?;
        }
        for group in &self.groups {
            writeln!(f)?;
            for line in &group.why {
                writeln!(f, "= {line}")?;
            }
            for item in &group.items {
                write!(f, "{} {}", item.file, item.name.replace(' ', ":"))?;
                for (series, hash) in &item.read {
                    write!(f, " {series}={hash}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::SUPPORTED;

    const TEXT: &str = "\
# What we rely on.

= A walk
= in C.
mm/hmm.c hmm_range_fault 7.2=0123456789ab 7.3=-
mm/hmm.c struct:hmm_range

= Another.
mm/rmap.c try_to_unmap
";

    #[test]
    fn it_is_written_as_it_is_read() -> Result<()> {
        let list = List::parse(TEXT)?;
        assert_eq!(list.groups.len(), 2);
        assert_eq!(list.groups[0].why, ["A walk", "in C."]);
        assert_eq!(list.groups[0].items[1].name, "struct hmm_range");
        assert_eq!(list.to_string(), TEXT);
        Ok(())
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "mm/hmm.c walk\n",
            "= a\nmm/hmm.c\n",
            "= a\nmm/hmm.c x 7.2\n",
        ] {
            assert!(List::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_of_it_was_read_in_the_kernels_that_are_supported() -> Result<()> {
        let text = include_str!("../../relied-on.txt");
        let list = List::parse(text)?;
        assert_eq!(list.to_string(), text);
        let mut seen = std::collections::BTreeSet::new();
        for item in list.groups.iter().flat_map(|group| &group.items) {
            assert!(seen.insert(item.to_string()), "{item} is there twice");
            let is_read = |series| item.read.contains_key(series);
            assert!(SUPPORTED.iter().all(is_read), "{item}");
            assert!(item.read.values().any(|hash| hash != NONE), "{item}");
        }
        Ok(())
    }

    /// What Kbuild puts ours in place of, and why its own text is nothing that we rely on.
    const NOT_RELIED_ON: &[(&str, &str)] = &[
        ("mod_timer", "the callers count, which are listed"),
        ("skb_dequeue", "the callers count, which are listed"),
        (
            "wait_for_completion_timeout",
            "the caller counts, which is listed",
        ),
    ];

    /// The names that the flags of `Kbuild` give others for: `-DNAME=OURS`.
    fn redirected(kbuild: &str) -> impl Iterator<Item = &str> {
        kbuild
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.split_once("-D")?.1.split_once('='))
            .filter(|(_, ours)| ours.starts_with("mlx_odp_"))
            .map(|(name, _)| name)
    }

    #[test]
    fn all_that_kbuild_redirects_is_in_it() -> Result<()> {
        let list = List::parse(include_str!("../../relied-on.txt"))?;
        let items: Vec<&Item> = list.groups.iter().flat_map(|group| &group.items).collect();
        let is_listed = |name: &str| items.iter().any(|item| item.name == name);
        let all: Vec<&str> = redirected(include_str!("../../../Kbuild")).collect();
        assert!(all.len() > 20, "{all:?}");
        for name in &all {
            let excepted = NOT_RELIED_ON.iter().any(|(other, _)| other == name);
            assert!(is_listed(name) != excepted, "{name}");
        }
        for (name, _) in NOT_RELIED_ON {
            assert!(all.contains(name), "{name} is no more in Kbuild");
        }
        Ok(())
    }

    /// The kernel's files whose objects `Kbuild` leaves out, as ours take their place.
    const REPLACED: &[&str] = &[
        "drivers/infiniband/sw/rxe/rxe_odp.c",
        "drivers/infiniband/sw/rxe/rxe_mw.c",
        "drivers/infiniband/hw/mlx5/odp.c",
    ];

    /// The objects that the lines of `Kbuild` leave out of a list of the kernel's: `$(filter-out OBJECT …, $(…))`.
    fn left_out(kbuild: &str) -> impl Iterator<Item = &str> {
        let lists = kbuild.split("$(filter-out ").skip(1);
        lists
            .filter_map(|text| text.split_once(','))
            .flat_map(|(objects, _)| objects.split_whitespace())
            .filter_map(|object| object.strip_suffix(".o"))
    }

    #[test]
    fn the_functions_of_a_file_that_is_replaced_are_in_it() -> Result<()> {
        let list = List::parse(include_str!("../../relied-on.txt"))?;
        let items = || list.groups.iter().flat_map(|group| &group.items);
        for file in REPLACED {
            let listed = items().filter(|item| item.file == *file).count();
            assert!(listed > 5, "{listed} functions of {file}");
        }
        let replaced = |object: &str| {
            let file = format!("/{object}.c");
            REPLACED.iter().filter(|name| name.ends_with(&file)).count()
        };
        let all: Vec<&str> = left_out(include_str!("../../../Kbuild")).collect();
        assert_eq!(all.len(), REPLACED.len(), "{all:?}");
        for object in all {
            assert_eq!(replaced(object), 1, "{object}.o");
        }
        Ok(())
    }

    #[test]
    fn redirections_are_found() {
        let text = "# -Dcomment=mlx_odp_x\nCFLAGS_a.o := -Dfirst=mlx_odp_first \\\n\t-Dsecond=mlx_odp_rxe_s -DX=1\n";
        assert_eq!(redirected(text).collect::<Vec<_>>(), ["first", "second"]);
    }
}
