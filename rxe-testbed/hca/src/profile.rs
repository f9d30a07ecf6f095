// SPDX-License-Identifier: GPL-2.0
//! What a device announces that it can do.

use crate::indirect::LOG_LONGEST;
use crate::layout::{atomic_caps, cmd_hca_cap, cmd_hca_cap_2, Field};
use crate::on_demand::{self, Announced, Scheme};
use crate::status::Status;
use crate::translate::MAX_INDIRECTION;

/// Ticks of the device's clock in a millisecond.
pub(crate) const FREQUENCY_KHZ: u32 = 156_250;

/// Bytes of a group of capabilities.
pub(crate) const GROUP: usize = 0x1000;

/// Groups, as commands number them.
const GENERAL: u32 = 0;
const ON_DEMAND: u32 = 2;
const ATOMIC: u32 = 3;
const GENERAL_2: u32 = 0x20;

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
pub(crate) const LOG_MAX_USERS: u32 = 10;
pub(crate) const LOG_MAX_UMEM: u32 = 16;

/// The longest message, and how many reads may be under way, as powers of two.
pub(crate) const LOG_MAX_MESSAGE: u32 = 30;
pub(crate) const LOG_MAX_READS: u32 = 4;

/// How many sets of counters.
pub(crate) const MAX_COUNTERS: u32 = 0x100;

/// The largest work requests, in bytes.
const MAX_REQUEST: u32 = 1024;
const MAX_RECEIVE: u32 = 512;

/// A named set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// The general capabilities, in which later ones count, and the second group of them.
    general: &'static [&'static [(Field, u32)]],
    general_2: &'static [(Field, u32)],
    /// What there is of on-demand paging.
    paging: Announced,
}

/// The profiles.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "cx5-ib",
        general: &[CX5_IB, PAGING, IMPLICIT],
        general_2: LARGE_PARTS,
        paging: Announced::Transport,
    },
    Profile {
        name: "cx7-ib",
        general: &[CX5_IB, PAGING, IMPLICIT],
        general_2: LARGE_PARTS,
        paging: Announced::Memory,
    },
    Profile {
        name: "no-implicit",
        general: &[CX5_IB, PAGING],
        general_2: &[],
        paging: Announced::Transport,
    },
    Profile {
        name: "no-odp",
        general: &[CX5_IB],
        general_2: &[],
        paging: Announced::Nothing,
    },
];

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
    // Contexts of applications.
    (cmd_hca_cap::LOG_MAX_UCTX, LOG_MAX_USERS),
    (cmd_hca_cap::NULL_MKEY, 1),
    (cmd_hca_cap::MAX_INDIRECTION, MAX_INDIRECTION),
    (cmd_hca_cap::LOG_MAX_KLM_LIST_SIZE, LOG_LONGEST),
    (cmd_hca_cap::LOG_MAX_RA_REQ_QP, LOG_MAX_READS),
    (cmd_hca_cap::LOG_MAX_RA_RES_QP, LOG_MAX_READS),
    (cmd_hca_cap::LOG_MAX_RA_REQ_DC, LOG_MAX_READS),
    (cmd_hca_cap::LOG_MAX_RA_RES_DC, LOG_MAX_READS),
    (cmd_hca_cap::MAX_WQE_SZ_SQ_DC, MAX_REQUEST),
    (cmd_hca_cap::DCT, 1),
    (cmd_hca_cap::LOG_MAX_MSG, LOG_MAX_MESSAGE),
    (cmd_hca_cap::LOG_PG_SZ, 12),
    (cmd_hca_cap::MAX_WQE_SZ_SQ, MAX_REQUEST),
    (cmd_hca_cap::MAX_WQE_SZ_RQ, MAX_RECEIVE),
    (cmd_hca_cap::MAX_SGL_FOR_OPTIMIZED_PERFORMANCE, 30),
    // Counted from the smallest tables that there are: 128 partition keys, 8 addresses.
    (cmd_hca_cap::PKEY_TABLE_SIZE, 0),
    (cmd_hca_cap::GID_TABLE_SIZE, 0),
    (cmd_hca_cap::LOCAL_CA_ACK_DELAY, 16),
    (cmd_hca_cap::MAX_QP_CNT, MAX_COUNTERS),
    (cmd_hca_cap::OUT_OF_SEQ_CNT, 1),
    (cmd_hca_cap::RETRANSMISSION_Q_COUNTERS, 1),
    // Memory windows of the kinds 1 and 2B.
    (cmd_hca_cap::IMAICL, 1),
    // An InfiniBand port, whose management is asked by management datagrams.
    (cmd_hca_cap::PORT_TYPE, 0),
    (cmd_hca_cap::NUM_PORTS, 1),
    (cmd_hca_cap::NATIVE_PORT_NUM, 1),
    (cmd_hca_cap::CQE_VERSION, 1),
    (cmd_hca_cap::COMPACT_ADDRESS_VECTOR, 1),
    (cmd_hca_cap::CMDIF_CHECKSUM, 0),
    (cmd_hca_cap::CQ_OI, 1),
    (cmd_hca_cap::CQ_RESIZE, 1),
    (cmd_hca_cap::CQ_MODERATION, 1),
    (cmd_hca_cap::ATOMIC, 1),
    (cmd_hca_cap::APM, 0),
    // There is no multicast.
    (cmd_hca_cap::BLOCK_LB_MC, 1),
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

