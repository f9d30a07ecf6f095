// SPDX-License-Identifier: GPL-2.0
//! The driver's own counters, whatever it has.

use std::{collections::BTreeMap, fs, path::Path};

use odp_fixture::counters;
use odp_verbs::Context;

/// The counters of the device and of the port that is used that sysfs shows, hardware's and standard ones, those of the
/// port as `port.NAME`; and the sums over this process's regions of what `rdma statistic show mr` shows, as `mr.NAME`.
pub fn meters(context: &Context) -> BTreeMap<String, u64> {
    let mut all = in_sysfs(context);
    let regions = counters::by_name(context.name(), std::process::id());
    all.extend(
        regions
            .into_iter()
            .map(|(name, n)| (format!("mr.{name}"), n)),
    );
    all
}

/// Those that sysfs shows.
pub(super) fn in_sysfs(context: &Context) -> BTreeMap<String, u64> {
    let folder = Path::new("/sys/class/infiniband").join(context.name());
    in_folder(&folder, context.port())
}

/// Those in the device's `folder`. A device and its port may have counters of one name.
fn in_folder(folder: &Path, port: u8) -> BTreeMap<String, u64> {
    let parts = [
        ("", "hw_counters".to_owned()),
        ("port.", format!("ports/{port}/counters")),
        ("port.", format!("ports/{port}/hw_counters")),
    ];
    let mut all = BTreeMap::new();
    for (prefix, part) in parts {
        let entries = fs::read_dir(folder.join(part)).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let value = fs::read_to_string(entry.path())
                .ok()
                .and_then(|text| text.trim().parse().ok());
            // The kernel's own setting, no counter.
            if let Some(value) = value.filter(|_| name != "lifespan") {
                all.insert(format!("{prefix}{name}"), value);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_count_under_the_name_of_a_device() {
        let folder = tempfile::tempdir().unwrap();
        for (part, count) in [
            ("hw_counters", 1),
            ("ports/2/hw_counters", 2),
            ("ports/2/counters", 3),
        ] {
            let part = folder.path().join(part);
            fs::create_dir_all(&part).unwrap();
            fs::write(
                part.join(if count == 3 {
                    "port_xmit_data"
                } else {
                    "faults"
                }),
                format!("{count}\n"),
            )
            .unwrap();
            fs::write(part.join("lifespan"), "10\n").unwrap();
        }
        let all = in_folder(folder.path(), 2);
        let counted: Vec<_> = all.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(
            counted,
            [
                ("faults", 1),
                ("port.faults", 2),
                ("port.port_xmit_data", 3)
            ]
        );
        assert_eq!(in_folder(folder.path(), 1).len(), 1);
    }
}
