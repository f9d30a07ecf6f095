// SPDX-License-Identifier: GPL-2.0
//! `cli/…`: this program as a user runs it, from a folder outside of the checkout.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nix::libc::winsize;
use nix::pty::openpty;

use super::one_test::record;
use super::report::Report;
use super::Job;
use crate::failure::status;
use crate::kernel::Variant;
use crate::process;
use crate::repository;
use crate::ui::Step;

/// A test: its name, and what it does.
type Test = (&'static str, fn(&Scene<'_>) -> Result<()>);

const TESTS: &[Test] = &[
    ("cli/refusals", refusals),
    ("cli/exec", exec),
    ("cli/exec-timeout", timeout),
    ("cli/shell", shell),
];

/// After so many seconds `timeout` ends a call, whatever else may bound it.
const LIMIT: &str = "1800";

/// How long the shell may take to say something.
const SAYS: Duration = Duration::from_secs(900);

/// Where a test is.
struct Scene<'a> {
    job: &'a Job<'a>,
    folder: tempfile::TempDir,
}

/// The names of all tests. What the command line does is the same on every kernel.
pub(crate) fn names(kernel: Variant) -> Vec<String> {
    match kernel {
        Variant::Stock => TESTS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        Variant::Debug => Vec::new(),
    }
}

/// Runs those that are wanted.
pub(crate) fn run(job: &Job<'_>, report: &mut Report) -> Result<()> {
    if job.world.kernel.variant == Variant::Debug {
        return Ok(());
    }
    for (name, test) in TESTS.iter().filter(|(name, _)| job.filter.takes(name)) {
        let step = Step::start(format!("running {name}"));
        let started = Instant::now();
        let folder = tempfile::tempdir().context("making a folder")?;
        let result = test(&Scene { job, folder });
        drop(step);
        let detail = result.map_or_else(|error| format!("{error:#}"), |()| String::new());
        report.add(record(name, started, detail));
    }
    Ok(())
}

impl Scene<'_> {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// This program, with these arguments, on the kernel of this run.
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let program = std::env::current_exe().context("looking for this program")?;
        let world = self.job.world;
        let mut command = Command::new("timeout");
        command.args(["--foreground", LIMIT]).arg(program);
        command.args(arguments).current_dir(self.path());
        command.env(repository::NAMED, world.repository.root());
        command.env("HMM_ODP_CACHE", world.cache.path(""));
        command.env(
            "HMM_ODP_KERNEL_SERIES",
            world.kernel.version.series.to_string(),
        );
        // What cargo told this program is not for a user's.
        command.env_remove("CARGO_MANIFEST_DIR");
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        command.output().context("running this program")
    }
}

/// Fails unless the program has ended with `status`.
fn expect(output: &Output, status: u8) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(status.into()),
        "{} instead of exit status {status}\n{}",
        output.status,
        process::tail(&said, 20)
    );
    Ok(())
}

fn refusals(scene: &Scene<'_>) -> Result<()> {
    for (words, reason) in [
        ("exec --put /no/such/file:x -- true", "there is no"),
        ("exec --get : -- true", "GUEST:HOST"),
        ("exec --cpus 100000 -- true", "--cpus 100000"),
        ("exec --rxe 2 --peer true -- true", "--rxe 2"),
        ("shell", "needs a terminal"),
        ("test lint/nothing-like-it", "no test's name"),
        ("test --list lint/nothing-like-it", "no test's name"),
        ("clean --kernel-series 7.3", "--kernel-series"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let output = scene.output(&words)?;
        let context = || words.join(" ");
        expect(&output, status::FAILURE).with_context(context)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(reason), "{}: {said}", context());
    }
    let listed = scene.output(&["test", "--list", "lint/book"])?;
    expect(&listed, 0)?;
    ensure!(listed.stdout == b"lint/book\n", "test --list: {listed:?}");
    Ok(())
}

/// What the command of [`exec`] is.
const SCRIPT: &str = r#"
set -eu
[ "$PWD" = /root ]
[ "$(echo /sys/class/infiniband/*)" = "/sys/class/infiniband/rxe0 /sys/class/infiniband/rxe1" ]
printf '%s\n' "$GREETING"
cat
cp -r in out
printf '%s' "$1" >out/word
echo 'to standard error' >&2
bash -c 'kill -SEGV $$' || true
exit 7
"#;

