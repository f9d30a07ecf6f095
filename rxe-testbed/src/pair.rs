// SPDX-License-Identifier: GPL-2.0
//! Two VMs on a network segment of their own (`network`): a server in one, its client in the other.

use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::build::World;
use crate::network::Network;
use crate::script::{quote, with_scripts};
use crate::vm::{Config, Driver, Outcome, Vm};

/// A server that listens is soon there; one that does not is not waited for: the guest looks 200 times, which takes
/// 20 seconds, or several times that if the host has other things to do.
const START: Duration = Duration::from_secs(300);

/// How the two programs of a pair ended, and what they said.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) server: (Outcome, Vec<u8>),
    pub(crate) client: (Outcome, Vec<u8>),
}

impl Ends {
    /// Whether both succeeded.
    pub(crate) fn good(&self) -> bool {
        [self.server.0, self.client.0] == [Outcome::Exit(0); 2]
    }
}

/// Two VMs.
pub(crate) struct Pair {
    /// 10.77.0.1, the server's.
    pub(crate) first: Vm,
    /// 10.77.0.2, the client's.
    pub(crate) second: Vm,
}

impl Pair {
    /// Boots both, each like `config`, with `driver` in both.
    pub(crate) fn boot(world: &World, config: &Config, driver: Driver) -> Result<Self> {
        // One after the other: either may be tried again without the other one's noticing.
        let boot = |network: Network| -> Result<Vm> {
            let host = network.host;
            let config = Config {
                network: Some(network),
                ..config.clone()
            };
            let mut vm =
                Vm::boot(world, &config).with_context(|| format!("VM {host} of the pair"))?;
            vm.use_driver(driver)?;
            Ok(vm)
        };
        let [first, second] = Network::segment()?;
        Ok(Self {
            first: boot(first)?,
            second: boot(second)?,
        })
    }

    /// Starts `server` in the first VM and, when it listens or needs longer than that, `client` in the second.
    /// The server is given `limit` to end once the client has.
    pub(crate) fn run(&mut self, server: &str, client: &str, limit: Duration) -> Result<Ends> {
        start(&mut self.first, server)?;
        let mut said = Vec::new();
        let end = run(&mut self.second, client, limit, &mut said)?;
        let client = (end, said);
        let mut said = Vec::new();
        let end = finish(&mut self.first, limit, client.0, &mut said)?;
        Ok(Ends {
            server: (end, said),
            client,
        })
    }
}

/// Starts `server` in a VM, where it runs beside what else is asked of the VM. Returns when it listens, has ended
/// or needs long.
pub(crate) fn start(vm: &mut Vm, server: &str) -> Result<()> {
    let quoted = quote(server);
    let start = format!("beside start bash -c {quoted}");
    match run(vm, &start, vm.patience(START), &mut Vec::new())? {
        Outcome::Exit(0) => Ok(()),
        outcome => bail!("the guest cannot start `{server}`: {outcome:?}"),
    }
}

/// Waits until what was started ends, for `limit`, or for a moment if its client did not end well: nobody talks to
/// it any more.
pub(crate) fn finish(
    vm: &mut Vm,
    limit: Duration,
    client: Outcome,
    said: &mut Vec<u8>,
) -> Result<Outcome> {
    let seconds = match client {
        Outcome::Exit(0) => limit.as_secs().max(1),
        _ => 2,
    };
    // The guest keeps to the limit.
    let patience = limit + vm.patience(START);
    run(vm, &format!("beside finish {seconds}"), patience, said)
}

fn script(text: &str) -> String {
    with_scripts(&format!("cd /root; {text}"))
}

/// Runs a script whose output and errors are one.
fn run(vm: &mut Vm, text: &str, limit: Duration, said: &mut Vec<u8>) -> Result<Outcome> {
    let mut errors = Vec::new();
    let outcome = vm.run(&script(text), limit, said, &mut errors)?;
    said.extend(errors);
    Ok(outcome)
}
