// SPDX-License-Identifier: GPL-2.0
//! Time, as far as the device knows it.

use std::time::{Duration, Instant};

/// What tells the time since the device was made.
pub trait Clock: Send + Sync {
    /// The time now; never less than before.
    fn now(&self) -> Duration;
}

/// The host's time.
#[derive(Debug)]
pub struct Real(Instant);

impl Real {
    /// A clock that starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Real {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that goes on by a microsecond each time it is read: two runs with the same input have the same times.
#[derive(Debug, Default)]
pub struct Stepping(std::sync::atomic::AtomicU64);

impl Clock for Stepping {
    fn now(&self) -> Duration {
        let ticks = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Duration::from_micros(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_do_not_go_back() {
        let clocks: [&dyn Clock; 2] = [&Real::start(), &Stepping::default()];
        for clock in clocks {
            let first = clock.now();
            assert!(first <= clock.now());
        }
    }
}
