// SPDX-License-Identifier: GPL-2.0
//! `doctor`: what is missing on this host, what mends it, and what works all the same. It changes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{anyhow, bail, Context, Result};
use nix::errno::Errno;
use nix::unistd::AccessFlags;

use crate::archive;
use crate::build;
use crate::cache::Cache;
use crate::failure;
use crate::host;
use crate::qemu;
use crate::repository::Repository;
use crate::series::Series;

/// How long the mirror may take, in seconds, to answer and for all of a small file.
const ANSWER: u32 = 10;
const ALL: u32 = 30;

/// What was found out about one thing.
struct Finding {
    what: &'static str,
    outcome: Result<String>,
    /// The command, or what to do, if it is not good.
    mend: Option<String>,
}

/// Tells how the host stands; gives the exit status.
pub(crate) fn run(series: Option<Series>) -> Result<u8> {
    let place = Cache::place();
    let (mut good, mut usable) = (true, false);
    let mut tell = |finding: Finding| {
        let is_good = finding.outcome.is_ok();
        good &= is_good;
        print!("{}", finding.text());
        is_good
    };
    tell(distribution());
    tell(packages());
    tell(namespaces());
    match &place {
        Ok(place) => {
            let cache = Cache::at(place);
            usable = tell(writable(place));
            usable &= tell(disk(place, build::space_needed(&cache)));
        }
        Err(error) => {
            tell(Finding::new("cache", Err(anyhow!("{error:#}"))));
        }
    }
    tell(network());
    tell(accelerator(place.as_deref().ok()));
    let ready = ready(place.as_deref().ok(), series);
    println!("{}", summary(good, ready.filter(|_| usable).as_ref()));
    Ok(u8::from(!good))
}

impl Finding {
    fn new(what: &'static str, outcome: Result<String>) -> Self {
        let mend = None;
        Self {
            what,
            outcome,
            mend,
        }
    }

    fn mend(mut self, how: impl Into<String>) -> Self {
        self.mend = Some(how.into());
        self
    }

    fn text(&self) -> String {
        let mut text = match &self.outcome {
            Ok(detail) => format!("ok    {}: {detail}\n", self.what),
            Err(error) => format!("FAIL  {}: {error:#}\n", self.what),
        };
        if let Some(mend) = &self.mend {
            let _ = writeln!(text, "      mend with: {mend}");
        }
        text
    }
}

fn distribution() -> Finding {
    Finding::new("distribution", host::check_distribution())
}

fn packages() -> Finding {
    let missing = host::missing_packages();
    if missing.is_empty() {
        return Finding::new("packages", Ok("all there".into()));
    }
    let finding = Finding::new("packages", Err(anyhow!("missing {}", missing.join(", "))));
    finding.mend(match host::is_root() {
        true => "`cargo testbed build`, which installs them".into(),
        false => host::install_command(&missing),
    })
}

fn namespaces() -> Finding {
    let outcome = host::namespaces();
    let failed = outcome.is_err();
    let finding = Finding::new("namespaces", outcome.map(|()| "permitted".into()));
    if !failed {
        return finding;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    match mend_namespaces(host::is_root(), &user(), read) {
        Some(mend) => finding.mend(mend),
        None => finding,
    }
}

/// What usually helps where namespaces are refused.
fn mend_namespaces(root: bool, user: &str, read: impl Fn(&str) -> String) -> Option<String> {
    if root {
        return Some(
            "docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined, or the like".into(),
        );
    }
    let mut commands = Vec::new();
    let has_range = |path: &str| {
        read(path)
            .lines()
            .any(|line| line.starts_with(&format!("{user}:")))
    };
    if !has_range("/etc/subuid") || !has_range("/etc/subgid") {
        commands.push(format!(
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        ));
    }
    for (knob, bad, good) in [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ] {
        if read(&format!("/proc/sys/{}", knob.replace('.', "/"))).trim() == bad {
            commands.push(format!("sudo sysctl -w {knob}={good}"));
        }
    }
    (!commands.is_empty()).then(|| commands.join(" && "))
}

/// The name of this user, or the number of one without.
fn user() -> String {
    let id = nix::unistd::geteuid();
    let found = nix::unistd::User::from_uid(id).ok().flatten();
    found.map_or_else(|| id.to_string(), |user| user.name)
}

/// Whether the cache is there and can be written to, or could be made.
fn writable(place: &Path) -> Finding {
    let existing = nearest(place);
    let problem = match nix::unistd::access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if existing.is_dir() => None,
        Ok(()) | Err(Errno::ENOTDIR) => Some("it is no directory"),
        Err(Errno::EROFS) => Some("its file system is read-only"),
        Err(errno) => Some(errno.desc()),
    };
    let shown = place.display();
    let outcome = match problem {
        None if existing == place => Ok(shown.to_string()),
        None => Ok(format!("{shown}, which is not there yet")),
        Some(problem) if existing == place => Err(anyhow!("cannot write to {shown}: {problem}")),
        Some(problem) => Err(anyhow!(
            "cannot make {shown} in {}: {problem}",
            existing.display()
        )),
    };
    let failed = outcome.is_err();
    let finding = Finding::new("cache", outcome);
    match failed {
        true => finding.mend("HMM_ODP_CACHE=DIRECTORY, where this user may write"),
        false => finding,
    }
}

