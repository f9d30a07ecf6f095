// SPDX-License-Identifier: GPL-2.0
//! What of the host a VM has that stays, and how the host reaches it: ports over QEMU's user-mode network, for which
//! nobody has to be root, a folder, a debugger.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

/// The port of the guest's ssh server.
pub(crate) const SSH: u16 = 22;

/// The address of the card on the user-mode network, by which the guest's `reach.sh` knows it.
const MAC: &str = "52:54:00:77:01:00";

/// A port of the guest that is one of the host's, for programs on the host only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forward {
    /// On the host.
    pub(crate) host: u16,
    /// In the guest.
    pub(crate) guest: u16,
}

impl Forward {
    /// Reads `HOST:GUEST`.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let ports = text.split_once(':');
        match ports.map(|(host, guest)| (port(host), port(guest))) {
            Some((Some(host), Some(guest))) => Ok(Self { host, guest }),
            _ => Err("not of the form HOST:GUEST, two ports from 1 to 65535".into()),
        }
    }
}

/// How a VM is reached, and what it reaches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Its ports.
    pub(crate) forwards: Vec<Forward>,
    /// The folder of the host that it has.
    pub(crate) share: Option<PathBuf>,
    /// Where QEMU listens for a debugger.
    pub(crate) gdb: Option<u16>,
}

impl Reach {
    /// One with a port for ssh, whichever is free if none is asked for. Fails if a port is not free, or is meant for two
    /// things.
    pub(crate) fn new(
        mut forwards: Vec<Forward>,
        share: Option<PathBuf>,
        gdb: Option<u16>,
    ) -> Result<Self> {
        for (index, forward) in forwards.iter().enumerate() {
            let before = &forwards[..index];
            if before.iter().any(|other| other.host == forward.host) {
                bail!("--forward: two for port {} of the host", forward.host);
            }
            listen(forward.host).with_context(|| format!("--forward {}", forward.host))?;
        }
        if let Some(port) = gdb {
            if forwards.iter().any(|forward| forward.host == port) {
                bail!("--gdb {port}: the port is forwarded");
            }
            listen(port).with_context(|| format!("--gdb {port}"))?;
        }
        if !forwards.iter().any(|forward| forward.guest == SSH) {
            let host = listen(0)?.local_addr().context("a free port")?.port();
            forwards.push(Forward { host, guest: SSH });
        }
        Ok(Self {
            forwards,
            share,
            gdb,
        })
    }

    /// The port of the host that is the guest's ssh server.
    pub(crate) fn ssh_port(&self) -> Result<u16> {
        let ssh = self.forwards.iter().find(|forward| forward.guest == SSH);
        Ok(ssh.context("no port for ssh")?.host)
    }

    /// QEMU's options and their values.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        let mut network = String::from("user,id=host,ipv6=off");
        for Forward { host, guest } in &self.forwards {
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        let card = format!("virtio-net-pci,netdev=host,mac={MAC},romfile=");
        let mut options = vec![("-netdev", network), ("-device", card)];
        if let Some(folder) = &self.share {
            let path = folder.display().to_string().replace(',', ",,");
            // What the guest's root makes is the user's who runs QEMU.
            let folder = format!("local,id=share,path={path},security_model=none,multidevs=remap");
            options.push(("-fsdev", folder));
            let device = "virtio-9p-pci,fsdev=share,mount_tag=share";
            options.push(("-device", device.into()));
        }
        if let Some(port) = self.gdb {
            options.push(("-gdb", format!("tcp:127.0.0.1:{port}")));
        }
        options
    }

    /// What the kernel has to be told: a debugger finds it where it was linked.
    pub(crate) fn command_line(&self) -> &'static str {
        match self.gdb {
            Some(_) => " nokaslr",
            None => "",
        }
    }
}

/// Takes a port of this host, any that is free for 0, for as long as the listener is held.
fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .context("the port cannot be had on this host: name another")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_has_two_ports() {
        let both = Forward {
            host: 8080,
            guest: 80,
        };
        assert_eq!(Forward::parse("8080:80"), Ok(both));
        for wrong in [
            "", "80", ":80", "80:", "0:80", "80:0", "65536:80", "a:b", "1:2:3",
        ] {
            assert!(Forward::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_is_a_port_for_ssh() -> Result<()> {
        let any = Reach::new(Vec::new(), None, None)?;
        assert_ne!(any.ssh_port()?, 0);
        let taken = listen(0)?;
        let port = taken.local_addr()?.port();
        let ssh = Forward {
            host: port,
            guest: SSH,
        };
        let refused = Reach::new(vec![ssh], None, None).unwrap_err();
        assert!(
            format!("{refused:#}").contains("name another"),
            "{refused:#}"
        );
        assert!(Reach::new(Vec::new(), None, Some(port)).is_err());
        Ok(())
    }

    #[test]
    fn a_port_of_the_host_is_for_one_thing() -> Result<()> {
        let host = listen(0)?.local_addr()?.port();
        let forward = |guest| Forward { host, guest };
        assert!(Reach::new(vec![forward(80), forward(81)], None, None).is_err());
        assert!(Reach::new(vec![forward(80)], None, Some(host)).is_err());
        Ok(())
    }

    #[test]
    fn qemu_has_what_is_asked_for_and_nobody_else_s_ports() {
        let reach = Reach {
            forwards: vec![Forward {
                host: 2222,
                guest: 22,
            }],
            share: Some("/a,b".into()),
            gdb: Some(1234),
        };
        let options = reach.options();
        let has = |name: &str, value: &str| {
            let found = |(option, text): &(&str, String)| *option == name && text.contains(value);
            assert!(options.iter().any(found), "{name} {value}");
        };
        has("-netdev", "hostfwd=tcp:127.0.0.1:2222-:22");
        has("-fsdev", "path=/a,,b,security_model=none");
        has("-gdb", "tcp:127.0.0.1:1234");
        assert_eq!(reach.command_line(), " nokaslr");
        assert_eq!(Reach::default().options().len(), 2);
    }
}
