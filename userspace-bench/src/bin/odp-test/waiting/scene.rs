// SPDX-License-Identifier: GPL-2.0
//! The ways in which a queue pair, or a process, comes to wait for a page. Each is set up by itself: the memory
//! of a file whose pages may be withheld, pinned memory, and what moves data from one to the other.

use std::{fs::File, sync::Arc, thread};

use anyhow::{anyhow, bail, ensure, Context as _, Result};
use odp_verbs::{
    env::{Buffer, Env, Mode},
    loopback::GRH,
    memory::{Backing, Mapping, Protection, PAGE},
    patience,
    pattern::{compare, Pattern},
    verbs::{
        Access, Advise, Binding, CompletionQueue, Op, QpConfig, QueuePair, SharedReceiveQueue,
        Status, Transport, Window, WindowType, PREFETCH_FLUSH,
    },
};
use serde::{Deserialize, Serialize};

/// What the file has, and what the pinned memory has that goes there.
pub const FILE: Pattern = Pattern::new(41);
const GIVEN: Pattern = Pattern::new(42);
/// Where in its page a message is, in the file's memory and in the pinned one: odd, but for atomic operations.
const AT: usize = 13;
const NEAR_AT: usize = 21;
const ALIGNED: usize = 16;
/// How long a message is: one packet.
const LEN: usize = 700;
/// What is added by an atomic operation.
const ADD: u64 = 0x0123_4567_89ab_cdef;

/// Who waits, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A requester, for the data of a WRITE.
    WriteSource,
    /// A requester, for the data of a message.
    SendSource,
    /// A requester, for the data of a datagram.
    DatagramSource,
    /// A requester, for what a READ has brought.
    ReadTarget,
    /// The same, for an atomic operation.
    AtomicResult,
    /// A responder, for the target of a WRITE.
    WriteTarget,
    /// A responder, for what a READ asks for.
    ReadSource,
    /// A responder, for the target of an atomic operation.
    AtomicTarget,
    /// A responder, for the target of a WRITE through a window.
    Window,
    /// A receiver, for where the message goes.
    Receive,
    /// The same, with receives that are shared.
    SharedReceive,
    /// The same, on a connection that never sends twice.
    UnreliableReceive,
    /// The same, of a datagram.
    DatagramReceive,
    /// A responder, for the target of a WRITE on a connection that never sends twice.
    UnreliableWriteTarget,
    /// A process that wants to know when its prefetch is done.
    PrefetchAndWait,
    /// A prefetch in the background.
    Prefetch,
}

use Kind::*;

impl Kind {
    /// Whether there is a queue pair that waits, and not only the process.
    pub fn has_queue_pairs(self) -> bool {
        !matches!(self, PrefetchAndWait | Prefetch)
    }

    fn transport(self) -> Transport {
        match self {
            DatagramSource | DatagramReceive => Transport::Ud,
            UnreliableReceive | UnreliableWriteTarget => Transport::Uc,
            _ => Transport::Rc,
        }
    }

    /// Whether the data comes out of the file's memory.
    fn reads(self) -> bool {
        let reads = [
            WriteSource,
            SendSource,
            DatagramSource,
            ReadSource,
            AtomicTarget,
        ];
        reads.contains(&self) || !self.has_queue_pairs()
    }

    fn is_atomic(self) -> bool {
        matches!(self, AtomicResult | AtomicTarget)
    }

    /// Whether the message is one that is received.
    fn is_received(self) -> bool {
        let received = [
            SendSource,
            DatagramSource,
            Receive,
            SharedReceive,
            UnreliableReceive,
            DatagramReceive,
        ];
        received.contains(&self)
    }

    fn len(self) -> usize {
        if self.is_atomic() {
            8
        } else {
            LEN
        }
    }

    /// How many bytes come before those of the message.
    fn header(self) -> usize {
        match self {
            DatagramSource | DatagramReceive => GRH,
            _ => 0,
        }
    }

    /// Where message `n` is in the file's memory. The first page has none.
    fn far(self, n: usize) -> usize {
        (n + 1) * PAGE + if self.is_atomic() { ALIGNED } else { AT }
    }

