// SPDX-License-Identifier: GPL-2.0
//! Completion queues, and how a work request ended.

use std::{
    fmt, hint,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdma_mummy_sys as sys;
use sys::ibv_wc_status as wc;

use super::{error::object, Context, Error, Result};
use crate::patience;

/// How long a waiter spins before it sleeps between looks, and how long it sleeps.
const SPIN: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(50);

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u32);

#[expect(missing_docs, reason = "the names are those of the specification")]
impl Status {
    pub const SUCCESS: Self = Self(wc::IBV_WC_SUCCESS);
    pub const LOC_LEN_ERR: Self = Self(wc::IBV_WC_LOC_LEN_ERR);
    pub const LOC_QP_OP_ERR: Self = Self(wc::IBV_WC_LOC_QP_OP_ERR);
    pub const LOC_PROT_ERR: Self = Self(wc::IBV_WC_LOC_PROT_ERR);
    pub const MW_BIND_ERR: Self = Self(wc::IBV_WC_MW_BIND_ERR);
    pub const WR_FLUSH_ERR: Self = Self(wc::IBV_WC_WR_FLUSH_ERR);
    pub const LOC_ACCESS_ERR: Self = Self(wc::IBV_WC_LOC_ACCESS_ERR);
    pub const REM_INV_REQ_ERR: Self = Self(wc::IBV_WC_REM_INV_REQ_ERR);
    pub const REM_ACCESS_ERR: Self = Self(wc::IBV_WC_REM_ACCESS_ERR);
    pub const REM_OP_ERR: Self = Self(wc::IBV_WC_REM_OP_ERR);
    pub const RETRY_EXC_ERR: Self = Self(wc::IBV_WC_RETRY_EXC_ERR);
    pub const RNR_RETRY_EXC_ERR: Self = Self(wc::IBV_WC_RNR_RETRY_EXC_ERR);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            wc::IBV_WC_SUCCESS => "SUCCESS",
            wc::IBV_WC_LOC_LEN_ERR => "LOC_LEN_ERR",
            wc::IBV_WC_LOC_QP_OP_ERR => "LOC_QP_OP_ERR",
            wc::IBV_WC_LOC_PROT_ERR => "LOC_PROT_ERR",
            wc::IBV_WC_WR_FLUSH_ERR => "WR_FLUSH_ERR",
            wc::IBV_WC_MW_BIND_ERR => "MW_BIND_ERR",
            wc::IBV_WC_BAD_RESP_ERR => "BAD_RESP_ERR",
            wc::IBV_WC_LOC_ACCESS_ERR => "LOC_ACCESS_ERR",
            wc::IBV_WC_REM_INV_REQ_ERR => "REM_INV_REQ_ERR",
            wc::IBV_WC_REM_ACCESS_ERR => "REM_ACCESS_ERR",
            wc::IBV_WC_REM_OP_ERR => "REM_OP_ERR",
            wc::IBV_WC_RETRY_EXC_ERR => "RETRY_EXC_ERR",
            wc::IBV_WC_RNR_RETRY_EXC_ERR => "RNR_RETRY_EXC_ERR",
            wc::IBV_WC_FATAL_ERR => "FATAL_ERR",
            wc::IBV_WC_RESP_TIMEOUT_ERR => "RESP_TIMEOUT_ERR",
            wc::IBV_WC_GENERAL_ERR => "GENERAL_ERR",
            other => return write!(f, "status {other}"),
        })
    }
}

/// One work request that ended.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What the work request was called when it was posted.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// How many bytes were received.
    pub len: u32,
    /// The immediate value that came along.
    pub imm: Option<u32>,
    /// The key that the peer has invalidated.
    pub invalidated: Option<u32>,
    /// The queue pair.
    pub qp: u32,
}

/// A completion queue.
#[derive(Debug)]
pub struct CompletionQueue {
    raw: NonNull<sys::ibv_cq>,
    // Dropped after the queue.
    _context: Arc<Context>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue that holds `depth` completions.
    pub fn new(context: &Arc<Context>, depth: u32) -> Result<Arc<Self>> {
        let (none, depth) = (ptr::null_mut(), depth as i32);
        // SAFETY: the context is open; no channel is used.
        let raw = unsafe { sys::ibv_create_cq(context.raw(), depth, none, ptr::null_mut(), 0) };
        let raw = object("ibv_create_cq", raw)?;
        Ok(Arc::new(Self {
            raw,
            _context: context.clone(),
        }))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_cq {
        self.raw.as_ptr()
    }

    /// The next completion, if there is one.
    pub fn poll(&self) -> Result<Option<Completion>> {
        let mut entry = MaybeUninit::<sys::ibv_wc>::zeroed();
        // SAFETY: the queue is alive and there is room for the one entry that is asked for.
        let count = unsafe { sys::ibv_poll_cq(self.raw(), 1, entry.as_mut_ptr()) };
        match count {
            0 => Ok(None),
            1 => {
                // SAFETY: plain integers, initialised with zeroes and then by the call.
                Ok(Some(completion(&unsafe { entry.assume_init() })))
            }
            _ => Err(Error::Call {
                call: "ibv_poll_cq",
                errno: count.abs(),
            }),
        }
    }

    /// Waits for the next completion, for as long as `patience` lasts on an [ordinary
    /// kernel](crate::patience).
    pub fn wait(&self, patience: Duration) -> Result<Completion> {
        let limit = patience::scaled(patience);
        let start = Instant::now();
        loop {
            if let Some(completion) = self.poll()? {
                return Ok(completion);
            }
            let waited = start.elapsed();
            if waited > limit {
                return Err(Error::Late(limit));
            }
            // Spin at first, for the sake of latency; then leave the processor to the driver.
            if waited > SPIN {
                thread::sleep(NAP);
            } else {
                hint::spin_loop();
            }
        }
    }
}

fn completion(entry: &sys::ibv_wc) -> Completion {
    let with_imm = entry.wc_flags & sys::ibv_wc_flags::IBV_WC_WITH_IMM.0 != 0;
    let with_inv = entry.wc_flags & sys::ibv_wc_flags::IBV_WC_WITH_INV.0 != 0;
    // SAFETY: both members of the union are 32-bit integers.
    let (imm, rkey) = unsafe {
        let value = &entry.imm_data_invalidated_rkey_union;
        (value.imm_data, value.invalidated_rkey)
    };
    Completion {
        id: entry.wr_id,
        status: Status(entry.status),
        len: entry.byte_len,
        imm: with_imm.then(|| u32::from_be(imm)),
        invalidated: with_inv.then_some(rkey),
        qp: entry.qp_num,
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: whatever uses the queue held a reference to it.
        unsafe { sys::ibv_destroy_cq(self.raw()) };
    }
}
