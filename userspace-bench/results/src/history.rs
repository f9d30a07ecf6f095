// SPDX-License-Identifier: GPL-2.0
//! Many runs, one after the other: a metric from run to run, and where it changed for good.
//!
//! Each run counts as one figure for each metric, its median. Which steps are called so depends on how many metrics
//! there are ([`family`](crate::statistics::family)): where nothing has changed, one is in at most 1 of 40 histories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs, io,
    path::Path,
};

use crate::{
    compare::{differences, flaws},
    run::{Error, Run, Unit},
    statistics::{
        family::stand_out,
        steps::{self, Step},
        TAIL,
    },
};

/// A run, by the name of its file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// What was measured.
    pub run: Run,
}

/// Reads all results of `folder`, the oldest first: by their dates, or by their names if one has none.
///
/// # Errors
///
/// If the folder or a file of JSON in it cannot be read.
pub fn load(folder: &Path) -> Result<Vec<Entry>, Error> {
    let failed = |cause: io::Error| Error::Io {
        what: "read",
        path: folder.into(),
        cause,
    };
    let mut entries = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let name = path.file_stem().unwrap_or_default();
            entries.push(Entry {
                name: name.to_string_lossy().into_owned(),
                run: Run::load(&path)?,
            });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if entries.iter().all(|entry| date(entry).is_some()) {
        entries.sort_by(|a, b| date(a).cmp(&date(b)));
    }
    Ok(entries)
}

/// Puts `entries` into the order of `list`, a line for each: the commits as `git rev-list --reverse` prints them. An entry
/// is called like its commit, or like the beginning of it; what follows a full stop does not count.
///
/// # Errors
///
/// The first that is not in the list, or that more than one line may mean.
pub fn arrange(entries: &mut Vec<Entry>, list: &str) -> Result<(), String> {
    let lines: Vec<&str> = list.lines().map(str::trim).collect();
    let place = |entry: &Entry| {
        let name = entry.name.split('.').next().unwrap_or_default();
        let means = |line: &&str| !name.is_empty() && line.starts_with(name);
        let mut places = (0..lines.len()).filter(|place| means(&lines[*place]));
        match (places.next(), places.next()) {
            (Some(place), None) => Ok(place),
            (None, _) => Err(format!("{} is not in it", entry.name)),
            (Some(_), Some(_)) => Err(format!("{} may be one or another of it", entry.name)),
        }
    };
    let places: Vec<usize> = entries.iter().map(place).collect::<Result<_, _>>()?;
    let mut placed: Vec<(usize, Entry)> = places.into_iter().zip(entries.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    entries.extend(placed.into_iter().map(|(_, entry)| entry));
    Ok(())
}

/// The devices on which `entries` were measured.
pub fn devices(entries: &[Entry]) -> BTreeSet<&str> {
    let devices = entries
        .iter()
        .filter_map(|entry| entry.run.environment.get("device"));
    devices.map(String::as_str).collect()
}

/// As RFC 3339 has it, which sorts as time goes.
fn date(entry: &Entry) -> Option<&str> {
    entry.run.environment.get("date").map(String::as_str)
}

/// A metric from run to run.
#[derive(Clone, Debug)]
pub struct Course {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Which runs have it, by their place in the history, and its median there.
    pub figures: Vec<(usize, f64)>,
    /// Where it has changed; `at` is a place in `figures`.
    pub steps: Vec<Step>,
}

impl Course {
    /// By what share a step is for the worse; below zero if it is for the better. The share is of the level before; if
    /// that is not above zero, of what lies farther from it.
    pub fn worsening(&self, step: &Step) -> f64 {
        let (before, after) = (step.before, step.after);
        match (before > 0.0 && after > 0.0, self.unit.less_is_better()) {
            (true, true) => after / before - 1.0,
            (true, false) => before / after - 1.0,
            (false, less) => {
                let share = (after - before) / before.abs().max(after.abs()).max(f64::MIN_POSITIVE);
                if less {
                    share
                } else {
                    -share
                }
            }
        }
    }

    /// The run with which the level of a step begins.
    fn run(&self, step: &Step) -> usize {
        self.figures[step.at].0
    }
}

/// All metrics, from run to run.
#[derive(Clone, Debug)]
pub struct History {
    /// What the runs are called, the oldest first.
    pub runs: Vec<String>,
    /// The metrics, by name.
    pub courses: Vec<Course>,
    /// What makes the history doubtful.
    pub remarks: Vec<String>,
}

impl History {
    /// That of `entries`, of those metrics whose names begin with `wanted`.
    pub fn new(entries: &[Entry], wanted: &str) -> Self {
        let mut all: BTreeMap<(&str, Unit), Vec<(usize, f64)>> = BTreeMap::new();
        for (place, entry) in entries.iter().enumerate() {
            let metrics = entry.run.metrics.iter();
            for metric in metrics.filter(|metric| metric.name.starts_with(wanted)) {
                let figures = all.entry((&metric.name, metric.unit)).or_default();
                figures.push((place, metric.summary.p50));
            }
        }
        let mut remarks = remarks(entries);
        // Of each metric the tests are as many as there are metrics.
        let enough = steps::enough(TAIL / all.len().max(1) as f64);
        if (1..enough).contains(&entries.len()) {
            remarks.push(format!(
                "for a step of a single metric among {} these are too few runs: {} more",
                all.len(),
                enough - entries.len()
            ));
        }
        let of = |figures: &[(usize, f64)]| figures.iter().map(|(_, x)| *x).collect::<Vec<_>>();
        let probabilities: Vec<f64> = all
            .values()
            .map(|figures| steps::probability(&of(figures)))
            .collect();
        let named = stand_out(&probabilities, TAIL);
        // What was little enough for the first step of a metric is so for the others.
        let level = probabilities
            .iter()
            .zip(&named)
            .filter(|(_, named)| **named)
            .map(|(probability, _)| *probability)
            .fold(0.0, f64::max);
        let courses = all
            .into_iter()
            .zip(named)
            .map(|(((name, unit), figures), named)| {
                let found = match named {
                    true => steps::steps(&of(&figures), level),
                    false => Vec::new(),
                };
                Course {
                    name: name.into(),
                    unit,
                    figures,
                    steps: found,
                }
            });
        Self {
            courses: courses.collect(),
            runs: entries.iter().map(|entry| entry.name.clone()).collect(),
            remarks,
        }
    }

    /// The metrics whose last step is for the worse by more than the share `threshold`, and among the last `recent`
    /// runs.
    pub fn regressions(&self, threshold: f64, recent: usize) -> Vec<&Course> {
        let first = self.runs.len().saturating_sub(recent);
        let worse = |course: &&Course| {
            let last = course.steps.last();
            last.is_some_and(|step| course.run(step) >= first && course.worsening(step) > threshold)
        };
        self.courses.iter().filter(worse).collect()
    }

    /// The steps, metric by metric.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for remark in &self.remarks {
            let _ = writeln!(text, "note: {remark}");
        }
        let changed = self
            .courses
            .iter()
            .filter(|course| !course.steps.is_empty());
        for course in changed {
            let _ = writeln!(text, "{}", course.name);
            for step in &course.steps {
                let worsening = course.worsening(step);
                let word = if worsening > 0.0 { "worse" } else { "better" };
                let show = |amount| course.unit.show(amount);
                let _ = writeln!(
                    text,
                    "  from {} on: {} -> {}, {:.1} % {word}",
                    self.runs[course.run(step)],
                    show(step.before),
                    show(step.after),
                    100.0 * worsening.abs()
                );
            }
        }
        text
    }

    /// One metric, run by run, with a bar for each median and a mark where a level begins.
    pub fn course(&self, course: &Course) -> String {
        const BAR: f64 = 40.0;
        let mut text = format!("{}\n", course.name);
        let most = course
            .figures
            .iter()
            .fold(0.0f64, |most, (_, x)| most.max(*x));
        let width = self.runs.iter().map(|run| run.chars().count()).max();
        let width = width.unwrap_or(0);
        for (place, (run, figure)) in course.figures.iter().enumerate() {
            let length = match most > 0.0 {
                true => (figure.max(0.0) / most * BAR).round() as usize,
                false => 0,
            };
            let step = course.steps.iter().any(|step| step.at == place);
            let mark = if step { "  <- a new level" } else { "" };
            let _ = writeln!(
                text,
                "  {:<width$}  {:>10}  {}{mark}",
                self.runs[*run],
                course.unit.show(*figure),
                "#".repeat(length)
            );
        }
        text
    }
}

