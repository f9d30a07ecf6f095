// SPDX-License-Identifier: GPL-2.0
//! `ssh`: logs in to a VM that stays.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use nix::sys::signal::Signal;

use super::place::{Ended, Found, Place, State};
use crate::cache::Cache;
use crate::cli::SshArguments;
use crate::failure::{status, Failure};
use crate::process;
use crate::reach::SSH;
use crate::script::quote;

/// What ssh ends with if it is not the command that has ended.
const LOST: u8 = 255;

/// How long its keeper may take to see that a VM is gone.
const GOES: Duration = Duration::from_secs(60);

/// Logs in; gives the exit status of the command or of the shell.
pub(crate) fn run(arguments: &SshArguments) -> Result<u8> {
    let cache = Cache::open()?;
    let place = Place::of(&cache, &arguments.place.name);
    let state = match place.look()? {
        Found::Up(state) => state,
        Found::Nothing => bail!("{}", there_is_none(&cache, &place)),
        Found::Coming => bail!("the VM `{}` is just being booted", place.name()),
        Found::Gone(ended) => return Err(died(&place, &ended)),
    };
    let mut command = command(&state, &arguments.command);
    process::ends_with_us(&mut command, Signal::SIGTERM);
    let ended = command.status().context("starting ssh")?;
    let code = ended.code().or(ended.signal().map(|signal| 128 + signal));
    let code = code.and_then(|code| u8::try_from(code).ok());
    let code = code.unwrap_or(status::FAILURE);
    if code == LOST && !is_there(&state) {
        if let Some(ended) = place.wait_until_gone(GOES)? {
            return Err(died(&place, &ended));
        }
    }
    Ok(code)
}

/// Whether the VM still has its ports: they go when it dies, before its keeper knows.
fn is_there(state: &State) -> bool {
    let ssh = state.forwards.iter().find(|forward| forward.guest == SSH);
    ssh.is_some_and(|ssh| TcpStream::connect((Ipv4Addr::LOCALHOST, ssh.host)).is_ok())
}

/// The client, with a terminal if there is one on both ends.
fn command(state: &State, words: &[String]) -> Command {
    let mut command = Command::new(&state.login[0]);
    command.args(&state.login[1..]);
    if words.is_empty() {
        return command;
    }
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        command.arg("-t");
    }
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    command.arg("--").arg(quoted.join(" "));
    command
}

/// What to say where no such VM is.
pub(crate) fn there_is_none(cache: &Cache, place: &Place) -> String {
    let others = Place::all(cache);
    let others = others.iter().filter(|other| other.name() != place.name());
    let others: Vec<String> = others.map(|other| format!("`{}`", other.name())).collect();
    let hint = match others.is_empty() {
        true => format!("`cargo testbed up{}` boots one", place.option()),
        false => format!("--name names another: {}", others.join(", ")),
    };
    format!("there is no VM `{}`: {hint}", place.name())
}

fn died(place: &Place, ended: &Ended) -> anyhow::Error {
    let why = ended.why.as_deref().unwrap_or("somebody ended it");
    let text = format!(
        "the VM `{}` is gone: {why}\n`cargo testbed up{}` boots it anew",
        place.name(),
        place.option()
    );
    Failure::error(status::VM, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_for_a_vm_is_told_of_others() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(dir.path());
        let mine = Place::of(&cache, "mine");
        let none = there_is_none(&cache, &mine);
        assert!(
            none.ends_with("`cargo testbed up --name mine` boots one"),
            "{none}"
        );
        let _other = Place::of(&cache, "other").claim()?;
        let none = there_is_none(&cache, &mine);
        assert!(none.ends_with("--name names another: `other`"), "{none}");
        Ok(())
    }
}
