// SPDX-License-Identifier: GPL-2.0
//! What the kernel says about pages, and settings of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use testkit::command::run;

use crate::memory::PAGE;

/// A page as `/proc/self/pagemap` describes it.
#[derive(Clone, Copy)]
pub(crate) struct PageMap(u64);

impl PageMap {
    /// That of the page at `va`.
    pub(crate) fn of(va: u64) -> Result<Self> {
        let file = File::open("/proc/self/pagemap")?;
        Ok(Self(word(&file, va / PAGE as u64)?))
    }

    pub(crate) fn is_present(self) -> bool {
        (self.0 >> 63) & 1 == 1
    }

    pub(crate) fn is_swapped(self) -> bool {
        (self.0 >> 62) & 1 == 1
    }

    pub(crate) fn is_soft_dirty(self) -> bool {
        (self.0 >> 55) & 1 == 1
    }

    /// Those of `pages` pages from `va` on.
    pub(crate) fn of_all(va: u64, pages: usize) -> Result<Vec<Self>> {
        let file = File::open("/proc/self/pagemap")?;
        let mut bytes = vec![0; pages * 8];
        file.read_exact_at(&mut bytes, va / PAGE as u64 * 8)?;
        let words = bytes.chunks_exact(8);
        let word = |word: &[u8]| u64::from_ne_bytes(word.try_into().unwrap_or_default());
        Ok(words.map(|bytes| Self(word(bytes))).collect())
    }

    /// The frame, if the page is present.
    pub(crate) fn frame(self) -> Option<u64> {
        self.is_present().then_some(self.0 & ((1 << 55) - 1))
    }
}

/// Whether the page in `frame` is dirty.
pub(crate) fn is_dirty(frame: u64) -> Result<bool> {
    const DIRTY: u32 = 4;
    let file = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
    Ok((word(&file, frame)? >> DIRTY) & 1 == 1)
}

fn word(file: &File, index: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, index * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Writes `value` to a file of the kernel's.
pub(crate) fn set(path: &str, value: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(value.as_bytes()));
    written.with_context(|| format!("writing {value} to {path}"))
}

/// What a file of the kernel's says.
pub(crate) fn get(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}

/// Huge pages come where they are asked for, and only then.
pub(crate) fn huge_pages_on_request() -> Result<()> {
    const THP: &str = "/sys/kernel/mm/transparent_hugepage";
    set(&format!("{THP}/enabled"), "madvise")?;
    set(&format!("{THP}/khugepaged/scan_sleep_millisecs"), "3600000")
}

/// Whether a huge page maps the page at `va`: the kernel's description of the area says how many KiB
/// are, so it should be 2 MiB in size.
pub(crate) fn huge_kib(va: u64) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let mut inside = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            if let (Ok(start), Ok(end)) =
                (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
            {
                inside = (start..end).contains(&va);
            }
        } else if inside && first == "AnonHugePages:" {
            return Ok(words.next().unwrap_or_default().parse()?);
        }
    }
    bail!("nothing is mapped at {va:#x}")
}

/// How many files of the module are open.
pub(crate) fn module_users() -> Result<u64> {
    Ok(get("/sys/module/hmm_oracle/refcnt")?.parse()?)
}

/// The addresses of the code of hmm's modules, and of what lies between them.
pub(crate) fn module_code() -> Result<std::ops::Range<u64>> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let (mut start, mut end) = (u64::MAX, 0);
    for line in symbols.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [address, "t" | "T", _, "[hmm]" | "[hmm_oracle]"] = words[..] else {
            continue;
        };
        let address = u64::from_str_radix(address, 16)?;
        start = start.min(address);
        // The last function has an end, too.
        end = end.max(address + PAGE as u64);
    }
    ensure!(start < end, "the kernel names no code of hmm's modules");
    Ok(start..end)
}

/// The directory of the kernel's file system for debugging, mounted if it is not.
pub(crate) fn debugfs() -> Result<&'static Path> {
    const DIR: &str = "/sys/kernel/debug";
    let empty = || fs::read_dir(DIR).map(|mut entries| entries.next().is_none());
    if empty().context("looking into debugfs")? {
        run("mount", &["-t", "debugfs", "debugfs", DIR])?;
    }
    Ok(Path::new(DIR))
}

/// Writes everything back and forgets what files hold.
pub(crate) fn drop_caches() -> Result<()> {
    // SAFETY: Has no arguments.
    unsafe { libc::sync() };
    set("/proc/sys/vm/drop_caches", "3")
}

/// A file on a disk, removed with the value.
pub(crate) struct DiskFile {
    pub(crate) file: File,
    path: PathBuf,
}

impl DiskFile {
    /// A file of so many bytes.
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Result<Self> {
        let path = Path::new("/var/tmp").join(format!("hmm-mirror-{}-{name}", std::process::id()));
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.sync_all()?;
        Ok(Self { file, path })
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Something to swap to, taken away with the value.
pub(crate) struct Swap {
    path: String,
    _file: Option<DiskFile>,
}

impl Swap {
    /// Compressed memory, or a file if there is no such thing.
    pub(crate) fn new() -> Result<Self> {
        const DEVICE: &str = "/dev/zram0";
        let zram = run("modprobe", &["zram"]).is_ok()
            && Path::new(DEVICE).exists()
            && set("/sys/block/zram0/disksize", "128M").is_ok();
        let swap = match zram {
            true => Self {
                path: DEVICE.to_owned(),
                _file: None,
            },
            false => {
                let file = DiskFile::new("swap", &vec![0; 64 << 20])?;
                let path = file.path.display().to_string();
                run("chmod", &["600", &path])?;
                Self {
                    path,
                    _file: Some(file),
                }
            }
        };
        run("mkswap", &[&swap.path])?;
        run("swapon", &[&swap.path])?;
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = run("swapoff", &[&self.path]);
        if self._file.is_none() {
            let _ = set("/sys/block/zram0/reset", "1");
            let _ = run("modprobe", &["-r", "zram"]);
        }
    }
}
