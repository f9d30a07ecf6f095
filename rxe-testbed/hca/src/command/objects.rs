// SPDX-License-Identifier: GPL-2.0
//! Objects that are no more than numbers for the device: pages of doorbells, protection domains and their like.

use super::definition::{Command, SHORT};
use crate::device::HcaState;
use crate::layout::{
    alloc_pd_out, alloc_transport_domain_out, alloc_uar_out, alloc_xrcd_out, dealloc_pd_in,
    dealloc_transport_domain_in, dealloc_uar_in, dealloc_xrcd_in,
};
use crate::status::Status;

pub(super) const COMMANDS: &[Command] = &[
    Command::new(
        0x800,
        "ALLOC_PD",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            alloc_pd_out::PD.set(output, device.domains.add(())?);
            Ok(())
        },
    ),
    Command::new(
        0x801,
        "DEALLOC_PD",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let domain = dealloc_pd_in::PD.get32(input);
            let keys = device.mkeys.iter().any(|(_, key)| key.domain() == domain);
            let pairs = device
                .queue_pairs
                .iter()
                .any(|(_, pair)| pair.domain() == domain);
            let shared = device
                .shared_queues
                .iter()
                .any(|(_, queue)| queue.domain() == domain);
            match keys || pairs || shared {
                true => Err(Status::ResourceBusy),
                false => device.domains.remove(domain),
            }
        },
    ),
    Command::new(
        0x802,
        "ALLOC_UAR",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            alloc_uar_out::UAR.set(output, device.doorbell_pages.add(())?);
            Ok(())
        },
    ),
    Command::new(
        0x803,
        "DEALLOC_UAR",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            device
                .doorbell_pages
                .remove(dealloc_uar_in::UAR.get32(input))
        },
    ),
    Command::new(
        0x80e,
        "ALLOC_XRCD",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            alloc_xrcd_out::XRCD.set(output, device.xrc_domains.add(())?);
            Ok(())
        },
    ),
    Command::new(
        0x80f,
        "DEALLOC_XRCD",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let domain = dealloc_xrcd_in::XRCD.get32(input);
            let mut shared = device.shared_queues.iter();
            let queues = shared.any(|(_, queue)| queue.is_of(domain));
            let mut pairs = device.queue_pairs.iter();
            match queues || pairs.any(|(_, pair)| pair.is_of(domain)) {
                true => Err(Status::ResourceBusy),
                false => device.xrc_domains.remove(domain),
            }
        },
    ),
    Command::new(
        0x816,
        "ALLOC_TRANSPORT_DOMAIN",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, _, output| {
            let domain = device.transport_domains.add(())?;
            alloc_transport_domain_out::TRANSPORT_DOMAIN.set(output, domain);
            Ok(())
        },
    ),
    Command::new(
        0x817,
        "DEALLOC_TRANSPORT_DOMAIN",
        HcaState::Initialised,
        SHORT,
        SHORT,
        |device, input, _| {
            let domain = dealloc_transport_domain_in::TRANSPORT_DOMAIN.get32(input);
            device.transport_domains.remove(domain)
        },
    ),
];
