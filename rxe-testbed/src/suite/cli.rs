// SPDX-License-Identifier: GPL-2.0
//! `cli/…`: this program as a user runs it, from a folder outside of the checkout.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nix::libc::winsize;
use nix::pty::openpty;

use super::one_test::record;
use super::report::Report;
use super::{image, Job};
use crate::build::World;
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
    ("cli/up", up),
    ("cli/up-died", up_died),
    ("cli/trace", trace),
    ("cli/nodes", nodes),
    ("cli/nodes-connectx", nodes_connectx),
    ("cli/nodes-mpi", nodes_mpi),
    ("cli/image", image::image),
];

/// After so many seconds `timeout` ends a call, whatever else may bound it.
const LIMIT: &str = "1800";

/// How long the shell may take to say something.
const SAYS: Duration = Duration::from_secs(900);

/// Where a test is.
pub(super) struct Scene<'a> {
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
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What VMs are made of.
    pub(super) fn world(&self) -> &World {
        self.job.world
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

    pub(super) fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        command.output().context("running this program")
    }
}

/// Fails unless the program has ended with `status`.
pub(super) fn expect(output: &Output, status: u8) -> Result<()> {
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
        ("exec --rxe 2 --nodes 3 -- true", "--rxe 2"),
        ("exec --pmem x -- true", "--extra pmem"),
        ("exec --extra pmem --pmem / -- true", "--pmem /"),
        ("up --share /no/such/folder", "--share /no/such/folder"),
        ("up --kernel debug --share /", "debug kernel has no 9p"),
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

fn window(rows: u16, columns: u16) -> winsize {
    winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn shell(scene: &Scene<'_>) -> Result<()> {
    on_terminal(scene, &["shell"], |terminal| {
        converse(terminal, || {
            // SAFETY: the descriptor is an open terminal's, and the size is only read.
            unsafe { set_window_size(terminal.as_raw_fd(), &window(50, 120)) }
                .context("another size of the window")
                .map(drop)
        })
    })
}

/// Runs this program on a terminal, where `talk` types and reads, until it ends with status 5.
fn on_terminal(
    scene: &Scene<'_>,
    arguments: &[&str],
    talk: impl FnOnce(&OwnedFd) -> Result<()>,
) -> Result<()> {
    let terminal = openpty(Some(&window(37, 91)), None).context("a terminal")?;
    let errors = scene.path().join("errors");
    let mut command = scene.command(arguments)?;
    command
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave)
        .stderr(File::create(&errors)?);
    let mut child = command.spawn()?;
    // It holds the terminal's other end, too.
    drop(command);
    let result = talk(&terminal.master);
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

/// A VM that stays, which ends with its test.
struct Staying<'a> {
    scene: &'a Scene<'a>,
    name: String,
}

impl<'a> Staying<'a> {
    fn of(scene: &'a Scene<'a>, test: &str) -> Self {
        let name = format!("{test}-{}", std::process::id());
        Self { scene, name }
    }

    /// The command with this VM's name, and with `words` after it.
    fn arguments<'w>(&'w self, command: &'w str, words: &[&'w str]) -> Vec<&'w str> {
        [&[command, "--name", &self.name], words].concat()
    }

    /// Runs the command, which has to end with `status` and say `text` on standard error.
    fn says(&self, command: &str, words: &[&str], status: u8, text: &str) -> Result<Output> {
        let arguments = self.arguments(command, words);
        let output = self.scene.output(&arguments)?;
        let context = || arguments.join(" ");
        expect(&output, status).with_context(context)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(text), "{}: {said}", context());
        Ok(output)
    }

    fn folder(&self) -> PathBuf {
        let folder = format!("run/up-{}", self.name);
        self.scene.job.world.cache.path(folder)
    }
}

impl Drop for Staying<'_> {
    fn drop(&mut self) {
        if self.folder().exists() {
            let _ = self.scene.output(&self.arguments("down", &[]));
        }
    }
}

