// SPDX-License-Identifier: GPL-2.0
//! Requests that change memory keys (UMR): parts of the context by a mask, and a range of the translation.

use serde_json::json;

use crate::access::{self, Domain, Use};
use crate::completion::Syndrome;
use crate::data::Access;
use crate::device::Device;
use crate::layout::{mkc, Field};
use crate::trace::Rule;
use crate::translate::ANY_PAIR;
use crate::wqe::{Request, Update};

/// Flags: the key has to be the queue pair's, or one of all that is not free; where the translation begins is said; the
/// key has to be free, or must not be; the translation is in the request.
const OF_PAIR: u8 = 1 << 3;
const OFFSET: u8 = 1 << 4;
const HAS_TO_BE_FREE: u8 = 1 << 5;
const MUST_NOT_BE_FREE: u8 = 1 << 6;
const INLINE: u8 = 1 << 7;
const FLAGS: u8 = OF_PAIR | OFFSET | HAS_TO_BE_FREE | MUST_NOT_BE_FREE | INLINE;

/// The size of pages: its highest bit has a bit of its own in the mask, for older drivers know but the others.
const PAGE_SIZE_HIGH: Field = Field {
    width: 1,
    ..mkc::LOG_PAGE_SIZE
};
const PAGE_SIZE_LOW: Field = Field {
    bit: mkc::LOG_PAGE_SIZE.bit + 1,
    width: mkc::LOG_PAGE_SIZE.width - 1,
    ..mkc::LOG_PAGE_SIZE
};

/// Bits of the mask, and the fields that they stand for.
const DOMAIN: u64 = 1 << 7;
const FIELDS: [(u64, &[Field]); 15] = [
    (1 << 0, &[mkc::LEN, mkc::LENGTH64]),
    (1 << 1, &[PAGE_SIZE_LOW]),
    (1 << 42, &[PAGE_SIZE_HIGH]),
    (1 << 6, &[mkc::START_ADDR]),
    (DOMAIN, &[mkc::PD]),
    (1 << 8, &[mkc::EN_RINVAL]),
    (1 << 13, &[mkc::MKEY_7_0]),
    (1 << 14, &[mkc::QPN]),
    (1 << 17, &[mkc::LR]),
    (1 << 18, &[mkc::LW]),
    (1 << 19, &[mkc::RR]),
    (1 << 20, &[mkc::RW]),
    (1 << 21, &[mkc::A]),
    (1 << 23, &[mkc::SMALL_FENCE_ON_RDMA_READ_RESPONSE]),
    (1 << 29, &[mkc::FREE]),
];

/// Bytes of a unit of translations; how many of these a driver changes at once, so that there is always room for them;
/// and how many there are at most.
const OCTWORD: u64 = 16;
const BLOCK: u64 = 4;
const MOST: u64 = 1 << 22;

impl Device {
    /// Changes a key as a request of a queue pair says.
    pub(crate) fn update_key(&mut self, number: u32, request: &Request) -> Result<(), Syndrome> {
        let update = request.update.as_ref().ok_or(Syndrome::LocalOperation)?;
        let pair = self.queue_pairs.get(number);
        let pair = pair.map_err(|_| Syndrome::LocalOperation)?;
        let access = Access {
            keys: &self.mkeys,
            bus: &self.bus,
            user: pair.user(number, access::Access::LocalRead),
        };
        let length = u64::from(update.octwords) * OCTWORD;
        let entries = access.gather(&request.data, 0, length);
        let entries = entries.map_err(|_| Syndrome::LocalProtection)?;
        let user = access.user;
        let result = self.apply(update, &entries, user);
        if let Err(problem) = result {
            let text = format!("queue pair {number:#x}, key {:#x}: {problem}", update.key);
            match user.domain {
                // What others ask for is their affair, and they hear of it.
                Domain::One(_) => self.bus.event("refused", || json!({ "text": text })),
                Domain::Every => self.bus.violation(Rule::Keys, text),
            }
            return Err(Syndrome::KeyUpdate);
        }
        Ok(())
    }

    /// Does all of it or nothing.
    fn apply(&mut self, update: &Update, entries: &[u8], user: Use) -> Result<(), &'static str> {
        let number = update.key >> 8;
        let key = self.mkeys.get_mut(number);
        let key = key.map_err(|_| "there is no such key")?;
        let own = Domain::One(key.domain());
        if user.domain != Domain::Every && (user.domain != own || update.mask & DOMAIN != 0) {
            return Err("it is of another protection domain, or were to be");
        }
        if update.flags & !FLAGS != 0 {
            return Err("a flag that is not known");
        }
        let pair = mkc::QPN.get32(key.context());
        let free = mkc::FREE.is_set(key.context());
        let own = pair == user.pair || pair == ANY_PAIR && !free;
        if update.flags & OF_PAIR != 0 && !own {
            return Err("it is another queue pair's");
        }
        if !mkc::UMR_EN.is_set(key.context()) {
            return Err("it is not one that requests change");
        }
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
        let room = room.next_multiple_of(BLOCK);
        if end > room.min(MOST) {
            return Err("a translation beyond its end");
        }
        if !entries.is_empty() {
            if self.capabilities.page_faults().is_some() {
                key.comes_on_demand();
            }
            let cleared = key.set_translation((first * OCTWORD) as usize, entries);
            self.faults.cleared(number, &cleared);
        }
        let chosen = FIELDS.iter().filter(|(bit, _)| update.mask & bit != 0);
        for field in chosen.flat_map(|(_, fields)| *fields) {
            field.set(key.context_mut(), field.get(&update.context));
        }
        let now_free = mkc::FREE.is_set(key.context());
        let old = match now_free == free {
            true => None,
            false => key.set_free(now_free),
        };
        if let Some(index) = old {
            let text = format!("key {number:#x} comes back with entry {index:#x} of its past");
            self.bus.violation(Rule::Reachable, text);
        }
        if now_free && !free {
            self.key_gone(number, "free");
        }
        Ok(())
    }
}
