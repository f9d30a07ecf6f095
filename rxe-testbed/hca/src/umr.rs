// SPDX-License-Identifier: GPL-2.0
//! Requests that change memory keys (UMR): parts of the context by a mask, and a range of the translation.

use crate::completion::Syndrome;
use crate::data::Access;
use crate::device::Device;
use crate::layout::{mkc, Field};
use crate::trace::Rule;
use crate::translate;
use crate::wqe::{Request, Update};

/// Flags: where the translation begins is said; the key has to be free, or must not be.
const OFFSET: u8 = 1 << 4;
const HAS_TO_BE_FREE: u8 = 1 << 5;
const MUST_NOT_BE_FREE: u8 = 1 << 6;

/// Bits of the mask, and the fields that they stand for.
const FIELDS: [(u64, &[Field]); 12] = [
    (1 << 0, &[mkc::LEN, mkc::LENGTH64]),
    (1 << 1, &[mkc::LOG_PAGE_SIZE]),
    (1 << 6, &[mkc::START_ADDR]),
    (1 << 7, &[mkc::PD]),
    (1 << 13, &[mkc::MKEY_7_0]),
    (1 << 14, &[mkc::QPN]),
    (1 << 17, &[mkc::LR]),
    (1 << 18, &[mkc::LW]),
    (1 << 19, &[mkc::RR]),
    (1 << 20, &[mkc::RW]),
    (1 << 21, &[mkc::A]),
    (1 << 29, &[mkc::FREE]),
];

/// Bytes of a unit of translations, and the longest translation that is kept, in these.
const OCTWORD: u64 = 16;
const MOST: u64 = 1 << 20;

impl Device {
    /// Changes a key as a request of a queue pair says.
    pub(crate) fn update_key(&mut self, number: u32, request: &Request) -> Result<(), Syndrome> {
        let update = request.update.as_ref().ok_or(Syndrome::LocalOperation)?;
        let pair = self.queue_pairs.get(number);
        let pair = pair.map_err(|_| Syndrome::LocalOperation)?;
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: pair.user(number, translate::Access::LocalRead),
        };
        let length = u64::from(update.octwords) * OCTWORD;
        let entries = access.gather(&request.data, 0, length);
        let entries = entries.map_err(|_| Syndrome::LocalProtection)?;
        let result = self.apply(update, &entries);
        if let Err(problem) = result {
            let text = format!("queue pair {number:#x}, key {:#x}: {problem}", update.key);
            self.bus.violation(Rule::Keys, text);
            return Err(Syndrome::KeyUpdate);
        }
        Ok(())
    }

    /// Does all of it or nothing.
    fn apply(&mut self, update: &Update, entries: &[u8]) -> Result<(), &'static str> {
        let key = self.mkeys.get_mut(update.key >> 8);
        let key = key.map_err(|_| "there is no such key")?;
        if !mkc::UMR_EN.is_set(key.context()) {
            return Err("it is not one that requests change");
        }
        let free = mkc::FREE.is_set(key.context());
        if free && update.flags & MUST_NOT_BE_FREE != 0 {
            return Err("it is free");
        }
        if !free && update.flags & HAS_TO_BE_FREE != 0 {
            return Err("it is not free");
        }
        let known = FIELDS.iter().fold(0, |all, (bit, _)| all | bit);
        if update.mask & !known != 0 {
            return Err("a field that is not known");
        }
        let first = match update.flags & OFFSET {
            0 => 0,
            _ => update.offset,
        };
        let end = first + u64::from(update.octwords);
        let room = u64::from(mkc::TRANSLATIONS_OCTWORD_SIZE.get32(key.context()));
        if end > room.min(MOST) {
            return Err("a translation beyond its end");
        }
        if !entries.is_empty() {
            key.set_translation((first * OCTWORD) as usize, entries);
        }
        let chosen = FIELDS.iter().filter(|(bit, _)| update.mask & bit != 0);
        for field in chosen.flat_map(|(_, fields)| *fields) {
            field.set(key.context_mut(), field.get(&update.context));
        }
        Ok(())
    }
}
