// SPDX-License-Identifier: GPL-2.0
//! QEMU's command line, and the choice of its accelerator.
//!
//! QEMU comes from the chroot and runs on the host by the chroot's own dynamic loader.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::build::World;
use crate::cache::{self, Cache};
use crate::chroot::Chroot;
use crate::host;
use crate::kernel::Variant;
use crate::network::Network;
use crate::nic::Nic;
use crate::pmem::Pmem;
use crate::process::{self, Owned};
use crate::reach::Reach;

/// Longest time in which KVM must have brought a kernel up to init to count as working.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// Where the probe's answer is kept.
pub(crate) const VERDICT: &str = "kvm-verdict";

/// What QEMU says when KVM cannot go on: it stays, with its processors stopped.
const KVM_GAVE_UP: &str = "KVM internal error";

/// How the guest's processor is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl Accelerator {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation",
        }
    }
}

/// By how many nanoseconds the clock of [`Extra::Counting`] goes on with each instruction; a power of two.
pub(crate) const INSTRUCTION: u32 = 2;

/// A device besides those that every VM has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Extra {
    /// None.
    #[default]
    None,
    /// QEMU's `edu`, which can copy to and from memory.
    Edu,
    /// The same behind an IOMMU.
    EduIommu,
    /// The same, and memory of two other devices: one beside it behind a switch, one elsewhere.
    EduPeers,
    /// An emulated ConnectX.
    Mlx5,
    /// The same behind an IOMMU.
    Mlx5Iommu,
    /// An emulated ConnectX-7, whose page faults name memory.
    Mlx5Memory,
    /// The same behind an IOMMU.
    Mlx5MemoryIommu,
    /// Persistent memory: an NVDIMM, with a file system on it that maps it directly (DAX).
    Pmem,
    /// No device: memory in two NUMA nodes.
    TwoNodes,
    /// No device: one processor, and a clock that goes on by 2 ns with each instruction. Emulated also
    /// where KVM works.
    Counting,
}

impl Extra {
    /// What it is, where the VM's name says it.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Edu => "-edu",
            Self::EduIommu => "-edu-iommu",
            Self::EduPeers => "-edu-peers",
            Self::Mlx5 => "-mlx5",
            Self::Mlx5Iommu => "-mlx5-iommu",
            Self::Mlx5Memory => "-mlx5-memory",
            Self::Mlx5MemoryIommu => "-mlx5-memory-iommu",
            Self::Pmem => "-pmem",
            Self::TwoNodes => "-two-nodes",
            Self::Counting => "-counting",
        }
    }

    /// QEMU's devices, in this order: an IOMMU comes before what it is for.
    fn devices(self) -> &'static [&'static str] {
        const EDU: &str = "edu,dma_mask=0xffffffffffffffff";
        match self {
            // The ConnectX itself is no device of QEMU's own, and the NVDIMM has a file.
            Self::None
            | Self::Mlx5
            | Self::Mlx5Memory
            | Self::Pmem
            | Self::TwoNodes
            | Self::Counting => &[],
            Self::Edu => &[EDU],
            // Without interrupts: on a busy machine the kernel may not see its timer through it. With
            // fewer addresses than a process has, which is a case of its own.
            Self::EduIommu => &["intel-iommu,intremap=off,aw-bits=39", EDU],
            // Devices outside of QEMU are told what is mapped only in this mode.
            Self::Mlx5Iommu | Self::Mlx5MemoryIommu => {
                &["intel-iommu,intremap=off,caching-mode=on"]
            }
            Self::EduPeers => &[
                "nvme,serial=far,cmb_size_mb=16",
                "pcie-root-port,id=root,chassis=1",
                "x3130-upstream,id=switch,bus=root",
                "xio3130-downstream,id=one,bus=switch,chassis=2",
                "xio3130-downstream,id=two,bus=switch,chassis=3",
                "nvme,serial=near,cmb_size_mb=16,bus=one",
                "edu,dma_mask=0xffffffffffffffff,bus=two",
            ],
        }
    }

    /// What its emulated ConnectX announces, if it has one.
    pub(crate) fn profile(self) -> Option<&'static str> {
        match self {
            Self::Mlx5 | Self::Mlx5Iommu => Some("cx5-ib"),
            Self::Mlx5Memory | Self::Mlx5MemoryIommu => Some("cx7-ib"),
            _ => None,
        }
    }

    /// What the kernel has to be told.
    fn command_line(self) -> &'static str {
        match self {
            Self::None | Self::Edu | Self::EduPeers | Self::Mlx5 | Self::Counting => "",
            Self::EduIommu | Self::Mlx5Iommu => " intel_iommu=on",
            // Four levels of page tables: regions that are a whole address space have smaller parts then.
            Self::Mlx5Memory => " no5lvl",
            Self::Mlx5MemoryIommu => " intel_iommu=on no5lvl",
            Self::Pmem => " testbed.pmem",
            Self::TwoNodes => " numa=fake=2",
        }
    }
}

