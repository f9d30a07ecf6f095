// SPDX-License-Identifier: GPL-2.0
//! The configuration space of a ConnectX-5, as far as its driver and QEMU look at it.

/// The bytes of the configuration space.
pub(crate) const SIZE: usize = 0x1000;

/// The interrupt vectors that the device has.
pub(crate) const VECTORS: u16 = 32;

/// Bytes of the BAR with the registers and the doorbell pages.
pub(crate) const BAR0: u64 = 32 << 20;

/// Bytes of the BAR with the table of interrupts. Its first half is the table, its second the pending bits: QEMU keeps
/// both, nobody else looks.
pub(crate) const BAR2: u64 = 0x2000;
const PENDING: u32 = 0x1000;

const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;

const MSIX: usize = 0x40;
const POWER: usize = 0x50;
const EXPRESS: usize = 0x60;
/// The upper byte of the endpoint's control register, and the bit of it that resets the function.
const CONTROL: usize = EXPRESS + 9;
const RESET: u8 = 1 << 7;
/// The gateway that tools use. No space behind it is offered; its lock works.
const VENDOR: usize = 0xa0;
const VENDOR_COUNTER: usize = VENDOR + 8;
const VENDOR_LOCK: usize = VENDOR + 12;

/// Mellanox, and its ConnectX-5.
const IDS: [u8; 4] = [0xb3, 0x15, 0x17, 0x10];

/// What is where from the beginning on: `(offset, bytes)`.
const CONTENT: &[(usize, &[u8])] = &[
    (0x00, &IDS),
    // There is a list of capabilities.
    (0x06, &[0x10, 0x00]),
    // A network controller, of the kind InfiniBand.
    (0x08, &[0x00, 0x00, 0x07, 0x02]),
    // BAR 0 is prefetchable and may be anywhere in 64 bits; BAR 2 is 32 bits wide.
    (0x10, &[0x0c]),
    (0x2c, &[0xb3, 0x15, 0x01, 0x00]),
    (0x34, &[MSIX as u8]),
    (MSIX, &[0x11, POWER as u8, (VECTORS - 1) as u8, 0]),
    (MSIX + 4, &2_u32.to_le_bytes()),
    (MSIX + 8, &(PENDING | 2).to_le_bytes()),
    (POWER, &[0x01, EXPRESS as u8, 0x03, 0x00, 0x08, 0x00]),
    // An endpoint of version 2 that can be reset by itself: 8 GT/s, 16 lanes.
    (EXPRESS, &[0x10, VENDOR as u8, 0x02, 0x00]),
    (EXPRESS + 0x04, &[0x02, 0x80, 0x00, 0x10]),
    (EXPRESS + 0x0c, &[0x03, 0x01, 0x00, 0x00]),
    (EXPRESS + 0x12, &[0x03, 0x01]),
    (EXPRESS + 0x2c, &[0x0e, 0x00, 0x00, 0x00]),
    (VENDOR, &[0x09, 0x00, 0x18, 0x00]),
];

/// What a driver may change: `(offset, mask)`.
const WRITABLE: &[(usize, &[u8])] = &[
    (COMMAND, &[0x47, 0x05]),
    (0x0c, &[0xff]),
    (0x13, &[0xfe]),
    (0x14, &[0xff; 4]),
    (0x19, &[0xe0, 0xff, 0xff]),
    (0x3c, &[0xff]),
    (MSIX + 2, &[0x00, 0xc0]),
    (POWER + 4, &[0x03, 0x00]),
    (EXPRESS + 0x08, &[0xff, 0xff]),
    (EXPRESS + 0x10, &[0xff, 0x0f]),
    (EXPRESS + 0x28, &[0xff, 0xff]),
    (VENDOR + 4, &[0xff, 0xff]),
    (VENDOR_LOCK, &[0xff; 4]),
    (VENDOR + 16, &[0xff; 8]),
];

/// The configuration space.
pub(crate) struct Config {
    bytes: Vec<u8>,
    mask: Vec<u8>,
}

