// SPDX-License-Identifier: GPL-2.0

//! An open file: one address space, mirrored on one device.

use core::sync::atomic::{AtomicBool, Ordering};

use hmm::{
    fault_until_valid, user_pages, Access, HmmPfn, Huge, IntervalNotifier, Memory, Owner,
    PageRange, PageState, PfnArray, Policy, Request, TimeLimit,
};
use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::mm::virt::VmaNew;
use kernel::mm::{Mm, MmWithUser};
use kernel::page::{Page, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use crate::command::Command;
use crate::node::Node;
use crate::page_table::{PageTable, Place, Slot, Spare};
use crate::uapi;
use crate::vram::Device;

/// The address space of the process that opened the file, on the device that it opened.
#[pin_data]
pub(crate) struct Session {
    // First, so that nothing is invalidated any more when the rest goes.
    #[pin]
    pub(crate) table: IntervalNotifier<PageTable>,
    mm: ARef<Mm>,
    pub(crate) device: Arc<Device>,
    /// Set for tests: the next huge page that migrates is to find no huge page at the other end.
    split_next: AtomicBool,
}

/// Pages that are faulted or looked at in one go. A fault that collides begins again, so this is not
/// as large as it might be. A divisor of `LEAF_PAGES`.
pub(crate) const BATCH: usize = 64;

/// The most pages that one `mmap` of the device gives.
const MOST_MAPPED: usize = 256;

impl Session {
    fn new<'a>(mm: &'a MmWithUser, device: Arc<Device>) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(&this in Self {
            // Its own exclusive access is no invalidation. A migration to or from the device is, as
            // that is the pool's: it ends the use of the pages before they move.
            table <- IntervalNotifier::new(
                mm,
                user_pages(mm),
                Owner::new(this.as_ptr() as usize),
                PageTable::new(),
            ),
            mm: ARef::from(&**mm),
            device,
            split_next: AtomicBool::new(false),
        })
    }

    /// The address space, if it still exists.
    pub(crate) fn mm(&self) -> Result<ARef<MmWithUser>> {
        self.mm.mmget_not_zero().ok_or(ESRCH)
    }

    /// Faults in what the device needs for `access`, and enters it into the device's table.
    pub(crate) fn fault(&self, mm: &MmWithUser, range: PageRange, access: Access) -> Result {
        self.look(mm, range, Policy::Fault(access), |_| true)
    }

    /// Enters the pages of `range` that are in the device's own memory into its table.
    pub(crate) fn enter_device_pages(&self, mm: &MmWithUser, range: PageRange) -> Result {
        let on_device = |memory| memory == Memory::Device;
        self.look(mm, range, Policy::Snapshot, on_device)
    }

    /// Looks at the CPU's page table for `range`, faulting as `policy` says, and enters the pages in
    /// memory that is `wanted`.
    fn look(
        &self,
        mm: &MmWithUser,
        range: PageRange,
        policy: Policy,
        wanted: impl Fn(Memory) -> bool,
    ) -> Result {
        let mut spare = Spare::new();
        for part in batches(range) {
            // Nothing can be allocated once the result is valid, as that holds the table's lock.
            spare.refill()?;
            let mut words = [HmmPfn::ABSENT; BATCH];
            let found = PfnArray::new(part.start(), &mut words);
            let limit = TimeLimit::default();
            let request = self.request(part, policy);
            let mut valid = fault_until_valid(&self.table, mm, &limit, &request, found)?;
            let (found, table) = valid.split();
            for page in part.pages() {
                if let Some(slot) = self.slot_for(found.at(page), &wanted)? {
                    table.set(page, slot, &mut spare)?;
                }
            }
        }
        Ok(())
    }

    /// A request by this device: its own memory is reported as such.
    pub(crate) fn request(&self, range: PageRange, policy: Policy) -> Request {
        Request {
            owner: self.device.pool.owner(),
            ..Request::new(range, policy)
        }
    }

    fn slot_for(&self, found: PageState, wanted: impl Fn(Memory) -> bool) -> Result<Option<Slot>> {
        let PageState::Mapped {
            pfn, perm, memory, ..
        } = found
        else {
            return Ok(None);
        };
        let place = match memory {
            Memory::System => Place::System(pfn),
            Memory::Device => Place::Device(self.device.pool.page_of(pfn).ok_or(EIO)?),
        };
        Ok(wanted(memory).then_some(Slot {
            place,
            perm,
            exclusive: false,
        }))
    }

    /// What is to become of huge pages in the next migration.
    pub(crate) fn huge(&self) -> Huge {
        match self.split_next.swap(false, Ordering::Relaxed) {
            false => Huge::Whole,
            true => Huge::Split,
        }
    }

    fn set_flags(&self, flags: u64) -> Result {
        const FAIL_ALLOC: u64 = uapi::HMM_DMIRROR_FLAG_FAIL_ALLOC as u64;
        if flags & !FAIL_ALLOC != 0 {
            return Err(EINVAL);
        }
        let split = flags & FAIL_ALLOC != 0;
        self.split_next.store(split, Ordering::Relaxed);
        Ok(())
    }

    fn run(&self, number: u32, command: &mut Command) -> Result {
        match number {
            // The faults of all of them wait without the mmap lock.
            uapi::DMIRROR_READ | uapi::DMIRROR_READ_UNLOCKED => self.read(command),
            uapi::DMIRROR_WRITE => self.write(command),
            uapi::DMIRROR_MIGRATE_TO_DEV => self.migrate_to_device(command),
            uapi::DMIRROR_MIGRATE_TO_SYS => self.migrate_to_system(command),
            uapi::DMIRROR_SNAPSHOT => self.snapshot(command),
            uapi::DMIRROR_EXCLUSIVE => self.take_exclusively(command),
            uapi::DMIRROR_CHECK_EXCLUSIVE => self.check_exclusive(command),
            uapi::DMIRROR_RELEASE => self.release_device_memory(),
            uapi::DMIRROR_FLAGS => self.set_flags(command.npages()),
            _ => Err(EINVAL),
        }
    }
}

