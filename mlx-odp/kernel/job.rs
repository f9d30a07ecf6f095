// SPDX-License-Identifier: GPL-2.0

//! Work that may sleep for as long as it takes: resolving page faults (`ticket.rs`), and background prefetches
//! (`prefetch.rs`). What a job does is its [`Body`].
//!
//! A job runs on the module's own workqueue. It holds no resource others wait for. Cancelling it sends its worker
//! SIGKILL, so that a wait ends as that of a thread of the application would. Some waits cannot be killed (that is up to
//! the file system). Such a job keeps sleeping, and keeps the module loaded.
//!
//! Each user has a quota of running jobs, one for faults and one for prefetches ([`JobQuota`]). Jobs beyond it wait, in
//! order, for others of the same user.
//!
//! # Locking
//!
//! [`JOBS`], a mutex, is held while a job is added, removed or looked for. A job's own spinlocks, [`Job::worker`] and
//! that of its body, are taken under it.

use core::cell::Cell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kernel::bindings;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use kernel::workqueue::{impl_has_work, new_work, Queue, Work, WorkItem};

use crate::job_quota::{Admission, JobQuota};
use crate::parameters::{Parameters, MOST_PREFETCHES};
use crate::shim;
use crate::stats::Stats;

/// The kind of a job. Each kind has its own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Resolves a page fault.
    Fault,
    /// Prefetches in the background.
    Prefetch,
}

impl Kind {
    /// How many jobs of one user run at once, and how many more may wait.
    fn limits(self, parameters: Parameters) -> (u32, u32) {
        match self {
            // A queue pair, or a thread of the application, waits for each.
            Self::Fault => (parameters.fault_workers, u32::MAX),
            Self::Prefetch => (parameters.prefetch_workers, MOST_PREFETCHES),
        }
    }
}

/// The work of a job.
pub(crate) trait Body: Send + Sync {
    /// Does it. Sleeps for as long as that takes; SIGKILL ends its waits. Work in several steps asks `go_on` between
    /// them.
    fn run(&self, go_on: &dyn Fn() -> bool);

    /// Called before [`Job::abandon`] cancels the job: resumes the request that waits for it, if there is one.
    fn abandon(&self) {}

    /// Whether the process that it is for has exited.
    fn is_orphaned(&self) -> bool;

    /// Whether it is for the region with this number, as far as it has got.
    fn is_at(&self, region: u64) -> bool;

    /// Whether a thread waits for it in a system call on the device with the counters `device`.
    fn is_awaited_on(&self, device: &Stats) -> bool;
}

/// The worker of a job.
enum Worker {
    /// None: the job does not run yet, or has run.
    Idle,
    /// This task, which is alive while it is here.
    Task(*mut bindings::task_struct),
    /// The job was cancelled.
    Cancelled,
}

// SAFETY: A task may be sent signals from any thread.
unsafe impl Send for Worker {}

/// A piece of work that may sleep.
#[pin_data]
pub(crate) struct Job {
    user: u64,
    kind: Kind,
    /// The jobs of a user start in this order.
    number: u64,
    body: Arc<dyn Body>,
    #[pin]
    worker: SpinLock<Worker>,
    #[pin]
    work: Work<Job>,
}

impl_has_work! {
    impl HasWork<Self> for Job { self.work }
}

impl WorkItem for Job {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.begin() {
            this.body.run(&|| !this.is_cancelled());
        }
        this.end();
        next_after(&this);
        drop(this);
        // SAFETY: Held when it was submitted. This code stays until the queue has seen this call return.
        unsafe { shim::mlx_odp_shim_release_module() };
    }
}

/// Ends the jobs of processes that have exited. Their regions may still be there: a worker that sleeps for a page holds
/// the address space, that holds the queues that are mapped there, and these hold the device's file.
///
/// Returns whether there are jobs to watch.
#[no_mangle]
extern "C" fn mlx_odp_watch_jobs() -> bool {
    let watched = Cell::new(false);
    each(|job| {
        watched.set(true);
        if job.body.is_orphaned() {
            job.abandon();
        }
    });
    watched.get()
}

