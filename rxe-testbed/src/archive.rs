//! The Debian archive: where it is, which suites are used, and the apt settings for it.

use std::process::Command;

/// The suite of the build chroot: the one whose backports carry the kernel.
pub(crate) const BUILD_SUITE: &str = "trixie";

/// The suites of the guest, best first: the newer rdma-core has more ODP tests.
pub(crate) const GUEST_SUITES: &[&str] = &["forky", "trixie"];

/// The mirror, without a trailing slash. `HMM_ODP_MIRROR` names another.
pub(crate) fn mirror() -> String {
    std::env::var("HMM_ODP_MIRROR")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| "http://deb.debian.org/debian".into())
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

/// The sources of the build chroot.
pub(crate) fn build_sources() -> Vec<String> {
    let mirror = mirror();
    vec![
        format!("deb {mirror} {BUILD_SUITE} main"),
        format!("deb {mirror} {BUILD_SUITE}-backports main"),
        format!("deb {} {BUILD_SUITE}-security main", security_mirror()),
    ]
}

/// The sources of a guest of the given suite.
pub(crate) fn guest_sources(suite: &str) -> Vec<String> {
    vec![format!("deb {} {suite} main", mirror())]
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

/// `mmdebstrap` for one of our roots, up to the suite, target and sources.
pub(crate) fn mmdebstrap(namespace: Command, packages: &[&str]) -> Command {
    let mut command = namespace;
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
    for option in apt_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command
}
