// SPDX-License-Identifier: GPL-2.0

//! The RNR NAK timer: how long a requester waits before it sends a request again for which the responder was not ready.
//!
//! The timer is a code of five bits (InfiniBand specification, volume 1, table 45): 1 is 10 µs, each code after it about
//! 1.4 times the one before, 31 is 491.52 ms, and 0 is the longest, 655.36 ms.

/// The number of codes. Code 0 is the longest time, so `code - 1`, modulo this, is in the order of the times.
const CODES: u8 = 32;

/// The code for the next RNR NAK after `tries` others for the same page, on a queue pair whose `min_rnr_timer` is
/// the code `min`.
///
/// Each try gets the next longer time. So thousands of queue pairs do not keep asking for a slow page, and a page
/// that has arrived is noticed after at most about half of the time already waited.
pub fn timer(min: u8, tries: u32) -> u8 {
    let rank = u32::from(min.wrapping_sub(1) % CODES);
    let longest = u32::from(CODES) - 1;
    let rank = rank.saturating_add(tries).min(longest) as u8;
    (rank + 1) % CODES
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The table of the specification, in units of 10 µs, by code.
    const TIMES: [u32; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];

    fn time(code: u8) -> u32 {
        TIMES[usize::from(code)]
    }

    #[test]
    fn the_first_try_is_what_was_configured() {
        for min in 0..32 {
            assert_eq!(timer(min, 0), min);
        }
    }

    #[test]
    fn each_try_takes_longer_up_to_the_longest() {
        for min in 0..32 {
            let times: Vec<u32> = (0..40).map(|tries| time(timer(min, tries))).collect();
            for pair in times.windows(2) {
                assert!(
                    pair[1] > pair[0] || pair == [65536, 65536],
                    "{min}: {pair:?}"
                );
                assert!(pair[1] <= 2 * pair[0], "{min}: {pair:?}");
            }
            assert_eq!(*times.last().unwrap(), 65536);
        }
        assert_eq!(timer(1, u32::MAX), 0);
    }

    #[test]
    fn what_is_no_code_is_taken_for_one() {
        for min in 32..=255 {
            assert!(timer(min, 3) < 32);
        }
    }
}
