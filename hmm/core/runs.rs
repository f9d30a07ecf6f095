// SPDX-License-Identifier: GPL-2.0

//! The result of a walk as runs.

use core::borrow::BorrowMut;
use core::iter::FusedIterator;

use crate::collect::{Collect, Full, Taken};
use crate::pfn::Pfn;
use crate::run::Run;

/// The most runs that one walk collects, unless the caller has room for more: 16 of 32 bytes, on the kernel's stack.
pub const MAX_RUNS: usize = 16;

/// Runs in ascending order. `S` is their storage: on the stack, or any that the caller has.
#[derive(Clone, Debug)]
pub struct Runs<S = [Run; MAX_RUNS]> {
    room: S,
    len: usize,
}

impl Runs {
    /// No runs, and room for [`MAX_RUNS`].
    pub const fn new() -> Self {
        Self {
            room: [Run::NONE; MAX_RUNS],
            len: 0,
        }
    }
}

impl<S: BorrowMut<[Run]>> Runs<S> {
    /// No runs, with `room` as storage; its contents are overwritten.
    pub const fn in_room(room: S) -> Self {
        Self { room, len: 0 }
    }

    /// Appends `run`, or lengthens the last run where it continues that one.
    ///
    /// # Errors
    ///
    /// [`Full`].
    #[inline]
    pub fn push(&mut self, run: Run) -> Result<(), Full> {
        let room = self.room.borrow_mut();
        if let Some(last) = self.len.checked_sub(1).and_then(|last| room.get_mut(last)) {
            if last.continued_by(&run) {
                last.pages += run.pages;
                return Ok(());
            }
        }
        self.append(run)
    }

    /// Appends `run`, which does not continue the last one.
    #[inline]
    fn append(&mut self, run: Run) -> Result<(), Full> {
        *self.room.borrow_mut().get_mut(self.len).ok_or(Full)? = run;
        self.len += 1;
        Ok(())
    }

    /// The last run.
    pub fn last(&self) -> Option<&Run> {
        self.as_slice().last()
    }

    /// The runs.
    #[inline]
    pub fn as_slice(&self) -> &[Run] {
        self.room.borrow().get(..self.len).unwrap_or_default()
    }
}

impl<S: BorrowMut<[Run]>> Collect for Runs<S> {
    #[inline]
    fn mapped(&mut self, run: Run) -> Result<(), Full> {
        self.push(run)
    }

    #[inline]
    fn entries(&mut self, first: Run, following: impl FusedIterator<Item = Pfn>) -> Taken {
        let mut run = first;
        // Entries in runs that have been put away, and those in `run`.
        let (mut taken, mut entries) = (0, 1);
        for pfn in following {
            if run.pfn.add(run.pages) == pfn {
                run.pages += 1 << run.order;
                entries += 1;
                continue;
            }
            // Only the first of them can continue the last run.
            let put = match taken {
                0 => self.push(run),
                _ => self.append(run),
            };
            if put.is_err() {
                return Taken { taken, full: true };
            }
            taken += entries;
            (run, entries) = (run.next_entry(pfn), 1);
        }
        match self.push(run) {
            Ok(()) => Taken {
                taken: taken + entries,
                full: false,
            },
            Err(Full) => Taken { taken, full: true },
        }
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new()
    }
}
