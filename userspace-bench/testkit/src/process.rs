// SPDX-License-Identifier: GPL-2.0
//! Other processes: supervised ones that may hang or crash, helpers that are talked to over
//! pipes, and forked copies of this one.

use std::{
    io::{self, BufRead, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{de::DeserializeOwned, Serialize};

use crate::patience;

/// How long a killed process is waited for. It may be stuck in the driver; but on a busy host it also waits for its
/// turn.
const GRACE: Duration = Duration::from_secs(30);

/// How a supervised process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Not within its time; it was killed.
    Hung,
}

/// What became of a supervised process.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
    /// If it hung: where in the kernel each of its threads was then, the innermost function first.
    pub threads: Vec<String>,
}

/// Runs `command` for at most `limit`, as all limits here on an [ordinary kernel](patience).
pub fn supervise(mut command: Command, limit: Duration) -> io::Result<Finished> {
    let start = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut threads = Vec::new();
    let end = match wait(&mut child, limit)? {
        Some(status) => end(status),
        None => {
            threads = threads_of(child.id());
            child.kill()?;
            wait(&mut child, GRACE)?;
            End::Hung
        }
    };
    let took = start.elapsed();
    Ok(Finished {
        end,
        stdout: text(&stdout),
        stderr: text(&stderr),
        took,
        threads,
    })
}

/// Where in the kernel each thread of `process` is, as far as the kernel tells this process.
fn threads_of(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.map(|task| place(&task.path())).collect()
}

/// The innermost functions of the thread whose folder in `/proc` is `task`, and its name.
fn place(task: &Path) -> String {
    const INNERMOST: usize = 5;
    let read = |file| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    // "[<0>] function+0x12/0x34"
    let stack = read("stack");
    let functions = stack.lines().filter_map(|line| {
        let function = line.split_whitespace().nth(1)?;
        function.split('+').next()
    });
    let functions: Vec<_> = functions.take(INNERMOST).collect();
    let place = match functions.is_empty() {
        true => read("wchan"),
        false => functions.join(" < "),
    };
    format!("{}: {}", read("comm").trim(), place.trim())
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Status(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

/// Waits until `child` ends, for at most `limit`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let limit = patience::scaled(limit);
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if start.elapsed() > limit => return Ok(None),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Collects what comes from a pipe, whose other end may outlive the process.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

fn text(chunks: &mpsc::Receiver<Vec<u8>>) -> String {
    let mut all = Vec::new();
    while let Ok(chunk) = chunks.recv_timeout(Duration::from_millis(200)) {
        all.extend(chunk);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// A process of this program that plays a role and is talked to in lines of JSON.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    pending: Vec<u8>,
}

impl Helper {
    /// Starts `command`, which has to play its part on its standard input and output.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("no pipe");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Self {
            child,
            input,
            output,
            pending: Vec::new(),
        })
    }

    /// Tells it something.
    pub fn tell(&mut self, message: &impl Serialize) -> io::Result<()> {
        tell(&mut self.input, message)
    }

    /// Waits for what it has to say, for at most `limit`.
    pub fn hear<T: DeserializeOwned>(&mut self, limit: Duration) -> io::Result<T> {
        let deadline = Instant::now() + patience::scaled(limit);
        loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !readable(&self.output, left)? {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the helper says nothing",
                ));
            }
            let mut chunk = [0; 4096];
            match self.output.read(&mut chunk)? {
                0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the helper is gone",
                    ))
                }
                n => self.pending.extend(&chunk[..n]),
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn has_ended(&mut self) -> io::Result<Option<End>> {
        Ok(self.child.try_wait()?.map(end))
    }

    /// Kills it without warning, and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.kill_within(GRACE)
    }

    /// The same, for at most `limit`.
    pub fn kill_within(&mut self, limit: Duration) -> io::Result<()> {
        self.child.kill()?;
        match wait(&mut self.child, limit)? {
            Some(_) => Ok(()),
            None => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "killed, but not gone",
            )),
        }
    }

    /// Waits until it ends by itself, for at most `limit`.
    pub fn finish(mut self, limit: Duration) -> io::Result<End> {
        Ok(wait(&mut self.child, limit)?.map_or(End::Hung, end))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

/// The other side of a [`Helper`]: the process that started this one.
#[derive(Debug, Default)]
pub struct Parent;

impl Parent {
    /// Whoever started this process. When that one dies, this one is killed.
    pub fn new() -> Self {
        // SAFETY: changes nothing but this process's own setting.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Self
    }

    /// Whoever started this process, which goes on when that one dies, to find out that it speaks no more.
    pub fn outlived() -> Self {
        Self
    }

    /// Tells it something.
    pub fn tell(&self, message: &impl Serialize) -> io::Result<()> {
        tell(&mut io::stdout().lock(), message)
    }

    /// Waits for what it has to say.
    pub fn hear<T: DeserializeOwned>(&self) -> io::Result<T> {
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the parent is gone",
            ));
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Whether it has something to say.
    pub fn speaks(&self) -> io::Result<bool> {
        readable(&io::stdin(), Duration::ZERO)
    }
}