/// The ports between the host and the guest, by name and inherited file descriptor.
pub(crate) struct Ports {
    pub(crate) control: RawFd,
    pub(crate) output: RawFd,
    pub(crate) error: RawFd,
    /// An interactive terminal, `/dev/hvc0`.
    pub(crate) terminal: RawFd,
}

/// A virtual machine as QEMU has to see it.
pub(crate) struct Machine<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) huge_pages: u32,
    /// How many soft-RoCE devices it is to have.
    pub(crate) rxe: u32,
    pub(crate) extra: Extra,
    pub(crate) kernel: &'a Path,
    pub(crate) variant: Variant,
    pub(crate) initramfs: &'a Path,
    pub(crate) kernel_log: &'a Path,
    /// The root's image and the session's tar archive; a probe has neither.
    pub(crate) disks: Option<(&'a Path, &'a Path)>,
    pub(crate) ports: Option<Ports>,
    /// Its place on a network segment with another VM.
    pub(crate) network: Option<&'a Network>,
    /// How it is reached, if it stays.
    pub(crate) reach: Option<&'a Reach>,
    /// An emulated ConnectX.
    pub(crate) nic: Option<&'a Nic>,
    /// What is in an NVDIMM.
    pub(crate) pmem: Option<&'a Pmem>,
    /// A plugin, with its options.
    pub(crate) plugin: Option<&'a str>,
}

impl Machine<'_> {
    /// QEMU's arguments.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let counting = self.extra == Extra::Counting;
        let accelerator = match self.accelerator {
            // Instructions can be counted only one after the other.
            _ if counting => ["tcg,thread=single", "max"],
            Accelerator::Kvm => ["kvm", "host"],
            Accelerator::Tcg => ["tcg,thread=multi", "max"],
        };
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            accelerator[0],
            "-cpu",
            accelerator[1],
        ]
        .map(str::to_owned)
        .into();
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if counting {
            add("-smp", "1".into());
            let shift = INSTRUCTION.trailing_zeros();
            add("-icount", format!("shift={shift},sleep=off"));
        } else {
            add("-smp", self.cpus.to_string());
        }
        match self.pmem {
            // What is added to the memory has addresses after it, with room for being aligned.
            Some(pmem) => {
                let most = u64::from(self.memory_mib) + pmem.mib() + 4096;
                let memory = format!("{}M,slots=1,maxmem={most}M", self.memory_mib);
                add("-m", memory);
                add("-machine", "nvdimm=on".into());
                let file = escaped(pmem.path());
                let size = pmem.mib();
                let memory =
                    format!("memory-backend-file,id=pmem,share=on,size={size}M,mem-path={file}");
                add("-object", memory);
                add("-device", "nvdimm,memdev=pmem".into());
            }
            None => add("-m", format!("{}M", self.memory_mib)),
        }
        if self.nic.is_some() {
            // The device maps the guest's memory, too.
            let size = self.memory_mib;
            let memory = format!("memory-backend-memfd,id=ram,share=on,size={size}M");
            add("-object", memory);
            add("-machine", "memory-backend=ram".into());
        }
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.initramfs.display().to_string());
        add("-append", self.command_line());
        add(
            "-chardev",
            format!("file,id=klog,path={}", escaped(self.kernel_log)),
        );
        add("-serial", "chardev:klog".into());
        for device in self.extra.devices() {
            add("-device", (*device).into());
        }
        if let Some(nic) = self.nic {
            let device = json!({
                "driver": "vfio-user-pci",
                "socket": {"type": "unix", "path": nic.socket()},
            });
            add("-device", device.to_string());
        }
        if let Some((root, session)) = self.disks {
            for (path, option) in [(root, "snapshot=on"), (session, "readonly=on")] {
                let file = escaped(path);
                add(
                    "-drive",
                    format!("if=virtio,format=raw,cache=unsafe,{option},file={file}"),
                );
            }
        }
        if let Some(ports) = &self.ports {
            add("-device", "virtio-serial-pci".into());
            for (name, fd) in [
                ("ctl", ports.control),
                ("out", ports.output),
                ("err", ports.error),
            ] {
                add("-chardev", format!("socket,id={name},fd={fd}"));
                add(
                    "-device",
                    format!("virtserialport,chardev={name},name=testbed.{name}"),
                );
            }
            add("-chardev", format!("socket,id=tty,fd={}", ports.terminal));
            add("-device", "virtconsole,chardev=tty".into());
        }
        if let Some(network) = self.network {
            let fd = network.socket();
            add(
                "-netdev",
                format!("dgram,id=net,local.type=fd,local.str={fd}"),
            );
            // An address of its own, and frames as large as those of the dummy device that `rxe0` is on otherwise.
            let mac = format!("52:54:00:77:00:{:02x}", network.host);
            add(
                "-device",
                format!("virtio-net-pci,netdev=net,mac={mac},host_mtu=9000,romfile="),
            );
        }
        for (name, value) in self.reach.iter().flat_map(|reach| reach.options()) {
            add(name, value);
        }
        if let Some(plugin) = self.plugin {
            add("-plugin", plugin.to_owned());
        }
        arguments
    }

    /// The kernel's command line. An oops ends the boot at once instead of leaving a wounded
    /// kernel behind; mitigations only cost time in a guest that runs nothing foreign. The console's lines have
    /// their level, which the check of the kernel log needs. The timer is not tried out: a VM that is kept waiting by a
    /// busy host misses some of its ticks, and the kernel panics over that.
    fn command_line(&self) -> String {
        let mut line = String::from(
            "console=ttyS0 console_msg_format=syslog ignore_loglevel printk.devkmsg=on oops=panic panic=-1 mitigations=off \
             no_timer_check random.trust_cpu=on",
        );
        line.push_str(&self.variant.command_line());
        if self.huge_pages > 0 {
            line.push_str(&format!(" hugepages={}", self.huge_pages));
        }
        line.push_str(self.extra.command_line());
        if let Some(network) = self.network {
            line.push_str(&format!(" testbed.host={}", network.host));
            if let Some(nodes) = network.nodes {
                line.push_str(&format!(" testbed.nodes={nodes}"));
            }
        }
        line.push_str(self.reach.map_or("", Reach::command_line));
        if self.rxe > 1 {
            line.push_str(&format!(" testbed.rxe={}", self.rxe));
        }
        if self.disks.is_none() {
            line.push_str(" testbed.probe");
        }
        line
    }
}

