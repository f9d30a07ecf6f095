// SPDX-License-Identifier: GPL-2.0

//! Two NICs and one resolver.
//!
//! [`Inline`] waits in its own call, as soft-RoCE does. [`QueueNic`] has its faults resolved by workers and
//! goes on when it is told to: its requests go through their pages one by one and raise a fault for each
//! that is not in its table. Pages come and go meanwhile. Whatever the schedule, each fault is resumed
//! exactly once, each request ends exactly once, and only those fail that ask for what is not there.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::vec::Vec;

use hmm::addr::{PageIndex, PageRange, PAGE_SIZE};
use hmm::pfn::Access;
use hmm::policy::Refusal;
use hmm::walk::FaultError;
use proptest::prelude::*;
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use super::*;
use crate::key::Key;
use crate::resolve::{Memory, Resolver};

const USER: PageRange = PageRange::new(PageIndex::new(0), PageIndex::new(1 << 20));
const IOVA: u64 = 0x7000;
/// The key's first page.
const FIRST: u64 = 16;
const PAGES: u64 = 8;

fn key() -> Key {
    let (va, len) = (FIRST * PAGE_SIZE, PAGES * PAGE_SIZE);
    Key::new(va, len, IOVA, USER).unwrap()
}

/// Memory of which some pages cannot be had. A page is its number.
struct Pages {
    absent: Vec<u64>,
}

impl Memory for Pages {
    type Page<'p> = u64;

    fn bring_in(
        &self,
        pages: PageRange,
        _access: Access,
        use_page: impl FnOnce(u64),
    ) -> Result<(), FaultError> {
        let page = pages.start().get();
        if self.absent.contains(&page) {
            return Err(FaultError::Refused(Refusal::NoPage));
        }
        use_page(page);
        Ok(())
    }
}

/// Waits in its own call.
struct Inline<'a>(&'a mut Vec<Result<u64, AccessError>>);

impl Waiter for Inline<'_> {
    type Page<'p> = u64;

    fn resume(self, outcome: Result<u64, AccessError>) {
        self.0.push(outcome);
    }
}

/// How many pages from `iova` on can be used, and why the next one cannot.
fn inline(resolver: &Resolver<Pages>, iova: u64, len: u64) -> (u64, Result<(), AccessError>) {
    let mut done = 0;
    while done < len {
        let mut outcomes = Vec::new();
        let wanted = wanted(iova + done, len - done);
        resolver.resolve(PendingFault::new(wanted, Inline(&mut outcomes)));
        assert_eq!(outcomes.len(), 1, "resumed once");
        match outcomes[0] {
            Ok(page) => assert_eq!(page, FIRST + (iova + done - IOVA) / PAGE_SIZE),
            Err(error) => return (done / PAGE_SIZE, Err(error)),
        }
        done += PAGE_SIZE;
    }
    (done / PAGE_SIZE, Ok(()))
}

fn wanted(iova: u64, len: u64) -> Wanted {
    Wanted {
        iova,
        len,
        access: Access::Write,
    }
}

/// A request of the [`QueueNic`].
#[derive(Clone, Debug, Default)]
struct Request {
    iova: u64,
    len: u64,
    done: u64,
    ended: Vec<Result<(), AccessError>>,
}

/// The NIC's own state.
#[derive(Default)]
struct Nic {
    requests: Vec<Request>,
    /// The pages that it has translations for.
    table: Vec<u64>,
    /// Faults that were raised, and how often each was resumed.
    resumed: Vec<u32>,
}

/// A NIC whose faults arrive by a queue.
struct QueueNic {
    nic: Mutex<Nic>,
    /// The queue; `None` when it has been torn down.
    events: Mutex<Option<VecDeque<PendingFault<Ticket>>>>,
    arrived: Condvar,
    /// Faults in the queue are forgotten when it is torn down.
    forgetful: bool,
}

/// What a fault of the [`QueueNic`] carries: whom to resume.
struct Ticket {
    nic: Arc<QueueNic>,
    request: usize,
    fault: usize,
}

impl Waiter for Ticket {
    type Page<'p> = u64;

