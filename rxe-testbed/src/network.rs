// SPDX-License-Identifier: GPL-2.0
//! The network segment between VMs: `pair` and `nodes` make one, `vm` hands its ends on, and `qemu` puts a card on each.
//!
//! Between the two of a pair it is a pair of datagram sockets, a datagram for each frame; between nodes a switch. Nothing
//! else is on it, and the host's network is not involved. The VMs are 10.77.0.1 and on, and so are their `rxe0`. Their
//! emulated ConnectXs, if they have some, are on a subnet of their own, with LID 1 and on.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use anyhow::{Context, Result};
use odp_hca::Subnet;

use crate::switch::Switch;

/// One end of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    socket: Arc<UnixDatagram>,
    /// The VM's number, the last one of its address.
    pub(crate) host: u8,
    /// How many VMs there are, if they are called nodes.
    pub(crate) nodes: Option<u8>,
    /// What an emulated ConnectX is connected to.
    pub(crate) subnet: Subnet,
}

impl Network {
    /// Both ends of a new segment.
    pub(crate) fn segment() -> Result<[Self; 2]> {
        let (first, second) = UnixDatagram::pair().context("making a pair of sockets")?;
        let subnet = Subnet::new();
        let end = |socket, host| Self {
            socket: Arc::new(socket),
            host,
            nodes: None,
            subnet: subnet.clone(),
        };
        Ok([end(first, 1), end(second, 2)])
    }

    /// The ends of a new segment of `count` nodes, and the switch between them.
    pub(crate) fn nodes(count: u8) -> Result<(Switch, Vec<Self>)> {
        let (switch, ends) = Switch::new(count.into())?;
        let subnet = Subnet::new();
        let ends = ends.into_iter().zip(1..).map(|(socket, host)| Self {
            socket: Arc::new(socket),
            host,
            nodes: Some(count),
            subnet: subnet.clone(),
        });
        Ok((switch, ends.collect()))
    }

    /// What QEMU inherits.
    pub(crate) fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_at_one_end_comes_out_at_the_other() -> Result<()> {
        let [first, second] = Network::segment()?;
        assert_eq!((first.host, second.host), (1, 2));
        assert_ne!(first.socket(), second.socket());
        first.socket.send(b"a frame")?;
        second.socket.send(b"another")?;
        let mut frame = [0; 100];
        assert_eq!(second.socket.recv(&mut frame)?, 7);
        assert_eq!(&frame[..7], b"a frame");
        Ok(())
    }

    #[test]
    fn nodes_are_numbered_from_one() -> Result<()> {
        let (_switch, ends) = Network::nodes(3)?;
        let hosts: Vec<_> = ends.iter().map(|end| (end.host, end.nodes)).collect();
        assert_eq!(hosts, [(1, Some(3)), (2, Some(3)), (3, Some(3))]);
        Ok(())
    }
}
