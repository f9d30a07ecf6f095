// SPDX-License-Identifier: GPL-2.0
//! The process that withholds pages, and watches those that wait for them: that they get on, and that they go.

use std::{
    collections::BTreeMap, io::ErrorKind, ops::Range, os::unix::fs::FileExt as _, time::Duration,
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    footprint,
    waiting::{Ending, FILE},
};
use testkit::{
    memory::PAGE,
    process::{End, Helper},
    slow_file::SlowFile,
};

use super::{Leave, Message, Plan, PROMPT, ROLE};
use crate::{arguments::Arguments, keeper::role};

/// How many pages a process has to itself, and how many processes use one file.
const OWN: usize = 256;
const LIVES: usize = 16;
/// How long it may take until a page is asked for.
const ASKED: Duration = Duration::from_secs(60);
/// Far longer than that many processes take.
const LIFE: Duration = Duration::from_secs(1200);

/// Has at least `cases` cases made; how often what became of one. The processes have the seeds from `seed` on.
pub fn all(arguments: &Arguments, mut seed: u64, cases: u64) -> Result<BTreeMap<String, u64>> {
    let mut tally = BTreeMap::<String, u64>::new();
    while tally.values().sum::<u64>() < cases {
        let file =
            SlowFile::lasting(OWN * LIVES, FILE, LIFE).context("a file system of one's own")?;
        file.hold(0..OWN * LIVES);
        for n in 0..LIVES {
            let own = n * OWN..(n + 1) * OWN;
            let result = live(arguments, &file, own, seed);
            for (what, times) in result.with_context(|| format!("--seed {seed} --waiting 1"))? {
                *tally.entry(what).or_default() += times;
            }
            seed = seed.wrapping_add(1);
            if tally.values().sum::<u64>() >= cases {
                break;
            }
        }
    }
    Ok(tally)
}

/// The life of one process, which has the pages `own` of `file`.
fn live(
    arguments: &Arguments,
    file: &SlowFile,
    own: Range<usize>,
    seed: u64,
) -> Result<BTreeMap<String, u64>> {
    let mut helper = Helper::spawn(role(arguments, ROLE))?;
    let plan = Plan {
        seed,
        file: file.path(),
        pages: OWN * LIVES,
        own: own.clone(),
    };
    let left = helper
        .tell(&plan)
        .map_err(Into::into)
        .and_then(|()| serve(arguments, file, &mut helper))
        .and_then(|leave| {
            gone(helper, leave.how).with_context(|| format!("{:?}", leave.how))?;
            Ok(leave)
        });
    let Leave {
        untouched, tally, ..
    } = left.inspect_err(|_| file.give_up())?;
    file.release_pages(own);
    for pages in untouched {
        check_untouched(file, &pages).with_context(|| format!("pages {pages:?}"))?;
    }
    Ok(tally)
}

/// Answers until the process goes.
fn serve(arguments: &Arguments, file: &SlowFile, helper: &mut Helper) -> Result<Leave> {
    // One that finds a fault says so itself and ends.
    let limit = Duration::from_secs(arguments.patience) + Duration::from_secs(30);
    loop {
        match helper.hear(limit) {
            Ok(Message::Asked(pages)) => {
                for page in pages {
                    file.wait_until_asked(page, ASKED)?;
                }
            }
            Ok(Message::Release(ranges)) => {
                for range in ranges {
                    file.release_pages(range);
                }
            }
            Ok(Message::Leave(leave)) => return Ok(leave),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let stack = footprint::stacks(helper.id());
                bail!("hung; it is in\n{stack}");
            }
            Err(error) => bail!("{error}"),
        }
        helper.tell(&true)?;
    }
}

/// Waits until the process is gone that ends in this way.
fn gone(mut helper: Helper, how: Ending) -> Result<()> {
    if how == Ending::Kill {
        return Ok(helper.kill_within(PROMPT)?);
    }
    helper.tell(&true)?;
    let id = helper.id();
    match helper.finish(PROMPT)? {
        End::Status(0) => Ok(()),
        End::Hung => bail!("not gone; it was in\n{}", footprint::stacks(id)),
        end => bail!("it ended with {end:?}"),
    }
}

/// The process is gone that had these pages, and went before they came.
fn check_untouched(file: &SlowFile, pages: &Range<usize>) -> Result<()> {
    let start = (pages.start * PAGE) as u64;
    let mut bytes = vec![0; pages.len() * PAGE];
    file.open()?.read_exact_at(&mut bytes, start)?;
    let checked = FILE.check(start, &bytes);
    ensure!(checked.is_ok(), "written to without a page: {checked:?}");
    Ok(())
}
