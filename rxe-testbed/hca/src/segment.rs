// SPDX-License-Identifier: GPL-2.0
//! The initialization segment: the registers by which a driver finds the command interface, sees that the firmware
//! lives, and reads the time.

use std::time::Duration;

use crate::layout::{health_buffer, initial_seg};
use crate::profile::FREQUENCY_KHZ;

/// Its bytes, up to a multiple of a page. The doorbell pages follow.
pub(crate) const SIZE: u64 = 0x5000;

/// Entries of the command queue, and bytes of one, as powers of two.
pub(crate) const LOG_ENTRIES: u32 = 5;
pub(crate) const LOG_STRIDE: u32 = 6;

/// The interface's revision, and what the firmware calls itself.
const INTERFACE: u64 = 5;
const FIRMWARE: (u64, u64, u64) = (16, 99, 1);

const ADDRESS_HIGH: u64 = 0x10;
const ADDRESS_LOW: u64 = 0x14;
const DOORBELL: u64 = 0x18;
const HEALTH: usize = 0x200;
const TIMER: usize = 0x1000;
/// How often the counter by which the firmware shows that it lives goes on.
const HEARTBEAT: Duration = Duration::from_millis(10);

/// What the firmware says of its own error: that something was not as it has to be.
const ASSERTED: u64 = 1;

/// Where a register has the state of the interface, and states: commands are taken in the first one only.
const STATE: u32 = 7 << 8;
const FULL: u32 = 0;
const DISABLED: u32 = 1;

/// What a write meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing more than that a register has changed.
    Register,
    /// These entries of the command queue are there to be executed.
    Doorbell(u32),
    /// There is no such register.
    Nothing,
}

/// The registers.
pub(crate) struct Segment {
    bytes: Vec<u8>,
    high: u32,
    low: u32,
}

