// SPDX-License-Identifier: GPL-2.0
//! The ways in which a queue pair, or a process, comes to wait for a page. Each is set up by itself: the memory
//! of a file whose pages may be withheld, pinned memory, and what moves data from one to the other.

use std::{
    fs::File,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure, Context as _, Result};

use super::kind::{Kind, Kind::*};
use crate::{
    env::{Buffer, Env, Mode},
    memory::{Backing, Mapping, Protection, PAGE},
    patience,
    pattern::{compare, Pattern},
    verbs::{
        self, Access, Advise, Binding, CompletionQueue, Op, QpConfig, QueuePair, Remote,
        SharedReceiveQueue, Status, WindowType, PREFETCH_FLUSH,
    },
};

/// What the file has, and what the pinned memory has that goes there.
pub const FILE: Pattern = Pattern::new(41);
const GIVEN: Pattern = Pattern::new(42);
/// What is added by an atomic operation.
const ADD: u64 = 0x0123_4567_89ab_cdef;

/// The page that message `n` of the first scene is on.
pub fn page(n: usize) -> usize {
    n + 1
}

/// How much there is, in pages.
#[derive(Clone, Copy)]
pub struct Extent {
    /// Of the file.
    pub file: usize,
    /// Of it before the scene's first message, but for the one without a message.
    pub before: usize,
    /// Messages.
    pub messages: usize,
}

impl Extent {
    /// A page before, one after, and these in between.
    pub fn of(messages: usize) -> Self {
        Self {
            file: messages + 2,
            before: 0,
            messages,
        }
    }
}

/// One way to wait, ready for it.
pub struct Scene {
    kind: Kind,
    before: usize,
    messages: usize,
    /// The one that is asked for operations.
    pub first: Option<QueuePair>,
    /// Its peer.
    pub second: Option<QueuePair>,
    window: Option<verbs::Window>,
    receives: Option<Arc<SharedReceiveQueue>>,
    far: Option<Buffer>,
    /// The file's memory, once it is not registered any more: mapped for as long as the scene lives.
    kept: Option<Mapping>,
    near: Buffer,
    prefetches: Vec<thread::JoinHandle<verbs::Result<()>>>,
}

impl Scene {
    /// With memory of `file`.
    pub fn new(env: &Env, mode: Mode, kind: Kind, file: &File, extent: Extent) -> Result<Self> {
        let len = extent.file * PAGE;
        let memory = Mapping::new(len, Backing::Shared(file), Protection::ReadWrite)?;
        let access = match kind {
            Window => Access::ALL | Access::MW_BIND,
            _ => Access::ALL,
        };
        let far = env.cover(mode, memory, access)?;
        let near_len = (extent.messages + 2) * PAGE;
        let near = env.buffer(Mode::Pinned, near_len)?;
        if !kind.reads() {
            near.fill(GIVEN, 0, near_len);
        }
        let mut scene = Self {
            kind,
            before: extent.before,
            messages: 0,
            first: None,
            second: None,
            window: None,
            receives: None,
            far: None,
            kept: None,
            near,
            prefetches: Vec::new(),
        };
        if kind.has_queue_pairs() {
            scene.connect(env)?;
        }
        if kind == Window {
            scene.bind(env, &far)?;
        }
        scene.far = Some(far);
        Ok(scene)
    }

    fn connect(&mut self, env: &Env) -> Result<()> {
        let config = QpConfig {
            depth: 4,
            // Not at once: who is not ready takes a while here.
            rnr_timer: 12,
            ..QpConfig::new(self.kind.transport())
        };
        if self.kind == SharedReceive {
            self.receives = Some(SharedReceiveQueue::new(&env.domain, config.depth, 1)?);
        }
        let queue = || CompletionQueue::new(&env.context, 2 * config.depth);
        let first = QueuePair::new(&env.domain, &queue()?, env.gid, config)?;
        let receives = self.receives.as_ref();
        let second = QueuePair::with_receives(&env.domain, &queue()?, env.gid, config, receives)?;
        first.connect(&second.endpoint()?, env.mtu)?;
        second.connect(&first.endpoint()?, env.mtu)?;
        (self.first, self.second) = (Some(first), Some(second));
        Ok(())
    }

    fn bind(&mut self, env: &Env, far: &Buffer) -> Result<()> {
        let window = verbs::Window::new(&env.domain, WindowType::One)?;
        let binding = Binding {
            region: &far.region,
            addr: far.memory.at(0),
            len: far.memory.len() as u64,
            access: Access::REMOTE_WRITE,
        };
        let second = self.second.as_ref().context("no queue pair")?;
        window.post_bind(second, 0, binding)?;
        let bound = second.completions().wait(env.patience)?;
        bound.expect(&[Status::SUCCESS])?;
        self.window = Some(window);
        Ok(())
    }

