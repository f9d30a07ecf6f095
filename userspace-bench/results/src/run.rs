// SPDX-License-Identifier: GPL-2.0
//! A run of the benchmark as it is kept in a file of JSON.
//!
//! While a run goes on, each case is a line of a file beside it, as writing all of it after each case would be work that
//! the next one has in its figures. Whoever reads the file of a run that was cut off reads these lines ([`Notes`]).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::Distribution;

/// The version of the file's form.
///
/// - 1: each percentile is told, however few samples there are.
/// - 2: only those for which there are enough, with the interval of the median.
/// - 3: each with its interval, and there are counts.
pub const FORMAT: u32 = 3;

/// The oldest form that is read. The summaries are those of the samples in any case.
const OLDEST: u32 = 1;

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system said no.
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is no file of a run.
    #[error("{} is not a result of odp-bench: {cause}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// It is of another version.
    #[error("{} has format {found}; this odp-bench reads formats {OLDEST} to {FORMAT}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// In what a metric is measured, and with that, which way is better.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Time; less is better.
    Nanoseconds,
    /// Instructions of the machine, where its clock counts them; less is better.
    Instructions,
    /// Memory; less is better.
    Bytes,
    /// Throughput; more is better.
    BytesPerSecond,
    /// How often something happened that had better not; less is better.
    Count,
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Nanoseconds,
        Self::Instructions,
        Self::Bytes,
        Self::BytesPerSecond,
        Self::Count,
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "nanoseconds",
            Self::Instructions => "instructions",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes-per-second",
            Self::Count => "count",
        }
    }

    /// Whether less of it is better.
    pub fn less_is_better(self) -> bool {
        self != Self::BytesPerSecond
    }

    /// An amount of it for people, with three digits or so.
    pub fn show(self, amount: f64) -> String {
        const TIME: [&str; 4] = ["ns", "µs", "ms", "s"];
        const SIZE: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        const RATE: [&str; 4] = ["B/s", "MB/s", "GB/s", "TB/s"];
        match self {
            Self::Nanoseconds => scaled(amount, 1000.0, &TIME),
            Self::Instructions if amount.abs() < 1e5 => format!("{amount:.0}"),
            Self::Instructions => scaled(amount / 1e3, 1000.0, &["k", "M", "G"]),
            Self::Bytes => scaled(amount, 1024.0, &SIZE),
            // Kilobytes a second do not occur.
            Self::BytesPerSecond if amount.abs() < 1e6 => scaled(amount, 1e6, &RATE[..1]),
            Self::BytesPerSecond => scaled(amount / 1e6, 1000.0, &RATE[1..]),
            Self::Count if amount.abs() < 1e5 => format!("{}", (100.0 * amount).round() / 100.0),
            Self::Count => scaled(amount / 1e3, 1000.0, &["k", "M", "G"]),
        }
    }
}

fn scaled(amount: f64, step: f64, units: &[&str]) -> String {
    let mut scaled = amount;
    let mut place = 0;
    while scaled.abs() >= step * 0.9995 && place + 1 < units.len() {
        scaled /= step;
        place += 1;
    }
    let decimals = match scaled.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$} {}", units[place])
}

/// One thing that was measured, many times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Kept")]
#[schemars(deny_unknown_fields)]
pub struct Metric {
    /// Its name, of words with `/` between them; the first word is the suite.
    pub name: String,
    /// What a sample is an amount of.
    pub unit: Unit,
    /// The size that the cost may depend on, in bytes.
    pub size: Option<u64>,
    /// The percentiles of the samples. Derived from them, for readers that want no more.
    pub summary: Distribution,
    /// Each sample, in the order in which they were taken.
    pub samples: Vec<f64>,
}

/// What is read of a metric: the rest follows from it.
#[derive(Deserialize, JsonSchema)]
struct Kept {
    name: String,
    unit: Unit,
    size: Option<u64>,
    samples: Vec<f64>,
}

impl TryFrom<Kept> for Metric {
    type Error = String;

    fn try_from(kept: Kept) -> Result<Self, String> {
        let Kept {
            name,
            unit,
            size,
            samples,
        } = kept;
        let nothing = format!("{name} has no samples");
        Self::new(name, unit, size, samples).ok_or(nothing)
    }
}

