// SPDX-License-Identifier: GPL-2.0
//! What a boot brings along: a tar archive that the initramfs unpacks over the root.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::build::World;

const STOCK_FAULTS: &str = include_str!("../guest/stock-faults.sh");

/// The guest's scripts and where they go.
const SCRIPTS: &[(&str, &str)] = &[
    (
        "usr/local/lib/testbed/runner",
        include_str!("../guest/runner.sh"),
    ),
    (
        "usr/local/sbin/rxe-driver",
        include_str!("../guest/rxe-driver.sh"),
    ),
    (
        "usr/local/lib/testbed/pair",
        include_str!("../guest/pair.sh"),
    ),
    (
        "usr/local/lib/testbed/beside",
        include_str!("../guest/beside.sh"),
    ),
    (
        "usr/local/lib/testbed/network",
        include_str!("../guest/network.sh"),
    ),
    (
        "usr/local/lib/testbed/reach",
        include_str!("../guest/reach.sh"),
    ),
    (
        "usr/local/lib/testbed/uses-odp",
        include_str!("../guest/uses-odp.sh"),
    ),
    (
        "usr/local/lib/testbed/numbered-files",
        include_str!("../guest/numbered-files.py"),
    ),
    (
        "usr/local/lib/testbed/nvme-over-rdma",
        include_str!("../guest/nvme-over-rdma.sh"),
    ),
    (
        "usr/local/lib/testbed/nfs-over-rdma",
        include_str!("../guest/nfs-over-rdma.sh"),
    ),
    (
        "usr/local/lib/testbed/as-user",
        include_str!("../guest/as-user.sh"),
    ),
    (
        "usr/local/lib/testbed/mpi-ring",
        include_str!("../guest/mpi-ring.py"),
    ),
    (
        "usr/local/lib/testbed/small-cgroup",
        include_str!("../guest/small-cgroup.py"),
    ),
    ("usr/local/lib/testbed/ucx", include_str!("../guest/ucx.sh")),
    (
        "usr/local/lib/testbed/with-module",
        include_str!("../guest/with-module.sh"),
    ),
    (
        "usr/local/lib/testbed/mlx5",
        include_str!("../guest/mlx5.sh"),
    ),
    (
        "usr/local/lib/testbed/mlx5-odp",
        include_str!("../guest/mlx5-odp.sh"),
    ),
    (
        "usr/local/lib/testbed/mlx5-faults",
        include_str!("../guest/mlx5-faults.py"),
    ),
    (
        "usr/local/lib/testbed/load-unload",
        include_str!("../guest/load-unload.sh"),
    ),
    (
        "usr/local/lib/testbed/type-information",
        include_str!("../guest/type-information.sh"),
    ),
    (
        "usr/local/lib/testbed/come-and-go",
        include_str!("../guest/come-and-go.sh"),
    ),
    ("usr/local/lib/testbed/stock-faults", STOCK_FAULTS),
    (
        "usr/local/lib/testbed/packages",
        include_str!("../guest/packages.sh"),
    ),
    (
        "usr/local/lib/testbed/pmem",
        include_str!("../guest/pmem.sh"),
    ),
    (
        "usr/local/lib/testbed/with-swap",
        include_str!("../guest/with-swap.sh"),
    ),
    (
        "usr/local/lib/testbed/bench-options",
        include_str!("../guest/bench-options.sh"),
    ),
    (
        "usr/local/lib/testbed/bench-errors",
        include_str!("../guest/bench-errors.sh"),
    ),
    (
        "usr/local/lib/testbed/parameters",
        include_str!("../guest/parameters.sh"),
    ),
    (
        "usr/local/lib/testbed/bench-suites",
        include_str!("../guest/bench-suites.sh"),
    ),
    (
        "usr/local/lib/testbed/prefetch-removal",
        include_str!("../guest/prefetch-removal.sh"),
    ),
    (
        "usr/local/lib/testbed/removal",
        include_str!("../guest/removal.sh"),
    ),
    (
        "usr/local/lib/testbed/waiting-removal",
        include_str!("../guest/waiting-removal.sh"),
    ),
    (
        "usr/local/lib/testbed/kmemleak",
        include_str!("../guest/kmemleak.sh"),
    ),
    (
        "usr/local/lib/testbed/pyverbs-tests",
        include_str!("../guest/pyverbs-tests.py"),
    ),
    (
        "usr/local/lib/testbed/device_tests.py",
        include_str!("../../hmm/tests/device_tests.py"),
    ),
    (
        "usr/local/lib/testbed/edu_device.py",
        include_str!("../../hmm/edu/tests/edu_device.py"),
    ),
    (
        "usr/local/lib/testbed/sleeping-device",
        include_str!("../../hmm/edu/tests/sleeping-device.py"),
    ),
    (
        "usr/local/lib/testbed/dma-tests",
        include_str!("../../hmm/edu/tests/dma-tests.py"),
    ),
    (
        "usr/local/lib/testbed/device-memory",
        include_str!("../../hmm/dmirror/tests/device-memory.py"),
    ),
];

/// The parts of depmod's index that `modprobe` reads and that differ between the drivers.
const INDEX: &[&str] = &[
    "modules.dep",
    "modules.dep.bin",
    "modules.alias.bin",
    "modules.symbols.bin",
];

/// A file for the guest, root's there, that is none on the host or another's.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// Its place in the guest, from the root but without a leading slash.
    pub(crate) guest: &'static str,
    /// What it has.
    pub(crate) text: String,
    /// Who may read it.
    pub(crate) mode: u32,
}

/// A file or directory of the host and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// On the host.
    pub(crate) host: PathBuf,
    /// In the guest, from the root.
    pub(crate) guest: String,
}

