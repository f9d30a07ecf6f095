// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/mlx_odp`: a directory for each device, with its counters, a histogram of its fault
//! latency, and its regions. The files show keys and addresses and are readable by root only.
//!
//! Removing a file waits for its readers, so what a file shows outlives it. An open file keeps the module loaded, as
//! closing it calls a function of the module; files of `kernel::debugfs` do not keep it.

use core::ffi::c_void;
use core::fmt;

use hmm::Perm;

use kernel::bindings;
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::Arc;

use crate::device::{AnyRegion, Device};
use crate::histogram::{Bucket, Histogram};
use crate::key::KeyKind;
use crate::parameters::Parameters;
use crate::shim;
use crate::stats::Entry;

kernel::sync::global_lock! {
    // SAFETY: `Root::new` initialises it, when the module is loaded.
    unsafe(uninit) static ROOT: Mutex<Option<Arc<Dir>>> = None;
}

/// A directory. Dropping it removes it.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_dir` gave, perhaps an error, which all of debugfs takes for a directory that is not
/// there. The parent stays as long as this.
struct Dir {
    dentry: *mut bindings::dentry,
    _parent: Option<Arc<Dir>>,
}

// SAFETY: debugfs has locks of its own.
unsafe impl Send for Dir {}
// SAFETY: As above.
unsafe impl Sync for Dir {}

impl Dir {
    fn new(name: &CStr, parent: Option<Arc<Dir>>) -> Result<Arc<Self>> {
        let above = parent
            .as_ref()
            .map_or(core::ptr::null_mut(), |dir| dir.dentry);
        // SAFETY: The parent is a directory, an error, or NULL, which is debugfs' own root.
        let dentry = unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), above) };
        let dir = Self {
            dentry,
            _parent: parent,
        };
        Ok(Arc::new(dir, GFP_KERNEL)?)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Nothing is in it: its files and directories keep it.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// A file that is readable for every user that may enter its directory. Dropping it removes it.
///
/// # Invariants
///
/// `dentry` is that of a file that shows `content`, or an error.
struct File {
    dentry: *mut bindings::dentry,
    _content: Arc<Content>,
    _dir: Arc<Dir>,
}

// SAFETY: debugfs has locks of its own.
unsafe impl Send for File {}
// SAFETY: As above.
unsafe impl Sync for File {}

impl File {
    fn new(dir: &Arc<Dir>, name: &CStr, content: Content) -> Result<Self> {
        let content = Arc::new(content, GFP_KERNEL)?;
        let shown: *const Content = &*content;
        // SAFETY: The directory is one, or an error. The content stays until the file is removed (`drop`).
        let dentry = unsafe {
            shim::mlx_odp_shim_make_file(
                name.as_char_ptr(),
                dir.dentry.cast(),
                shown.cast_mut().cast(),
            )
        };
        Ok(Self {
            dentry: dentry.cast(),
            _content: content,
            _dir: dir.clone(),
        })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. This waits for readers of `_content`, which is dropped after that.
        unsafe { bindings::debugfs_remove(self.dentry) };
    }
}

/// What a file shows.
enum Content {
    Parameters(Parameters),
    Counters(Arc<Device>),
    Latency(Arc<Device>),
    Regions(Arc<Device>),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameters(parameters) => show_parameters(parameters, f),
            Self::Counters(device) => show_counters(device, f),
            Self::Latency(device) => show_latency(device, f),
            Self::Regions(device) => show_regions(device, f),
        }
    }
}

/// Shows what a file has. The shim calls it when the file is read.
///
/// # Safety
///
/// `content` is that of a file which is not removed meanwhile, `to` a `struct seq_file`.
#[no_mangle]
unsafe extern "C" fn mlx_odp_show_file(to: *mut c_void, content: *const c_void) {
    // SAFETY: By the contract.
    let (to, content) = unsafe { (SeqFile::from_raw(to.cast()), &*content.cast::<Content>()) };
    to.call_printf(core::format_args!("{content}"));
}

