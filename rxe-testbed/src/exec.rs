// SPDX-License-Identifier: GPL-2.0
//! `exec`: one command in a fresh VM.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use odp_hca::Script;

use crate::build::{self, Wanted, World};
use crate::cli::ExecArguments;
use crate::failure::{status, Failure};
use crate::klog;
use crate::limits;
use crate::login;
use crate::nic::Nic;
use crate::nodes::Nodes;
use crate::pair::{self, Pair};
use crate::qemu::Extra;
use crate::script::quote;
use crate::series::Series;
use crate::session::{Get, Put};
use crate::switch::Switch;
use crate::ui::{self, Step};
use crate::vm::{Config, Driver, Outcome, Vm};

/// How long the peer's command may take when the other one has ended.
const PEER: Duration = Duration::from_secs(30);

/// How long looking up a command and copying a file may take.
const SHORT: Duration = Duration::from_secs(30);
const COPY: Duration = Duration::from_secs(600);

/// Where the guest has the command's standard input, and where core dumps go.
const INPUT: &str = "/run/testbed-input";
const CORES: &str = "/var/crash";

/// Runs the command and gives the exit status of the program.
pub(crate) fn run(arguments: &ExecArguments, series: Option<Series>) -> Result<u8> {
    let mut puts = arguments
        .put
        .iter()
        .map(|text| Put::parse(text))
        .collect::<Result<Vec<_>>>()?;
    let gets = arguments
        .get
        .iter()
        .map(|text| Get::parse(text))
        .collect::<Result<Vec<_>>>()?;
    check(arguments)?;
    let adversary = script(arguments)?;
    let pmem = arguments.vm.pmem()?;
    let wanted = wanted(arguments, series);
    let with_ours = wanted.modules;
    let world = build::ensure(wanted)?;
    let input = if arguments.stdin {
        Some(input()?)
    } else {
        None
    };
    puts.extend(input.as_ref().map(|file| Put {
        host: file.path().to_owned(),
        guest: INPUT.into(),
    }));
    let config = Config {
        cpus: arguments.vm.cpus,
        memory_mib: arguments.vm.mem,
        with_ours,
        rxe: arguments.vm.rxe,
        extra: arguments.vm.extra,
        pmem,
        puts,
        trace: arguments.trace.clone(),
        adversary,
        ..Config::default()
    };
    let mut vms = boot(&world, &config, arguments)?;
    let result = command_and_peer(&mut vms, arguments);
    let vm = &mut vms.first;
    let result = result.and_then(|exit| fetch(vm, &gets, exit).map(|()| exit));
    if let Some(folder) = &arguments.cores {
        keep_cores(vm, folder)?;
    }
    let kept = world.cache.log("last-kernel");
    let complaints = vms.off(&world)?;
    // Also if the command has failed: the other kernels' may be why.
    klog::tell(&complaints);
    if result.is_err() || !complaints.is_empty() {
        ui::line(&format!("the whole kernel log: {}", kept.display()));
    }
    let exit = result?;
    if complaints.is_empty() {
        return Ok(exit);
    }
    Ok(if exit == 0 { status::KERNEL_LOG } else { exit })
}

/// Fails if one thing that is asked for does not go with another, or with this host.
fn check(arguments: &ExecArguments) -> Result<()> {
    let several = match (&arguments.peer, arguments.nodes) {
        (Some(_), _) => Some(("--peer", 2)),
        (None, Some(nodes)) => Some(("--nodes", u32::from(nodes))),
        (None, None) => None,
    };
    if let (Some((option, _)), true) = (several, arguments.vm.rxe > 1) {
        bail!(
            "--rxe {}: with {option} there is one network, so one device",
            arguments.vm.rxe
        );
    }
    if let (Some((option, _)), Extra::Counting) = (several, arguments.vm.extra) {
        bail!("--extra counting: its clock is its own, so there can be no other VM, and {option} asks for one");
    }
    let connectx = arguments.vm.extra.profile().is_some();
    for (option, given) in [
        ("--trace", arguments.trace.is_some()),
        ("--adversary", arguments.adversary.is_some()),
    ] {
        if given && !connectx {
            bail!("{option} is for an emulated ConnectX, and there is none: add --extra mlx5");
        }
    }
    limits::check(&arguments.vm, several.map_or(1, |(_, vms)| vms))
}

/// What an emulated ConnectX does that a device seldom does.
fn script(arguments: &ExecArguments) -> Result<Option<Script>> {
    let Some(path) = &arguments.adversary else {
        return Ok(None);
    };
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    Script::parse(&text).map(Some).with_context(name)
}

/// What has to be built.
fn wanted(arguments: &ExecArguments, series: Option<Series>) -> Wanted {
    let packages = &arguments.vm.package;
    let packages = match arguments.nodes {
        Some(_) => login::with_packages(packages),
        None => packages.clone(),
    };
    Wanted {
        kernel: arguments.vm.kernel(series),
        modules: arguments.vm.driver == Driver::Ours,
        programs: false,
        packages,
    }
}

