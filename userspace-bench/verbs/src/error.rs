// SPDX-License-Identifier: GPL-2.0
//! What can go wrong with a verb.

use std::{io, ptr::NonNull, time::Duration};

use super::Status;

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library or the driver said no.
    #[error("{call}: {}", io::Error::from_raw_os_error(*errno))]
    Call {
        /// The verb.
        call: &'static str,
        /// What it said.
        errno: i32,
    },
    /// The library is not there.
    #[error("libibverbs.so.1 cannot be loaded: it comes with rdma-core (on Debian libibverbs1 and ibverbs-providers)")]
    NoLibrary,
    /// There is no such device.
    #[error(
        "no RDMA device{}: `rdma link` lists those there are",
        .0.as_ref().map(|n| format!(" named {n}")).unwrap_or_default()
    )]
    NoDevice(Option<String>),
    /// The device is there and does not open.
    #[error(
        "cannot open {device}: {}; its file in /dev/infiniband has to be one that this user may read and write",
        io::Error::from_raw_os_error(*errno)
    )]
    Closed {
        /// Its name.
        device: String,
        /// What the library said.
        errno: i32,
    },
    /// The port has no address that can be used.
    #[error("no usable GID on port {port} of {device}")]
    NoGid {
        /// The device.
        device: String,
        /// Its port.
        port: u8,
    },
    /// The device has no such port.
    #[error("{device} has no port {port}: it has ports 1 to {ports}")]
    NoPort {
        /// The device.
        device: String,
        /// What was asked for.
        port: u8,
        /// How many it has.
        ports: u8,
    },
    /// Nothing completed in time.
    #[error("no completion within {} ms", .0.as_millis())]
    Late(Duration),
    /// Something completed, but not as it should.
    #[error("completed with {found}, expected {expected}")]
    Status {
        /// How it completed.
        found: Status,
        /// How it should have.
        expected: String,
    },
}

impl Error {
    /// The errno of a call that failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the driver says that it cannot do this.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
        )
    }
}

/// Turns the return value of a verb that returns an errno (or -1 and sets errno) into a result.
pub(super) fn check(call: &'static str, value: i32) -> Result<()> {
    match value {
        0 => Ok(()),
        -1 => Err(last(call)),
        errno => Err(Error::Call {
            call,
            errno: errno.abs(),
        }),
    }
}

/// Turns the return value of a verb that returns an object into a result.
pub(super) fn object<T>(call: &'static str, object: *mut T) -> Result<NonNull<T>> {
    NonNull::new(object).ok_or_else(|| last(call))
}

fn last(call: &'static str) -> Error {
    let errno = io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Error::Call { call, errno }
}
