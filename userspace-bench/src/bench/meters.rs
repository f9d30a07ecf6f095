// SPDX-License-Identifier: GPL-2.0
//! The driver's own counters, whatever it has.

use std::{collections::BTreeMap, fs, path::Path};

use crate::counters;

/// The counters of `device` and of its first port that sysfs shows, and the sums over this process's regions
/// of what `rdma statistic show mr` shows, as `mr.NAME`.
pub fn meters(device: &str) -> BTreeMap<String, u64> {
    let folder = Path::new("/sys/class/infiniband").join(device);
    let mut all = BTreeMap::new();
    for part in ["hw_counters", "ports/1/hw_counters"] {
        let entries = fs::read_dir(folder.join(part)).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let value = fs::read_to_string(entry.path())
                .ok()
                .and_then(|text| text.trim().parse().ok());
            // The kernel's own setting, no counter.
            if let Some(value) = value.filter(|_| name != "lifespan") {
                all.insert(name, value);
            }
        }
    }
    let regions = counters::by_name(device, std::process::id());
    all.extend(
        regions
            .into_iter()
            .map(|(name, n)| (format!("mr.{name}"), n)),
    );
    all
}
