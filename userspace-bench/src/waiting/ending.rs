// SPDX-License-Identifier: GPL-2.0
//! What may be taken down while a page is waited for.

use std::{thread, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{kind::Kind, scene::Scene};

/// Something that ends while a page is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Ending {
    /// The queue pair that was asked for the operation is destroyed.
    DestroyFirst,
    /// Its peer is.
    DestroySecond,
    /// The address handle that is sent with is.
    DestroyAddressHandle,
    /// Both queue pairs are, and their completion queues.
    DestroyQueues,
    /// The first queue pair is put into the error state.
    FailFirst,
    /// Its peer is.
    FailSecond,
    /// The first queue pair is reset.
    ResetFirst,
    /// Its peer is.
    ResetSecond,
    /// The memory that is waited for is deregistered.
    Deregister,
    /// The memory window is deallocated that it is waited for through.
    DeallocateWindow,
    /// Nothing: a second passes.
    Nothing,
    /// The process exits as it is.
    Exit,
    /// It is killed.
    Kill,
}

use Ending::*;

impl Ending {
    /// All but the one that changes nothing.
    pub fn all() -> impl Iterator<Item = Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|ending| *ending != Nothing)
    }

    /// Whether there is something to end in a scene of `kind`.
    pub fn concerns(self, kind: Kind) -> bool {
        match self {
            Deregister | Exit | Kill | Nothing => true,
            DestroyAddressHandle => kind == Kind::DatagramSource,
            DeallocateWindow => kind == Kind::Window,
            _ => kind.has_queue_pairs(),
        }
    }

    /// Whether the process goes with it.
    pub fn ends_process(self) -> bool {
        matches!(self, Exit | Kill)
    }

    /// Whether in a scene of `kind` nothing touches the file's memory any more once this has ended.
    pub fn keeps_from_memory(self, kind: Kind) -> bool {
        match self {
            DestroyFirst | FailFirst | ResetFirst => kind.is_near_side(),
            DestroySecond | FailSecond | ResetSecond => !kind.is_near_side(),
            DestroyAddressHandle | Nothing => false,
            DestroyQueues | Deregister | DeallocateWindow | Exit | Kill => true,
        }
    }

    /// Ends it in `scene`; not the process.
    pub fn end(self, scene: &mut Scene) -> Result<()> {
        match self {
            DestroyFirst => drop(scene.first.take()),
            DestroySecond => drop(scene.second.take()),
            DestroyQueues => drop((scene.first.take(), scene.second.take())),
            Deregister => scene.deregister()?,
            DeallocateWindow => scene.deallocate_window()?,
            Nothing => thread::sleep(Duration::from_secs(1)),
            _ => {}
        }
        let (first, second) = (scene.first.as_mut(), scene.second.as_mut());
        match (self, first, second) {
            (DestroyAddressHandle, Some(qp), _) => qp.destroy_address_handle(),
            (FailFirst, Some(qp), _) | (FailSecond, _, Some(qp)) => qp.fail()?,
            (ResetFirst, Some(qp), _) | (ResetSecond, _, Some(qp)) => qp.reset()?,
            _ => {}
        }
        Ok(())
    }
}
