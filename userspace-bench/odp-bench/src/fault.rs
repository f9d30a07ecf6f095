// SPDX-License-Identifier: GPL-2.0
//! The first access to a page.
//!
//! Each case goes through blocks of 2 MiB, page by page, twice: the first time the NIC has no translations,
//! the second time it has all. Of each access the time is recorded. What faults cost for a page is the mean,
//! over the accesses to a block, of what the first time took more than the second; of each access the median
//! over several blocks is taken, so that what else the machine does has no part in it. That figure is the one
//! to look at where one fault serves many pages: there most of the first accesses are as fast as any. Where each
//! access faults, on untouched small pages in random order, the cost of a fault is told, too: the median of all
//! first accesses less that of all second ones, which is steadier still. Of resident pages, where that is
//! the cost only on a driver that faults on each of them, it is the typical cost; and if the driver counts the time
//! that it spends in faults, what that is for each page is told beside it. The rest of an access, which scatters by
//! more than either, is in neither.

use std::{fs::File, os::fd::AsRawFd, time::Instant};

use anyhow::{Context, Result};
use odp_results::run::Unit;

use super::{
    act::Act,
    lane::Lane,
    pages::{Kind, Pattern, PER_HUGE},
    problem::lacking,
    setting::Bench,
    target::Target,
    Case, Cost,
};
use odp_fixture::env::Mode;
use testkit::memory::{Backing, Mapping, Protection, HUGE_PAGE, PAGE};

/// Where the pages are before the NIC asks for them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nowhere.
    Untouched,
    /// In memory, as the CPU has used them.
    Resident,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Resident => "resident",
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ON_DEMAND {
        for kind in Kind::ALL {
            for state in [State::Untouched, State::Resident] {
                for pattern in Pattern::ALL {
                    let name = format!("fault/{mode}/{kind}/{}/{pattern}", state.name());
                    let case = move |bench: &Bench, name: &str| {
                        minor(bench, name, mode, kind, state, pattern)
                    };
                    cases.push(named(name, MINOR, case));
                }
            }
        }
        let cost = Cost {
            faults: 40_000.0,
            ..Cost::NOTHING
        };
        cases.push(named(
            format!("fault/{mode}/disk"),
            cost,
            move |bench, name| major(bench, name, mode),
        ));
    }
    for kind in Kind::ALL {
        let cost = Cost::of_faults(20.0 * PER_HUGE as f64 / 4.0);
        cases.push(named(
            format!("fault/cpu/{kind}"),
            cost,
            move |bench, name| touch(bench, name, kind),
        ));
    }
    cases
}

/// What a case of [`minor`] faults takes.
const MINOR: Cost = Cost {
    accesses: (20 * GROUP * PER_HUGE) as f64,
    faults: (20 * GROUP * PER_HUGE) as f64,
    ..Cost::NOTHING
};

fn named(name: String, cost: Cost, run: impl Fn(&Bench, &str) -> Result<()> + 'static) -> Case {
    let inner = name.clone();
    Case::new(name, cost, move |bench| run(bench, &inner))
}

/// Over so many blocks the median of each access is taken.
const GROUP: usize = 4;

/// How many blocks to take where `wanted` are wanted: those of a whole group, or fewer than one group has.
fn whole_groups(wanted: usize) -> usize {
    match wanted < GROUP {
        true => wanted,
        false => wanted - wanted % GROUP,
    }
}

/// What a case collects, in nanoseconds.
#[derive(Default)]
struct Times {
    first: Vec<Vec<f64>>,
    again: Vec<Vec<f64>>,
    /// For each page that faults have mapped in a group of blocks, if the driver says so.
    in_faults: Vec<f64>,
}

impl Times {
    fn block(&mut self, first: Vec<f64>, again: Vec<f64>) {
        self.first.push(first);
        self.again.push(again);
    }

    /// What `typical` says of the first accesses less what it says of the second ones, for each group.
    fn costs(&self, typical: impl Fn(&[Vec<f64>]) -> f64) -> Vec<f64> {
        let groups = self.first.chunks(GROUP).zip(self.again.chunks(GROUP));
        groups
            .map(|(first, again)| typical(first) - typical(again))
            .collect()
    }

    /// What each first access took more than the second one to the same page.
    fn each(&self) -> Vec<f64> {
        let pairs = self.first.iter().flatten().zip(self.again.iter().flatten());
        pairs.map(|(first, again)| first - again).collect()
    }

