// SPDX-License-Identifier: GPL-2.0
//! What the driver counted: per region, as `rdma statistic show mr` tells it, and per device, as `rdma
//! statistic show link` and sysfs do.

use std::{collections::BTreeMap, fs, io, process::Command};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The driver's counters, summed over regions. None where the driver has no such counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Faults that the NIC raised.
    pub page_faults: Option<u64>,
    /// Pages that were given to the NIC.
    pub pages_mapped: Option<u64>,
    /// Times that the kernel took something away.
    pub invalidations: Option<u64>,
    /// Pages that were taken from the NIC.
    pub page_invalidations: Option<u64>,
    /// Parts of regions that the NIC has used.
    pub chunks: Option<u64>,
    /// Those of them that have been taken down again.
    pub chunks_reaped: Option<u64>,
}

impl Counters {
    /// Those of the regions of process `pid` on `device` that exist now.
    ///
    /// None of them is known if iproute2 is not installed or too old.
    pub fn of_process(device: &str, pid: u32) -> Self {
        let regions = own_regions(&rdma(&["resource", "show", "mr"]), device, pid);
        Self::sum(&rdma(&["statistic", "show", "mr"]), device, &regions)
    }

    fn sum(statistics: &Value, device: &str, regions: &[u64]) -> Self {
        let mut total = Self::default();
        each_region(statistics, &mut |entry| {
            let number = entry.get("mrn").and_then(Value::as_u64);
            let ours = number.is_some_and(|n| regions.contains(&n));
            if ours && on_device(entry, device) {
                let counter = |name| entry.get(name).and_then(Value::as_u64);
                total = total.plus(Self {
                    page_faults: counter("page_faults"),
                    pages_mapped: counter("pages_mapped"),
                    invalidations: counter("invalidations"),
                    page_invalidations: counter("page_invalidations"),
                    chunks: counter("chunks"),
                    chunks_reaped: counter("chunks_reaped"),
                });
            }
        });
        total
    }

    /// The sums of both, counter by counter.
    pub fn plus(self, other: Self) -> Self {
        let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
        };
        Self {
            page_faults: add(self.page_faults, other.page_faults),
            pages_mapped: add(self.pages_mapped, other.pages_mapped),
            invalidations: add(self.invalidations, other.invalidations),
            page_invalidations: add(self.page_invalidations, other.page_invalidations),
            chunks: add(self.chunks, other.chunks),
            chunks_reaped: add(self.chunks_reaped, other.chunks_reaped),
        }
    }
}

/// Counters by name.
pub type Values = BTreeMap<String, u64>;

/// All counters of the regions of process `pid` on `device` that exist now, by name, summed over regions.
pub fn by_name(device: &str, pid: u32) -> Values {
    let regions = own_regions(&rdma(&["resource", "show", "mr"]), device, pid);
    sum_by_name(&rdma(&["statistic", "show", "mr"]), device, &regions)
}

fn sum_by_name(statistics: &Value, device: &str, regions: &[u64]) -> Values {
    let mut sums = Values::new();
    each_region(statistics, &mut |entry| {
        let number = entry.get("mrn").and_then(Value::as_u64);
        if number.is_some_and(|n| regions.contains(&n)) && on_device(entry, device) {
            for (name, value) in values(entry) {
                *sums.entry(name).or_insert(0) += value;
            }
        }
    });
    sums
}

/// The counters of the region with the local key `lkey` on `device`; `None` if there is no such region, or it
/// has no counters.
///
/// Only the superuser is told keys.
pub fn of_region(device: &str, lkey: u32) -> Option<Values> {
    let regions = rdma(&["-dd", "resource", "show", "mr"]);
    let number = numbers(&regions, device, |entry| {
        entry.get("lkey").and_then(key) == Some(u64::from(lkey))
    });
    let [number] = number.as_slice() else {
        return None;
    };
    let mut found = None;
    each_region(&rdma(&["statistic", "show", "mr"]), &mut |entry| {
        if on_device(entry, device) && entry.get("mrn").and_then(Value::as_u64) == Some(*number) {
            found = Some(values(entry));
        }
    });
    found.filter(|values| !values.is_empty())
}

/// What the driver says of the region with the local key `lkey` on `device`: `rdma resource show mr -dd`.
pub fn details(device: &str, lkey: u32) -> Option<Value> {
    let mut found = None;
    each_region(&rdma(&["-dd", "resource", "show", "mr"]), &mut |entry| {
        let known = entry.get("lkey").and_then(key);
        if on_device(entry, device) && known == Some(u64::from(lkey)) {
            found = Some(entry.clone());
        }
    });
    found
}

/// What begins the names of the driver's counters among those of a port.
const OF_DEVICE: &str = "odp_";

/// The driver's counters over all regions of `device`, as sysfs has them, by the names that those of a region
/// have. The kernel remembers them for ten milliseconds.
///
/// # Errors
///
/// Those of reading the files; not found on a driver that has no hardware counters.
pub fn of_device(device: &str) -> io::Result<Values> {
    let folder = format!("/sys/class/infiniband/{device}/ports/1/hw_counters");
    let mut values = Values::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        if let Some(name) = name.to_str().and_then(|n| n.strip_prefix(OF_DEVICE)) {
            let text = fs::read_to_string(file.path())?;
            let value = text.trim().parse();
            values.insert(name.to_owned(), value.map_err(io::Error::other)?);
        }
    }
    Ok(values)
}