impl Put {
    /// Reads `HOST:GUEST`. A guest path that ends with `/` is a directory to put it in; one that
    /// does not begin with `/` is below `/root`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (host, guest) = halves(text, "HOST:GUEST")?;
        let name = Path::new(host)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let mut guest = absolute(guest);
        if guest.ends_with('/') {
            guest.push_str(&name);
        }
        let host = PathBuf::from(host);
        if !host.exists() {
            bail!("--put: there is no {} on the host", host.display());
        }
        Ok(Self { host, guest })
    }
}

/// A file or directory of the guest and its place on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    /// In the guest, from the root.
    pub(crate) guest: String,
    /// On the host.
    pub(crate) host: PathBuf,
}

impl Get {
    /// Reads `GUEST:HOST`. A host path that is a directory is one to put it in.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (guest, host) = halves(text, "GUEST:HOST")?;
        let guest = absolute(guest.trim_end_matches('/'));
        let name = Path::new(&guest)
            .file_name()
            .context("--get: which file?")?;
        let mut path = PathBuf::from(host);
        if path.is_dir() || host.ends_with('/') {
            path.push(name);
        }
        Ok(Self { guest, host: path })
    }
}

fn halves<'a>(text: &'a str, form: &str) -> Result<(&'a str, &'a str)> {
    match text.split_once(':') {
        Some((first, second)) if !first.is_empty() && !second.is_empty() => Ok((first, second)),
        _ => bail!("`{text}` is not of the form {form}"),
    }
}

fn absolute(guest: &str) -> String {
    if guest.starts_with('/') {
        guest.to_owned()
    } else {
        format!("/root/{guest}")
    }
}

/// Writes the archive: the guest's scripts, our modules if they are wanted, our programs, texts, the user's files.
pub(crate) fn write_archive(
    path: &Path,
    world: &World,
    with_ours: bool,
    texts: &[Text],
    puts: &[Put],
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("writing {}", path.display()))?;
    let mut archive = tar::Builder::new(file);
    archive.follow_symlinks(false);
    // The guest's tar does not know the entries for files with holes.
    archive.sparse(false);
    for (inside, text) in SCRIPTS {
        add_text(&mut archive, inside, text, 0o755)?;
    }
    for Text { guest, text, mode } in texts {
        add_text(&mut archive, guest, text, *mode)?;
    }
    let stock = world.kernel.modules();
    for name in INDEX {
        let inside = format!("usr/local/lib/testbed/index/stock/{name}");
        add_file(&mut archive, &stock.join(name), &inside)?;
    }
    if let (true, Some(ours)) = (with_ours, &world.modules) {
        for name in INDEX {
            let inside = format!("usr/local/lib/testbed/index/ours/{name}");
            add_file(&mut archive, &ours.index().join(name), &inside)?;
        }
        let updates = format!("usr/lib/modules/{}/updates", world.kernel.version.release);
        for module in ours.files()? {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            add_file(&mut archive, &module, &format!("{updates}/{name}"))?;
        }
    }
    for program in world.programs.files()? {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        add_file(&mut archive, &program, &format!("usr/local/bin/{name}"))?;
    }
    for put in puts {
        let inside = put.guest.trim_start_matches('/');
        let result = if put.host.is_dir() {
            archive.append_dir_all(inside, &put.host)
        } else {
            return_file(&mut archive, &put.host, inside)
        };
        result.with_context(|| format!("--put {}", put.host.display()))?;
    }
    archive.finish().context("writing the session's archive")
}

fn add_text(archive: &mut tar::Builder<File>, inside: &str, text: &str, mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    archive
        .append_data(&mut header, inside, text.as_bytes())
        .with_context(|| format!("adding {inside} to the session's archive"))
}

fn add_file(archive: &mut tar::Builder<File>, host: &Path, inside: &str) -> Result<()> {
    return_file(archive, host, inside)
        .with_context(|| format!("adding {} to the session's archive", host.display()))
}

fn return_file(archive: &mut tar::Builder<File>, host: &Path, inside: &str) -> std::io::Result<()> {
    archive.append_file(inside, &mut File::open(host)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_stock_s_faults_are_tests() -> Result<()> {
        let sources = crate::repository::Repository::find()?.path("userspace-bench/odp-test/src");
        let mut tests = String::new();
        for file in crate::cache::files_under(&sources, &[])? {
            tests.push_str(&std::fs::read_to_string(file)?);
        }
        let lists = ["\nharmless='", "\ndangerous='"].map(|list| {
            let rest = STOCK_FAULTS.split_once(list).map_or("", |(_, rest)| rest);
            rest.split_once("'\n").map_or("", |(names, _)| names)
        });
        for names in lists {
            assert!(names.lines().count() > 5, "{names}");
            for name in names.split_whitespace() {
                assert!(tests.contains(&format!("\"{name}\"")), "{name}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_put_names_the_file_or_its_directory() -> Result<()> {
        assert_eq!(Put::parse("/etc/hosts:/tmp/")?.guest, "/tmp/hosts");
        assert_eq!(Put::parse("/etc/hosts:names")?.guest, "/root/names");
        assert!(Put::parse("/etc/hosts").is_err());
        assert!(Put::parse("/no/such/file:/tmp/").is_err());
        Ok(())
    }

    #[test]
    fn a_get_names_the_file_or_its_directory() -> Result<()> {
        assert_eq!(Get::parse("out.txt:/tmp")?.host, Path::new("/tmp/out.txt"));
        assert_eq!(Get::parse("/var/log/:/tmp/mine")?.guest, "/var/log");
        assert!(Get::parse(":/tmp").is_err());
        Ok(())
    }
}
