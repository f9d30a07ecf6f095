// SPDX-License-Identifier: GPL-2.0
//! Settings of the machine that a run needs, put back when it ends: swap, huge pages, and no kernel
//! thread that collapses or merges pages on its own between two walks.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};
use testkit::command::run;

use crate::oracle::Oracle;

const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const HUGETLB: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const GIGANTIC: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

/// Whether this kernel would complain if C was asked to fault in holes of hugetlb areas. Until Linux 7.2 C's walk
/// holds a lock of such an area while it calls the fault handler, which takes another one first. That is a deadlock
/// that may happen; kernels that check the order of locks say so once, and look no further. The walk that takes the
/// mmap lock itself came with one that holds no other.
pub(crate) fn dislikes_holes(oracle: &Oracle) -> Result<bool> {
    Ok(Path::new("/proc/lockdep").exists() && !oracle.has_unlocked()?)
}

/// The changed settings.
pub(crate) struct Machine {
    before: Vec<(String, String)>,
    swap: Option<String>,
    /// There are pages of 1 GiB.
    pub(crate) gigantic: bool,
}

impl Machine {
    /// Changes nothing yet.
    fn new() -> Self {
        Self {
            before: Vec::new(),
            swap: None,
            gigantic: false,
        }
    }

    /// For measuring: huge pages where they are asked for, and no kernel thread that makes more.
    pub(crate) fn for_measuring() -> Result<Self> {
        let mut machine = Self::new();
        machine.set(&format!("{THP}/enabled"), "madvise")?;
        machine.calm()?;
        Ok(machine)
    }

    /// For comparing: everything that can be had.
    pub(crate) fn for_comparing() -> Result<Self> {
        let mut machine = Self::new();
        machine.set(&format!("{THP}/enabled"), "always")?;
        machine.set(&format!("{THP}/shmem_enabled"), "advise")?;
        machine.calm()?;
        // After other tests free memory is in small pieces.
        fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")?;
        fs::write("/proc/sys/vm/compact_memory", "1").context("compacting")?;
        machine.set(HUGETLB, "40")?;
        if read(HUGETLB)?.parse::<u64>().unwrap_or(0) < 40 {
            bail!("the machine has no room for 40 huge pages");
        }
        if machine.set(GIGANTIC, "2").is_ok() {
            machine.gigantic = read(GIGANTIC)? != "0";
        }
        machine.add_swap().context("adding swap")?;
        Ok(machine)
    }

    /// The kernel's own threads leave the memory alone for an hour.
    fn calm(&mut self) -> Result<()> {
        for (name, value) in [
            ("khugepaged/scan_sleep_millisecs", "3600000"),
            ("khugepaged/alloc_sleep_millisecs", "3600000"),
        ] {
            self.set(&format!("{THP}/{name}"), value)?;
        }
        self.set("/sys/kernel/mm/ksm/run", "0")
    }

    fn set(&mut self, path: &str, value: &str) -> Result<()> {
        let before = read(path)?;
        // Of a list of choices the current one is in brackets.
        let current = before.split(['[', ']']).nth(1).unwrap_or(&before);
        self.before.push((path.to_owned(), current.to_owned()));
        fs::write(path, value).with_context(|| format!("writing {value} to {path}"))
    }

    /// Compressed memory as swap, or a file if there is no such thing.
    fn add_swap(&mut self) -> Result<()> {
        let device = "/dev/zram0";
        let zram = run("modprobe", &["zram"]).is_ok()
            && Path::new(device).exists()
            && fs::write("/sys/block/zram0/disksize", "256M").is_ok();
        let path = if zram {
            device
        } else {
            let path = "/var/tmp/hmm-diff.swap";
            fs::write(path, vec![0; 128 << 20]).with_context(|| format!("writing {path}"))?;
            run("chmod", &["600", path])?;
            path
        };
        run("mkswap", &[path])?;
        run("swapon", &[path])?;
        self.swap = Some(path.to_owned());
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(path) = self.swap.take() {
            if let Err(error) = run("swapoff", &[&path]) {
                eprintln!("hmm-diff: {error:#}");
            }
            if path.starts_with("/dev/zram") {
                let _ = fs::write("/sys/block/zram0/reset", "1");
                let _ = run("modprobe", &["-r", "zram"]);
            } else {
                let _ = fs::remove_file(&path);
            }
        }
        for (path, value) in self.before.drain(..).rev() {
            if let Err(error) = fs::write(&path, value) {
                eprintln!("hmm-diff: {path}: {error}");
            }
        }
    }
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}