impl Config {
    /// As it is after a reset.
    pub(crate) fn new() -> Self {
        let fill = |content: &[(usize, &[u8])]| {
            let mut bytes = vec![0; SIZE];
            for (offset, piece) in content {
                bytes[*offset..offset + piece.len()].copy_from_slice(piece);
            }
            bytes
        };
        Self {
            bytes: fill(CONTENT),
            mask: fill(WRITABLE),
        }
    }

    /// Reads from `offset` on; what is beyond the end reads as ones.
    pub(crate) fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        let start = offset.min(SIZE as u64) as usize;
        for (place, byte) in (start..).zip(bytes.iter_mut()) {
            *byte = self.bytes.get(place).copied().unwrap_or(0xff);
        }
        // Whoever reads the counter gets a number of his own to lock with.
        if (start..start.saturating_add(bytes.len())).contains(&VENDOR_COUNTER) {
            self.bytes[VENDOR_COUNTER] = self.bytes[VENDOR_COUNTER].wrapping_add(1).max(1);
        }
    }

    /// Writes what may be written.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset.min(SIZE as u64) as usize;
        let lock = &self.bytes[VENDOR_LOCK..VENDOR_LOCK + 4];
        let locks = start == VENDOR_LOCK && bytes.iter().any(|byte| *byte != 0);
        if locks && lock.iter().any(|byte| *byte != 0) {
            return;
        }
        for (place, byte) in (start..).zip(bytes) {
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(place), self.mask.get(place)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }

    /// Whether the function was told to reset itself, which it is told once.
    pub(crate) fn takes_reset(&mut self) -> bool {
        let control = &mut self.bytes[CONTROL];
        let told = *control & RESET != 0;
        *control &= !RESET;
        told
    }

    /// Whether the device may access memory.
    pub(crate) fn is_bus_master(&self) -> bool {
        self.bytes[COMMAND] & BUS_MASTER != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read32(config: &mut Config, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        config.read(offset as u64, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut config = Config::new();
        let mut at = read32(&mut config, 0x34) as u8;
        let mut found = Vec::new();
        while at != 0 {
            let header = read32(&mut config, usize::from(at));
            found.push(header as u8);
            at = (header >> 8) as u8;
        }
        assert_eq!(found, [0x11, 0x01, 0x10, 0x09]);
    }

    #[test]
    fn bars_tell_their_sizes() {
        let mut config = Config::new();
        for offset in [0x10, 0x14, 0x18] {
            config.write(offset, &[0xff; 4]);
        }
        let low = u64::from(read32(&mut config, 0x10) & !0xf);
        let high = u64::from(read32(&mut config, 0x14));
        assert_eq!(((high << 32) | low).wrapping_neg(), BAR0);
        assert_eq!(u64::from(read32(&mut config, 0x18).wrapping_neg()), BAR2);
    }

    #[test]
    fn the_gateway_is_locked_by_one() {
        let mut config = Config::new();
        let mine = read32(&mut config, VENDOR_COUNTER).max(1);
        config.write(VENDOR_LOCK as u64, &mine.to_le_bytes());
        assert_eq!(read32(&mut config, VENDOR_LOCK), mine);
        let other = read32(&mut config, VENDOR_COUNTER);
        assert_ne!(other, 0);
        config.write(VENDOR_LOCK as u64, &(other + 1).to_le_bytes());
        assert_eq!(read32(&mut config, VENDOR_LOCK), mine);
        config.write(VENDOR_LOCK as u64, &[0; 4]);
        assert_eq!(read32(&mut config, VENDOR_LOCK), 0);
    }

    proptest! {
        #[test]
        fn identity_and_lists_stay(
            offset in prop_oneof![0_u64..0x1010, any::<u64>()], bytes: Vec<u8>,
        ) {
            let mut config = Config::new();
            config.write(offset, &bytes);
            prop_assert_eq!(read32(&mut config, 0), 0x1017_15b3);
            for place in [MSIX, POWER, EXPRESS, VENDOR] {
                let fresh = read32(&mut Config::new(), place) as u16;
                prop_assert_eq!(read32(&mut config, place) as u16, fresh);
            }
        }
    }
}
