// SPDX-License-Identifier: GPL-2.0
//! The tests that run in the VM, as data.
//!
//! A script is run by bash in the guest with `rxe0` up on our driver. Exit status 0 is a
//! pass, 77 a skip, anything else a failure. Whatever it does, the kernel log must stay clean, but for the one test
//! that shows that this is checked.

use crate::bench::counting;
use crate::kernel::Variant;
use crate::programs::Programs;
use crate::qemu::Extra;
use crate::script::{quote, with_scripts};
use crate::series::Series;

/// A test in the VM.
#[derive(Clone, Debug)]
pub(crate) struct VmTest {
    pub(crate) name: String,
    pub(crate) script: String,
    /// It is killed, and has failed, after so many seconds.
    pub(crate) seconds: u64,
    /// What it needs in the VM.
    pub(crate) extra: Extra,
}

impl VmTest {
    /// Whether what it says is of interest though it passes: a seed, figures.
    pub(crate) fn tells(&self) -> bool {
        [
            "diff/random",
            "bench/",
            "vm/fuzz",
            "vm/storm",
            "vm/modules/come",
        ]
        .iter()
        .any(|start| self.name.starts_with(start))
    }

    /// A piece of the complaint that it has the kernel make, to see that the check of the log finds it.
    pub(crate) fn provokes(&self) -> Option<&'static str> {
        (self.name == LOG_CHECK).then_some("EXT4-fs (vdb): VFS: Can't find ext4 filesystem")
    }
}

/// The test of the check of the kernel log.
const LOG_CHECK: &str = "vm/kernel-log-is-checked";

/// One fixed test: its name, its script and its time limit.
type Row<'a> = (&'static str, &'a str, u64);

/// Tests on our driver alone.
const ROWS: &[Row<'_>] = &[
    // The archive that the host gave the VM is no file system, and the kernel says so, as an error.
    (LOG_CHECK, "! mount -t ext4 /dev/vdb /mnt", 60),
    ("vm/modules/load-unload", "load-unload", 60),
    ("vm/modules/type-information", "type-information", 60),
    ("vm/modules/parameters", "parameters", 300),
    ("vm/modules/prefetch-removal", "prefetch-removal", 180),
    ("vm/modules/waiting-removal", "waiting-removal", 600),
    (
        "vm/modules/come-and-go",
        "come-and-go $((24 / ${TESTBED_PATIENCE:-1}))",
        900,
    ),
    (
        "vm/fuzz",
        "odp-fuzz --seed 2026 --requests $((30000 / ${TESTBED_PATIENCE:-1}))",
        1200,
    ),
    (
        "vm/fuzz-waiting",
        "odp-fuzz --seed 2026 --waiting $((800 / ${TESTBED_PATIENCE:-1}))",
        1200,
    ),
    (
        "vm/rdma/rc-pinned",
        "pair ibv_rc_pingpong -d rxe0 -g 1 -c -n 200",
        60,
    ),
    (
        "vm/rdma/rc-implicit-1MiB",
        "pair ibv_rc_pingpong -d rxe0 -g 1 -c -O -s 1048576 -n 20 -r 20",
        120,
    ),
    (
        "vm/rdma/rc-implicit-odd-size",
        "pair ibv_rc_pingpong -d rxe0 -g 1 -c -O -s 12345 -n 100 -m 4096",
        60,
    ),
    (
        "vm/rdma/uc-pinned",
        "pair ibv_uc_pingpong -d rxe0 -g 1 -c -n 200",
        60,
    ),
    (
        "vm/rdma/ud-pinned",
        "pair ibv_ud_pingpong -d rxe0 -g 1 -c -s 1024 -n 200",
        60,
    ),
    (
        // Who ends what takes too long sends this signal: see `bounded` in the guest's runner.
        "vm/told-before-the-end",
        "pair bash -c 'echo served; : >/run/begun; exec sleep 600' -- true >/run/said &
         pid=$!
         until [ -e /run/begun ]; do sleep 0.1; done
         kill -TERM $pid
         wait $pid
         test $? = 124 && grep served /run/said",
        300,
    ),
    ("bench/odp-errors", "bench-errors", 300),
    ("bench/odp-options", "bench-options", 600),
    ("bench/odp-suites", "with-swap 256 bench-suites 5", 900),
    ("bench/odp-whole", "with-swap 256 bench-suites", 900),
    (
        // Three kinds of regions warm, two that fault, four registrations.
        "bench/odp-criterion",
        "odp-criterion --test >/run/said && cat /run/said && test $(grep -c Success /run/said) = 9",
        300,
    ),
    ("diff/kinds", "with-module hmm_oracle hmm-diff kinds", 120),
    (
        "selftest/device-memory",
        "with-module hmm_dmirror device-memory",
        180,
    ),
    (
        "selftest/device-memory-inject",
        "with-module hmm_dmirror device-memory inject",
        300,
    ),
    (
        "bench/hmm-times",
        "with-module hmm_oracle hmm-diff bench --check",
        600,
    ),
];

