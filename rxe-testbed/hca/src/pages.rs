// SPDX-License-Identifier: GPL-2.0
//! Pages that a driver lends to the device (MANAGE_PAGES). The device does not use them: it has them asked for, given and
//! taken back, as drivers see it of a card.

use std::collections::BTreeSet;

use crate::status::Status;

/// The memory that a driver has lent to the device.
#[derive(Default)]
pub(crate) struct Pages {
    lent: BTreeSet<u64>,
}

impl Pages {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lent.len()
    }

    /// Takes pages from the driver: all of these or none.
    pub(crate) fn give(&mut self, addresses: &[u64]) -> Result<(), Status> {
        let mut all = self.lent.clone();
        for address in addresses {
            if address & 0xfff != 0 || !all.insert(*address) {
                return Err(Status::BadParameter);
            }
        }
        self.lent = all;
        Ok(())
    }

    /// Gives so many back, or all if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u64> {
        let taken: Vec<u64> = self.lent.iter().copied().take(count).collect();
        self.lent.retain(|address| !taken.contains(address));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_lent_once() {
        let mut pages = Pages::default();
        assert_eq!(pages.give(&[0x1000, 0x2000]), Ok(()));
        assert_eq!(pages.give(&[0x3000, 0x1000]), Err(Status::BadParameter));
        assert_eq!(pages.give(&[0x3001]), Err(Status::BadParameter));
        assert_eq!(pages.take(5), [0x1000, 0x2000]);
        assert!(pages.take(5).is_empty());
    }
}
