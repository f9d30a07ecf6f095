// SPDX-License-Identifier: GPL-2.0
//! Page faults: what an access lacks is told to the driver, and what waits for it goes on when the driver says so.
//!
//! Each end of a queue pair waits for one fault at a time. A fault has a token, which the driver gives back with
//! `PAGE_FAULT_RESUME`; then the access is tried again, and fails if the driver said that there is nothing to be had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{json, Value};

use crate::access::{Missing, Slot, Span};
use crate::bus::Bus;
use crate::eq::{Event, EventQueues};
use crate::fabric::Remote;
use crate::layout::{rdma_page_fault_event, wqe_associated_page_fault_event as wqe_event, Field};
use crate::on_demand::Scheme;
use crate::status::Status;
use crate::trace::Rule;

/// Tokens count modulo this: a driver gives no more bits of them back, by the scheme that has the fewer.
const TOKENS: u64 = 1 << 24;

/// How long a fault may take. No driver does, but one whose process is stopped may.
const BOUND: Duration = Duration::from_secs(300);

/// How often an access may lack the same entry though it was resumed each time: a driver that is disturbed while it
/// looks for a page lets the device try again.
const REPEATS: u32 = 16;

/// How often the driver may say that there is nothing to be had in a part of a region before that is believed, in the
/// memory scheme: it does not know a key any more that the region still leads to until the driver has changed that.
const REFUSALS: u32 = 8;

/// Faults of queue pairs that are gone: they need not be resumed, but may be.
const KEPT: usize = 1 << 12;

/// Kinds of events of page faults.
const BY_REQUEST: u8 = 0;
const BY_PACKET: u8 = 1;
const BY_MEMORY: u8 = 2;

/// In an event of the memory scheme: no other one follows with this token. How much more than what is needed would be
/// wanted, before it and after it.
const LAST: u8 = 1 << 7;
const PAGE: u64 = 4096;
const PAGES_BEFORE: u16 = 1;
const PAGES_AFTER: u16 = 4;

/// Where an event of a request has its token: after what the layouts know of it.
const REQUEST_TOKEN: Field = Field {
    name: "TOKEN",
    bit: 0x60,
    width: 0x20,
};

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    Requester,
    Responder,
}

/// What cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A request of a send queue, whose data cannot be read, or to whose memory an answer cannot be written.
    Request {
        counter: u16,
        reads: bool,
        done: u64,
    },
    /// A receive, of the pair's own queue or of a shared one.
    Receive {
        counter: u16,
        shared: Option<u32>,
        done: u64,
    },
    /// Memory that a packet names.
    Remote {
        remote: Remote,
        done: u64,
        packet: u64,
        write: bool,
    },
}

/// Bytes of what an event says.
const DATA: usize = wqe_event::BYTES;

/// An event of a page fault: the queue that it goes to, its kind and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) queue: u32,
    pub(crate) token: u64,
    pub(crate) kind: u8,
    pub(crate) data: [u8; DATA],
}

impl Told {
    /// Whether it says that no other one of its fault follows: in the memory scheme.
    pub(crate) fn has_last(&self) -> bool {
        self.kind == BY_MEMORY && self.data[0] & LAST != 0
    }

    /// Has it say that others follow.
    pub(crate) fn clear_last(&mut self) {
        self.data[0] &= !LAST;
    }
}

/// What becomes of an access that lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is to wait.
    Wait,
    /// It fails: there is nothing to be had.
    Fail,
}

/// What an end of a queue pair does about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits(u64),
    /// The driver has said that there is nothing to be had there, so often.
    Refused(Slot, u32),
}

/// A fault that the driver knows of.
struct Pending {
    place: (u32, End),
    slot: Slot,
    /// How often it was refused before.
    refused: u32,
    since: Duration,
    /// Nobody waits for it any more: its queue pair is gone.
    gone: bool,
    late: bool,
}

/// The entry that an access lacked last, and the part of another key that leads to it.
struct Watch {
    slot: Slot,
    via: Option<Slot>,
    repeats: u32,
}

impl Watch {
    /// Whether one of these entries of a key is on its way.
    fn passes(&self, key: u32, has: impl Fn(u64) -> bool) -> bool {
        let mut way = [Some(self.slot), self.via].into_iter().flatten();
        way.any(|slot| slot.key == key && has(slot.index))
    }
}

