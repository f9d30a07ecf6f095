// SPDX-License-Identifier: GPL-2.0
//! VMs on one network segment (`network`), each of which can log in to every other: what a program is started on that
//! starts itself on others.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::World;
use crate::failure::{status, Failure};
use crate::login::Login;
use crate::network::Network;
use crate::script::with_scripts;
use crate::switch::Switch;
use crate::vm::{Config, Driver, Outcome, Vm};

/// How long an ssh server may take to begin.
const SERVER: Duration = Duration::from_secs(60);

/// The VMs.
pub(crate) struct Nodes {
    /// node1 and on.
    pub(crate) vms: Vec<Vm>,
    /// Between them.
    pub(crate) switch: Switch,
}

impl Nodes {
    /// Boots `count` VMs, each like `config`, with `driver` in all. Files go to `folder`.
    pub(crate) fn boot(
        world: &World,
        config: &Config,
        driver: Driver,
        count: u8,
        folder: &Path,
    ) -> Result<Self> {
        let login = Login::make(folder, &world.guest.root)?;
        let mut texts = login.server()?;
        texts.extend(login.among("node*,10.77.0.*,localhost,127.0.0.1")?);
        let (switch, ends) = Network::nodes(count)?;
        let mut vms = Vec::new();
        // One after the other: each may be tried again without the others' noticing.
        for network in ends {
            let host = network.host;
            let config = Config {
                network: Some(network),
                texts: texts.clone(),
                ..config.clone()
            };
            let mut vm = Vm::boot(world, &config).with_context(|| format!("node{host}"))?;
            serve(&mut vm).with_context(|| format!("node{host}"))?;
            vm.use_driver(driver)
                .with_context(|| format!("node{host}"))?;
            vms.push(vm);
        }
        Ok(Self { vms, switch })
    }
}

/// Starts the VM's ssh server.
fn serve(vm: &mut Vm) -> Result<()> {
    let mut said = Vec::new();
    let mut errors = Vec::new();
    let script = with_scripts("reach ssh");
    let outcome = vm.run(&script, vm.patience(SERVER), &mut said, &mut errors)?;
    if outcome == Outcome::Exit(0) {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&errors);
    let text = format!("no ssh server: {outcome:?}: {}", errors.trim());
    Err(Failure::error(status::VM, text))
}