/// What the command of [`up`] is.
const LOGGED_IN: &str = r#"
set -eu
[ "$PWD" = /root ]
[ -d /sys/class/infiniband/rxe0 ]
[ "$(ulimit -l)" = unlimited ]
[ "$(<in)" = 'from the host' ]
command -v rxe-driver >/dev/null
cat
printf '%s' "$1" >/mnt/share/word
cat /mnt/share/name >&2
exit 7
"#;

/// Serves one client on port 7777, whom it gives the name of the machine.
const SERVE: &str = "import socket; server = socket.create_server(('', 7777)); \
                     print('ready', flush=True); \
                     server.accept()[0].sendall(socket.gethostname().encode())";

fn up(scene: &Scene<'_>) -> Result<()> {
    let vm = Staying::of(scene, "up");
    for command in ["ssh", "down"] {
        vm.says(command, &[], status::FAILURE, "there is no VM")?;
    }
    std::fs::create_dir(scene.path().join("share"))?;
    std::fs::write(scene.path().join("share/name"), "of the folder")?;
    std::fs::write(scene.path().join("in"), "from the host")?;
    interrupted(&vm)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let forward = format!("{port}:7777");
    let words = ["--forward", &forward, "--share", "share", "--put", "in:in"];
    vm.says("up", &words, status::FAILURE, "name another")?;
    drop(listener);
    let told = vm.says("up", &words, 0, "")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for text in ["is up: Linux ", "port 7777 of the guest", "/mnt/share"] {
        ensure!(told.contains(text), "{told}");
    }
    logged_in(&vm)?;
    let key = std::fs::metadata(vm.folder().join("key"))?;
    ensure!(key.permissions().mode() & 0o777 == 0o600, "the key's mode");
    forwarded(&vm, port)?;
    on_terminal(scene, &vm.arguments("ssh", &[]), |terminal| {
        let mut keys = File::from(terminal.try_clone()?);
        let mut screen = Screen::of(File::from(terminal.try_clone()?));
        screen.wait_for("# ")?;
        keys.write_all(b"echo \"size: $(stty size)\"; exit 5\n")?;
        screen.wait_for("size: 37 91")
    })?;
    vm.says("up", &[], status::FAILURE, "runs already")?;
    let clean = scene.output(&["clean"])?;
    expect(&clean, status::FAILURE)?;
    let said = String::from_utf8_lossy(&clean.stderr);
    ensure!(said.contains(&format!("down --name {}", vm.name)), "{said}");
    vm.says("down", &[], 0, "")?;
    ensure!(!vm.folder().exists(), "its folder is still there");
    vm.says("ssh", &["--", "true"], status::FAILURE, "there is no VM")?;
    Ok(())
}

/// A command gets all bytes of its standard input, its words as they are, and its status is passed on; the folder is the
/// host's.
fn logged_in(vm: &Staying<'_>) -> Result<()> {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let word = "two  words\n* \\ \"";
    let words = ["--", "bash", "-c", LOGGED_IN, "script", word];
    let mut command = vm.scene.command(&vm.arguments("ssh", &words))?;
    let input = vm.scene.path().join("input");
    std::fs::write(&input, &bytes)?;
    let output = command.stdin(File::open(&input)?).output()?;
    expect(&output, 7)?;
    ensure!(
        output.stdout == bytes,
        "standard output is not what was said"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors == "of the folder", "standard error: {errors}");
    let written = std::fs::read(vm.scene.path().join("share/word"))?;
    ensure!(written == word.as_bytes(), "the word is another");
    Ok(())
}

/// A server in the guest is reached by a port of the host.
fn forwarded(vm: &Staying<'_>, port: u16) -> Result<()> {
    let words = ["--", "python3", "-c", SERVE];
    let mut command = vm.scene.command(&vm.arguments("ssh", &words))?;
    let mut server = command.stdout(Stdio::piped()).spawn()?;
    let mut ready = [0; 6];
    let mut output = server.stdout.take().context("its output")?;
    output.read_exact(&mut ready)?;
    let mut name = String::new();
    TcpStream::connect(("127.0.0.1", port))?.read_to_string(&mut name)?;
    ensure!(name == vm.name, "the guest says that it is `{name}`");
    ensure!(server.wait()?.success(), "the server failed");
    Ok(())
}

