// SPDX-License-Identifier: GPL-2.0
//! Child processes: none outlives this program but a copy of it that says so, and a logged one shows its progress.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, killpg, Signal};
use nix::unistd::Pid;

use crate::clock::Clock;
use crate::failure::{self, status};
use crate::ui::Step;

/// How long a copy of this program may take to end what is its own.
const TWIN: Duration = Duration::from_secs(20);

/// Process groups that an interrupt has to end, and directories that it has to remove.
static LIVE: Mutex<Live> = Mutex::new(Live {
    groups: BTreeSet::new(),
    twins: BTreeSet::new(),
    scratch: BTreeSet::new(),
    terminal: None,
    quiet: false,
});

struct Live {
    groups: BTreeSet<i32>,
    /// Copies of this program, which end what is theirs.
    twins: BTreeSet<i32>,
    scratch: BTreeSet<PathBuf>,
    terminal: Option<nix::sys::termios::Termios>,
    quiet: bool,
}

fn live() -> std::sync::MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Ends every child and removes the scratch directories when the user interrupts the program.
/// What an interrupted build leaves in the cache is swept by the next call.
pub(crate) fn install_interrupt_handler() -> Result<()> {
    ctrlc::set_handler(|| {
        if !live().quiet {
            crate::ui::line("\ninterrupted");
        }
        end_everything();
        std::process::exit(status::INTERRUPTED);
    })
    .context("installing the signal handler")
}

/// Has the program say nothing of an interrupt: whoever has started it does.
pub(crate) fn be_interrupted_quietly() {
    live().quiet = true;
}

fn end_everything() {
    let live = live();
    for twin in &live.twins {
        end_twin(Pid::from_raw(*twin));
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for group in &live.groups {
            let _ = killpg(Pid::from_raw(*group), signal);
        }
        if !live.groups.is_empty() {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    for dir in &live.scratch {
        let _ = std::fs::remove_dir_all(dir);
    }
    if let Some(terminal) = &live.terminal {
        restore_terminal(terminal);
    }
}

/// Has a copy of this program end, and waits until it has, for [`TWIN`].
fn end_twin(twin: Pid) {
    let _ = kill(twin, Signal::SIGTERM);
    let started = Instant::now();
    // Not `waitpid`: the child may be waited for elsewhere. One that has ended and that nobody has waited for has no
    // command line any more.
    let command = PathBuf::from(format!("/proc/{twin}/cmdline"));
    while std::fs::read(&command).is_ok_and(|words| !words.is_empty()) {
        if started.elapsed() > TWIN {
            let _ = kill(twin, Signal::SIGKILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn restore_terminal(settings: &nix::sys::termios::Termios) {
    let _ = nix::sys::termios::tcsetattr(
        std::io::stdin(),
        nix::sys::termios::SetArg::TCSANOW,
        settings,
    );
}

/// The terminal in raw mode; put back when dropped, or by an interrupt.
pub(crate) struct RawTerminal(nix::sys::termios::Termios);

impl RawTerminal {
    /// Switches standard input's terminal to raw mode.
    pub(crate) fn enter() -> Result<Self> {
        use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg};
        let before = tcgetattr(std::io::stdin()).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).context("setting raw mode")?;
        live().terminal = Some(before.clone());
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore_terminal(&self.0);
        live().terminal = None;
    }
}

/// A directory for one run's files, removed when dropped or on interrupt.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes a scratch directory in `parent`, its name led by this process's id.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(parent)
            .with_context(|| format!("making a directory in {}", parent.display()))?;
        goes_on_interrupt(dir.path());
        Ok(Self(dir))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        stays_on_interrupt(self.0.path());
    }
}

/// Has an interrupt remove a directory.
pub(crate) fn goes_on_interrupt(dir: &Path) {
    live().scratch.insert(dir.to_owned());
}

/// An interrupt does not remove it any more.
pub(crate) fn stays_on_interrupt(dir: &Path) {
    live().scratch.remove(dir);
}

/// Has the kernel send `signal` to what `command` starts when this program ends, however that happens.
pub(crate) fn ends_with_us(command: &mut Command, signal: Signal) {
    // SAFETY: `prctl` is async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command
            .pre_exec(move || nix::sys::prctl::set_pdeathsig(signal).map_err(std::io::Error::from))
    };
}

/// A copy of this program, in a session of its own: what is typed on the terminal is not for it. It ends with this one
/// until it says otherwise.
pub(crate) struct Twin(Child);

impl Twin {
    /// Starts it.
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        ends_with_us(&mut command, Signal::SIGTERM);
        // SAFETY: `setsid` and the system call are async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                // What else the caller has open, a lock or a pipe, is not to be open for as long as the copy runs. If the
                // kernel cannot do that, it is.
                let (first, all) = (3, nix::libc::c_uint::MAX);
                nix::libc::syscall(
                    nix::libc::SYS_close_range,
                    first,
                    all,
                    nix::libc::CLOSE_RANGE_CLOEXEC,
                );
                nix::unistd::setsid()
                    .map(drop)
                    .map_err(std::io::Error::from)
            })
        };
        let child = command.spawn().context("starting this program again")?;
        live().twins.insert(i32::try_from(child.id())?);
        Ok(Self(child))
    }

    /// What it writes to its standard output.
    pub(crate) fn output(&mut self) -> Result<std::process::ChildStdout> {
        self.0.stdout.take().context("its output")
    }

    /// Waits until it ends.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        self.0.wait().context("waiting for this program's copy")
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        live().twins.remove(&(self.0.id() as i32));
    }
}

