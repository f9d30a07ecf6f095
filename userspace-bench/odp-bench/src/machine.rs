// SPDX-License-Identifier: GPL-2.0
//! How the machine is set up, as far as figures depend on it: where the device and the process are, what the kernel
//! does with pages, with frequencies, with addresses of devices.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    placement,
    sysfs::{chosen, numbers, read},
};

/// What, and which; nothing of what this machine does not have. `sysfs` is the folder of `device` there.
pub(super) fn machine(device: &str, sysfs: &Path) -> Vec<(&'static str, Option<String>)> {
    const MM: &str = "/sys/kernel/mm";
    let choice = |name: &str| read(format!("{MM}/{name}")).map(|text| chosen(&text));
    vec![
        ("numa nodes", numa_nodes()),
        ("numa device", device_node(device)),
        ("numa process", process_nodes()),
        ("numa balancing", read("/proc/sys/kernel/numa_balancing")),
        ("cpus allowed", status("Cpus_allowed_list")),
        ("governor", governors()),
        ("turbo", turbo()),
        ("thp", choice("transparent_hugepage/enabled")),
        ("thp defrag", choice("transparent_hugepage/defrag")),
        ("thp shmem", choice("transparent_hugepage/shmem_enabled")),
        ("mthp", mthp(Path::new(MM))),
        ("ksm", read(format!("{MM}/ksm/run"))),
        ("iommu", iommu(sysfs)),
        ("kernel command line", read("/proc/cmdline")),
    ]
}

/// A line of what the kernel says of this process.
fn status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

const NODES: &str = "/sys/devices/system/node";

fn numa_nodes() -> Option<String> {
    read(format!("{NODES}/online"))
}

/// As it is placed by.
fn device_node(device: &str) -> Option<String> {
    let node = placement::device_node(device);
    Some(node.map_or("unknown".into(), |node| node.to_string()))
}

/// The nodes on whose processors this process may run.
fn process_nodes() -> Option<String> {
    let allowed = numbers(&status("Cpus_allowed_list")?);
    let nodes = numbers(&numa_nodes()?).into_iter().filter(|node| {
        let cpus = read(format!("{NODES}/node{node}/cpulist")).unwrap_or_default();
        !numbers(&cpus).is_disjoint(&allowed)
    });
    let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
    Some(nodes.join(","))
}

/// The governors of all processors, each once.
fn governors() -> Option<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?.flatten();
    let governors: BTreeSet<String> = cpus
        .filter_map(|cpu| read(cpu.path().join("cpufreq/scaling_governor")))
        .collect();
    Some(match governors.is_empty() {
        true => "none".into(),
        false => Vec::from_iter(governors).join(", "),
    })
}

fn turbo() -> Option<String> {
    let cpu = Path::new("/sys/devices/system/cpu");
    let off = read(cpu.join("intel_pstate/no_turbo")).map(|text| text != "0");
    let on = read(cpu.join("cpufreq/boost")).map(|text| text != "0");
    let on = off.map(|off| !off).or(on)?;
    Some(if on { "on" } else { "off" }.into())
}

/// The sizes of huge pages that are given to memory without being asked for, or when asked for.
fn mthp(mm: &Path) -> Option<String> {
    let folder = fs::read_dir(mm.join("transparent_hugepage")).ok()?;
    let mut sizes: Vec<(u64, String)> = folder
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let mode = chosen(&read(entry.path().join("enabled"))?);
            (mode != "never").then(|| (kib, format!("{kib} KiB {mode}")))
        })
        .collect();
    sizes.sort();
    Some(match sizes.is_empty() {
        true => "never".into(),
        false => Vec::from_iter(sizes.into_iter().map(|(_, text)| text)).join(", "),
    })
}

/// How the device's addresses are translated: the kind of its domain, as the kernel calls it.
fn iommu(sysfs: &Path) -> Option<String> {
    let device = sysfs.join("device");
    if !device.exists() {
        return None;
    }
    Some(read(device.join("iommu_group/type")).unwrap_or_else(|| "none".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_huge_pages_are_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let with = |size: &str, enabled: &str| {
            let path = folder
                .path()
                .join(format!("transparent_hugepage/hugepages-{size}kB"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("enabled"), enabled).unwrap();
        };
        with("64", "always inherit madvise [never]");
        assert_eq!(mthp(folder.path()).as_deref(), Some("never"));
        with("2048", "always [inherit] madvise never");
        with("128", "[always] inherit madvise never");
        let shown = mthp(folder.path()).unwrap();
        assert_eq!(shown, "128 KiB always, 2048 KiB inherit");
    }
}