fn tell(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Waits until there is something to read, for at most `limit`.
fn readable(from: &impl AsRawFd, limit: Duration) -> io::Result<bool> {
    let mut fd = libc::pollfd {
        fd: from.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one entry, which outlives the call.
    match unsafe { libc::poll(&mut fd, 1, limit) } {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n > 0),
    }
}

/// A forked copy of this process. Killed when dropped.
#[derive(Debug)]
pub struct Forked {
    pid: libc::pid_t,
    gone: bool,
}

/// Forks. The copy runs `body` and ends with its result as exit status.
///
/// This process must have no other threads: `body` may then use whatever it likes. The verbs
/// objects still belong to the parent; `body` may look at memory only.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Forked> {
    assert_eq!(
        threads()?,
        1,
        "a process with several threads cannot be forked safely"
    );
    fork_thread(body)
}

/// The same of a process that may have other threads, of which the copy has only the one that calls: `body` must not
/// wait for anything that one of the others may have held, but for the allocator's locks, which the C library releases
/// in the copy.
pub fn fork_thread(body: impl FnOnce() -> i32) -> io::Result<Forked> {
    // SAFETY: the copy goes on as this thread; what others held at this moment it does not wait for, as said.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the copy without running what belongs to the parent.
            unsafe { libc::_exit(status.unwrap_or(101)) }
        }
        pid => Ok(Forked { pid, gone: false }),
    }
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

impl Forked {
    /// Kills it.
    pub fn kill(&self) {
        // SAFETY: the process is a child of this one that has not been reaped.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits until it ends, for at most `limit`.
    pub fn finish(mut self, limit: Duration) -> io::Result<End> {
        let limit = patience::scaled(limit);
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(end) = self.reap(libc::WNOHANG)? {
                return Ok(end);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(End::Hung)
    }

    /// Waits until it ends, however long that takes.
    pub fn end(mut self) -> io::Result<End> {
        loop {
            match self.reap(0) {
                Ok(Some(end)) => return Ok(end),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    fn reap(&mut self, flags: i32) -> io::Result<Option<End>> {
        let mut status = 0;
        // SAFETY: the process is a child of this one that has not been reaped.
        match unsafe { libc::waitpid(self.pid, &mut status, flags) } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            _ => {
                self.gone = true;
                Ok(Some(end(ExitStatus::from_raw(status))))
            }
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.gone {
            self.kill();
            let _ = self.reap(0);
        }
    }
}

/// A gate between two processes that were one when it was made: one opens it, the other waits.
#[derive(Debug)]
pub struct Gate {
    opener: UnixStream,
    waiter: UnixStream,
}

impl Gate {
    /// A gate that is shut.
    pub fn new() -> io::Result<Self> {
        let (opener, waiter) = UnixStream::pair()?;
        Ok(Self { opener, waiter })
    }

    /// Lets one waiter through.
    pub fn open(&self) -> io::Result<()> {
        (&self.opener).write_all(&[1])
    }

    /// Waits until the gate is opened.
    pub fn wait(&self) -> io::Result<()> {
        (&self.waiter).read_exact(&mut [0])
    }
}

/// Lets the kernel's threads go first wherever they compete with this process for a processor.
///
/// Soft-RoCE does its work in kernel threads. One that is queued behind a process that polls for
/// its result waits for the end of a time slice: a write then takes twenty times as long.
pub fn defer_to_kernel() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter outlives the call. If it is refused, things are slower.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
}

/// The command that starts this very program again.
pub fn this_program() -> Command {
    Command::new("/proc/self/exe")
}
