// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed doc`: the documentation of all crates, by rustdoc: of the modules as Kbuild compiles them, and of what
//! runs outside of the kernel. Of `hmm` and `mlx_odp` it has what their users see, of the others everything. A warning is
//! an error; so is an example of the modules' that does not compile.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::{self, Wanted, World};
use crate::modules;
use crate::process;
use crate::series::Series;
use crate::ui::Step;

/// Arguments of the chroot's cargo.
const CARGO: &[&str] = &[
    "--config",
    r#"build.rustdocflags = ["-D", "warnings", "-A", "rustdoc::private_intra_doc_links"]"#,
    "doc",
    "--workspace",
    "--no-deps",
    "--document-private-items",
    "--locked",
    "--offline",
];

/// Writes it, and says where it is.
pub(crate) fn run(series: Option<Series>) -> Result<u8> {
    let world = build::ensure(Wanted::stock(series))?;
    for folder in write(&world)? {
        println!("{}", folder.display());
    }
    Ok(0)
}

/// Writes it; gives the folders in which each crate has one of its own.
pub(crate) fn write(world: &World) -> Result<[PathBuf; 2]> {
    let cargo = world.cargo();
    let user = cargo.target()?.join("doc");
    let kernel = cargo.target()?.join("doc-kernel");
    std::fs::create_dir_all(&kernel).with_context(|| format!("making {}", kernel.display()))?;
    let _building = world.cache.lock_build()?;
    let stage = world.compile()?;
    let modules = world.our_modules()?;
    modules::examples(&world.cache, &world.chroot, &world.kernel, &stage)?;
    modules.document(&world.cache, &world.chroot, &world.kernel, &stage, &kernel)?;
    let step = Step::start("documenting the programs");
    cargo.fetch(&step)?;
    process::run_logged(cargo.command(CARGO)?, &world.cache.log("doc"), &step)?;
    step.done();
    Ok([kernel, user])
}
