// SPDX-License-Identifier: GPL-2.0
//! What the kernel writes back of the processor's caches: its function for that, probed.
//!
//! Whether the caches have been written back cannot be seen in the data, unless the power goes at that moment, and an
//! emulated processor has no caches at all. That the kernel was told to can be seen.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{ensure, Context as _, Result};

use crate::{harness::skip, machine::Setting};

const ROOT: &str = "/sys/kernel/tracing";
/// What every driver of persistent memory calls.
const FUNCTION: &str = "arch_wb_cache_pmem";

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBack {
    /// Where the kernel has the first byte.
    at: u64,
    /// How many bytes there are.
    pub len: u64,
}

/// How frames are told apart: by where they are in their GiB, as it is not known where the kernel has the first of all. The
/// memory of these tests is in one.
const IN_GIB: u64 = (1 << 18) - 1;

/// What of a frame's number [`WriteBacks`] knows.
pub fn known(frame: u64) -> u64 {
    frame & IN_GIB
}

impl WriteBack {
    /// The first byte's offset in its page.
    pub fn offset(&self) -> usize {
        (self.at % 4096) as usize
    }

    /// The [known] frames that it is in.
    pub fn frames(&self) -> impl Iterator<Item = u64> {
        let pages = self.at >> 12..(self.at + self.len).div_ceil(4096);
        pages.map(known)
    }
}

/// The calls are recorded while this lives.
pub struct WriteBacks {
    event: String,
    instance: PathBuf,
    /// The kernel writes nothing back by itself meanwhile.
    _calm: Setting,
}

impl WriteBacks {
    /// Begins to record.
    pub fn begin() -> Result<Self> {
        let id = std::process::id();
        let root = Path::new(ROOT);
        if !root.join("kprobe_events").exists() {
            return Err(skip(
                "the kernel has no probes, or they are not ours to set",
            ));
        }
        let backs = Self {
            event: format!("odp_test_{id}"),
            instance: root.join(format!("instances/odp-test-backs-{id}")),
            _calm: Setting::new("/proc/sys/vm/dirty_writeback_centisecs", "0")?,
        };
        let probe = format!("p:{}/back {FUNCTION} at=%di:x64 len=%si:u64", backs.event);
        change(&probe)?;
        fs::create_dir(&backs.instance).context("an instance of tracing")?;
        backs.set("buffer_size_kb", "16384")?;
        backs.set(&format!("events/{}/back/enable", backs.event), "1")?;
        Ok(backs)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.instance.join(file), value).with_context(|| file.to_owned())
    }

    /// What is written back while `act` runs.
    pub fn during<R>(&self, act: impl FnOnce() -> Result<R>) -> Result<(R, Vec<WriteBack>)> {
        self.set("trace", "")?;
        let result = act()?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        let lost = text.lines().any(|line| line.contains("LOST"));
        ensure!(!lost, "more was written back than was recorded");
        let calls = text.lines().filter(|line| line.contains(FUNCTION));
        let found: Option<Vec<WriteBack>> = calls.map(parse).collect();
        Ok((result, found.context("a line of the trace")?))
    }

    /// The same, as the [known] frames.
    pub fn frames_during<R>(&self, act: impl FnOnce() -> Result<R>) -> Result<(R, BTreeSet<u64>)> {
        let (result, found) = self.during(act)?;
        Ok((result, found.iter().flat_map(WriteBack::frames).collect()))
    }
}

impl Drop for WriteBacks {
    fn drop(&mut self) {
        // If it was not made, there is nothing to remove.
        let _ = self.set(&format!("events/{}/back/enable", self.event), "0");
        let _ = fs::remove_dir(&self.instance);
        let _ = change(&format!("-:{}/back", self.event));
    }
}

/// Adds a line to the kernel's probes.
fn change(line: &str) -> Result<()> {
    let path = Path::new(ROOT).join("kprobe_events");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("{line} to {}", path.display()))
}

/// The call in a line of the trace.
fn parse(line: &str) -> Option<WriteBack> {
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(name))
    };
    let at = field("at=")?.strip_prefix("0x")?;
    Some(WriteBack {
        at: u64::from_str_radix(at, 16).ok()?,
        len: field("len=")?.parse().ok()?,
    })
}