/// Tests that need another machine.
const ELSEWHERE: &[(Row<'_>, Extra)] = &[
    (
        (
            "diff/random",
            "with-module hmm_oracle hmm-diff --steps 20000",
            600,
        ),
        Extra::TwoNodes,
    ),
    (
        (
            "vm/storm",
            "with-swap 256 odp-storm --seconds 60 --all",
            600,
        ),
        Extra::TwoNodes,
    ),
    (
        (
            "bench/hmm-instructions",
            "with-module hmm_oracle hmm-diff bench --instruction 2 --check",
            900,
        ),
        Extra::Counting,
    ),
    (
        ("dma/direct", "with-module hmm_edu dma-tests direct", 120),
        Extra::Edu,
    ),
    (
        ("dma/iommu", "with-module hmm_edu dma-tests iommu", 120),
        Extra::EduIommu,
    ),
    (
        (
            "dma/inject-direct",
            "with-module hmm_edu dma-tests inject-direct",
            600,
        ),
        Extra::Edu,
    ),
    (
        (
            "dma/inject-iommu",
            "with-module hmm_edu dma-tests inject-iommu",
            600,
        ),
        Extra::EduIommu,
    ),
    (
        (
            "dma/sleeping-direct",
            "with-module hmm_edu sleeping-device direct",
            300,
        ),
        Extra::Edu,
    ),
    (
        (
            "dma/sleeping-iommu",
            "with-module hmm_edu sleeping-device iommu",
            300,
        ),
        Extra::EduIommu,
    ),
    (
        (
            "dma/inject-sleeping-direct",
            "with-module hmm_edu sleeping-device inject-direct",
            600,
        ),
        Extra::Edu,
    ),
    (
        (
            "dma/inject-sleeping-iommu",
            "with-module hmm_edu sleeping-device inject-iommu",
            600,
        ),
        Extra::EduIommu,
    ),
    (
        ("dma/peers", "with-module hmm_edu dma-tests peers", 120),
        Extra::EduPeers,
    ),
];

/// Tests on persistent memory: what comes after `pmem/`, and what odp-test calls it.
const PMEM: &[(&str, &str)] = &[
    ("data", "pmem-data"),
    ("flush-part", "pmem-flush-part"),
    ("flush-whole", "pmem-flush-whole"),
    ("flush-beyond-4GiB", "pmem-flush-beyond-4GiB"),
    ("gone-before-flush", "pmem-gone-before-flush"),
    ("file-changes", "pmem-file-changes"),
    ("remount", "pmem-remount"),
    ("ordinary-memory", "pmem-ordinary-memory"),
];

/// The last test in each VM of the debug kernel, after all that may have leaked something.
pub(crate) fn leaks(name: String) -> VmTest {
    VmTest {
        name,
        script: with_scripts("kmemleak"),
        seconds: 120,
        extra: Extra::None,
    }
}

fn of_verbs(name: &str) -> String {
    format!("verbs/{name}")
}

fn of_mirror(name: &str) -> String {
    format!("mirror/{name}")
}

/// The names of the tests that the programs list.
pub(crate) fn listed(programs: &Programs) -> Vec<String> {
    let verbs = programs.tests().into_iter().map(|name| of_verbs(&name));
    let mirror = programs.mirror_cases();
    verbs
        .chain(mirror.iter().map(|name| of_mirror(name)))
        .collect()
}

/// Whether the debug kernel is not for it: what things cost on a kernel full of checks says nothing, and it has no drivers
/// for persistent memory.
fn without_debug(name: &str) -> bool {
    ["bench/", "pmem/"]
        .iter()
        .any(|tier| name.starts_with(tier))
}

/// All tests whose names are known beforehand; `verbs` are the names that odp-test lists, `mirror` those
/// of hmm-mirror.
pub(crate) fn all(
    verbs: &[String],
    mirror: &[String],
    series: Series,
    kernel: Variant,
) -> Vec<VmTest> {
    let with = |(name, script, seconds): &Row<'_>, extra| VmTest {
        name: (*name).into(),
        script: with_scripts(script),
        seconds: *seconds,
        extra,
    };
    let row = |row: &Row<'_>| with(row, Extra::None);
    let elsewhere = ELSEWHERE.iter().map(|(row, extra)| with(row, *extra));
    let script = counting::test(series);
    let counted = with(&("bench/odp-instructions", &script, 600), Extra::Counting);
    let verbs = verbs.iter().map(|name| VmTest {
        name: of_verbs(name),
        script: format!("odp-test {}", quote(name)),
        seconds: 180,
        extra: Extra::None,
    });
    let mirror = mirror.iter().map(|name| VmTest {
        name: of_mirror(name),
        script: with_scripts(&format!(
            "with-module hmm_oracle hmm-mirror {}",
            quote(name)
        )),
        seconds: 120,
        extra: Extra::None,
    });
    let pmem = PMEM.iter().map(|(name, test)| VmTest {
        name: format!("pmem/{name}"),
        script: format!("odp-test {test}"),
        seconds: 300,
        extra: Extra::Pmem,
    });
    let fixed = ROWS.iter().map(row);
    fixed
        .chain(verbs)
        .chain(mirror)
        .chain(elsewhere)
        .chain(pmem)
        .chain([counted])
        .filter(|test| kernel != Variant::Debug || !without_debug(&test.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let verbs = ["a".into(), "b".into()];
        let tests = all(&verbs, &["a".into()], Series::newest(), Variant::Debug);
        let names: BTreeSet<_> = tests.iter().map(|test| &test.name).collect();
        assert_eq!(names.len(), tests.len());
        assert!(tests.iter().any(|test| test.name == "verbs/a"));
        assert!(tests.iter().any(|test| test.name == "mirror/a"));
        assert!(!tests.iter().any(|test| test.name.starts_with("bench/")));
    }
}
