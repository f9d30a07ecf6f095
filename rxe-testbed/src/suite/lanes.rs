// SPDX-License-Identifier: GPL-2.0
//! Parts of a run beside each other, each with VMs of its own.
//!
//! On the debug kernel most tests keep one processor busy and wait for it, so a part for each processor ends
//! much sooner. On the stock kernel there is one part with VMs after the other: the programs poll for completions on one
//! processor while the driver works on another, so two of them beside each other end no sooner. What needs no VM runs
//! beside them: it uses the processors while tests wait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use anyhow::Result;

use super::report::Report;
use crate::host;
use crate::kernel::Variant;

/// Each part has a VM or two of 2 GiB at a time.
const MOST: usize = 4;

/// One part of a run: tells its results to the report that it is given.
pub(crate) type Part<'a> = Box<dyn FnOnce(&mut Report) -> Result<()> + Send + 'a>;

/// How many parts with VMs are run at once.
pub(crate) fn width(kernel: Variant) -> usize {
    match kernel {
        Variant::Stock => 1,
        Variant::Debug => host::processors().min(MOST),
    }
}

/// Runs the parts, `width` at once, begun in their order, and `beside` them what needs no VM. `report` has the results of
/// that first, and then theirs in this order. After an error no further part is begun; the first one's is given.
pub(crate) fn run(
    beside: Option<Part<'_>>,
    parts: Vec<Part<'_>>,
    width: usize,
    report: &mut Report,
) -> Result<()> {
    let mut first = Report::default();
    let mut rest = Report::default();
    let (without, with) = std::thread::scope(|scope| {
        let without = beside.map(|part| scope.spawn(|| part(&mut first)));
        let with = in_lanes(parts, width, &mut rest);
        (without.map(|part| part.join()), with)
    });
    report.append(first);
    report.append(rest);
    match without {
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        Some(Ok(result)) => result.and(with),
        None => with,
    }
}

fn in_lanes(parts: Vec<Part<'_>>, width: usize, report: &mut Report) -> Result<()> {
    let waiting = Mutex::new(parts.into_iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    let lane = || loop {
        // The lock is not held while the part runs.
        let next = lock(&waiting).next();
        let Some((number, part)) = next else { return };
        let mut own = Report::default();
        let result = part(&mut own);
        if result.is_err() {
            lock(&waiting).by_ref().for_each(drop);
        }
        lock(&done).insert(number, (own, result));
    };
    // A child process is killed with the thread that started it: a part leaves none behind.
    std::thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(lane);
        }
    });
    for (own, result) in std::mem::take(&mut *lock(&done)).into_values() {
        report.append(own);
        result?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::super::{Record, Status};
    use super::*;
    use std::sync::Barrier;

    fn record(name: &str) -> Record {
        Record {
            name: name.into(),
            status: Status::Pass,
            time: None,
            detail: String::new(),
        }
    }

    /// A part that ends only beside another one.
    fn meeting<'a>(both: &'a Barrier, name: &'static str) -> Part<'a> {
        Box::new(move |report| {
            both.wait();
            report.add(record(name));
            Ok(())
        })
    }

    #[test]
    fn parts_run_beside_each_other_and_are_told_in_order() -> Result<()> {
        let both = Barrier::new(2);
        let parts = ["a", "b", "c", "d"].map(|name| meeting(&both, name)).into();
        let mut report = Report::default();
        run(None, parts, 2, &mut report)?;
        assert_eq!(report.names(), ["a", "b", "c", "d"]);
        Ok(())
    }

    #[test]
    fn what_needs_no_vm_runs_beside_the_others() -> Result<()> {
        let both = Barrier::new(2);
        let mut report = Report::default();
        let [lint, vm] = ["lint", "vm"].map(|name| meeting(&both, name));
        run(Some(lint), vec![vm], 1, &mut report)?;
        assert_eq!(report.names(), ["lint", "vm"]);
        Ok(())
    }

    #[test]
    fn after_an_error_nothing_is_begun() {
        let parts: Vec<Part<'_>> = vec![
            Box::new(|_| anyhow::bail!("no room")),
            Box::new(|report| {
                report.add(record("b"));
                Ok(())
            }),
        ];
        let mut report = Report::default();
        let error = run(None, parts, 1, &mut report).unwrap_err();
        assert_eq!(error.to_string(), "no room");
        assert!(report.names().is_empty());
    }
}
