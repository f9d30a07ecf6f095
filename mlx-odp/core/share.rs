// SPDX-License-Identifier: GPL-2.0

//! A user's share of the workers: a limited number of the user's jobs run at once. The others wait for these, and for
//! no other user's.

/// The jobs of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    running: u32,
    waiting: u32,
}

/// What happens to a new job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It runs.
    Now,
    /// It runs once other jobs of the same user have ended.
    Later,
    /// There are too many: it is dropped.
    Never,
}

impl Share {
    /// Adds a job. At most `running` jobs of the user may run and `waiting` may wait.
    pub fn arrive(&mut self, running: u32, waiting: u32) -> Turn {
        if self.running < running {
            self.running += 1;
            Turn::Now
        } else if self.waiting < waiting {
            self.waiting += 1;
            Turn::Later
        } else {
            Turn::Never
        }
    }

    /// A running job has ended. Returns whether a waiting one runs in its place.
    #[must_use]
    pub fn end(&mut self) -> bool {
        match self.waiting {
            0 => {
                self.running -= 1;
                false
            }
            _ => {
                self.waiting -= 1;
                true
            }
        }
    }

    /// A waiting job was given up.
    pub fn leave(&mut self) {
        self.waiting -= 1;
    }

    /// Whether the user has no jobs.
    pub fn idle(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn so_many_run_and_so_many_wait() {
        let mut share = Share::default();
        assert_eq!(share.arrive(1, 2), Turn::Now);
        assert_eq!(share.arrive(1, 2), Turn::Later);
        assert_eq!(share.arrive(1, 2), Turn::Later);
        assert_eq!(share.arrive(1, 2), Turn::Never);
        assert!(share.end());
        assert!(share.end());
        assert!(!share.end());
        assert!(share.idle());
    }

    proptest! {
        /// Compares with a plain count: no limit is exceeded, and no job waits while another may run.
        #[test]
        fn each_job_runs_once(
            running in 1..4u32,
            waiting in 0..4u32,
            steps in prop::collection::vec(0..3, 0..60),
        ) {
            let mut share = Share::default();
            let (mut run, mut wait) = (0u32, 0u32);
            for step in steps {
                match step {
                    0 => match share.arrive(running, waiting) {
                        Turn::Now => run += 1,
                        Turn::Later => wait += 1,
                        Turn::Never => prop_assert_eq!((run, wait), (running, waiting)),
                    },
                    1 if run > 0 => match share.end() {
                        true => wait -= 1,
                        false => run -= 1,
                    },
                    2 if wait > 0 => {
                        share.leave();
                        wait -= 1;
                    }
                    _ => {}
                }
                prop_assert!(run <= running && wait <= waiting);
                prop_assert!(wait == 0 || run == running, "one waits and could run");
                prop_assert_eq!(share.idle(), run + wait == 0);
            }
        }
    }
}
