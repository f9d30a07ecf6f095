// SPDX-License-Identifier: GPL-2.0
//! What a test needs of the machine beyond memory: swap, a disk of its own, a setting of the kernel's. All of
//! it is put back when the test ends. A test that crashes leaves it behind, in a VM that ends soon.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{ensure, Context as _, Result};
use testkit::memory::{Mapping, PAGE};

use crate::harness::skip;

/// A place on the disk: `/tmp` may be memory.
fn on_disk(name: &str) -> PathBuf {
    Path::new("/var/tmp").join(format!("odp-test.{}.{name}", std::process::id()))
}

/// A file on the disk, that no name leads to.
pub fn file_on_disk(bytes: &[u8]) -> Result<File> {
    let path = on_disk("file");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("making {}", path.display()))?;
    fs::remove_file(&path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Runs `program`, which has to succeed.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A setting of the kernel's, with another value while this lives.
pub struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    /// Sets `path` to `value`.
    pub fn new(path: &'static str, value: &str) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        // Of a choice the one in brackets.
        let chosen = text.split(['[', ']']).nth(1).unwrap_or(&text);
        let before = chosen.to_owned();
        let setting = Self { path, before };
        setting.set(value)?;
        Ok(setting)
    }

    /// Sets it to another value.
    pub fn set(&self, value: &str) -> Result<()> {
        fs::write(self.path, value).with_context(|| format!("writing {value} to {}", self.path))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // The machine is no better for an error here.
        let _ = fs::write(self.path, self.before.trim());
    }
}

/// Swap of the test's own, on compressed memory (zram): a page that is written there is gone at once, whereas
/// one that is on its way to a slower device stays within reach until memory is needed.
pub struct Swap {
    number: String,
    device: String,
}

impl Swap {
    /// Adds `len` bytes of swap.
    pub fn add(len: usize) -> Result<Self> {
        const CONTROL: &str = "/sys/class/zram-control/hot_add";
        if !Path::new(CONTROL).exists() {
            run("modprobe", &["zram"])
                .map_err(|error| skip(format!("there is no zram: {error:#}")))?;
        }
        // To read it makes a new device.
        let number = fs::read_to_string(CONTROL).with_context(|| format!("reading {CONTROL}"))?;
        let number = number.trim().to_owned();
        let swap = Self {
            device: format!("/dev/zram{number}"),
            number,
        };
        let size = format!("/sys/block/zram{}/disksize", swap.number);
        fs::write(&size, len.to_string()).with_context(|| format!("writing {size}"))?;
        run("mkswap", &[&swap.device])?;
        run("swapon", &[&swap.device])?;
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // Fails if it was never switched on, and then there is nothing to do.
        let _ = run("swapoff", &[&self.device]);
        let _ = fs::write("/sys/class/zram-control/hot_remove", &self.number);
    }
}

/// A loop device over `file`.
fn attach(file: &Path) -> Result<String> {
    if !Path::new("/dev/loop-control").exists() {
        run("modprobe", &["loop"])
            .map_err(|error| skip(format!("there are no loop devices: {error:#}")))?;
    }
    let output = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(file)
        .output()
        .context("starting losetup")?;
    ensure!(
        output.status.success(),
        "losetup: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A disk with an ext4 file system, mounted and unmounted at will.
pub struct Disk {
    device: String,
    /// What it was made over, if that was made for it.
    image: Option<PathBuf>,
    dir: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes one of `len` bytes and mounts it.
    pub fn new(len: usize) -> Result<Self> {
        let image = on_disk("image");
        File::create_new(&image)
            .and_then(|file| file.set_len(len as u64))
            .with_context(|| format!("making {}", image.display()))?;
        let mut disk = Self::over(&image)?;
        disk.image = Some(image);
        Ok(disk)
    }

    /// Makes one of the file `image`, whatever is in it, and mounts it.
    pub fn over(image: &Path) -> Result<Self> {
        let dir = on_disk("mount");
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut disk = Self {
            device: attach(image)?,
            image: None,
            dir,
            mounted: false,
        };
        run("mke2fs", &["-q", "-t", "ext4", &disk.device])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts it, with nothing of it in memory.
    pub fn mount(&mut self) -> Result<()> {
        run(
            "mount",
            &["-t", "ext4", &self.device, &self.dir.to_string_lossy()],
        )?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it. Nothing of it may be in use.
    pub fn unmount(&mut self) -> Result<()> {
        run("umount", &[&self.dir.to_string_lossy()])?;
        self.mounted = false;
        Ok(())
    }

    /// The file `name` on it, made if there is none.
    pub fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(name))
    }

    /// Where the file `name` on it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // What holds a file of it may be about to be dropped, too.
            let _ = run("umount", &["--lazy", &self.dir.to_string_lossy()]);
        }
        let _ = run("losetup", &["-d", &self.device]);
        let _ = fs::remove_dir(&self.dir);
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

/// A page as `/proc/self/pagemap` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nothing.
    None,
    /// In memory, in this frame.
    Frame(u64),
    /// Swapped out.
    Swapped,
}

/// How the pages of `range` of `memory` are.
pub fn page_states(memory: &Mapping, range: Range<usize>) -> Result<Vec<PageState>> {
    let file = File::open("/proc/self/pagemap").context("/proc/self/pagemap")?;
    let mut bytes = vec![0; range.len().div_ceil(PAGE) * 8];
    file.read_exact_at(&mut bytes, memory.at(range.start) / PAGE as u64 * 8)?;
    let state = |word: u64| match ((word >> 63) & 1, (word >> 62) & 1) {
        (1, _) => PageState::Frame(word & ((1 << 55) - 1)),
        (_, 1) => PageState::Swapped,
        _ => PageState::None,
    };
    let words = bytes.chunks_exact(8);
    Ok(words
        .map(|word| state(u64::from_ne_bytes(word.try_into().expect("eight bytes"))))
        .collect())
}
