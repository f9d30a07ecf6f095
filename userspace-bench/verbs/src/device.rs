// SPDX-License-Identifier: GPL-2.0
//! Devices: opening one by name, its port, its addresses and what of ODP it supports.

use std::{
    ffi::CStr,
    fmt, io,
    mem::{self, MaybeUninit},
    net::Ipv6Addr,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::Arc,
};

use rdma_mummy_sys as sys;
use serde::{Deserialize, Serialize};

use super::{
    error::{check, object},
    Error, Result, Transport,
};

/// The port that is used if none is named. Every soft-RoCE device and every ConnectX function has this one.
const PORT: u8 = 1;

/// An open device, and the port of it that is used.
#[derive(Debug)]
pub struct Context {
    raw: NonNull<sys::ibv_context>,
    name: String,
    port: u8,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// How much of a message fits into one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mtu(u32);

impl Mtu {
    /// All there are, the smallest first.
    pub const ALL: [Mtu; 5] = [Mtu(1), Mtu(2), Mtu(3), Mtu(4), Mtu(5)];

    /// None at all: no device takes it.
    pub const NONE: Mtu = Mtu(0);

    /// What fits into the frames of an Ethernet that is set up as usual.
    pub const USUAL: Mtu = Mtu(3);

    /// The one of `bytes`, if there is such a one.
    pub fn of_bytes(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|mtu| mtu.bytes() == bytes)
    }

    /// The size in bytes.
    pub fn bytes(self) -> usize {
        128 << self.0
    }

    pub(super) fn raw(self) -> sys::ibv_mtu::Type {
        self.0
    }
}

/// An address of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u8,
    /// The address.
    pub raw: [u8; 16],
}

/// What kind of network a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkLayer {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// The driver does not say.
    Unspecified,
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "Ethernet",
            Self::Unspecified => "unspecified link layer",
        })
    }
}

/// How much of what a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports.
    pub ports: u8,
    /// Queue pairs.
    pub queue_pairs: u32,
    /// Work requests of one queue.
    pub depth: u32,
    /// READs and atomics that a queue pair takes at a time.
    pub reads: u32,
    /// Whether there are extended reliable connections.
    pub extended: bool,
}

/// What the device can do with memory that is not pinned.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct OdpCaps {
    /// On-demand regions at all.
    pub supported: bool,
    /// The whole address space as one region.
    pub implicit: bool,
    /// The operations on reliable connections.
    pub rc: OdpTransport,
    /// The operations on unreliable connections.
    pub uc: OdpTransport,
    /// The operations on unreliable datagrams.
    pub ud: OdpTransport,
    /// The operations on extended reliable connections.
    pub xrc: OdpTransport,
    /// The operations on dynamic connections.
    pub dc: OdpTransport,
}

/// The operations that may use on-demand memory on one kind of queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs)]
pub struct OdpTransport {
    pub send: bool,
    pub recv: bool,
    pub write: bool,
    pub read: bool,
    pub atomic: bool,
    pub flush: bool,
    pub atomic_write: bool,
}

impl OdpCaps {
    /// What both of two devices can do.
    pub fn and(self, other: Self) -> Self {
        Self {
            supported: self.supported && other.supported,
            implicit: self.implicit && other.implicit,
            rc: self.rc.and(other.rc),
            uc: self.uc.and(other.uc),
            ud: self.ud.and(other.ud),
            xrc: self.xrc.and(other.xrc),
            dc: self.dc.and(other.dc),
        }
    }

    /// The operations on queue pairs of `transport`.
    pub fn of(&self, transport: Transport) -> OdpTransport {
        match transport {
            Transport::Rc => self.rc,
            Transport::Uc => self.uc,
            Transport::Ud => self.ud,
            Transport::Xrc => self.xrc,
            Transport::Dc => self.dc,
        }
    }
}

impl OdpTransport {
    fn and(self, other: Self) -> Self {
        Self {
            send: self.send && other.send,
            recv: self.recv && other.recv,
            write: self.write && other.write,
            read: self.read && other.read,
            atomic: self.atomic && other.atomic,
            flush: self.flush && other.flush,
            atomic_write: self.atomic_write && other.atomic_write,
        }
    }