fn exec(scene: &Scene<'_>) -> Result<()> {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let (greeting, word) = ("hello  'you' $HOME\n", "two  words\n* \\ \"");
    std::fs::create_dir(scene.path().join("in"))?;
    std::fs::write(scene.path().join("in/bytes"), &bytes)?;
    let mut command = scene.command(&[
        "exec", "--rxe", "2", "--stdin", "--env", "GREETING", "--put", "in:in", "--get", "out:out",
        "--cores", "cores", "--", "bash", "-c", SCRIPT, "script", word,
    ])?;
    command.env("GREETING", greeting).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // All of it is read before anything is said.
    let mut input = child.stdin.take().context("its standard input")?;
    let written = input.write_all(&bytes);
    drop(input);
    let output = child.wait_with_output()?;
    expect(&output, 7)?;
    written?;
    let expected = [greeting.as_bytes(), b"\n", &bytes].concat();
    ensure!(
        output.stdout == expected,
        "standard output is not what was said"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.contains("to standard error\n"), "{errors}");
    let read = |name: &str| std::fs::read(scene.path().join(name)).with_context(|| name.to_owned());
    ensure!(
        read("out/bytes")? == bytes,
        "the file is not what was put in"
    );
    ensure!(read("out/word")? == word.as_bytes(), "the word is another");
    let cores: Vec<_> = std::fs::read_dir(scene.path().join("cores"))?.collect::<Result<_, _>>()?;
    ensure!(
        matches!(cores.as_slice(), [core] if core.metadata()?.len() > 0),
        "core dumps: {cores:?}"
    );
    Ok(())
}

fn timeout(scene: &Scene<'_>) -> Result<()> {
    let script = "echo first; (trap '' TERM; echo of a child; echo as an error >&2; sleep 1000; :) & sleep 1000";
    let output = scene.output(&["exec", "--timeout", "3", "--", "bash", "-c", script])?;
    expect(&output, status::TIMEOUT)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said == "first\nof a child\n", "standard output: {said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    for text in ["as an error\n", "bash ran longer than 3 s"] {
        ensure!(errors.contains(text), "standard error: {errors}");
    }
    Ok(())
}

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, winsize);

fn shell(scene: &Scene<'_>) -> Result<()> {
    let window = |rows, columns| winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&window(37, 91)), None).context("a terminal")?;
    let errors = scene.path().join("errors");
    let mut command = scene.command(&["shell"])?;
    command
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave)
        .stderr(File::create(&errors)?);
    let mut child = command.spawn()?;
    // It holds the terminal's other end, too.
    drop(command);
    let result = converse(&terminal.master, || {
        // SAFETY: the descriptor is an open terminal's, and the size is only read.
        unsafe { set_window_size(terminal.master.as_raw_fd(), &window(50, 120)) }
            .context("another size of the window")
            .map(drop)
    });
    let ended = end(&mut child, result.is_ok())?;
    let said = process::read_lossy(&errors)?;
    let said = process::tail(&said, 20);
    result.with_context(|| said.clone())?;
    ensure!(ended == Some(5), "it ended with {ended:?}: {said}");
    Ok(())
}

/// Looks at the size of the window in the guest, changes it, looks until the guest knows, and leaves. What is waited for
/// is not what the shell repeats of the line that asks for it.
fn converse(terminal: &OwnedFd, resize: impl Fn() -> Result<()>) -> Result<()> {
    let mut keys = File::from(terminal.try_clone()?);
    let mut screen = Screen::of(File::from(terminal.try_clone()?));
    screen.wait_for("# ")?;
    keys.write_all(b"echo \"size: $(stty size)\"\n")?;
    screen.wait_for("size: 37 91")?;
    resize()?;
    keys.write_all(b"until [ \"$(stty size)\" = '50 120' ]; do sleep 0.1; done\n")?;
    keys.write_all(b"echo \"now: $(stty size)\"; exit 5\n")?;
    screen.wait_for("now: 50 120")
}

/// The exit status, of a child that is killed if it was not seen to come to its end.
fn end(child: &mut Child, comes: bool) -> Result<Option<i32>> {
    if !comes {
        // It passes the signal on.
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    Ok(child.wait()?.code())
}

/// What a terminal shows.
struct Screen {
    shown: String,
    pieces: Receiver<Vec<u8>>,
}

impl Screen {
    fn of(mut terminal: File) -> Self {
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // When nobody has the other end any more, that is an error.
            while let Ok(count @ 1..) = terminal.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let shown = String::new();
        Self { shown, pieces }
    }

    /// Waits until `text` has been shown; what was shown until then is done with.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return Ok(());
            }
            match self.pieces.recv_timeout(SAYS) {
                Ok(piece) => self.shown.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => bail!("`{text}` was not shown, but: {}", self.shown),
            }
        }
    }
}
