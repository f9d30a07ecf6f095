// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed package`: Debian packages of the modules and of the programs. The modules come built for one kernel,
//! without need of a compiler where they are installed, and as sources that DKMS builds for each kernel there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::build::{self, Wanted, World};
use crate::cache::files_under;
use crate::chroot::Bind;
use crate::cli::PackageArguments;
use crate::process;
use crate::repository::Repository;
use crate::series::{self, Series};
use crate::ui::Step;

const MAKE: &str = include_str!("../scripts/make-packages.sh");
const BUILD_FOR_KERNEL: &str = include_str!("../scripts/build-for-kernel.sh");

/// Makes them, and says where they are.
pub(crate) fn run(arguments: &PackageArguments, series: Option<Series>) -> Result<u8> {
    let world = build::ensure(Wanted {
        programs: true,
        ..Wanted::stock(series)
    })?;
    let out = match &arguments.out {
        Some(folder) => folder.clone(),
        None => world.repository.path("target/packages"),
    };
    for package in make(&world, &out)? {
        println!("{}", package.display());
    }
    Ok(0)
}

/// Makes the packages in `out`; gives their files.
pub(crate) fn make(world: &World, out: &Path) -> Result<Vec<PathBuf>> {
    let (Some(modules), Some(programs)) = (&world.modules, world.programs.folder()) else {
        bail!("there is nothing to package: the modules or the programs are not built");
    };
    modules.expect_all()?;
    let modules = modules.folder();
    let step = Step::start("making the packages");
    let scratch = world.cache.scratch()?;
    let binds = [
        Bind::read(&modules, "/build/modules"),
        Bind::read(&programs, "/build/programs"),
        Bind::read(world.repository.root(), "/build/repository"),
        Bind::write(scratch.path(), "/build/out"),
    ];
    let mut arguments = vec![
        version(&world.repository),
        world.kernel.version.release.clone(),
        maintainer(|name| std::env::var(name).ok()),
        changed(&world.repository).to_string(),
        BUILD_FOR_KERNEL.to_owned(),
    ];
    arguments.extend(series::SUPPORTED.iter().map(Series::to_string));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let command = world.chroot.script(&binds, MAKE, &arguments);
    process::run_logged(command, &world.cache.log("packages"), &step)?;
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let mut packages = Vec::new();
    for made in files_under(scratch.path(), &[])? {
        let package = out.join(made.file_name().unwrap_or_default());
        std::fs::copy(&made, &package).with_context(|| format!("writing {}", package.display()))?;
        packages.push(package);
    }
    step.done();
    Ok(packages)
}

/// The root with lintian, in the cache.
const LINTIAN: &str = "lintian";

/// Whoever makes the packages may have an address that lintian does not like.
const LOOK: &str = "lintian --allow-root --fail-on none \
    --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,root-in-contact \
    /build/packages/*.deb";

/// What lintian finds wrong in the packages: what it calls an error.
pub(crate) fn faults(world: &World) -> Result<Vec<String>> {
    let packages = world.cache.scratch()?;
    make(world, packages.path())?;
    let root = world.chroot.beside(&world.cache, LINTIAN, &["lintian"])?;
    let step = Step::start("looking through the packages with lintian");
    let binds = [Bind::read(packages.path(), "/build/packages")];
    let log = world.cache.log("lintian");
    process::run_logged(root.script(&binds, LOOK, &[]), &log, &step)?;
    step.done();
    let said = process::read_lossy(&log)?;
    let faults = said.lines().filter(|line| line.starts_with("E: "));
    Ok(faults.map(str::to_owned).collect())
}

/// Who makes the packages, by the variables that Debian's tools go by.
fn maintainer(variable: impl Fn(&str) -> Option<String>) -> String {
    let set = |name| variable(name).filter(|value| !value.trim().is_empty());
    let name = set("DEBFULLNAME").unwrap_or_else(|| "hmm-odp".into());
    let address = set("DEBEMAIL").or_else(|| set("EMAIL"));
    let address = address.unwrap_or_else(|| {
        let user = set("USER").unwrap_or_else(|| "root".into());
        let host = set("HOSTNAME").unwrap_or_else(|| "localhost".into());
        format!("{user}@{host}")
    });
    match address.contains('<') {
        true => address,
        false => format!("{name} <{address}>"),
    }
}

/// Where the tag of the version is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// Nowhere yet.
    ToCome,
    Here,
    /// At an earlier commit: the version has not been raised since.
    Earlier,
}

/// What git knows of the sources.
struct Sources {
    tag: Tag,
    /// Whether a file differs from what was committed.
    changed: bool,
    /// When they were committed, as YYYYMMDD.HHMMSS in UTC.
    time: String,
    commit: String,
}

