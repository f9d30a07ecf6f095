// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use odp_bench::{placement::Placement, shape::Shape};
use odp_fixture::peer::PORT;

/// The exit status where something had to fail: a wrong byte, a case that broke off, a regression.
pub const FAILED: u8 = 1;
/// The exit status where nothing could be done: wrong arguments, no device, a file that cannot be written.
pub const TROUBLE: u8 = 2;

/// Measures what on-demand paging costs on an RDMA device: registration, page faults, warm access, prefetch,
/// invalidation, storms of faults; each apart from the traffic around it, and against pinned memory.
///
/// Whatever is moved is checked byte by byte.
///
/// Exit status: 0 if all is well, 1 if data was wrong, a case failed or a metric has become worse, 2 if
/// nothing could be done.
#[derive(Debug, Parser)]
#[command(name = "odp-bench", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the suites, or the cases of some of them
    List(List),
    /// Measure
    Run(Box<Run>),
    /// Show a result again: as a table, as a page of HTML, as pictures, or as comma-separated values
    Report(Report),
    /// Say whether on-demand paging pays here, from what a run has measured
    Advise(Advise),
    /// Compare two results, metric by metric, or find where many have changed; exit status 1 on a regression
    Compare(Compare),
    /// Print the JSON schema of a result
    Schema,
    /// Print a script for a shell that completes commands and options
    Completions(Completions),
    /// Write the manual pages into a folder
    Man(Man),
}

#[derive(Debug, Args)]
pub struct List {
    /// Suites, or cases by the beginning of their names
    pub names: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Suites, or cases by the beginning of their names; all if none is given. See `odp-bench list`
    #[arg(value_name = "SUITE")]
    pub names: Vec<String>,
    /// The RDMA device; the first there is if not given. Of several with commas between them each is measured, one after
    /// the other, with a result of its own: FILE.DEVICE.json
    #[arg(long, short, visible_alias = "ib-dev", value_delimiter = ',')]
    pub device: Vec<String>,
    /// The device's port
    #[arg(long, short, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..))]
    pub ib_port: Option<u8>,
    /// The index of the address to speak from; the first that suits if not given
    #[arg(long, short = 'x', value_name = "INDEX", visible_alias = "gid-index")]
    pub gid: Option<u8>,
    /// The path MTU, at most the port's; the port's if not given
    #[arg(long, short, value_name = "BYTES")]
    pub mtu: Option<Mtu>,
    #[command(flatten)]
    pub messages: Messages,
    #[command(flatten)]
    pub place: Place,
    /// Where to write the result as JSON. While it is measured, its cases are in FILE.part
    #[arg(long, value_name = "FILE", default_value = "odp-bench.json")]
    pub json: PathBuf,
    /// Where to write the result as a page of HTML with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Only accesses that a driver does right which is wrong at odd offsets: each packet's data starts on a
    /// page boundary
    #[arg(long)]
    pub aligned: bool,
    /// How many samples to take, as a share of the usual number; if not given, 1, or less if --time is too short for that
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub effort: Option<f64>,
    /// How many accesses to make before those that are measured; if not given, 1 to 100, as a case needs. The suites
    /// registration, stream, churn and storm have none
    #[arg(long, value_name = "NUMBER")]
    pub warm_up: Option<usize>,
    /// How long it may take, as `90s` or `5m`: as many samples are taken as fit, if --effort does not say how many. No
    /// case begins after that; those that are left are told as skipped. Each of several devices has this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// A folder on a disk, for pages that have to be read from one
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// The machine's clock counts instructions, one every so many nanoseconds: tell these instead of times
    #[arg(long, value_name = "NANOSECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub instruction: Option<u32>,
    /// Measure nothing, but serve one `--connect` of another machine
    #[arg(long, conflicts_with_all = ["names", "connect", "html"])]
    pub server: bool,
    /// Measure between this machine and HOST, where `odp-bench run --server` runs
    #[arg(long, value_name = "HOST")]
    pub connect: Option<String>,
    /// The TCP port on which the two machines arrange what they do
    #[arg(long, short, value_name = "PORT", default_value_t = PORT)]
    pub port: u16,
    /// For how long the suite `late` withholds a page, as `50us` or several such times with commas between them; 10us,
    /// 1ms and 100ms if not given
    #[arg(long, value_name = "DURATION", value_parser = delay, value_delimiter = ',')]
    pub delay: Vec<Duration>,
    /// Print no table at the end
    #[arg(long)]
    pub quiet: bool,
}