impl Metric {
    /// A metric of these samples; none if there are none.
    pub fn new(
        name: impl Into<String>,
        unit: Unit,
        size: Option<u64>,
        samples: Vec<f64>,
    ) -> Option<Self> {
        Some(Self {
            name: name.into(),
            unit,
            size,
            summary: Distribution::of(&samples)?,
            samples,
        })
    }

    /// The suite that it belongs to.
    pub fn suite(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// A case that was not measured as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Missing {
    /// The case.
    pub case: String,
    /// Why.
    pub why: String,
}

/// What the driver counted during a case: each counter that it has, after less before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Counted {
    /// The case.
    pub case: String,
    /// Counters by name, before the case.
    pub before: BTreeMap<String, u64>,
    /// The same after it.
    pub after: BTreeMap<String, u64>,
}

impl Counted {
    /// By how much each counter has grown, of those that have.
    pub fn growth(&self) -> impl Iterator<Item = (&str, u64)> {
        self.after.iter().filter_map(|(name, &after)| {
            let before = self.before.get(name).copied().unwrap_or(0);
            let grown = after.checked_sub(before).filter(|&grown| grown > 0)?;
            Some((name.as_str(), grown))
        })
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is still going, or was cut off.
    Unfinished,
    /// Every case was tried.
    Finished,
}

/// What one case adds to a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What the device or the machine lacks.
    pub skipped: Vec<Missing>,
    /// What went wrong.
    pub failed: Vec<Missing>,
    /// What the driver counted.
    pub counters: Vec<Counted>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Run {
    /// The version of the file's form.
    #[schemars(extend("const" = FORMAT))]
    pub format: u32,
    /// How far it has come.
    pub state: State,
    /// Whether accesses were limited to what a driver does right that is wrong at odd offsets.
    pub aligned: bool,
    /// Where it was measured: what, and which.
    pub environment: BTreeMap<String, String>,
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What the device or the machine lacks.
    pub skipped: Vec<Missing>,
    /// What went wrong.
    pub failed: Vec<Missing>,
    /// What the driver counted.
    pub counters: Vec<Counted>,
}

impl Run {
    /// One that has measured nothing yet.
    pub fn new(aligned: bool, environment: BTreeMap<String, String>) -> Self {
        Self {
            format: FORMAT,
            state: State::Unfinished,
            aligned,
            environment,
            metrics: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
            counters: Vec::new(),
        }
    }

    /// Adds what a case has found.
    pub fn add(&mut self, part: Part) {
        self.metrics.extend(part.metrics);
        self.skipped.extend(part.skipped);
        self.failed.extend(part.failed);
        self.counters.extend(part.counters);
    }

    /// The metric called `name`.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// The suites, in the order in which they were run, each once.
    pub fn suites(&self) -> Vec<&str> {
        let mut suites: Vec<&str> = Vec::new();
        for metric in &self.metrics {
            if !suites.contains(&metric.suite()) {
                suites.push(metric.suite());
            }
        }
        suites
    }

    /// The medians alone of the metrics that `wanted` takes, as the one sample of each: a baseline that is
    /// short enough to be kept with the sources.
    pub fn baseline(&self, wanted: impl Fn(&Metric) -> bool) -> Self {
        let metrics = self.metrics.iter().filter(|metric| wanted(metric));
        let medians = metrics.filter_map(|metric| {
            let Metric { unit, size, .. } = *metric;
            Metric::new(&*metric.name, unit, size, vec![metric.summary.p50])
        });
        Self {
            format: FORMAT,
            state: self.state,
            aligned: self.aligned,
            environment: self.environment.clone(),
            metrics: medians.collect(),
            skipped: Vec::new(),
            failed: Vec::new(),
            counters: Vec::new(),
        }
    }

    /// Reads a run; of one that goes on or was cut off, what was noted of it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut run = Self::read(path)?;
        for part in Notes::of(&run, path) {
            run.add(part);
        }
        Ok(run)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).map_err(|cause| Error::Io {
            what: "read",
            path: path.into(),
            cause,
        })?;
        let form = |cause| Error::Form {
            path: path.into(),
            cause,
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(&text).map_err(form)?;
        if !(OLDEST..=FORMAT).contains(&format) {
            return Err(Error::Version {
                path: path.into(),
                found: format,
            });
        }
        let run: Self = serde_json::from_slice(&text).map_err(form)?;
        Ok(Self {
            format: FORMAT,
            ..run
        })
    }

