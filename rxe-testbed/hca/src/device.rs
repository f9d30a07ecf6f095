// SPDX-License-Identifier: GPL-2.0
//! The device's state: the tables of all objects, and what there is beside them. One thread owns it. What the device does
//! is in the files that change it, and `dispatch` is the way to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::access::Missing;
use crate::adversary::Adversary;
use crate::bar::{Registers, FIRST_PAGE, PAGE};
use crate::bus::Bus;
use crate::clock::Clock;
use crate::completion::COMPLETION;
use crate::counters::{Counter, Counters};
use crate::cq::CompletionQueue;
use crate::eq::{Event, EventQueues};
use crate::fabric::{Fabric, Loopback};
use crate::faults::{Cause, End, Faults, Verdict};
use crate::indirect::FIRST_KEY;
use crate::memory::GuestMemory;
use crate::mkey::MemoryKey;
use crate::pages::Pages;
use crate::pci::BAR0;
use crate::port::Port;
use crate::profile::{
    Capabilities, Profile, EVENT_QUEUES, LOG_MAX_CQ, LOG_MAX_DOMAIN, LOG_MAX_MKEY, LOG_MAX_PD,
    LOG_MAX_QP, LOG_MAX_SRQ, LOG_MAX_UMEM, LOG_MAX_USERS, LOG_MAX_XRCD, MAX_COUNTERS,
};
use crate::qp::QueuePair;
use crate::srq::SharedQueue;
use crate::table::Table;
use crate::trace::Trace;
use crate::umem::UserMemory;

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
    /// Where packets find its port: of the devices on one [`Subnet`](crate::Subnet) each has another one.
    pub lid: u16,
}

/// The device: all that it knows.
pub struct Device {
    pub(crate) bus: Bus,
    /// Those that the server has, too: they say where the command queue is.
    pub(crate) registers: Registers,
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
    pub(crate) user_memories: Table<UserMemory>,
    pub(crate) events: EventQueues,
    pub(crate) completion_queues: Table<CompletionQueue>,
    pub(crate) counters: Table<Counters>,
    pub(crate) mkeys: Table<MemoryKey>,
    pub(crate) shared_queues: Table<SharedQueue>,
    pub(crate) queue_pairs: Table<QueuePair>,
    pub(crate) fabric: Box<dyn Fabric>,
    pub(crate) faults: Faults,
    /// What it does that a device seldom does.
    pub(crate) adversary: Adversary,
    /// Its firmware has ended by an error of its own: it does nothing until a driver enables it anew.
    pub(crate) ill: bool,
    /// How many connections initiators have begun.
    pub(crate) connections: u64,
    /// Queue pairs that may have something to do, and the one whose turn it is.
    pub(crate) active: BTreeSet<u32>,
    pub(crate) turn: u32,
    /// First halves of doorbells that come in two writes, by page and place.
    pub(crate) halves: HashMap<(u32, u64), u32>,
}

impl Device {
    /// A device that nobody has touched, and its registers.
    pub fn new(
        options: Options,
        memory: GuestMemory,
        clock: Arc<dyn Clock>,
        trace: Trace,
    ) -> (Self, Registers) {
        let registers = Registers::new(clock.clone());
        let mut device = Self {
            bus: Bus::new(memory, clock, trace),
            registers: registers.clone(),
            state: HcaState::Off,
            pages: Pages::default(),
            profile: options.profile,
            capabilities: Capabilities::new(options.profile),
            revision: 0,
            port: Port::new(options.guid, options.lid),
            doorbell_pages: Table::new(0, 0),
            domains: Table::new(0, 0),
            xrc_domains: Table::new(0, 0),
            transport_domains: Table::new(0, 0),
            users: Table::new(0, 0),
            user_memories: Table::new(0, 0),
            events: EventQueues::new(Table::new(0, 0)),
            completion_queues: Table::new(0, 0),
            counters: Table::new(0, 0),
            mkeys: Table::new(0, 0),
            shared_queues: Table::new(0, 0),
            queue_pairs: Table::new(0, 0),
            fabric: Box::new(Loopback::default()),
            faults: Faults::default(),
            adversary: Adversary::default(),
            ill: false,
            connections: 0,
            active: BTreeSet::new(),
            turn: 0,
            halves: HashMap::new(),
        };
        device.destroy_objects();
        (device, registers)
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
            + self.user_memories.len()
            + self.events.queues.len()
            + self.completion_queues.len()
            + self.counters.len()
            + self.mkeys.len()
            + self.shared_queues.len()
            + self.driver_pairs()
    }

