// SPDX-License-Identifier: GPL-2.0

//! A software NIC with workers that resolve its faults, run under many schedules: pages come and go, the
//! region is deregistered, the process exits.
//!
//! Under every schedule each request ends exactly once, and a request fails only if its page cannot be had or
//! its region is gone. No teardown waits for a page. One page never comes: a worker waits for it until it is
//! killed.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::vec::Vec;

use hmm::{Access, FaultError, PageIndex, PageRange, Perm, Permitted, Refusal};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use super::*;
use crate::resolve::{bring_first, bring_rest, Memory};

const REFUSED: AccessError = AccessError::Fault(FaultError::Refused(Refusal::NoPage));
const KILLED: AccessError = AccessError::Fault(FaultError::Interrupted);

/// A page that cannot be had.
const ABSENT: u64 = 5;
/// A page that never comes.
const NEVER: u64 = 6;

fn wanted(pages: core::ops::Range<u64>) -> Wanted {
    Wanted {
        pages: PageRange::new(PageIndex::new(pages.start), PageIndex::new(pages.end)),
        permitted: Perm::ReadWrite.permit(Access::Write).unwrap(),
    }
}

/// The process's memory: the present pages, and whether the waiting worker was killed.
#[derive(Default)]
struct Process {
    pages: Mutex<(Vec<u64>, bool)>,
    killed: Condvar,
}

impl Memory for Process {
    fn bring_in(&self, pages: PageRange, _permitted: Permitted) -> Result<(), FaultError> {
        for page in pages.start().get()..pages.end().get() {
            let mut there = self.pages.lock().unwrap();
            while page == NEVER && !there.1 {
                there = self.killed.wait(there).unwrap();
            }
            match page {
                ABSENT => return Err(FaultError::Refused(Refusal::NoPage)),
                NEVER => return Err(FaultError::Interrupted),
                page => there.0.push(page),
            }
        }
        Ok(())
    }
}

impl Process {
    fn kill(&self) {
        self.pages.lock().unwrap().1 = true;
        self.killed.notify_all();
    }

    /// Unmaps all pages.
    fn unmap(&self) {
        self.pages.lock().unwrap().0.clear();
    }

    fn has(&self, page: u64) -> bool {
        self.pages.lock().unwrap().0.contains(&page)
    }
}

/// A waiting request.
#[derive(Clone)]
struct Place(Arc<Nic>, usize);

impl Waiter for Place {
    fn resume(self, outcome: Result<(), AccessError>) {
        let Self(nic, request) = self;
        nic.requests.lock().unwrap()[request].resumed.push(outcome);
        nic.resumed.notify_all();
    }
}

type Ticket = Arc<Mutex<UnderWay<Place>>>;

#[derive(Default)]
struct Request {
    pages: Vec<u64>,
    ticket: Option<(u64, Ticket)>,
    resumed: Vec<Result<(), AccessError>>,
    ended: Vec<Result<(), AccessError>>,
}

/// The right driver, or a broken twin of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twin {
    Right,
    /// Deregistration forgets the faults of the region.
    Forgetful,
    /// Deregistration waits for the faults of the region.
    Patient,
}

struct Nic {
    requests: Mutex<Vec<Request>>,
    resumed: Condvar,
    /// The faults in progress, and the threads that resolve them.
    faults: Mutex<Vec<Ticket>>,
    workers: Mutex<Vec<thread::JoinHandle<()>>>,
    registered: Mutex<bool>,
    process: Process,
    twin: Twin,
}

impl Nic {
    fn new(requests: &[&[u64]], twin: Twin) -> Arc<Self> {
        let requests = requests.iter().map(|pages| Request {
            pages: pages.to_vec(),
            ..Request::default()
        });
        Arc::new(Self {
            requests: Mutex::new(requests.collect()),
            resumed: Condvar::new(),
            faults: Mutex::default(),
            workers: Mutex::default(),
            registered: Mutex::new(true),
            process: Process::default(),
            twin,
        })
    }

    /// Raises a fault for `page`, and starts a worker that resolves it.
    fn raise(self: &Arc<Self>, request: usize, page: u64) -> Ticket {
        let wanted = wanted(page..page + 1);
        let raised = Raised::new(wanted, Place(self.clone(), request));
        let ticket = Arc::new(Mutex::new(UnderWay::new(raised.park())));
        self.faults.lock().unwrap().push(ticket.clone());
        let (nic, fault) = (self.clone(), ticket.clone());
        let worker = thread::spawn(move || {
            let outcome = bring_first(&nic.process, wanted);
            // Under the lock, as in the kernel.
            let mut fault = fault.lock().unwrap();
            if let Some(resolved) = fault.resolve(outcome) {
                resolved.resume();
            }
        });
        self.workers.lock().unwrap().push(worker);
        ticket
    }

