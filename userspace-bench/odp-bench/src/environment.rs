// SPDX-License-Identifier: GPL-2.0
//! Where a run was measured: what a reader of its figures has to know.

use std::{collections::BTreeMap, env, fs, path::Path, thread, time::SystemTime};

use super::{machine::machine, sysfs::read};
use odp_fixture::env::Env;

/// What, and which.
pub fn environment(env: &Env) -> BTreeMap<String, String> {
    let (device, port) = (env.context.name(), env.context.port());
    let of_port = |name: &str| format!("ports/{port}/{name}");
    let sysfs = Path::new("/sys/class/infiniband").join(device);
    let driver = driver(&sysfs);
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            all.insert(name.to_owned(), value);
        }
    };
    add("device", Some(device.to_owned()));
    add("kernel", read("/proc/sys/kernel/osrelease"));
    add("board", read(sysfs.join("board_id")));
    add("firmware", read(sysfs.join("fw_ver")));
    add("port", Some(port.to_string()));
    add("link", read(sysfs.join(of_port("link_layer"))));
    add("rate", read(sysfs.join(of_port("rate"))));
    add("mtu", Some(env.mtu.bytes().to_string()));
    add("driver", Some(driver));
    add("rdma-core", rdma_core());
    add("cpu", cpuinfo("model name"));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    add("cpus", Some(cpus.to_string()));
    add("emulation", emulation());
    for (name, value) in machine(device, &sysfs) {
        add(name, value);
    }
    let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    add("clock", clock);
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    add("date", Some(now.to_string()));
    add("command line", Some(command_line()));
    add("odp-bench", Some(env!("CARGO_PKG_VERSION").to_owned()));
    all
}

/// What this program was called with.
fn command_line() -> String {
    let words = env::args_os().map(|word| {
        let word = word.to_string_lossy().into_owned();
        // As it would have to be typed.
        match word.is_empty()
            || word.contains(|c: char| c.is_whitespace() || "'\"\\$`*?&|;<>()".contains(c))
        {
            true => format!("'{}'", word.replace('\'', "'\\''")),
            false => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The module behind the device, and which build of it; with `mlx_odp`, if it is in use.
fn driver(sysfs: &Path) -> String {
    // A device in software has no parent that a driver is bound to.
    let module = fs::read_link(sysfs.join("device/driver/module"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let software = || match Path::new("/sys/module/rdma_rxe").exists() {
        true => "rdma_rxe".to_owned(),
        false => "unknown".to_owned(),
    };
    let mut names = vec![module.unwrap_or_else(software)];
    if Path::new("/sys/module/mlx_odp").exists() {
        names.push("mlx_odp".to_owned());
    }
    let versions = names.iter().map(|name| {
        let version = read(format!("/sys/module/{name}/srcversion"));
        match version {
            Some(version) => format!("{name} ({version})"),
            None => name.clone(),
        }
    });
    versions.collect::<Vec<_>>().join(" + ")
}

/// The version of the library that this program has loaded, from its file's name.
fn rdma_core() -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        line.split_whitespace()
            .last()
            .filter(|p| p.contains("/libibverbs.so"))
    })?;
    let name = Path::new(path).file_name()?.to_string_lossy().into_owned();
    // libibverbs.so.1.15.65.0: the third number is rdma-core's.
    let version = name.split('.').nth(4).map(str::to_owned);
    Some(version.unwrap_or(name))
}

fn cpuinfo(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Whether, and by what, this machine is emulated or virtualised.
fn emulation() -> Option<String> {
    let model = cpuinfo("model name").unwrap_or_default();
    if model.contains("TCG") {
        return Some("QEMU in software: no time here says anything about hardware".into());
    }
    let flags = cpuinfo("flags").unwrap_or_default();
    let product = read("/sys/class/dmi/id/product_name").unwrap_or_default();
    let virtualised = flags.split(' ').any(|flag| flag == "hypervisor");
    Some(match virtualised {
        true => format!("virtual machine ({product})"),
        false => "none".into(),
    })
}
