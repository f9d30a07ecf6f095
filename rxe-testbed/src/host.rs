// SPDX-License-Identifier: GPL-2.0
//! The host: its distribution, the few packages that it needs, namespaces, disk space.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{anyhow, bail, Context, Result};

use crate::process;
use crate::ui::Step;

/// Where the keys of Debian's archive are.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A program that the host must have, and the Debian and Ubuntu package that brings it.
struct Tool {
    /// A file that shows that the package is installed, or a program's name.
    shows: &'static str,
    package: &'static str,
    only_unprivileged: bool,
}

const TOOLS: &[Tool] = &[
    Tool {
        shows: "mmdebstrap",
        package: "mmdebstrap",
        only_unprivileged: false,
    },
    Tool {
        shows: KEYRING,
        package: "debian-archive-keyring",
        only_unprivileged: false,
    },
    Tool {
        shows: "unshare",
        package: "util-linux",
        only_unprivileged: false,
    },
    Tool {
        shows: "chroot",
        package: "coreutils",
        only_unprivileged: false,
    },
    Tool {
        shows: "newuidmap",
        package: "uidmap",
        only_unprivileged: true,
    },
];

/// Where programs are looked for: Debian's `PATH` for others than root lacks the directories of `chroot` and the like.
fn search_path() -> OsString {
    with_sbin(&std::env::var_os("PATH").unwrap_or_default())
}

fn with_sbin(path: &OsStr) -> OsString {
    let mut all = path.to_owned();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !std::env::split_paths(path).any(|known| known == Path::new(dir)) {
            if !all.is_empty() {
                all.push(":");
            }
            all.push(dir);
        }
    }
    all
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `unshare` with what both root and others need to build a Debian root in: own mounts and
/// processes, and, for others, a user namespace in which they are root.
pub(crate) fn namespace() -> Command {
    let mut command = Command::new("unshare");
    command.env("PATH", search_path());
    command.args(["--mount", "--pid", "--fork", "--kill-child"]);
    if !is_root() {
        command.args(["--user", "--map-auto", "--map-root-user"]);
    }
    command.arg("--");
    command
}

/// Removes a tree, also one with files of the user namespace's other users.
pub(crate) fn remove_tree(path: &Path) {
    if std::fs::remove_dir_all(path).is_ok() || !path.exists() {
        return;
    }
    let _ = std::fs::remove_file(path);
    if path.exists() {
        let _ = namespace().args(["rm", "-rf", "--"]).arg(path).status();
    }
}

/// A distribution, as os-release has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Distribution {
    id: String,
    /// For people.
    name: String,
    /// Nothing where there is no number yet: Debian's testing and unstable.
    version: Option<(u32, u32)>,
}

impl Distribution {
    fn read(os_release: &str) -> Self {
        let field = |name: &str| {
            os_release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let version = field("VERSION_ID");
        let (major, minor) = version.split_once('.').unwrap_or((version.as_str(), "0"));
        Self {
            id: field("ID"),
            name: field("PRETTY_NAME"),
            version: major.parse().ok().zip(minor.parse().ok()),
        }
    }

    /// Whether it is one that this program is made for.
    fn is_supported(&self) -> bool {
        let oldest = match self.id.as_str() {
            "debian" => (12, 0),
            // The `unshare` of 22.04 has no `--map-auto`.
            "ubuntu" => (24, 4),
            _ => return false,
        };
        self.version.is_none_or(|version| version >= oldest)
    }
}

/// Fails unless the host is one that this program is made for.
pub(crate) fn check_distribution() -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "only x86-64 hosts are supported, this is {}",
            std::env::consts::ARCH
        );
    }
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let found = Distribution::read(&text);
    if !found.is_supported() {
        let name = match found.name.is_empty() {
            true => "this",
            false => &found.name,
        };
        bail!(
            "unsupported distribution: {name}. Debian 12 or newer or Ubuntu 24.04 or newer is needed"
        );
    }
    Ok(found.name)
}

fn exists(shows: &str) -> bool {
    if shows.starts_with('/') {
        return Path::new(shows).exists();
    }
    std::env::split_paths(&search_path()).any(|dir| dir.join(shows).is_file())
}