    /// Repeats the access of a request: it goes on, ends, or waits for a page.
    fn run(self: &Arc<Self>, number: usize) {
        let registered = self.registered.lock().unwrap();
        let requests = &mut *self.requests.lock().unwrap();
        let request = &mut requests[number];
        if !request.ended.is_empty() {
            return;
        }
        while let Some(&page) = request.pages.first() {
            if !*registered {
                request.ended.push(Err(AccessError::OutOfRange));
                return;
            }
            if self.process.has(page) {
                request.pages.remove(0);
                continue;
            }
            if let Some((waits_for, ticket)) = &request.ticket {
                let outcome = ticket.lock().unwrap().outcome();
                match outcome {
                    None if *waits_for == page => return,
                    Some(Err(error)) if *waits_for == page => {
                        request.ended.push(Err(error));
                        return;
                    }
                    _ => {}
                }
            }
            request.ticket = Some((page, self.raise(number, page)));
            return;
        }
        request.ended.push(Ok(()));
    }

    /// The NIC: repeats the access of each resumed request, until all have ended.
    fn work(self: &Arc<Self>, count: usize) {
        (0..count).for_each(|number| self.run(number));
        loop {
            let number = {
                let mut requests = self.requests.lock().unwrap();
                loop {
                    if requests.iter().all(|request| !request.ended.is_empty()) {
                        return;
                    }
                    let resumed = requests.iter().position(|r| !r.resumed.is_empty());
                    match resumed {
                        Some(number) => {
                            assert_eq!(requests[number].resumed.len(), 1, "resumed twice");
                            requests[number].resumed.clear();
                            break number;
                        }
                        None => requests = self.resumed.wait(requests).unwrap(),
                    }
                }
            };
            self.run(number);
        }
    }

    /// Deregisters the region: resumes what waits for its pages. Waits for no page.
    fn deregister(&self) {
        *self.registered.lock().unwrap() = false;
        let faults = core::mem::take(&mut *self.faults.lock().unwrap());
        for fault in &faults {
            match self.twin {
                Twin::Right => {
                    let mut fault = fault.lock().unwrap();
                    if let Some(resolved) = fault.resolve(Err(AccessError::Abandoned)) {
                        resolved.resume();
                    }
                }
                Twin::Forgetful => core::mem::forget(fault.lock().unwrap().withdraw()),
                Twin::Patient => {
                    for worker in core::mem::take(&mut *self.workers.lock().unwrap()) {
                        worker.join().unwrap();
                    }
                }
            }
        }
    }

    /// The process exits: its requests are gone and are not resumed any more.
    fn exit(&self) {
        let tickets: Vec<_> = {
            let mut requests = self.requests.lock().unwrap();
            let tickets = requests.iter_mut().filter_map(|request| {
                if request.ended.is_empty() {
                    request.ended.push(Err(AccessError::Abandoned));
                }
                request.ticket.take()
            });
            tickets.collect()
        };
        for (_, ticket) in tickets {
            drop(ticket.lock().unwrap().withdraw());
        }
        self.resumed.notify_all();
    }
}

/// Good, over the page that cannot be had, over the one that never comes, good.
const REQUESTS: [&[u64]; 4] = [&[1, 2], &[3, ABSENT], &[NEVER], &[2]];

fn explore(twin: Twin) {
    shuttle::check_random(
        move || {
            let nic = Nic::new(&REQUESTS, twin);
            let works = {
                let nic = nic.clone();
                thread::spawn(move || nic.work(REQUESTS.len()))
            };
            let cpu = {
                let nic = nic.clone();
                thread::spawn(move || nic.process.unmap())
            };
            nic.deregister();
            works.join().unwrap();
            cpu.join().unwrap();
            nic.exit();
            // Only now: the teardown has not waited for the page.
            nic.process.kill();
            for worker in core::mem::take(&mut *nic.workers.lock().unwrap()) {
                worker.join().unwrap();
            }
            let requests = nic.requests.lock().unwrap();
            for (request, number) in requests.iter().zip(0..) {
                assert_eq!(request.ended.len(), 1, "a request ends exactly once");
                let allowed: &[_] = match number {
                    1 => &[
                        Err(REFUSED),
                        Err(AccessError::OutOfRange),
                        Err(AccessError::Abandoned),
                    ],
                    2 => &[Err(AccessError::OutOfRange), Err(AccessError::Abandoned)],
                    _ => &[
                        Ok(()),
                        Err(AccessError::OutOfRange),
                        Err(AccessError::Abandoned),
                    ],
                };
                assert!(
                    allowed.contains(&request.ended[0]),
                    "{number}: {:?}",
                    request.ended
                );
            }
        },
        500,
    );
}

