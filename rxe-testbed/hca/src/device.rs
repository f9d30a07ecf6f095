// SPDX-License-Identifier: GPL-2.0
//! The device's state, and what becomes of what the driver writes to it.
//!
//! It is in two halves. [`Registers`] answers reads at once and turns writes into [`Event`]s; [`Device`] takes these,
//! one after the other, and owns everything else. Nothing in either depends on threads or on the host's time: the
//! same events with the same memory and the same clock have the same outcome.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::bus::Bus;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::cq::CompletionQueue;
use crate::dynamic::RESPONDERS;
use crate::eq::EventQueue;
use crate::fabric::{Fabric, Loopback};
use crate::faults::Faults;
use crate::memory::GuestMemory;
use crate::mkey::{MemoryKey, NULL_MKEY};
use crate::pages::Pages;
use crate::pci::BAR0;
use crate::port::{Port, LID};
use crate::profile::{
    Capabilities, Profile, EVENT_QUEUES, LOG_MAX_CQ, LOG_MAX_DOMAIN, LOG_MAX_MKEY, LOG_MAX_PD,
    LOG_MAX_QP, LOG_MAX_SRQ, LOG_MAX_USERS, LOG_MAX_XRCD, MAX_COUNTERS,
};
use crate::qp::QueuePair;
use crate::segment::{self, Segment, Written};
use crate::srq::SharedQueue;
use crate::table::Table;
use crate::trace::{Rule, Trace};

/// Bytes of a page of doorbells, and the first one that a driver gets: those before it are the registers.
const PAGE: u64 = 0x1000;
const FIRST_PAGE: u32 = 8;

/// Doorbells in a page: of event queues, with and without arming, of completion queues, of work queues.
const EVENTS_ARM: u64 = 0x40;
const EVENTS: u64 = 0x48;
const COMPLETIONS: u64 = 0x20;
const WORK: u64 = 0x800;

/// How far a driver has brought the device up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HcaState {
    /// Not at all.
    Off,
    /// It takes pages, and says what it can do.
    Enabled,
    /// It works.
    Initialised,
}

/// What a device is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What it announces.
    pub profile: Profile,
    /// Its identity: that of its node, its system and its port.
    pub guid: u64,
}

/// Something for the device to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Commands were put into the command queue: a bit for each entry.
    Commands(u32),
    /// A write to a page of doorbells.
    Doorbell {
        /// The page.
        page: u32,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// The function is reset.
    Reset,
}

/// The half that answers at once.
#[derive(Clone)]
pub struct Registers {
    segment: Arc<Mutex<Segment>>,
    clock: Arc<dyn Clock>,
}

impl Registers {
    /// Reads of BAR 0. Doorbells read as zeroes.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let now = self.clock.now();
        lock(&self.segment).read(offset, now, bytes);
    }

    /// Writes to BAR 0; gives what the device has to do about it.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Option<Event> {
        if offset >= segment::SIZE {
            let page = u32::try_from(offset / PAGE).ok()?;
            let bytes = bytes.to_vec();
            let offset = offset % PAGE;
            return Some(Event::Doorbell {
                page,
                offset,
                bytes,
            });
        }
        match lock(&self.segment).write(offset, bytes) {
            Written::Doorbell(entries) => Some(Event::Commands(entries)),
            Written::Register | Written::Nothing => None,
        }
    }

    /// Puts the registers back to where they were in the beginning.
    pub fn reset(&self) -> Event {
        *lock(&self.segment) = Segment::new();
        Event::Reset
    }
}

/// The half that works.
pub struct Device {
    pub(crate) bus: Bus,
    segment: Arc<Mutex<Segment>>,
    pub(crate) state: HcaState,
    pub(crate) pages: Pages,
    profile: Profile,
    pub(crate) capabilities: Capabilities,
    /// Of the interface between software and silicon, as the driver has chosen it.
    pub(crate) revision: u64,
    pub(crate) port: Port,
    pub(crate) doorbell_pages: Table<()>,
    pub(crate) domains: Table<()>,
    pub(crate) xrc_domains: Table<()>,
    pub(crate) transport_domains: Table<()>,
    pub(crate) users: Table<()>,
    pub(crate) event_queues: Table<EventQueue>,
    pub(crate) completion_queues: Table<CompletionQueue>,
    pub(crate) counters: Table<Counters>,
    pub(crate) mkeys: Table<MemoryKey>,
    pub(crate) shared_queues: Table<SharedQueue>,
    pub(crate) queue_pairs: Table<QueuePair>,
    pub(crate) fabric: Box<dyn Fabric>,
    pub(crate) faults: Faults,
    /// How many connections initiators have begun.
    pub(crate) connections: u64,
    /// Queue pairs that may have something to do, and the one whose turn it is.
    pub(crate) active: BTreeSet<u32>,
    pub(crate) turn: u32,
    /// First halves of doorbells that come in two writes, by page and place.
    halves: HashMap<(u32, u64), u32>,
    /// Vectors that are to be raised, in order.
    pub(crate) interrupts: Vec<u16>,
}