/// A comma separates QEMU's options, so one in a path is doubled.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The command that starts the chroot's QEMU on the host as this machine.
pub(crate) fn command(world: &World, machine: &Machine<'_>) -> Command {
    // The libraries are the chroot's, whichever QEMU it is.
    let mut command = program(&world.chroot, |inside| match machine.nic {
        Some(nic) => nic.qemu().join(inside),
        None => world.chroot.path(inside),
    });
    command.args(machine.arguments());
    command
}

/// The command that starts a QEMU on the host, with the chroot's libraries. `file` says where its files are.
pub(crate) fn program(chroot: &Chroot, file: impl Fn(&str) -> PathBuf) -> Command {
    let mut command = Command::new(chroot.path("/lib64/ld-linux-x86-64.so.2"));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|dir| chroot.path(dir).display().to_string())
        .join(":");
    command.arg("--library-path").arg(libraries);
    command.arg(file("usr/bin/qemu-system-x86_64"));
    for dir in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(file(dir));
    }
    command.env("QEMU_MODULE_DIR", file("usr/lib/x86_64-linux-gnu/qemu"));
    command.stdin(Stdio::null());
    command
}

/// Chooses KVM if it was seen to boot this kernel since the host's boot, else emulation. The
/// device node proves nothing: nested and restricted hypervisors offer it and then fail.
pub(crate) fn choose_accelerator(world: &World) -> Result<Accelerator> {
    let node = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if node.is_err() {
        return Ok(Accelerator::Tcg);
    }
    let verdict = world.cache.path(world.kernel.own(VERDICT));
    let key = format!(
        "{} {} ",
        world.kernel.key().as_str(),
        host::boot_id().trim()
    );
    let known = std::fs::read_to_string(&verdict).unwrap_or_default();
    let works = match known.strip_prefix(&key) {
        Some(answer) => answer == "yes",
        None => {
            let works = probe_kvm(world)?;
            let answer = if works { "yes" } else { "no" };
            cache::write_atomically(&verdict, format!("{key}{answer}").as_bytes())?;
            works
        }
    };
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

/// Boots the kernel under KVM with nothing but the initramfs, whose init says that it runs.
fn probe_kvm(world: &World) -> Result<bool> {
    let scratch = world.cache.scratch()?;
    let log: PathBuf = scratch.path().join("kernel.log");
    std::fs::write(&log, "").context("writing the probe's log")?;
    let machine = Machine {
        accelerator: Accelerator::Kvm,
        cpus: 2,
        memory_mib: 512,
        huge_pages: 0,
        rxe: 1,
        extra: Extra::None,
        kernel: &world.kernel.image(),
        variant: world.kernel.variant,
        initramfs: &world.guest.initramfs,
        kernel_log: &log,
        disks: None,
        ports: None,
        network: None,
        reach: None,
        nic: None,
        pmem: None,
        plugin: None,
    };
    let messages = scratch.path().join("qemu.log");
    let file = std::fs::File::create(&messages).context("making QEMU's log")?;
    let mut command = command(world, &machine);
    command.stdout(Stdio::null()).stderr(file);
    let mut qemu = Owned::spawn(command)?;
    let clock = qemu.clock();
    let limit = world.kernel.variant.patience(PROBE_TIME);
    loop {
        // First whether it has ended: what it has said is then all.
        let ended = qemu.try_wait()?.is_some() || clock.now() >= limit;
        let said = [process::read_lossy(&log)?, process::read_lossy(&messages)?];
        if let Some(works) = verdict(&said[0], &said[1], ended) {
            return Ok(works);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether KVM works, as far as that is known from what the kernel and QEMU have said.
fn verdict(kernel: &str, qemu: &str, ended: bool) -> Option<bool> {
    if kernel.contains("testbed: init") {
        return Some(true);
    }
    (ended || qemu.contains(KVM_GAVE_UP)).then_some(false)
}

/// What the probe has found since the host's last boot, for any kernel; nothing if there was none.
pub(crate) fn probed(cache: &Cache) -> Option<bool> {
    let verdicts = cache.all_of(VERDICT).into_iter();
    let boot = host::boot_id();
    let answers = verdicts.filter_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let (_, known) = text.split_once(' ')?;
        let answer = known.strip_prefix(boot.trim())?.trim() == "yes";
        Some(answer)
    });
    answers.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(disks: bool) -> Vec<String> {
        machine_on(disks, None)
    }

    fn machine_on(disks: bool, network: Option<&Network>) -> Vec<String> {
        let path = Path::new("/cache/a,b");
        Machine {
            accelerator: Accelerator::Tcg,
            cpus: 3,
            memory_mib: 1024,
            huge_pages: 64,
            rxe: 2,
            extra: Extra::EduIommu,
            kernel: path,
            variant: Variant::Debug,
            initramfs: path,
            kernel_log: path,
            disks: disks.then_some((path, path)),
            ports: None,
            network,
            reach: None,
            nic: None,
            pmem: None,
            plugin: None,
        }
        .arguments()
    }

    #[test]
    fn the_root_is_never_written_to() {
        let arguments = machine(true);
        let drives: Vec<_> = arguments
            .iter()
            .filter(|text| text.starts_with("if=virtio"))
            .collect();
        assert_eq!(drives.len(), 2);
        assert!(drives[0].contains("snapshot=on"));
        assert!(drives[1].contains("readonly=on"));
        assert!(drives.iter().all(|text| text.ends_with("file=/cache/a,,b")));
    }

    #[test]
    fn an_iommu_comes_before_its_devices() {
        let arguments = machine(true);
        let place = |name: &str| arguments.iter().position(|text| text.starts_with(name));
        assert!(place("intel-iommu").is_some());
        assert!(place("intel-iommu") < place("edu,"));
        assert!(arguments
            .iter()
            .any(|text| text.contains(" intel_iommu=on")));
    }

    #[test]
    fn both_ends_of_a_segment_have_addresses_of_their_own() -> Result<()> {
        let ends = Network::segment()?;
        let [first, second] = [&ends[0], &ends[1]].map(|end| machine_on(true, Some(end)).join(" "));
        assert!(first.contains("mac=52:54:00:77:00:01") && first.contains(" testbed.host=1"));
        assert!(second.contains("mac=52:54:00:77:00:02") && second.contains(" testbed.host=2"));
        assert!(!machine(true).join(" ").contains("netdev"));
        let (_switch, ends) = Network::nodes(3)?;
        let third = machine_on(true, Some(&ends[2])).join(" ");
        assert!(third.contains(" testbed.host=3 testbed.nodes=3"), "{third}");
        Ok(())
    }

    #[test]
    fn a_probe_ends_when_it_is_decided() {
        let gone = "KVM internal error. Suberror: 3\nextra data[0]: 0x0\n";
        assert_eq!(verdict("", "", false), None);
        assert_eq!(verdict("Linux version 7.3", gone, false), Some(false));
        assert_eq!(verdict("Linux version 7.3", "", true), Some(false));
        assert_eq!(verdict("<6>testbed: init", "", false), Some(true));
        assert_eq!(verdict("<6>testbed: init", gone, true), Some(true));
    }

    #[test]
    fn a_probe_says_so_to_init() {
        let probes =
            |arguments: &[String]| arguments.iter().any(|text| text.contains("testbed.probe"));
        assert!(probes(&machine(false)));
        assert!(!probes(&machine(true)));
        assert!(machine(true)
            .iter()
            .any(|text| text.contains("kasan_multi_shot testbed.patience=6 hugepages=64")));
        assert!(machine(true)
            .iter()
            .any(|text| text.contains(" testbed.rxe=2")));
    }
}