#[test]
fn each_request_ends_once_and_nobody_waits_for_a_page_that_never_comes() {
    explore(Twin::Right);
}

#[test]
fn the_exploration_notices_a_fault_that_is_forgotten() {
    let result = catch_unwind(AssertUnwindSafe(|| explore(Twin::Forgetful)));
    assert!(result.is_err(), "a forgotten fault went unnoticed");
}

#[test]
fn the_exploration_notices_a_deregistration_that_waits_for_faults() {
    let result = catch_unwind(AssertUnwindSafe(|| explore(Twin::Patient)));
    assert!(
        result.is_err(),
        "a deregistration that waits went unnoticed"
    );
}

#[test]
fn who_exits_is_never_resumed_and_waits_for_nobody() {
    shuttle::check_random(
        || {
            let nic = Nic::new(&[&[NEVER], &[1]], Twin::Right);
            let works = {
                let nic = nic.clone();
                thread::spawn(move || nic.work(2))
            };
            nic.exit();
            works.join().unwrap();
            nic.process.kill();
            for worker in core::mem::take(&mut *nic.workers.lock().unwrap()) {
                worker.join().unwrap();
            }
            for request in nic.requests.lock().unwrap().iter() {
                assert_eq!(request.ended.len(), 1);
                assert_ne!(request.ended[0], Err(KILLED));
            }
        },
        500,
    );
}

/// Records the outcome that it is resumed with.
struct Outcomes<'a>(&'a std::cell::RefCell<Vec<Result<(), AccessError>>>);

impl Waiter for Outcomes<'_> {
    fn resume(self, outcome: Result<(), AccessError>) {
        self.0.borrow_mut().push(outcome);
    }
}

#[test]
fn a_fault_that_is_dropped_at_any_stage_resumes_its_request_with_an_error() {
    let said = Default::default();
    let raised = || Raised::new(wanted(0..1), Outcomes(&said));
    drop(raised());
    drop(raised().park());
    drop(raised().park().resolve(Ok(())));
    drop(UnderWay::new(raised().park()));
    assert_eq!(said.take(), [Err(AccessError::Abandoned); 4]);
    raised().park().resolve(Ok(())).resume();
    assert_eq!(said.take(), [Ok(())]);
    assert!(raised().park().withdraw().is_some());
    assert_eq!(said.take(), []);
}

#[test]
fn of_resolving_and_withdrawing_the_first_counts() {
    let said = Default::default();
    let mut fault = UnderWay::new(Raised::new(wanted(0..1), Outcomes(&said)).park());
    assert_eq!(fault.outcome(), None);
    assert!(fault.resolve(Err(REFUSED)).is_some_and(|resolved| {
        resolved.resume();
        true
    }));
    assert_eq!(fault.outcome(), Some(Err(REFUSED)));
    assert!(fault.resolve(Ok(())).is_none());
    assert!(fault.withdraw().is_none());
    assert_eq!(said.take(), [Err(REFUSED)]);

    let mut fault = UnderWay::new(Raised::new(wanted(0..1), Outcomes(&said)).park());
    assert!(fault.withdraw().is_some());
    assert!(fault.resolve(Ok(())).is_none());
    assert_eq!(fault.outcome(), None);
    assert_eq!(said.take(), []);
}

/// Records the pages that are asked for.
struct Asked(std::cell::RefCell<Vec<(u64, u64)>>);

impl Memory for Asked {
    fn bring_in(&self, pages: PageRange, _permitted: Permitted) -> Result<(), FaultError> {
        let mut asked = self.0.borrow_mut();
        asked.push((pages.start().get(), pages.end().get()));
        match asked.len() {
            1 => Ok(()),
            _ => Err(FaultError::Exited),
        }
    }
}

#[test]
fn the_first_page_is_waited_for_and_the_others_are_as_may_be() {
    let memory = Asked(Default::default());
    assert_eq!(bring_first(&memory, wanted(3..7)), Ok(()));
    bring_rest(&memory, wanted(3..7));
    bring_rest(&memory, wanted(3..4));
    assert_eq!(memory.0.take(), [(3, 4), (4, 7)]);
}
