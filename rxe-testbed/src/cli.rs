// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::path::PathBuf;

use anyhow::{bail, Result};
use clap::{Args, Parser, Subcommand};

use crate::kernel::{Choice, Variant};
use crate::pmem::Pmem;
use crate::qemu::Extra;
use crate::reach::Forward;
use crate::series::Series;
use crate::stay::place::USUAL;
use crate::trace::Case;
use crate::vm::Driver;

/// Builds the repository's RDMA modules and runs them in a VM on a stock Debian kernel.
#[derive(Debug, Parser)]
#[command(name = "cargo testbed", bin_name = "cargo testbed", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The kernel's series, for example 7.2; if not given, $HMM_ODP_KERNEL_SERIES or the newest one that the
    /// archive has and the modules are made for
    #[arg(long, global = true, value_name = "SERIES")]
    pub(crate) kernel_series: Option<Series>,
}

impl Cli {
    /// Fails if a series is named for a command to which it means nothing.
    pub(crate) fn check_series(&self) -> Result<()> {
        let Some(series) = self.kernel_series else {
            return Ok(());
        };
        match &self.command {
            Command::Port(_) => {
                bail!("the series is an argument of `port`: cargo testbed port {series}")
            }
            Command::Clean { .. }
            | Command::Series(_)
            | Command::Cache(CacheArguments {
                action: CacheAction::Load { .. },
            }) => {
                bail!("this command is about all series: --kernel-series means nothing to it")
            }
            Command::Ssh(_) | Command::Down(_) => {
                bail!("this command is about a VM that runs: --kernel-series means nothing to it")
            }
            Command::Bench(BenchArguments { again: Some(_), .. }) => {
                bail!("`bench --again` runs no kernel: --kernel-series means nothing to it")
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what on-demand paging does, on our driver and on the stock one, side by side
    Demo,
    /// Run every tier of tests, or those whose names contain one of the FILTERs
    Test(TestArguments),
    /// Measure our driver and the stock one in turns, in one VM, and say how the performance goals stand
    Bench(BenchArguments),
    /// Say what a function of the guest's kernel calls, and how many instructions each of these takes
    ///
    /// The VM has one processor that counts instructions (`--extra counting`). Calls that were interrupted or slept are left
    /// out.
    Trace(TraceArguments),
    /// Run any command in a fresh VM with rxe0 up; its exit status is passed through
    ///
    /// Exit statuses of the testbed's own: 1 an error on the host, 121 the VM did not boot, hung
    /// or died, 122 the command succeeded but the kernel complained in its log, 124 the command
    /// ran longer than --timeout, 127 the guest has no such command, 130 interrupted.
    Exec(ExecArguments),
    /// Open a shell in a fresh VM with rxe0 up
    Shell(ShellArguments),
    /// Boot a VM that stays, and return when one can log in to it with `ssh`
    Up(UpArguments),
    /// Log in to a VM that stays, or run a command there; its exit status is passed through
    ///
    /// Exit statuses of the testbed's own: 1 there is no such VM, 121 it died, 255 ssh lost it.
    Ssh(SshArguments),
    /// End a VM that stays
    ///
    /// Exit statuses: 1 there is no such VM, 121 it had died, 122 the kernel complained in its log.
    Down(DownArguments),
    /// Build everything and say what and where
    Build(BuildArguments),
    /// Build a driver on hmm, in the folder of its sources, and say where its modules are
    Module(ModuleArguments),
    /// Make Debian packages of the modules and the programs, and say where they are
    Package(PackageArguments),
    /// Write a disk image that boots by itself in any QEMU or libvirt, with rxe0 up on our driver
    Image(ImageArguments),
    /// Say what is to be read and done for another kernel: what we rely on and has changed, and whether the
    /// modules build; exit status 1 if something is left
    Port(PortArguments),
    /// Say which kernels there are: in the archive, and in the cache
    Series(SeriesArguments),
    /// Write the documentation of all crates, those of the modules as well, and say where; compile the examples in it
    Doc,
    /// Describe the modules' crates for rust-analyzer, and say what to tell the editor
    Ide,
    /// Write what a later run needs to a file, or fill an empty cache from one
    Cache(CacheArguments),
    /// Remove from the cache what is rebuilt without the network
    Clean {
        /// Also remove what was downloaded: the chroot, the kernel, the guest. Measurements stay
        #[arg(long)]
        all: bool,
    },
    /// Say what is missing on this host and the command that mends it
    Doctor,
}

#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// The kernel of the VM. On the debug kernel only the tests in the VM are run
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Variant,
    /// Only the tests whose names contain one of these, or begin with it if it begins with a tier's name: verbs/
    pub(crate) filter: Vec<String>,
    /// Only print the names
    #[arg(long)]
    pub(crate) list: bool,
    /// Also the tests that take long: the packages, the examples, the command line, all of odp-bench and its options, the
    /// times of hmm's walk, Debian's mlx5 drivers in every way. packages/dkms has to be asked for by its name
    #[arg(long, conflicts_with = "filter")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// How many times A B B A; 3 if not given, 1 with --icount. One round more, of the stock driver alone,
    /// shows the noise. 0 leaves only that, or with --icount only the comparison with the baseline
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=50))]
    pub(crate) rounds: Option<u32>,
    /// How many samples to take, as a share of odp-bench's usual number; 0.25 if not given
    #[arg(long, value_name = "SHARE", value_parser = effort)]
    pub(crate) effort: Option<f64>,
    /// Where the results go; into the cache if not given
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Measure nothing, but judge anew what an earlier run has left in FOLDER
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["rounds", "effort", "out", "icount", "pair"])]
    pub(crate) again: Option<PathBuf>,
    /// Leave out hmm's own benchmark, which needs no RDMA
    #[arg(long)]
    pub(crate) without_hmm: bool,
    /// Count instructions instead of measuring times, and compare those of our driver with
    /// rxe-testbed/baseline/SERIES.json: exit status 1 if a metric takes over 5 % more
    #[arg(long)]
    pub(crate) icount: bool,
    /// Measure between two VMs what makes sense there
    #[arg(long, conflicts_with_all = ["icount", "publish"])]
    pub(crate) pair: bool,
    /// Put the table and the picture into the repository's documents
    #[arg(long)]
    pub(crate) publish: bool,
    /// Make what is counted on our driver the baseline, and do no more
    #[arg(long, requires = "icount")]
    pub(crate) update_baseline: bool,
}