/// What of the machine has changed on the way, which makes steps of its own, and which runs are doubtful by themselves.
fn remarks(entries: &[Entry]) -> Vec<String> {
    let mut remarks = Vec::new();
    for pair in entries.windows(2) {
        let found = differences(&pair[0].run, &pair[1].run).into_iter();
        remarks.extend(found.map(|what| format!("with {} {what}", pair[1].name)));
    }
    for Entry { name, run } in entries {
        remarks.extend(flaws(run).iter().map(|flaw| format!("{name} {flaw}")));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Metric, Missing, State};

    /// The run number `number`, with medians around these of two metrics.
    fn entry(number: usize, slow: f64, rate: f64, dice: &mut fastrand::Rng) -> Entry {
        let date = format!("2026-01-{:02}T00:00:00Z", number + 1);
        let mut run = Run::new(false, BTreeMap::from([("date".to_owned(), date)]));
        run.state = State::Finished;
        let mut near = |middle: f64| vec![middle * (1.0 + 0.01 * dice.f64()); 3];
        let slow = Metric::new("fault/x", Unit::Nanoseconds, None, near(slow));
        let rate = Metric::new("churn/x", Unit::BytesPerSecond, None, near(rate));
        run.metrics.extend([slow, rate].into_iter().flatten());
        // Names that sort the other way round.
        Entry {
            name: format!("c{:02}", 99 - number),
            run,
        }
    }

    fn entries() -> Vec<Entry> {
        let mut dice = fastrand::Rng::with_seed(4);
        let level = |i| if i < 12 { 100.0 } else { 110.0 };
        (0..24)
            .map(|i| entry(i, level(i), level(i), &mut dice))
            .collect()
    }

    #[test]
    fn what_is_worse_depends_on_the_unit() {
        let history = History::new(&entries(), "");
        let [churn, fault] = &history.courses[..] else {
            panic!("{:?}", history.courses);
        };
        assert_eq!((churn.steps.len(), fault.steps.len()), (1, 1));
        assert_eq!(fault.steps[0].at, 12);
        let worse = fault.worsening(&fault.steps[0]);
        assert!((0.08..0.12).contains(&worse), "{worse}");
        assert!(churn.worsening(&churn.steps[0]) < 0.0);
        let names = |threshold, recent| -> Vec<String> {
            let courses = history.regressions(threshold, recent);
            courses.iter().map(|course| course.name.clone()).collect()
        };
        assert_eq!(names(0.05, 12), ["fault/x"]);
        assert!(names(0.05, 11).is_empty() && names(0.2, 24).is_empty());
        let text = history.table();
        assert!(text.contains("fault/x\n  from c87 on: "), "{text}");
        assert!(
            text.contains("% worse") && text.contains("% better"),
            "{text}"
        );
        let course = history.course(fault);
        assert_eq!(course.lines().count(), 25);
        let marked = course.lines().find(|line| line.ends_with("a new level"));
        assert!(marked.unwrap().trim_start().starts_with("c87"));
    }

    #[test]
    fn a_prefix_chooses() {
        let history = History::new(&entries(), "fault/");
        assert_eq!(history.courses.len(), 1);
        assert!(History::new(&entries(), "none").courses.is_empty());
        assert!(History::new(&[], "").table().is_empty());
    }

    #[test]
    fn runs_are_in_the_order_of_their_dates() {
        let folder = tempfile::tempdir().unwrap();
        for Entry { name, run } in entries().iter().take(3) {
            run.save(&folder.path().join(format!("{name}.json")))
                .unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "no result").unwrap();
        let loaded = load(folder.path()).unwrap();
        let names: Vec<_> = loaded.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["c99", "c98", "c97"]);
        fs::write(folder.path().join("broken.json"), "{").unwrap();
        assert!(load(folder.path())
            .unwrap_err()
            .to_string()
            .contains("broken.json"));
        assert!(load(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn commits_come_in_their_order() {
        let named = |names: &[&str]| -> Vec<Entry> {
            let mut dice = fastrand::Rng::with_seed(4);
            let entry = |name: &&str| Entry {
                name: (*name).to_owned(),
                ..entry(0, 1.0, 1.0, &mut dice)
            };
            names.iter().map(entry).collect()
        };
        let list = "aaf0\nb1c2\nab17\nc3d4\n";
        let mut entries = named(&["ab17", "c3.mlx5_0", "b1c2"]);
        arrange(&mut entries, list).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["b1c2", "ab17", "c3.mlx5_0"]);
        let wrong = |name| arrange(&mut named(&[name]), list).unwrap_err();
        assert_eq!(wrong("d5"), "d5 is not in it");
        assert_eq!(wrong("a"), "a may be one or another of it");
    }

    #[test]
    fn runs_of_several_devices_are_told_apart() {
        let mut entries = entries();
        assert!(devices(&entries).is_empty());
        for (number, entry) in entries.iter_mut().enumerate() {
            let device = format!("mlx5_{}", number % 2);
            entry.run.environment.insert("device".into(), device);
        }
        assert_eq!(Vec::from_iter(devices(&entries)), ["mlx5_0", "mlx5_1"]);
    }

    #[test]
    fn too_few_runs_are_said_to_be_few() {
        let mut dice = fastrand::Rng::with_seed(4);
        let mut entries: Vec<Entry> = (0..16).map(|i| entry(i, 1.0, 1.0, &mut dice)).collect();
        for entry in &mut entries {
            for number in 0..300 {
                let name = format!("fault/{number}");
                let metric = Metric::new(name, Unit::Nanoseconds, None, vec![1.0]);
                entry.run.metrics.extend(metric);
            }
        }
        let remarks = History::new(&entries, "").remarks;
        assert_eq!(remarks.len(), 1);
        assert!(
            remarks[0].contains("among 302") && remarks[0].ends_with(": 1 more"),
            "{remarks:?}"
        );
        assert!(History::new(&entries, "churn/").remarks.is_empty());
    }

    #[test]
    fn another_machine_is_remarked_on() {
        let mut entries = entries();
        for (number, entry) in entries.iter_mut().enumerate() {
            let cpu = if number < 20 { "old" } else { "new" };
            entry.run.environment.insert("cpu".into(), cpu.into());
        }
        entries[3].run.failed.push(Missing {
            case: "fault/y".into(),
            why: "a wrong byte".into(),
        });
        entries[4].run.state = State::Unfinished;
        entries[23].run.aligned = true;
        let history = History::new(&entries, "");
        assert_eq!(
            history.remarks[1..],
            [
                "with c76 one run was limited to aligned accesses, the other was not",
                "c96 had 1 failures",
                "c95 was not finished"
            ]
        );
        assert!(history
            .table()
            .contains("note: with c79 cpu differs: \"old\", then \"new\""));
    }
}
