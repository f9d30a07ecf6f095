// SPDX-License-Identifier: GPL-2.0
//! The keeper of a VM that stays: boots it, says when it can be reached, and waits until it is to end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::place::{Ended, Place, State};
use crate::build::{self, Wanted, World};
use crate::cli::UpArguments;
use crate::failure::{status, Failure};
use crate::kernel::Variant;
use crate::klog;
use crate::limits;
use crate::login::{self, Login};
use crate::nic::Nic;
use crate::process::{self, Owned};
use crate::reach::Reach;
use crate::script::{quote, with_scripts};
use crate::series::Series;
use crate::session::Put;
use crate::ui::{self, Step};
use crate::vm::{self, Config, Driver, Outcome, Vm};

/// The variable that makes this program one: the process that has started it, which it tells.
pub(crate) const KEEPER: &str = "HMM_ODP_KEEPER";

/// How long the guest may take for a network, a folder and an ssh server, and for somebody to log in.
const SHORT: Duration = Duration::from_secs(60);

/// How often it is tried to log in, and how long once.
const TRIES: u32 = 3;
const LOGIN: Duration = Duration::from_secs(200);

/// Boots the VM and keeps it. `parent` waits until it is up.
pub(crate) fn run(arguments: &UpArguments, series: Option<Series>, parent: u32) -> Result<u8> {
    process::be_interrupted_quietly();
    let share = arguments.share.as_ref().map(|path| folder(arguments, path));
    let share = share.transpose()?;
    let puts: Result<Vec<Put>> = arguments.put.iter().map(|text| Put::parse(text)).collect();
    let puts = puts?;
    let pmem = arguments.vm.pmem()?;
    limits::check(&arguments.vm, 1)?;
    let world = build::ensure(wanted(arguments, series))?;
    let place = Place::of(&world.cache, &arguments.place.name);
    let claim = place.claim()?;
    let login = Login::make(claim.dir(), &world.guest.root)?;
    let reach = Reach::new(arguments.forward.clone(), share, arguments.gdb)?;
    let config = Config {
        cpus: arguments.vm.cpus,
        memory_mib: arguments.vm.mem,
        with_ours: arguments.vm.driver == Driver::Ours,
        rxe: arguments.vm.rxe,
        extra: arguments.vm.extra,
        pmem,
        texts: login.server()?,
        puts,
        reach: Some(reach.clone()),
        ..Config::default()
    };
    let step = Step::start("booting the VM");
    let mut vm = Vm::boot(&world, &config)?;
    prepare(&mut vm, &place, &reach, arguments.vm.driver)?;
    step.done();
    let words = login.client(place.name(), reach.ssh_port()?)?;
    let step = Step::start("logging in");
    wait_for_login(&mut vm, &words, &place)?;
    step.done();
    claim.up(&State {
        pid: i32::try_from(std::process::id())?,
        what: what(&world, arguments.vm.driver),
        login: words,
        forwards: reach.forwards,
        share: reach.share,
        gdb: reach.gdb,
    })?;
    process::go_on_alone(parent, &place.path("keeper.log"))?;
    tell_parent()?;
    let ended = keep(vm, &place, &world)?;
    claim.ended(&ended)?;
    Ok(0)
}

fn wanted(arguments: &UpArguments, series: Option<Series>) -> Wanted {
    Wanted {
        kernel: arguments.vm.kernel(series),
        modules: arguments.vm.driver == Driver::Ours,
        programs: false,
        packages: login::with_packages(&arguments.vm.package),
    }
}

/// The folder that is shared.
fn folder(arguments: &UpArguments, path: &Path) -> Result<PathBuf> {
    if arguments.vm.kernel == Variant::Debug {
        bail!("--share: the debug kernel has no 9p; --put and scp copy files");
    }
    let folder = path
        .canonicalize()
        .with_context(|| format!("--share {}", path.display()))?;
    if !folder.is_dir() {
        bail!("--share {}: it is no folder", path.display());
    }
    Ok(folder)
}

fn what(world: &World, driver: Driver) -> String {
    format!(
        "Linux {} with {}",
        world.kernel.version.release,
        driver.title()
    )
}

/// Gives the VM a network, a folder, a name and an ssh server, and then its driver: from then on the kernel may not
/// complain.
fn prepare(vm: &mut Vm, place: &Place, reach: &Reach, driver: Driver) -> Result<()> {
    let name = format!("reach name {}", quote(place.name()));
    let mut steps = vec!["reach host", &name, "reach ssh"];
    if reach.share.is_some() {
        steps.push("reach share");
    }
    let script = with_scripts(&steps.join(" && "));
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    let outcome = vm.run(&script, vm.patience(SHORT), &mut said, &mut errors)?;
    if outcome != Outcome::Exit(0) {
        said.extend(errors);
        let said = String::from_utf8_lossy(&said);
        let text = format!("the guest cannot be reached: {outcome:?}: {}", said.trim());
        return Err(Failure::error(status::VM, text));
    }
    vm.use_driver(driver)
}

/// Logs in. That may take a while under emulation.
fn wait_for_login(vm: &mut Vm, words: &[String], place: &Place) -> Result<()> {
    let log = place.path("login.log");
    for _ in 0..TRIES {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("true");
        let file = std::fs::File::create(&log).context("making a log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(file);
        let mut ssh = Owned::spawn(command)?;
        // As a rule it gives up by itself: `ConnectTimeout`.
        let (begun, limit) = (Instant::now(), vm.patience(LOGIN));
        while begun.elapsed() < limit {
            match ssh.try_wait()? {
                Some(ended) if ended.success() => return Ok(()),
                Some(_) => break,
                None => vm.idle()?,
            }
        }
    }
    let said = process::read_lossy(&log)?;
    let text = format!("nobody can log in to the VM: {}", said.trim());
    Err(Failure::error(status::VM, text))
}

/// Says that the VM is up.
fn tell_parent() -> Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "up")
        .and_then(|()| output.flush())
        .context("interrupted")?;
    process::close_output()
}

/// Keeps the VM until somebody wants it to end, or it is gone.
fn keep(mut vm: Vm, place: &Place, world: &World) -> Result<Ended> {
    let request = place.request();
    let mut why = None;
    while !request.exists() && why.is_none() {
        why = vm.idle().err().map(|error| format!("{error:#}"));
    }
    let nic = vm.take_nic();
    let log = vm.off()?;
    vm::save_log(&log, &world.cache.log(&place.kernel_log()))?;
    let mut complaints = klog::complaints(&log);
    if let Some(wrong) = nic.map(Nic::end).transpose()? {
        let wrong = wrong.iter().take(20);
        complaints.extend(wrong.map(|wrong| format!("the emulated ConnectX: {wrong}")));
    }
    if let Some(why) = &why {
        ui::line(why);
    }
    Ok(Ended { why, complaints })
}
