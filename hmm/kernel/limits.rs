// SPDX-License-Identifier: GPL-2.0

//! What a mirror may cost.

use crate::geometry::Geometry;
use crate::shim;

/// The geometry of a mirror and the memory that its translations may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    memory: usize,
    geometry: Geometry,
}

impl Limits {
    /// The translations of one mirror may take `memory` bytes, at least [`Geometry::least_memory`]. Above the
    /// limit the least recently used chunks are removed; an access under way may exceed it until it ends.
    pub fn new(memory: usize) -> Self {
        Self {
            memory,
            geometry: Geometry::default(),
        }
    }

    /// The same limit with another `geometry`.
    pub fn with_geometry(self, geometry: Geometry) -> Self {
        Self { geometry, ..self }
    }

    /// The limit in bytes.
    #[inline]
    pub fn memory(&self) -> usize {
        self.memory.max(self.geometry.least_memory())
    }

    /// The reaper is scheduled from here on, in bytes.
    #[inline]
    pub(crate) fn soon(&self) -> usize {
        self.memory() / 8 * 7
    }

    /// Where the reaper stops, in bytes.
    pub(crate) fn low(&self) -> usize {
        self.memory() / 4 * 3
    }

    /// How the mirror is cut.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }
}

impl Default for Limits {
    /// A 128th of the machine's memory: four times what translations for each of its pages take.
    fn default() -> Self {
        // SAFETY: Reads a number.
        Self::new(unsafe { shim::hmm_shim_ram() } as usize / 128)
    }
}
