// SPDX-License-Identifier: GPL-2.0

//! `hmm_edu.ko`: drives QEMU's `edu` PCI device on a process's pages, to test [`hmm::DmaRange`] and mirrors
//! of devices that have to be waited for ([`hmm::MirrorDevice`]).
//!
//! The device has an engine that copies up to 4 KiB between memory and a buffer of its own. The test
//! program says what is to be done through files in debugfs, in the process whose memory it is about
//! (see [`command`]); it has the pages mapped, data moved, and pages taken away.
//!
//! | file        | holds                                                            |
//! |-------------|------------------------------------------------------------------|
//! | [`engine`]  | the device's registers: one copy                                 |
//! | [`table`]   | the mappings of a session, and what an invalidation does to them |
//! | [`session`] | one process's pages on the device: faults, mappings, copies      |
//! | [`device`]  | translations of the device's own, which sleep until they go      |
//! | [`mirrored`] | one process's pages on the device by a mirror                   |
//! | [`command`] | the files in debugfs                                             |
//!
//! It is for tests only: a process that may open its files can have the device write to any address.

#![deny(clippy::undocumented_unsafe_blocks)]

mod command;
mod device;
mod engine;
mod mirrored;
mod session;
mod table;

use hmm::compat;
use hmm::{DmaError, DmaRange, PageIndex, PageRange};
use kernel::debugfs::Scope;
use kernel::device::{Bound, Core};
use kernel::dma::{Device as _, DmaMask};
use kernel::pci;
use kernel::prelude::*;

use crate::command::Commands;
use crate::engine::Engine;

const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x11e8;
/// No class at all. The kernel crate has no name for the vendor, so this is what it is found by.
const CLASS: u32 = 0x00_ff00;

hmm::pci_device_table!(
    TABLE,
    <Edu as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_class(CLASS, 0xff_ff00), ())]
);

/// The driver's part of a device: the files, which own the rest.
#[pin_data]
struct Edu {
    #[pin]
    _files: Scope<Commands>,
}

impl pci::Driver for Edu {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: compat::pci::Info<'bound, Self::IdInfo>,
    ) -> impl PinInit<Self, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            if device.vendor_id().as_raw() != VENDOR || device.device_id() != DEVICE {
                return Err(ENODEV);
            }
            device.enable_device_mem()?;
            device.set_master();
            let narrow_refused = narrow_is_refused(device)?;
            // SAFETY: Nothing is mapped yet.
            unsafe { device.dma_set_mask(DmaMask::new::<64>())? };
            let device = bound_until_unbound(device);
            let commands = Commands::new(device.as_ref(), Engine::new(device)?, narrow_refused);
            Ok(try_pin_init!(Self {
                _files <- Scope::dir(commands, c"hmm_edu", command::add_files),
            }))
        })
    }
}

/// Whether the device is refused while it claims, as it does out of the box, to reach 256 MiB only.
fn narrow_is_refused(device: &pci::Device<Core<'_>>) -> Result<bool> {
    // SAFETY: Nothing is mapped yet.
    unsafe { device.dma_set_mask(DmaMask::new::<28>())? };
    let page = PageRange::new(PageIndex::new(0), PageIndex::new(1));
    let bound: &kernel::device::Device<Bound> = device.as_ref();
    Ok(DmaRange::new(bound, page).err() == Some(DmaError::NeedsCopies))
}

/// Files in debugfs may only refer to what lives forever, as far as types are concerned.
fn bound_until_unbound(device: &pci::Device<Bound>) -> &'static pci::Device<Bound> {
    // SAFETY: The reference is given only to what the driver's data owns: `Edu`, which is dropped while
    // the device is still bound, and by then its files are gone, with every command that ran.
    unsafe { &*core::ptr::from_ref(device) }
}

kernel::module_pci_driver! {
    type: Edu,
    name: "hmm_edu",
    authors: ["hmm-odp"],
    description: "Tests DMA of a process's pages with QEMU's edu device",
    license: "GPL v2",
}