/// What is interrupted while it boots leaves nothing.
fn interrupted(vm: &Staying<'_>) -> Result<()> {
    let mut command = vm.scene.command(&vm.arguments("up", &[]))?;
    let errors = vm.scene.path().join("errors");
    command.stdout(Stdio::null()).stderr(File::create(&errors)?);
    let mut child = command.spawn()?;
    // Keys are made just before it.
    while !vm.folder().join("host_key.pub").exists() {
        let said = || process::read_lossy(&errors).unwrap_or_default();
        ensure!(child.try_wait()?.is_none(), "it does not boot: {}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = end(&mut child, false)?;
    ensure!(
        ended == Some(status::INTERRUPTED),
        "interrupted, it ended with {ended:?}"
    );
    ensure!(!vm.folder().exists(), "its folder is still there");
    Ok(())
}

/// A VM that dies is told from one that was ended, and another one can be had in its place.
fn up_died(scene: &Scene<'_>) -> Result<()> {
    let vm = Staying::of(scene, "died");
    vm.says("up", &[], 0, "")?;
    let words = ["--", "bash", "-c", "echo c >/proc/sysrq-trigger"];
    vm.says("ssh", &words, status::VM, "sysrq")?;
    vm.says("ssh", &["--", "true"], status::VM, "is gone")?;
    vm.says("up", &[], 0, "which is gone")?;
    let keeper = std::fs::read_to_string(vm.folder().join("state"))?;
    let keeper: serde_json::Value = serde_json::from_str(&keeper)?;
    let keeper = keeper["pid"].as_i64().context("the keeper's number")?;
    let keeper = nix::unistd::Pid::from_raw(i32::try_from(keeper)?);
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL)?;
    vm.says("ssh", &["--", "true"], status::VM, "was killed")?;
    vm.says("down", &[], status::VM, "was killed")?;
    vm.says("down", &[], status::FAILURE, "there is no VM")?;
    Ok(())
}

/// What node1 does with the others: it sees them by name and by address, and moves data from and to the last one.
const NODES: &str = r#"
set -eu
[ "$(hostname)" = node1 ]
for node in 1 2 3; do
	[ "$(ssh node$node hostname)" = node$node ]
	[ "$(ssh 10.77.0.$node 'echo /sys/class/infiniband/*')" = /sys/class/infiniband/rxe0 ]
done
[ "$(echo through two | ssh node2 ssh node3 cat)" = 'through two' ]
status=0
ssh node2 'exit 9' || status=$?
[ $status = 9 ]
ssh node3 'ibv_rc_pingpong -d rxe0 -g 1 -c -O -n 200 >server 2>&1; echo $? >status' &
for _ in $(seq 300); do
	ssh node3 'ss -Hltn "sport = 18515"' | grep -q . && break
	sleep 0.2
done
ibv_rc_pingpong -d rxe0 -g 1 -c -O -n 200 node3
wait
[ "$(ssh node3 cat status)" = 0 ]
echo 'to standard error' >&2
exit 3
"#;

fn nodes(scene: &Scene<'_>) -> Result<()> {
    let options = ["exec", "--nodes", "3", "--cpus", "1", "--mem", "1024", "--"];
    let arguments = [&options[..], &["bash", "-c", NODES]].concat();
    let output = scene.output(&arguments)?;
    expect(&output, 3)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("bytes in"), "standard output: {said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.contains("to standard error\n"), "{errors}");
    Ok(())
}

/// A tree, and what has changed: with the other driver nearly all, and what both have in common nothing.
fn trace(scene: &Scene<'_>) -> Result<()> {
    let kept = scene.folder.path().join("warm.json");
    let kept = kept.to_str().context("a path")?;
    let output = scene.output(&["trace", "warm", "--save", kept])?;
    expect(&output, 0)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let root = said
        .lines()
        .find(|line| line.ends_with("  mlx_odp_rxe_copy_on_demand [rdma_rxe]"));
    let root = root.with_context(|| format!("standard output: {said}"))?;
    let numbers: Vec<f64> = root
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [total, own, calls] = numbers[..] else {
        bail!("three numbers are not in {root}");
    };
    ensure!(own > 0.0 && own < total && calls == 1.0, "{root}");
    ensure!(said.contains("  memcpy"), "nothing is copied: {said}");

    let output = scene.output(&["trace", "warm", "--driver", "stock", "--against", kept])?;
    expect(&output, 0)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let changes = said.split_once("before: mlx_odp_rxe_copy_on_demand on our driver");
    let (_, changes) = changes.with_context(|| format!("standard output: {said}"))?;
    ensure!(
        changes.contains("  rxe_odp_mr_copy [rdma_rxe]"),
        "{changes}"
    );
    ensure!(
        !changes.contains("  memcpy"),
        "the same copy differs: {changes}"
    );

    let output = scene.output(&["trace", "--function", "no_such", "--", "true"])?;
    expect(&output, 1)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        errors.contains("the kernel has no function `no_such`"),
        "{errors}"
    );
    Ok(())
}

