// SPDX-License-Identifier: GPL-2.0
//! `cli/image`: the image that `image` writes, in a QEMU that is told nothing of the testbed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::cli::{expect, Scene};
use crate::failure::status;
use crate::image;
use crate::klog;
use crate::login::Login;
use crate::process::{self, Owned};
use crate::qemu::{self, Accelerator};
use crate::reach::Reach;
use crate::ui::{self, Step};

/// What it may take of a disk, or of a network.
const LARGEST: u64 = 1536 << 20;

/// How often it is booted: under emulation a boot may stop half way, for no known reason.
const TRIES: u32 = 3;

/// How long it may take from the BIOS to the ssh server, in the VM's own time.
const BOOT: Duration = Duration::from_secs(400);

/// How long it may take to go down.
const OFF: Duration = Duration::from_secs(120);

/// What is done in it.
const INSIDE: &str = r#"
set -e
[ "$(systemctl is-system-running --wait)" = running ] || { systemctl --failed; exit 1; }
[ "$(rxe-driver status)" = ours ]
[ -d /sys/class/infiniband/rxe0 ]
odp-test munmap-remote rc-write rc-read
/usr/local/lib/testbed/uses-odp /usr/local/lib/testbed/pair ibv_rc_pingpong -d rxe0 -g 1 -c -o -n 200
"#;

pub(super) fn image(scene: &Scene<'_>) -> Result<()> {
    let login = Login::make(scene.path(), &image::root(scene.world())?)?;
    refusals(scene)?;
    let written = scene.output(&["image", "--out", "odp.qcow2", "--key", "key.pub"])?;
    expect(&written, 0)?;
    let path = scene.path().join("odp.qcow2");
    let file = std::fs::metadata(&path)?;
    ensure!(file.len() < LARGEST, "it has {} bytes", file.len());
    refuse(scene, &["--out", "odp.qcow2"], "--force")?;
    let after = std::fs::metadata(&path)?;
    ensure!(after.modified()? == file.modified()?, "it is another file");
    let mut machine = Machine::boot(scene, &path, &login)?;
    machine.inside(INSIDE)?;
    machine.log_is_clean()?;
    machine.off()
}

/// Each in less time than anything is built.
fn refusals(scene: &Scene<'_>) -> Result<()> {
    let kept = scene.path().join("kept.qcow2");
    std::fs::write(&kept, "somebody's work")?;
    for (arguments, reason) in [
        (&["--out", "."][..], "it is a folder"),
        (&["--out", "/dev/null", "--force"], "no ordinary file"),
        (&["--out", "none/odp.qcow2"], "nothing can be written"),
        (&["--out", "/proc/odp.qcow2"], "nothing can be written"),
        (&["--out", "kept.qcow2"], "--force"),
        (&["--out", "odp.qcow2", "--key", "none"], "--key none"),
        (&["--out", "odp.qcow2", "--key", "key"], ".pub"),
        (&["--out", "kept.qcow2", "--force", "--key", "key"], ".pub"),
    ] {
        refuse(scene, arguments, reason)?;
    }
    ensure!(
        std::fs::read(&kept)? == b"somebody's work",
        "what was there is lost"
    );
    ensure!(
        !scene.path().join("odp.qcow2").exists(),
        "something was made"
    );
    Ok(())
}

fn refuse(scene: &Scene<'_>, arguments: &[&str], reason: &str) -> Result<()> {
    let output = scene.output(&[&["image"], arguments].concat())?;
    let context = || arguments.join(" ");
    expect(&output, status::FAILURE).with_context(context)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains(reason), "{}: {said}", context());
    Ok(())
}

/// A VM that has the image as its disk.
struct Machine<'a> {
    qemu: Owned,
    login: &'a Login,
    folder: PathBuf,
    port: u16,
}

impl<'a> Machine<'a> {
    fn boot(scene: &Scene<'_>, disk: &Path, login: &'a Login) -> Result<Self> {
        for tried in 1..TRIES {
            match Self::boot_once(scene, disk, login) {
                Ok(machine) => return Ok(machine),
                Err(error) => ui::note(&format!("{error:#}; trying again ({tried} of {TRIES})")),
            }
        }
        Self::boot_once(scene, disk, login)
    }

    /// Boots it, and waits until one can log in, by the network and on the console.
    fn boot_once(scene: &Scene<'_>, disk: &Path, login: &'a Login) -> Result<Self> {
        let step = Step::start("booting the image");
        let world = scene.world();
        let port = Reach::new(Vec::new(), None, None)?.ssh_port()?;
        let mut command = qemu::program(&world.chroot, |inside| world.chroot.path(inside));
        command.current_dir(scene.path());
        let [accelerator, processor] = match qemu::choose_accelerator(world)? {
            Accelerator::Kvm => ["kvm", "host"],
            Accelerator::Tcg => ["tcg", "max"],
        };
        command.args(["-accel", accelerator, "-cpu", processor]);
        command.args(["-m", "2048", "-smp", "2", "-display", "none"]);
        command.args(["-serial", "file:console"]);
        let disk = qemu::escaped(disk);
        command.args(["-drive", &format!("file={disk},if=virtio,format=qcow2")]);
        let network = format!("user,model=virtio,hostfwd=tcp:127.0.0.1:{port}-:22");
        command.args(["-nic", &network]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut machine = Self {
            qemu: Owned::spawn(command)?,
            login,
            folder: scene.path().to_owned(),
            port,
        };
        machine.wait("nobody could log in", BOOT, |machine| {
            let is_in = machine.ssh("true")?.status.success();
            Ok(is_in && machine.console()?.contains("root@hmm-odp:~#"))
        })?;
        step.done();
        Ok(machine)
    }

    fn console(&self) -> Result<String> {
        process::read_lossy(&self.folder.join("console"))
    }

    /// Waits until something is so.
    fn wait(
        &mut self,
        otherwise: &str,
        limit: Duration,
        is_so: impl Fn(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let clock = self.qemu.clock();
        while !is_so(self)? {
            if clock.now() > limit {
                let console = self.console()?;
                bail!(
                    "{otherwise} after {} s; its console ends with:\n{}",
                    limit.as_secs(),
                    process::tail(&console, 20)
                );
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Runs a script in it, by ssh.
    fn ssh(&self, script: &str) -> Result<Output> {
        let mut command: Command = self.login.program("ssh");
        command.current_dir(&self.folder);
        command.args(["-F", "none", "-i", "key", "-p", &self.port.to_string()]);
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=60",
            "LogLevel=ERROR",
            // It has made its key itself.
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
        ] {
            command.args(["-o", option]);
        }
        command.args(["root@127.0.0.1", script]);
        command.stdin(Stdio::null()).output().context("running ssh")
    }

    /// Runs a script that has to succeed; gives what it says.
    fn inside(&self, script: &str) -> Result<String> {
        let output = self.ssh(script)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            process::tail(&said, 30)
        );
        Ok(said)
    }

    /// The kernel has sounded no alarm.
    fn log_is_clean(&self) -> Result<()> {
        let log = self.inside("dmesg --raw")?;
        let complaints = klog::complaints(&log);
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(())
    }

    /// Has it go down by itself.
    fn off(&mut self) -> Result<()> {
        self.ssh("systemctl poweroff")?;
        self.wait("it has not gone down", OFF, |machine| {
            Ok(machine.qemu.try_wait()?.is_some())
        })
    }
}
