// SPDX-License-Identifier: GPL-2.0
//! What RDMA leaves behind in a kernel: objects of devices, uses of modules, pinned pages, kernel memory.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, Result};
use serde_json::Value;

use crate::{counters, patience};

/// The modules whose uses are counted.
const MODULES: [&str; 3] = ["hmm", "mlx_odp", "rdma_rxe"];
/// How long the kernel may take to give memory back: it waits for readers of RCU, and its work queues
/// have other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the kernel's account of its memory does not tell what is in use: kmemleak has an object of its own for
/// each one, and KASAN, which comes with it on the testbed's debug kernel, keeps what is freed for a while. What
/// is left behind there is kmemleak's to find.
pub fn is_blurred() -> bool {
    Path::new("/sys/kernel/debug/kmemleak").exists()
}

/// How much of everything there is.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    /// Objects of RDMA devices, uses of modules, pinned pages: exact.
    exact: BTreeMap<String, u64>,
    /// Objects in the caches of the kernel's allocator.
    caches: BTreeMap<String, u64>,
}

impl Footprint {
    /// What there is now. What this system does not tell is left out.
    pub fn take() -> Self {
        let mut exact = BTreeMap::new();
        devices(&resources(), &mut exact);
        chunks(&mut exact);
        let pinned = pinned_pages(&fs::read_to_string("/proc/vmstat").unwrap_or_default());
        exact.insert("pinned pages".into(), pinned);
        for module in MODULES {
            let uses = fs::read_to_string(format!("/sys/module/{module}/refcnt"));
            if let Some(uses) = uses.ok().and_then(|text| text.trim().parse().ok()) {
                exact.insert(format!("uses of {module}"), uses);
            }
        }
        let caches = match is_blurred() {
            true => BTreeMap::new(),
            false => caches(&fs::read_to_string("/proc/slabinfo").unwrap_or_default()),
        };
        Self { exact, caches }
    }

    /// What there is more of than there was `before`: of objects in the allocator's caches, more than
    /// `slack` more.
    pub fn beyond(&self, before: &Self, slack: u64) -> Vec<String> {
        let more = |now: &BTreeMap<String, u64>, was: &BTreeMap<String, u64>, slack| {
            let grown = |(name, n): (&String, &u64)| {
                let was = was.get(name).copied().unwrap_or(0);
                (*n > was + slack).then(|| format!("{name}: {n}, was {was}"))
            };
            now.iter().filter_map(grown).collect::<Vec<_>>()
        };
        let mut all = more(&self.exact, &before.exact, 0);
        all.extend(more(&self.caches, &before.caches, slack));
        all
    }
}

/// Waits until there is no more than there was `before`.
///
/// # Errors
///
/// If that does not come, with what there is too much of.
pub fn settle(before: &Footprint, slack: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let more = Footprint::take().beyond(before, slack);
        if more.is_empty() {
            return Ok(());
        }
        if start.elapsed() > patience::scaled(PATIENCE) {
            bail!("{}", more.join("; "));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Where in the kernel the threads of a process are.
pub fn stacks(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .map(|thread| fs::read_to_string(thread.path().join("stack")).unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

fn resources() -> Value {
    let output = Command::new("rdma")
        .args(["-j", "resource", "show"])
        .output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// The numbers of objects of each device.
fn devices(resources: &Value, counts: &mut BTreeMap<String, u64>) {
    for device in resources.as_array().into_iter().flatten() {
        let name = device.get("ifname").and_then(Value::as_str);
        let fields = device.as_object().into_iter().flatten();
        for (kind, count) in fields.filter(|(kind, _)| *kind != "ifindex") {
            if let (Some(name), Some(count)) = (name, count.as_u64()) {
                counts.insert(format!("{kind} of {name}"), count);
            }
        }
    }
}

/// How many chunks the regions of each device have, as the driver counts them.
fn chunks(counts: &mut BTreeMap<String, u64>) {
    let devices = fs::read_dir("/sys/class/infiniband");
    for device in devices.into_iter().flatten().flatten() {
        let name = device.file_name().to_string_lossy().into_owned();
        let values = counters::of_device(&name).unwrap_or_default();
        if let Some(chunks) = values.get("chunks_alive") {
            counts.insert(format!("chunks of {name}"), *chunks);
        }
    }
}

/// How many pages are pinned, for whatever reason; a page that is pinned twice counts twice.
fn pinned_pages(vmstat: &str) -> u64 {
    let value = |name: &str| -> u64 {
        let rest = vmstat.lines().find_map(|line| line.strip_prefix(name));
        rest.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    };
    value("nr_foll_pin_acquired ").saturating_sub(value("nr_foll_pin_released "))
}

/// The numbers of objects in the caches that drivers allocate from.
fn caches(slabinfo: &str) -> BTreeMap<String, u64> {
    let lines = slabinfo.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, active) = (words.next()?, words.next()?.parse().ok()?);
        Some((name.to_owned(), active))
    });
    // Those of objects that can be had back at any time say nothing.
    lines
        .filter(|(name, _)| name.starts_with("kmalloc-") && !name.starts_with("kmalloc-rcl-"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_pinned_until_they_are_released() {
        let vmstat = "nr_foll_pin_acquired 70\nnr_foll_pin_released 30\nnr_other 5\n";
        assert_eq!(pinned_pages(vmstat), 40);
        assert_eq!(pinned_pages("nr_other 5\n"), 0);
    }

    #[test]
    fn what_has_grown_is_named() {
        let taken = |regions: u64, objects: u64| {
            let mut footprint = Footprint::default();
            let resources = serde_json::json!([
                {"ifindex": 0, "ifname": "rxe0", "pd": 1, "mr": regions},
            ]);
            devices(&resources, &mut footprint.exact);
            footprint.caches = caches(&format!(
                "slabinfo - version: 2.1\n# name <active_objs>\nkmalloc-64 {objects} 8192 64\n\
                 kmalloc-rcl-64 {objects} 1 64\ndentry 100 200 192\n"
            ));
            footprint
        };
        let before = taken(2, 5000);
        assert!(taken(2, 5900).beyond(&before, 1000).is_empty());
        assert!(taken(1, 100).beyond(&before, 1000).is_empty());
        assert_eq!(
            taken(3, 7000).beyond(&before, 1000),
            ["mr of rxe0: 3, was 2", "kmalloc-64: 7000, was 5000"]
        );
    }
}
