// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use odp_verbs::peer::PORT;

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
    Run(Run),
    /// Show a result again: as a table, as a page of HTML, or as comma-separated values
    Report(Report),
    /// Print the JSON schema of a result
    Schema,
    /// Compare two results, metric by metric; exit status 1 on a regression
    Compare(Compare),
}

#[derive(Debug, Args)]
pub struct List {
    /// Suites, or cases by the beginning of their names
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Suites, or cases by the beginning of their names; all if none is given. See `odp-bench list`
    #[arg(value_name = "SUITE")]
    pub names: Vec<String>,
    /// The RDMA device; the first there is if not given
    #[arg(long)]
    pub device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given
    #[arg(long, value_name = "INDEX")]
    pub gid: Option<u8>,
    /// Where to write the result as JSON. The file is complete after each case
    #[arg(long, value_name = "FILE", default_value = "odp-bench.json")]
    pub json: PathBuf,
    /// Where to write the result as a page of HTML with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Only accesses that a driver does right which is wrong at odd offsets: each packet's data starts on a
    /// page boundary
    #[arg(long)]
    pub aligned: bool,
    /// How many samples to take, as a share of the usual number
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub effort: f64,
    /// Begin no case after so long, as `90s` or `5m`; those that are left are told as skipped
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
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    pub port: u16,
    /// Print no table at the end
    #[arg(long, short)]
    pub quiet: bool,
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
    /// Print what the driver counted, too
    #[arg(long)]
    pub counters: bool,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// The result to compare with
    pub old: PathBuf,
    /// The result to judge
    pub new: PathBuf,
    /// By how many percent a metric may become worse: a regression is one that is certainly worse by more
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub threshold: f64,
    /// The first result is a baseline of medians, measured where the clock counts instructions: compare the
    /// medians as they are, and fail if one is missing
    #[arg(long)]
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

    #[test]
    fn shares_are_positive() {
        assert_eq!(share("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "x", "NaN", "inf"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert!(percent("NaN").is_err() && percent("-1").is_err());
    }
}