    fn resume(self, outcome: Result<u64, AccessError>) {
        {
            let nic = &mut *self.nic.nic.lock().unwrap();
            nic.resumed[self.fault] += 1;
            match outcome {
                Ok(page) => nic.table.push(page),
                Err(error) => nic.requests[self.request].ended.push(Err(error)),
            }
        }
        if outcome.is_ok() {
            QueueNic::run(&self.nic, self.request);
        }
    }
}

impl QueueNic {
    fn new(requests: &[(u64, u64)], forgetful: bool) -> Arc<Self> {
        let requests = requests.iter().map(|&(iova, len)| Request {
            iova,
            len,
            ..Default::default()
        });
        Arc::new(Self {
            nic: Mutex::new(Nic {
                requests: requests.collect(),
                ..Nic::default()
            }),
            events: Mutex::new(Some(VecDeque::new())),
            arrived: Condvar::new(),
            forgetful,
        })
    }

    /// Goes on with a request until it ends or a page is missing.
    fn run(this: &Arc<Self>, request: usize) {
        let fault = {
            let nic = &mut *this.nic.lock().unwrap();
            let Nic {
                requests,
                table,
                resumed,
            } = nic;
            let state = &mut requests[request];
            loop {
                if state.done >= state.len {
                    state.ended.push(Ok(()));
                    return;
                }
                let at = state.iova + state.done;
                let page = FIRST.wrapping_add((at.wrapping_sub(IOVA)) / PAGE_SIZE);
                if !table.contains(&page) {
                    resumed.push(0);
                    let ticket = Ticket {
                        nic: this.clone(),
                        request,
                        fault: resumed.len() - 1,
                    };
                    break PendingFault::new(wanted(at, state.len - state.done), ticket);
                }
                state.done += PAGE_SIZE;
            }
        };
        // Raised outside of the NIC's lock: if the queue is gone, this drops it.
        let mut events = this.events.lock().unwrap();
        match &mut *events {
            Some(queue) => {
                queue.push_back(fault);
                this.arrived.notify_one();
            }
            None => {
                drop(events);
                drop(fault);
            }
        }
    }

    /// A worker: resolves until the queue is torn down.
    fn work(&self, resolver: &Resolver<Pages>) {
        loop {
            let fault = {
                let mut events = self.events.lock().unwrap();
                loop {
                    match &mut *events {
                        None => return,
                        Some(queue) => match queue.pop_front() {
                            Some(fault) => break fault,
                            None => events = self.arrived.wait(events).unwrap(),
                        },
                    }
                }
            };
            resolver.resolve(fault);
        }
    }

    /// The CPU takes pages away.
    fn invalidate(&self) {
        self.nic.lock().unwrap().table.clear();
    }

    /// Tears the queue down with what is in it.
    fn tear_down(&self) {
        let queue = self.events.lock().unwrap().take();
        self.arrived.notify_all();
        match self.forgetful {
            true => core::mem::forget(queue),
            false => drop(queue),
        }
    }

    fn all_ended(&self) -> bool {
        let nic = self.nic.lock().unwrap();
        nic.requests.iter().all(|request| !request.ended.is_empty())
    }
}

/// Runs requests on a NIC with a queue, with two workers and pages that go; tears the queue down when all
/// have ended, or, if `early`, at any time. Returns how the requests ended.
fn run_queue(requests: &[(u64, u64)], early: bool, forgetful: bool) -> Vec<Request> {
    let resolver = Arc::new(Resolver::new(
        key(),
        Pages {
            absent: Vec::from([ABSENT]),
        },
    ));
    let nic = QueueNic::new(requests, forgetful);
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (nic, resolver) = (nic.clone(), resolver.clone());
            thread::spawn(move || nic.work(&resolver))
        })
        .collect();
    let cpu = {
        let nic = nic.clone();
        thread::spawn(move || (0..2).for_each(|_| nic.invalidate()))
    };
    for request in 0..requests.len() {
        QueueNic::run(&nic, request);
    }
    while !early && !nic.all_ended() {
        thread::yield_now();
    }
    nic.tear_down();
    for worker in workers {
        worker.join().unwrap();
    }
    cpu.join().unwrap();
    let state = nic.nic.lock().unwrap();
    assert!(
        state.resumed.iter().all(|&times| times == 1),
        "a fault was not resumed exactly once"
    );
    for request in &state.requests {
        assert_eq!(request.ended.len(), 1, "a request ends exactly once");
    }
    state.requests.clone()
}