/// On-demand paging, and what a driver needs for regions that are all of an address space.
const PAGING: &[(Field, u32)] = &[(cmd_hca_cap::PG, 1)];
const IMPLICIT: &[(Field, u32)] = &[
    (cmd_hca_cap::FIXED_BUFFER_SIZE, 1),
    (cmd_hca_cap::UMR_EXTENDED_TRANSLATION_OFFSET, 1),
    (cmd_hca_cap::HCA_CAP_2, 1),
];

/// Parts of an indirect key that are larger than 2 GiB, as address spaces with five levels of page tables need them.
const LARGE_PARTS: &[(Field, u32)] = &[
    (cmd_hca_cap_2::UMR_LOG_ENTITY_SIZE_5, 1),
    (cmd_hca_cap_2::MAX_MKEY_LOG_ENTITY_SIZE_FIXED_BUFFER, 40),
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

/// How numbers that atomics change lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Big,
    /// That of the host.
    Little,
}

impl ByteOrder {
    /// What bytes say; of eight.
    pub(crate) fn value(self, bytes: &[u8]) -> u64 {
        let word = bytes.try_into().unwrap_or_default();
        match self {
            Self::Big => u64::from_be_bytes(word),
            Self::Little => u64::from_le_bytes(word),
        }
    }

    pub(crate) fn bytes(self, value: u64) -> [u8; 8] {
        match self {
            Self::Big => value.to_be_bytes(),
            Self::Little => value.to_le_bytes(),
        }
    }
}

#[derive(Clone)]
struct Groups {
    general: Vec<u8>,
    general_2: Vec<u8>,
    on_demand: Vec<u8>,
    atomic: Vec<u8>,
}

impl Groups {
    fn get(&self, group: u32) -> Result<&[u8], Status> {
        match group {
            GENERAL => Ok(&self.general),
            GENERAL_2 if cmd_hca_cap::HCA_CAP_2.is_set(&self.general) => Ok(&self.general_2),
            ON_DEMAND if cmd_hca_cap::PG.is_set(&self.general) => Ok(&self.on_demand),
            ATOMIC => Ok(&self.atomic),
            _ => Err(Status::BadParameter),
        }
    }
}