impl Device {
    /// A device that nobody has touched, and its registers.
    pub fn new(
        options: Options,
        memory: GuestMemory,
        clock: Arc<dyn Clock>,
        trace: Trace,
    ) -> (Self, Registers) {
        let segment = Arc::new(Mutex::new(Segment::new()));
        let registers = Registers {
            segment: segment.clone(),
            clock: clock.clone(),
        };
        let mut device = Self {
            bus: Bus::new(memory, clock, trace),
            segment,
            state: HcaState::Off,
            pages: Pages::default(),
            profile: options.profile,
            capabilities: Capabilities::new(options.profile),
            revision: 0,
            port: Port::new(options.guid),
            doorbell_pages: Table::new(0, 0),
            domains: Table::new(0, 0),
            xrc_domains: Table::new(0, 0),
            transport_domains: Table::new(0, 0),
            users: Table::new(0, 0),
            event_queues: Table::new(0, 0),
            completion_queues: Table::new(0, 0),
            counters: Table::new(0, 0),
            mkeys: Table::new(0, 0),
            shared_queues: Table::new(0, 0),
            queue_pairs: Table::new(0, 0),
            fabric: Box::new(Loopback::default()),
            faults: Faults::default(),
            connections: 0,
            active: BTreeSet::new(),
            turn: 0,
            halves: HashMap::new(),
            interrupts: Vec::new(),
        };
        device.destroy_objects();
        (device, registers)
    }

    /// Does what an event asks for; gives the interrupt vectors to raise.
    pub fn handle(&mut self, event: Event) -> Vec<u16> {
        match event {
            Event::Commands(entries) => self.execute(entries),
            Event::Doorbell {
                page,
                offset,
                bytes,
            } => self.doorbell(page, offset, &bytes),
            Event::Reset => {
                self.bus.event("reset", || json!({}));
                self.forget_everything();
            }
        }
        std::mem::take(&mut self.interrupts)
    }

    /// Does what has to be done from time to time: gives the vectors to raise, or nothing if there is nothing to
    /// look after.
    pub fn tick(&mut self) -> Option<Vec<u16>> {
        let waiting = self.pass_time();
        let watching = self.flush_all();
        let faults = self.late_faults();
        (waiting || watching || faults).then(|| std::mem::take(&mut self.interrupts))
    }

    /// How many objects there are that a driver has to destroy.
    pub fn objects(&self) -> usize {
        let numbers = [
            &self.doorbell_pages,
            &self.domains,
            &self.xrc_domains,
            &self.transport_domains,
            &self.users,
        ];
        let numbers: usize = numbers.iter().map(|table| table.len()).sum();
        numbers
            + self.event_queues.len()
            + self.completion_queues.len()
            + self.counters.len()
            + self.mkeys.len()
            + self.shared_queues.len()
            + self.driver_pairs()
    }

    /// How many queue pairs and targets a driver has made.
    fn driver_pairs(&self) -> usize {
        let own = self.queue_pairs.iter();
        own.filter(|(number, _)| *number < RESPONDERS).count()
    }

    /// Where the command queue is, if commands are taken.
    pub(crate) fn queue_address(&self) -> Option<u64> {
        lock(&self.segment).queue()
    }

    /// Whatever a driver has made is gone.
    pub(crate) fn destroy_objects(&mut self) {
        // Small numbers are not given out where they mean something.
        self.doorbell_pages = Table::new(FIRST_PAGE, (BAR0 / PAGE) as u32);
        self.domains = Table::new(1, 1 << LOG_MAX_PD);
        self.xrc_domains = Table::new(1, 1 << LOG_MAX_XRCD);
        self.transport_domains = Table::new(1, 1 << LOG_MAX_DOMAIN);
        self.users = Table::new(1, 1 << LOG_MAX_USERS);
        self.event_queues = Table::new(1, EVENT_QUEUES);
        self.completion_queues = Table::new(1, 1 << LOG_MAX_CQ);
        self.counters = Table::new(1, MAX_COUNTERS);
        self.mkeys = Table::new((NULL_MKEY >> 8) + 1, 1 << LOG_MAX_MKEY);
        self.shared_queues = Table::new(1, 1 << LOG_MAX_SRQ);
        // 0 and 1 are those of management.
        self.queue_pairs = Table::new(2, 1 << LOG_MAX_QP);
        while self.fabric.receive(LID).is_some() {}
        self.faults.clear();
        self.active.clear();
        self.halves.clear();
    }

    /// As after a reset.
    pub(crate) fn forget_everything(&mut self) {
        self.destroy_objects();
        self.state = HcaState::Off;
        self.pages = Pages::default();
        self.capabilities = Capabilities::new(self.profile);
        self.revision = 0;
        self.port = Port::new(self.port.guid);
        self.interrupts.clear();
    }

    fn doorbell(&mut self, page: u32, offset: u64, bytes: &[u8]) {
        if self.doorbell_pages.get(page).is_err() {
            let text = format!("a doorbell in page {page}, which is nobody's");
            return self.bus.violation(Rule::Interface, text);
        }
        let place = offset & !7;
        match (offset, bytes) {
            (EVENTS_ARM | EVENTS, &[a, b, c, d]) => {
                let word = u32::from_be_bytes([a, b, c, d]);
                self.event_doorbell(word, offset == EVENTS_ARM);
            }
            (_, &[a, b, c, d, e, f, g, h]) if place == offset => {
                let [high, low] = [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes);
                self.wide_doorbell(place, high, low);
            }
            (_, &[a, b, c, d]) => {
                let word = u32::from_be_bytes([a, b, c, d]);
                if place == offset {
                    self.halves.insert((page, place), word);
                } else if let Some(high) = self.halves.remove(&(page, place)) {
                    self.wide_doorbell(place, high, word);
                }
            }
            _ => {
                let text = format!("{} bytes at {offset:#x} of a doorbell page", bytes.len());
                self.bus.violation(Rule::Interface, text);
            }
        }
    }

    /// A doorbell of two words.
    fn wide_doorbell(&mut self, place: u64, high: u32, low: u32) {
        match place {
            COMPLETIONS => self.completion_doorbell(high, low),
            WORK.. => self.work_doorbell(low >> 8),
            _ => {
                let text = format!("a doorbell at {place:#x}, where there is none");
                self.bus.violation(Rule::Interface, text);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
