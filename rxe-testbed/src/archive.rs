// SPDX-License-Identifier: GPL-2.0
//! The Debian archive: where it is, which suites are used, and the apt settings for it.

use std::path::Path;
use std::process::Command;

use crate::host;

/// The suite of the build chroot: the one whose backports carry the kernel.
pub(crate) const BUILD_SUITE: &str = "trixie";

/// The suites of the guest, best first: the newer rdma-core has more ODP tests.
pub(crate) const GUEST_SUITES: &[&str] = &["forky", "trixie"];

/// The mirror that everybody reaches.
const PUBLIC: &str = "http://deb.debian.org/debian";

/// The mirror, without a trailing slash. `HMM_ODP_MIRROR` names another.
pub(crate) fn mirror() -> String {
    std::env::var("HMM_ODP_MIRROR")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| PUBLIC.into())
        .trim_end_matches('/')
        .to_owned()
}

/// The security mirror. `HMM_ODP_SECURITY_MIRROR` names another.
fn security_mirror() -> String {
    std::env::var("HMM_ODP_SECURITY_MIRROR")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| "http://deb.debian.org/debian-security".into())
}

/// How to get what the archive has no more: all of its states of earlier days are kept. That they have expired does
/// not matter ([`apt_options`]).
pub(crate) const EARLIER: &str =
    "HMM_ODP_MIRROR=http://snapshot.debian.org/archive/debian/YYYYMMDD is the archive of an earlier day";

fn source(mirror: &str, suite: &str) -> String {
    format!("deb {mirror} {suite} main")
}

/// The sources of the build chroot.
pub(crate) fn build_sources() -> Vec<String> {
    vec![
        source(&mirror(), BUILD_SUITE),
        source(&mirror(), &format!("{BUILD_SUITE}-backports")),
        source(&security_mirror(), &format!("{BUILD_SUITE}-security")),
    ]
}

/// The files that the rest of the archive is found by, those that a build takes from each mirror.
pub(crate) fn descriptions() -> [String; 2] {
    [
        format!("{}/dists/{BUILD_SUITE}-backports/InRelease", mirror()),
        format!(
            "{}/dists/{BUILD_SUITE}-security/InRelease",
            security_mirror().trim_end_matches('/')
        ),
    ]
}

/// The sources of a guest of the given suite.
pub(crate) fn guest_sources(suite: &str) -> Vec<String> {
    vec![source(&mirror(), suite)]
}

/// The sources of a machine of the given suite that goes elsewhere, where this host's mirror may be out of reach.
pub(crate) fn public_sources(suite: &str) -> Vec<String> {
    vec![source(PUBLIC, suite)]
}

/// apt's settings for every use of the archive: a mirror may lag behind its own expiry date, and
/// the host's proxy is ours.
pub(crate) fn apt_options() -> Vec<String> {
    let mut options = vec![
        "Acquire::Check-Valid-Until \"false\";".to_owned(),
        "Acquire::Retries \"2\";".to_owned(),
        "Acquire::Languages \"none\";".to_owned(),
    ];
    for scheme in ["http", "https"] {
        let setting = format!("Acquire::{scheme}::Proxy");
        if let Some(proxy) = host_apt_setting(&setting) {
            options.push(format!("{setting} \"{proxy}\";"));
        }
    }
    options
}

fn host_apt_setting(name: &str) -> Option<String> {
    let output = Command::new("apt-config")
        .args(["--format", "%v", "dump", name])
        .output()
        .ok()?;
    let value = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// The command that makes a Debian root of `suite` in `target`, with or without apt's package lists.
pub(crate) fn mmdebstrap(
    packages: &[&str],
    suite: &str,
    target: &Path,
    sources: &[String],
    keep_lists: bool,
) -> Command {
    let mut command = host::namespace();
    command.args([
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
    ]);
    command.arg(format!("--include={}", packages.join(",")));
    command.args([
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/rdma-core/*",
    ]);
    if keep_lists {
        command.arg("--skip=cleanup/apt/lists");
    }
    for option in apt_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg(suite).arg(target);
    // The host's apt may not trust Debian's keys by itself: Ubuntu's does not.
    let signed = format!("deb [signed-by={}] ", host::KEYRING);
    command.args(
        sources
            .iter()
            .map(|source| source.replacen("deb ", &signed, 1)),
    );
    command
}
