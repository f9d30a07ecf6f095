// SPDX-License-Identifier: GPL-2.0
//! What may stand in the kernel log though it looks like a complaint, each with its reason.
//!
//! A line has to be as the pattern is, from its beginning to its end; `%` stands for a number, `*` for anything. Where
//! a line may only be there during some tests, the beginnings of their names are listed.

/// Lines that are allowed for one reason.
struct Allowed {
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for people"))]
    why: &'static str,
    /// Patterns of lines.
    lines: &'static [&'static str],
    /// Where they are allowed: in the tests with names of these beginnings, or anywhere.
    during: Option<&'static [&'static str]>,
}

const fn anywhere_as(why: &'static str, lines: &'static [&'static str]) -> Allowed {
    Allowed {
        why,
        lines,
        during: None,
    }
}

/// Tests in which the emulated ConnectX does what devices seldom do; those in which it falls ill, and in which it fails
/// to change a key.
const ADVERSARY: &[&str] = &[
    "hca/ours/adversary-",
    "hca/ours-memory/adversary-",
    "hca/direct/adversary-",
    "hca/memory/adversary-",
];
const ILL: &[&str] = &[
    "hca/ours/adversary-ill",
    "hca/ours-memory/adversary-ill",
    "hca/direct/adversary-ill",
];

const UPDATE: &[&str] = &[
    "hca/ours/adversary-failed-update",
    "hca/direct/adversary-failed-update",
];

const LIST: &[Allowed] = &[
    anywhere_as(
        "the guest runs nothing foreign, so mitigations are off on purpose",
        &["RETBleed: WARNING: *", "Spectre V2 : WARNING: *", "MDS: WARNING: *"],
    ),
    anywhere_as(
        "a remark about the emulated processor's power settings",
        &["*ENERGY_PERF_BIAS*"],
    ),
    anywhere_as(
        "the one line that a module of ours prints when it is loaded",
        &[
            "hmm: heterogeneous memory management in Rust",
            "mlx_odp: on-demand paging for RDMA in Rust",
            "hmm_dmirror: two test devices for HMM in Rust",
        ],
    ),
    anywhere_as(
        "rxe's C code says that it comes, goes and has a device",
        &[
            "rdma_rxe: loaded",
            "rdma_rxe: unloaded",
            "infiniband rxe%: set active",
            "infiniband rxe%: added roce%",
        ],
    ),
    anywhere_as(
        "the loader says this of any module that is not the distribution's",
        &[
            "*: loading out-of-tree module taints kernel.",
            "*: module verification failed: signature and/or required key missing - tainting kernel",
        ],
    ),
    Allowed {
        why: "why a module is not loaded with parameters that make no sense: the kernel's words, and ours",
        lines: &[
            "mlx_odp: `*' invalid for parameter `*'",
            "mlx_odp: * is not possible: it has to be *",
        ],
        during: Some(&["vm/modules/parameters"]),
    },
    anywhere_as(
        "the network device that a soft-RoCE device sits on, dummy or virtio, has no speed, and ib_core asks for it",
        &["roce% speed is unknown, defaulting to 1000"],
    ),
    anywhere_as(
        "a program whose request fails is told so, and rxe's C code logs it, too",
        &[
            "rxe%: qp#% make_send_cqe: non-flush error status = %",
            "rxe%: qp#% do_complete: non-flush error status = %",
            "make_send_cqe: % callbacks suppressed",
            "do_complete: % callbacks suppressed",
        ],
    ),
    anywhere_as(
        "a program that is refused something is told so, and rxe's C code logs it, too",
        &[
            "rxe%: rxe_create_cq: returned err = -%",
            "rxe%: rxe_create_qp: returned err = -%",
            "rxe%: pd#% rxe_reg_user_mr: returned err = -%",
            "rxe%: pd#% rxe_reg_user_mr: access = 0x* not supported (0x*)",
            "rxe%: mr#% rxe_rereg_user_mr:  access = 0x* not supported",
            "rxe%: mr#% rxe_dereg_mr:  returned err = -%",
            "rxe_reg_user_mr: % callbacks suppressed",
            "rxe_rereg_user_mr: % callbacks suppressed",
            "rxe_dereg_mr: % callbacks suppressed",
        ],
    ),
    Allowed {
        why: "the test wants a completion queue smaller than what waits in it, and mlx5_core logs the device's answer",
        lines: &[
            "mlx5_core *: mlx5_cmd_out_err:%:(pid %): MODIFY_CQ(0x403) op_mod(0x1) failed, \
             status bad size too many outstanding CQEs(0x40), syndrome (0x403), err(-22)",
        ],
        during: Some(&["hca/pinned/pyverbs"]),
    },
    Allowed {
        why: "the device refuses these commands on purpose, and the drivers log its answers",
        lines: &[
            "mlx5_core *: mlx5_cmd_out_err:%:(pid %): PAGE_FAULT_RESUME(0x204) op_mod(0x0) failed, *",
            "mlx5_core *: mlx5_cmd_out_err:%:(pid %): CREATE_MKEY(0x200) op_mod(0x0) failed, \
             status no resources(0xf), syndrome (0x200), err(-11)",
            "infiniband mlx5_%: mlx5_ib_page_fault_resume:%:(pid %): Failed to resolve the page fault on WQ 0x* err -%",
        ],
        during: Some(ADVERSARY),
    },
    Allowed {
        why: "the device fails a change of a key on purpose, of which mlx5_ib's code warns once; what needs it fails",
        lines: &[
            "infiniband mlx5_%: dump_cqe:%:(pid %): WC error: 6, Message: memory bind operation error",
            "cqe_dump: 000000%: *",
            "WARNING: *drivers/infiniband/hw/mlx5/umr.c:% at mlx5r_umr_post_send_wait+*",
            "infiniband mlx5_%: mlx5r_umr_post_send_wait:%:(pid %): reg umr failed (%). Trying to recover and \
             resubmit the flushed WQEs, mkey = %",
        ],
        during: Some(UPDATE),
    },
    Allowed {
        why: "the device says that its firmware has ended by an error, on purpose",
        lines: &[
            "mlx5_core *: poll_health:%:(pid %): Fatal error % detected",
            "mlx5_core *: print_health_info:%:(pid %): *",
            "mlx5_core *: mlx5_health_try_recover:%:(pid %): handling bad device here",
            "mlx5_core *: mlx5_health_try_recover:%:(pid %): starting health recovery flow",
            "mlx5_core *: mlx5_handle_bad_state:%:(pid %): starting teardown",
            "mlx5_core *: mlx5_error_sw_reset:%:(pid %): start",
            "mlx5_core *: mlx5_error_sw_reset:%:(pid %): end",
            "mlx5_core *: mlx5_wait_for_pages:%:(pid %): Skipping wait for vf pages stage",
            "infiniband mlx5_%: mlx5_query_mad_ifc_port:%:(pid %): err -67",
        ],
        during: Some(ILL),
    },
    Allowed {
        why: "threads of the test change one queue pair, and most come when it is in another state",
        lines: &[
            "rxe%: qp#% rxe_modify_qp: returned err = -%",
            "rxe_modify_qp: % callbacks suppressed",
        ],
        during: Some(&["verbs/changed-at-once"]),
    },
    Allowed {
        why: "the test lets a completion queue overflow: on purpose, or as what another process posts without end is \
              flushed",
        lines: &["rxe%: cq#% rxe_cq_post: queue full"],
        during: Some(&["verbs/waiting.cq-overflow", "verbs/teardown-queues-without-end"]),
    },
    Allowed {
        why: "the disk of the test is a file of a file system in user space, which can neither discard nor zero",
        lines: &[
            "operation not supported error, dev loop%, sector % op *",
            "blk_print_req_error: % callbacks suppressed",
        ],
        during: Some(&["verbs/waiting.stopped-disk"]),
    },
    Allowed {
        why: "the test poisons pages of its own, and the kernel says so of each",
        lines: &[
            "Memory failure: 0x*: Sending SIGBUS to hmm-diff:% due to hardware memory corruption",
            "Memory failure: 0x*: recovery action for *: Recovered",
            "Memory failure: 0x*: unhandlable page.",
        ],
        during: Some(&["diff/"]),
    },
    Allowed {
        why: "the program asks a queue pair that it has not made ready, and is told so",
        lines: &["rxe%: qp#% rxe_post_send: qp not ready to send"],
        during: Some(&["pyverbs/"]),
    },
    Allowed {
        why: "nobody keeps the names of the server's clients for it: in the test it is not started again",
        lines: &[
            "NFSD: Unable to initialize client recovery tracking! (-%)",
            "NFSD: Is nfsdcld running? If not, enable CONFIG_NFSD_LEGACY_CLIENT_TRACKING.",
        ],
        during: Some(&["clients/kernel/nfs"]),
    },
    Allowed {
        why: "the device goes away while ib_core asks for its port",
        lines: &["infiniband rxe%: ib_query_port failed (-19)"],
        during: Some(&["vm/modules/come-and-go"]),
    },
    Allowed {
        why: "the device is told to touch what is not mapped for it, and the IOMMU reports that it did not let it",
        lines: &[
            "DMAR: DRHD: handling fault status reg %",
            "DMAR: [DMA Write NO_PASID] Request device [*] fault addr 0x* [fault reason 0x05] PTE Write access is not set",
            "DMAR: [DMA Read NO_PASID] Request device [*] fault addr 0x* [fault reason 0x06] PTE Read access is not set",
        ],
        during: Some(&["dma/iommu"]),
    },
    Allowed {
        why: "the DMA layer says when it gives out addresses above 4 GiB",
        lines: &["hmm_edu *: Using %-bit DMA addresses"],
        during: Some(&["dma/iommu", "dma/sleeping-iommu"]),
    },
    Allowed {
        why: "one of the two other devices is behind another bridge, so its memory is out of reach",
        lines: &[
            "hmm_edu *: cannot be used for peer-to-peer DMA as the client and provider (*) do not share an upstream \
             bridge or whitelisted host bridge",
        ],
        during: Some(&["dma/peers"]),
    },
    anywhere_as(
        "on a busy host the processors of a VM wait for their turn: its clocks seem to differ, and what is short seems long",
        &[
            "clocksource: Watchdog * interval: *ns",
            "clocksource: timekeeping watchdog on CPU%: *",
            "hrtimer: interrupt took % ns",
            "perf: interrupt took too long (% > %), lowering kernel.perf_event_max_sample_rate to %",
            "workqueue: * hogged CPU for >%us % times, consider switching to WQ_UNBOUND",
            "sched: DL replenish lagged too much",
            "clocksource: Clocksource * interval: *ns",
            "clocksource: Marking clocksource tsc unstable due to frequency skew",
            "TSC found unstable after boot, most likely due to broken BIOS. Use 'tsc=unstable'.",
        ],
    ),
];

/// Whether `text` may be said anywhere.
pub(super) fn anywhere(text: &str) -> bool {
    in_test(text, None)
}

/// Whether `text` may be said while this test runs, or while none does.
pub(super) fn in_test(text: &str, test: Option<&str>) -> bool {
    let here = |allowed: &Allowed| match (allowed.during, test) {
        (None, _) => true,
        (Some(tests), Some(test)) => tests.iter().any(|start| test.starts_with(start)),
        (Some(_), None) => false,
    };
    let fits = |allowed: &Allowed| allowed.lines.iter().any(|pattern| matches(pattern, text));
    LIST.iter().any(|allowed| here(allowed) && fits(allowed))
}

/// Whether `text` is as `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some(at) = pattern.find(['*', '%']) else {
        return pattern == text;
    };
    let (start, rest) = pattern.split_at(at);
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    let after = &rest[1..];
    if rest.starts_with('%') {
        let end = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
        return end.len() < text.len() && matches(after, end);
    }
    (0..=text.len())
        .filter(|at| text.is_char_boundary(*at))
        .any(|at| matches(after, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_of_whole_lines() {
        assert!(matches("a", "a"));
        assert!(!matches("a", "ab"));
        assert!(!matches("b", "ab"));
        assert!(matches("a*c", "abbc"));
        assert!(matches("a*c", "ac"));
        assert!(!matches("a*c", "abcd"));
        assert!(matches("*b*", "äbé"));
        assert!(!matches("*b*", "äé"));
        assert!(matches("a%b", "a12b"));
        assert!(!matches("a%b", "ab"));
        assert!(!matches("a%b", "a-1b"));
        assert!(matches("%*%", "1x2"));
    }

    #[test]
    fn no_pattern_is_all_wild_and_each_has_a_reason() {
        for allowed in LIST {
            assert!(!allowed.why.is_empty());
            for pattern in allowed.lines {
                let fixed = pattern
                    .chars()
                    .filter(|letter| letter.is_alphanumeric())
                    .count();
                assert!(fixed >= 8, "{pattern}");
            }
        }
    }
}