    fn record(self, bench: &Bench, name: &str) {
        if !self.in_faults.is_empty() {
            bench.times_of(format!("{name}/in-faults-per-page"), self.in_faults.clone());
        }
        bench.times_of(format!("{name}/cost-per-page"), self.costs(typical));
        bench.times_of(format!("{name}/first"), self.first.concat());
        bench.times_of(format!("{name}/again"), self.again.concat());
    }
}

/// The mean over the accesses to a block of their medians over `blocks`; of an even number of blocks the lower
/// of the two in the middle.
fn typical(blocks: &[Vec<f64>]) -> f64 {
    let accesses = blocks[0].len();
    let medians = (0..accesses).map(|access| {
        let mut times: Vec<f64> = blocks.iter().map(|block| block[access]).collect();
        times.sort_by(f64::total_cmp);
        times[(times.len() - 1) / 2]
    });
    medians.sum::<f64>() / accesses as f64
}

/// The median of all accesses to `blocks`.
fn median(blocks: &[Vec<f64>]) -> f64 {
    let mut times = blocks.concat();
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) / 2]
}

fn minor(
    bench: &Bench,
    name: &str,
    mode: Mode,
    kind: Kind,
    state: State,
    pattern: Pattern,
) -> Result<()> {
    bench.needs(mode)?;
    let blocks = whole_groups(bench.times(20 * GROUP));
    // One block more, for the first fault: what a region costs once is the cost of none of its pages.
    let target = bench.target(mode, kind, (blocks + 1) * HUGE_PAGE)?;
    let mut lane = Lane::new(bench, PER_HUGE)?;
    lane.warm_up()?;
    if state == State::Resident {
        target.does(Act::Populate)?;
    }
    lane.write(&target, blocks * PER_HUGE)?;
    // One fault may serve many of them.
    let resident = state == State::Resident;
    // Reading the counters takes a program and some files: only where they are told.
    let counted = || resident.then(|| in_faults(bench)).flatten();
    let mut times = Times::default();
    for group in (0..blocks).collect::<Vec<_>>().chunks(GROUP) {
        let before = counted();
        for block in group {
            let order = pattern.order(block * PER_HUGE, PER_HUGE);
            lane.renew();
            let first = lane.sweep(&target, &order)?;
            lane.check(&target, &order)?;
            lane.renew();
            let again = lane.sweep(&target, &order)?;
            lane.check(&target, &order)?;
            times.block(first, again);
        }
        let cost = before.zip(counted()).and_then(per_page);
        times.in_faults.extend(cost);
    }
    target.does(Act::Confirm(kind))?;
    if (kind, state, pattern) == (Kind::Small, State::Untouched, Pattern::Random) {
        bench.times_of(format!("{name}/cost-of-a-fault"), times.costs(median));
    }
    if resident {
        bench.times_of(format!("{name}/typical-cost"), times.costs(median));
    }
    times.record(bench, name);
    Ok(())
}

/// What a driver counts of its faults.
#[derive(Clone, Copy)]
struct InFaults {
    nanoseconds: u64,
    pages: u64,
}

/// How many nanoseconds were spent in faults for each page that was mapped meanwhile, if any was.
fn per_page((before, after): (InFaults, InFaults)) -> Option<f64> {
    let pages = after.pages.checked_sub(before.pages)?;
    let spent = after.nanoseconds.checked_sub(before.nanoseconds)?;
    (pages > 0).then(|| spent as f64 / pages as f64)
}

/// The counters of the device whose memory is accessed, if it has such counters.
fn in_faults(bench: &Bench) -> Option<InFaults> {
    let meters = bench.meters();
    // A driver has them of the device or of the port.
    let of = |name: &str| {
        let mut places = ["peer.", "peer.port.", "", "port."].iter();
        places.find_map(|place| meters.get(&format!("{place}{name}")).copied())
    };
    Some(InFaults {
        nanoseconds: of("odp_page_fault_nanoseconds")?,
        pages: of("odp_pages_mapped")?,
    })
}

