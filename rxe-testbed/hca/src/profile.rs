// SPDX-License-Identifier: GPL-2.0
//! What a device announces that it can do.

use crate::command::Status;
use crate::layout::{atomic_caps, cmd_hca_cap, Field};

/// Ticks of the device's clock in a millisecond.
pub(crate) const FREQUENCY_KHZ: u32 = 156_250;

/// Bytes of a group of capabilities.
pub(crate) const GROUP: usize = 0x1000;

/// Groups, as commands number them.
const GENERAL: u32 = 0;
const ATOMIC: u32 = 3;

/// How many event queues there are, and sizes of queues, as powers of two.
pub(crate) const EVENT_QUEUES: u32 = 64;
pub(crate) const LOG_MAX_EQ_SIZE: u32 = 16;
pub(crate) const LOG_MAX_CQ_SIZE: u32 = 22;
pub(crate) const LOG_MAX_QP_SIZE: u32 = 15;

/// How many of which objects there may be, as powers of two.
pub(crate) const LOG_MAX_CQ: u32 = 16;
pub(crate) const LOG_MAX_QP: u32 = 16;
pub(crate) const LOG_MAX_SRQ: u32 = 16;
pub(crate) const LOG_MAX_MKEY: u32 = 20;
pub(crate) const LOG_MAX_PD: u32 = 16;
pub(crate) const LOG_MAX_XRCD: u32 = 10;
pub(crate) const LOG_MAX_DOMAIN: u32 = 10;

/// The largest work requests, in bytes.
const MAX_REQUEST: u32 = 1024;
const MAX_RECEIVE: u32 = 512;

/// The key of memory that takes what is written and reads as zeroes.
pub(crate) const NULL_MKEY: u32 = 0x100;

/// A named set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// The general capabilities.
    general: &'static [(Field, u32)],
}

/// The profiles.
pub const PROFILES: &[Profile] = &[Profile {
    name: "cx5-ib",
    general: CX5_IB,
}];

impl Profile {
    /// The profile of that name.
    pub fn named(name: &str) -> Option<Profile> {
        PROFILES
            .iter()
            .find(|profile| profile.name == name)
            .copied()
    }
}

/// A ConnectX-5 with one InfiniBand port.
const CX5_IB: &[(Field, u32)] = &[
    (cmd_hca_cap::LOG_MAX_SRQ_SZ, LOG_MAX_QP_SIZE),
    (cmd_hca_cap::LOG_MAX_SRQ, LOG_MAX_SRQ),
    (cmd_hca_cap::LOG_MAX_QP_SZ, LOG_MAX_QP_SIZE),
    (cmd_hca_cap::LOG_MAX_QP, LOG_MAX_QP),
    (cmd_hca_cap::LOG_MAX_CQ_SZ, LOG_MAX_CQ_SIZE),
    (cmd_hca_cap::LOG_MAX_CQ, LOG_MAX_CQ),
    (cmd_hca_cap::LOG_MAX_EQ_SZ, LOG_MAX_EQ_SIZE),
    (cmd_hca_cap::LOG_MAX_EQ, EVENT_QUEUES.ilog2()),
    (cmd_hca_cap::MAX_NUM_EQS, EVENT_QUEUES),
    (cmd_hca_cap::LOG_MAX_MKEY, LOG_MAX_MKEY),
    (cmd_hca_cap::LOG_MAX_PD, LOG_MAX_PD),
    (cmd_hca_cap::LOG_MAX_XRCD, LOG_MAX_XRCD),
    (cmd_hca_cap::LOG_MAX_TRANSPORT_DOMAIN, LOG_MAX_DOMAIN),
    (cmd_hca_cap::NULL_MKEY, 1),
    (cmd_hca_cap::MAX_INDIRECTION, 4),
    (cmd_hca_cap::LOG_MAX_KLM_LIST_SIZE, 16),
    (cmd_hca_cap::LOG_MAX_RA_REQ_QP, 4),
    (cmd_hca_cap::LOG_MAX_RA_RES_QP, 4),
    (cmd_hca_cap::LOG_MAX_MSG, 30),
    (cmd_hca_cap::LOG_PG_SZ, 12),
    (cmd_hca_cap::MAX_WQE_SZ_SQ, MAX_REQUEST),
    (cmd_hca_cap::MAX_WQE_SZ_RQ, MAX_RECEIVE),
    (cmd_hca_cap::MAX_SGL_FOR_OPTIMIZED_PERFORMANCE, 30),
    // Counted from the smallest tables that there are: 128 partition keys, 8 addresses.
    (cmd_hca_cap::PKEY_TABLE_SIZE, 0),
    (cmd_hca_cap::GID_TABLE_SIZE, 0),
    (cmd_hca_cap::LOCAL_CA_ACK_DELAY, 16),
    // An InfiniBand port, whose management is asked by management datagrams.
    (cmd_hca_cap::PORT_TYPE, 0),
    (cmd_hca_cap::NUM_PORTS, 1),
    (cmd_hca_cap::NATIVE_PORT_NUM, 1),
    (cmd_hca_cap::CQE_VERSION, 1),
    (cmd_hca_cap::COMPACT_ADDRESS_VECTOR, 1),
    (cmd_hca_cap::CMDIF_CHECKSUM, 0),
    (cmd_hca_cap::CQ_OI, 1),
    (cmd_hca_cap::CQ_MODERATION, 1),
    (cmd_hca_cap::APM, 0),
    (cmd_hca_cap::QKV, 1),
    (cmd_hca_cap::PKV, 1),
    (cmd_hca_cap::XRC, 1),
    (cmd_hca_cap::UD, 1),
    (cmd_hca_cap::UC, 1),
    (cmd_hca_cap::RC, 1),
    (cmd_hca_cap::UAR_4K, 1),
    (cmd_hca_cap::NUM_OF_UARS_PER_PAGE, 1),
    (cmd_hca_cap::LOG_BF_REG_SIZE, 9),
    (cmd_hca_cap::DEVICE_FREQUENCY_MHZ, FREQUENCY_KHZ / 1000),
    (cmd_hca_cap::DEVICE_FREQUENCY_KHZ, FREQUENCY_KHZ),
];