/// The module's directory and the files in it. Dropping it removes them.
pub(crate) struct Root {
    _parameters: File,
}

impl Root {
    /// Creates it, for a module with these `parameters`. If debugfs refuses, there is no directory; nothing
    /// depends on it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Called once, before anything else in this file.
    pub(crate) unsafe fn new(parameters: Parameters) -> Result<Self> {
        // SAFETY: By the contract.
        unsafe { ROOT.init() };
        let dir = Dir::new(c"mlx_odp", None)?;
        let parameters = File::new(&dir, c"parameters", Content::Parameters(parameters))?;
        *ROOT.lock() = Some(dir);
        Ok(Self {
            _parameters: parameters,
        })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        *ROOT.lock() = None;
    }
}

/// The files of a device. Dropping it removes them.
pub struct DeviceFiles {
    _counters: File,
    _latency: File,
    _regions: File,
}

impl DeviceFiles {
    /// Creates the files of `device` in a directory called `name`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` if the module is being unloaded.
    pub fn new(name: &CStr, device: &Arc<Device>) -> Result<Self> {
        let root = ROOT.lock().as_ref().ok_or(ENODEV)?.clone();
        let dir = Dir::new(name, Some(root))?;
        let file = |name, content: fn(Arc<Device>) -> Content| {
            File::new(&dir, name, content(device.clone()))
        };
        Ok(Self {
            _counters: file(c"counters", Content::Counters)?,
            _latency: file(c"fault_latency", Content::Latency)?,
            _regions: file(c"regions", Content::Regions)?,
        })
    }
}

/// One line per parameter.
fn show_parameters(parameters: &Parameters, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, value) in parameters.entries() {
        writeln!(f, "{name} {value}")?;
    }
    Ok(())
}

/// One line per counter.
fn show_counters(device: &Arc<Device>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for entry in device.stats().entries() {
        writeln!(f, "{} {}", name(&entry), entry.value)?;
    }
    Ok(())
}

/// One line per bucket: lower bound and upper bound in nanoseconds, number of faults.
fn show_latency(device: &Arc<Device>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for Bucket { from, below, count } in device.stats().fault_latency.buckets() {
        match below {
            Some(below) => writeln!(f, "{from} {below} {count}")?,
            None => writeln!(f, "{from} - {count}")?,
        }
    }
    Ok(())
}

/// One line per region, the oldest first.
fn show_regions(device: &Arc<Device>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    device.each_region(|region| show_region(region, f))
}

fn show_region(region: &dyn AnyRegion, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (key, stats) = (region.key(), region.region_stats().stats());
    write!(
        f,
        "lkey={:#x} pid={} kind={} access={} va={:#x} length={:#x} iova={:#x}",
        region.region_stats().lkey(),
        region.pid(),
        match key.kind() {
            KeyKind::Explicit => "explicit",
            KeyKind::Implicit => "implicit",
        },
        match region.owned().limit() {
            Perm::ReadWrite => "write",
            Perm::ReadOnly => "read",
        },
        key.bytes().start(),
        key.bytes().len(),
        key.iova(),
    )?;
    for entry in stats.entries() {
        write!(f, " {}={}", name(&entry), entry.value)?;
    }
    show_buckets(&stats.fault_latency, f)?;
    writeln!(f)
}

/// The buckets that are not empty, in one word: lower bound in nanoseconds and number of faults.
fn show_buckets(histogram: &Histogram, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, " fault_latency=")?;
    let used = histogram.buckets().filter(|bucket| bucket.count > 0);
    for (number, bucket) in used.enumerate() {
        let comma = if number > 0 { "," } else { "" };
        write!(f, "{comma}{}:{}", bucket.from, bucket.count)?;
    }
    Ok(())
}

fn name(entry: &Entry) -> &'static str {
    // The names are ASCII.
    entry.name().to_str().unwrap_or_default()
}