/// Has this program go on when the one that has started it ends; an error if that has ended already. From then on
/// nothing that it says is shown: it goes to `log`.
pub(crate) fn go_on_alone(parent: u32, log: &Path) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(None).context("going on alone")?;
    if std::os::unix::process::parent_id() != parent {
        bail!("interrupted");
    }
    let log = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    nix::unistd::dup2(log.as_raw_fd(), nix::libc::STDERR_FILENO).context("leaving the terminal")?;
    // No folder of the user's is kept from going.
    std::env::set_current_dir("/").context("leaving the folder")
}

/// A child in its own process group, killed with the group when dropped.
pub(crate) struct Owned {
    child: Child,
    group: i32,
}

impl Owned {
    /// Starts `command`. The kernel kills it as well should this program be killed.
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        ends_with_us(&mut command, Signal::SIGKILL);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let group = i32::try_from(child.id()).context("process id")?;
        live().groups.insert(group);
        Ok(Self { child, group })
    }

    /// A clock that stands while it waits for a processor.
    pub(crate) fn clock(&self) -> Clock {
        Clock::of(self.child.id())
    }

    /// Whether it has ended, and how.
    pub(crate) fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("waiting for a child")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = killpg(Pid::from_raw(self.group), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        live().groups.remove(&self.group);
    }
}

/// Runs `command` with its output in the file `log`, showing the last line as the step's detail.
/// On failure the error names the cause if the log reveals it, else ends with the log's tail.
pub(crate) fn run_logged(command: Command, log: &Path, step: &Step) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = run_to_log(command, log, step)?;
    if status.success() {
        return Ok(());
    }
    let text = read_lossy(log)?;
    if let Some(cause) = failure::explain(&text) {
        bail!("{cause} (log: {})", log.display());
    }
    bail!(
        "{name} failed ({status}); from {}:\n{}",
        log.display(),
        telling(&text)
    );
}

/// Runs `command` with its output in the file `log` and returns its status.
pub(crate) fn run_to_log(mut command: Command, log: &Path, step: &Step) -> Result<ExitStatus> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let both = file.try_clone().context("duplicating the log's handle")?;
    command.stdin(Stdio::null()).stdout(file).stderr(both);
    let mut child = Owned::spawn(command)?;
    let mut watcher = Tail::open(log)?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some(line) = watcher.last_line() {
            step.detail(&line);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Follows a growing log.
struct Tail(File);

impl Tail {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self(
            File::open(path).with_context(|| format!("reading {}", path.display()))?,
        ))
    }

    /// The last whole line that appeared since the last call.
    fn last_line(&mut self) -> Option<String> {
        let mut new = Vec::new();
        let at = self.0.stream_position().ok()?;
        self.0.read_to_end(&mut new).ok()?;
        let text = String::from_utf8_lossy(&new);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        if line.is_none() {
            self.0.seek(SeekFrom::Start(at)).ok()?;
        }
        line.map(str::to_owned)
    }
}

/// Says no more on standard output, and that this is all.
pub(crate) fn close_output() -> Result<()> {
    let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null");
    let nothing = nothing.context("opening /dev/null")?;
    nix::unistd::dup2(nothing.as_raw_fd(), nix::libc::STDOUT_FILENO)
        .context("closing the output")?;
    Ok(())
}

/// Reads a file that may not be valid UTF-8, as logs are.
pub(crate) fn read_lossy(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of a failed command's log that probably tell why, and its end.
fn telling(log: &str) -> String {
    let tells = |line: &&str| {
        ["rror", "E: ", "not found", "***", "fatal"]
            .iter()
            .any(|sign| line.contains(sign))
    };
    let mut lines: Vec<&str> = log.lines().filter(tells).take(10).collect();
    let end = tail(log, 8);
    lines.extend(end.lines().filter(|line| !tells(line)));
    lines.join("\n")
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_gives_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
