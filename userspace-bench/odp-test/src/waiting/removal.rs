// SPDX-License-Identifier: GPL-2.0
//! Parts for a script that removes the device or the driver while somebody waits for a page. That is no test of this
//! program's: others may use the device.

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use odp_fixture::waiting::Kind;
use testkit::process::Parent;

use super::{page, victim::Victim, withheld, ASKED};
use crate::harness::Options;

/// Tells the names of all ways to wait.
pub const KINDS: &str = "kinds";
/// What the parts that wait in one of these ways begin with.
pub const ROLES: &str = "stays.";

/// Plays [`KINDS`].
pub fn kinds() -> Result<()> {
    let names = Kind::value_variants()
        .iter()
        .filter_map(Kind::to_possible_value);
    names.for_each(|name| println!("{}", name.get_name()));
    Ok(())
}

/// Has a process wait for a page in the way called `name`, says which process that is, and withholds the page until
/// standard input ends. Keeps the device open by that process alone.
pub fn stay(options: &Options, name: &str) -> Result<()> {
    let kind = Kind::from_str(name, false)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("there is no way to wait called {name}"))?;
    let (file, plan) = withheld(kind, 1, 1)?;
    let victim = Victim::start(&options.open()?, None, &plan)?;
    file.wait_until_asked(page(0), ASKED)?;
    let parent = Parent::new();
    parent.tell(&victim.id())?;
    // Nothing is said, and then no more.
    let _: Result<bool, _> = parent.hear();
    file.give_up();
    drop(victim);
    Ok(())
}