impl Segment {
    /// As they are after a reset.
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; SIZE as usize];
        initial_seg::FW_REV_MAJOR.set(&mut bytes, FIRMWARE.0);
        initial_seg::FW_REV_MINOR.set(&mut bytes, FIRMWARE.1);
        initial_seg::FW_REV_SUBMINOR.set(&mut bytes, FIRMWARE.2);
        initial_seg::CMD_INTERFACE_REV.set(&mut bytes, INTERFACE);
        initial_seg::LOG_CMDQ_SIZE.set(&mut bytes, LOG_ENTRIES);
        initial_seg::LOG_CMDQ_STRIDE.set(&mut bytes, LOG_STRIDE);
        let version = (FIRMWARE.0 << 28) | (FIRMWARE.1 << 16) | FIRMWARE.2;
        health_buffer::FW_VERSION.set(&mut bytes[HEALTH..], version);
        Self {
            bytes,
            high: 0,
            low: 0,
        }
    }

    /// Shows an error from which only a reset helps, or none any more. With one, no commands are taken until a driver says
    /// again where its command queue is.
    pub(crate) fn show_error(&mut self, shown: bool) {
        if shown {
            self.set_low((self.low & !STATE) | (DISABLED << STATE.trailing_zeros()));
        }
        let health = &mut self.bytes[HEALTH..];
        health_buffer::RFR.set(health, u64::from(shown));
        health_buffer::SYND.set(health, if shown { ASSERTED } else { 0 });
    }

    /// Where the driver has put its command queue; nothing before it has, and when it has switched commands off.
    pub(crate) fn queue(&self) -> Option<u64> {
        let address = (u64::from(self.high) << 32) | u64::from(self.low & !0xfff);
        let full = (self.low & STATE) >> STATE.trailing_zeros() == FULL;
        (full && address != 0).then_some(address)
    }

    /// Reads from `offset` on.
    pub(crate) fn read(&mut self, offset: u64, now: Duration, bytes: &mut [u8]) {
        self.refresh(now);
        let start = offset.min(SIZE) as usize;
        for (place, byte) in (start..).zip(bytes.iter_mut()) {
            *byte = self.bytes.get(place).copied().unwrap_or(0);
        }
    }

    /// Writes a register of 32 bits.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Written {
        let Ok(bytes) = <[u8; 4]>::try_from(bytes) else {
            return Written::Nothing;
        };
        let value = u32::from_be_bytes(bytes);
        match offset {
            ADDRESS_HIGH => {
                self.high = value;
                initial_seg::CMDQ_PHY_ADDR_63_32.set(&mut self.bytes, value);
            }
            ADDRESS_LOW => self.set_low(value),
            DOORBELL => return Written::Doorbell(value),
            _ => return Written::Nothing,
        }
        Written::Register
    }

    /// Sets the register with the lower half of the command queue's address, and the state of the interface.
    fn set_low(&mut self, value: u32) {
        self.low = value & !0xff;
        initial_seg::CMDQ_PHY_ADDR_31_12.set(&mut self.bytes, self.low >> 12);
        // The interface's field is wider than its declaration: three bits.
        let byte = ADDRESS_LOW as usize + 2;
        self.bytes[byte] = self.bytes[byte] & 0xf0 | ((self.low & STATE) >> 8) as u8;
    }

    /// Brings the registers that go on by themselves up to `now`.
    fn refresh(&mut self, now: Duration) {
        let ticks = now.as_nanos() * u128::from(FREQUENCY_KHZ) / 1_000_000;
        self.bytes[TIMER..TIMER + 8].copy_from_slice(&(ticks as u64).to_be_bytes());
        let beats = now.as_nanos() / HEARTBEAT.as_nanos();
        initial_seg::HEALTH_COUNTER.set(&mut self.bytes, beats as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read32(segment: &mut Segment, offset: u64, now: Duration) -> u32 {
        let mut bytes = [0; 4];
        segment.read(offset, now, &mut bytes);
        u32::from_be_bytes(bytes)
    }

    #[test]
    fn the_command_queue_is_found_after_both_halves() {
        let mut segment = Segment::new();
        assert_eq!(read32(&mut segment, 4, Duration::ZERO) >> 16, 5);
        assert_eq!(read32(&mut segment, ADDRESS_LOW, Duration::ZERO), 0x56);
        assert_eq!(segment.queue(), None);
        assert_eq!(
            segment.write(ADDRESS_HIGH, &[0, 0, 0, 1]),
            Written::Register
        );
        segment.write(ADDRESS_LOW, &0x1234_5000_u32.to_be_bytes());
        assert_eq!(segment.queue(), Some(0x1_1234_5000));
        assert_eq!(
            read32(&mut segment, ADDRESS_LOW, Duration::ZERO),
            0x1234_5056
        );
        let doorbell = segment.write(DOORBELL, &[0, 0, 0, 6]);
        assert_eq!(doorbell, Written::Doorbell(6));
    }

    #[test]
    fn a_driver_can_switch_commands_off() {
        let mut segment = Segment::new();
        segment.write(ADDRESS_LOW, &0x1000_u32.to_be_bytes());
        segment.write(ADDRESS_LOW, &0x1100_u32.to_be_bytes());
        assert_eq!(segment.queue(), None);
        let state = (read32(&mut segment, ADDRESS_LOW, Duration::ZERO) >> 8) & 7;
        assert_eq!(state, 1);
    }

    #[test]
    fn time_goes_on_in_both_counters() {
        let mut segment = Segment::new();
        let second = Duration::from_secs(1);
        let low = |segment: &mut Segment, now| read32(segment, TIMER as u64 + 4, now);
        assert_eq!(low(&mut segment, second), FREQUENCY_KHZ * 1000);
        assert_eq!(read32(&mut segment, 0x1010, second), 100);
        assert_eq!(read32(&mut segment, 0x1010, second * 2), 200);
    }

    proptest! {
        #[test]
        fn accesses_are_taken_as_they_come(
            offset in prop_oneof![0..SIZE + 16, any::<u64>()], bytes: Vec<u8>, length in 0_usize..64,
        ) {
            let mut segment = Segment::new();
            segment.write(offset, &bytes);
            segment.read(offset, Duration::MAX, &mut vec![0; length]);
            prop_assert_eq!(read32(&mut segment, 4, Duration::ZERO) >> 16, 5);
        }
    }
}