/// The VM of the command, and the others.
struct Vms {
    first: Vm,
    /// Where `--peer` runs.
    peer: Option<Vm>,
    /// node2 and on, and what is between them.
    others: Vec<Vm>,
    _switch: Option<Switch>,
}

impl Vms {
    fn one(first: Vm) -> Self {
        Self {
            first,
            peer: None,
            others: Vec::new(),
            _switch: None,
        }
    }

    /// Ends all, keeps their kernel logs and gives what the kernels complained of.
    fn off(self, world: &World) -> Result<Vec<String>> {
        let mut complaints = end(self.first, world, "last-kernel", "")?;
        if let Some(peer) = self.peer {
            complaints.extend(end(peer, world, "last-kernel-peer", "")?);
        }
        for (vm, number) in self.others.into_iter().zip(2..) {
            let (log, who) = (
                format!("last-kernel-node{number}"),
                format!("node{number}: "),
            );
            complaints.extend(end(vm, world, &log, &who)?);
        }
        Ok(complaints)
    }
}

/// Ends a VM, keeps its kernel log and says what an emulated ConnectX found wrong; gives what its kernel complained of.
/// Both after `who`.
fn end(mut vm: Vm, world: &World, log: &str, who: &str) -> Result<Vec<String>> {
    let nic = vm.take_nic();
    let said = vm.off()?;
    crate::vm::save_log(&said, &world.cache.log(log))?;
    for wrong in nic.map_or(Ok(Vec::new()), Nic::end)?.iter().take(20) {
        ui::line(&format!("{who}the emulated ConnectX: {wrong}"));
    }
    let complaints = klog::complaints(&said).into_iter();
    Ok(complaints.map(|line| format!("{who}{line}")).collect())
}

/// Boots the VM, and its peer or the other nodes if there are to be any.
fn boot(world: &World, config: &Config, arguments: &ExecArguments) -> Result<Vms> {
    let driver = arguments.vm.driver;
    if let Some(count) = arguments.nodes {
        let step = Step::start(format!("booting {count} VMs"));
        let folder = world.cache.scratch()?;
        let nodes = Nodes::boot(world, config, driver, count, folder.path())?;
        step.done();
        let mut vms = nodes.vms.into_iter();
        return Ok(Vms {
            first: vms.next().context("no node")?,
            peer: None,
            others: vms.collect(),
            _switch: Some(nodes.switch),
        });
    }
    if arguments.peer.is_some() {
        let step = Step::start("booting two VMs");
        let pair = Pair::boot(world, config, driver)?;
        step.done();
        return Ok(Vms {
            peer: Some(pair.first),
            ..Vms::one(pair.second)
        });
    }
    let step = Step::start("booting the VM");
    let mut vm = Vm::boot(world, config)?;
    vm.use_driver(driver)?;
    step.done();
    Ok(Vms::one(vm))
}

/// Runs the user's command, beside that for the peer. The exit status is the peer's only if the command succeeds.
fn command_and_peer(vms: &mut Vms, arguments: &ExecArguments) -> Result<u8> {
    let vm = &mut vms.first;
    let (Some(peer), Some(server)) = (&mut vms.peer, &arguments.peer) else {
        return command(vm, arguments);
    };
    pair::start(peer, server)?;
    let result = command(vm, arguments);
    // What the peer has to say is the more of interest the worse the command ended.
    let client = Outcome::Exit(*result.as_ref().unwrap_or(&status::FAILURE));
    let mut said = Vec::new();
    let ended = pair::finish(peer, PEER, client, &mut said);
    std::io::stderr()
        .write_all(&said)
        .context("writing what the peer said")?;
    match (result?, ended?) {
        (0, Outcome::Exit(0)) => Ok(0),
        (0, ended) => {
            ui::line(&format!("the peer's command ended with {ended:?}"));
            Ok(match ended {
                Outcome::Exit(status) => status,
                Outcome::TimedOut => status::TIMEOUT,
            })
        }
        (exit, _) => Ok(exit),
    }
}

/// Runs the user's command; its exit status is the program's.
fn command(vm: &mut Vm, arguments: &ExecArguments) -> Result<u8> {
    let name = &arguments.command[0];
    let quoted: Vec<String> = arguments.command.iter().map(|word| quote(word)).collect();
    let look_up = format!("command -v -- {} >/dev/null", quoted[0]);
    let (mut output, mut error) = (std::io::stdout(), std::io::stderr());
    if vm.run(&look_up, vm.patience(SHORT), &mut output, &mut error)? != Outcome::Exit(0) {
        let text = format!("command not found in the guest: {name}");
        return Err(Failure::error(status::NOT_FOUND, text));
    }
    let limit = Duration::from_secs(arguments.timeout);
    let script = format!("{}{}", preparation(arguments), quoted.join(" "));
    let script = match arguments.stdin {
        true => format!("{script} <{INPUT}"),
        false => script,
    };
    match vm.run(&script, limit, &mut output, &mut error)? {
        Outcome::Exit(exit) => Ok(exit),
        Outcome::TimedOut => Err(Failure::too_long(name, limit)),
    }
}

