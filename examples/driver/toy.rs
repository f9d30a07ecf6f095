// SPDX-License-Identifier: GPL-2.0

//! A driver on `hmm` to begin one's own with, as small as it can be.
//!
//! Its device knows one page of the process that loads the module, that at `address`. It says in the kernel's log when
//! the device gets the page, and when it loses it again.

#![deny(clippy::undocumented_unsafe_blocks)]

use hmm::compat::parameter;
use hmm::{
    fault_until_valid, Access, Event, HmmPfn, IntervalNotifier, Invalidate, Owner, PageIndex,
    PageRange, PageState, Pfn, PfnArray, Policy, Request, Spin, TimeLimit,
};
use kernel::prelude::*;

module! {
    type: Toy,
    name: "toy",
    authors: ["you"],
    description: "A driver on hmm to begin one's own with",
    license: "GPL v2",
    params: {
        address: u64 {
            default: 0,
            description: "An address of the process that loads the module",
        },
    },
}

/// The device's page table: of real hardware the hardware's.
struct Table(Option<Pfn>);

impl Table {
    fn enter(&mut self, pfn: Pfn) {
        self.0 = Some(pfn);
    }
}

impl Invalidate for Table {
    type Lock = Spin;

    fn invalidate(&mut self, _range: PageRange, event: Event) {
        if self.0.take().is_some() {
            pr_info!("the device has lost the page: {event:?}\n");
        }
    }

    fn retire(&mut self) {
        self.0 = None;
    }
}

struct Toy {
    _table: Pin<KBox<IntervalNotifier<Table>>>,
}

impl kernel::Module for Toy {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let page = PageIndex::containing(parameter(&module_parameters::address));
        let range = PageRange::new(page, page.saturating_add(1));
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let table = IntervalNotifier::new(mm, range, Owner::NONE, Table(None));
        let table = KBox::pin_init(table, GFP_KERNEL)?;

        // What a fault of the device does: the CPU's handler brings the page in, and as long as `valid` lives it stays.
        let mut words = [HmmPfn::ABSENT; 1];
        let found = PfnArray::new(page, &mut words);
        let request = Request::new(range, Policy::Fault(Access::Write));
        let limit = TimeLimit::default();
        let mut valid = fault_until_valid(&*table, mm, &limit, &request, found)?;
        let (found, entries) = valid.split();
        if let PageState::Mapped { pfn, .. } = found.at(page) {
            entries.enter(pfn);
        }
        drop(valid);
        pr_info!("the device has the page\n");
        Ok(Self { _table: table })
    }
}
