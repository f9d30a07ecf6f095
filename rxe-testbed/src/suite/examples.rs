// SPDX-License-Identifier: GPL-2.0
//! The examples: copied to a folder outside of the checkout, built, and run as those who copy them do.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::one_test::record;
use super::report::Report;
use super::Job;
use crate::cache::files_under;
use crate::chroot::Bind;
use crate::kernel::Variant;
use crate::process;
use crate::ui::Step;

/// A program for libibverbs, with its workflow for CI.
const VERBS: &str = "examples/verbs";

/// A driver on `hmm`.
const DRIVER: &str = "examples/driver";

/// What the program is built with, as the chroot has only the library itself. The cache keeps it.
const HEADERS: &str = "libibverbs-dev";

const BUILD: &str = include_str!("../../scripts/build-example.sh");

/// The names of all tests. They are about who uses the testbed, not about the kernel.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    match kernel {
        Variant::Stock => vec![VERBS.into(), DRIVER.into()],
        Variant::Debug => Vec::new(),
    }
}

/// Runs what is wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    for name in names(job.world.kernel.variant) {
        if job.filter.takes(&name) {
            let started = Instant::now();
            let problem = example(job, &name).err().map(|error| format!("{error:#}"));
            report.add(record(&name, started, problem.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Copies one, and runs its test.
fn example(job: &Job<'_>, name: &str) -> Result<()> {
    let outside = tempfile::tempdir().context("making a folder outside of the checkout")?;
    copy(&job.world.repository.path(name), outside.path())?;
    if name == VERBS {
        build(job, outside.path())?;
    }
    test(job, name, outside.path())
}

/// Builds the program as its user does, but with the chroot's compiler.
fn build(job: &Job<'_>, folder: &Path) -> Result<()> {
    let world = job.world;
    let headers = world.chroot.unpacked(&world.cache, HEADERS, &[HEADERS])?;
    let step = Step::start("building the example");
    let binds = [
        Bind::write(folder, "/build/example"),
        Bind::read(&headers, "/build/libibverbs"),
    ];
    let log = job.results.join("example-build.log");
    process::run_logged(world.chroot.script(&binds, BUILD, &[]), &log, &step)?;
    step.done();
    Ok(())
}

fn test(job: &Job<'_>, name: &str, folder: &Path) -> Result<()> {
    let world = job.world;
    let step = Step::start(format!("running the test of {name}"));
    let testbed = std::env::current_exe().context("looking for this program")?;
    let series = world.kernel.version.series.to_string();
    let mut command = Command::new("./test.sh");
    command
        .current_dir(folder)
        .env("TESTBED", testbed)
        .env("HMM_ODP_SOURCES", world.repository.root())
        .env("HMM_ODP_KERNEL_SERIES", series)
        .env_remove("CARGO_MANIFEST_DIR");
    let log = format!("{}.log", name.replace('/', "-"));
    process::run_logged(command, &job.results.join(log), &step)?;
    step.done();
    Ok(())
}

/// Copies the files below a folder, and what may be executed stays so.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in files_under(from, &[])? {
        let copy = to.join(file.strip_prefix(from)?);
        if let Some(folder) = copy.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        std::fs::copy(&file, &copy).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_can_be_run() -> Result<()> {
        let to = tempfile::tempdir()?;
        let repository = crate::repository::Repository::find()?;
        copy(&repository.path(VERBS), to.path())?;
        let mode = std::fs::metadata(to.path().join("test.sh"))?
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111);
        assert!(to.path().join(".github/workflows/test.yml").is_file());
        Ok(())
    }
}
