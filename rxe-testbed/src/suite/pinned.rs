// SPDX-License-Identifier: GPL-2.0
//! What runs on the emulated ConnectX with pinned memory: programs of others, rdma-core's tests, ours.
//!
//! A test of rdma-core's that is skipped and not listed here fails, and so does one that is listed and not skipped: the
//! list of what the device has not is true.

use std::collections::BTreeSet;

use super::pyverbs::Results;
use super::Status;

/// The one that runs rdma-core's tests and says how each of them ended.
pub(super) const PYVERBS: &str = "hca/pinned/pyverbs";

/// The one that runs ours, and says which fail.
pub(super) const ODP_TEST: &str = "hca/pinned/odp-test-pinned";

/// The tests, in this order: their names, their scripts, and their time limits.
pub(super) const TESTS: &[(&str, &str, u64)] = &[
    ("hca/pinned/probe", "mlx5 load", 180),
    (
        "hca/pinned/pingpong/rc",
        "pair ibv_rc_pingpong -d mlx5_0 -c -n 200",
        60,
    ),
    (
        "hca/pinned/pingpong/uc",
        "pair ibv_uc_pingpong -d mlx5_0 -c -n 200",
        60,
    ),
    (
        "hca/pinned/pingpong/ud",
        "pair ibv_ud_pingpong -d mlx5_0 -c -s 1024 -n 200",
        60,
    ),
    (
        "hca/pinned/pingpong/srq",
        "pair ibv_srq_pingpong -d mlx5_0 -c -n 100",
        60,
    ),
    (
        "hca/pinned/pingpong/xsrq",
        "pair ibv_xsrq_pingpong -d mlx5_0 -n 100",
        60,
    ),
    (
        "hca/pinned/perftest/write-bw",
        "pair ib_write_bw -d mlx5_0 -s 65536 -n 100 -F",
        60,
    ),
    (
        "hca/pinned/perftest/write-lat",
        "pair ib_write_lat -d mlx5_0 -s 4096 -n 100 -F",
        60,
    ),
    (
        "hca/pinned/perftest/read-bw",
        "pair ib_read_bw -d mlx5_0 -s 65536 -n 100 -F",
        60,
    ),
    (
        "hca/pinned/perftest/send-bw",
        "pair ib_send_bw -d mlx5_0 -s 65536 -n 100 -F",
        60,
    ),
    (
        "hca/pinned/perftest/send-ud-lat",
        "pair ib_send_lat -d mlx5_0 -c UD -s 2048 -n 100 -F",
        60,
    ),
    (
        "hca/pinned/perftest/atomic-bw",
        "pair ib_atomic_bw -d mlx5_0 -n 100 -F",
        60,
    ),
    (
        PYVERBS,
        "mlx5 pyverbs test_qp test_qpex test_cq test_cqex test_cq_events test_mr test_srq test_atomic \
         test_fork test_addr test_pd",
        300,
    ),
    (
        ODP_TEST,
        "odp-test --pinned --device mlx5_0 | grep -v '^passed\\|: not a test of pinned memory$'",
        300,
    ),
];

/// The beginnings of the tests' names, and what the device has not.
const ABSENT: &[(&str, &str)] = &[
    (
        "test_qp/QPTest.test_create_raw_qp_no_attr",
        "raw packets, which are those of Ethernet",
    ),
    ("test_qp/QPTest.test_create_raw_qp_with_attr", "raw packets"),
    (
        "test_qp/QPTest.test_create_raw_qp_ex_no_attr",
        "raw packets",
    ),
    (
        "test_qp/QPTest.test_create_raw_qp_ex_with_attr",
        "raw packets",
    ),
    ("test_qp/QPTest.test_query_raw_qp", "raw packets"),
    (
        "test_qp/QPTest.test_raw_qp_rate_limit_modify",
        "raw packets",
    ),
    ("test_addr/AHTest.test_create_ah_roce", "Ethernet"),
    (
        "test_srq/SrqTestCase.test_resize_srq",
        "larger shared receive queues: no mlx5 makes them larger",
    ),
    (
        "test_qpex/QpExTestCase.test_qp_ex_rc_atomic_write",
        "atomic writes: no mlx5 announces them",
    ),
    (
        "test_qpex/QpExTestCase.test_qp_ex_rc_flush",
        "flushes: no mlx5 announces them",
    ),
    ("test_mr/DeviceMemory", "memory of its own"),
    ("test_mr/DmaBuf", "a graphics processor beside it"),
];

