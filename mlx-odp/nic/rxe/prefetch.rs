// SPDX-License-Identifier: GPL-2.0

//! `ibv_advise_mr`: prefetch, at once or in the background.
//!
//! A prefetch holds a reference to its MR, and deregistration waits for references. So a prefetch
//! looks after every 2 MiB at most whether the MR is about to go, and ends early then.
//!
//! Those in the background have a work queue of their own (`mlx_odp_rxe_make_queues`, `shim.c`), so that
//! neither rxe's queue pairs nor anybody else waits for them. [`MOST_QUEUED`] bounds how many there are, and
//! with that what they keep alive; the queue itself, by a parameter of `mlx_odp.ko`, how many run at once.

use core::sync::atomic::{AtomicUsize, Ordering};

use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;
use kernel::workqueue::{impl_has_work, new_work, Queue, Work, WorkItem};

use mlx_odp::advice::Advice;
use mlx_odp::parameters::MOST_PREFETCHES;
use mlx_odp::region::{AccessError, Region};

use crate::object::Ref;
use crate::rxe;
use crate::umem::{errno, not_supported, region_of};

/// A counted reference to an MR that is an ODP region.
struct MrRef(Ref<rxe::rxe_mr>);

// SAFETY: The reference count is atomic, and regions may be used from any thread.
unsafe impl Send for MrRef {}

impl MrRef {
    /// Finds the region with `lkey` in `pd`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none, `EINVAL` if its memory is pinned.
    ///
    /// # Safety
    ///
    /// `pd` is valid.
    unsafe fn find(pd: *mut rxe::rxe_pd, lkey: u32) -> Result<Self> {
        // SAFETY: `pd` is valid. Returns null or an MR with a reference for us.
        let mr = unsafe {
            let local = rxe::rxe_mr_lookup_type_RXE_LOOKUP_LOCAL;
            Ref::from_raw(rxe::lookup_mr(pd, 0, lkey, local))
        };
        let mr = Self(mr.ok_or(ENOENT)?);
        mr.region()?;
        Ok(mr)
    }

    fn region(&self) -> Result<&Region> {
        // SAFETY: The reference is held for as long as `self` lives.
        unsafe { region_of(self.0.as_ptr()) }.ok_or(EINVAL)
    }
}

/// One element of the scatter-gather list.
struct Target {
    mr: MrRef,
    iova: u64,
    length: u64,
}

impl Target {
    /// # Safety
    ///
    /// `pd` is valid.
    unsafe fn find(pd: *mut rxe::rxe_pd, sge: &rxe::ib_sge, advice: Advice) -> Result<Self> {
        // SAFETY: `pd` is valid.
        let mr = unsafe { MrRef::find(pd, sge.lkey)? };
        let (iova, length) = (sge.addr, u64::from(sge.length));
        mr.region()?
            .may_prefetch(iova, length, advice)
            .map_err(prefetch_error)?;
        Ok(Self { mr, iova, length })
    }

    fn prefetch(&self, advice: Advice, go_on: impl Fn() -> bool) -> Result {
        self.mr
            .region()?
            .prefetch(self.iova, self.length, advice, || {
                self.mr.0.registered() && go_on()
            })
            .map_err(prefetch_error)
    }
}

/// The errno that ibv_advise_mr(3) has for it: a range that is not in the region is `EFAULT` too.
fn prefetch_error(error: AccessError) -> Error {
    match error {
        AccessError::OutOfRange => EFAULT,
        fault => fault.into(),
    }
}

/// How many prefetches there are in the background, queued or running, over all devices. Those beyond
/// are dropped: they are advice, and whoever needs the pages will fault on them.
const MOST_QUEUED: usize = MOST_PREFETCHES as usize;

static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// The right to be in the background, given back when dropped.
struct Permit;

impl Permit {
    fn get() -> Option<Self> {
        // Relaxed: the counter stands for itself.
        if QUEUED.fetch_add(1, Ordering::Relaxed) < MOST_QUEUED {
            return Some(Self);
        }
        QUEUED.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of them run at once. Each faults memory in, and may wait for a disk.
#[no_mangle]
extern "C" fn mlx_odp_rxe_prefetch_workers() -> c_uint {
    mlx_odp::parameters().prefetch_workers
}

/// A prefetch in the background.
#[pin_data]
struct Background {
    advice: Advice,
    targets: KVec<Target>,
    _permit: Permit,
    #[pin]
    work: Work<Background>,
}

impl_has_work! {
    impl HasWork<Self> for Background { self.work }
}

impl WorkItem for Background {
    type Pointer = Pin<KBox<Background>>;

    fn run(this: Pin<KBox<Background>>) {
        for target in &this.targets {
            // Advice may fail: whoever needs the page will fault on it and be told.
            let _ = target.prefetch(this.advice, || true);
        }
    }
}

/// `ibv_advise_mr`.
///
/// # Safety
///
/// Called by the RDMA core: `pd` is one of rxe's, `sges` points to `count` elements.
#[no_mangle]
unsafe extern "C" fn rxe_ib_advise_mr(
    pd: *mut rxe::ib_pd,
    advice: c_uint,
    flags: u32,
    sges: *mut rxe::ib_sge,
    count: u32,
    _attrs: *mut c_void,
) -> c_int {
    let Some(advice) = Advice::from_number(advice) else {
        return not_supported().to_errno();
    };
    // SAFETY: rxe's `struct rxe_pd` begins where its `ibpd` is, less the offset of that.
    let pd = unsafe { kernel::container_of!(pd, rxe::rxe_pd, ibpd) };
    // SAFETY: By the contract.
    let sges = unsafe { core::slice::from_raw_parts(sges, count as usize) };
    let now = flags & rxe::ib_uverbs_advise_mr_flag_IB_UVERBS_ADVISE_MR_FLAG_FLUSH != 0;
    // SAFETY: `pd` is valid.
    errno(unsafe {
        if now {
            prefetch_now(pd, sges, advice)
        } else {
            prefetch_later(pd, sges, advice)
        }
    })
}

/// # Safety
///
/// `pd` is valid.
unsafe fn prefetch_now(pd: *mut rxe::rxe_pd, sges: &[rxe::ib_sge], advice: Advice) -> Result {
    // SAFETY: Asks about the current task.
    let killed = || unsafe { rxe::rxe_shim_fatal_signal_pending() };
    for sge in sges {
        // SAFETY: `pd` is valid.
        let target = unsafe { Target::find(pd, sge, advice)? };
        target.prefetch(advice, || !killed())?;
        if killed() {
            return Err(EINTR);
        }
    }
    Ok(())
}

/// # Safety
///
/// `pd` is valid.
unsafe fn prefetch_later(pd: *mut rxe::rxe_pd, sges: &[rxe::ib_sge], advice: Advice) -> Result {
    let mut targets = KVec::with_capacity(sges.len(), GFP_KERNEL)?;
    for sge in sges {
        // SAFETY: `pd` is valid.
        targets.push(unsafe { Target::find(pd, sge, advice)? }, GFP_KERNEL)?;
    }
    let Some(permit) = Permit::get() else {
        return Ok(());
    };
    let work = KBox::pin_init(
        pin_init!(Background {
            advice,
            targets,
            _permit: permit,
            work <- new_work!("mlx_odp::rxe::prefetch"),
        }),
        GFP_KERNEL,
    )?;
    // SAFETY: The queue lives until the module goes, after all its devices; destroying it waits for
    // the work in it.
    let queue = unsafe { Queue::from_raw(rxe::rxe_shim_prefetch_queue().cast()) };
    queue.enqueue(work);
    Ok(())
}
