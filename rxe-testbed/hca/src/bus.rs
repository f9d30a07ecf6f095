// SPDX-License-Identifier: GPL-2.0
//! What every part of the device uses: memory whose refusals are reported, the time, the trace.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Clock;
use crate::memory::{GuestMemory, Refused};
use crate::trace::{Rule, Trace, Violation};

/// The device's way to the guest, and to whoever watches.
pub(crate) struct Bus {
    memory: GuestMemory,
    clock: Arc<dyn Clock>,
    trace: Trace,
}

impl Bus {
    pub(crate) fn new(memory: GuestMemory, clock: Arc<dyn Clock>, trace: Trace) -> Self {
        Self {
            memory,
            clock,
            trace,
        }
    }

    /// Reads memory for `who`.
    pub(crate) fn read(&self, who: &str, address: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let result = self.memory.read(address, bytes);
        self.watched(who, result)
    }

    /// Reads a big-endian word.
    pub(crate) fn read_be32(&self, who: &str, address: u64) -> Result<u32, Refused> {
        let result = self.memory.read_be32(address);
        self.watched(who, result)
    }

    /// Writes memory for `who`.
    pub(crate) fn write(&self, who: &str, address: u64, bytes: &[u8]) -> Result<(), Refused> {
        let result = self.memory.write(address, bytes);
        self.watched(who, result)
    }

    /// Writes an entry whose last word gives it to the driver.
    pub(crate) fn publish(&self, who: &str, address: u64, bytes: &[u8]) -> Result<(), Refused> {
        let result = self.memory.publish(address, bytes);
        self.watched(who, result)
    }

    /// The time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Tells whoever watches.
    pub(crate) fn event(&self, what: &str, fields: impl FnOnce() -> Value) {
        self.trace.event(self.now(), what, fields);
    }

    /// Says that something is wrong.
    pub(crate) fn violation(&self, rule: Rule, what: String) {
        self.trace.violation(self.now(), rule, what);
    }

    /// What was wrong so far.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.trace.violations()
    }

    fn watched<T>(&self, who: &str, result: Result<T, Refused>) -> Result<T, Refused> {
        if let Err(refused) = &result {
            self.violation(Rule::Memory, format!("{who}: {refused}"));
        }
        result
    }
}
