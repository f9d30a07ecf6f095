// SPDX-License-Identifier: GPL-2.0

//! How many faults of a mirror are under way at once: those beyond wait for their turn.
//!
//! A fault may wait for a disk or for a userfaultfd's handler, and keeps a thread busy meanwhile: one of
//! the NIC's workers. With a limit, the faults of one mirror leave some of them to others.

use core::num::NonZeroU32;

use kernel::prelude::*;
use kernel::sync::{new_condvar, new_mutex, CondVar, Mutex};

use crate::range::killed;
use crate::walk::FaultError;

/// So many turns.
#[pin_data]
pub(crate) struct Turns {
    /// Those that nobody has. Held for the moment in which one is taken or given back.
    #[pin]
    left: Mutex<u32>,
    #[pin]
    given_back: CondVar,
}

impl Turns {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(turns: NonZeroU32) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                left <- new_mutex!(turns.get(), "hmm::turns::left"),
                given_back <- new_condvar!("hmm::turns::given_back"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Waits for a turn. Sleeps; the caller holds no lock and no chunk, as whoever has a turn may need
    /// them.
    ///
    /// # Errors
    ///
    /// [`FaultError::Interrupted`] if the calling thread has been killed.
    pub(crate) fn take(&self) -> Result<Turn<'_>, FaultError> {
        let mut left = self.left.lock();
        while *left == 0 {
            // A worker gets no signals, and one that sleeps like this does not count as hung, however long
            // others take.
            if !self.given_back.wait_interruptible(&mut left) {
                continue;
            }
            if killed() {
                // The turn may have been for this one: somebody else can have it.
                self.given_back.notify_one();
                return Err(FaultError::Interrupted);
            }
            // Another signal, which would end every such sleep at once.
            if *left == 0 {
                self.given_back.wait(&mut left);
            }
        }
        *left -= 1;
        Ok(Turn(self))
    }
}

/// A turn, given back when dropped.
pub(crate) struct Turn<'t>(&'t Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.left.lock() += 1;
        self.0.given_back.notify_one();
    }
}