/// The nearest that exists of a path and what it is in.
fn nearest(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
}

fn disk(place: &Path, needed: u64) -> Finding {
    let outcome = host::check_space(nearest(place), needed);
    let outcome = outcome.and_then(|()| host::free_space(nearest(place)));
    Finding::new(
        "disk",
        outcome.map(|free| format!("{} free", host::gib(free))),
    )
}

/// Whether the files that describe the archive can be had from the mirrors.
fn network() -> Finding {
    let urls = archive::descriptions();
    let outcome = urls.iter().try_for_each(|url| reach(url));
    let failed = outcome.is_err();
    let reached = format!("{} answers", archive::mirror());
    let finding = Finding::new("network", outcome.map(|()| reached));
    match failed {
        true => finding.mend(
            "HMM_ODP_MIRROR and HMM_ODP_SECURITY_MIRROR name other mirrors, http_proxy a proxy",
        ),
        false => finding,
    }
}

/// Downloads a small file as apt does, by its proxy, for instance.
fn reach(url: &str) -> Result<()> {
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    let mut command = Command::new("timeout");
    command.arg(ALL.to_string()).arg("/usr/lib/apt/apt-helper");
    for scheme in ["http", "https"] {
        command.args(["-o", &format!("Acquire::{scheme}::Timeout={ANSWER}")]);
    }
    command.args(["-o", "Acquire::Retries=0", "-o", "APT::Sandbox::User=root"]);
    command
        .args(["download-file", url])
        .arg(scratch.path().join("file"));
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("starting apt-helper")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{url}: {}",
        refusal(&String::from_utf8_lossy(&output.stderr))
    );
}

/// Why apt could not download something.
fn refusal(said: &str) -> String {
    let reason = said.lines().rev().find_map(|line| line.strip_prefix("E: "));
    match (failure::network(said), reason) {
        (Some(cause), _) => cause.into(),
        (None, Some(reason)) => reason.trim().into(),
        (None, None) => "no answer in time".into(),
    }
}

/// What will run the VM's processors. All works with emulation, too.
fn accelerator(place: Option<&Path>) -> Finding {
    let node = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    let probed = place.and_then(|place| qemu::probed(&Cache::at(place)));
    let refused =
        matches!(&node, Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied);
    let what = match (&node, probed) {
        (Ok(_), Some(true)) => "KVM".into(),
        (Ok(_), Some(false)) => "software emulation: /dev/kvm is there, but boots no kernel".into(),
        (Ok(_), None) => {
            "KVM, if the first VM finds that it boots a kernel; otherwise software emulation".into()
        }
        (Err(error), _) => format!(
            "software emulation, which is slower: /dev/kvm: {}",
            reason(error)
        ),
    };
    let finding = Finding::new("processor", Ok(what));
    match refused && !host::is_root() {
        true => finding.mend(format!(
            "sudo usermod --append --groups kvm {}, for KVM",
            user()
        )),
        false => finding,
    }
}

/// An error of the system's without its number.
fn reason(error: &std::io::Error) -> &'static str {
    error
        .raw_os_error()
        .map_or("it cannot be opened", |code| Errno::from_raw(code).desc())
}

