// SPDX-License-Identifier: GPL-2.0
//! What a device announces of on-demand paging, and the two schemes by which it tells of page faults.

use crate::layout::{odp_cap, odp_per_transport_service_cap as service, odp_scheme_cap, Field};

/// How page faults are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// By the work request or the packet that cannot go on: the driver finds out what it needs.
    Transport,
    /// By the key and the addresses that are needed.
    Memory,
}

impl Scheme {
    /// The one that a driver has chosen, by the group of capabilities.
    pub(crate) fn chosen(group: &[u8]) -> Self {
        match odp_cap::MEM_PAGE_FAULT.is_set(group) {
            true => Self::Memory,
            false => Self::Transport,
        }
    }
}

/// What there is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    Nothing,
    Transport,
    /// Both schemes, of which a driver chooses.
    Memory,
}

/// What can wait for a page, by service: of reliable connections, of datagrams, of extended and of dynamic connections.
const RELIABLE: &[Field] = &[
    service::SEND,
    service::RECEIVE,
    service::WRITE,
    service::READ,
    service::ATOMIC,
    service::SRQ_RECEIVE,
];
const DATAGRAMS: &[Field] = &[service::SEND];
const SERVICES: [(Field, &[Field]); 4] = [
    (odp_scheme_cap::RC_ODP_CAPS, RELIABLE),
    (odp_scheme_cap::UD_ODP_CAPS, DATAGRAMS),
    (odp_scheme_cap::XRC_ODP_CAPS, RELIABLE),
    (odp_scheme_cap::DC_ODP_CAPS, RELIABLE),
];

impl Announced {
    /// Fills in what could be, and what is before a driver has chosen.
    pub(crate) fn announce(self, maximal: &mut [u8], current: &mut [u8]) {
        if self == Self::Nothing {
            return;
        }
        for group in [&mut *maximal, &mut *current] {
            fill(odp_cap::TRANSPORT_PAGE_FAULT_SCHEME_CAP.of_mut(group));
        }
        // Newer ones are off until a driver asks for them.
        chosen()
            .into_iter()
            .for_each(|field| field.set(current, 0_u64));
        if self == Self::Memory {
            for group in [&mut *maximal, &mut *current] {
                let scheme = odp_cap::MEMORY_PAGE_FAULT_SCHEME_CAP.of_mut(group);
                fill(scheme);
                odp_scheme_cap::PAGE_PREFETCH.set(scheme, 1_u64);
            }
            odp_cap::MEM_PAGE_FAULT.set(maximal, 1_u64);
        }
    }
}

fn fill(scheme: &mut [u8]) {
    for (field, all) in SERVICES {
        let service = field.of_mut(scheme);
        all.iter().for_each(|field| field.set(service, 1_u64));
    }
}

/// What a driver may choose, as fields of the whole group: the scheme, and what older drivers do not know.
pub(crate) fn chosen() -> Vec<Field> {
    let of = |service: Field, field: Field| {
        let scheme = odp_cap::TRANSPORT_PAGE_FAULT_SCHEME_CAP;
        field.within(service).within(scheme)
    };
    let mut all = vec![odp_cap::MEM_PAGE_FAULT];
    for service in [odp_scheme_cap::RC_ODP_CAPS, odp_scheme_cap::UD_ODP_CAPS] {
        all.push(of(service, service::SRQ_RECEIVE));
    }
    for service in [odp_scheme_cap::XRC_ODP_CAPS, odp_scheme_cap::DC_ODP_CAPS] {
        all.extend(RELIABLE.iter().map(|field| of(service, *field)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_chosen_is_off_at_first() {
        let (mut maximal, mut current) = (vec![0; odp_cap::BYTES], vec![0; odp_cap::BYTES]);
        Announced::Memory.announce(&mut maximal, &mut current);
        for field in chosen() {
            assert!(!field.is_set(&current), "{}", field.name);
        }
        let scheme = odp_cap::TRANSPORT_PAGE_FAULT_SCHEME_CAP;
        let reads = |group: &[u8], field: Field| service::READ.is_set(field.of(scheme.of(group)));
        assert!(reads(&current, odp_scheme_cap::RC_ODP_CAPS));
        assert!(!reads(&current, odp_scheme_cap::XRC_ODP_CAPS));
        assert!(reads(&maximal, odp_scheme_cap::XRC_ODP_CAPS));
    }
}
