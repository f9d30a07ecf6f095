// SPDX-License-Identifier: GPL-2.0
//! Logging in to a VM by ssh: keys that are made for it and for nothing else, on both sides, so that nobody has to be
//! asked for a password or whether a host is the right one.
//!
//! The programs are the guest's own, run on the host by the guest's own dynamic loader, as QEMU is by the chroot's: a
//! host needs no ssh.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

use crate::session::Text;

/// What a guest has to have, and not every one has: the smallest image is the one that is booted most.
const PACKAGES: &[&str] = &["openssh-client", "openssh-server"];

/// `packages`, and those that it takes to log in.
pub(crate) fn with_packages(packages: &[String]) -> Vec<String> {
    let more = PACKAGES.iter().map(|name| (*name).to_owned());
    packages.iter().cloned().chain(more).collect()
}

/// The keys of a VM, and the files of ssh beside them.
pub(crate) struct Login {
    /// Where they are.
    dir: PathBuf,
    /// The guest's root, whose programs are used.
    root: PathBuf,
}

impl Login {
    /// Makes keys in `dir`, which nobody else may read. The guest's root is in `root`.
    pub(crate) fn make(dir: &Path, root: &Path) -> Result<Self> {
        let login = Self {
            dir: dir.to_owned(),
            root: root.to_owned(),
        };
        for name in ["key", "host_key"] {
            let mut command = login.program("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f"]);
            command.arg(dir.join(name)).stdin(Stdio::null());
            let output = command.output().context("making the keys for ssh")?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("making the keys for ssh: {}", said.trim());
            }
        }
        Ok(login)
    }

    /// A program of the guest's, run on the host.
    pub(crate) fn program(&self, name: &str) -> Command {
        let words = self.words(name);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// The words of such a command.
    fn words(&self, name: &str) -> Vec<String> {
        let inside = |path: &str| self.root.join(path).display().to_string();
        let library = inside("usr/lib/x86_64-linux-gnu");
        vec![
            inside("usr/lib64/ld-linux-x86-64.so.2"),
            "--library-path".into(),
            library,
            inside(&format!("usr/bin/{name}")),
        ]
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// What the guest's server needs.
    pub(crate) fn server(&self) -> Result<Vec<Text>> {
        let text = |guest, name, mode| -> Result<Text> {
            let text = self.read(name)?;
            Ok(Text { guest, text, mode })
        };
        Ok(vec![
            text("etc/testbed/ssh/host_key", "host_key", 0o600)?,
            text("etc/testbed/ssh/authorized_keys", "key.pub", 0o644)?,
        ])
    }

    /// What else guests need that log in to each other, under any of the names of a `pattern` of ssh's.
    pub(crate) fn among(&self, pattern: &str) -> Result<Vec<Text>> {
        let text = |guest, text, mode| Text { guest, text, mode };
        let known = format!("{pattern} {}", self.read("host_key.pub")?);
        let configuration = "StrictHostKeyChecking yes\nBatchMode yes\nLogLevel ERROR\n";
        Ok(vec![
            text("root/.ssh/id_ed25519", self.read("key")?, 0o600),
            text("root/.ssh/known_hosts", known, 0o644),
            text("root/.ssh/config", configuration.into(), 0o600),
        ])
    }

    /// Writes the client's configuration for the VM that is called `name` and whose server is this `port` of the host.
    /// Gives the words of the command that logs in.
    pub(crate) fn client(&self, name: &str, port: u16) -> Result<Vec<String>> {
        let known = format!("{name} {}", self.read("host_key.pub")?);
        self.write("known_hosts", &known)?;
        self.write("config", &configuration(&self.dir, name, port))?;
        let mut words = self.words("ssh");
        let config = self.dir.join("config").display().to_string();
        words.extend(["-F".into(), config, name.into()]);
        Ok(words)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// What `ssh -F` reads.
fn configuration(dir: &Path, name: &str, port: u16) -> String {
    let file = |name: &str| quoted(&dir.join(name));
    format!(
        "Host {name}\n\
         HostName 127.0.0.1\n\
         Port {port}\n\
         User root\n\
         IdentityFile {}\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         PreferredAuthentications publickey\n\
         UserKnownHostsFile {}\n\
         GlobalKnownHostsFile /dev/null\n\
         HostKeyAlias {name}\n\
         StrictHostKeyChecking yes\n\
         BatchMode yes\n\
         ServerAliveInterval 0\n\
         ConnectTimeout 120\n\
         LogLevel ERROR\n",
        file("key"),
        file("known_hosts"),
    )
}

/// A path in a configuration of ssh's, where it may have spaces, and where `%` would stand for something.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_believes_this_key_only_and_asks_nothing() {
        let text = configuration(Path::new("/a b%/up"), "mine", 2222);
        for line in [
            "IdentityFile \"/a b%%/up/key\"",
            "UserKnownHostsFile \"/a b%%/up/known_hosts\"",
            "StrictHostKeyChecking yes",
            "BatchMode yes",
            "Port 2222",
            "HostKeyAlias mine",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}: {text}");
        }
    }
}