    /// Where it is in the pinned memory.
    fn near(self, n: usize) -> usize {
        n * PAGE + if self.is_atomic() { ALIGNED } else { NEAR_AT }
    }
}

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
    window: Option<Window>,
    receives: Option<Arc<SharedReceiveQueue>>,
    /// The file's memory.
    pub far: Option<Buffer>,
    near: Buffer,
    prefetches: Vec<thread::JoinHandle<Result<()>>>,
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
        let window = odp_verbs::verbs::Window::new(&env.domain, WindowType::One)?;
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
            Ok(domain.advise(Advise::PrefetchWrite, PREFETCH_FLUSH, &[sge])?)
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
        let answered = self.kind.has_queue_pairs() && self.kind.transport() == Transport::Rc;
        if answered || self.kind == DatagramSource {
            let end = self.first()?.completions().poll()?;
            ensure!(end.is_none(), "done without the page: {end:?}");
        }
        Ok(())
    }

    /// Waits until all that was started has ended well, in order, and checks where every byte went.
    pub fn finish(&mut self, env: &Env) -> Result<()> {
        for prefetch in self.prefetches.drain(..) {
            let done = prefetch.join();
            done.map_err(|_| anyhow!("the prefetch panicked"))??;
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
        let deadline = std::time::Instant::now() + patience::scaled(env.patience);
        loop {
            match self.check() {
                Err(_)
                    if self.kind == UnreliableWriteTarget
                        && std::time::Instant::now() < deadline =>
                {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    /// The prefetched pages are what the file has, to the NIC, too.
    fn check_prefetched(&self, env: &Env) -> Result<()> {
        let far = self.far.as_ref().context("no memory")?;
        let len = self.near.memory.len();
        env.rc()?.read(far.remote(0), self.near.sge(0, len))?;
        Ok(self.near.check(FILE, 0, len)?)
    }

    /// Every byte of both memories.
    fn check(&self) -> Result<()> {
        let far = self.far.as_ref().context("no memory")?;
        let (kind, len) = (self.kind, self.near.memory.len());
        let mut theirs = FILE.bytes(0, len);
        let mut ours = match kind.reads() {
            true => vec![0; len],
            false => GIVEN.bytes(0, len),
        };
        let (theirs_found, ours_found) = (far.memory.bytes(0, len), self.near.memory.bytes(0, len));
        for n in 0..self.messages {
            let (from, to) = match kind.reads() {
                true => ((&mut theirs, kind.far(n)), (&mut ours, kind.near(n))),
                false => ((&mut ours, kind.near(n)), (&mut theirs, kind.far(n))),
            };
            let (at, header) = (to.1, kind.header());
            // Before a datagram is something of which only a part is specified.
            let found = match kind.reads() {
                true => &ours_found,
                false => &theirs_found,
            };
            to.0[at..at + header].copy_from_slice(&found[at..at + header]);
            let message = from.1..from.1 + kind.len();
            to.0[at + header..][..kind.len()].copy_from_slice(&from.0[message.clone()]);
            if kind.is_atomic() {
                let word = from.0[message.clone()].try_into()?;
                let sum = u64::from_ne_bytes(word).wrapping_add(ADD);
                from.0[message].copy_from_slice(&sum.to_ne_bytes());
            }
        }
        compare(&theirs, &theirs_found).context("the memory of the file")?;
        compare(&ours, &ours_found).context("the pinned memory")?;
        Ok(())
    }

    /// Deallocates the window, if there is one.
    pub fn deallocate_window(&mut self) -> Result<()> {
        if let Some(window) = self.window.take() {
            window.deallocate()?;
        }
        Ok(())
    }

    /// Deregisters the file's memory, which is still mapped, and the window on it before.
    pub fn deregister(&mut self) -> Result<()> {
        self.deallocate_window()?;
        let Some(Buffer { region, memory, .. }) = self.far.take() else {
            bail!("no memory");
        };
        // For as long as the process lives.
        std::mem::forget(memory);
        let region = Arc::into_inner(region).context("the region is in use here")?;
        Ok(region.deregister()?)
    }
}

fn add(at: odp_verbs::verbs::Remote) -> Op {
    Op::FetchAdd { at, add: ADD }
}
