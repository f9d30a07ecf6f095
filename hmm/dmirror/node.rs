// SPDX-License-Identifier: GPL-2.0

//! The file in `/dev` of one device.
//!
//! The kernel crate's `MiscDeviceRegistration` does this, too, but its files do not keep the module
//! loaded, and it has no room for the device that they belong to.

use kernel::bindings;
use kernel::error::to_result;
use kernel::miscdevice::{MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use crate::session::Session;
use crate::Device;

/// A registered file.
///
/// # Invariants
///
/// `misc` is registered with `operations`, which are those of [`Session`].
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Node {
    // First, so that `device_of` finds the rest.
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    operations: bindings::file_operations,
    device: Arc<Device>,
}

// SAFETY: A device may be registered and unregistered by different threads.
unsafe impl Send for Node {}
// SAFETY: There is nothing to do with a `&Node` but to look at the device, which is `Sync`.
unsafe impl Sync for Node {}

impl Node {
    /// Makes `/dev/NAME`. While a file is open, `module` stays loaded.
    pub(crate) fn register<'a>(
        module: &'static ThisModule,
        name: &'static CStr,
        device: Arc<Device>,
    ) -> impl PinInit<Self, Error> + 'a {
        let template = MiscDeviceOptions { name }.into_raw::<Session>();
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
        })
    }

    /// The device that a file being opened belongs to.
    pub(crate) fn device_of(misc: &MiscDeviceRegistration<Session>) -> &Arc<Device> {
        // SAFETY: Files of `Session` are opened through `Node`s only, whose first field this is; they
        // stay while a file is being opened, and their `device` is set before.
        unsafe { &(*misc.as_raw().cast::<Self>()).device }
    }
}

#[pinned_drop]
impl PinnedDrop for Node {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}
