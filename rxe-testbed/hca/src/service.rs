// SPDX-License-Identifier: GPL-2.0
//! Services of the transport: what a queue pair is for, and what its packets are.

use crate::status::Status;

/// What goes through a queue pair, by the number that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Reliable = 0x0,
    Unreliable = 0x1,
    Datagram = 0x2,
    ExtendedReliable = 0x3,
    /// Dynamically connected: the end that asks.
    Initiator = 0x5,
    /// And the end that is asked, which no queue pair of a driver's is.
    Target = 0x6,
    Management = 0x7,
    GeneralServices = 0x8,
    KeyUpdates = 0xc,
}

impl Service {
    pub(crate) fn read(number: u32) -> Result<Self, Status> {
        let all = [
            Self::Reliable,
            Self::Unreliable,
            Self::Datagram,
            Self::ExtendedReliable,
            Self::Initiator,
            Self::Management,
            Self::GeneralServices,
            Self::KeyUpdates,
        ];
        let found = all.into_iter().find(|service| *service as u32 == number);
        found.ok_or(Status::BadParameter)
    }

    /// Packets are acknowledged, and come again if they are lost.
    pub(crate) fn is_reliable(self) -> bool {
        matches!(
            self,
            Self::Reliable | Self::ExtendedReliable | Self::Initiator | Self::Target
        )
    }

    /// Each request says where its only packet goes.
    pub(crate) fn is_datagram(self) -> bool {
        matches!(
            self,
            Self::Datagram | Self::Management | Self::GeneralServices
        )
    }

    /// The number by which others find a queue pair that serves management, whatever its own is.
    pub(crate) fn well_known(self) -> Option<u32> {
        match self {
            Self::Management => Some(0),
            Self::GeneralServices => Some(1),
            _ => None,
        }
    }
}