    fn new(bits: u32) -> Self {
        use sys::ibv_odp_transport_cap_bits as cap;
        let has = |bit: cap| bits & bit.0 != 0;
        Self {
            send: has(cap::IBV_ODP_SUPPORT_SEND),
            recv: has(cap::IBV_ODP_SUPPORT_RECV),
            write: has(cap::IBV_ODP_SUPPORT_WRITE),
            read: has(cap::IBV_ODP_SUPPORT_READ),
            atomic: has(cap::IBV_ODP_SUPPORT_ATOMIC),
            flush: has(cap::IBV_ODP_SUPPORT_FLUSH),
            atomic_write: has(cap::IBV_ODP_SUPPORT_ATOMIC_WRITE),
        }
    }
}

impl Context {
    /// Opens the device called `name`, or the first there is, for its first port.
    pub fn open(name: Option<&str>) -> Result<Arc<Self>> {
        Self::open_port(name, None)
    }

    /// Opens the device called `name`, or the first there is, for its port number `port`, or the first.
    ///
    /// # Errors
    ///
    /// If there is no such device or no such port.
    pub fn open_port(name: Option<&str>, port: Option<u8>) -> Result<Arc<Self>> {
        let context = Self::open_first(name, port.unwrap_or(PORT))?;
        let ports = context.limits()?.ports;
        if !(1..=ports).contains(&context.port) {
            return Err(Error::NoPort {
                device: context.name.clone(),
                port: context.port,
                ports,
            });
        }
        Ok(Arc::new(context))
    }

    fn open_first(name: Option<&str>, port: u8) -> Result<Self> {
        let mut count = 0;
        // SAFETY: the count outlives the call.
        let list = unsafe { sys::ibv_get_device_list(&mut count) };
        if list.is_null() {
            // What stands for a library that is not there says this.
            let missing = io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP);
            return Err(match missing {
                true => Error::NoLibrary,
                false => Error::NoDevice(name.map(Into::into)),
            });
        }
        let found = (0..count as usize).find_map(|i| {
            // SAFETY: the list holds `count` devices.
            let device = unsafe { *list.add(i) };
            // SAFETY: the device is in the list, which has not been freed; its name is a C string.
            let this = unsafe { CStr::from_ptr(sys::ibv_get_device_name(device)) };
            let this = this.to_string_lossy().into_owned();
            name.is_none_or(|n| n == this).then_some((device, this))
        });
        let context = found.map(|(device, this)| {
            // SAFETY: the device is in the list, which has not been freed.
            let raw = unsafe { sys::ibv_open_device(device) };
            let raw = object("ibv_open_device", raw).map_err(|error| Error::Closed {
                device: this.clone(),
                errno: error.errno().unwrap_or(libc::EIO),
            });
            (raw, this)
        });
        // SAFETY: the list came from ibv_get_device_list and is not used after this.
        unsafe { sys::ibv_free_device_list(list) };
        let (raw, name) = context.ok_or_else(|| Error::NoDevice(name.map(Into::into)))?;
        Ok(Self {
            raw: raw?,
            name,
            port,
        })
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_context {
        self.raw.as_ptr()
    }

