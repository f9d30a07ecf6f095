// SPDX-License-Identifier: GPL-2.0
//! What an entry of a completion queue says. `cq` puts it there.

/// Bytes of what a completion says.
pub(crate) const COMPLETION: usize = 64;

/// Places in a completion.
const PORT: usize = 0x16;
const FROM: usize = 0x18;
const USER_INDEX: usize = 0x20;
const IMMEDIATE: usize = 0x24;
const BYTES: usize = 0x2c;
const SYNDROME: usize = 0x37;
const PAIR: usize = 0x38;
const COUNTER: usize = 0x3c;
const KIND: usize = 0x3f;

/// Why a request failed, as completions say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syndrome {
    LocalLength = 0x01,
    LocalOperation = 0x02,
    LocalProtection = 0x04,
    Flushed = 0x05,
    KeyUpdate = 0x06,
    BadResponse = 0x10,
    LocalAccess = 0x11,
    RemoteInvalid = 0x12,
    RemoteAccess = 0x13,
    RemoteOperation = 0x14,
    Retries = 0x15,
    ReceiveRetries = 0x16,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Requested,
    Written,
    Received,
    ReceivedImmediate,
    ReceivedInvalidate,
    RequestFailed(Syndrome),
    ReceiveFailed(Syndrome),
}

impl Outcome {
    fn kind(self) -> u8 {
        match self {
            Self::Requested => 0,
            Self::Written => 1,
            Self::Received => 2,
            Self::ReceivedImmediate => 3,
            Self::ReceivedInvalidate => 4,
            Self::RequestFailed(_) => 13,
            Self::ReceiveFailed(_) => 14,
        }
    }
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) outcome: Outcome,
    pub(crate) pair: u32,
    pub(crate) user_index: u32,
    /// What was to be done, if it was to be sent.
    pub(crate) opcode: u8,
    pub(crate) counter: u16,
    pub(crate) bytes: u32,
    pub(crate) immediate: [u8; 4],
    /// Where a message came from.
    pub(crate) port: u16,
    pub(crate) from: u32,
    pub(crate) level: u8,
    /// It had a global routing header.
    pub(crate) global: bool,
}

impl Completion {
    pub(crate) fn bytes(&self) -> [u8; COMPLETION] {
        let mut bytes = [0; COMPLETION];
        let mut word = |at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        };
        word(USER_INDEX, self.user_index);
        word(PAIR, (u32::from(self.opcode) << 24) | self.pair);
        match self.outcome {
            Outcome::RequestFailed(_) | Outcome::ReceiveFailed(_) => {}
            _ => {
                let header = u32::from(self.global) << 28;
                word(FROM, header | (u32::from(self.level) << 24) | self.from);
                word(IMMEDIATE, u32::from_be_bytes(self.immediate));
                word(BYTES, self.bytes);
                bytes[PORT..PORT + 2].copy_from_slice(&self.port.to_be_bytes());
            }
        }
        if let Outcome::RequestFailed(syndrome) | Outcome::ReceiveFailed(syndrome) = self.outcome {
            bytes[SYNDROME] = syndrome as u8;
        }
        bytes[COUNTER..COUNTER + 2].copy_from_slice(&self.counter.to_be_bytes());
        bytes[KIND] = self.outcome.kind() << 4;
        bytes
    }
}
