// SPDX-License-Identifier: GPL-2.0
//! What the driver counted, per region, as `rdma statistic show mr` tells it.

use std::{collections::BTreeMap, process::Command};

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
        }
    }
}

/// All counters of the regions of process `pid` on `device` that exist now, by name, summed over regions.
pub fn by_name(device: &str, pid: u32) -> BTreeMap<String, u64> {
    let regions = own_regions(&rdma(&["resource", "show", "mr"]), device, pid);
    sum_by_name(&rdma(&["statistic", "show", "mr"]), device, &regions)
}

fn sum_by_name(statistics: &Value, device: &str, regions: &[u64]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    each_region(statistics, &mut |entry| {
        let number = entry.get("mrn").and_then(Value::as_u64);
        let ours = number.is_some_and(|n| regions.contains(&n)) && on_device(entry, device);
        let counters = entry.as_object().filter(|_| ours).into_iter().flatten();
        for (name, value) in
            counters.filter(|(name, _)| !["mrn", "ifindex"].contains(&name.as_str()))
        {
            if let Some(value) = value.as_u64() {
                *sums.entry(name.clone()).or_insert(0) += value;
            }
        }
    });
    sums
}

fn rdma(arguments: &[&str]) -> Value {
    let output = Command::new("rdma").arg("-j").args(arguments).output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The numbers of the regions that `pid` holds.
fn own_regions(resources: &Value, device: &str, pid: u32) -> Vec<u64> {
    let mut regions = Vec::new();
    each_region(resources, &mut |entry| {
        let owner = entry.get("pid").and_then(Value::as_u64);
        if owner == Some(u64::from(pid)) && on_device(entry, device) {
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
    fn no_output_is_no_counters() {
        assert_eq!(
            Counters::sum(&Value::Null, "rxe0", &[1]),
            Counters::default()
        );
    }
}