const NODES_CONNECTX: &str = r#"
for node in 1 2; do
	ssh node$node /usr/local/lib/testbed/mlx5 load || exit
done
ssh node2 'ibv_rc_pingpong -d mlx5_0 -c -O -n 200; echo $? >status' &
for ((n = 0; n < 50 * TESTBED_PATIENCE; n++)); do
	ssh node2 'ss -Hltn "sport = 18515"' | grep -q . && break
	sleep 0.2
done
ibv_rc_pingpong -d mlx5_0 -c -O -n 200 node2
wait
[ "$(ssh node2 cat status)" = 0 ]
"#;

/// Two emulated ConnectXs, on one subnet.
fn nodes_connectx(scene: &Scene<'_>) -> Result<()> {
    let extra = ["exec", "--extra", "mlx5", "--driver", "stock"];
    let options = ["--nodes", "2", "--cpus", "1", "--mem", "1024", "--"];
    let command = ["bash", "-c", NODES_CONNECTX];
    let output = scene.output(&[&extra[..], &options, &command].concat())?;
    expect(&output, 0)?;
    let said = String::from_utf8_lossy(&output.stdout);
    // By LID, and of the other device.
    for line in ["local address:  LID 0x0001", "remote address: LID 0x0002"] {
        ensure!(said.contains(line), "standard output: {said}");
    }
    ensure!(said.contains("bytes in"), "standard output: {said}");
    Ok(())
}

/// Open MPI over libfabric's verbs provider, all of whose memory is on demand.
const NODES_MPI: &str = r#"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
PATH=/usr/local/lib/testbed:$PATH
uses-odp mpirun -np 3 --host node1,node2,node3 --mca pml cm --mca mtl ofi \
	-x 'FI_PROVIDER=verbs;ofi_rxm' -x FI_VERBS_USE_ODP=1 -x FI_UNIVERSE_SIZE=16 /usr/local/lib/testbed/mpi-ring
"#;

fn nodes_mpi(scene: &Scene<'_>) -> Result<()> {
    let packages = ["--package", "openmpi-bin", "--package", "python3-mpi4py"];
    let options = [
        "--nodes",
        "3",
        "--cpus",
        "1",
        "--mem",
        "1024",
        "--timeout",
        "600",
    ];
    let command = ["--", "bash", "-c", NODES_MPI];
    let output = scene.output(&[&["exec"][..], &packages, &options, &command].concat())?;
    expect(&output, 0)?;
    let said = String::from_utf8_lossy(&output.stdout);
    for rank in 0..3 {
        let line = format!("rank {rank} of 3 on node{}: right", rank + 1);
        ensure!(said.contains(&line), "standard output: {said}");
    }
    Ok(())
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
