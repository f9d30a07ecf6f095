// SPDX-License-Identifier: GPL-2.0
//! The files whose pages are late, and the process that serves them: a process that waits for its own file system
//! cannot be killed.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    ops::Range,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        Mutex, PoisonError,
    },
    thread,
    time::Duration,
};

use anyhow::{ensure, Context as _, Result};
use odp_fixture::env::Mode;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use testkit::{
    memory::PAGE,
    process::{self, Helper, Parent},
    slow_file::SlowFile,
};

use crate::{
    dice::Dice,
    ground::{GIVEN, SIZE},
};

/// The part of the process with the files.
pub const ROLE: &str = "slow";

/// How long it may take until an order is carried out.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than the storm the files are there.
const AFTERWARDS: Duration = Duration::from_secs(300);

/// What the process is told first.
#[derive(Serialize, Deserialize)]
struct Task {
    seed: u64,
    seconds: u64,
}

/// What it is told to do; it answers when it has.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Take these pages of the file with this number out of memory.
    Evict(usize, Range<usize>),
    /// The same, and have nobody get them.
    Fail(usize, Range<usize>),
    /// They can be had again.
    Mend(usize, Range<usize>),
    /// From now on nothing takes any time.
    Hurry,
    /// Give the files up, and end.
    Leave,
}

/// Which file regions of `mode` are of.
pub fn number(mode: Mode) -> usize {
    usize::from(mode == Mode::Implicit)
}

/// The files, of which each mode has one.
#[derive(Debug)]
pub struct SlowFiles {
    files: Vec<File>,
    process: Mutex<Helper>,
}

impl SlowFiles {
    /// Starts the process, for a storm that lasts so many seconds.
    pub fn new(seed: u64, seconds: u64) -> Result<Self> {
        let mut command = process::this_program();
        command.args(["--role", ROLE]);
        let mut process = Helper::spawn(command)?;
        process.tell(&Task { seed, seconds })?;
        let paths: Vec<PathBuf> = process.hear(PATIENCE).context("the slow files")?;
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let files: Result<_, _> = paths.iter().map(open).collect();
        Ok(Self {
            files: files.context("a slow file")?,
            process: Mutex::new(process),
        })
    }

    /// The file for regions of `mode`.
    pub fn of(&self, mode: Mode) -> Result<&File> {
        self.files.get(number(mode)).context("no file")
    }

    /// Has `order` carried out.
    pub fn ask(&self, order: &Order) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.tell(order)?;
        let error: Option<String> = process.hear(PATIENCE)?;
        ensure!(error.is_none(), "{order:?}: {error:?}");
        Ok(())
    }
}

impl Drop for SlowFiles {
    fn drop(&mut self) {
        // So that nothing stays mounted. It may have gone already.
        let _ = self.ask(&Order::Leave);
    }
}

/// Plays [`ROLE`], until it is told to end or the process that started this one has gone.
pub fn play() -> Result<()> {
    let parent = Parent::outlived();
    let Task { seed, seconds } = parent.hear()?;
    let life = Duration::from_secs(seconds) + AFTERWARDS;
    let file = |_| -> Result<SlowFile> {
        let file = SlowFile::lasting(SIZE / PAGE, GIVEN, life)?;
        file.hold(0..SIZE / PAGE);
        Ok(file)
    };
    let files: Vec<_> = Mode::ON_DEMAND.iter().map(file).collect::<Result<_>>()?;
    let paths: Vec<_> = files.iter().map(SlowFile::path).collect();
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| let_go(&files, &over, Dice::seed_from_u64(seed)));
        let ended = parent.tell(&paths).map_err(Into::into);
        let ended = ended.and_then(|()| obey(&parent, &files));
        over.store(true, Ordering::Relaxed);
        ended
    })?;
    drop(files);
    // Nobody hears that if the other process has gone.
    let _ = parent.tell(&None::<String>);
    Ok(())
}

/// Does what it is told to, until there is nothing more to do.
fn obey(parent: &Parent, files: &[SlowFile]) -> Result<()> {
    loop {
        let order = match parent.hear() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Order::Leave) => return Ok(()),
            order => order?,
        };
        let done = carry_out(order, files);
        parent.tell(&done.err().map(|error| format!("{error:#}")))?;
    }
}

fn carry_out(order: Order, files: &[SlowFile]) -> Result<()> {
    let file = |number: usize| files.get(number).context("no such file");
    match order {
        Order::Evict(number, pages) => file(number)?.evict(pages)?,
        Order::Fail(number, pages) => {
            file(number)?.evict(pages.clone())?;
            file(number)?.fail(pages);
        }
        Order::Mend(number, pages) => file(number)?.mend(pages),
        Order::Hurry | Order::Leave => files.iter().for_each(SlowFile::release),
    }
    Ok(())
}

/// Lets those go on who wait, some sooner, some later.
fn let_go(files: &[SlowFile], over: &AtomicBool, mut dice: Dice) {
    while !over.load(Ordering::Relaxed) {
        thread::sleep(pause(&mut dice));
        for file in files {
            let of = dice.random_range(1..6);
            file.let_go(|_| dice.random_ratio(1, of));
        }
    }
    files.iter().for_each(SlowFile::release);
}

/// A few milliseconds, now and then far more.
pub fn pause(dice: &mut Dice) -> Duration {
    Duration::from_micros(match dice.random_range(0..100) {
        0 => dice.random_range(50_000..300_000),
        _ => dice.random_range(100..5000),
    })
}