    /// Starts the next message.
    pub fn post(&mut self) -> Result<()> {
        let (kind, n) = (self.kind, self.messages);
        self.messages += 1;
        let far = self.far.as_ref().context("no memory")?;
        let (id, len) = (n as u64, kind.len());
        let (at, near_at) = (kind.far(self.before + n), kind.near(n));
        let (theirs, ours) = (far.sge(at, len), self.near.sge(near_at, len));
        if !kind.has_queue_pairs() {
            return self.prefetch();
        }
        if kind.is_received() {
            let room = kind.header() + len;
            let to = match kind.reads() {
                true => self.near.sge(near_at, room),
                false => far.sge(at, room),
            };
            match &self.receives {
                Some(receives) => receives.post_recv(id, &[to])?,
                None => self.second()?.post_recv(id, &[to])?,
            }
        }
        let (op, sge) = match kind {
            WriteSource => (Op::Write(self.near.remote(near_at)), theirs),
            ReadTarget => (Op::Read(self.near.remote(near_at)), theirs),
            AtomicResult => (add(self.near.remote(near_at)), theirs),
            WriteTarget | UnreliableWriteTarget => (Op::Write(far.remote(at)), ours),
            ReadSource => (Op::Read(far.remote(at)), ours),
            AtomicTarget => (add(far.remote(at)), ours),
            Window => {
                let window = self.window.as_ref().context("no window")?;
                (Op::Write(window.remote(far.memory.at(at))), ours)
            }
            SendSource | DatagramSource => (Op::Send, theirs),
            _ => (Op::Send, ours),
        };
        Ok(self.first()?.post_send(id, op, &[sge])?)
    }

