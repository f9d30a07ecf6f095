// SPDX-License-Identifier: GPL-2.0

//! Page faults, from the event to the command that resumes the request.
//!
//! An event becomes a [`Fault`], a work item of the device's own queue. It finds out what memory the request needs,
//! makes the regions bring it in, and resumes the request. It holds the keys of the regions meanwhile, so it waits
//! only for the device: if a page has to come from a disk, a file system or another process, it puts everything and
//! leaves the page to a job of the region's user ([`mlx_odp::Ticket`]). When that has ended, the work item runs again,
//! from the beginning: keys, queues and pages may have changed. So a fault that waits keeps no worker, no key and no
//! queue.
//!
//! A request is resumed exactly once ([`Fault::end`]), unless the queue that it is in has gone.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::{new_spinlock, Arc, SpinLock};
use kernel::workqueue::{impl_has_work, new_work, Queue, Work, WorkItem};

use mlx_odp::mlx5::mkey::{walk, Budget, Named, WalkError};
use mlx_odp::mlx5::page_fault::{MemoryFault, PageFault, RdmaFault, Resume, WqeFault, EQE};
use mlx_odp::{AccessError, Ticket, Wanted};

use hmm::{Access, ByteRange, FaultError, Refusal};

use crate::keys::{DeviceKeys, HeldRegion};
use crate::mlx5;
use crate::umem::DeviceRegion;
use crate::wqe::{WorkQueue, Wqe};

/// The most bytes of a packet. A request continues once this much of its memory is there.
const PACKET: u64 = 4096;

/// The most bytes that are brought in with them. The peer waits for the fault.
const MOST: u64 = 256 << 10;

/// A device that is in use for as long as there are faults of it: its event queue and its work queue go last.
#[derive(Clone, Copy)]
struct DevicePtr(*mut mlx5::mlx5_ib_dev);

// SAFETY: All functions that take it may be called from any thread.
unsafe impl Send for DevicePtr {}
// SAFETY: As above, concurrently too.
unsafe impl Sync for DevicePtr {}

/// A page fault of a device.
#[pin_data]
struct Fault {
    dev: DevicePtr,
    fault: PageFault,
    resumed: AtomicBool,
    /// Which queue a WQE was in when it was first looked for; 0 before that. It may have been destroyed since and its
    /// number reused.
    queue: AtomicUsize,
    /// The page that it waits for.
    #[pin]
    ticket: SpinLock<Option<Ticket>>,
    #[pin]
    work: Work<Fault>,
}

impl_has_work! {
    impl HasWork<Self> for Fault { self.work }
}

/// Why a fault was not served.
enum Unserved {
    /// A page has to be waited for. The region is not held any more.
    Waits(Ticket),
    /// The memory does not allow the access.
    Forbidden,
    /// The request is to fail.
    Refused,
}

/// An event of the device's page fault queue.
///
/// # Safety
///
/// Called by `shim.c`: `dev` is in use, `eqe` is an entry of its queue.
#[no_mangle]
unsafe extern "C" fn mlx_odp_mlx5_event(dev: *mut mlx5::mlx5_ib_dev, eqe: *const c_void) {
    // SAFETY: By the contract; the entry stays until this returns.
    let eqe = unsafe { *eqe.cast::<[u8; EQE]>() };
    let Ok(fault) = PageFault::decode(&eqe) else {
        // It has no token, so it cannot be ended.
        return;
    };
    let dev = DevicePtr(dev);
    let new = pin_init!(Fault {
        dev,
        fault,
        resumed: AtomicBool::new(false),
        queue: AtomicUsize::new(0),
        ticket <- new_spinlock!(None, "mlx5_odp::fault::ticket"),
        work <- new_work!("mlx5_odp::fault"),
    });
    match Arc::pin_init(new, GFP_KERNEL) {
        Ok(fault) => fault.queue(),
        // The request fails, and no other one waits for memory. Its queue has not gone: it has only just said so.
        Err(_) => resume(dev, &fault, true),
    }
}

impl Fault {
    /// Queues it for a worker, which serves it.
    fn queue(self: Arc<Self>) {
        // SAFETY: The device has its work queue for as long as there are faults.
        let queue = unsafe { Queue::from_raw(mlx5::mlx5_odp_shim_queue(self.dev.0).cast()) };
        // It is queued by its event, and then once by each ticket, which the worker before has left.
        let _ = queue.enqueue(self);
    }

    /// Whether the page it waited for is present. True if it waited for none.
    fn waited(&self) -> bool {
        let ticket = self.ticket.lock().take();
        // Without the lock: dropping a ticket sleeps.
        let outcome = ticket.as_ref().and_then(Ticket::outcome);
        !matches!(outcome, Some(Err(_)))
    }

