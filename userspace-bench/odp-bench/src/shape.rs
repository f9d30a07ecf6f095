// SPDX-License-Identifier: GPL-2.0
//! The messages of the suite `traffic`, as options describe them, and which of them make sense. Whether a device has
//! them says `support`.

use std::fmt;

use anyhow::{ensure, Result};
use serde::{Deserialize, Serialize};

use odp_fixture::loopback::GRH;
use odp_verbs::{OdpTransport, QpConfig, Transport};
use testkit::memory::PAGE;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// SEND into a posted receive.
    Send,
    /// Compare and swap of eight bytes.
    CompareSwap,
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Send, Self::CompareSwap];

    /// Whether queue pairs of `transport` have it.
    fn is_of(self, transport: Transport) -> bool {
        match transport {
            Transport::Rc | Transport::Xrc | Transport::Dc => true,
            Transport::Uc => matches!(self, Self::Write | Self::Send),
            Transport::Ud => self == Self::Send,
        }
    }

    /// Whether `caps` have it on on-demand memory.
    pub(super) fn is_in(self, caps: OdpTransport) -> bool {
        match self {
            Self::Write => caps.write,
            Self::Read => caps.read,
            Self::Send => caps.send && caps.recv,
            Self::CompareSwap => caps.atomic,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
            Self::CompareSwap => "cmp-and-swap",
        })
    }
}

/// A transport as it is written in a name.
pub(super) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Rc => "rc",
        Transport::Uc => "uc",
        Transport::Ud => "ud",
        Transport::Xrc => "xrc",
        Transport::Dc => "dc",
    }
}

/// Until when messages are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// So many messages of each series are.
    Messages(usize),
    /// Each series has taken so many seconds.
    Seconds(f64),
}

/// Messages, many of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What each is.
    pub operation: Operation,
    /// Over what.
    pub transport: Transport,
    /// How many bytes each has; one series for each size.
    pub sizes: Vec<usize>,
    /// On how many queue pairs at once.
    pub qps: usize,
    /// How many on each queue pair at once.
    pub depth: usize,
    /// Messages of at most so many bytes carry their data in the work request.
    pub inline: usize,
    /// How long; if not said, a number of messages according to the effort.
    pub until: Option<Until>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            operation: Operation::Write,
            transport: Transport::Rc,
            sizes: vec![64],
            qps: 1,
            depth: 1,
            inline: 0,
            until: None,
        }
    }
}

impl Shape {
    /// The largest message.
    pub const LARGEST: usize = 1 << 30;

    /// What begins the names of its metrics. The size follows.
    pub(super) fn name(&self) -> String {
        let mut name = format!("{}-{}", self.operation, transport_name(self.transport));
        for (number, what) in [(self.qps, "qps"), (self.depth, "deep")] {
            if number > 1 {
                name.push_str(&format!("-{number}-{what}"));
            }
        }
        if self.inline > 0 {
            name.push_str("-inline");
        }
        name
    }

    /// How many messages are under way at once.
    pub(super) fn at_once(&self) -> usize {
        self.qps * self.depth
    }

    /// How its queue pairs are made.
    pub(super) fn config(&self) -> QpConfig {
        QpConfig {
            // For the answer of the peer, too.
            depth: (2 * self.depth) as u32,
            inline: self.inline as u32,
            ..QpConfig::new(self.transport)
        }
    }

    /// How many bytes come before those of a message where it is received.
    pub(super) fn header(&self) -> usize {
        match self.transport {
            Transport::Ud => GRH,
            _ => 0,
        }
    }

    /// How far apart messages of `size` bytes lie: none shares a page with another.
    pub(super) fn stride(&self, size: usize) -> usize {
        (size + PAGE + self.header()).next_multiple_of(PAGE)
    }

    /// Fails if no device could have such messages.
    pub(super) fn makes_sense(&self, mtu: usize) -> Result<()> {
        let (operation, transport) = (self.operation, transport_name(self.transport));
        ensure!(
            operation.is_of(self.transport),
            "--connection {transport}: there is no {operation} over it"
        );
        for &size in &self.sizes {
            ensure!(
                (1..=Self::LARGEST).contains(&size),
                "--size {size}: not from 1 byte to 1 GiB"
            );
            ensure!(
                operation != Operation::CompareSwap || size == 8,
                "--size {size}: a {operation} has 8 bytes"
            );
            ensure!(
                self.transport != Transport::Ud || size <= mtu,
                "--size {size}: a datagram has one packet, here of {mtu} bytes at most"
            );
            ensure!(
                self.inline == 0 || size <= self.inline,
                "--inline-size {}: a message of {size} bytes does not fit",
                self.inline
            );
        }
        let carries = matches!(operation, Operation::Write | Operation::Send);
        ensure!(
            self.inline == 0 || carries,
            "--inline-size: a {operation} carries no data to the peer"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Shape)) -> String {
        let mut shape = Shape::default();
        change(&mut shape);
        shape.makes_sense(1024).unwrap_err().to_string()
    }

    #[test]
    fn what_no_device_has_is_refused() {
        assert!(Shape::default().makes_sense(1024).is_ok());
        let no_read = wrong(|s| {
            s.transport = Transport::Uc;
            s.operation = Operation::Read;
        });
        assert_eq!(no_read, "--connection uc: there is no read over it");
        let datagram = |size| {
            move |s: &mut Shape| {
                s.transport = Transport::Ud;
                s.operation = Operation::Send;
                s.sizes = vec![size];
            }
        };
        assert!(wrong(datagram(1025)).contains("one packet"));
        let mut shape = Shape::default();
        datagram(1024)(&mut shape);
        assert!(shape.makes_sense(1024).is_ok());
        assert!(wrong(|s| s.operation = Operation::CompareSwap).contains("8 bytes"));
        assert!(wrong(|s| s.inline = 63).contains("does not fit"));
        assert!(wrong(|s| s.sizes = vec![64, 0]).contains("1 byte"));
        let read = wrong(|s| {
            s.inline = 64;
            s.operation = Operation::Read;
        });
        assert!(read.contains("carries no data"), "{read}");
    }

    #[test]
    fn the_name_says_what_differs() {
        assert_eq!(Shape::default().name(), "write-rc");
        let shape = Shape {
            operation: Operation::Send,
            transport: Transport::Ud,
            qps: 4,
            depth: 16,
            inline: 64,
            ..Shape::default()
        };
        assert_eq!(shape.name(), "send-ud-4-qps-16-deep-inline");
    }

    #[test]
    fn messages_share_no_page() {
        let shape = Shape {
            transport: Transport::Ud,
            ..Shape::default()
        };
        for size in [1, 64, PAGE - GRH, PAGE - GRH + 1, 1 << 20] {
            let stride = shape.stride(size);
            assert!(stride % PAGE == 0 && stride >= size + GRH + PAGE - 1);
        }
    }
}
