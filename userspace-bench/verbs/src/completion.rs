// SPDX-License-Identifier: GPL-2.0
//! Completion queues, and the work requests that ended.

use std::{
    hint,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdma_mummy_sys as sys;

use super::{error::object, Context, Error, Result, Status};
use testkit::patience;

/// How long a waiter spins before it rests between looks, and how long it sleeps if it does.
const SPIN: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(50);

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

impl Completion {
    /// Itself, if it ended with one of `expected`.
    pub fn expect(self, expected: &[Status]) -> Result<Self> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let names: Vec<_> = expected.iter().map(Status::to_string).collect();
        Err(Error::Status {
            found: self.status,
            expected: names.join(" or "),
        })
    }
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

    /// What the kernel calls it.
    pub fn handle(&self) -> u32 {
        // SAFETY: the queue is alive; the library does not change it.
        unsafe { self.raw.as_ref() }.handle
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
    /// kernel](testkit::patience).
    pub fn wait(&self, patience: Duration) -> Result<Completion> {
        self.wait_with(patience, || thread::sleep(NAP))
    }

    /// The same without ever sleeping, for whoever takes the time: the processor is left only to who wants it.
    pub fn wait_awake(&self, patience: Duration) -> Result<Completion> {
        self.wait_with(patience, thread::yield_now)
    }

    /// Waits, with a `rest` between two looks once it takes long.
    fn wait_with(&self, patience: Duration, rest: impl Fn()) -> Result<Completion> {
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
                rest();
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
        status: Status::from_raw(entry.status),
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
