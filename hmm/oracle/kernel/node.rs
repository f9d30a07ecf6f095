// SPDX-License-Identifier: GPL-2.0

//! The file in `/dev`. The kernel crate's `MiscDeviceRegistration` does this, too, but its files do
//! not keep the module loaded: closing one after `rmmod` would run code that is gone.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::to_result;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions};
use kernel::prelude::*;
use kernel::types::Opaque;

/// A registered file.
///
/// # Invariants
///
/// `misc` is registered with `operations`, which are those of `T`.
#[pin_data(PinnedDrop)]
pub(crate) struct Node<T: MiscDevice> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    #[pin]
    operations: Opaque<bindings::file_operations>,
    _files: PhantomData<fn() -> T>,
}

// SAFETY: A device may be registered and unregistered by different threads.
unsafe impl<T: MiscDevice> Send for Node<T> {}
// SAFETY: There is nothing to do with a `&Node`.
unsafe impl<T: MiscDevice> Sync for Node<T> {}

impl<T: MiscDevice> Node<T> {
    /// Makes `/dev/NAME`. While a file is open, `module` stays loaded.
    pub(crate) fn register(
        module: &'static ThisModule,
        options: MiscDeviceOptions,
    ) -> impl PinInit<Self, Error> {
        let template = options.into_raw::<T>();
        // SAFETY: The kernel crate's table, which lives forever.
        let mut own = unsafe { *template.fops };
        own.owner = module.as_ptr();
        try_pin_init!(&this in Self {
            // Before the registration: a file may be opened as soon as that is done.
            operations: Opaque::new(own),
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut misc = template;
                // SAFETY: `this` is the memory being initialised.
                misc.fops = unsafe { Opaque::cast_into(&raw const (*this.as_ptr()).operations) };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(misc) };
                // SAFETY: Both the slot and the operations are pinned, and stay until the drop below.
                // The operations are those of `T`'s files, with a miscdevice as they expect it.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
            _files: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for Node<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered, by the type invariant.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}
