// SPDX-License-Identifier: GPL-2.0
//! One test in a VM that is kept: where each goes on from what the one before it has left.

use std::time::{Duration, Instant};

use super::{pinned, pyverbs, Record, Status};
use crate::klog;
use crate::process;
use crate::script::with_scripts;
use crate::vm::{Outcome, Vm};

/// Runs one test; an error is what went wrong.
pub(super) fn run_one(vm: &mut Vm, name: &str, script: &str, seconds: u64) -> Result<(), String> {
    let script = klog::marked(name, &with_scripts(script));
    let limit = vm.patience(Duration::from_secs(seconds));
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    let outcome = vm.run(&script, limit, &mut said, &mut errors);
    said.extend(errors);
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        Ok(Outcome::Exit(0)) if name == pinned::ODP_TEST => pinned::judge_ours(&said),
        Ok(Outcome::Exit(0)) if name == pinned::PYVERBS => pinned::judge(&pyverbs::parse(&said)),
        Ok(Outcome::Exit(0)) => Ok(()),
        Ok(Outcome::Exit(exit)) => Err(format!("exit status {exit}\n{}", process::tail(&said, 30))),
        Ok(Outcome::TimedOut) => Err(format!("killed after {} s", limit.as_secs())),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// A test that could not be run.
pub(super) fn failed(name: &str, started: Instant, error: &anyhow::Error) -> Record {
    record(name, started, format!("{error:#}"))
}

/// A test that passed if there is nothing to tell.
pub(super) fn record(name: &str, started: Instant, detail: String) -> Record {
    let status = match detail.is_empty() {
        true => Status::Pass,
        false => Status::Fail,
    };
    Record {
        name: name.into(),
        status,
        time: Some(started.elapsed()),
        detail,
    }
}
