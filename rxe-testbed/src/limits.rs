// SPDX-License-Identifier: GPL-2.0
//! What a VM may have of this host. More than that keeps it from coming up, which takes minutes to be seen.

use anyhow::{bail, Result};

use crate::cli::VmArguments;
use crate::host;
use crate::ui;

/// How many of the VM's processors may share one of the host's: with more the guest's kernel takes those that wait
/// for dead ones.
const SHARED_BY: u32 = 2;

/// The fewest processors that are granted: what a VM has unless somebody says otherwise.
const ALWAYS: u32 = 2;

/// What QEMU takes besides the memory of its VM.
const OVERHEAD: u64 = 256;

/// What the host has; memory in MiB.
#[derive(Clone, Copy, Debug)]
struct Host {
    processors: u32,
    memory: u64,
    free: u64,
}

/// Fails if `vms` VMs like this are more than the host can carry, and says so if they hardly fit.
pub(crate) fn check(wanted: &VmArguments, vms: u32) -> Result<()> {
    if let Some(remark) = Host::look().judge(wanted.cpus, wanted.mem, vms)? {
        ui::note(&remark);
    }
    Ok(())
}

impl Host {
    fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (memory, free) = memory(&read("/proc/meminfo"));
        // That of the whole container, if this is one.
        let limit = read("/sys/fs/cgroup/memory.max").trim().parse::<u64>();
        let limit = limit.map_or(u64::MAX, |bytes| bytes >> 20);
        Self {
            processors: u32::try_from(host::processors()).unwrap_or(u32::MAX),
            memory: memory.min(limit),
            free: free.min(limit),
        }
    }

    /// Refuses what the host does not have; gives a remark on what it does not have now.
    fn judge(&self, cpus: u32, mem: u32, vms: u32) -> Result<Option<String>> {
        let most = self.processors.saturating_mul(SHARED_BY).max(ALWAYS);
        if cpus > most {
            bail!(
                "--cpus {cpus}: this host has {}, which can carry {most} of a VM's",
                counted(self.processors)
            );
        }
        let needed = u64::from(vms) * (u64::from(mem) + OVERHEAD);
        let each = match vms {
            1 => "",
            _ => " each",
        };
        if needed > self.memory {
            let most = (self.memory / u64::from(vms)).saturating_sub(OVERHEAD);
            bail!(
                "--mem {mem}: this host has {} MiB of memory, so {most} MiB{each} is the most",
                self.memory
            );
        }
        let all = cpus.saturating_mul(vms);
        if vms > 1 && cpus > 1 && all > most {
            return Ok(Some(format!(
                "{vms} VMs have {all} processors, of which this host can carry {most}: --cpus 1 may be faster"
            )));
        }
        Ok((needed > self.free).then(|| {
            format!(
                "the VM may take {needed} MiB of memory, of which the host has {} free now",
                self.free
            )
        }))
    }
}

fn counted(processors: u32) -> String {
    match processors {
        1 => "1 processor".into(),
        _ => format!("{processors} processors"),
    }
}

/// All memory and what of it is free for programs, out of `/proc/meminfo`. What is not told is no limit.
fn memory(meminfo: &str) -> (u64, u64) {
    let field = |name: &str| {
        let value = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = value.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        number.map_or(u64::MAX, |kib| kib >> 10)
    };
    (field("MemTotal"), field("MemAvailable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Host = Host {
        processors: 2,
        memory: 8192,
        free: 4096,
    };

    fn refusal(host: Host, cpus: u32, mem: u32, vms: u32) -> String {
        host.judge(cpus, mem, vms).unwrap_err().to_string()
    }

    #[test]
    fn what_the_host_has_is_granted() -> Result<()> {
        assert_eq!(SMALL.judge(4, 2048, 1)?, None);
        let single = Host {
            processors: 1,
            ..SMALL
        };
        assert_eq!(single.judge(2, 2048, 1)?, None);
        Ok(())
    }

    #[test]
    fn more_processors_than_it_can_carry_are_refused() {
        let message = refusal(SMALL, 64, 2048, 1);
        assert_eq!(
            message,
            "--cpus 64: this host has 2 processors, which can carry 4 of a VM's"
        );
        assert!(SMALL.judge(5, 2048, 1).is_err());
    }

    #[test]
    fn more_processors_of_several_than_it_can_carry_are_told() -> Result<()> {
        let remark = SMALL.judge(2, 512, 3)?.unwrap_or_default();
        assert!(remark.starts_with("3 VMs have 6 processors"), "{remark}");
        assert_eq!(SMALL.judge(1, 512, 3)?, None);
        assert_eq!(SMALL.judge(2, 512, 2)?, None);
        Ok(())
    }

    #[test]
    fn more_memory_than_it_has_is_refused() -> Result<()> {
        assert_eq!(
            refusal(SMALL, 2, 1_000_000, 1),
            "--mem 1000000: this host has 8192 MiB of memory, so 7936 MiB is the most"
        );
        assert!(refusal(SMALL, 2, 4096, 2).contains("so 3840 MiB each is the most"));
        assert!(SMALL.judge(2, 7936, 1)?.is_some());
        assert!(SMALL.judge(2, 7937, 1).is_err());
        Ok(())
    }

    #[test]
    fn more_than_is_free_is_a_remark() -> Result<()> {
        let remark = SMALL.judge(2, 4096, 1)?.unwrap_or_default();
        assert!(
            remark.contains("4352 MiB") && remark.contains("4096 free"),
            "{remark}"
        );
        Ok(())
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24580000 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(memory(text), (24_003, 2));
        assert_eq!(memory(""), (u64::MAX, u64::MAX));
    }
}
