// SPDX-License-Identifier: GPL-2.0
//! The InfiniBand port, as its agents for subnet management answer for it.
//!
//! No subnet manager runs: the port is as one would have left it, active and with a LID.

use crate::layout::hca_vport_context;

/// Places in a management datagram.
const CLASS: usize = 1;
const METHOD: usize = 3;
const STATUS: usize = 4;
const ATTRIBUTE: usize = 16;
const MODIFIER: usize = 20;
/// Where a subnet management packet has its data.
const DATA: usize = 64;
const DATA_END: usize = 128;

/// Classes: subnet management, by LID and by direct route.
const SUBNET: [u8; 2] = [0x01, 0x81];

const GET: u8 = 0x01;
const RESPONSE: u8 = 0x81;

/// What an answer says that has none: no such class, no such method, no such attribute for it.
const NO_CLASS: u16 = 1 << 2;
const NO_METHOD: u16 = 2 << 2;
const NO_ATTRIBUTE: u16 = 3 << 2;

const NODE_DESCRIPTION: u16 = 0x10;
const NODE_INFO: u16 = 0x11;
const GUID_INFO: u16 = 0x14;
const PORT_INFO: u16 = 0x15;
const PKEY_TABLE: u16 = 0x16;

/// Where it would find a subnet manager.
const MANAGER_LID: u16 = 1;

/// The prefix of addresses in a subnet that has none of its own.
const PREFIX: u64 = 0xfe80_0000_0000_0000;

/// The default partition, as a full member.
const PARTITION: u16 = 0xffff;
const PARTITIONS: u16 = 128;

/// Bytes of what people call the node, and what they do as long as nobody says anything else.
const DESCRIPTION_BYTES: usize = 64;
const DESCRIPTION: &[u8] = b"odp-hca";

/// The port's number, state ACTIVE, physical state LINK UP.
pub(crate) const NUMBER: u8 = 1;
const ACTIVE: u8 = 4;
const LINK_UP: u8 = 5;

/// 4 lanes of 25 Gb/s; packets of 4096 bytes; one virtual lane.
const WIDTH: u8 = 2;
const SPEED_EXTENDED: u8 = 2;
const SPEED: u8 = 4;
const MTU: u8 = 5;
const LANES: u8 = 1;

/// Capabilities of the port: extended speeds.
const EXTENDED_SPEEDS: u32 = 1 << 14;

/// How many addresses it has.
const ADDRESSES: u8 = 8;

/// Identities, which all derive from one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) guid: u64,
    /// Where packets find it.
    pub(crate) lid: u16,
    pub(crate) description: [u8; DESCRIPTION_BYTES],
    /// What it can, as agents have said it.
    pub(crate) capabilities: u32,
}

impl Port {
    pub(crate) fn new(guid: u64, lid: u16) -> Self {
        let mut description = [0; DESCRIPTION_BYTES];
        description[..DESCRIPTION.len()].copy_from_slice(DESCRIPTION);
        Self {
            guid,
            lid,
            description,
            capabilities: EXTENDED_SPEEDS,
        }
    }

    /// Turns a management datagram that asks for something into its answer.
    pub(crate) fn process_mad(&self, mad: &mut [u8]) {
        let status = self.answer(mad).err().unwrap_or(0);
        mad[STATUS..STATUS + 2].copy_from_slice(&status.to_be_bytes());
        mad[METHOD] = RESPONSE;
    }

    /// Fills its context as its own function sees it.
    pub(crate) fn query(&self, context: &mut [u8]) {
        hca_vport_context::HAS_SMI.set(context, 1_u64);
        hca_vport_context::PORT_STATE.set(context, ACTIVE);
        hca_vport_context::VPORT_STATE.set(context, ACTIVE);
        hca_vport_context::PORT_PHYSICAL_STATE.set(context, LINK_UP);
        hca_vport_context::CAP_MASK1.set(context, self.capabilities);
        hca_vport_context::LID.set(context, self.lid);
        hca_vport_context::SM_LID.set(context, MANAGER_LID);
        for guid in [
            hca_vport_context::SYSTEM_IMAGE_GUID,
            hca_vport_context::NODE_GUID,
            hca_vport_context::PORT_GUID,
        ] {
            guid.set(context, self.guid);
        }
    }

    /// One of its addresses; only the first one is one.
    pub(crate) fn address(&self, index: u8) -> [u8; 16] {
        let guid = if index == 0 { self.guid } else { 0 };
        ((u128::from(PREFIX) << 64) | u128::from(guid)).to_be_bytes()
    }

    /// The partition in which all packets are, as a completion says it.
    pub(crate) fn partition(&self) -> [u8; 4] {
        u32::from(PARTITION).to_be_bytes()
    }