/// All that is known of page faults.
pub(crate) struct Faults {
    pending: BTreeMap<u64, Pending>,
    states: HashMap<(u32, End), State>,
    watches: HashMap<(u32, End), Watch>,
    /// Tokens of which the driver was told twice.
    again: BTreeSet<u64>,
    next: u64,
    raised: u64,
    resumed: u64,
    /// After which time a fault is late.
    pub(crate) bound: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            pending: BTreeMap::new(),
            states: HashMap::new(),
            watches: HashMap::new(),
            again: BTreeSet::new(),
            next: 1,
            raised: 0,
            resumed: 0,
            bound: BOUND,
        }
    }
}

impl Faults {
    /// Nobody waits for anything any more. What was counted stays.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.states.clear();
        self.watches.clear();
        self.again.clear();
    }

    /// Whether an end of a queue pair waits.
    pub(crate) fn waits(&self, pair: u32, end: End) -> bool {
        matches!(self.states.get(&(pair, end)), Some(State::Waits(_)))
    }

    /// Whether anybody waits for the driver.
    pub(crate) fn any(&self) -> bool {
        self.pending.values().any(|pending| !pending.gone)
    }

    /// How many faults there were, how many were resumed, and how many are still to be.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        let waiting = self.pending.values().filter(|pending| !pending.gone);
        (self.raised, self.resumed, waiting.count())
    }

    /// What a queue pair waited for is forgotten: it is reset, or gone for good.
    pub(crate) fn forget(&mut self, pair: u32, gone: bool) {
        for end in [End::Requester, End::Responder] {
            self.states.remove(&(pair, end));
            self.watches.remove(&(pair, end));
        }
        let own = self.pending.values_mut();
        own.filter(|pending| pending.place.0 == pair)
            .for_each(|pending| pending.gone |= gone);
        let old = self.pending.iter().filter(|(_, pending)| pending.gone);
        let old: Vec<u64> = old.map(|(token, _)| *token).collect();
        let surplus = old.len().saturating_sub(KEPT);
        for token in &old[..surplus] {
            self.pending.remove(token);
        }
    }

    /// Entries that were there are not any more, or lead elsewhere: who lacks one of them may fault again.
    pub(crate) fn cleared(&mut self, key: u32, indices: &[u64]) {
        let has = |index: u64| indices.binary_search(&index).is_ok();
        self.watches.retain(|_, watch| !watch.passes(key, has));
    }

    /// The same for all of a key.
    pub(crate) fn key_gone(&mut self, key: u32) {
        self.watches.retain(|_, watch| !watch.passes(key, |_| true));
    }

    fn token(&mut self) -> u64 {
        while self.next == 0 || self.pending.contains_key(&self.next) {
            self.next = (self.next + 1) % TOKENS;
        }
        let token = self.next;
        self.next = (self.next + 1) % TOKENS;
        token
    }

    /// The driver is told of a fault twice, and may resume it as often.
    pub(crate) fn expect_again(&mut self, token: u64) {
        self.again.insert(token);
    }

    /// A fault need not be resumed, but may be: the driver has not been told of it, or its answer was not taken.
    pub(crate) fn excuse(&mut self, token: u64) {
        if let Some(pending) = self.pending.get_mut(&token) {
            pending.gone = true;
        }
    }

    /// The driver could not be told of all of a fault: there is nothing to be had. If it resumes that all the same, it
    /// may. Gives who goes on, if anybody has waited for it.
    pub(crate) fn unheard(&mut self, token: u64) -> Option<(u32, End)> {
        let pending = self.pending.get_mut(&token)?;
        pending.gone = true;
        let state = self.states.get_mut(&pending.place)?;
        if *state != State::Waits(token) {
            return None;
        }
        *state = State::Refused(pending.slot, REFUSALS + 1);
        Some(pending.place)
    }

    /// Counts how often an access has lacked the same entry; gives whether that is too often.
    fn repeats(&mut self, place: (u32, End), missing: &Missing) -> bool {
        let (slot, via) = (missing.slot, missing.via);
        let new = || Watch {
            slot,
            via,
            repeats: 0,
        };
        let watch = self.watches.entry(place).or_insert_with(new);
        if (watch.slot, watch.via) != (slot, via) {
            *watch = new();
        }
        watch.repeats += 1;
        watch.repeats == REPEATS
    }

    /// How often the driver has said that there is nothing to be had where an access lacks something. An error is what
    /// becomes of the access if there is no point in asking the driver.
    fn refusals(
        &mut self,
        place: (u32, End),
        scheme: Scheme,
        first: &Missing,
    ) -> Result<u32, Verdict> {
        match self.states.get(&place) {
            Some(State::Waits(_)) => Err(Verdict::Wait),
            Some(State::Refused(at, refused)) if *at == first.slot => {
                // Somebody may just be taking the part away that leads there.
                let more = scheme == Scheme::Memory && first.via.is_some();
                if more && *refused <= REFUSALS {
                    return Ok(*refused);
                }
                self.states.remove(&place);
                Err(Verdict::Fail)
            }
            Some(State::Refused(..)) | None => Ok(0),
        }
    }

    /// An access of an end of a queue pair lacks something. Gives what the driver is to be told; nothing if it has been
    /// told, or has said that there is nothing.
    pub(crate) fn page_fault(
        &mut self,
        scheme: Scheme,
        place: (u32, End),
        missing: &[Missing],
        cause: Cause,
        events: &EventQueues,
        bus: &Bus,
    ) -> (Verdict, Vec<Told>) {
        let (pair, _) = place;
        let listener = events.listener(Event::PageFault);
        let (Some(queue), Some(first)) = (listener, missing.first()) else {
            return (Verdict::Fail, Vec::new());
        };
        let slot = first.slot;
        let refused = match self.refusals(place, scheme, first) {
            Ok(refused) => refused,
            Err(verdict) => return (verdict, Vec::new()),
        };
        // If the driver can be told of a part only, the rest is a fault of its own later.
        let missing = &missing[..missing.len().min(events.room(queue))];
        if missing.is_empty() {
            return (Verdict::Fail, Vec::new());
        }
        if self.repeats(place, first) {
            let text = format!(
                "queue pair {pair:#x}: entry {:#x} of key {:#x} is still absent after {REPEATS} faults",
                slot.index, slot.key,
            );
            bus.violation(Rule::Progress, text);
        }
        let token = self.token();
        let pending = Pending {
            place,
            slot,
            refused,
            since: bus.now(),
            gone: false,
            late: false,
        };
        self.pending.insert(token, pending);
        self.states.insert(place, State::Waits(token));
        self.raised += 1;
        bus.event("page-fault", || traced(place, token, slot, missing));
        let told = |(kind, data)| Told {
            queue,
            token,
            kind,
            data,
        };
        let told = match scheme {
            Scheme::Transport => vec![told(transport_event(pair, token, cause))],
            Scheme::Memory => {
                let all = missing.iter().enumerate();
                let event = |(at, one): (usize, &Missing)| {
                    memory_event(token, one.span, at + 1 == missing.len())
                };
                all.map(|one| told((BY_MEMORY, event(one)))).collect()
            }
        };
        (Verdict::Wait, told)
    }

    /// A page fault that nobody has had: gives what the driver is to be told of it in a queue, as if this queue pair
    /// had it. It has to be resumed if it is to be `answered`.
    pub(crate) fn invent(
        &mut self,
        scheme: Scheme,
        (queue, pair): (u32, u32),
        span: Span,
        cause: Cause,
        answered: bool,
        bus: &Bus,
    ) -> Told {
        let token = self.token();
        let place = (pair, End::Requester);
        let slot = Slot {
            key: span.key >> 8,
            index: 0,
        };
        let pending = Pending {
            place,
            slot,
            refused: 0,
            since: bus.now(),
            gone: !answered,
            late: false,
        };
        self.pending.insert(token, pending);
        self.raised += 1;
        bus.event("page-fault", || traced(place, token, slot, &[]));
        let (kind, data) = match scheme {
            Scheme::Transport => transport_event(pair, token, cause),
            Scheme::Memory => (BY_MEMORY, memory_event(token, span, true)),
        };
        Told {
            queue,
            token,
            kind,
            data,
        }
    }

    /// Says so once if a fault takes too long. Gives whether there are faults to wait for.
    pub(crate) fn late(&mut self, bus: &Bus) -> bool {
        if !self.any() {
            return false;
        }
        let now = bus.now();
        let bound = self.bound;
        for (token, pending) in &mut self.pending {
            let late = !pending.gone && now.saturating_sub(pending.since) > bound;
            if late && !pending.late {
                pending.late = true;
                let text = format!("page fault {token:#x} is not resumed");
                bus.violation(Rule::Tokens, text);
            }
        }
        true
    }

    /// The driver goes, and with it everything: what it has left is wrong.
    pub(crate) fn lost(&mut self, bus: &Bus) {
        for (token, pending) in &self.pending {
            if !pending.gone && !pending.late {
                let text = format!("page fault {token:#x} was never resumed");
                bus.violation(Rule::Tokens, text);
            }
        }
        self.pending.clear();
    }

    /// The driver resumes a fault, with success or with an error. Gives who goes on, if anybody has waited for it.
    pub(crate) fn resume(
        &mut self,
        token: u64,
        error: bool,
        bus: &Bus,
    ) -> Result<Option<(u32, End)>, Status> {
        let Some(pending) = self.pending.remove(&token) else {
            if self.again.remove(&token) {
                return Err(Status::BadResource);
            }
            let text = format!("page fault {token:#x} is resumed, but nobody waits for it");
            bus.violation(Rule::Tokens, text);
            return Err(Status::BadResource);
        };
        let (pair, _) = pending.place;
        self.resumed += 1;
        bus.event(
            "resume",
            || json!({"token": token, "qp": pair, "error": error, "gone": pending.gone}),
        );
        if self.states.get(&pending.place) != Some(&State::Waits(token)) {
            return Ok(None);
        }
        match error {
            true => {
                let refused = State::Refused(pending.slot, pending.refused + 1);
                self.states.insert(pending.place, refused)
            }
            false => self.states.remove(&pending.place),
        };
        Ok(Some(pending.place))
    }
}

