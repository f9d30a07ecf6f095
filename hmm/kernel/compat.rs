// SPDX-License-Identifier: GPL-2.0

//! What is not the same in all kernels that these modules are made for, for all of them: the only
//! place in Rust that asks for the kernel's version. `compat.h` is the same for C.
//!
//! `linux_7_3` is set by `Kbuild` from Linux 7.3 on. Each item says from which version on what holds,
//! and the rest of the code reads as if there were the newest kernel only.

/// The direction of a DMA mapping. From 7.3 on C's names are constants of a type of their own; before,
/// they were integers.
pub mod dma_data_direction {
    use kernel::bindings;

    /// C's type.
    pub type Type = bindings::dma_data_direction;

    /// From the CPU's memory to the device.
    #[cfg(linux_7_3)]
    pub const DMA_TO_DEVICE: Type = Type::DMA_TO_DEVICE;
    /// Both ways.
    #[cfg(linux_7_3)]
    pub const DMA_BIDIRECTIONAL: Type = Type::DMA_BIDIRECTIONAL;

    /// From the CPU's memory to the device.
    #[cfg(not(linux_7_3))]
    pub const DMA_TO_DEVICE: Type = bindings::dma_data_direction_DMA_TO_DEVICE;
    /// Both ways.
    #[cfg(not(linux_7_3))]
    pub const DMA_BIDIRECTIONAL: Type = bindings::dma_data_direction_DMA_BIDIRECTIONAL;
}

/// PCI drivers.
pub mod pci {
    /// What a driver's `probe` is told of the device's entry in its table. From 7.3 on there may be
    /// none, for a device that somebody has bound by hand.
    #[cfg(linux_7_3)]
    pub type Info<'bound, T> = Option<&'bound T>;
    /// What a driver's `probe` is told of the device's entry in its table.
    #[cfg(not(linux_7_3))]
    pub type Info<'bound, T> = &'bound T;
}

/// Makes a PCI driver's table of devices: `pci_device_table!(NAME, INFO, [(ID, information)])`. Until 7.3 the
/// table for modpost wants a name of its own.
#[cfg(linux_7_3)]
#[macro_export]
macro_rules! pci_device_table {
    ($($arguments:tt)*) => {
        ::kernel::pci_device_table!($($arguments)*);
    };
}

/// Makes a PCI driver's table of devices: `pci_device_table!(NAME, INFO, [(ID, information)])`.
#[cfg(not(linux_7_3))]
#[macro_export]
macro_rules! pci_device_table {
    ($name:ident, $($arguments:tt)*) => {
        ::kernel::pci_device_table!($name, MODULE_DEVICES, $($arguments)*);
    };
}

/// The value of a module's parameter. From 7.3 on the kernel crate gives it by value, before by reference.
#[cfg(linux_7_3)]
pub fn parameter<T: Copy>(access: &kernel::module_param::ModuleParamAccess<T>) -> T {
    access.value()
}

/// The value of a module's parameter.
#[cfg(not(linux_7_3))]
pub fn parameter<T: Copy>(access: &kernel::module_param::ModuleParamAccess<T>) -> T {
    *access.value()
}