fn effort(text: &str) -> std::result::Result<f64, String> {
    let effort: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match effort > 0.0 && effort <= 100.0 {
        true => Ok(effort),
        false => Err("not above 0 and at most 100".into()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct TraceArguments {
    /// What to look at
    #[arg(
        value_enum,
        required_unless_present = "function",
        conflicts_with = "function"
    )]
    pub(crate) case: Option<Case>,
    /// Another function, which COMMAND runs: by its name in /proc/kallsyms, one in Rust also by its path or the end of it
    #[arg(long, value_name = "NAME", requires = "command")]
    pub(crate) function: Option<String>,
    /// The soft-RoCE driver in the VM
    #[arg(long, value_enum, default_value = "ours")]
    pub(crate) driver: Driver,
    /// Only calls of the function that take more instructions than these; fault and resident leave out those that find the page
    #[arg(long, value_name = "N")]
    pub(crate) more_than: Option<u64>,
    /// How many calls below the function are shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) depth: usize,
    /// Leave out what takes, or differs by, fewer instructions; if not given, a hundredth of the function's
    #[arg(long, value_name = "N")]
    pub(crate) least: Option<f64>,
    /// Keep the counts of all functions, for --against
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Say what has changed since they were kept, whichever the driver and the kernel were
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Seconds that the command may run
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// The command that runs the function, and its arguments
    #[arg(last = true, value_name = "COMMAND", requires = "function")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// The kernel of the VM
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Variant,
    /// Take the archive's newest packages and build everything anew
    #[arg(long)]
    pub(crate) update: bool,
    /// Leave out the repository's modules
    #[arg(long)]
    pub(crate) stock: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModuleArguments {
    /// The kernel that it is for
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Variant,
    /// Where its Kbuild is
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PackageArguments {
    /// Where they go; into target/packages if not given
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// The file, in QEMU's format qcow2
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Replace FILE if it is there already
    #[arg(long)]
    pub(crate) force: bool,
    /// A public key of ssh's with which root can log in; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PortArguments {
    /// The kernel's series
    pub(crate) series: Series,
    /// Record that a text was read: all whose file and name contain NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) read: Vec<String>,
    /// Show also what has changed and was read
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SeriesArguments {
    /// Only the names of the series that the modules are made for and that can be had, oldest first
    #[arg(long)]
    pub(crate) names: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheAction {
    /// Build what is missing, and write what a later run needs to FILE, a tar archive packed as its ending says: .tar.zst,
    /// .tar.gz
    Save {
        /// The file
        file: PathBuf,
    },
    /// Fill the cache, of which nothing may be built yet, with what `save` wrote
    Load {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// The kernel of the VM
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Variant,
    /// The soft-RoCE driver in the VM
    #[arg(long, value_enum, default_value = "ours")]
    pub(crate) driver: Driver,
    /// Memory of the VM in MiB
    #[arg(long, value_name = "MiB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
    pub(crate) mem: u32,
    /// Processors of the VM
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cpus: u32,
    /// Soft-RoCE devices of the VM: rxe0 and on, each on a network of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) rxe: u32,
    /// A further device in the VM
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) extra: Extra,
    /// The file that is the NVDIMM of `--extra pmem`, made if there is none; what is in it is there in the next VM, too
    #[arg(long, value_name = "FILE")]
    pub(crate) pmem: Option<PathBuf>,
    /// A Debian package that the VM has, too, with what it depends on; may be repeated
    #[arg(long, value_name = "NAME", value_parser = package)]
    pub(crate) package: Vec<String>,
}

/// A package's name, as Debian's policy has it.
fn package(text: &str) -> std::result::Result<String, String> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    match begins && text.len() > 1 && text.chars().all(inside) {
        true => Ok(text.to_owned()),
        false => Err("not the name of a Debian package".into()),
    }
}

impl VmArguments {
    /// The kernel, of the series that is asked for.
    pub(crate) fn kernel(&self, series: Option<Series>) -> Choice {
        let variant = self.kernel;
        Choice { series, variant }
    }

    /// The file of its NVDIMM, if one is named; an error if it cannot be one.
    pub(crate) fn pmem(&self) -> Result<Option<PathBuf>> {
        let Some(path) = &self.pmem else {
            return Ok(None);
        };
        if self.extra != Extra::Pmem {
            bail!("--pmem is for --extra pmem");
        }
        let pmem = Pmem::open(path)?;
        Ok(Some(pmem.path().to_owned()))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    #[command(flatten)]
    pub(crate) vm: VmArguments,
    /// Copy a file or directory into the VM; may be repeated
    #[arg(long, value_name = "HOST:GUEST")]
    pub(crate) put: Vec<String>,
    /// Run a shell command in a second VM, too, at the other end of a network segment of their own
    ///
    /// It is started first: a server for COMMAND. It finds itself at 10.77.0.1, COMMAND at 10.77.0.2. `--put` is for
    /// both, `--get` for COMMAND's VM; the peer's output follows on standard error.
    #[arg(long, value_name = "COMMAND", conflicts_with = "pmem")]
    pub(crate) peer: Option<String>,
    /// Run COMMAND in the first of N VMs on one network segment: node1, with node2 and on, to which it can log in by ssh
    ///
    /// Their addresses are 10.77.0.1 and on. `--put` is for all, `--get` and `--cores` for node1.
    #[arg(long, value_name = "N", conflicts_with_all = ["peer", "trace", "adversary", "pmem"], value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) nodes: Option<u8>,
    /// Seconds that the command may run
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// Copy a file or directory out of the VM afterwards; may be repeated
    #[arg(long, value_name = "GUEST:HOST")]
    pub(crate) get: Vec<String>,
    /// Where an emulated ConnectX writes what it does: an object of JSON a line
    #[arg(long, value_name = "FILE", conflicts_with = "peer")]
    pub(crate) trace: Option<PathBuf>,
    /// What an emulated ConnectX does that a device seldom does: a script, an object of JSON
    #[arg(long, value_name = "FILE", conflicts_with = "peer")]
    pub(crate) adversary: Option<PathBuf>,
    /// Set a variable of COMMAND's environment, to the host's value if no other is given; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(crate) env: Vec<Variable>,
    /// Give COMMAND this command's standard input, all of it at once
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Keep the core dumps of programs that crash
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cores: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

fn variable(text: &str) -> std::result::Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(inside)
    {
        return Err(format!("`{name}` is not the name of a variable"));
    }
    let value = value.or_else(|| std::env::var(name).ok());
    let value = value.ok_or_else(|| format!("{name} is not set here; {name}=VALUE sets it"))?;
    let name = name.to_owned();
    Ok(Variable { name, value })
}

#[derive(Debug, Args)]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    pub(crate) vm: VmArguments,
    /// Copy a file or directory into the VM; may be repeated
    #[arg(long, value_name = "HOST:GUEST")]
    pub(crate) put: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    pub(crate) vm: VmArguments,
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Copy a file or directory into the VM; may be repeated
    #[arg(long, value_name = "HOST:GUEST")]
    pub(crate) put: Vec<String>,
    /// Make a TCP port of the guest one of the host's, for programs on the host only; may be repeated. Port 22 is ssh, which
    /// has a port that is free if none is named
    #[arg(long, value_name = "HOST:GUEST", value_parser = Forward::parse)]
    pub(crate) forward: Vec<Forward>,
    /// A folder of the host that the guest has as /mnt/share
    #[arg(long, value_name = "FOLDER")]
    pub(crate) share: Option<PathBuf>,
    /// Listen for gdb on this TCP port of the host; the kernel is where it was linked
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) gdb: Option<u16>,
}

/// Which VM of those that stay.
#[derive(Debug, Args)]
pub(crate) struct PlaceArguments {
    /// What the VM is called, if there are several
    #[arg(long, value_name = "NAME", default_value = USUAL, value_parser = vm_name)]
    pub(crate) name: String,
}

/// A name that a host can have, and a file.
fn vm_name(text: &str) -> std::result::Result<String, String> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !text.is_empty() && text.len() <= 32 && !text.starts_with('-') && text.chars().all(inside)
    {
        true => Ok(text.to_owned()),
        false => Err(
            "not a name of up to 32 small letters, digits and hyphens, the first no hyphen".into(),
        ),
    }
}

#[derive(Debug, Args)]
pub(crate) struct SshArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// The command and its arguments; a shell if there is none
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_book_has_every_command_and_option() -> Result<()> {
        let repository = crate::repository::Repository::find()?;
        let mut book = String::new();
        for path in crate::cache::files_under(&repository.path("docs/src"), &[])? {
            if path.extension() == Some("md".as_ref()) {
                book.push_str(&std::fs::read_to_string(&path)?);
            }
        }
        let has = |text: String| assert!(book.contains(&text), "the book does not have {text}");
        for command in Cli::command().get_subcommands() {
            has(format!("cargo testbed {}", command.get_name()));
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    has(format!("--{long}"));
                }
            }
        }
        for extra in <Extra as clap::ValueEnum>::value_variants() {
            let value = clap::ValueEnum::to_possible_value(extra);
            let value = value.filter(|_| *extra != Extra::None);
            value
                .iter()
                .for_each(|value| has(format!("`{}`", value.get_name())));
        }
        Ok(())
    }

    #[test]
    fn variables_are_given_or_taken_over() {
        let given = variable("A_1=b=c");
        let expected = Variable {
            name: "A_1".into(),
            value: "b=c".into(),
        };
        assert_eq!(given, Ok(expected));
        assert!(variable("PATH").is_ok_and(|path| !path.value.is_empty()));
        for wrong in ["=a", "1A=b", "A B=c", "A;b=c", "NOT_SET_ANYWHERE_1"] {
            assert!(variable(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_vm_has_a_name_that_a_host_can_have() {
        for good in ["testbed", "a", "vm-2", "7"] {
            assert!(vm_name(good).is_ok(), "{good}");
        }
        for wrong in ["", "-a", "A", "a/b", "..", "a b", "a_b", &"a".repeat(33)] {
            assert!(vm_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn packages_have_debian_s_names() {
        for good in ["gdb", "libstdc++6", "g++", "0ad"] {
            assert!(package(good).is_ok(), "{good}");
        }
        for wrong in ["", "a", "Gdb", "a,b", "-x", "a b", "gdb=1"] {
            assert!(package(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_series_is_refused_where_it_means_nothing() -> Result<()> {
        let check = |words: &str| -> Result<Result<()>> {
            let words = format!("testbed --kernel-series 7.2 {words}");
            Ok(Cli::try_parse_from(words.split(' '))?.check_series())
        };
        for words in [
            "port 7.3",
            "clean --all",
            "series",
            "cache load x",
            "bench --again results",
            "ssh",
            "down",
        ] {
            assert!(check(words)?.is_err(), "{words}");
        }
        for words in [
            "demo",
            "cache save x",
            "bench --rounds 1",
            "exec -- true",
            "doctor",
        ] {
            check(words)??;
        }
        Ok(())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