    /// Makes the answer of a request.
    fn answer(&self, mad: &mut [u8]) -> Result<(), u16> {
        if !SUBNET.contains(&mad[CLASS]) {
            return Err(NO_CLASS);
        }
        if mad[METHOD] != GET {
            return Err(NO_METHOD);
        }
        let attribute = u16::from_be_bytes([mad[ATTRIBUTE], mad[ATTRIBUTE + 1]]);
        let modifier = &mad[MODIFIER..MODIFIER + 4];
        let first_block = modifier.iter().all(|byte| *byte == 0);
        let data = &mut mad[DATA..DATA_END];
        data.fill(0);
        match attribute {
            NODE_DESCRIPTION => data.copy_from_slice(&self.description),
            NODE_INFO => self.node_info(data),
            GUID_INFO if first_block => data[..8].copy_from_slice(&self.guid.to_be_bytes()),
            PORT_INFO => self.port_info(data),
            PKEY_TABLE if first_block => data[..2].copy_from_slice(&PARTITION.to_be_bytes()),
            // Blocks after the first one are empty.
            GUID_INFO | PKEY_TABLE => {}
            _ => return Err(NO_ATTRIBUTE),
        }
        Ok(())
    }

    fn port_info(&self, data: &mut [u8]) {
        data[8..16].copy_from_slice(&PREFIX.to_be_bytes());
        data[16..18].copy_from_slice(&self.lid.to_be_bytes());
        data[18..20].copy_from_slice(&MANAGER_LID.to_be_bytes());
        data[20..24].copy_from_slice(&self.capabilities.to_be_bytes());
        data[28] = NUMBER;
        // Enabled, supported and active.
        data[29..32].fill(WIDTH);
        data[32] = (SPEED << 4) | ACTIVE;
        data[33] = LINK_UP << 4;
        data[35] = (SPEED << 4) | SPEED;
        data[36] = MTU << 4;
        data[37] = LANES << 4;
        data[41] = MTU;
        data[50] = ADDRESSES;
        data[62] = (SPEED_EXTENDED << 4) | SPEED_EXTENDED;
        data[63] = SPEED_EXTENDED;
    }

    fn node_info(&self, data: &mut [u8]) {
        // Versions of the format and the class; a channel adapter; one port.
        data[..4].copy_from_slice(&[1, 1, 1, 1]);
        for place in [4, 12, 20] {
            data[place..place + 8].copy_from_slice(&self.guid.to_be_bytes());
        }
        data[28..30].copy_from_slice(&PARTITIONS.to_be_bytes());
        data[30..32].copy_from_slice(&0x1017_u16.to_be_bytes());
        data[36..40].copy_from_slice(&[NUMBER, 0x00, 0x02, 0xc9]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(class: u8, method: u8, attribute: u16, modifier: u32) -> ([u8; 256], Result<(), u16>) {
        let mut mad = [0xff; 256];
        mad[CLASS] = class;
        mad[METHOD] = method;
        mad[ATTRIBUTE..ATTRIBUTE + 2].copy_from_slice(&attribute.to_be_bytes());
        mad[MODIFIER..MODIFIER + 4].copy_from_slice(&modifier.to_be_bytes());
        let port = Port::new(0x0102_0304_0506_0708, 1);
        let result = port.answer(&mut mad);
        (mad, result)
    }

    #[test]
    fn the_port_is_active() {
        let (mad, result) = ask(1, GET, PORT_INFO, 1);
        assert_eq!(result, Ok(()));
        assert_eq!(mad[DATA + 32] & 0xf, ACTIVE);
        assert_eq!(mad[DATA + 16..DATA + 18], [0, 1]);
        assert_eq!(mad[DATA_END], 0xff);
    }

    #[test]
    fn tables_have_one_entry() {
        let (mad, _) = ask(0x81, GET, GUID_INFO, 0);
        assert_eq!(mad[DATA..DATA + 9], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
        let (mad, _) = ask(1, GET, PKEY_TABLE, 0);
        assert_eq!(mad[DATA..DATA + 3], [0xff, 0xff, 0]);
        let (mad, result) = ask(1, GET, PKEY_TABLE, 1);
        assert_eq!((mad[DATA], result), (0, Ok(())));
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert_eq!(ask(4, GET, 0x12, 0).1, Err(NO_CLASS));
        assert_eq!(ask(1, 2, PORT_INFO, 0).1, Err(NO_METHOD));
        assert_eq!(ask(1, GET, 0xff90, 0).1, Err(NO_ATTRIBUTE));
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_odd(mut mad in prop::collection::vec(any::<u8>(), 256)) {
            let _ = Port::new(1, 1).answer(&mut mad);
        }
    }
}
