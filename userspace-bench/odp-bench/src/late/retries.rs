// SPDX-License-Identifier: GPL-2.0
//! How often requests were sent again, by the counters that devices have for it.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::setting::Bench;

/// A NAK that asked the requester to come back later: mlx5's name, and rxe's. Each is a request that is sent again.
const REFUSED: [&str; 2] = ["port.rnr_nak_retry_err", "port.rcvd_rnr_err"];

/// The requester got no answer in time, and sent again.
const TIMED_OUT: [&str; 1] = ["port.local_ack_timeout_err"];

/// The responder got a request that it had got before.
const DUPLICATE: [&str; 1] = ["port.duplicate_request"];

/// What the kernel tells of a device's counters may be so old: 10 ms, counted in whole ticks of a clock of 100 Hz at
/// least, and a tick more.
pub(super) const OLD: Duration = Duration::from_millis(25);

/// How often between two readings of the counters, if there are any for it.
fn between(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Option<f64> {
    let more = |names: &[&str]| -> Option<u64> {
        let of = |name: &&str| Some(after.get(*name)?.saturating_sub(*before.get(*name)?));
        names.iter().filter_map(of).reduce(|a, b| a + b)
    };
    let (refused, timed_out, duplicate) = (more(&REFUSED), more(&TIMED_OUT), more(&DUPLICATE));
    // What was sent again after a timeout is a duplicate, too, unless the first one was lost.
    let again = timed_out.max(duplicate);
    match (refused, again) {
        (None, None) => None,
        (refused, again) => Some((refused.unwrap_or(0) + again.unwrap_or(0)) as f64),
    }
}

/// The counters as they were last.
pub(super) struct Retries<'a> {
    bench: &'a Bench,
    last: BTreeMap<String, u64>,
}

impl<'a> Retries<'a> {
    pub(super) fn new(bench: &'a Bench) -> Self {
        Self {
            bench,
            last: bench.meters_in_sysfs(),
        }
    }

    /// How often since it was asked last.
    pub(super) fn more(&mut self) -> Option<f64> {
        // Also where there are none: what follows is measured after the same pause on every device.
        thread::sleep(OLD);
        let now = self.bench.meters_in_sysfs();
        let more = between(&self.last, &now);
        self.last = now;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repetition_counts_once() {
        let of = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
            let named = counts.iter().map(|(name, n)| (format!("port.{name}"), *n));
            named.collect()
        };
        let rxe = |rnr, again| of(&[("rcvd_rnr_err", rnr), ("duplicate_request", again)]);
        assert_eq!(between(&rxe(1, 2), &rxe(4, 2)), Some(3.0));
        let mlx5 = |rnr, late, again| {
            of(&[
                ("rnr_nak_retry_err", rnr),
                ("local_ack_timeout_err", late),
                ("duplicate_request", again),
            ])
        };
        // Three that timed out, of which two had arrived.
        assert_eq!(between(&mlx5(0, 0, 0), &mlx5(1, 3, 2)), Some(4.0));
        assert_eq!(between(&mlx5(0, 0, 0), &mlx5(0, 1, 7)), Some(7.0));
        assert_eq!(between(&of(&[]), &of(&[("port_xmit_data", 5)])), None);
    }
}