/// The packages that the host lacks.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    TOOLS
        .iter()
        .filter(|tool| !(tool.only_unprivileged && is_root()))
        .filter(|tool| !exists(tool.shows))
        .map(|tool| tool.package)
        .collect()
}

/// The command that installs `packages`.
pub(crate) fn install_command(packages: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    let packages = packages.join(" ");
    format!("{sudo}apt-get update && {sudo}apt-get install --no-install-recommends {packages}")
}

/// Installs what the host lacks, or says how.
pub(crate) fn ensure_packages(log: &Path) -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "the host lacks {}: run `{}`",
            missing.join(" and "),
            install_command(&missing)
        );
    }
    let step = Step::start(format!("installing {} on this host", missing.join(", ")));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-q")
            .args(args);
        command
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    // Package lists that are missing or too old are the usual reason to fail: then renew them.
    if !process::run_to_log(apt(&install), log, &step)?.success() {
        process::run_logged(apt(&["update"]), log, &step).context("apt-get update")?;
        process::run_logged(apt(&install), log, &step).context("installing packages")?;
    }
    step.done();
    Ok(())
}

/// Whether this user can become root in a user namespace and enter another root there; the reason why not otherwise.
pub(crate) fn namespaces() -> Result<()> {
    let output = namespace()
        .args(["chroot", "/", "/usr/bin/env", "true"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start unshare")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    if is_root() {
        bail!("this root may not mount anything, as in most containers ({reason})");
    }
    bail!("this user cannot make a user namespace ({reason})");
}

/// Fails where nothing can be built for lack of namespaces.
pub(crate) fn check_namespaces() -> Result<()> {
    namespaces().map_err(|error| anyhow!("{error:#}: see `cargo testbed doctor`"))
}

/// Fails unless `path`'s file system has `needed` bytes free.
pub(crate) fn check_space(path: &Path, needed: u64) -> Result<()> {
    let free = free_space(path)?;
    if free < needed {
        bail!(
            "not enough disk space in {}: {} free, {} needed; free some or set HMM_ODP_CACHE to a \
             roomier disk",
            path.display(),
            gib(free),
            gib(needed)
        );
    }
    Ok(())
}

/// The bytes that this user may still write to `path`'s file system.
pub(crate) fn free_space(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)
        .with_context(|| format!("asking for the free space of {}", path.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// A size for people.
pub(crate) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The name of this boot of the host: what the kernel can do may differ after the next.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The number of processors to build with.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_sbin_are_found_with_the_path_of_an_ordinary_user() {
        let user = OsStr::new("/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games");
        let path = with_sbin(user);
        assert!(path
            .to_str()
            .is_some_and(|path| path.starts_with("/usr/local/bin:/usr/bin:")));
        let found = Command::new("sh")
            .args(["-c", "command -v chroot"])
            .env("PATH", &path)
            .output()
            .unwrap();
        assert!(found.status.success(), "{path:?}");
        assert_eq!(with_sbin(&path), path);
        assert_eq!(with_sbin(OsStr::new("")), "/usr/local/sbin:/usr/sbin:/sbin");
    }

    #[test]
    fn os_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n";
        let found = Distribution::read(text);
        assert_eq!(found.id, "debian");
        assert_eq!(found.name, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(found.version, Some((12, 0)));
        assert_eq!(Distribution::read(""), Distribution::default());
    }

    #[test]
    fn old_distributions_are_refused() {
        let supported = |id: &str, version: &str| {
            let text = format!("ID={id}\nVERSION_ID=\"{version}\"\n");
            Distribution::read(&text).is_supported()
        };
        for (id, version) in [
            ("debian", "12"),
            ("debian", "13"),
            ("debian", "14"),
            ("ubuntu", "24.04"),
            ("ubuntu", "26.04"),
        ] {
            assert!(supported(id, version), "{id} {version}");
        }
        for (id, version) in [("debian", "11"), ("ubuntu", "22.04"), ("fedora", "44")] {
            assert!(!supported(id, version), "{id} {version}");
        }
        // forky and sid have no number.
        assert!(Distribution::read("ID=debian\nPRETTY_NAME=\"forky/sid\"\n").is_supported());
    }
}
