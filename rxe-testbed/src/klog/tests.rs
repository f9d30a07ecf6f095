// SPDX-License-Identifier: GPL-2.0
use super::*;

/// A boot up to the loading of a driver.
const BOOT: &str = "\
<5>[    0.000000] Linux version 7.2.12+deb13-amd64
<3>[    0.044000] tsc: Unable to calibrate against PIT
<4>[    0.100000] Spectre V2 : WARNING: Unprivileged eBPF is enabled
<4>[    0.870154] mtrr: your CPUs had inconsistent fixed MTRR settings
<6>[    1.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 27755)
/usr/local/lib/testbed/runner: line 35: no such file
<12>[    5.974867] testbed: ready
<12>[    6.000000] testbed: driver ours
";

/// The complaints of a boot that goes on with `lines`.
fn after_boot(lines: &str) -> Vec<String> {
    complaints(&format!("{BOOT}{lines}"))
}

#[test]
fn a_clean_log_has_no_complaints() {
    let lines = "\
<4>[    6.100000] hmm: loading out-of-tree module taints kernel.
<5>[    6.100001] hmm: module verification failed: signature and/or required key missing - tainting kernel
<6>[    6.200000] hmm: heterogeneous memory management in Rust
<6>[    6.250000] mlx_odp: on-demand paging for RDMA in Rust
<6>[    6.897043] rdma_rxe: loaded
<4>[    7.489011] roce0 speed is unknown, defaulting to 1000
<6>[    7.510830] infiniband rxe0: set active
<6>[    7.511045] infiniband rxe0: added roce0
<3>[    8.260000] rxe0: pd#12 rxe_reg_user_mr: access = 0xcf not supported (0x3ff0035f)
<3>[    8.265000] rxe3: pd#12 rxe_reg_user_mr: access = 0xcf not supported (0x3ff0035f)
<3>[    8.270000] rxe0: qp#22 make_send_cqe: non-flush error status = 10
<4>[    8.280000] make_send_cqe: 65 callbacks suppressed
<3>[    8.290000] rxe0: mr#2750 rxe_dereg_mr:  returned err = -22
<6>[    8.300000] sysrq: Resetting
";
    assert_eq!(after_boot(lines), Vec::<String>::new());
}

#[test]
fn what_is_not_on_the_list_is_a_complaint() {
    for line in [
        "<3>[    8.000000] debugfs: 'rxe0' already exists in 'mlx_odp'",
        "<3>[    8.000000] mlx_odp: `x' invalid for parameter `chunk_size'",
        "<4>[    8.000000] workqueue: work func x [mlx_odp] enqueued on deprecated workqueue",
        "<4>[    8.000000] rust_kernel: attempted to create `Error` with out of range `errno`: 0",
        "<6>[    8.000000] rust_kernel: anything",
        "<6>[    8.000000] mlx_odp: fault at 1000",
        "<7>[    8.000000] hmm: a remark",
        "<6>[    8.000000] hmm: heterogeneous memory management in Rust again",
        "<6>[    8.000000] hmm_edu 0000:00:03.0: a remark",
        "<6>[    8.000000] infiniband rxe0: a remark",
        "<6>[    8.000000] rxe0: qp#17 a remark",
        "<6>[    8.000000] rxe15: qp#17 a remark",
        "<6>[    8.000000] infiniband rxe2: a remark",
        "<3>[    8.000000] EXT4-fs (vdb): VFS: Can't find ext4 filesystem",
        "** 17 printk messages dropped **",
        "a line of somebody else",
    ] {
        assert_eq!(after_boot(&format!("{line}\n")), [line]);
    }
}

#[test]
fn what_others_say_below_a_warning_is_none() {
    for line in [
        "<5>[    8.000000] a notice",
        "<6>[    8.000000] hmm-mirror (390): drop_caches: 3",
        "<6>[    8.000000] rxe: a remark",
        "<6>[    8.000000] rxe0x: a remark",
        "<12>[    8.000000] testbed: test verbs/x",
        "<12>[    8.000000] WARNING: said by a process",
        "<6>[    8.000000] ",
    ] {
        assert!(after_boot(&format!("{line}\n")).is_empty(), "{line}");
    }
}

#[test]
fn the_list_counts_from_the_loading_of_a_driver_on() {
    let line = "<4>[    0.870154] mtrr: your CPUs had inconsistent fixed MTRR settings";
    assert!(complaints(&format!("{line}\n")).is_empty());
    assert_eq!(after_boot(&format!("{line}\n")), [line]);
    // Only the runner says that a driver is loaded.
    let said = format!("<6>[    0.800000] testbed: driver ours\n{line}\n");
    assert!(complaints(&said).is_empty());
}