/// What the cache has of all that a VM takes, for people.
#[derive(Clone, Debug)]
struct Ready {
    release: String,
    modules: bool,
    programs: bool,
}

fn ready(place: Option<&Path>, series: Option<Series>) -> Option<Ready> {
    // An artefact's key may have the cache's place in it, which is without symbolic links.
    let place: PathBuf = place?.canonicalize().ok()?;
    let here = build::at_hand(&Cache::at(&place), &Repository::find().ok()?, series)?;
    Some(Ready {
        release: here.kernel.version.release,
        modules: here.modules,
        programs: here.programs.is_some(),
    })
}

/// What can be done here.
fn summary(good: bool, ready: Option<&Ready>) -> String {
    let Some(ready) = ready else {
        return match good {
            true => {
                "Nothing is missing. The cache is empty or old: the next call builds what it takes."
            }
            false => "Until that is mended no VM can be had: nothing can be built.",
        }
        .into();
    };
    let has = match (ready.modules, ready.programs) {
        (true, true) => "the modules and programs of these sources",
        (true, false) => "the modules of these sources, and perhaps older programs",
        (false, true) => "the stock driver (--driver stock), but not the modules of these sources",
        (false, false) => {
            "the stock driver (--driver stock), but neither modules nor programs of these sources"
        }
    };
    let release = &ready.release;
    match good {
        true => format!("Nothing is missing. The cache has Linux {release} with {has}."),
        false => format!(
            "What is in the cache works all the same: `exec` and `shell` boot Linux {release} with {has}. \
             Nothing new can be built."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_sent_to_sudo() {
        let mend = mend_namespaces(true, "root", |_| String::new()).unwrap_or_default();
        assert!(
            mend.contains("SYS_ADMIN") && !mend.contains("sudo"),
            "{mend}"
        );
    }

    #[test]
    fn a_user_is_told_what_is_missing_and_nothing_else() {
        let with = |range: &'static str, knob: &'static str| {
            mend_namespaces(false, "eva", move |path| match path {
                "/etc/subuid" | "/etc/subgid" => range.into(),
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns" => knob.into(),
                _ => String::new(),
            })
        };
        assert_eq!(with("eva:100000:65536\n", "0\n"), None);
        let mend = with("evan:100000:65536\n", "0\n").unwrap_or_default();
        assert!(mend.ends_with("100000-165535 eva"), "{mend}");
        let mend = with("eva:100000:65536\n", "1\n").unwrap_or_default();
        assert_eq!(
            mend,
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        );
    }

    #[test]
    fn nothing_is_made_where_the_cache_would_be() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let place = dir.path().join("a/b");
        let finding = writable(&place);
        assert!(
            finding.text().starts_with("ok    cache: "),
            "{}",
            finding.text()
        );
        assert!(finding.text().contains("not there yet"));
        assert!(disk(&place, 0).outcome.is_ok());
        assert!(disk(&place, u64::MAX).outcome.is_err());
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_cache_that_cannot_be_made_does_not_end_the_examination() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        std::fs::write(&file, "")?;
        let text = writable(&file.join("cache")).text();
        assert!(text.starts_with("FAIL  cache: cannot make "), "{text}");
        assert!(text.contains("mend with: HMM_ODP_CACHE="), "{text}");
        Ok(())
    }

    #[test]
    fn what_apt_says_is_explained() {
        let said = "Err:1 http://x\n  Temporary failure resolving 'x'\nE: Download Failed\n";
        assert!(refusal(said).contains("does not resolve"));
        let said =
            "  404  Not Found [IP: 1.2.3.4 80]\nE: Failed to fetch http://x 404  Not Found\n";
        assert!(refusal(said).contains("404"), "{}", refusal(said));
        assert_eq!(refusal(""), "no answer in time");
    }

    #[test]
    fn what_works_is_said_though_something_is_missing() {
        let ready = Ready {
            release: "7.3.4".into(),
            modules: true,
            programs: false,
        };
        let text = summary(false, Some(&ready));
        assert!(text.contains("`exec`") && text.contains("7.3.4"), "{text}");
        assert!(summary(false, None).contains("no VM"));
        let text = summary(
            true,
            Some(&Ready {
                modules: false,
                ..ready
            }),
        );
        assert!(text.contains("--driver stock"), "{text}");
    }
}
