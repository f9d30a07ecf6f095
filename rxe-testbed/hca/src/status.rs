// SPDX-License-Identifier: GPL-2.0
//! How a command ends, as its output says: whatever it needs of the device may end it.

use serde::{Deserialize, Serialize};

/// How a command ended, as its output says.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    /// There is no such command.
    BadOperation = 0x2,
    /// A value makes no sense.
    BadParameter = 0x3,
    /// Not as long as the device is in this state.
    BadSystemState = 0x4,
    /// There is no such object.
    BadResource = 0x5,
    /// Something uses it.
    ResourceBusy = 0x6,
    /// No more of these.
    NoResources = 0xf,
    /// Not in this state of the queue pair.
    BadQpState = 0x10,
    /// More completions wait than there is room for.
    BadSize = 0x40,
    /// The input is too short.
    BadInputLength = 0x50,
    /// There is no room for the output.
    BadOutputLength = 0x51,
}