impl Job {
    /// Queues a job of `user`. Drops it if the user has too many of the same `kind`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn submit(user: u64, kind: Kind, body: Arc<dyn Body>) -> Result<Arc<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let job = Arc::pin_init(
            pin_init!(Self {
                user,
                kind,
                number: NUMBER.fetch_add(1, Ordering::Relaxed),
                body,
                worker <- new_spinlock!(Worker::Idle, "mlx_odp::job::worker"),
                work <- new_work!("mlx_odp::job"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let node = RBTreeNode::new(job.number, job.clone(), GFP_KERNEL_ACCOUNT)?;
        let fresh = RBTreeNode::new(job.key(), Jobs::default(), GFP_KERNEL_ACCOUNT)?;
        let mut jobs = JOBS.lock();
        let jobs = jobs.as_mut().ok_or(ENODEV)?;
        if jobs.get(&job.key()).is_none() {
            jobs.insert(fresh);
        }
        let own = jobs.get_mut(&job.key()).ok_or(ENODEV)?;
        let (running, waiting) = kind.limits(crate::parameters());
        let admission = own.quota.admit(running, waiting);
        if admission != Admission::Refuse {
            // SAFETY: The watcher is stopped after the last job.
            unsafe { shim::mlx_odp_shim_watch() };
            // SAFETY: A region's code runs here, or that of a module that uses this one.
            unsafe { shim::mlx_odp_shim_hold_module() };
        }
        match admission {
            Admission::Run => {
                own.running.insert(node);
                enqueue(job.clone());
            }
            Admission::Wait => {
                own.waiting.insert(node);
            }
            Admission::Refuse => {}
        }
        Ok(job)
    }

    fn key(&self) -> (Kind, u64) {
        (self.kind, self.user)
    }

    /// The work that it does.
    pub(crate) fn body(&self) -> &dyn Body {
        &*self.body
    }

    /// Cancels the job: it ends its wait, or does not start. Does not sleep.
    pub(crate) fn cancel(&self) {
        let mut worker = self.worker.lock();
        if let Worker::Task(task) = *worker {
            // SAFETY: It takes itself out of here, under this lock, before it does anything else.
            unsafe { shim::mlx_odp_shim_kill(task.cast()) };
        }
        *worker = Worker::Cancelled;
    }

    /// As [`Job::cancel`], and resumes the request that waits for the job.
    pub(crate) fn abandon(&self) {
        self.body.abandon();
        self.cancel();
    }

    /// As [`Job::cancel`], and removes the job if it has not started. Sleeps.
    pub(crate) fn withdraw(&self) {
        self.cancel();
        let waiting = {
            let mut jobs = JOBS.lock();
            let own = jobs.as_mut().and_then(|jobs| jobs.get_mut(&self.key()));
            own.and_then(|own| {
                let waiting = own.waiting.remove_node(&self.number)?;
                own.quota.withdrawn();
                Some(waiting)
            })
        };
        if let Some(waiting) = waiting {
            drop(waiting);
            // SAFETY: Held when it was submitted. The caller keeps the module loaded.
            unsafe { shim::mlx_odp_shim_release_module() };
        }
    }

    fn is_cancelled(&self) -> bool {
        matches!(*self.worker.lock(), Worker::Cancelled)
    }

    /// The current thread is about to run it; returns whether it should.
    fn begin(&self) -> bool {
        // SAFETY: Of the current thread, a worker of the kernel; `end` undoes it.
        unsafe { shim::mlx_odp_shim_allow_kill() };
        let mut worker = self.worker.lock();
        match *worker {
            Worker::Cancelled => false,
            _ => {
                *worker = Worker::Task(kernel::current!().as_ptr());
                true
            }
        }
    }

    fn end(&self) {
        {
            let mut worker = self.worker.lock();
            if !matches!(*worker, Worker::Cancelled) {
                *worker = Worker::Idle;
            }
        }
        // SAFETY: As in `begin`. This job's worker is no longer this thread, so nothing kills it.
        unsafe { shim::mlx_odp_shim_forbid_kill() };
    }
}

/// The jobs of one user and kind.
#[derive(Default)]
struct Jobs {
    quota: JobQuota,
    running: RBTree<u64, Arc<Job>>,
    waiting: RBTree<u64, Arc<Job>>,
}

impl Jobs {
    fn each(&self, visit: &impl Fn(&Job)) {
        self.running.values().for_each(|job| visit(job));
        self.waiting.values().for_each(|job| visit(job));
    }
}

kernel::sync::global_lock! {
    // SAFETY: `Workers::new` initialises it, when the module is loaded.
    unsafe(uninit) static JOBS: Mutex<Option<RBTree<(Kind, u64), Jobs>>> = None;
}

/// The workqueue; not null while the module is loaded.
static QUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(null_mut());

fn enqueue(job: Arc<Job>) {
    // SAFETY: Made when the module was loaded; jobs come from regions, which keep it loaded.
    let queue = unsafe { Queue::from_raw(QUEUE.load(Ordering::Acquire)) };
    // It was not queued before.
    let _ = queue.enqueue(job);
}

/// `job` has run: starts the next one of the same user and kind.
fn next_after(job: &Job) {
    let key = job.key();
    let mut jobs = JOBS.lock();
    let Some(jobs) = jobs.as_mut() else {
        return;
    };
    let Some(own) = jobs.get_mut(&key) else {
        return;
    };
    let ended = own.running.remove_node(&job.number);
    if own.quota.finished() {
        if let Some(first) = own.waiting.cursor_front_mut() {
            let (_, node) = first.remove_current();
            let (number, next) = node.to_key_value();
            // Reuses the node of the job that has ended: nothing is allocated here.
            if let Some(ended) = ended {
                let node = ended.into_reservation().into_node(number, next.clone());
                own.running.insert(node);
            }
            enqueue(next);
        }
    }
    if own.quota.is_idle() {
        jobs.remove(&key);
    }
}

/// Calls `visit` for each job.
pub(crate) fn each(visit: impl Fn(&Job)) {
    let jobs = JOBS.lock();
    for own in jobs.iter().flat_map(|jobs| jobs.values()) {
        own.each(&visit);
    }
}

/// Calls `visit` for each job of `user`.
pub(crate) fn each_of(user: u64, visit: impl Fn(&Job)) {
    let jobs = JOBS.lock();
    let Some(jobs) = jobs.as_ref() else {
        return;
    };
    for kind in [Kind::Fault, Kind::Prefetch] {
        if let Some(own) = jobs.get(&(kind, user)) {
            own.each(&visit);
        }
    }
}

/// The workqueue of jobs. Dropping it destroys the queue.
pub(crate) struct Workers(());

impl Workers {
    /// Creates it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// Called once, before anything else in this file.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: By the contract.
        unsafe { JOBS.init() };
        *JOBS.lock() = Some(RBTree::new());
        // SAFETY: Destroyed when this is dropped.
        let queue = unsafe { shim::mlx_odp_shim_make_queue() };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        QUEUE.store(queue.cast(), Ordering::Release);
        Ok(Self(()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // SAFETY: No job is submitted any more: the regions are gone.
        unsafe { shim::mlx_odp_shim_stop_watching() };
        let queue = QUEUE.swap(null_mut(), Ordering::AcqRel);
        // SAFETY: Made in `new`. A job that sleeps keeps the module loaded, so this waits only for jobs that are
        // ending.
        unsafe { shim::mlx_odp_shim_destroy_queue(queue.cast()) };
    }
}