    /// What the device is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file through which the library talks to the kernel.
    pub fn command_file(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open, and the descriptor stays open as long as it is.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().cmd_fd) }
    }

    /// The number of the port that is used.
    pub fn port(&self) -> u8 {
        self.port
    }

    fn port_attr(&self) -> Result<sys::ibv_port_attr> {
        let mut attr = MaybeUninit::zeroed();
        // SAFETY: the context is open and the attributes outlive the call.
        let r = unsafe { sys::ibv_query_port(self.raw(), self.port, attr.as_mut_ptr()) };
        check("ibv_query_port", r)?;
        // SAFETY: plain integers, initialised with zeroes and then by the call.
        Ok(unsafe { attr.assume_init() })
    }

    /// The largest packet that the port takes now.
    pub fn active_mtu(&self) -> Result<Mtu> {
        Ok(Mtu(self.port_attr()?.active_mtu))
    }

    /// What kind of network the port is on.
    pub fn link_layer(&self) -> Result<LinkLayer> {
        Ok(match self.port_attr()?.link_layer {
            sys::IBV_LINK_LAYER_INFINIBAND => LinkLayer::InfiniBand,
            sys::IBV_LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
            _ => LinkLayer::Unspecified,
        })
    }

    /// Whether the port can be used now.
    pub fn port_is_active(&self) -> Result<bool> {
        Ok(self.port_attr()?.state == sys::ibv_port_state::IBV_PORT_ACTIVE)
    }

    pub(super) fn lid(&self) -> Result<u16> {
        Ok(self.port_attr()?.lid)
    }

    /// The address at `index`, or the first that suits: RoCE v2 over IPv4 if there is one.
    pub fn gid(&self, index: Option<u8>) -> Result<Gid> {
        let none = || Error::NoGid {
            device: self.name.clone(),
            port: self.port,
        };
        if let Some(index) = index {
            return Ok(self.gid_entry(index).ok_or_else(none)?.0);
        }
        let len = self.port_attr()?.gid_tbl_len.clamp(0, 256);
        let all = (0..len).filter_map(|i| self.gid_entry(i as u8));
        all.max_by_key(|(gid, roce2)| {
            let address = Ipv6Addr::from(gid.raw);
            let ipv4 = address.to_ipv4_mapped().is_some();
            (*roce2 && ipv4, *roce2, u8::MAX - gid.index)
        })
        .map(|(gid, _)| gid)
        .ok_or_else(none)
    }

    /// The address at `index` if one is set, and whether it is of RoCE v2.
    fn gid_entry(&self, index: u8) -> Option<(Gid, bool)> {
        let mut entry = MaybeUninit::<sys::ibv_gid_entry>::zeroed();
        let (port, at) = (u32::from(self.port), u32::from(index));
        // SAFETY: the context is open and the entry outlives the call.
        let r = unsafe { sys::ibv_query_gid_ex(self.raw(), port, at, entry.as_mut_ptr(), 0) };
        if r != 0 {
            return None;
        }
        // SAFETY: plain integers, initialised with zeroes and then by the call.
        let entry = unsafe { entry.assume_init() };
        // SAFETY: both members of the union are plain bytes.
        let raw = unsafe { entry.gid.raw };
        let set = raw.iter().any(|&b| b != 0);
        set.then_some((
            Gid { index, raw },
            entry.gid_type == sys::IBV_GID_TYPE_ROCE_V2,
        ))
    }

    fn attr(&self) -> Result<sys::ibv_device_attr_ex> {
        let mut attr = MaybeUninit::<sys::ibv_device_attr_ex>::zeroed();
        // SAFETY: the context is open, the attributes outlive the call, no input is allowed.
        let r = unsafe { sys::ibv_query_device_ex(self.raw(), ptr::null(), attr.as_mut_ptr()) };
        check("ibv_query_device_ex", r)?;
        // SAFETY: plain integers, initialised with zeroes and then by the call.
        Ok(unsafe { attr.assume_init() })
    }

    /// How much of what the device has.
    pub fn limits(&self) -> Result<Limits> {
        let attr = self.attr()?.orig_attr;
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        Ok(Limits {
            ports: attr.phys_port_cnt,
            queue_pairs: count(attr.max_qp),
            depth: count(attr.max_qp_wr),
            reads: count(attr.max_qp_rd_atom),
            extended: attr.device_cap_flags & sys::ibv_device_cap_flags::IBV_DEVICE_XRC.0 != 0,
        })
    }

    /// What the device says that it can do with on-demand memory.
    pub fn odp_caps(&self) -> Result<OdpCaps> {
        use sys::ibv_odp_general_caps as cap;
        let attr = self.attr()?;
        let caps = attr.odp_caps;
        Ok(OdpCaps {
            supported: caps.general_caps & u64::from(cap::IBV_ODP_SUPPORT.0) != 0,
            implicit: caps.general_caps & u64::from(cap::IBV_ODP_SUPPORT_IMPLICIT.0) != 0,
            rc: OdpTransport::new(caps.per_transport_caps.rc_odp_caps),
            uc: OdpTransport::new(caps.per_transport_caps.uc_odp_caps),
            ud: OdpTransport::new(caps.per_transport_caps.ud_odp_caps),
            xrc: OdpTransport::new(attr.xrc_odp_caps),
            dc: OdpTransport::new(self.dynamic_caps()),
        })
    }

    /// The same for dynamically connected queue pairs, as bits; none if the device has no such queue pairs.
    fn dynamic_caps(&self) -> u32 {
        let wanted = sys::mlx5dv_context_comp_mask::MLX5DV_CONTEXT_MASK_DC_ODP_CAPS;
        // SAFETY: zeroes are valid for integers and null pointers.
        let mut attr: sys::mlx5dv_context = unsafe { mem::zeroed() };
        attr.comp_mask = u64::from(wanted.0);
        // SAFETY: the context is open and the attributes outlive the call. For other drivers' devices it says no.
        let r = unsafe { sys::mlx5dv_query_device(self.raw(), &mut attr) };
        match r == 0 && attr.comp_mask & u64::from(wanted.0) != 0 {
            true => attr.dc_odp_caps,
            false => 0,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is open, and whatever was made from it held a reference.
        unsafe { sys::ibv_close_device(self.raw()) };
    }
}
