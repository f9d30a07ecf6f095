// SPDX-License-Identifier: GPL-2.0
//! `ibv_rereg_mr`, as the kernel knows it.
//!
//! The library's provider of soft-RoCE does not offer it (rdma-core 65), though the kernel's driver does.
//! So the request is put to the kernel as the library's other providers put it, through the device's file:
//! `IB_USER_VERBS_CMD_REREG_MR` of `rdma/ib_user_verbs.h`.

use std::{io, mem};

use rdma_mummy_sys as sys;

use super::{error::check, Access, Error, ProtectionDomain, Region, Result, Span};

/// What of a region is to be changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// What it covers.
    pub span: Option<Span>,
    /// The domain that it belongs to.
    pub domain: Option<&'a std::sync::Arc<ProtectionDomain>>,
    /// What it may be used for.
    pub access: Option<Access>,
}

/// `IB_USER_VERBS_CMD_REREG_MR`.
const REREG_MR: u32 = 11;
const TRANSLATION: u32 = 1;
const DOMAIN: u32 = 2;
const ACCESS: u32 = 4;

/// `struct ib_uverbs_cmd_hdr` and `struct ib_uverbs_rereg_mr`.
#[repr(C)]
struct Request {
    command: u32,
    in_words: u16,
    out_words: u16,
    response: u64,
    region: u32,
    flags: u32,
    start: u64,
    length: u64,
    iova: u64,
    domain: u32,
    access: u32,
}

/// `struct ib_uverbs_rereg_mr_resp`.
#[repr(C)]
#[derive(Default)]
struct Response {
    lkey: u32,
    rkey: u32,
}

impl Region {
    /// Changes it. Its keys may be others afterwards. If that fails, it is as it was before.
    ///
    /// # Safety
    ///
    /// What of a new span is not the memory of a [`testkit::memory::Mapping`] or unmapped is never written through the
    /// key.
    pub unsafe fn reregister(&mut self, change: Change<'_>) -> Result<()> {
        // SAFETY: the region is registered; the caller's promise.
        unsafe { reregister(self.raw(), change)? };
        self.reregistered(change.span, change.domain);
        Ok(())
    }
}

/// Reregisters `mr`, whose keys are changed to the new ones. On failure it is as before.
///
/// # Safety
///
/// `mr` is registered. What of a new span is not the memory of a [`testkit::memory::Mapping`] or unmapped is
/// never written through the key.
unsafe fn reregister(mr: *mut sys::ibv_mr, change: Change<'_>) -> Result<()> {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let span = change.span.unwrap_or(Span {
        addr: 0,
        len: 0,
        iova: 0,
    });
    let mut response = Response::default();
    let request = Request {
        command: REREG_MR,
        in_words: (size_of::<Request>() / 4) as u16,
        out_words: (size_of::<Response>() / 4) as u16,
        response: (&raw mut response).expose_provenance() as u64,
        // SAFETY: the region is registered.
        region: unsafe { (*mr).handle },
        flags: flag(change.span.is_some(), TRANSLATION)
            | flag(change.domain.is_some(), DOMAIN)
            | flag(change.access.is_some(), ACCESS),
        start: span.addr,
        length: span.len as u64,
        iova: span.iova,
        domain: change.domain.map_or(0, |domain| domain.handle()),
        access: change.access.map_or(0, Access::bits),
    };
    let bytes = mem::size_of_val(&request);
    // SAFETY: the request is as long as it says; the response outlives the call; the file is the device's.
    let written = unsafe {
        let file = (*(*mr).context).cmd_fd;
        libc::write(file, (&raw const request).cast(), bytes)
    };
    if written < 0 {
        return check("ibv_rereg_mr", -1);
    }
    if written as usize != bytes {
        let errno = io::Error::from(io::ErrorKind::WriteZero);
        return Err(Error::Call {
            call: "ibv_rereg_mr",
            errno: errno.raw_os_error().unwrap_or(libc::EIO),
        });
    }
    // SAFETY: the region is registered, and nobody else looks at it now.
    unsafe {
        (*mr).lkey = response.lkey;
        (*mr).rkey = response.rkey;
    }
    Ok(())
}