/// A fault as the trace has it.
fn traced((pair, end): (u32, End), token: u64, slot: Slot, missing: &[Missing]) -> Value {
    let lacks = missing.iter().map(|missing| {
        let span = missing.span;
        json!({"key": span.key, "address": span.address, "length": span.length})
    });
    json!({
        "qp": pair,
        "end": format!("{end:?}"),
        "token": token,
        "key": slot.key,
        "entry": slot.index,
        "lacks": lacks.collect::<Vec<_>>(),
    })
}

/// An event by what cannot go on: its kind and its data.
fn transport_event(pair: u32, token: u64, cause: Cause) -> (u8, [u8; DATA]) {
    let mut data = [0; DATA];
    let committed = |data: &mut [u8], done: u64| wqe_event::BYTES_COMMITTED.set(data, done);
    match cause {
        Cause::Request {
            counter,
            reads,
            done,
        } => {
            committed(&mut data, done);
            wqe_event::WQE_INDEX.set(&mut data, u64::from(counter));
            wqe_event::REQUESTOR.set(&mut data, 1_u64);
            wqe_event::WRITE_READ.set(&mut data, u64::from(reads));
            wqe_event::QPN.set(&mut data, pair);
        }
        Cause::Receive {
            counter,
            shared,
            done,
        } => {
            committed(&mut data, done);
            wqe_event::WQE_INDEX.set(&mut data, u64::from(counter));
            wqe_event::WRITE_READ.set(&mut data, u64::from(shared.is_none()));
            wqe_event::QPN.set(&mut data, shared.unwrap_or(pair));
        }
        Cause::Remote {
            remote,
            done,
            packet,
            write,
        } => {
            committed(&mut data, done);
            rdma_page_fault_event::R_KEY.set(&mut data, remote.key);
            rdma_page_fault_event::PACKET_LEN.set(&mut data, packet);
            rdma_page_fault_event::RDMA_OP_LEN.set(&mut data, remote.length);
            rdma_page_fault_event::RDMA_VA.set(&mut data, remote.address);
            rdma_page_fault_event::RDMA.set(&mut data, 1_u64);
            rdma_page_fault_event::WRITE.set(&mut data, u64::from(write));
            // What a layout calls the number of a queue pair is the token.
            rdma_page_fault_event::QP_NUMBER.set(&mut data, token);
            return (BY_PACKET, data);
        }
    }
    REQUEST_TOKEN.set(&mut data, token);
    (BY_REQUEST, data)
}

/// An event by what is needed.
fn memory_event(token: u64, span: Span, last: bool) -> [u8; DATA] {
    let first = span.address & !(PAGE - 1);
    let end = span.address.saturating_add(span.length);
    let pages = (end - first).div_ceil(PAGE);
    // Nothing lies before the first address.
    let before = u64::from(PAGES_BEFORE).min(first / PAGE) as u16;
    let mut data = [0; DATA];
    data[0] = if last { LAST } else { 0 };
    data[2..4].copy_from_slice(&PAGES_AFTER.to_be_bytes());
    data[4..6].copy_from_slice(&before.to_be_bytes());
    data[6..8].copy_from_slice(&((token >> 32) as u16).to_be_bytes());
    data[8..12].copy_from_slice(&(token as u32).to_be_bytes());
    data[12..16].copy_from_slice(&((pages << 12) as u32).to_be_bytes());
    data[16..20].copy_from_slice(&span.key.to_be_bytes());
    data[20..28].copy_from_slice(&first.to_be_bytes());
    data
}