    /// Ends it; `error` fails the request. If the queue of a WQE has gone, there is no request to resume.
    fn end(&self, error: bool) {
        let queue = match &self.fault {
            PageFault::Wqe(fault) => match self.hold(fault) {
                Some(queue) => Some(queue),
                None => return,
            },
            PageFault::Rdma(_) | PageFault::Memory(_) => None,
        };
        if !self.resumed.swap(true, Ordering::Relaxed) {
            resume(self.dev, &self.fault, error);
        }
        drop(queue);
    }

    /// The queue of a WQE, if it is still the same.
    fn hold(&self, fault: &WqeFault) -> Option<WorkQueue> {
        // SAFETY: The device is in use.
        let queue = unsafe { WorkQueue::hold(self.dev.0, fault)? };
        let (now, relaxed) = (queue.identity(), Ordering::Relaxed);
        let was = self.queue.compare_exchange(0, now, relaxed, relaxed);
        (was.is_ok() || was == Err(now)).then_some(queue)
    }
}

impl WorkItem for Fault {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.resumed.load(Ordering::Relaxed) {
            return;
        }
        if !this.waited() {
            return this.end(true);
        }
        match &this.fault {
            PageFault::Wqe(wqe) => this.serve_wqe(wqe),
            PageFault::Rdma(rdma) => this.answer(this.serve_rdma(rdma)),
            PageFault::Memory(memory) => this.answer(this.serve_memory(memory)),
        }
    }
}

impl Fault {
    /// Serves and ends the fault of a WQE.
    fn serve_wqe(self: &Arc<Self>, fault: &WqeFault) {
        let Some(queue) = self.hold(fault) else {
            return;
        };
        // SAFETY: The device is in use.
        match unsafe { Wqe::read(self.dev.0, queue, fault) } {
            Ok(wqe) => self.answer(self.bring_wqe(&wqe, fault.access)),
            Err(_) => self.end(true),
        }
    }

