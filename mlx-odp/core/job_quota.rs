// SPDX-License-Identifier: GPL-2.0

//! Limits how many jobs of a user run at once. The others wait in a queue for these, and for no other user's.

/// How many jobs of one user run and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobQuota {
    running: u32,
    waiting: u32,
}

/// Whether a new job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It runs.
    Run,
    /// It waits until other jobs of the same user have ended.
    Wait,
    /// Too many wait already: it is refused.
    Refuse,
}

impl JobQuota {
    /// Adds a job. At most `running` jobs of the user may run and `waiting` may wait.
    pub fn admit(&mut self, running: u32, waiting: u32) -> Admission {
        if self.running < running {
            self.running += 1;
            Admission::Run
        } else if self.waiting < waiting {
            self.waiting += 1;
            Admission::Wait
        } else {
            Admission::Refuse
        }
    }

    /// A running job has ended. Returns whether a waiting one runs in its place.
    #[must_use]
    pub fn finished(&mut self) -> bool {
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

    /// A waiting job was withdrawn.
    pub fn withdrawn(&mut self) {
        self.waiting -= 1;
    }

    /// Whether the user has no jobs.
    pub fn is_idle(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn so_many_run_and_so_many_wait() {
        let mut quota = JobQuota::default();
        assert_eq!(quota.admit(1, 2), Admission::Run);
        assert_eq!(quota.admit(1, 2), Admission::Wait);
        assert_eq!(quota.admit(1, 2), Admission::Wait);
        assert_eq!(quota.admit(1, 2), Admission::Refuse);
        assert!(quota.finished());
        assert!(quota.finished());
        assert!(!quota.finished());
        assert!(quota.is_idle());
    }

    proptest! {
        /// Compares with a plain count: no limit is exceeded, and no job waits while another may run.
        #[test]
        fn each_job_runs_once(
            running in 1..4u32,
            waiting in 0..4u32,
            steps in prop::collection::vec(0..3, 0..60),
        ) {
            let mut quota = JobQuota::default();
            let (mut run, mut wait) = (0u32, 0u32);
            for step in steps {
                match step {
                    0 => match quota.admit(running, waiting) {
                        Admission::Run => run += 1,
                        Admission::Wait => wait += 1,
                        Admission::Refuse => prop_assert_eq!((run, wait), (running, waiting)),
                    },
                    1 if run > 0 => match quota.finished() {
                        true => wait -= 1,
                        false => run -= 1,
                    },
                    2 if wait > 0 => {
                        quota.withdrawn();
                        wait -= 1;
                    }
                    _ => {}
                }
                prop_assert!(run <= running && wait <= waiting);
                prop_assert!(wait == 0 || run == running, "one waits and could run");
                prop_assert_eq!(quota.is_idle(), run + wait == 0);
            }
        }
    }
}
