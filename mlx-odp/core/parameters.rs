// SPDX-License-Identifier: GPL-2.0

//! The parameters of the module: their limits, and the message for a value beyond them.

use core::fmt;

use hmm::{Geometry, PAGE_SHIFT};

/// The most that [`Parameters::fault_around`] may be: the pages of a PMD.
const MOST_AROUND: u32 = 512;
/// The most faults of one user at once. The kernel runs at most 2048 work items of a queue.
const MOST_FAULTS: u32 = 512;
/// The most background prefetches of one user that run at once, and the most that wait for these.
pub const MOST_PREFETCHES: u32 = 32;
/// The most memory for the translations of a region, in MiB: 1 TiB.
const MOST_MEMORY: u32 = 1 << 20;

/// The parameters, as given or by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// How many resident pages after the faulting one a fault may map, when the NIC accesses memory in
    /// order. 0: none.
    pub fault_around: u32,
    /// The size of a chunk, in MiB of addresses.
    pub chunk_size: u32,
    /// How many page faults of one user may sleep at once.
    pub fault_workers: u32,
    /// How many background prefetches of one user may run at once.
    pub prefetch_workers: u32,
    /// The most kernel memory for the translations of one region, in MiB. 0: a 128th of the machine's
    /// memory.
    pub region_memory: u32,
}

impl Parameters {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        fault_around: MOST_AROUND,
        chunk_size: 128,
        fault_workers: 32,
        prefetch_workers: 4,
        region_memory: 0,
    };

    /// Checks that each is within its limits.
    ///
    /// # Errors
    ///
    /// The first parameter out of range.
    pub fn check(&self) -> Result<(), Bad> {
        let bad = |name, value, allowed| {
            Err(Bad {
                name,
                value,
                allowed,
            })
        };
        if self.fault_around > MOST_AROUND {
            return bad("fault_around", self.fault_around, "0 to 512 (pages)");
        }
        let Some(geometry) = self.geometry() else {
            let allowed = "a power of two from 2 to 1024 (MiB)";
            return bad("chunk_size", self.chunk_size, allowed);
        };
        if !(1..=MOST_FAULTS).contains(&self.fault_workers) {
            return bad("fault_workers", self.fault_workers, "1 to 512");
        }
        if !(1..=MOST_PREFETCHES).contains(&self.prefetch_workers) {
            return bad("prefetch_workers", self.prefetch_workers, "1 to 32");
        }
        let least = geometry.least_memory();
        if self.region_memory > MOST_MEMORY || self.region_memory().is_some_and(|m| m < least) {
            let allowed = "1 to 1048576 (MiB) and at least a 128th of chunk_size, \
                           or 0 for a 128th of the machine's memory";
            return bad("region_memory", self.region_memory, allowed);
        }
        Ok(())
    }

    /// The geometry of a region's mirror; `None` if these parameters allow none.
    pub fn geometry(&self) -> Option<Geometry> {
        let chunk_pages = (u64::from(self.chunk_size) << 20) >> PAGE_SHIFT;
        Geometry::new(chunk_pages, self.fault_around.into())
    }

    /// The most kernel memory for the translations of a region, in bytes; `None` if not given.
    pub fn region_memory(&self) -> Option<usize> {
        let bytes = usize::try_from(u64::from(self.region_memory) << 20).ok()?;
        (bytes > 0).then_some(bytes)
    }

    /// Each name and value.
    pub fn entries(&self) -> [(&'static str, u32); 5] {
        [
            ("fault_around", self.fault_around),
            ("chunk_size", self.chunk_size),
            ("fault_workers", self.fault_workers),
            ("prefetch_workers", self.prefetch_workers),
            ("region_memory", self.region_memory),
        ]
    }
}

/// A parameter beyond its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    name: &'static str,
    value: u32,
    allowed: &'static str,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            allowed,
        } = self;
        write!(f, "{name}={value} is not possible: it has to be {allowed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// The defaults, except for one.
    fn with(name: &str, value: u32) -> Parameters {
        let mut parameters = Parameters::DEFAULT;
        let parameter = match name {
            "fault_around" => &mut parameters.fault_around,
            "chunk_size" => &mut parameters.chunk_size,
            "fault_workers" => &mut parameters.fault_workers,
            "prefetch_workers" => &mut parameters.prefetch_workers,
            "region_memory" => &mut parameters.region_memory,
            _ => panic!("no parameter is called {name}"),
        };
        *parameter = value;
        parameters
    }

    #[test]
    fn the_defaults_and_the_limits_are_possible() {
        assert_eq!(Parameters::DEFAULT.check(), Ok(()));
        for (name, values) in [
            ("fault_around", [0, 512]),
            ("chunk_size", [2, 1024]),
            ("fault_workers", [1, 512]),
            ("prefetch_workers", [1, 32]),
            ("region_memory", [1, 1 << 20]),
        ] {
            for value in values {
                assert_eq!(with(name, value).check(), Ok(()), "{name}={value}");
            }
        }
    }

    #[test]
    fn each_is_among_the_entries() {
        for (name, default) in Parameters::DEFAULT.entries() {
            let entries = with(name, 77).entries();
            let value = entries.iter().find(|entry| entry.0 == name);
            assert_eq!(value, Some(&(name, 77)));
            assert_ne!(default, 77);
        }
    }

    #[test]
    fn whatever_is_possible_is_a_geometry_of_its_own() {
        assert_eq!(Parameters::DEFAULT.geometry(), Some(Geometry::default()));
        assert_eq!(Parameters::DEFAULT.region_memory(), None);
        assert_eq!(with("region_memory", 3).region_memory(), Some(3 << 20));
        for order in 1..=10 {
            let parameters = Parameters {
                fault_around: order,
                ..with("chunk_size", 1 << order)
            };
            assert_eq!(parameters.check(), Ok(()));
            let geometry = Geometry::new(256 << order, order.into());
            assert_eq!(parameters.geometry(), geometry);
        }
    }

    #[test]
    fn what_makes_no_sense_is_said_by_name() {
        for (name, values) in [
            ("fault_around", [513, u32::MAX].as_slice()),
            ("chunk_size", &[0, 1, 96, 2048, u32::MAX]),
            ("fault_workers", &[0, 513, u32::MAX]),
            ("prefetch_workers", &[0, 33, u32::MAX]),
            ("region_memory", &[(1 << 20) + 1, u32::MAX]),
        ] {
            for &value in values {
                let bad = with(name, value).check().unwrap_err().to_string();
                let start = std::format!("{name}={value} is not possible: it has to be ");
                assert!(bad.starts_with(&start), "{bad}");
            }
        }
    }

    #[test]
    fn a_region_has_memory_for_some_chunks() {
        for (memory, possible) in [(7, false), (8, true), (0, true)] {
            let parameters = Parameters {
                region_memory: memory,
                ..with("chunk_size", 1024)
            };
            assert_eq!(parameters.check().is_ok(), possible, "{memory}");
        }
    }
}
