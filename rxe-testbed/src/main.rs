// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed`: builds the repository's RDMA modules, boots Debian's kernel in a VM and
//! runs commands, tests and the demo there.
//!
//! Reading order: `build` lists what a VM is made of, `vm` boots one and talks to it, `exec` is
//! the simplest use of both.

mod archive;
mod bench;
mod build;
mod cache;
mod cargo;
mod chroot;
mod clean;
mod cli;
mod clock;
mod demo;
mod doc;
mod doctor;
mod driver;
mod exec;
mod failure;
mod guest;
mod host;
mod ide;
mod image;
mod kernel;
mod klog;
mod limits;
mod login;
mod memory;
mod modules;
mod network;
mod nic;
mod nodes;
mod package;
mod pair;
mod pmem;
mod port;
mod process;
mod programs;
mod qemu;
mod reach;
mod repository;
mod saved;
mod script;
mod series;
mod session;
mod shell;
mod stay;
mod stream;
mod suite;
mod supply;
mod switch;
mod table;
mod trace;
mod ucx;
mod ui;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::build::Wanted;
use crate::cli::{BuildArguments, Cli, Command};
use crate::kernel::Choice;
use crate::series::Series;

fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments(std::env::args_os()));
    let result = process::install_interrupt_handler().and_then(|()| dispatch(&cli));
    exec::flush();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            ui::line(&format!("error: {error:#}"));
            ExitCode::from(failure::exit_status(&error))
        }
    }
}

/// The command line. cargo passes on its own name for what it was asked to run: `cargo testbed` runs `cargo-testbed
/// testbed`.
fn arguments(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = all.collect();
    if all.get(1).is_some_and(|first| first == "testbed") {
        all.remove(1);
    }
    all
}

fn dispatch(cli: &Cli) -> Result<u8> {
    cli.check_series()?;
    let series = series::asked_for(cli.kernel_series)?;
    match &cli.command {
        Command::Exec(arguments) => exec::run(arguments, series),
        Command::Build(arguments) => build(arguments, series),
        Command::Bench(arguments) => bench::run(arguments, series),
        Command::Trace(arguments) => trace::run(arguments, series),
        Command::Test(arguments) => suite::run(arguments, series),
        Command::Demo => demo::run(series),
        Command::Shell(arguments) => shell::run(arguments, series),
        Command::Up(arguments) => stay::up(arguments, series),
        Command::Ssh(arguments) => stay::ssh(arguments),
        Command::Down(arguments) => stay::down(arguments),
        Command::Module(arguments) => driver::run(arguments, series),
        Command::Package(arguments) => package::run(arguments, series),
        Command::Image(arguments) => image::run(arguments, series),
        Command::Port(arguments) => port::run(arguments),
        Command::Series(arguments) => supply::run(arguments),
        Command::Doc => doc::run(series),
        Command::Ide => ide::run(series),
        Command::Cache(arguments) => saved::run(arguments, series),
        Command::Clean { all } => clean::run(*all),
        Command::Doctor => doctor::run(series),
    }
}

/// `build`: everything, and where it is.
fn build(arguments: &BuildArguments, series: Option<Series>) -> Result<u8> {
    if arguments.update {
        let cache = cache::Cache::open()?;
        let _building = cache.lock_build()?;
        if let Some((version, path)) = clean::kept(&cache).first() {
            anyhow::bail!(
                "the cache has Linux {}, which the archive has no more and which an update would lose: `rm -r {}` \
                 if that is meant",
                version.release,
                path.display()
            );
        }
        build::new_epoch(&cache)?;
    }
    let world = build::ensure(Wanted {
        kernel: Choice {
            series,
            variant: arguments.kernel,
        },
        modules: !arguments.stock,
        programs: true,
        packages: Vec::new(),
    })?;
    println!("chroot    {}", world.chroot.path("").display());
    println!(
        "kernel    {} in {}",
        world.kernel.version.release,
        world.kernel.dir().display()
    );
    println!(
        "guest     {} ({})",
        world.guest.image.display(),
        world.guest.suite
    );
    if let Some(modules) = &world.modules {
        for file in modules.files()? {
            println!("module    {}", file.display());
        }
    }
    for program in world.programs.files()? {
        println!("program   {}", program.display());
    }
    if let Some(modules) = &world.modules {
        modules.expect_all()?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_passes_on_its_name_for_this_program() {
        let after = |words: &[&str]| arguments(words.iter().map(OsString::from));
        assert_eq!(
            after(&["cargo-testbed", "testbed", "demo"]),
            ["cargo-testbed", "demo"]
        );
        assert_eq!(after(&["cargo-testbed", "demo"]), ["cargo-testbed", "demo"]);
        assert_eq!(after(&["cargo-testbed"]), ["cargo-testbed"]);
    }
}