/// Tests of ours that fail on it, and why: most of them expect what soft-RoCE refuses, and mlx5 does not.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "kind-file-shared.explicit",
        "the kernel pins no shared pages of such a file",
    ),
    (
        "window-invalidate-refused.explicit",
        "libmlx5 asks whose an unbound window is",
    ),
    (
        "window-bind-refused.explicit",
        "a key does not say whether it may have windows",
    ),
    ("window-flush.explicit", "no mlx5 announces flushes"),
    (
        "window-deregister.explicit",
        "mlx5_ib does not count windows",
    ),
    (
        "rereg-refused.explicit",
        "mlx5_ib does not look for huge pages then",
    ),
    ("rereg-window.explicit", "mlx5_ib does not count windows"),
    (
        "rereg-window-race.explicit",
        "mlx5_ib does not count windows",
    ),
    (
        "short-receive-unreliable.explicit",
        "its receive ends with LOC_LEN_ERR, where soft-RoCE keeps it for the next message",
    ),
];

/// Whether just those tests of ours failed that are different on it; an error says what is otherwise.
pub(super) fn judge_ours(said: &str) -> Result<(), String> {
    let failed = |line: &str| {
        let (name, _) = line.strip_prefix("FAILED")?.trim().split_once(':')?;
        Some(name.to_owned())
    };
    let failed: BTreeSet<String> = said.lines().filter_map(failed).collect();
    let known: BTreeSet<String> = DIFFERENT.iter().map(|(name, _)| (*name).into()).collect();
    let sum = format!(" passed, {} failed, ", failed.len());
    if !said.lines().any(|line| line.contains(&sum)) {
        return Err(format!("odp-test did not come to its end:\n{said}"));
    }
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        let names: Vec<&str> = these.difference(those).map(String::as_str).collect();
        names.join(", ")
    };
    match failed == known {
        true => Ok(()),
        false => Err(format!(
            "fail, but are not listed: {}; listed, but do not fail: {}\n{said}",
            only(&failed, &known),
            only(&known, &failed)
        )),
    }
}

/// Whether all tests ended as they have to; an error says which did not.
pub(super) fn judge(results: &Results) -> Result<(), String> {
    if results.is_empty() {
        return Err("no test was run".into());
    }
    let wrong: Vec<String> = results
        .iter()
        .filter_map(|(name, (status, detail))| {
            let absent = ABSENT.iter().find(|(start, _)| name.starts_with(start));
            match (status, absent) {
                (Status::Pass, None) | (Status::Skip, Some(_)) => None,
                (Status::Pass, Some((_, what))) => Some(format!("{name} passes, without {what}")),
                (Status::Skip, None) => Some(format!("{name} is skipped: {detail}")),
                (Status::Fail, _) => Some(format!("{name} FAILS: {detail}")),
            }
        })
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_different_fails() {
        let mut said: String = DIFFERENT
            .iter()
            .map(|(name, why)| format!("FAILED   {name}: {why}\n"))
            .collect();
        assert!(judge_ours(&said).is_err());
        let sum = |failed: usize| format!("57 passed, {failed} failed, 328 skipped\n");
        assert!(judge_ours(&(said.clone() + &sum(DIFFERENT.len()))).is_ok());
        assert!(judge_ours(&sum(0)).is_err());
        said += "FAILED   other.explicit: x\n";
        assert!(judge_ours(&(said + &sum(DIFFERENT.len() + 1))).is_err());
    }

    #[test]
    fn only_what_is_absent_is_skipped() {
        let judged = |name: &str, status| {
            let one = (name.to_owned(), (status, String::new()));
            judge(&[one].into_iter().collect()).is_ok()
        };
        let absent = ABSENT[0].0;
        assert!(
            judged("test_x/T.test_y", Status::Pass) && !judged("test_x/T.test_y", Status::Skip)
        );
        assert!(judged(absent, Status::Skip) && !judged(absent, Status::Pass));
        assert!(!judged(absent, Status::Fail));
        assert!(judge(&Results::new()).is_err());
    }
}
