// SPDX-License-Identifier: GPL-2.0
//! How long is waited for what ought to come.
//!
//! Limits are written down for an ordinary kernel. One that is full of checks takes several times as long,
//! so whoever boots it says in `$TESTBED_PATIENCE` how many times; every wait with a limit asks here.

use std::{sync::OnceLock, time::Duration};

/// The variable. The testbed's VM has it from the kernel's command line.
const VARIABLE: &str = "TESTBED_PATIENCE";

/// How many times longer than on an ordinary kernel things may take on this one.
pub fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| parse(std::env::var(VARIABLE).ok().as_deref()))
}

/// The limit on this kernel for what may take `limit` on an ordinary one.
pub fn scaled(limit: Duration) -> Duration {
    limit * factor()
}

/// What makes no sense changes nothing.
fn parse(value: Option<&str>) -> u32 {
    let number = value.and_then(|text| text.parse().ok());
    number.unwrap_or(1).clamp(1, 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_never_shortens_a_limit() {
        assert_eq!(parse(None), 1);
        assert_eq!(parse(Some("6")), 6);
        for odd in ["", "0", "-3", "many", "0.5"] {
            assert_eq!(parse(Some(odd)), 1, "{odd}");
        }
        assert_eq!(parse(Some("4000000000")), 100);
    }
}
