// SPDX-License-Identifier: GPL-2.0
//! What an [`adversary`](crate::adversary) chooses is done here: events, commands and packets are kept back until their
//! time has come, and are then taken as if nothing had been.

use serde_json::json;

use crate::adversary::{Deed, Occasion, Script};
use crate::command;
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::Packet;
use crate::faults::Told;
use crate::status::Status;

/// What is kept back.
pub(crate) enum Held {
    /// Events of one page fault.
    Fault(Vec<Told>),
    /// An entry of the command queue at this address.
    Command {
        queue: u64,
        entry: u32,
    },
    Packet(Packet),
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Executed,
    Refused(Status),
    /// Not yet, or not at all.
    NotNow,
}

/// What becomes of a request that changes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    Done,
    Fails,
    Waits,
}

impl Device {
    /// From now on the device follows another script.
    pub fn follow(&mut self, script: Script) {
        self.adversary.follow(script);
    }

    /// The adversary has done something.
    fn struck(&self, deed: &Deed) {
        self.bus.event("adversary", || json!({ "did": deed }));
    }

    /// Tells the driver of a page fault, in events that belong together.
    pub(crate) fn tell_fault(&mut self, mut told: Vec<Told>) {
        let Some(last) = told.last().copied() else {
            return;
        };
        let has_last = last.has_last();
        let deed = self.adversary.strikes(Occasion::Fault { has_last });
        if let Some(deed) = &deed {
            self.struck(deed);
        }
        match deed {
            Some(Deed::DelayFault(ms)) => {
                let until = self.bus.now() + ms.duration();
                self.adversary.held.push((until, Held::Fault(told)));
                return;
            }
            // Only if there is room: it is not the driver who makes the queue overrun.
            Some(Deed::RepeatFault) if self.events.room(last.queue) >= 2 * told.len() => {
                self.faults.expect_again(last.token);
                told.extend(told.clone());
            }
            Some(Deed::SplitFault(ms)) => {
                told.last_mut().into_iter().for_each(Told::clear_last);
                let until = self.bus.now() + ms.duration();
                self.adversary.held.push((until, Held::Fault(vec![last])));
            }
            _ => {}
        }
        self.post_fault(&told);
    }

    /// Posts events of a page fault that were kept back, if there still is room for them.
    fn post_late(&mut self, told: &[Told]) {
        let Some(last) = told.last() else {
            return;
        };
        if self.events.room(last.queue) >= told.len() {
            self.post_fault(told);
        } else if let Some((number, end)) = self.faults.unheard(last.token) {
            self.go_on_after_fault(number, end);
        }
    }

    pub(crate) fn post_fault(&mut self, told: &[Told]) {
        for one in told {
            let (queue, bus) = (one.queue, &self.bus);
            self.events
                .post_of(queue, Event::PageFault, one.kind, &one.data, bus);
        }
    }

    /// Whether a command is executed now. `input` is the beginning of its input.
    pub(crate) fn fate(&mut self, queue: u64, entry: u32, input: &[u8]) -> Fate {
        let opcode = command::opcode(input);
        let deed =
            command::name(opcode).and_then(|name| self.adversary.strikes(Occasion::Command(name)));
        if let Some(deed) = &deed {
            self.struck(deed);
        }
        let fate = match deed {
            Some(Deed::DelayCommand { ms, .. }) => {
                let until = self.bus.now() + ms.duration();
                let held = Held::Command { queue, entry };
                self.adversary.held.push((until, held));
                return Fate::NotNow;
            }
            Some(Deed::FailCommand { status, .. }) => Fate::Refused(status),
            Some(Deed::IgnoreCommand { .. }) => Fate::NotNow,
            _ => return Fate::Executed,
        };
        // That a page fault stays is not the driver's doing then.
        if let Some((token, _)) = self.resumed(input) {
            self.faults.excuse(token);
        }
        fate
    }

    /// What becomes of a request of a queue pair that changes a key, which has this number in its queue.
    pub(crate) fn fate_of_update(&mut self, pair: u32, counter: u16) -> Update {
        let place = Some((pair, counter));
        if self.adversary.held_update == place {
            self.adversary.held_update = None;
            return Update::Done;
        }
        let deed = self.adversary.strikes(Occasion::Update);
        if let Some(deed) = &deed {
            self.struck(deed);
        }
        match deed {
            Some(Deed::HoldUpdate(ms)) => {
                let until = self.bus.now() + ms.duration();
                if let Ok(pair) = self.queue_pairs.get_mut(pair) {
                    pair.requester.pause = Some(until);
                }
                self.adversary.held_update = place;
                Update::Waits
            }
            Some(Deed::FailUpdate) => Update::Fails,
            _ => Update::Done,
        }
    }

    /// What comes of a packet now: nothing, or the packet once or twice.
    pub(crate) fn carried(&mut self, packet: Packet) -> Vec<Packet> {
        let deed = self.adversary.strikes(Occasion::Packet);
        if let Some(deed) = &deed {
            self.struck(deed);
        }
        match deed {
            Some(Deed::LosePacket) => Vec::new(),
            Some(Deed::RepeatPacket) => vec![packet.clone(), packet],
            Some(Deed::DelayPacket(ms)) => {
                let until = self.bus.now() + ms.duration();
                self.adversary.held.push((until, Held::Packet(packet)));
                Vec::new()
            }
            _ => vec![packet],
        }
    }

    /// Goes on with what was kept back until now. Gives whether more is kept.
    pub(crate) fn release(&mut self) -> bool {
        if self.adversary.held.is_empty() {
            return false;
        }
        let now = self.bus.now();
        let held = std::mem::take(&mut self.adversary.held);
        let (due, later) = held.into_iter().partition(|(until, _)| *until <= now);
        self.adversary.held = later;
        let due: Vec<(_, Held)> = due;
        for (_, held) in due {
            match held {
                Held::Fault(told) => self.post_late(&told),
                Held::Command { queue, entry } => self.finish_entry(queue, entry),
                Held::Packet(packet) => self.arrive(packet),
            }
        }
        self.run();
        !self.adversary.held.is_empty()
    }

    /// What is kept back is lost: the driver goes, or the device is reset. It cannot know of page faults that it was not
    /// told of.
    pub(crate) fn drop_held(&mut self) {
        for (_, held) in std::mem::take(&mut self.adversary.held) {
            if let Some(last) = held.last_event() {
                self.faults.excuse(last.token);
            }
        }
        self.adversary.held_update = None;
    }
}

impl Held {
    /// Of a page fault.
    fn last_event(&self) -> Option<Told> {
        match self {
            Self::Fault(told) => told.last().copied(),
            Self::Command { .. } | Self::Packet(_) => None,
        }
    }
}