    /// Prefetches the page of the last message.
    fn prefetch(&mut self) -> Result<()> {
        let far = self.far.as_ref().context("no memory")?;
        let sge = far.sge(page(self.before + self.messages - 1) * PAGE, PAGE);
        let domain = far.region.domain().clone();
        if self.kind == Prefetch {
            return Ok(domain.advise(Advise::PrefetchWrite, 0, &[sge])?);
        }
        self.prefetches.push(thread::spawn(move || {
            domain.advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[sge])
        }));
        Ok(())
    }

    fn first(&self) -> Result<&QueuePair> {
        self.first.as_ref().context("no queue pair")
    }

    fn second(&self) -> Result<&QueuePair> {
        self.second.as_ref().context("no queue pair")
    }

    /// Checks that nobody says that a message has arrived.
    pub fn check_waits(&self) -> Result<()> {
        let ended = self.prefetches.first().is_some_and(|one| one.is_finished());
        ensure!(!ended, "the prefetch ended without the page");
        if self.kind.is_received() {
            let end = self.second()?.completions().poll()?;
            ensure!(end.is_none(), "received without the page: {end:?}");
        }
        // Who sends without an answer is done when the packet is gone, wherever it goes.
        if self.kind.is_answered() {
            let end = self.first()?.completions().poll()?;
            ensure!(end.is_none(), "done without the page: {end:?}");
        }
        Ok(())
    }

    /// Waits until the prefetches have ended that are waited for, and says how each did.
    pub fn join_prefetches(&mut self) -> Result<Vec<verbs::Result<()>>> {
        let all = self.prefetches.drain(..).map(thread::JoinHandle::join);
        let all: std::result::Result<_, _> = all.collect();
        all.map_err(|_| anyhow!("a prefetch panicked"))
    }

    /// How one waits here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many messages have been started.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Waits until all that was started has ended well, in order, and checks where every byte went.
    pub fn finish(&mut self, env: &Env) -> Result<()> {
        for done in self.join_prefetches()? {
            done?;
        }
        if !self.kind.has_queue_pairs() {
            return self.check_prefetched(env);
        }
        let mut queues = vec![self.first()?.completions()];
        if self.kind.is_received() {
            queues.push(self.second()?.completions());
        }
        for queue in queues {
            for n in 0..self.messages {
                let end = queue.wait(env.patience)?.expect(&[Status::SUCCESS])?;
                ensure!(end.id == n as u64, "{} ended in the place of {n}", end.id);
            }
        }
        // Nobody says when the last one of these is there.
        let silent = self.kind == UnreliableWriteTarget;
        let deadline = Instant::now() + patience::scaled(env.patience);
        loop {
            match self.check() {
                Err(_) if silent && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    /// The prefetched pages are what the file has, to the NIC, too.
    fn check_prefetched(&self, env: &Env) -> Result<()> {
        let far = self.far.as_ref().context("no memory")?;
        let (start, len) = (self.before * PAGE, self.near.memory.len());
        env.rc()?.read(far.remote(start), self.near.sge(0, len))?;
        Ok(self.near.check_from(FILE, start, 0, len)?)
    }

    /// Every byte of both memories, when all messages have got through.
    fn check(&self) -> Result<()> {
        let found = self.found()?;
        let wanted = self.after(&found)?;
        compare(&wanted.theirs, &found.theirs).context("the memory of the file")?;
        compare(&wanted.ours, &found.ours).context("the pinned memory")?;
        Ok(())
    }

    /// Every byte of both memories, when some of the messages may have got through: none, if what touches the
    /// file's memory was gone before its pages came.
    pub fn check_interrupted(&self, gone: bool) -> Result<()> {
        let (found, before) = (self.found()?, self.before()?);
        let after = match self.kind.has_queue_pairs() {
            true => self.after(&found)?,
            false => self.before()?,
        };
        // The operation has been done when its result is waited for.
        let ours_gone = gone && self.kind != AtomicResult;
        either(
            &before.theirs,
            (!gone).then_some(&after.theirs),
            &found.theirs,
        )
        .context("the memory of the file")?;
        either(
            &before.ours,
            (!ours_gone).then_some(&after.ours),
            &found.ours,
        )
        .context("the pinned memory")
    }

    fn memory(&self) -> Result<&Mapping> {
        let registered = self.far.as_ref().map(|far| &far.memory);
        registered.or(self.kept.as_ref()).context("no memory")
    }

    /// What is in both memories.
    fn found(&self) -> Result<Contents> {
        let len = self.near.memory.len();
        Ok(Contents {
            theirs: self.memory()?.bytes(self.before * PAGE, len),
            ours: self.near.memory.bytes(0, len),
        })
    }

    /// What was there before the first message.
    fn before(&self) -> Result<Contents> {
        let len = self.near.memory.len();
        Ok(Contents {
            theirs: FILE.bytes((self.before * PAGE) as u64, len),
            ours: match self.kind.reads() {
                true => vec![0; len],
                false => GIVEN.bytes(0, len),
            },
        })
    }

    /// What is there after the last one. What comes before a datagram, of which only a part is specified, is as
    /// in `found`.
    fn after(&self, found: &Contents) -> Result<Contents> {
        let kind = self.kind;
        let Contents {
            mut theirs,
            mut ours,
        } = self.before()?;
        for n in 0..self.messages {
            let (far, near) = (kind.far(n), kind.near(n));
            let (from, to, found) = match kind.reads() {
                true => ((&mut theirs, far), (&mut ours, near), &found.ours),
                false => ((&mut ours, near), (&mut theirs, far), &found.theirs),
            };
            let (at, header) = (to.1, kind.header());
            to.0[at..at + header].copy_from_slice(&found[at..at + header]);
            let message = from.1..from.1 + kind.len();
            to.0[at + header..][..kind.len()].copy_from_slice(&from.0[message.clone()]);
            if kind.is_atomic() {
                let word = from.0[message.clone()].try_into()?;
                let sum = u64::from_ne_bytes(word).wrapping_add(ADD);
                from.0[message].copy_from_slice(&sum.to_ne_bytes());
            }
        }
        Ok(Contents { theirs, ours })
    }

    /// Deregisters the file's memory, which is still mapped, and the window on it before.
    pub fn deregister(&mut self) -> Result<()> {
        self.deallocate_window()?;
        let Some(Buffer { region, memory, .. }) = self.far.take() else {
            bail!("no memory");
        };
        self.kept = Some(memory);
        let region = Arc::into_inner(region).context("the region is in use here")?;
        Ok(region.deregister()?)
    }

    /// Deallocates the window, if there is one.
    pub fn deallocate_window(&mut self) -> Result<()> {
        match self.window.take() {
            Some(window) => Ok(window.deallocate()?),
            None => Ok(()),
        }
    }
}

/// What is in the file's memory, as far as it is the scene's, and in the pinned one.
struct Contents {
    theirs: Vec<u8>,
    ours: Vec<u8>,
}

/// Checks that each byte of `found` is as it was or as it is to become, if that may be.
fn either(before: &[u8], after: Option<&Vec<u8>>, found: &[u8]) -> Result<()> {
    let after = after.map_or(before, Vec::as_slice);
    let pairs = before.iter().zip(after);
    let wanted: Vec<_> = pairs
        .zip(found)
        .map(|((old, new), found)| if found == new { *new } else { *old })
        .collect();
    Ok(compare(&wanted, found)?)
}

fn add(at: Remote) -> Op {
    Op::FetchAdd { at, add: ADD }
}
