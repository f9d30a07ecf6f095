// SPDX-License-Identifier: GPL-2.0
//! The kernel memory that mirrors hold, seen from outside: it is charged to the memory cgroup of the
//! process, so the cgroup's own count shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use super::{affordable, Block, Figure, MIB};
use crate::arena::Zone;
use crate::oracle::Oracle;

/// The count is only exact to some pages for each processor, so many mirrors are made: the more, the less
/// each takes.
const SMALL_MIRRORS: u64 = 512;
const LARGE_MIRRORS: u64 = 64;
const KIB: f64 = 1024.0;

/// A cgroup of this process's own.
struct Group {
    path: PathBuf,
    mounted: bool,
}

const ROOT: &str = "/sys/fs/cgroup";

impl Group {
    fn new() -> Result<Self> {
        let root = Path::new(ROOT);
        let mounted = !root.join("cgroup.procs").exists();
        if mounted {
            let mount = Command::new("mount")
                .args(["-t", "cgroup2", "cgroup2", ROOT])
                .status()
                .context("running mount")?;
            if !mount.success() {
                bail!("cgroup2 cannot be mounted");
            }
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").context("memory cgroups")?;
        let path = root.join("hmm-diff");
        fs::create_dir_all(&path).context("making a cgroup")?;
        let group = Self { path, mounted };
        fs::write(group.path.join("cgroup.procs"), "0").context("entering the cgroup")?;
        Ok(group)
    }

    /// The bytes of kernel objects charged to it.
    fn held(&self) -> Result<f64> {
        let text = fs::read_to_string(self.path.join("memory.stat")).context("memory.stat")?;
        let count = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse::<f64>().ok())
                .with_context(|| format!("memory.stat has no {name}"))
        };
        Ok(count("slab_unreclaimable")? + count("vmalloc")?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Back to where it was; what is still charged goes with the group.
        let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
        if self.mounted {
            let _ = Command::new("umount").arg(ROOT).status();
        }
    }
}

/// The bytes of each of so many `mirrors` of `pages` pages from `start`, of which `touched` are brought in.
fn each(group: &Group, start: u64, pages: u64, touched: u64, mirrors: u64) -> Result<f64> {
    let oracle = Oracle::open()?;
    // The first one brings the process's notifier along, which is not the mirror's.
    oracle.mirrors(start, pages, touched, 1)?;
    settle();
    let before = group.held()?;
    oracle.mirrors(start, pages, touched, mirrors)?;
    settle();
    Ok((group.held()? - before) / mirrors as f64)
}

/// The kernel brings its counts together every two seconds.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(2500));
}

/// Measures mirrors of huge pages, of small ones, and of nothing.
pub(super) fn measure(figures: &mut Vec<Figure>) -> Result<()> {
    let group = Group::new()?;
    for (huge, what, goal, mirrors) in [
        (true, "THP", 8.0, SMALL_MIRRORS),
        (false, "4 KiB pages", 2.1 * KIB, LARGE_MIRRORS),
    ] {
        // The goals are for 1 GiB: the whole of a chunk counts, so a part of it is as good.
        let mib = affordable(1024)? & !63;
        let block = Block::populated(mib * MIB, huge)?;
        let pages = block.0.pages();
        let bytes = each(&group, block.0.start(), pages, pages, mirrors)?;
        let goal = goal * KIB * mib as f64 / 1024.0;
        let name = format!("bytes of a mirror of {mib} MiB of {what}");
        figures.push(Figure::bytes(name, bytes, goal));
    }
    let tebibyte = 1024 * 1024 * MIB;
    let bytes = each(
        &group,
        Zone::Small.span().start(),
        tebibyte,
        0,
        SMALL_MIRRORS,
    )?;
    let name = "bytes of a mirror of 1 TiB untouched";
    figures.push(Figure::bytes(name, bytes, 64.0 * KIB));
    Ok(())
}