#[test]
fn some_lines_are_for_one_test() {
    let refused = "<3>[    8.260000] mlx_odp: chunk_size=3 is not possible: it has to be 4";
    let test = |name: &str| format!("<12>[    8.200000] testbed: test {name}\n{refused}\n");
    let end = "<12>[    8.300000] testbed: end of command 2\n";
    let own = test("vm/modules/parameters");
    assert!(after_boot(&own).is_empty());
    assert_eq!(after_boot(&test("vm/modules/load-unload")), [refused]);
    assert_eq!(after_boot(&format!("{own}{end}{refused}\n")), [refused]);
}

#[test]
fn splats_are_complaints_at_any_time() {
    let log = "\
<4>[    3.000000] WARNING: CPU: 0 PID: 1 at mm/hmm.c:1 x+0x1/0x2
<6>[    3.000001] Call Trace:
<4>[    4.000000] refcount_t: underflow; use-after-free.
";
    assert_eq!(complaints(log).len(), 3);
    assert_eq!(after_boot(log).len(), 3);
    assert_eq!(first_alarm(log, 2).unwrap_or_default().lines().count(), 2);
    assert_eq!(first_alarm(BOOT, 1), None);
}

#[test]
fn what_the_debug_kernel_finds_is_a_complaint() {
    for line in [
        "BUG: KASAN: slab-use-after-free in x+0x1/0x2 [hmm]",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "BUG: sleeping function called from invalid context at mm/x.c:1",
        "DEBUG_LOCKS_WARN_ON(1)",
        "INFO: trying to register non-static key.",
        "BUG: MAX_LOCKDEP_CHAINS too low!",
        "turning off the locking correctness validator.",
        "[ BUG: Invalid wait context ]",
        "ODEBUG: free active (active state 0) object: 0 object type: work_struct",
        "UBSAN: array-index-out-of-bounds in x.c:1:2",
        "list_add corruption. prev->next should be next",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "INFO: task a:1 blocked for more than 120 seconds.",
    ] {
        let log = format!("<6>[    9.000000][   T12] {line}\n");
        assert_eq!(complaints(&log).len(), 1, "{line}");
    }
}

#[test]
fn what_came_before_the_test_is_not_its_own() {
    let line = "<6>[    8.100000] mlx_odp: fault at 1000";
    let log =
        format!("{BOOT}{line}\n<6>[    8.200000] mlx_odp: on-demand paging for RDMA in Rust\n");
    assert_eq!(complaints_from(&log, BOOT.len()), [line]);
    assert!(complaints_from(&log, BOOT.len() + 1).is_empty());
}

#[test]
fn the_end_of_a_command_is_a_whole_line_of_the_log() {
    let log = "<12>[    8.000000] testbed: end of command 12\r\n";
    assert!(has_ended(log, 12));
    assert!(!has_ended(log, 1));
    assert!(!has_ended(log.trim_end(), 12));
}

#[test]
fn a_line_that_was_interrupted_follows_again() {
    let lines = "\
<4>[    8.280000] make_send_cqe: 65 call
** replaying previous printk message **
<4>[    8.280000] make_send_cqe: 65 callbacks suppressed
<4>[    8.290000] something is wr
** replaying previous printk message **
<4>[    8.290000] something is wrong
";
    let wrong = ["<4>[    8.290000] something is wrong"];
    assert_eq!(after_boot(lines), wrong);
}

/// What the kernel says of a process that it kills as its cgroup is full, without what follows.
const FULL: &str = "\
<4>[    8.100000] kworker/u8:3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
<4>[    8.100001] CPU: 1 UID: 0 PID: 390 Comm: kworker/u8:3 Tainted: G           OE       7.3.4+deb13-amd64 #1
<4>[    8.100002] Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE
<4>[    8.100003] Hardware name: QEMU Standard PC
<4>[    8.100004] Workqueue: rxe_wq do_work [rdma_rxe]
<4>[    8.100005] Call Trace:
<4>[    8.100006]  <TASK>
<4>[    8.100007]  dump_stack_lvl+0x1/0x2
<6>[    8.100008] memory: usage 32768kB, limit 32768kB, failcnt 32
<6>[    8.100009] Memory cgroup stats for /small:
<4>[    8.100010] Memory cgroup min protection 0kB -- low protection 0kB
";
const WHY: &str =
    "<6>[    8.100011] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/small,task=python3,pid=391,uid=0\n";