/// Pages of a shared file that are on its disk only.
fn major(bench: &Bench, name: &str, mode: Mode) -> Result<()> {
    bench.alone()?;
    bench.needs(mode)?;
    let blocks = bench.times(2);
    let file = disk_file(bench, blocks * HUGE_PAGE)?;
    let all = Backing::Shared(&file);
    let memory = Mapping::new(blocks * HUGE_PAGE, all, Protection::ReadWrite).context("mmap")?;
    let mut lane = Lane::new(bench, PER_HUGE)?;
    lane.warm_up()?;
    let buffer = bench.cover(mode, memory)?;
    let target = Target::Here(bench, buffer.clone());
    let mut times = Times::default();
    for block in 0..blocks {
        let range = block * HUGE_PAGE..(block + 1) * HUGE_PAGE;
        if buffer.memory.resident(range)?.contains(&true) {
            return Err(lacking("the kernel keeps the file's pages in memory"));
        }
        // The kernel reads ahead of what is read in order.
        let order = Pattern::Random.order(block * PER_HUGE, PER_HUGE);
        lane.renew();
        let first = lane.sweep(&target, &order)?;
        lane.check(&target, &order)?;
        let again = lane.sweep(&target, &order)?;
        lane.check(&target, &order)?;
        times.block(first, again);
    }
    // Two blocks are no group, but each access waits for the disk.
    bench.times_of(format!("{name}/cost-of-a-fault"), times.each());
    bench.times_of(format!("{name}/first"), times.first.concat());
    bench.times_of(format!("{name}/again"), times.again.concat());
    Ok(())
}

/// A file without a name, of `len` bytes on a disk, of which nothing is in memory.
fn disk_file(bench: &Bench, len: usize) -> Result<File> {
    use std::io::Write;

    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let folder = &bench.options.folder;
    let mut file = tempfile::tempfile_in(folder)
        .with_context(|| format!("making a file in {}", folder.display()))?;
    // SAFETY: zeroes are valid for integers.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the result outlives the call.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &mut system) };
    if result == 0 && system.f_type == TMPFS_MAGIC {
        return Err(lacking(format!(
            "{} is in memory: name a folder on a disk with --folder",
            folder.display()
        )));
    }
    file.write_all(&vec![0xa5; len]).context("filling a file")?;
    file.sync_all().context("writing a file to its disk")?;
    // SAFETY: the call takes numbers only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(file)
}

/// What the CPU pays for the first touch of a page: the least that a fault on untouched memory can cost.
fn touch(bench: &Bench, name: &str, kind: Kind) -> Result<()> {
    bench.alone()?;
    let blocks = bench.times(20);
    let memory = kind.map(blocks * HUGE_PAGE)?;
    let mut times = Vec::new();
    for block in 0..blocks {
        let begun = Instant::now();
        for page in block * PER_HUGE..(block + 1) * PER_HUGE {
            memory.write(page * PAGE, &[1]);
        }
        times.push(begun.elapsed().as_nanos() as f64 / PER_HUGE as f64);
    }
    kind.confirm(&memory)?;
    bench.record(
        format!("{name}/cost-per-page"),
        Unit::Nanoseconds,
        None,
        times,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hiccup_is_no_cost() {
        let block = |hiccup: usize| {
            let mut times = vec![100.0; 8];
            times[0] = 900.0;
            times[hiccup] = 1e6;
            times
        };
        // One access of eight faults; each block has a hiccup elsewhere.
        assert_eq!(typical(&[block(3), block(1), block(5), block(7)]), 200.0);
        assert_eq!(typical(&[vec![4.0, 2.0]]), 3.0);
        assert_eq!(median(&[block(3), block(1)]), 100.0);
    }

    #[test]
    fn each_cost_is_that_of_one_page() {
        let mut times = Times::default();
        times.block(vec![9.0, 4.0], vec![1.0, 2.0]);
        times.block(vec![7.0, 1.0], vec![2.0, 3.0]);
        assert_eq!(times.each(), [8.0, 2.0, 5.0, -2.0]);
    }

    #[test]
    fn what_faults_cost_is_told_of_mapped_pages_only() {
        let at = |nanoseconds, pages| InFaults { nanoseconds, pages };
        assert_eq!(per_page((at(100, 5), at(400, 15))), Some(30.0));
        assert_eq!(per_page((at(100, 5), at(400, 5))), None);
        // The driver was loaded anew.
        assert_eq!(per_page((at(100, 5), at(0, 15))), None);
    }

    #[test]
    fn no_group_is_cut_off_but_the_only_one() {
        assert_eq!([1, 3, 4, 7, 8].map(whole_groups), [1, 3, 4, 4, 8]);
    }
}