    /// How many queue pairs and targets a driver has made.
    fn driver_pairs(&self) -> usize {
        let own = self.queue_pairs.iter();
        own.filter(|(_, pair)| pair.connection().is_none()).count()
    }

    /// Whatever a driver has made is gone.
    pub(crate) fn destroy_objects(&mut self) {
        // Small numbers are not given out where they mean something.
        self.doorbell_pages = Table::new(FIRST_PAGE, (BAR0 / PAGE) as u32);
        self.domains = Table::new(1, 1 << LOG_MAX_PD);
        self.xrc_domains = Table::new(1, 1 << LOG_MAX_XRCD);
        self.transport_domains = Table::new(1, 1 << LOG_MAX_DOMAIN);
        self.users = Table::new(1, 1 << LOG_MAX_USERS);
        self.user_memories = Table::new(1, 1 << LOG_MAX_UMEM);
        self.events.queues = Table::new(1, EVENT_QUEUES);
        self.completion_queues = Table::new(1, 1 << LOG_MAX_CQ);
        self.counters = Table::new(1, MAX_COUNTERS);
        self.mkeys = Table::new(FIRST_KEY, 1 << LOG_MAX_MKEY);
        self.shared_queues = Table::new(1, 1 << LOG_MAX_SRQ);
        // 0 and 1 are those of management.
        self.queue_pairs = Table::new(2, 1 << LOG_MAX_QP);
        while self.fabric.receive(self.port.lid).is_some() {}
        self.drop_held();
        self.faults.clear();
        self.active.clear();
        self.halves.clear();
    }

    /// Its packets go over this fabric from now on.
    pub(crate) fn join(&mut self, fabric: Box<dyn Fabric>) {
        self.fabric = fabric;
    }

    /// As after a reset.
    pub(crate) fn forget_everything(&mut self) {
        self.destroy_objects();
        self.state = HcaState::Off;
        self.pages = Pages::default();
        self.capabilities = Capabilities::new(self.profile);
        self.revision = 0;
        self.port = Port::new(self.port.guid, self.port.lid);
        self.events.interrupts.clear();
    }

    /// The firmware ends by an error of its own, and with it all that a driver has made.
    pub(crate) fn fall_ill(&mut self) {
        self.forget_everything();
        self.registers.show_error(true);
        self.ill = true;
    }

    /// A driver enables the device anew, or resets it.
    pub(crate) fn recover(&mut self) {
        if std::mem::take(&mut self.ill) {
            self.registers.show_error(false);
        }
    }

    /// Tells the driver of something that happened to a queue pair or a shared receive queue.
    pub(crate) fn tell(&mut self, event: Event, number: u32) {
        self.events.tell(event, number, &self.bus);
    }

    /// Puts a completion into a queue.
    pub(crate) fn complete(&mut self, number: u32, completion: &[u8; COMPLETION], solicited: bool) {
        if let Ok(queue) = self.completion_queues.get_mut(number) {
            let (events, bus) = (&mut self.events, &self.bus);
            queue.complete(number, completion, solicited, events, bus);
        }
    }

    /// Counts something that happened to a queue pair, if it has a set of counters.
    pub(crate) fn count(&mut self, number: u32, counter: Counter) {
        let set = self.queue_pairs.get(number).map(|pair| pair.counters());
        if let Ok(counters) = set.and_then(|set| self.counters.get_mut(set)) {
            counters.count(counter);
        }
    }

    /// An access of an end of a queue pair lacks something: the driver is asked for it, if it can be.
    pub(crate) fn page_fault(
        &mut self,
        pair: u32,
        end: End,
        missing: &[Missing],
        cause: Cause,
    ) -> Verdict {
        let Some(scheme) = self.capabilities.page_faults() else {
            return Verdict::Fail;
        };
        let (place, events, bus) = ((pair, end), &self.events, &self.bus);
        let faults = &mut self.faults;
        let raised = faults.page_fault(scheme, place, missing, cause, events, bus);
        let (verdict, told) = raised;
        self.tell_fault(told);
        verdict
    }
}
