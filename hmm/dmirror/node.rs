// SPDX-License-Identifier: GPL-2.0

//! The file in `/dev` of one device.
//!
//! The kernel crate's `MiscDeviceRegistration` does this, too, but its files do not keep the module
//! loaded, and it has no room for the device that they belong to.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::to_result;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use crate::vram::Device;

/// A registered file, each open one a `T`.
///
/// # Invariants
///
/// `misc` is registered with `operations`, which are those of `T`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Node<T: MiscDevice> {
    // First, so that `device_of` finds the rest.
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    operations: bindings::file_operations,
    device: Arc<Device>,
    _files: PhantomData<fn() -> T>,
}

// SAFETY: A device may be registered and unregistered by different threads.
unsafe impl<T: MiscDevice> Send for Node<T> {}
// SAFETY: There is nothing to do with a `&Node` but to look at the device, which is `Sync`.
unsafe impl<T: MiscDevice> Sync for Node<T> {}

impl<T: MiscDevice> Node<T> {
    /// Makes `/dev/NAME`. While a file is open, `module` stays loaded.
    pub(crate) fn register(
        module: &'static ThisModule,
        name: &'static CStr,
        device: Arc<Device>,
    ) -> impl PinInit<Self, Error> {
        let template = MiscDeviceOptions { name }.into_raw::<T>();
        // SAFETY: The kernel crate's table, which lives forever.
        let mut operations = unsafe { *template.fops };
        operations.owner = module.as_ptr();
        try_pin_init!(Self {
            // Before the registration: a file may be opened as soon as that is done.
            device,
            operations,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut misc = template;
                misc.fops = operations;
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(misc) };
                // SAFETY: The slot is pinned, and so are the operations beside it; both stay until
                // the drop below.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
            _files: PhantomData,
        })
    }

    /// The device that a file being opened belongs to.
    ///
    /// # Safety
    ///
    /// The file is opened through a node of this type.
    pub(crate) unsafe fn device_of(misc: &MiscDeviceRegistration<T>) -> &Arc<Device> {
        // SAFETY: By the contract, `misc` is the first field of a node; that stays while a file is being opened, and
        // its `device` was set before it was registered.
        unsafe { &(*misc.as_raw().cast::<Self>()).device }
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Node<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}
