// SPDX-License-Identifier: GPL-2.0
//! `up`: has a copy of this program boot a VM and keep it, and returns when that is reached.

use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

use super::keep::{self, KEEPER};
use super::place::{Found, Place, State};
use crate::cache::Cache;
use crate::cli::UpArguments;
use crate::failure::status;
use crate::process::Twin;
use crate::series::Series;
use crate::ui;

/// Boots the VM.
pub(crate) fn run(arguments: &UpArguments, series: Option<Series>) -> Result<u8> {
    let parent = std::os::unix::process::parent_id();
    if std::env::var_os(KEEPER).is_some_and(|one| one == *parent.to_string()) {
        return keep::run(arguments, series, parent);
    }
    let place = Place::of(&Cache::open()?, &arguments.place.name);
    match place.look()? {
        Found::Nothing => {}
        Found::Gone(_) => ui::note(&format!(
            "what the VM `{}` has left, which is gone, goes too",
            place.name()
        )),
        Found::Coming => bail!("the VM `{}` is just being booted", place.name()),
        Found::Up(_) => bail!("{}", place.runs_already()),
    }
    let mut keeper = Twin::spawn(again()?)?;
    let mut said = String::new();
    keeper
        .output()?
        .read_to_string(&mut said)
        .context("waiting for the VM")?;
    if said.is_empty() {
        // It has said why.
        let ended = keeper.wait()?.code();
        let ended = ended.and_then(|code| u8::try_from(code).ok());
        return Ok(ended.filter(|code| *code != 0).unwrap_or(status::FAILURE));
    }
    let Found::Up(state) = place.look()? else {
        bail!("the VM `{}` ended as soon as it was up", place.name());
    };
    print!("{}", told(&place, &state));
    Ok(0)
}

/// This program, called as it was, as a keeper.
fn again() -> Result<Command> {
    let program = std::env::current_exe().context("looking for this program")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    command.env(KEEPER, std::process::id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// What to tell of a VM that is up.
fn told(place: &Place, state: &State) -> String {
    let option = place.option();
    let mut lines = vec![
        format!("the VM `{}` is up: {}", place.name(), state.what),
        format!("  log in   cargo testbed ssh{option}"),
        format!("  run      cargo testbed ssh{option} -- COMMAND"),
        format!(
            "  copy     scp -F {} FILE {}:",
            place.path("config").display(),
            place.name()
        ),
        format!("  end      cargo testbed down{option}"),
    ];
    for forward in &state.forwards {
        lines.push(format!(
            "  port     127.0.0.1:{} is port {} of the guest",
            forward.host, forward.guest
        ));
    }
    if let Some(folder) = &state.share {
        lines.push(format!("  folder   {} is /mnt/share", folder.display()));
    }
    if let Some(port) = state.gdb {
        lines.push(format!("  gdb      target remote 127.0.0.1:{port}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Forward;

    #[test]
    fn it_is_told_how_the_vm_is_reached() {
        let place = Place::of(&Cache::at("/c".as_ref()), "mine");
        let state = State {
            pid: 7,
            what: "Linux 7.3".into(),
            login: Vec::new(),
            forwards: vec![Forward {
                host: 8080,
                guest: 80,
            }],
            share: Some("/src".into()),
            gdb: Some(1234),
        };
        let text = told(&place, &state);
        for line in [
            "the VM `mine` is up: Linux 7.3",
            "  log in   cargo testbed ssh --name mine",
            "  copy     scp -F /c/run/up-mine/config FILE mine:",
            "  port     127.0.0.1:8080 is port 80 of the guest",
            "  folder   /src is /mnt/share",
            "  gdb      target remote 127.0.0.1:1234",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}\n{text}");
        }
    }
}
