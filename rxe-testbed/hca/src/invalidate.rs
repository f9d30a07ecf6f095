// SPDX-License-Identifier: GPL-2.0
//! Memory keys that go: they are destroyed, or free from now on, because a request says so or because the queue pair is
//! gone that they were bound to.

use crate::device::Device;
use crate::layout::mkc;
use crate::mkey::MemoryKey;
use crate::trace::Rule;

impl Device {
    /// A queue pair is gone, and with it the memory windows that are bound to it: whatever gets its number next has none.
    pub(crate) fn free_keys_of(&mut self, pair: u32) {
        let its = |(number, key): (u32, &MemoryKey)| {
            let its = mkc::QPN.get32(key.context()) == pair && !mkc::FREE.is_set(key.context());
            its.then_some(number)
        };
        let all: Vec<u32> = self.mkeys.iter().filter_map(its).collect();
        for number in all {
            if let Ok(key) = self.mkeys.get_mut(number) {
                mkc::FREE.set(key.context_mut(), 1_u64);
                key.set_free(true);
            }
            self.key_gone(number, "free");
        }
    }

    /// A key is not one any more. No part of another key may be of it: whatever gets its number next would be reached.
    pub(crate) fn key_gone(&mut self, number: u32, how: &str) {
        self.faults.key_gone(number);
        let mut others = self.mkeys.iter();
        if let Some((other, _)) = others.find(|(_, key)| key.leads_to(number)) {
            let text = format!("key {number:#x} is {how}, but key {other:#x} leads to it");
            self.bus.violation(Rule::Reachable, text);
        }
    }
}