impl Capabilities {
    /// Those of a profile, before a driver has chosen.
    pub(crate) fn new(profile: Profile) -> Self {
        let (mut general, mut general_2) = (vec![0; GROUP], vec![0; GROUP]);
        for (field, value) in profile.general.iter().copied().flatten() {
            field.set(&mut general, *value);
        }
        for (field, value) in profile.general_2 {
            field.set(&mut general_2, *value);
        }
        let mut atomic = vec![0; GROUP];
        // Compare and swap, fetch and add; of eight bytes, in the host's order if its driver wants it so.
        atomic_caps::ATOMIC_OPERATIONS.set(&mut atomic, 3_u64);
        atomic_caps::ATOMIC_SIZE_QP.set(&mut atomic, 8_u64);
        atomic_caps::ATOMIC_SIZE_DC.set(&mut atomic, 8_u64);
        atomic_caps::SUPPORTED_ATOMIC_REQ_8B_ENDIANNESS_MODE_1.set(&mut atomic, 1_u64);
        let (mut on_demand, mut chosen) = (vec![0; GROUP], vec![0; GROUP]);
        profile.paging.announce(&mut on_demand, &mut chosen);
        let maximal = Groups {
            general,
            general_2,
            on_demand,
            atomic,
        };
        let current = Groups {
            on_demand: chosen,
            ..maximal.clone()
        };
        Self { maximal, current }
    }

    /// How page faults are told, if they are.
    pub(crate) fn page_faults(&self) -> Option<Scheme> {
        let paging = cmd_hca_cap::PG.is_set(&self.current.general);
        paging.then(|| Scheme::chosen(&self.current.on_demand))
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

    /// How numbers that atomics change lie in memory.
    pub(crate) fn byte_order(&self) -> ByteOrder {
        match atomic_caps::ATOMIC_REQ_8B_ENDIANNESS_MODE.get(&self.current.atomic) {
            0 => ByteOrder::Big,
            _ => ByteOrder::Little,
        }
    }

    /// Takes what a driver has chosen. What it may not choose has to be as it is.
    pub(crate) fn choose(&mut self, group: u32, wanted: &[u8]) -> Result<(), Status> {
        if wanted.len() > GROUP {
            return Err(Status::BadInputLength);
        }
        match group {
            GENERAL => {
                let current = &mut self.current.general;
                let may = |field: Field, value| {
                    let lowered = value <= field.get(&self.maximal.general);
                    lowered || field == cmd_hca_cap::LOG_UAR_PAGE_SZ
                };
                choose(current, wanted, CHOSEN, may)
            }
            ON_DEMAND if cmd_hca_cap::PG.is_set(&self.current.general) => {
                let may = |field: Field, value| value <= field.get(&self.maximal.on_demand);
                let current = &mut self.current.on_demand;
                choose(current, wanted, &on_demand::chosen(), may)
            }
            ATOMIC => {
                let mode = atomic_caps::ATOMIC_REQ_8B_ENDIANNESS_MODE;
                let current = &mut self.current.atomic;
                let mut alone = vec![0; wanted.len()];
                mode.set(&mut alone, mode.get(wanted));
                // A driver may say no more than this.
                let mut whole = current.clone();
                mode.set(&mut whole, mode.get(wanted));
                let wanted = if alone == wanted { &whole } else { wanted };
                choose(current, wanted, &[mode], |_, value| value <= 1)
            }
            _ => Err(Status::BadParameter),
        }
    }
}

/// Changes the fields of a group that may be chosen; nothing, if others differ or a value may not be.
fn choose(
    current: &mut Vec<u8>,
    wanted: &[u8],
    fields: &[Field],
    may: impl Fn(Field, u64) -> bool,
) -> Result<(), Status> {
    let mut chosen = current.clone();
    for field in fields {
        let value = field.get(wanted);
        if !may(*field, value) {
            return Err(Status::BadParameter);
        }
        field.set(&mut chosen, value);
    }
    if !chosen.starts_with(wanted) {
        return Err(Status::BadParameter);
    }
    *current = chosen;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::odp_cap;

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
        for (field, value) in [(cmd_hca_cap::LOG_MAX_QP, 17), (cmd_hca_cap::PG, 0)] {
            copy(&capabilities, &mut wanted);
            field.set(&mut wanted, value as u64);
            let refused = capabilities.choose(GENERAL, &wanted);
            assert_eq!(refused, Err(Status::BadParameter));
        }
        assert_eq!(capabilities.general(cmd_hca_cap::LOG_MAX_QP), 12);
    }

