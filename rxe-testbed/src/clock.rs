// SPDX-License-Identifier: GPL-2.0
//! Time as a child process has it: what it waited for a processor, because the host had other things to do, does not
//! count. A limit in this time tells a child that hangs from one that is not let.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

/// A clock that stands while the child waits for a processor.
pub(crate) struct Clock {
    started: Instant,
    process: u32,
    latest: Cell<Duration>,
    asked: Cell<Asked>,
}

/// When `slowness` was found last, what the clock showed then, and the answer.
#[derive(Clone, Copy)]
struct Asked {
    at: Duration,
    showed: Duration,
    answer: u32,
}

impl Clock {
    /// One that begins now.
    pub(crate) fn of(process: u32) -> Self {
        Self {
            started: Instant::now(),
            process,
            latest: Cell::default(),
            asked: Cell::new(Asked {
                at: Duration::ZERO,
                showed: Duration::ZERO,
                answer: 1,
            }),
        }
    }

    /// The time since it began. It never goes back.
    pub(crate) fn now(&self) -> Duration {
        let waited = waited(&Path::new("/proc").join(self.process.to_string()));
        let now = self.started.elapsed().saturating_sub(waited);
        self.latest.set(self.latest.get().max(now));
        self.latest.get()
    }

    /// How many times longer than on a host that does nothing else things take, as far as the child's life so far tells,
    /// or the time since this was asked last.
    pub(crate) fn slowness(&self) -> u32 {
        let (now, shows) = (self.started.elapsed(), self.now());
        let mut known = self.asked.get();
        if now.saturating_sub(known.at) >= TELLING {
            let since = slowness(now - known.at, shows.saturating_sub(known.showed));
            known = Asked {
                at: now,
                showed: shows,
                answer: since.max(slowness(now, shows)),
            };
            self.asked.set(known);
        }
        known.answer
    }

    /// The time since it showed `then`.
    pub(crate) fn since(&self, then: Duration) -> Duration {
        self.now().saturating_sub(then)
    }
}

/// Less time than this tells nothing about the host.
const TELLING: Duration = Duration::from_secs(3);

/// A child that is slower than this hangs, whatever the host does.
const SLOWEST: f64 = 20.0;

/// How many times longer something took than it should have: `passed` and not `own`. A little is nothing.
fn slowness(passed: Duration, own: Duration) -> u32 {
    let times = passed.as_secs_f64() / own.as_secs_f64().max(0.001);
    (times - 0.25).ceil().clamp(1.0, SLOWEST) as u32
}

/// How long that one of a process's threads that waited longest for a processor did so. None is known to have waited
/// where the kernel does not count.
fn waited(process: &Path) -> Duration {
    let threads = std::fs::read_dir(process.join("task"));
    let threads = threads.into_iter().flatten().flatten();
    let waited = threads.filter_map(|thread| {
        let counted = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        waiting(&counted)
    });
    waited.max().unwrap_or_default()
}

/// The second number of `schedstat`: nanoseconds that a thread was ready and did not run.
fn waiting(schedstat: &str) -> Option<Duration> {
    let number = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_host_is_told_from_an_idle_one() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(slowness(seconds(10.0), seconds(10.0)), 1);
        assert_eq!(slowness(seconds(10.0), seconds(8.5)), 1);
        assert_eq!(slowness(seconds(10.0), seconds(5.0)), 2);
        assert_eq!(slowness(seconds(10.0), seconds(3.0)), 4);
        assert_eq!(slowness(seconds(1000.0), Duration::ZERO), 20);
    }
    use anyhow::Result;

    #[test]
    fn what_the_busiest_thread_waited_does_not_count() -> Result<()> {
        let dir = tempfile::tempdir()?;
        for (thread, text) in [
            ("1", "5000000000 2000000000 7\n"),
            ("2", "1 7000000000 7\n"),
            ("3", ""),
        ] {
            let task = dir.path().join("task").join(thread);
            std::fs::create_dir_all(&task)?;
            std::fs::write(task.join("schedstat"), text)?;
        }
        assert_eq!(waited(dir.path()), Duration::from_secs(7));
        assert_eq!(waited(&dir.path().join("gone")), Duration::ZERO);
        Ok(())
    }

    #[test]
    fn it_goes_on_and_never_back() {
        let clock = Clock::of(std::process::id());
        let first = clock.now();
        // This thread runs until the clock has seen it.
        while clock.since(first) < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(clock.now() > first);
        clock.latest.set(Duration::from_secs(1 << 40));
        assert_eq!(clock.now(), Duration::from_secs(1 << 40));
    }
}
