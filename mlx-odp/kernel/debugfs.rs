// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/mlx_odp`: a directory for each device, with its counters, a histogram of its fault
//! latency, and its regions. The files show keys and addresses and are readable by root only.
//!
//! Removing a file waits for its readers, so what a file shows outlives it.

use core::fmt;

use kernel::debugfs::{Dir, File};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::device::Device;
use crate::histogram::{Bucket, Histogram};
use crate::key::KeyKind;
use crate::observer::Counting;
use crate::parameters::Parameters;
use crate::stats::Entry;

kernel::sync::global_lock! {
    // SAFETY: `Root::new` initialises it, when the module is loaded.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

/// The module's directory and the files in it. Dropping it removes them.
pub(crate) struct Root {
    _parameters: Pin<KBox<File<Parameters>>>,
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
        let dir = Dir::new(c"mlx_odp");
        let parameters = Ok::<_, Error>(parameters);
        let file = dir.read_callback_file(c"parameters", parameters, &show_parameters);
        let root = Self {
            _parameters: KBox::pin_init(file, GFP_KERNEL)?,
        };
        *ROOT.lock() = Some(dir);
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        *ROOT.lock() = None;
    }
}

/// The files of a device. Dropping it removes them.
#[pin_data]
pub struct DeviceFiles {
    #[pin]
    _counters: File<Arc<Device>>,
    #[pin]
    _latency: File<Arc<Device>>,
    #[pin]
    _regions: File<Arc<Device>>,
    _dir: Dir,
}

impl DeviceFiles {
    /// Creates the files of `device` in a directory called `name`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` if the module is being unloaded.
    pub fn new(name: &CStr, device: &Arc<Device>) -> Result<Pin<KBox<Self>>> {
        let dir = ROOT.lock().as_ref().ok_or(ENODEV)?.subdir(name);
        let files = try_pin_init!(Self {
            _counters <- dir.read_callback_file(c"counters", device.clone(), &show_counters),
            _latency <- dir.read_callback_file(c"fault_latency", device.clone(), &show_latency),
            _regions <- dir.read_callback_file(c"regions", device.clone(), &show_regions),
            _dir: dir,
        });
        KBox::pin_init(files, GFP_KERNEL)
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

fn show_region(region: &Counting, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let identity = region.identity();
    write!(
        f,
        "lkey={:#x} pid={} kind={} access={} va={:#x} length={:#x} iova={:#x}",
        identity.registration.lkey,
        identity.pid,
        match identity.kind {
            KeyKind::Explicit => "explicit",
            KeyKind::Implicit => "implicit",
        },
        match identity.registration.writable {
            true => "write",
            false => "read",
        },
        identity.registration.va,
        identity.registration.length,
        identity.registration.iova,
    )?;
    for entry in region.stats().entries() {
        write!(f, " {}={}", name(&entry), entry.value)?;
    }
    show_buckets(&region.stats().fault_latency, f)?;
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
