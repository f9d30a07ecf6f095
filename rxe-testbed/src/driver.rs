// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed module`: builds a driver that is not of this repository, on `hmm`, where its sources lie.

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted};
use crate::cache::files_under;
use crate::chroot::Bind;
use crate::cli::ModuleArguments;
use crate::host;
use crate::kernel::Choice;
use crate::process;
use crate::series::Series;
use crate::ui::Step;

const BUILD: &str = include_str!("../scripts/build-driver.sh");

/// Builds it, and says where its modules are.
pub(crate) fn run(arguments: &ModuleArguments, series: Option<Series>) -> Result<u8> {
    let folder = arguments.folder.canonicalize();
    let folder = folder.with_context(|| format!("looking for {}", arguments.folder.display()))?;
    if !folder.join("Kbuild").is_file() && !folder.join("Makefile").is_file() {
        bail!(
            "{} has no Kbuild: examples/driver has one",
            folder.display()
        );
    }
    let world = build::ensure(Wanted {
        kernel: Choice {
            series,
            variant: arguments.kernel,
        },
        ..Wanted::stock(series)
    })?;
    let _building = world.cache.lock_build()?;
    let kernel = &world.kernel;
    let stage = world.compile()?;
    let step = Step::start(format!("building {}", folder.display()));
    let binds = [
        Bind::write(kernel.dir(), "/build/kernel"),
        Bind::read(&stage, "/build/modules"),
        Bind::write(&folder, "/build/driver"),
    ];
    let jobs = host::processors().to_string();
    let release = &*kernel.version.release;
    let command = world
        .chroot
        .script(&binds, BUILD, &[release, kernel.compiler(), &jobs]);
    let log = world.cache.log("module");
    let status = process::run_to_log(command, &log, &step)?;
    let said = process::read_lossy(&log)?;
    let said = said.replace("/build/driver/", "");
    if !said.trim().is_empty() {
        step.say(said.trim());
    }
    if !status.success() {
        bail!("{} does not build", folder.display());
    }
    step.done();
    for file in files_under(&folder, &[])? {
        if file.extension().is_some_and(|extension| extension == "ko") {
            println!("{}", file.display());
        }
    }
    Ok(0)
}
