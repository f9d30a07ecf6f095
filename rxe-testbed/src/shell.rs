// SPDX-License-Identifier: GPL-2.0
//! `shell`: an interactive shell in a fresh VM.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted};
use crate::cli::ShellArguments;
use crate::klog;
use crate::limits;
use crate::process::RawTerminal;
use crate::series::Series;
use crate::session::Put;
use crate::ui::{self, Step};
use crate::vm::{Config, Driver, Vm};

/// Runs the shell and gives its exit status.
pub(crate) fn run(arguments: &ShellArguments, series: Option<Series>) -> Result<u8> {
    if !std::io::stdin().is_terminal() {
        bail!("shell needs a terminal; use `cargo testbed exec -- COMMAND` in scripts");
    }
    let puts = arguments
        .put
        .iter()
        .map(|text| Put::parse(text))
        .collect::<Result<Vec<_>>>()?;
    let pmem = arguments.vm.pmem()?;
    limits::check(&arguments.vm, 1)?;
    let with_ours = arguments.vm.driver == Driver::Ours;
    let world = build::ensure(Wanted {
        kernel: arguments.vm.kernel(series),
        modules: with_ours,
        programs: false,
        packages: arguments.vm.package.clone(),
    })?;
    let config = Config {
        cpus: arguments.vm.cpus,
        memory_mib: arguments.vm.mem,
        with_ours,
        rxe: arguments.vm.rxe,
        extra: arguments.vm.extra,
        pmem,
        puts,
        ..Config::default()
    };
    let step = Step::start("booting the VM");
    let mut vm = Vm::boot(&world, &config)?;
    vm.use_driver(arguments.vm.driver)?;
    step.done();
    ui::line("rxe0 is up; `exit` ends the VM, `rxe-driver stock|ours` changes the driver");
    let raw = RawTerminal::enter()?;
    let exit = vm.shell(window_size, connect);
    drop(raw);
    let log = vm.off()?;
    let kept = world.cache.log("last-kernel");
    crate::vm::save_log(&log, &kept)?;
    for line in klog::complaints(&log).iter().take(20) {
        ui::line(&format!("kernel: {line}"));
    }
    exit
}

/// Joins the guest's terminal to this one. The threads end with the program.
fn connect(terminal: &UnixStream) -> Result<()> {
    let mut to_guest = terminal.try_clone().context("the guest's terminal")?;
    let mut from_guest = terminal.try_clone().context("the guest's terminal")?;
    std::thread::spawn(move || {
        let mut stdout = std::io::stdout();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_guest.read(&mut buffer) {
            if stdout
                .write_all(&buffer[..count])
                .and_then(|()| stdout.flush())
                .is_err()
            {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if to_guest.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    Ok(())
}

nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// The terminal's rows and columns.
fn window_size() -> (u16, u16) {
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is standard input's, and `size` is what this request fills in.
    let known = unsafe { get_window_size(nix::libc::STDIN_FILENO, &mut size) }.is_ok();
    if known && size.ws_row > 0 && size.ws_col > 0 {
        (size.ws_row, size.ws_col)
    } else {
        (24, 80)
    }
}