/// What comes before the command.
fn preparation(arguments: &ExecArguments) -> String {
    let mut script = String::from("cd /root\n");
    if arguments.cores.is_some() {
        script.push_str(&format!(
            "ulimit -c unlimited; mkdir -p {CORES}; echo {CORES}/%e.%p >/proc/sys/kernel/core_pattern\n"
        ));
    }
    for variable in &arguments.env {
        script.push_str(&format!(
            "export {}={}\n",
            variable.name,
            quote(&variable.value)
        ));
    }
    script
}

/// All of the standard input.
fn input() -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    std::io::copy(&mut std::io::stdin(), &mut file).context("reading the standard input")?;
    Ok(file)
}

/// Copies the core dumps out of the guest, if there are any.
fn keep_cores(vm: &mut Vm, folder: &Path) -> Result<()> {
    let mut names = Vec::new();
    let list = format!("ls {CORES}");
    let limit = vm.patience(SHORT);
    vm.run(&list, limit, &mut names, &mut std::io::sink())?;
    for name in String::from_utf8_lossy(&names).lines() {
        let get = Get {
            guest: format!("{CORES}/{name}"),
            host: folder.join(name),
        };
        fetch_one(vm, &get)?;
        ui::note(&format!("core dump: {}", get.host.display()));
    }
    Ok(())
}

/// Copies files out of the guest. After a failed command a missing file is only a remark.
fn fetch(vm: &mut Vm, gets: &[Get], exit: u8) -> Result<()> {
    for get in gets {
        match fetch_one(vm, get) {
            Err(error) if exit != 0 => ui::note(&format!("{error:#}")),
            result => result?,
        }
    }
    Ok(())
}

fn fetch_one(vm: &mut Vm, get: &Get) -> Result<()> {
    let mut archive = tempfile::tempfile().context("making a temporary file")?;
    let (dir, name) = get.guest.rsplit_once('/').unwrap_or(("", &get.guest));
    let script = format!(
        "tar -C {} -cf - -- {}",
        quote(&format!("{dir}/")),
        quote(name)
    );
    let mut error = Vec::new();
    let outcome = vm.run(&script, vm.patience(COPY), &mut archive, &mut error)?;
    if outcome != Outcome::Exit(0) {
        let error = String::from_utf8_lossy(&error);
        let reason = error.lines().next().unwrap_or("tar failed").to_owned();
        anyhow::bail!("--get {}: {reason}", get.guest);
    }
    unpack(archive, name, get)
}

/// Unpacks an archive of one file or directory `name` under the host's name for it.
fn unpack(mut archive: File, name: &str, get: &Get) -> Result<()> {
    use std::io::Seek;
    archive.rewind().context("rewinding the archive")?;
    let parent = get.host.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    for entry in tar::Archive::new(archive)
        .entries()
        .context("reading the archive")?
    {
        let mut entry = entry.context("reading the archive")?;
        let path = entry.path().context("reading the archive")?.into_owned();
        let below = path.strip_prefix(name).unwrap_or(&path);
        let target = match below.as_os_str().is_empty() {
            true => get.host.clone(),
            false => get.host.join(below),
        };
        entry
            .unpack(&target)
            .with_context(|| format!("--get {}: writing {}", get.guest, target.display()))?;
    }
    Ok(())
}

/// Nothing more may be lost once the program ends.
pub(crate) fn flush() {
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn checked(options: &[&str]) -> Result<()> {
        let all = ["testbed", "exec"].iter().chain(options);
        let cli = Cli::try_parse_from(all.chain(&["--", "true"]))?;
        match cli.command {
            Command::Exec(arguments) => check(&arguments),
            _ => bail!("another command"),
        }
    }

    #[test]
    fn what_nothing_heeds_is_refused() {
        for (options, why) in [
            (
                &["--trace", "file"][..],
                "--trace is for an emulated ConnectX",
            ),
            (
                &["--adversary", "file"],
                "--adversary is for an emulated ConnectX",
            ),
            (&["--nodes", "2", "--extra", "counting"], "--nodes asks"),
            (&["--peer", "true", "--extra", "counting"], "--peer asks"),
            (&["--nodes", "2", "--rxe", "2"], "one network"),
        ] {
            let error = checked(options).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.contains(why)),
                "{options:?}: {error:?}"
            );
        }
        assert!(checked(&["--trace", "file", "--extra", "mlx5"]).is_ok());
    }
}