/// Cannot be had.
const ABSENT: u64 = FIRST + 5;

/// Good, over the absent page, out of range, good.
const REQUESTS: [(u64, u64); 4] = [
    (IOVA, 2 * PAGE_SIZE),
    (IOVA + 4 * PAGE_SIZE, 2 * PAGE_SIZE),
    (IOVA + 7 * PAGE_SIZE, 2 * PAGE_SIZE),
    (IOVA + PAGE_SIZE, PAGE_SIZE),
];

fn explore(early: bool, forgetful: bool) {
    shuttle::check_random(
        move || {
            let ended = run_queue(&REQUESTS, early, forgetful);
            let refused = AccessError::Fault(FaultError::Refused(Refusal::NoPage));
            let expected = [Ok(()), Err(refused), Err(AccessError::OutOfRange), Ok(())];
            for (request, expected) in ended.iter().zip(expected) {
                let abandoned = early && request.ended[0] == Err(AccessError::Abandoned);
                assert!(request.ended[0] == expected || abandoned, "{request:?}");
            }
        },
        500,
    );
}

#[test]
fn every_fault_of_a_queue_is_resumed_once_and_an_error_fails_that_request_alone() {
    explore(false, false);
}

#[test]
fn a_queue_that_is_torn_down_fails_what_waits_and_hangs_nothing() {
    explore(true, false);
}

#[test]
fn the_exploration_would_notice_a_fault_that_is_forgotten() {
    let result = catch_unwind(AssertUnwindSafe(|| explore(true, true)));
    assert!(result.is_err(), "forgotten faults went unnoticed");
}

#[test]
fn a_fault_that_nobody_looks_at_fails() {
    let mut outcomes = Vec::new();
    drop(PendingFault::new(wanted(IOVA, 1), Inline(&mut outcomes)));
    assert_eq!(outcomes, [Err(AccessError::Abandoned)]);
}

/// Memory that does not do what it says: no page and no error.
struct Silent;

impl Memory for Silent {
    type Page<'p> = u64;

    fn bring_in(
        &self,
        _pages: PageRange,
        _access: Access,
        _use_page: impl FnOnce(u64),
    ) -> Result<(), FaultError> {
        Ok(())
    }
}

#[test]
fn even_memory_that_forgets_the_page_resumes_the_nic() {
    let mut outcomes = Vec::new();
    let fault = PendingFault::new(wanted(IOVA, 1), Inline(&mut outcomes));
    Resolver::new(key(), Silent).resolve(fault);
    assert_eq!(outcomes, [Err(AccessError::Abandoned)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Both NICs come to the same end with the same requests.
    #[test]
    fn a_queue_and_a_call_end_alike(
        requests in prop::collection::vec((0..PAGES + 2, 0..4u64), 1..5),
    ) {
        let requests: Vec<_> = requests
            .into_iter()
            .map(|(page, pages)| (IOVA + page * PAGE_SIZE, pages * PAGE_SIZE))
            .collect();
        let resolver = Resolver::new(key(), Pages { absent: Vec::from([ABSENT]) });
        let expected: Vec<_> = requests
            .iter()
            .map(|&(iova, len)| inline(&resolver, iova, len))
            .collect();
        shuttle::check_random(
            move || {
                let ended = run_queue(&requests, false, false);
                for (request, expected) in ended.iter().zip(&expected) {
                    assert_eq!(request.ended[0], expected.1);
                    // A fault that reaches out of the region fails at once; how far a request comes before its
                    // first fault depends on what the others have brought in.
                    if expected.1 != Err(AccessError::OutOfRange) {
                        assert_eq!(request.done / PAGE_SIZE, expected.0);
                    }
                }
            },
            3,
        );
    }
}