/// The messages of the suite `traffic`. If one of these options is given and no suite, `traffic` is what is run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Messages of the suite traffic")]
pub struct Messages {
    /// How many bytes a message has, as `64` or `4k`, or several such numbers with commas between them; 64 if not
    /// given, 8 of atomics
    #[arg(long, short, value_name = "BYTES", value_parser = bytes, value_delimiter = ',')]
    pub size: Vec<usize>,
    /// What a message is; write if not given
    #[arg(long, value_name = "OPERATION")]
    pub op: Option<Operation>,
    /// The transport; RC if not given
    #[arg(long, short, value_name = "TRANSPORT", ignore_case = true)]
    pub connection: Option<Connection>,
    /// How many queue pairs send at once; 1 if not given
    #[arg(long, short, value_name = "NUMBER", value_parser = number)]
    pub qp: Option<usize>,
    /// How many messages each queue pair has under way; 1 if not given
    #[arg(long, short, value_name = "NUMBER", value_parser = number)]
    pub tx_depth: Option<usize>,
    /// Messages carry their data in the work request, which has room for so many bytes
    #[arg(long, short = 'I', value_name = "BYTES", alias = "inline_size", value_parser = bytes)]
    pub inline_size: Option<usize>,
    /// How many messages of each series are measured; if not given, as many as `--effort` says
    #[arg(long, short = 'n', value_name = "NUMBER", value_parser = number, conflicts_with = "duration")]
    pub iters: Option<usize>,
    /// How long each series is measured, in seconds or as `500ms`
    #[arg(long, short = 'D', value_name = "DURATION", value_parser = seconds)]
    pub duration: Option<f64>,
}

/// Where to run. Each of two machines is told its own.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Place")]
#[group(multiple = false)]
pub struct Place {
    /// The processors to run on, as `0-3,8`; those of the device's NUMA node if not given
    #[arg(long, value_name = "LIST", value_parser = Placement::of_cpus)]
    pub cpu: Option<BTreeSet<u32>>,
    /// The NUMA node whose processors and memory to use
    #[arg(long, value_name = "NODE")]
    pub numa: Option<u32>,
    /// Run where the kernel likes
    #[arg(long)]
    pub no_pin: bool,
}

/// What a message of `traffic` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    Write,
    Read,
    Send,
    CmpAndSwap,
}

/// A transport, by perftest's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Connection {
    Rc,
    Uc,
    Ud,
    Xrc,
    Dc,
}

/// How large the packets of a path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mtu {
    #[value(name = "256")]
    M256,
    #[value(name = "512")]
    M512,
    #[value(name = "1024")]
    M1024,
    #[value(name = "2048")]
    M2048,
    #[value(name = "4096")]
    M4096,
}

impl Mtu {
    pub fn bytes(self) -> usize {
        match self {
            Self::M256 => 256,
            Self::M512 => 512,
            Self::M1024 => 1024,
            Self::M2048 => 2048,
            Self::M4096 => 4096,
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000_000) => Ok(number),
        Ok(_) => Err("not from 1 to 1000000000".into()),
        Err(_) => Err("not a number".into()),
    }
}

/// Bytes, with perftest's suffixes.
fn bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| "not a number of bytes")?;
    let bytes = number.checked_mul(1 << shift);
    bytes
        .filter(|bytes| (1..=Shape::LARGEST).contains(bytes))
        .ok_or_else(|| "not from 1 byte to 1 GiB".into())
}

/// Seconds, as perftest has them, or a time with its unit.
fn seconds(text: &str) -> Result<f64, String> {
    let time = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    match time.as_secs_f64() {
        seconds if seconds > 0.0 => Ok(seconds),
        _ => Err("no time at all".into()),
    }
}