/// The packages' version: that of `Cargo.toml` if the sources are those of its tag, or nobody knows; else one that is above
/// those of all earlier commits, and below it until it is released, above it from then on.
fn version(repository: &Repository) -> String {
    let base = env!("CARGO_PKG_VERSION");
    let name = format!("v{base}");
    let has = |which| Some(git(repository, &["tag", which, "HEAD", "--list", &name])? == name);
    let known = || {
        Some(Sources {
            tag: match (has("--points-at")?, has("--merged")?) {
                (true, _) => Tag::Here,
                (false, true) => Tag::Earlier,
                (false, false) => Tag::ToCome,
            },
            changed: !git(repository, &["status", "--porcelain", "-uno"])?.is_empty(),
            time: git(
                repository,
                &[
                    "log",
                    "-1",
                    "--date=format-local:%Y%m%d.%H%M%S",
                    "--format=%cd",
                ],
            )?,
            commit: git(repository, &["rev-parse", "--short=7", "HEAD"])?,
        })
    };
    version_of(base, known().as_ref())
}

fn version_of(base: &str, sources: Option<&Sources>) -> String {
    let Some(sources) = sources else {
        return base.into();
    };
    // For dpkg `~` is below nothing at all.
    let sign = match sources.tag {
        Tag::Here if !sources.changed => return base.into(),
        Tag::ToCome => '~',
        Tag::Here | Tag::Earlier => '+',
    };
    let changed = if sources.changed { ".changed" } else { "" };
    format!(
        "{base}{sign}git{}.{}{changed}",
        sources.time, sources.commit
    )
}

/// When the sources were changed last, as far as git knows.
fn changed(repository: &Repository) -> u64 {
    let time = git(repository, &["log", "-1", "--format=%ct"]);
    time.and_then(|time| time.parse().ok()).unwrap_or(0)
}

/// What git says of the repository, if it is one of git's.
fn git(repository: &Repository, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(repository.root())
        .env("TZ", "UTC")
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maintainer_is_who_debian_says() {
        let with = |pairs: &'static [(&str, &str)]| {
            maintainer(|name| {
                let mut all = pairs.iter();
                let found = all.find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(
            with(&[("DEBFULLNAME", "A B"), ("DEBEMAIL", "a@b.c")]),
            "A B <a@b.c>"
        );
        assert_eq!(with(&[("EMAIL", "A <a@b.c>")]), "A <a@b.c>");
        assert_eq!(with(&[("DEBEMAIL", " ")]), "hmm-odp <root@localhost>");
    }

    fn sources(time: &str, commit: &str) -> Sources {
        Sources {
            tag: Tag::ToCome,
            changed: false,
            time: time.into(),
            commit: commit.into(),
        }
    }

    #[test]
    fn a_release_has_its_own_version() {
        let mut here = sources("20261130.052512", "b6b3c1c");
        assert_eq!(
            version_of("0.2.0", Some(&here)),
            "0.2.0~git20261130.052512.b6b3c1c"
        );
        here.tag = Tag::Earlier;
        assert_eq!(
            version_of("0.2.0", Some(&here)),
            "0.2.0+git20261130.052512.b6b3c1c"
        );
        here.tag = Tag::Here;
        assert_eq!(version_of("0.2.0", Some(&here)), "0.2.0");
        here.changed = true;
        assert_eq!(
            version_of("0.2.0", Some(&here)),
            "0.2.0+git20261130.052512.b6b3c1c.changed"
        );
        assert_eq!(version_of("0.2.0", None), "0.2.0");
    }

    #[test]
    fn the_notes_of_a_release_are_those_of_its_version() -> Result<()> {
        let repository = Repository::find()?;
        let notes = |version: &str| {
            Command::new(repository.path(".ci/release"))
                .args(["--notes", version])
                .output()
                .context("running .ci/release")
        };
        let output = notes("0.1.0")?;
        let text = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && text.starts_with("The first version"));
        assert!(notes(env!("CARGO_PKG_VERSION"))?.status.success());
        assert!(!notes("0.0.9")?.status.success());
        Ok(())
    }

    /// By dpkg, which decides what is an upgrade.
    #[test]
    fn versions_grow() -> Result<()> {
        let of = |base, tag, time, commit| {
            let here = sources(time, commit);
            version_of(base, Some(&Sources { tag, ..here }))
        };
        let released = |base| of(base, Tag::Here, "20261202.000000", "c6b3c1c");
        let growing = [
            of("0.2.0", Tag::ToCome, "20261130.052512", "f6b3c1c"),
            of("0.2.0", Tag::ToCome, "20261130.052513", "06b3c1c"),
            of("0.2.0", Tag::ToCome, "20261201.000000", "a6b3c1c"),
            released("0.2.0"),
            of("0.2.0", Tag::Earlier, "20261203.000000", "b6b3c1c"),
            of("0.3.0", Tag::ToCome, "20261204.000000", "06b3c1c"),
            released("0.3.0"),
        ];
        for pair in growing.windows(2) {
            let status = Command::new("dpkg")
                .args(["--compare-versions", &pair[0], "lt", &pair[1]])
                .status()
                .context("asking dpkg")?;
            assert!(status.success(), "{} is not below {}", pair[0], pair[1]);
        }
        Ok(())
    }
}
