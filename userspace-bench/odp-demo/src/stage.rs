// SPDX-License-Identifier: GPL-2.0
//! Where one part of the demo is played: the device, and the memory that stays registered until
//! the driver's counters have been read.

use std::{cell::RefCell, ops::Deref, process::Command, sync::Arc, time::Duration};

use anyhow::Result;
use odp_fixture::{
    counters::Counters,
    env::{anonymous, Buffer, Env, Mode},
    loopback::Loopback,
};
use odp_verbs::{Access, Mtu, QpConfig, Transport};
use serde::{Deserialize, Serialize};
use testkit::process;

/// How long a completion may take. A driver that never completes should not hold up the demo.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Something that a user of on-demand paging wants to know.
pub struct Check {
    /// One word for machines.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// Whether the demo fails if it does not hold.
    pub required: bool,
    /// Finds out; the result says more about it.
    pub run: fn(&Stage) -> Result<String>,
}

/// Something that is measured.
pub struct Figure {
    /// One word for machines.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// In what it is measured.
    pub unit: &'static str,
    /// Measures.
    pub run: fn(&Stage) -> Result<f64>,
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Held,
    /// Not as it should be.
    Failed,
    /// The driver says that it cannot do this.
    Unsupported,
}

/// What one part found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub status: Status,
    pub detail: String,
    pub value: Option<f64>,
    pub counters: Counters,
}

impl Outcome {
    /// A part that could not tell anything itself.
    pub fn failed(detail: String) -> Self {
        let counters = Counters::default();
        Self {
            status: Status::Failed,
            detail,
            value: None,
            counters,
        }
    }
}

/// A device, and memory that stays registered until the end.
pub struct Stage {
    env: Env,
    kept: RefCell<Vec<Arc<Buffer>>>,
}

impl Deref for Stage {
    type Target = Env;

    fn deref(&self) -> &Env {
        &self.env
    }
}

impl Stage {
    /// Sets up on `env`.
    pub fn new(env: Env) -> Self {
        Self {
            env,
            kept: RefCell::default(),
        }
    }

    /// Keeps `buffer` until the end.
    pub fn keep(&self, buffer: Buffer) -> Arc<Buffer> {
        let buffer = Arc::new(buffer);
        self.kept.borrow_mut().push(buffer.clone());
        buffer
    }

    /// `len` untouched bytes, registered for everything.
    pub fn buffer(&self, mode: Mode, len: usize) -> Result<Arc<Buffer>> {
        let buffer = self.env.cover(mode, anonymous(len)?, Access::ALL)?;
        Ok(self.keep(buffer))
    }

    /// Connected queue pairs, with packets of the usual size however large the device's are.
    pub fn usual_link(&self) -> Result<Loopback> {
        let mtu = self.mtu.min(Mtu::USUAL);
        Ok(Loopback::new(&self.env, QpConfig::new(Transport::Rc), mtu)?)
    }

    /// The command that plays another part on the same device.
    pub fn part(&self, name: &str) -> Command {
        let mut command = process::this_program();
        command.args(["--device", self.context.name()]);
        command
            .args(["--gid", &self.gid.index.to_string()])
            .args(["--part", name]);
        command
    }

    /// Runs `check`.
    pub fn check(&self, check: &Check) -> Outcome {
        let (status, detail) = match (check.run)(self) {
            Ok(detail) => (Status::Held, detail),
            Err(error) => (status(&error), format!("{error:#}")),
        };
        Outcome {
            status,
            detail,
            value: None,
            counters: self.counters(),
        }
    }

    /// Measures `figure`.
    pub fn figure(&self, figure: &Figure) -> Outcome {
        let (status, detail, value) = match (figure.run)(self) {
            // Hundredths are beyond what any of this can tell.
            Ok(value) => (
                Status::Held,
                String::new(),
                Some((value * 100.0).round() / 100.0),
            ),
            Err(error) => (status(&error), format!("{error:#}"), None),
        };
        Outcome {
            status,
            detail,
            value,
            counters: self.counters(),
        }
    }

    fn counters(&self) -> Counters {
        Counters::of_process(self.context.name(), std::process::id())
    }
}

/// A registration that the driver refuses is no failure, but nothing to count on either.
fn status(error: &anyhow::Error) -> Status {
    match error.downcast_ref() {
        Some(odp_verbs::Error::Call {
            call: "ibv_reg_mr", ..
        }) => Status::Unsupported,
        _ => Status::Failed,
    }
}
