// SPDX-License-Identifier: GPL-2.0
//! `down`: ends a VM that stays, and says whether the kernel complained meanwhile.

use std::time::Duration;

use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::place::{Ended, Found, Place, State};
use super::ssh;
use crate::cache::Cache;
use crate::cli::DownArguments;
use crate::failure::status;
use crate::klog;
use crate::ui::{self, Step};

/// How long a VM may take to end, before it is killed with its keeper: longer than the keeper itself waits for it, also
/// on a busy host.
const END: Duration = Duration::from_secs(300);

/// How long its keeper may take to be gone when it was killed.
const KILLED: Duration = Duration::from_secs(30);

/// Ends the VM.
pub(crate) fn run(arguments: &DownArguments) -> Result<u8> {
    let cache = Cache::open()?;
    let place = Place::of(&cache, &arguments.place.name);
    let ended = match place.look()? {
        Found::Nothing => bail!("{}", ssh::there_is_none(&cache, &place)),
        Found::Coming => bail!(
            "the VM `{}` is just being booted: Ctrl-C there ends it",
            place.name()
        ),
        Found::Gone(ended) => ended,
        Found::Up(state) => {
            let step = Step::start(format!("ending the VM `{}`", place.name()));
            let ended = end(&place, &state)?;
            step.done();
            ended
        }
    };
    place.forget()?;
    Ok(tell(&cache, &place, &ended))
}

/// Has the VM's keeper end it, and waits until it is gone.
fn end(place: &Place, state: &State) -> Result<Ended> {
    std::fs::write(place.request(), "").context("asking the VM to end")?;
    if let Some(ended) = place.wait_until_gone(END)? {
        return Ok(ended);
    }
    ui::note("it does not end: killing it");
    let _ = kill(Pid::from_raw(state.pid), Signal::SIGKILL);
    match place.wait_until_gone(KILLED)? {
        Some(ended) => Ok(ended),
        None => bail!("the process {} that keeps the VM does not go", state.pid),
    }
}

/// Says what became of it; gives the exit status.
fn tell(cache: &Cache, place: &Place, ended: &Ended) -> u8 {
    if let Some(why) = &ended.why {
        ui::line(&format!("the VM `{}` had died: {why}", place.name()));
    }
    klog::tell(&ended.complaints);
    if !ended.complaints.is_empty() {
        let log = cache.log(&place.kernel_log());
        ui::line(&format!("the whole kernel log: {}", log.display()));
    }
    match (ended.why.is_some(), ended.complaints.is_empty()) {
        (true, _) => status::VM,
        (false, true) => 0,
        (false, false) => status::KERNEL_LOG,
    }
}
