// SPDX-License-Identifier: GPL-2.0
//! Dynamically connected transport: an initiator (DCI) names the target (DCT) of each request, and is connected to one
//! at a time. A target is no queue pair for its driver: it has commands of its own, and receives from a shared queue.
//!
//! For each initiator that is connected there is a responder, which is a queue pair of the device's own that no driver
//! can name. It goes when its initiator connects anew, when it has refused something, and with its target.

use crate::command::{Command, SHORT};
use crate::device::{Device, HcaState};
use crate::eq::Event;
use crate::fabric::{Kind, Packet, Place, Refusal};
use crate::layout::{
    arm_dct_in, create_dct_in, create_dct_out, dctc, destroy_dct_in, drain_dct_in, query_dct_in,
    query_dct_out,
};
use crate::port::LID;
use crate::qp::{QueuePair, State};
use crate::service::Service;
use crate::status::Status;

pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        0x710,
        "CREATE_DCT",
        HcaState::Initialised,
        create_dct_in::BYTES,
        SHORT,
        create,
    ),
    Command::new(
        0x711,
        "DESTROY_DCT",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let number = destroy_dct_in::DCTN.get32(input);
            target(device, number)?;
            device.disconnect(number);
            device.queue_pairs.remove(number).map(drop)
        },
    ),
    Command::new(
        0x712,
        "DRAIN_DCT",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let number = drain_dct_in::DCTN.get32(input);
            target(device, number)?.state = DRAINED;
            device.disconnect(number);
            device.tell(Event::TargetDrained, number);
            Ok(())
        },
    ),
    Command::new(
        0x713,
        "QUERY_DCT",
        HcaState::Initialised,
        SHORT,
        query_dct_out::BYTES,
        |device, input, output| {
            let target = target(device, query_dct_in::DCTN.get32(input))?;
            let context = query_dct_out::DCT_CONTEXT_ENTRY.of_mut(output);
            context.copy_from_slice(&target.context);
            dctc::STATE.set(context, target.state);
            dctc::DC_ACCESS_KEY_VIOLATION_COUNT.set(context, target.violations);
            Ok(())
        },
    ),
    Command::new(
        0x714,
        "ARM_DCT_FOR_KEY_VIOLATION",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            target(device, arm_dct_in::DCT_NUMBER.get32(input))?.armed = true;
            Ok(())
        },
    ),
];

/// States of a target, as a query shows them.
const ACTIVE: u32 = 0;
const DRAINED: u32 = 2;

/// Responders have numbers that no driver can name: these, and that of their initiators. What comes from other ports
/// does not reach this one yet.
pub(crate) const RESPONDERS: u32 = 1 << 24;

/// What a target is besides a queue pair that never sends.
pub(crate) struct Target {
    context: Vec<u8>,
    state: u32,
    /// How often somebody had another key, and whether the driver is to be told of the next one.
    violations: u32,
    armed: bool,
}

/// The target of that number.
fn target(device: &mut Device, number: u32) -> Result<&mut Target, Status> {
    let pair = device.queue_pairs.get_mut(number)?;
    pair.as_target().ok_or(Status::BadResource)
}

fn create(device: &mut Device, input: &[u8], output: &mut [u8]) -> Result<(), Status> {
    let context = create_dct_in::DCT_CONTEXT_ENTRY.of(input).to_vec();
    device.domains.get(dctc::PD.get32(&context))?;
    device.completion_queues.get(dctc::CQN.get32(&context))?;
    device.shared_queues.get(dctc::SRQN_XRQN.get32(&context))?;
    if !(1..=5).contains(&dctc::MTU.get32(&context)) {
        return Err(Status::BadParameter);
    }
    let pair = QueuePair::receiving(&context, None);
    let pair = pair.with_target(Target {
        context,
        state: ACTIVE,
        violations: 0,
        armed: false,
    });
    create_dct_out::DCTN.set(output, device.queue_pairs.add(pair)?);
    Ok(())
}

impl Device {
    /// The responder for a request to a target; nothing if there is none, which has been answered where it has to be.
    pub(crate) fn connected(&mut self, packet: &Packet) -> Option<u32> {
        let connection = packet
            .connection
            .filter(|connection| connection.to == packet.to)?;
        let number = RESPONDERS | packet.from.pair;
        let known = self.queue_pairs.get(number).ok();
        match known.and_then(|pair| pair.connection()) {
            Some(known) if known.serial == connection.serial => return Some(number),
            // What is old has lost its way.
            Some(known) if known.serial > connection.serial => return None,
            _ => {}
        }
        let wanted = packet.to.pair;
        let target = target(self, wanted).ok()?;
        if target.state != ACTIVE {
            return None;
        }
        if dctc::DC_ACCESS_KEY.get(&target.context) != connection.key {
            target.violations = target.violations.saturating_add(1);
            let told = std::mem::take(&mut target.armed);
            if told {
                self.tell(Event::KeyViolation, wanted);
            }
            let refused = Kind::Refuse(Refusal::Access);
            let own = Place {
                port: LID,
                pair: wanted,
            };
            let service = Service::Target;
            let answer = Packet::new(service, own, packet.from, packet.number, refused);
            self.fabric.send(answer);
            return None;
        }
        let context = target.context.clone();
        self.hang_up(number);
        let responder = QueuePair::receiving(&context, Some((connection, packet.from)));
        self.queue_pairs.put(number, responder);
        Some(number)
    }

    /// Ends all connections to a target.
    fn disconnect(&mut self, target: u32) {
        let of = |(number, pair): (u32, &QueuePair)| {
            let connection = pair.connection();
            let its = connection.is_some_and(|connection| connection.to.pair == target);
            its.then_some(number)
        };
        let all: Vec<u32> = self.queue_pairs.iter().filter_map(of).collect();
        all.into_iter().for_each(|number| self.hang_up(number));
    }

    /// Ends a connection. What it has begun to receive is flushed.
    pub(crate) fn hang_up(&mut self, responder: u32) {
        if self.queue_pairs.get(responder).is_ok() {
            self.fail(responder);
            self.flush(responder);
            self.faults.forget(responder, true);
            self.active.remove(&responder);
            let _ = self.queue_pairs.remove(responder);
        }
    }
}

impl QueuePair {
    /// Whether it is connected with that place: an initiator goes by what it has sent last.
    pub(crate) fn is_connected_with(&self, place: Place) -> bool {
        match self.service() {
            Service::Initiator => self.requester.connection.map(|now| now.to) == Some(place),
            _ => self.remote_pair() == place.pair,
        }
    }

    /// Whether it can do anything: states of a target are of no meaning.
    pub(crate) fn takes_packets(&self) -> bool {
        matches!(self.state(), State::ReadyToReceive | State::ReadyToSend)
    }
}
