// SPDX-License-Identifier: GPL-2.0
//! The kinds of service that queue pairs give.

use serde::{Deserialize, Serialize};

/// The kind of service a queue pair gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Reliable connection.
    Rc,
    /// Unreliable connection.
    Uc,
    /// Unreliable datagram.
    Ud,
    /// Extended reliable connection: one end asks ([`new`](crate::QueuePair::new)), the other is asked
    /// ([`target`](crate::QueuePair::target)).
    Xrc,
    /// Dynamically connected, with the same two ends. Only mlx5 has it.
    Dc,
}

impl Transport {
    /// Whether what is sent arrives, or the sender learns that it does not.
    pub fn is_reliable(self) -> bool {
        !matches!(self, Self::Uc | Self::Ud)
    }
}