/// The same as `rdma statistic show link` tells it.
pub fn of_link(device: &str) -> Values {
    let link = format!("{device}/1");
    let links = rdma(&["statistic", "show", "link", &link]);
    let entry = links.as_array().and_then(|links| links.first());
    let all = entry.map(values).unwrap_or_default();
    all.into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(OF_DEVICE)?.to_owned(), value)))
        .collect()
}

/// The numbers in `entry` that count something.
fn values(entry: &Value) -> Values {
    const NO_COUNTERS: [&str; 3] = ["ifindex", "mrn", "port"];
    let fields = entry.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !NO_COUNTERS.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect()
}

/// A key, which versions of iproute2 print as a number or as hexadecimal text.
fn key(value: &Value) -> Option<u64> {
    let hexadecimal =
        |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(hexadecimal))
}

/// How many contexts of `device` there are, of all processes. None if iproute2 is not installed or too old.
pub fn contexts(device: &str) -> Option<u64> {
    let devices = rdma(&["resource", "show"]);
    let mut devices = devices.as_array()?.iter();
    let device = devices.find(|entry| on_device(entry, device))?;
    device.get("ctx")?.as_u64()
}

fn rdma(arguments: &[&str]) -> Value {
    let output = Command::new("rdma").arg("-j").args(arguments).output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The numbers of the regions that `pid` holds.
fn own_regions(resources: &Value, device: &str, pid: u32) -> Vec<u64> {
    numbers(resources, device, |entry| {
        entry.get("pid").and_then(Value::as_u64) == Some(u64::from(pid))
    })
}

/// The numbers of the regions on `device` that are `wanted`.
fn numbers(resources: &Value, device: &str, wanted: impl Fn(&Value) -> bool) -> Vec<u64> {
    let mut regions = Vec::new();
    each_region(resources, &mut |entry| {
        if on_device(entry, device) && wanted(entry) {
            regions.extend(entry.get("mrn").and_then(Value::as_u64));
        }
    });
    regions
}

fn on_device(entry: &Value, device: &str) -> bool {
    entry
        .get("ifname")
        .and_then(Value::as_str)
        .is_none_or(|name| name == device)
}

/// Calls `visit` for each object that has a region's number: versions of iproute2 differ in how
/// deep they put them.
fn each_region(value: &Value, visit: &mut impl FnMut(&Value)) {
    if value.get("mrn").is_some() {
        return visit(value);
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_region(item, visit)),
        Value::Object(map) => map.values().for_each(|item| each_region(item, visit)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_own_regions_are_summed() {
        let resources = json!([
            {"ifindex": 0, "ifname": "rxe0", "mrn": 3, "pid": 10, "comm": "odp-demo"},
            {"ifindex": 0, "ifname": "rxe0", "mrn": 4, "pid": 11, "comm": "other"},
            {"ifindex": 0, "ifname": "rxe0", "mrn": 5, "pid": 10, "comm": "odp-demo"},
        ]);
        let regions = own_regions(&resources, "rxe0", 10);
        assert_eq!(regions, [3, 5]);
        let statistics = json!([
            {"ifname": "rxe0", "mrn": 3, "page_faults": 2, "pages_mapped": 7},
            {"ifname": "rxe0", "mrn": 4, "page_faults": 100},
            {"ifname": "rxe0", "mrn": 5, "page_faults": 1, "invalidations": 4},
            {"ifname": "mlx5_0", "mrn": 5, "page_faults": 1000},
        ]);
        let sum = Counters::sum(&statistics, "rxe0", &regions);
        assert_eq!(sum.page_faults, Some(3));
        assert_eq!(sum.pages_mapped, Some(7));
        assert_eq!(sum.invalidations, Some(4));
        assert_eq!(sum.page_invalidations, None);
        let all = sum_by_name(&statistics, "rxe0", &regions);
        let expected = [
            ("invalidations", 4),
            ("page_faults", 3),
            ("pages_mapped", 7),
        ];
        assert_eq!(all, expected.map(|(name, n)| (name.to_owned(), n)).into());
    }

    #[test]
    fn keys_and_counters_are_read_as_iproute2_prints_them() {
        assert_eq!(key(&json!("0x1a2b")), Some(0x1a2b));
        assert_eq!(key(&json!("1a2b")), Some(0x1a2b));
        assert_eq!(key(&json!(7)), Some(7));
        assert_eq!(key(&json!("rkey")), None);
        let entry =
            json!({"ifindex": 3, "ifname": "rxe0", "mrn": 5, "page_faults": 2, "chunks": 0});
        let expected = [("chunks".to_owned(), 0), ("page_faults".to_owned(), 2)];
        assert_eq!(values(&entry), Values::from(expected));
    }

    #[test]
    fn no_output_is_no_counters() {
        assert_eq!(
            Counters::sum(&Value::Null, "rxe0", &[1]),
            Counters::default()
        );
    }
}