const KILLED: &str = "<3>[    8.100012] Memory cgroup out of memory: Killed process 391 (python3) total-vm:1kB, UID:0\n";
const NOBODY: &str = "<4>[    8.100011] Out of memory and no killable processes...\n";

#[test]
fn a_full_cgroup_is_no_complaint() {
    for log in [
        format!("{FULL}{WHY}{KILLED}"),
        format!("{FULL}{WHY}{KILLED}{FULL}{NOBODY}"),
    ] {
        assert_eq!(after_boot(&log), Vec::<String>::new());
    }
    // The same lines elsewhere, and others in the midst of it.
    for line in [
        "<4>[    8.200000] Call Trace:\n",
        "<4>[    8.200000]  dump_stack_lvl+0x1/0x2\n",
        NOBODY,
    ] {
        let log = format!("{FULL}{WHY}{KILLED}{line}");
        assert_eq!(after_boot(&log), [line.trim_end()]);
    }
    assert_eq!(after_boot(KILLED), [KILLED.trim_end()]);
    let wrong = "<4>[    8.100006] WARNING: CPU: 0 PID: 1 at mm/x.c:1 x+0x1/0x2\n";
    let log = format!("{FULL}{wrong}{WHY}{KILLED}");
    assert_eq!(after_boot(&log), [wrong.trim_end()]);
}

#[test]
fn a_full_machine_is_a_complaint() {
    let full = FULL.replace("Memory cgroup stats for /small:", "Mem-Info:");
    let why = WHY.replace("CONSTRAINT_MEMCG", "CONSTRAINT_NONE");
    assert!(after_boot(&format!("{full}{why}")).len() > 8);
}

/// A warning of the kernel's code, as it is there.
const WARNED: &str = "\
<4>[    8.100000] ------------[ cut here ]------------
<4>[    8.100001] WARNING: drivers/infiniband/hw/mlx5/umr.c:400 at mlx5r_umr_post_send_wait+0x2f4/0x320 [mlx5_ib], CPU#1: kworker/u10:2/390
<4>[    8.100002] Modules linked in: mlx5_ib mlx5_core
<4>[    8.100003] CPU: 1 UID: 0 PID: 390 Comm: kworker/u10:2 Not tainted 7.3.4+deb13-amd64 #1
<4>[    8.100004] Hardware name: QEMU Standard PC
<4>[    8.100005] RIP: 0010:mlx5r_umr_post_send_wait+0x2f4/0x320 [mlx5_ib]
<4>[    8.100006] Code: 00 00
<4>[    8.100007] FS:  0000000000000000(0000) GS:ffff000000000000(0000) knlGS:0000000000000000
<4>[    8.100008] Call Trace:
<4>[    8.100009]  <TASK>
<4>[    8.100010]  mlx5r_umr_update_xlt+0x1/0x2 [mlx5_ib]
<4>[    8.100011]  </TASK>
<4>[    8.100012] ---[ end trace 0000000000000000 ]---
";

#[test]
fn a_warning_is_allowed_by_where_it_is() {
    let during = |test: &str, log: &str| after_boot(&format!("{}{log}", marked_line(test)));
    let test = "hca/direct/adversary-failed-update";
    assert_eq!(during(test, WARNED), Vec::<String>::new());
    assert_ne!(
        during("hca/direct/odp-pingpong", WARNED),
        Vec::<String>::new()
    );
    let other = WARNED.replace("umr.c:400", "mr.c:400");
    assert_ne!(during(test, &other), Vec::<String>::new());
    // A second one: the kernel says it once.
    assert_ne!(
        during(test, &format!("{WARNED}{WARNED}")),
        Vec::<String>::new()
    );
    // One that does not end may be of anybody.
    let cut = WARNED.replace("---[ end trace", "---[ begin");
    assert_ne!(during(test, &cut), Vec::<String>::new());
    // Others in the midst of it.
    for line in [
        "<3>[    8.100008] mlx5_core 0000:00:04.0: something else\n",
        "<1>[    8.100008] BUG: unable to handle page fault\n",
    ] {
        let log = WARNED.replace("<4>[    8.100008]", &format!("{line}<4>[    8.100008]"));
        assert_eq!(during(test, &log), [line.trim_end()]);
    }
}

/// What a test logs that begins.
fn marked_line(test: &str) -> String {
    format!("<12>[    8.000000] testbed: test {test}\n")
}
