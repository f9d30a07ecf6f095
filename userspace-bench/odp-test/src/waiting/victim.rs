// SPDX-License-Identifier: GPL-2.0
//! A process that waits for pages, and that is told what to end meanwhile. It is another one than the one that
//! withholds the pages: whatever it is stuck in, the pages can be given up, and then it goes on.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{
    env::{Env, Mode},
    waiting::{Ending, Extent, Kind, Scene},
};
use serde::{Deserialize, Serialize};
use testkit::process::{self, Helper, Parent};

use super::PROMPT;
use crate::harness::{self, Options};

/// Its part.
pub const ROLE: &str = "victim";

/// What a victim is told first.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// What waits.
    pub kind: Kind,
    /// The file that it waits for. Each operation is on a page of its own.
    pub file: PathBuf,
    /// How many of that kind there are.
    pub scenes: usize,
    /// How many operations each starts.
    pub messages: usize,
}

impl Plan {
    /// One of `kind` that waits for one page.
    pub fn new(kind: Kind, file: PathBuf) -> Self {
        Self {
            kind,
            file,
            scenes: 1,
            messages: 1,
        }
    }

    /// How many pages the file has to have.
    pub fn pages(&self) -> usize {
        self.scenes * self.messages + 2
    }
}

/// What it says when something has ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    error: Option<String>,
    /// How long that took, and how long the process was on a processor.
    took: Duration,
    busy: Duration,
}

/// Such a process.
pub struct Victim(Helper);

impl Victim {
    /// Starts it, as the user `uid` if there is one, and gives it when its operations are under way.
    pub fn start(env: &Env, uid: Option<u32>, plan: &Plan) -> Result<Self> {
        let mut helper = Helper::spawn(role(env, ROLE, uid))?;
        helper.tell(plan)?;
        let begun: String = helper.hear(Duration::from_secs(60)).context("a victim")?;
        ensure!(begun == "begun", "a victim says {begun}");
        Ok(Self(helper))
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Has something end, promptly; only what kills the process needs no answer.
    pub fn ends(&mut self, ending: Ending) -> Result<()> {
        let context = || format!("{ending:?}");
        if ending == Ending::Kill {
            return self.0.kill_within(PROMPT).with_context(context);
        }
        self.0.tell(&ending)?;
        if ending == Ending::Exit {
            return gone(&mut self.0).with_context(context);
        }
        let Ended { error, took, busy } = self.0.hear(PROMPT).with_context(context)?;
        if let Some(error) = error {
            bail!("{ending:?}: {error}");
        }
        // What is over at once may have been busy all the time.
        ensure!(
            took < Duration::from_millis(500) || busy < took / 2,
            "{ending:?}: busy for {busy:?} of {took:?}"
        );
        Ok(())
    }
}

/// The command that plays `part` of these tests, as the user `uid` if there is one.
pub fn role(env: &Env, part: &str, uid: Option<u32>) -> std::process::Command {
    use std::os::unix::process::CommandExt as _;

    let mut command = harness::role(env, &format!("{}{part}", super::ROLES));
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command
}

/// Waits until a process that was told to exit is gone.
pub fn gone(helper: &mut Helper) -> Result<()> {
    let start = Instant::now();
    loop {
        match helper.has_ended()? {
            Some(process::End::Status(0)) => return Ok(()),
            Some(end) => bail!("it ended with {end:?}"),
            None if start.elapsed() > testkit::patience::scaled(PROMPT) => bail!("not gone"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Plays [`ROLE`].
pub fn play(options: &Options) -> Result<()> {
    process::defer_to_kernel();
    let parent = Parent::new();
    let plan: Plan = parent.hear()?;
    let env = options.open()?;
    let file = OpenOptions::new().read(true).write(true).open(&plan.file);
    let file = file.with_context(|| plan.file.display().to_string())?;
    let mut scenes = Vec::new();
    for n in 0..plan.scenes {
        let extent = Extent {
            file: plan.pages(),
            before: n * plan.messages,
            messages: plan.messages,
        };
        scenes.push(Scene::new(&env, Mode::Explicit, plan.kind, &file, extent)?);
    }
    for scene in &mut scenes {
        (0..plan.messages).try_for_each(|_| scene.post())?;
    }
    parent.tell(&"begun")?;
    loop {
        let ending: Ending = parent.hear()?;
        if ending == Ending::Exit {
            // Without dropping anything.
            std::process::exit(0);
        }
        let (start, before) = (Instant::now(), busy()?);
        let result = scenes.iter_mut().try_for_each(|scene| ending.end(scene));
        parent.tell(&Ended {
            error: result.err().map(|error| format!("{error:#}")),
            took: start.elapsed(),
            busy: busy()?.saturating_sub(before),
        })?;
    }
}

/// How long this process was on a processor until now, in the kernel or not.
fn busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name, which comes before, may contain anything.
    let fields = stat.rsplit(')').next().context("no fields")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("no time")?.parse()?) };
    let ticks = ticks()? + ticks()?;
    // The kernel counts them in hundredths of a second for everybody.
    Ok(Duration::from_millis(10 * ticks))
}