    /// Writes the run. A reader finds either what was there before or all of this.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self).map_err(|cause| Error::Form {
            path: path.into(),
            cause,
        })?;
        write_atomically(path, &text)
    }
}

/// The notes on a run that goes on, in a file beside the one of its result: the run as it began, and a line for each
/// case that is over.
#[derive(Debug)]
pub struct Notes {
    path: PathBuf,
    file: File,
}

impl Notes {
    /// Where the notes on the run at `path` are.
    fn beside(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        name.into()
    }

    /// Writes the beginning of `run` to `path`, and begins to take notes. There are none beside a device or a pipe.
    ///
    /// # Errors
    ///
    /// If either file cannot be written.
    pub fn begin(run: &Run, path: &Path) -> Result<Option<Self>, Error> {
        if path.exists() && !path.is_file() && !path.is_dir() {
            return Ok(None);
        }
        run.save(path)?;
        let path = Self::beside(path);
        let file = File::create(&path).map_err(|cause| Error::Io {
            what: "write",
            path: path.clone(),
            cause,
        })?;
        let mut notes = Self { path, file };
        notes.line(run)?;
        Ok(Some(notes))
    }

    /// Notes what a case has found.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn add(&mut self, part: &Part) -> Result<(), Error> {
        self.line(part)
    }

    fn line(&mut self, what: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(what).map_err(|cause| Error::Form {
            path: self.path.clone(),
            cause,
        })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|cause| Error::Io {
            what: "write",
            path: self.path.clone(),
            cause,
        })
    }

    /// The run has been written as a whole: there is nothing left to be noted.
    ///
    /// # Errors
    ///
    /// If the notes cannot be removed.
    pub fn end(self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::Io {
                what: "remove",
                path: self.path.clone(),
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// What was noted of the run at `path` that begins as `run`: nothing if that is not how the notes begin, which are
    /// then those on another one. The last line may be broken off.
    fn of(run: &Run, path: &Path) -> Vec<Part> {
        if run.state == State::Finished || !run.metrics.is_empty() {
            return Vec::new();
        }
        let text = fs::read_to_string(Self::beside(path)).unwrap_or_default();
        let mut lines = text.lines();
        let first = lines
            .next()
            .and_then(|line| serde_json::from_str(line).ok());
        match first.is_some_and(|first: Run| first == *run) {
            true => lines
                .map_while(|line| serde_json::from_str(line).ok())
                .collect(),
            false => Vec::new(),
        }
    }
}

/// Replaces the file at `path` as a whole.
pub fn write_atomically(path: &Path, text: &[u8]) -> Result<(), Error> {
    let failed = |cause| Error::Io {
        what: "write",
        path: path.into(),
        cause,
    };
    // Devices and pipes are written to, not replaced.
    if path.exists() && !path.is_file() {
        let mut file = File::options().write(true).open(path).map_err(failed)?;
        return file.write_all(text).map_err(failed);
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut file =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    // The file is for everybody to read, which temporary ones are not.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let all = fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(all).map_err(failed)?;
    }
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Run {
        let mut run = Run::new(true, BTreeMap::from([("kernel".into(), "7.2".into())]));
        let samples = vec![3.0, 1.0, 2.0];
        run.metrics
            .extend(Metric::new("a/b", Unit::Nanoseconds, Some(4096), samples));
        run
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        example().save(&path).unwrap();
        assert_eq!(Run::load(&path).unwrap(), example());
        assert_eq!(example().suites(), ["a"]);
    }

    #[test]
    fn a_run_that_was_cut_off_is_what_was_noted_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let beside = folder.path().join("run.json.part");
        let begun = Run::new(true, example().environment);
        let mut notes = Notes::begin(&begun, &path).unwrap().unwrap();
        assert_eq!(Run::load(&path).unwrap(), begun);
        let part = Part {
            metrics: example().metrics,
            skipped: vec![Missing {
                case: "a/c".into(),
                why: "no swap".into(),
            }],
            ..Part::default()
        };
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        notes.add(&part).unwrap();
        notes.add(&part).unwrap();
        // A case is a line, and the result is left alone.
        assert_eq!(fs::read_to_string(&beside).unwrap().lines().count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        let whole = Run::load(&path).unwrap();
        assert_eq!((whole.metrics.len(), whole.skipped.len()), (2, 2));
        assert_eq!(whole.state, State::Unfinished);
        // In the middle of a line, too.
        let text = fs::read_to_string(&beside).unwrap();
        fs::write(&beside, &text[..text.len() - 5]).unwrap();
        assert_eq!(Run::load(&path).unwrap().metrics.len(), 1);
        // Another run's notes are not its.
        let other = Run::new(false, BTreeMap::new());
        other.save(&path).unwrap();
        assert_eq!(Run::load(&path).unwrap(), other);
        notes.end().unwrap();
        assert!(!beside.exists());
        assert!(Notes::begin(&begun, Path::new("/dev/null"))
            .unwrap()
            .is_none());
    }

    #[test]
    fn earlier_forms_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let first = r#"{"count":2,"mean":1.5,"min":1.0,"p50":1.0,"p90":2.0,"p99":2.0,"p999":2.0,"max":2.0}"#;
        let second = r#"{"count":2,"independent":2,"mean":1.5,"min":1.0,"p50":1.0,"p50_within":null,"p90":null,
            "p99":null,"p999":null,"max":2.0}"#;
        let metric = |format: u32, summary: &str, samples: &str| {
            format!(
                r#"{{"format":{format},"state":"finished","aligned":false,"environment":{{}},"metrics":[{{"name":"a/b",
                "unit":"bytes","size":null,"summary":{summary},"samples":{samples}}}],"skipped":[],"failed":[],
                "counters":[]}}"#
            )
        };
        for (format, summary) in [(1, first), (2, second)] {
            fs::write(&path, metric(format, summary, "[1.0,2.0]")).unwrap();
            let run = Run::load(&path).unwrap();
            assert_eq!(run.format, FORMAT);
            assert_eq!(run.metrics[0].samples, [1.0, 2.0]);
            assert_eq!(run.metrics[0].summary.p99, None);
        }
        fs::write(&path, metric(1, first, "[]")).unwrap();
        let error = Run::load(&path).unwrap_err().to_string();
        assert!(error.contains("a/b has no samples"), "{error}");
    }

    #[test]
    fn a_baseline_is_of_medians() {
        let baseline = example().baseline(|metric| metric.name == "a/b");
        assert_eq!(baseline.metrics[0].samples, [2.0]);
        assert!(example().baseline(|_| false).metrics.is_empty());
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        for (text, reason) in [
            ("", "not a result"),
            ("{}", "not a result"),
            ("{\"format\": 99}", "format 99"),
            ("{\"format\": 1}", "not a result"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Run::load(&path).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let missing = Run::load(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let path = Path::new("/proc/none/run.json");
        let error = example().save(path).unwrap_err().to_string();
        assert!(
            error.contains("cannot write /proc/none/run.json"),
            "{error}"
        );
    }

    #[test]
    fn units_are_called_the_same_everywhere() {
        for unit in Unit::ALL {
            let json = serde_json::to_value(unit).unwrap();
            assert_eq!(json, unit.name());
        }
    }

    #[test]
    fn amounts_are_short() {
        let show = |amount| Unit::Nanoseconds.show(amount);
        assert_eq!(show(0.0), "0 ns");
        assert_eq!(show(7.126), "7.13 ns");
        assert_eq!(show(-1234.0), "-1.23 µs");
        assert_eq!(show(999_600.0), "1.00 ms");
        assert_eq!(Unit::Instructions.show(12345.6), "12346");
        assert_eq!(Unit::Instructions.show(1.234e6), "1.23 M");
        assert_eq!(
            [0.0, 1.5, 12345.0].map(|n| Unit::Count.show(n)),
            ["0", "1.5", "12345"]
        );
        assert_eq!(Unit::Bytes.show(2048.0), "2.00 KiB");
        assert_eq!(Unit::BytesPerSecond.show(123.4e6), "123 MB/s");
        assert_eq!(Unit::BytesPerSecond.show(5.0), "5.00 B/s");
    }

    #[test]
    fn only_what_grew_is_told() {
        let before = BTreeMap::from([("a".into(), 1), ("b".into(), 5)]);
        let after = BTreeMap::from([("a".into(), 4), ("b".into(), 5), ("c".into(), 2)]);
        let counted = Counted {
            case: "x".into(),
            before,
            after,
        };
        assert_eq!(counted.growth().collect::<Vec<_>>(), [("a", 3), ("c", 2)]);
    }
}