    fn bring_wqe(self: &Arc<Self>, wqe: &Wqe, access: Access) -> Result<(), Unserved> {
        let mut wanted = Demand::new(access, PACKET);
        for segment in wqe.segments().map_err(|_| Unserved::Refused)? {
            let segment = segment.map_err(|_| Unserved::Refused)?;
            let named = Named {
                key: segment.lkey,
                va: segment.va,
                len: segment.len,
            };
            if self.bring(named, &mut wanted)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn serve_rdma(self: &Arc<Self>, fault: &RdmaFault) -> Result<(), Unserved> {
        let mut wanted = Demand::new(fault.access, fault.packet);
        let named = Named {
            key: fault.rkey,
            va: fault.va,
            len: fault
                .message
                .unwrap_or(fault.packet)
                .min(MOST)
                .max(fault.packet),
        };
        self.bring(named, &mut wanted)?;
        Ok(())
    }

    /// The memory scheme does not say what the access is. So the pages are brought in for all that the region allows,
    /// or for reading where they may not be written.
    fn serve_memory(self: &Arc<Self>, fault: &MemoryFault) -> Result<(), Unserved> {
        // SAFETY: The device is in use.
        let held = unsafe { HeldRegion::of_memory(self.dev.0, fault.mkey) };
        let held = held.map_err(|_| Unserved::Refused)?;
        let region = held.region().ok_or(Unserved::Refused)?;
        let access = region.limit().most_access();
        let len = fault.demand.saturating_add(fault.after).min(MOST);
        // The device knows pages, a region may end within one.
        let bytes = region.clip(fault.va, len).ok_or(Unserved::Refused)?;
        let needed = fault.demand.min(bytes.len());
        let bring = |access| {
            let wanted = Demand::new(access, needed);
            self.bring_bytes(&held, region, bytes, &wanted).map(drop)
        };
        match bring(access) {
            Err(Unserved::Forbidden) if access == Access::Write => {
                let first = bytes.part(0, needed.max(1)).ok_or(Unserved::Refused)?;
                let had = region.has(first, Access::Read);
                match held.writes(bytes.start(), had) {
                    true => Err(Unserved::Refused),
                    false => bring(Access::Read),
                }
            }
            brought => brought,
        }
    }

    /// Makes the regions that `named` leads to bring in what is wanted of it. Breaks if no more is wanted.
    fn bring(
        self: &Arc<Self>,
        named: Named,
        wanted: &mut Demand,
    ) -> Result<ControlFlow<()>, Unserved> {
        // SAFETY: The device is in use.
        let (keys, depth) = unsafe {
            let depth = mlx5::mlx5_odp_shim_max_indirection(self.dev.0);
            (DeviceKeys::new(self.dev.0), depth)
        };
        let mut result = Ok(ControlFlow::Continue(()));
        let mut budget = core::mem::take(&mut wanted.budget);
        let walked = walk(
            &keys,
            depth as usize,
            named,
            &mut budget,
            |held, iova, len| {
                result = match held {
                    Some(held) => self.bring_in(&held, iova, len, wanted),
                    // It is there.
                    None => Ok(wanted.brought(len)),
                };
                match result {
                    Ok(flow) => flow,
                    Err(_) => ControlFlow::Break(()),
                }
            },
        );
        wanted.budget = budget;
        match walked {
            Ok(()) => result,
            // What is needed has been brought in before; the request fails when it gets there.
            Err(_) if wanted.needed == 0 => Ok(ControlFlow::Break(())),
            Err(
                WalkError::Key(_) | WalkError::TooDeep | WalkError::TooMany | WalkError::OutOfRange,
            ) => Err(Unserved::Refused),
        }
    }

    /// Makes the region `held` bring in the `len` bytes from `iova`, as far as they are wanted.
    fn bring_in(
        self: &Arc<Self>,
        held: &HeldRegion,
        iova: u64,
        len: u64,
        wanted: &mut Demand,
    ) -> Result<ControlFlow<()>, Unserved> {
        let region = held.region().ok_or(Unserved::Refused)?;
        let len = len.min(wanted.most);
        // A piece without bytes needs the page that it is at.
        let brought = match region.translate(iova, len.max(1)) {
            Ok(bytes) => self.bring_bytes(held, region, bytes, wanted)?,
            Err(_) if wanted.needed == 0 => false,
            Err(_) => return Err(Unserved::Refused),
        };
        Ok(match brought {
            true => wanted.brought(len),
            false => ControlFlow::Break(()),
        })
    }

    /// Makes `region`, which is `held`, bring in `bytes` of it. Returns false if they cannot be had and none is needed.
    fn bring_bytes(
        self: &Arc<Self>,
        held: &HeldRegion,
        region: &DeviceRegion,
        bytes: ByteRange,
        wanted: &Demand,
    ) -> Result<bool, Unserved> {
        match region.resolve(bytes, wanted.needed, wanted.access) {
            Ok(()) => Ok(true),
            Err(_) if wanted.needed == 0 => Ok(false),
            Err(AccessError::MustWait(pages)) => Err(self.raise(held, pages)),
            Err(AccessError::Fault(FaultError::Refused(Refusal::Forbidden))) => {
                Err(Unserved::Forbidden)
            }
            Err(_) => Err(Unserved::Refused),
        }
    }

    /// Leaves `pages` to a job of the region's user.
    fn raise(self: &Arc<Self>, held: &HeldRegion, pages: Wanted) -> Unserved {
        let waiter = Arc::new(Waiter(self.clone()), GFP_KERNEL_ACCOUNT);
        let ticket = waiter.map_err(Error::from).and_then(|waiter| {
            let region = held.region().ok_or(EFAULT)?;
            region.raise(pages, waiter)
        });
        ticket.map_or(Unserved::Refused, Unserved::Waits)
    }

    /// Ends the fault as it was served, or lets it wait.
    fn answer(&self, served: Result<(), Unserved>) {
        match served {
            Ok(()) => self.end(false),
            Err(Unserved::Waits(ticket)) => *self.ticket.lock() = Some(ticket),
            Err(Unserved::Forbidden | Unserved::Refused) => self.end(true),
        }
    }
}

/// What a fault still wants.
struct Demand {
    access: Access,
    /// Bytes that the request cannot go on without.
    needed: u64,
    /// The most bytes.
    most: u64,
    /// What may be done to find the regions.
    budget: Budget,
}

impl Demand {
    fn new(access: Access, needed: u64) -> Self {
        Self {
            access,
            needed,
            most: MOST,
            budget: Budget::default(),
        }
    }

    /// So many bytes more are there. Breaks if that was all.
    fn brought(&mut self, len: u64) -> ControlFlow<()> {
        self.needed = self.needed.saturating_sub(len);
        self.most = self.most.saturating_sub(len);
        match self.most {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Resumes a fault that waits for a page: queues it once more.
struct Waiter(Arc<Fault>);

impl mlx_odp::Resume for Waiter {
    fn resume(&self) {
        self.0.clone().queue();
    }
}

/// Resumes the request of `fault`, if the device expects that.
fn resume(dev: DevicePtr, fault: &PageFault, error: bool) {
    let Some(resume) = fault.resume(error) else {
        return;
    };
    // SAFETY: The device is in use. If the command fails, the request has gone, or the device has.
    let _ = unsafe {
        match resume {
            Resume::Transport {
                page_fault_type,
                wq_number,
                token,
                error,
            } => mlx5::mlx5_odp_shim_resume_transport(
                dev.0,
                page_fault_type,
                wq_number,
                token,
                error,
            ),
            Resume::Memory { token, error } => {
                mlx5::mlx5_odp_shim_resume_memory(dev.0, token, error)
            }
        }
    };
}