/// `range` in pieces of [`BATCH`] pages, cut where their addresses are multiples of that, so that no
/// piece lies in two leaves.
pub(crate) fn batches(range: PageRange) -> impl Iterator<Item = PageRange> {
    let mut rest = range;
    core::iter::from_fn(move || {
        let start = rest.start();
        let next = (start.get() / BATCH as u64 + 1) * BATCH as u64;
        let part = PageRange::new(start, hmm::PageIndex::new(next).min(rest.end()));
        rest = PageRange::new(part.end(), rest.end());
        (!part.is_empty()).then_some(part)
    })
}

#[vtable]
impl MiscDevice for Session {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        // SAFETY: Only nodes of this type have files of this type.
        let device = unsafe { Node::<Self>::device_of(misc) }.clone();
        KBox::pin_init(Self::new(mm, device), GFP_KERNEL_ACCOUNT)
    }

    fn ioctl(this: Pin<&Self>, _file: &File, number: u32, argument: usize) -> Result<isize> {
        let mut command = Command::read(argument, this.table.range())?;
        this.run(number, &mut command)?;
        command.reply()?;
        Ok(0)
    }

    /// Gives zeroed pages that are no anonymous memory and no file's: a case for snapshots.
    fn mmap(_this: Pin<&Self>, _file: &File, area: &VmaNew) -> Result {
        let pages = (area.start()..area.end()).step_by(PAGE_SIZE);
        if pages.clone().count() > MOST_MAPPED {
            return Err(ENOMEM);
        }
        let mixed = area.set_mixedmap();
        for address in pages {
            let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
            mixed.vm_insert_page(address, &page)?;
        }
        Ok(())
    }
}