/// General capabilities that a driver may lower or choose.
const CHOSEN: &[Field] = &[
    cmd_hca_cap::PKEY_TABLE_SIZE,
    cmd_hca_cap::LOG_MAX_QP,
    cmd_hca_cap::CMDIF_CHECKSUM,
    cmd_hca_cap::UAR_4K,
    cmd_hca_cap::LOG_UAR_PAGE_SZ,
];

/// The capabilities of a device: what it could, and what its driver has chosen.
pub(crate) struct Capabilities {
    maximal: Groups,
    current: Groups,
}

#[derive(Clone)]
struct Groups {
    general: Vec<u8>,
    atomic: Vec<u8>,
}

impl Groups {
    fn get(&self, group: u32) -> Result<&[u8], Status> {
        match group {
            GENERAL => Ok(&self.general),
            ATOMIC => Ok(&self.atomic),
            _ => Err(Status::BadParameter),
        }
    }
}

impl Capabilities {
    /// Those of a profile, before a driver has chosen.
    pub(crate) fn new(profile: Profile) -> Self {
        let mut general = vec![0; GROUP];
        for (field, value) in profile.general {
            field.set(&mut general, *value);
        }
        let mut atomic = vec![0; GROUP];
        // Compare and swap, fetch and add; of eight bytes.
        atomic_caps::ATOMIC_OPERATIONS.set(&mut atomic, 3_u64);
        atomic_caps::ATOMIC_SIZE_QP.set(&mut atomic, 8_u64);
        let maximal = Groups { general, atomic };
        Self {
            current: maximal.clone(),
            maximal,
        }
    }

    /// A group as it could be.
    pub(crate) fn maximal(&self, group: u32) -> Result<&[u8], Status> {
        self.maximal.get(group)
    }

    /// A group as it is.
    pub(crate) fn current(&self, group: u32) -> Result<&[u8], Status> {
        self.current.get(group)
    }

    /// A general capability as it is.
    #[cfg(test)]
    pub(crate) fn general(&self, field: Field) -> u32 {
        field.get32(&self.current.general)
    }

    /// Takes what a driver has chosen. What it may not choose has to be as it is.
    pub(crate) fn choose(&mut self, group: u32, wanted: &[u8]) -> Result<(), Status> {
        if group != GENERAL {
            return Err(Status::BadParameter);
        }
        let mut chosen = self.current.general.clone();
        for field in CHOSEN {
            let value = field.get(wanted);
            let lowered = value <= field.get(&self.maximal.general);
            if !lowered && *field != cmd_hca_cap::LOG_UAR_PAGE_SZ {
                return Err(Status::BadParameter);
            }
            field.set(&mut chosen, value);
        }
        let known = chosen.get(..wanted.len()).ok_or(Status::BadInputLength)?;
        if known != wanted {
            return Err(Status::BadParameter);
        }
        self.current.general = chosen;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_chooses_what_it_may() {
        let mut capabilities = Capabilities::new(PROFILES[0]);
        let mut wanted = vec![0; 0x100];
        let copy = |capabilities: &Capabilities, wanted: &mut Vec<u8>| {
            let current = capabilities.current(GENERAL);
            wanted.copy_from_slice(&current.unwrap_or_default()[..0x100]);
        };
        copy(&capabilities, &mut wanted);
        cmd_hca_cap::LOG_MAX_QP.set(&mut wanted, 12_u64);
        assert_eq!(capabilities.choose(GENERAL, &wanted), Ok(()));
        assert_eq!(capabilities.general(cmd_hca_cap::LOG_MAX_QP), 12);
        for (field, value) in [(cmd_hca_cap::LOG_MAX_QP, 17), (cmd_hca_cap::PG, 1)] {
            copy(&capabilities, &mut wanted);
            field.set(&mut wanted, value as u64);
            let refused = capabilities.choose(GENERAL, &wanted);
            assert_eq!(refused, Err(Status::BadParameter));
        }
        assert_eq!(capabilities.general(cmd_hca_cap::LOG_MAX_QP), 12);
    }

    #[test]
    fn groups_that_are_not_there_are_refused() {
        let capabilities = Capabilities::new(PROFILES[0]);
        assert!(capabilities.maximal(ATOMIC).is_ok());
        assert_eq!(capabilities.maximal(2), Err(Status::BadParameter));
    }

    #[test]
    fn values_fit_their_fields() {
        for profile in PROFILES {
            let capabilities = Capabilities::new(*profile);
            for (field, value) in profile.general {
                assert_eq!(capabilities.general(*field), *value, "{}", field.name);
            }
        }
    }
}