/// A time for which a request may wait: a timeout of many seconds ends it.
fn delay(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= Duration::from_secs(1) {
        true => Ok(time),
        false => Err("more than a second".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match share > 0.0 && share <= 1000.0 {
        true => Ok(share),
        false => Err("not above 0 and at most 1000".into()),
    }
}

#[derive(Debug, Args)]
pub struct Report {
    /// A result: what `run` leaves if it is not told otherwise
    #[arg(default_value = "odp-bench.json")]
    pub file: PathBuf,
    /// Write a page of HTML there
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a line of comma-separated values for each metric there
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the pictures there, each as a file of SVG
    #[arg(long, value_name = "FOLDER")]
    pub svg: Option<PathBuf>,
    /// Print what the driver counted, too
    #[arg(long)]
    pub counters: bool,
}

#[derive(Debug, Args)]
pub struct Advise {
    /// A result: what `run` leaves if it is not told otherwise
    #[arg(default_value = "odp-bench.json")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The folder, which is there already
    #[arg(default_value = ".")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// The result to compare with
    #[arg(required_unless_present_any = ["history", "olds"])]
    pub old: Option<PathBuf>,
    /// The result to judge
    #[arg(required_unless_present_any = ["history", "olds"])]
    pub new: Option<PathBuf>,
    /// Several results to compare with, each of a run by itself: what differs from run to run is told apart from what has
    /// changed
    #[arg(long = "old", value_name = "FILE", num_args = 1.., requires = "news", conflicts_with_all = ["old", "new"])]
    pub olds: Vec<PathBuf>,
    /// The results to judge by them
    #[arg(long = "new", value_name = "FILE", num_args = 1.., requires = "olds", conflicts_with_all = ["old", "new"])]
    pub news: Vec<PathBuf>,
    /// Take all results of a folder, one for each commit: tell where a metric changed for good. They are called as their
    /// files, and in the order of the dates on which they were measured, or in that of --order
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["old", "new", "olds", "news", "baseline"])]
    pub history: Option<PathBuf>,
    /// Of the history: the order of the results, a line for each: what `git rev-list --reverse HEAD` prints, if the files
    /// are called after the commits, or after the beginnings of their hashes
    #[arg(long, value_name = "FILE", requires = "history")]
    pub order: Option<PathBuf>,
    /// Of the history: the results of this device alone
    #[arg(long, value_name = "DEVICE", requires = "history")]
    pub device: Option<String>,
    /// Of the history: show these metrics run by run, by the beginning of their names
    #[arg(long, value_name = "NAME", requires = "history")]
    pub metric: Option<String>,
    /// Of the history: a metric that became worse within so many runs is a regression
    #[arg(long, value_name = "RUNS", requires = "history", default_value_t = 10)]
    pub recent: usize,
    /// By how many percent a metric may become worse: a regression is one that is certainly worse by more
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub threshold: f64,
    /// The first result is a baseline of medians, measured where the clock counts instructions: compare the
    /// medians as they are, and fail if one is missing
    #[arg(long, conflicts_with_all = ["olds", "news"])]
    pub baseline: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match (0.0..=10_000.0).contains(&percent) {
        true => Ok(percent),
        false => Err("not from 0 to 10000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_time_has_a_unit() {
        let time = |text: &str| {
            let words = ["odp-bench", "run", "--time", text];
            match Arguments::try_parse_from(words).ok()?.command {
                Command::Run(run) => run.time,
                _ => None,
            }
        };
        assert_eq!(time("2m"), Some(Duration::from_secs(120)));
        assert_eq!(time("2"), None);
    }

    fn run(words: &[&str]) -> Result<Run, clap::Error> {
        let words = ["odp-bench", "run"].iter().chain(words);
        match Arguments::try_parse_from(words)?.command {
            Command::Run(run) => Ok(*run),
            _ => unreachable!("it is called run"),
        }
    }

    #[test]
    fn the_names_are_those_of_perftest() {
        let short = "-d mlx5_0 -i 2 -x 3 -m 1024 -s 64,4k -c XRC -q 4 -t 16 -I 64 -n 5000 -p 1"
            .split(' ')
            .collect::<Vec<_>>();
        let long = "--ib-dev mlx5_0 --ib-port 2 --gid-index 3 --mtu 1024 --size 64 --size 4096 --connection XRC \
                    --qp 4 --tx-depth 16 --inline_size 64 --iters 5000 --port 1"
            .split_whitespace()
            .collect::<Vec<_>>();
        for words in [short, long] {
            let run = run(&words).unwrap();
            assert_eq!(run.device, ["mlx5_0"]);
            assert_eq!((run.ib_port, run.gid, run.port), (Some(2), Some(3), 1));
            assert_eq!(run.mtu.map(Mtu::bytes), Some(1024));
            let messages = run.messages;
            assert_eq!(messages.size, [64, 4096]);
            assert_eq!(messages.connection, Some(Connection::Xrc));
            assert_eq!((messages.qp, messages.tx_depth), (Some(4), Some(16)));
            assert_eq!(
                (messages.inline_size, messages.iters),
                (Some(64), Some(5000))
            );
        }
    }

    #[test]
    fn amounts_make_sense() {
        assert_eq!(bytes("2M"), Ok(2 << 20));
        for wrong in [
            "",
            "k",
            "0",
            "2g",
            "-1",
            "4 k",
            "18446744073709551615k",
            "9é",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!((seconds("2"), seconds("500ms")), (Ok(2.0), Ok(0.5)));
        for wrong in ["0", "-1", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "--mtu 1000",
            "--cpu 3-1",
            "--cpu 1 --no-pin",
            "-n 1 -D 1",
            "-i 0",
            "--delay 2s",
            "--delay soon",
        ] {
            assert!(
                run(&wrong.split(' ').collect::<Vec<_>>()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn two_results_or_many_are_compared() {
        let compare = |words: &str| {
            let words = ["odp-bench", "compare"].into_iter().chain(words.split(' '));
            match Arguments::try_parse_from(words)?.command {
                Command::Compare(compare) => Ok(compare),
                _ => unreachable!("it is called compare"),
            }
        };
        let two = compare("a b").unwrap();
        assert!(two.old.is_some() && two.new.is_some() && two.olds.is_empty());
        let many = compare("--old a b c --new d e").unwrap();
        assert_eq!((many.olds.len(), many.news.len()), (3, 2));
        for wrong in [
            "a",
            "--old a",
            "--new a",
            "--old a --new b --baseline",
            "a b --old c --new d",
        ] {
            let found: Result<_, clap::Error> = compare(wrong);
            assert!(found.is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_positive() {
        assert_eq!(share("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "x", "NaN", "inf"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert!(percent("NaN").is_err() && percent("-1").is_err());
    }
}