    #[test]
    fn a_driver_chooses_the_order_of_bytes() {
        let mut capabilities = Capabilities::new(PROFILES[0]);
        assert_eq!(capabilities.byte_order(), ByteOrder::Big);
        let mut wanted = vec![0; GROUP];
        let mode = atomic_caps::ATOMIC_REQ_8B_ENDIANNESS_MODE;
        mode.set(&mut wanted, 2_u64);
        let refused = Err(Status::BadParameter);
        assert_eq!(capabilities.choose(ATOMIC, &wanted), refused);
        mode.set(&mut wanted, 1_u64);
        atomic_caps::ATOMIC_SIZE_QP.set(&mut wanted, 16_u64);
        assert_eq!(capabilities.choose(ATOMIC, &wanted), refused);
        atomic_caps::ATOMIC_SIZE_QP.set(&mut wanted, 0_u64);
        assert_eq!(capabilities.choose(ATOMIC, &wanted), Ok(()));
        assert_eq!(capabilities.byte_order(), ByteOrder::Little);
        assert_eq!(
            capabilities.choose(ATOMIC, &vec![0; 2 * GROUP]),
            Err(Status::BadInputLength)
        );
        for order in [ByteOrder::Big, ByteOrder::Little] {
            assert_eq!(order.value(&order.bytes(0x0102_0304)), 0x0102_0304);
        }
    }

    #[test]
    fn groups_that_are_not_there_are_refused() {
        let capabilities = Capabilities::new(PROFILES[0]);
        assert!(capabilities.maximal(ATOMIC).is_ok());
        assert_eq!(capabilities.maximal(1), Err(Status::BadParameter));
        let without = Profile::named("no-odp").map(Capabilities::new);
        let group = without.as_ref().map(|all| all.maximal(GENERAL_2));
        assert_eq!(group, Some(Err(Status::BadParameter)));
        let group = without.as_ref().map(|all| all.maximal(ON_DEMAND));
        assert_eq!(group, Some(Err(Status::BadParameter)));
        assert_eq!(without.and_then(|all| all.page_faults()), None);
    }

    #[test]
    fn a_driver_chooses_how_page_faults_are_told() {
        let mut wanted = vec![0; odp_cap::BYTES];
        odp_cap::MEM_PAGE_FAULT.set(&mut wanted, 1_u64);
        let mut older = Capabilities::new(PROFILES[0]);
        assert_eq!(older.page_faults(), Some(Scheme::Transport));
        assert_eq!(older.choose(ON_DEMAND, &wanted), Err(Status::BadParameter));
        let mut newer = Capabilities::new(PROFILES[1]);
        assert_eq!(newer.page_faults(), Some(Scheme::Transport));
        wanted.copy_from_slice(&newer.current.on_demand[..odp_cap::BYTES]);
        odp_cap::MEM_PAGE_FAULT.set(&mut wanted, 1_u64);
        assert_eq!(newer.choose(ON_DEMAND, &wanted), Ok(()));
        assert_eq!(newer.page_faults(), Some(Scheme::Memory));
        assert!(newer.current(GENERAL_2).is_ok());
    }

    #[test]
    fn values_fit_their_fields() {
        for profile in PROFILES {
            let capabilities = Capabilities::new(*profile);
            for (field, value) in profile.general.iter().copied().flatten() {
                assert_eq!(capabilities.general(*field), *value, "{}", field.name);
            }
        }
    }
}
