// SPDX-License-Identifier: GPL-2.0
//! Two runs metric by metric: faster, slower, no difference, or not enough samples to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::{
    run::{Metric, Run, State, Unit},
    statistics::{
        change::{Change, Scale},
        family::stand_out,
        Interval, Series, TAIL,
    },
};

/// By what share counted instructions may differ though nothing has changed: two boots of one build were seen to
/// differ by a little less.
pub const COUNTED: f64 = 0.005;

/// What may be said about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better, and that is no accident.
    Faster,
    /// Worse, and that is no accident.
    Slower,
    /// None that is worse by more than what is tolerated.
    NoDifference,
    /// None is seen, but one beyond what is tolerated could hide: so many samples more would show it, or that there
    /// is none.
    Open(u64),
    /// There are so few samples that nothing can be said: so many more are needed at least.
    TooFew(u64),
    /// It looks worse, but among so many metrics so few samples may do so by accident, however bad they look: so many
    /// more are needed at least.
    TooFewAmong(u64, usize),
}

impl Verdict {
    /// How many samples it would take for another one.
    pub fn lacking(self) -> Option<u64> {
        match self {
            Self::Open(more) | Self::TooFew(more) | Self::TooFewAmong(more, _) => Some(more),
            _ => None,
        }
    }

    /// In words.
    pub fn name(self) -> String {
        match self {
            Self::Faster => "faster".into(),
            Self::Slower => "slower".into(),
            Self::NoDifference => "no difference".into(),
            Self::Open(more) => format!(
                "no difference seen: {} more samples would tell",
                about(more)
            ),
            Self::TooFew(more) => format!("not enough samples: {} more", about(more)),
            Self::TooFewAmong(more, metrics) => format!(
                "slower, but not enough samples among {metrics} figures: {} more",
                about(more)
            ),
        }
    }
}

/// A number with two digits, as more would be made up.
fn about(number: u64) -> String {
    let unit = 10u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    let rounded = number.div_ceil(unit).saturating_mul(unit);
    match rounded {
        _ if number <= 20 => number.to_string(),
        0..=999_999 => format!("some {rounded}"),
        _ => "more than a million".into(),
    }
}

/// The percentiles that are compared besides the median, where both sides have enough samples for their intervals.
const TAILS: [(&str, f64); 2] = [("p99", 0.99), ("p99.9", 0.999)];

/// One metric of both sides.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name; of another percentile than the median, that with it.
    pub name: String,
    /// Whether it is of the median.
    pub of_median: bool,
    /// Its unit.
    pub unit: Unit,
    /// The medians, or other percentiles, the old one first.
    pub medians: [f64; 2],
    /// How many samples either side has.
    pub counts: [usize; 2],
    /// Whether the change is a ratio or a difference.
    pub scale: Scale,
    /// The change.
    pub change: f64,
    /// The interval that holds the true one in 95 of 100 cases, if there are enough samples.
    pub within: Option<Interval>,
    /// What that means.
    pub verdict: Verdict,
    /// Whether it is worse by more than what is tolerated, and stands out among all that were compared.
    pub regression: bool,
    /// Whether it would be if it had been compared alone.
    pub suspicious: bool,
}

impl Line {
    /// Whether a reader wants to see it: of percentiles far out those that have changed.
    fn is_told(&self) -> bool {
        let changed = [Verdict::Faster, Verdict::Slower].contains(&self.verdict);
        self.of_median || self.suspicious || changed
    }

    /// The change, with its interval, for people.
    pub fn shown(&self) -> String {
        let show = |change: f64| match self.scale {
            Scale::Ratio => format!("{change:.3}"),
            Scale::Difference if change > 0.0 => format!("+{}", self.unit.show(change)),
            Scale::Difference => self.unit.show(change),
        };
        let times = match self.scale {
            Scale::Ratio => "x",
            Scale::Difference => "",
        };
        let value = show(self.change);
        match self.within {
            None => format!("{times}{value}"),
            Some(Interval { low, high }) => {
                format!("{times}{value} [{}, {}]", show(low), show(high))
            }
        }
    }
}

/// A comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What both have.
    pub lines: Vec<Line>,
    /// What a baseline has and the run does not.
    pub missing: Vec<String>,
    /// What only one of them has.
    pub alone: Vec<String>,
    /// What both have, but in units that cannot be compared.
    pub other_unit: Vec<String>,
    /// Of several runs of either side: what some have, but not all in one unit.
    pub not_in_all: Vec<String>,
    /// What makes the comparison doubtful.
    pub remarks: Vec<String>,
    /// Whether all of a baseline has to be there.
    baseline: bool,
    /// Whether each sample is a run.
    runs: bool,
}

/// What several runs have measured, each with its median as one sample: the metrics of the first one that all have in
/// the same unit.
fn medians(runs: &[Run]) -> Run {
    let Some(first) = runs.first() else {
        return Run::new(false, BTreeMap::new());
    };
    let metrics = first.metrics.iter().filter_map(|metric| {
        let Metric { unit, size, .. } = *metric;
        let medians = runs.iter().map(|run| {
            let found = run
                .metric(&metric.name)
                .filter(|found| found.unit == unit)?;
            Some(found.summary.p50)
        });
        Metric::new(&*metric.name, unit, size, medians.collect::<Option<_>>()?)
    });
    let mut all = first.baseline(|_| false);
    all.metrics = metrics.collect();
    all.state = State::Finished;
    all
}

impl Comparison {
    /// Compares what a run has with a baseline of medians, on a machine whose clock counts instructions: the
    /// medians are what they are, without an interval, and [`COUNTED`] is no difference. What the baseline has and
    /// the run has not, counts as a regression; what only the run has, is not looked at.
    pub fn with_baseline(baseline: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(baseline, new),
            baseline: true,
            ..Self::default()
        };
        for metric in &baseline.metrics {
            let name = metric.name.clone();
            match new.metric(&metric.name) {
                None => comparison.missing.push(name),
                Some(now) if now.unit != metric.unit => comparison.other_unit.push(name),
                Some(now) => comparison.lines.push(counted(metric, now, threshold)),
            }
        }
        comparison
    }

    /// Compares `new` with `old`; what is worse by more than the share `threshold` is a regression, if it stands out
    /// among all metrics: where nothing has become so much worse, one is called so in at most 1 of 40 comparisons.
    pub fn new(old: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(old, new),
            ..Self::default()
        };
        let (mut probabilities, mut changes) = (Vec::new(), Vec::new());
        for metric in &new.metrics {
            let before = old.metric(&metric.name);
            if before.is_some_and(|before| before.unit != metric.unit) {
                comparison.other_unit.push(metric.name.clone());
                continue;
            }
            let found = before.map(|before| lines(before, metric, threshold));
            match found.filter(|found| !found.is_empty()) {
                Some(found) => {
                    for (line, change, probability) in found {
                        comparison.lines.push(line);
                        changes.push(change);
                        probabilities.push(probability);
                    }
                }
                None => comparison.alone.push(metric.name.clone()),
            }
        }
        let named = stand_out(&probabilities, TAIL);
        let count = comparison.lines.len();
        for ((line, stands_out), change) in comparison.lines.iter_mut().zip(named).zip(changes) {
            line.regression = stands_out;
            // What a single one of them would have to be.
            let lacking = change.lacking_at_all(TAIL / count as f64);
            if line.suspicious && !stands_out && lacking > 0 {
                line.verdict = Verdict::TooFewAmong(lacking, count);
            }
        }
        let gone = old.metrics.iter().filter(|m| new.metric(&m.name).is_none());
        comparison.alone.extend(gone.map(|m| m.name.clone()));
        comparison
    }

    /// Compares several runs of each side: each run counts as one sample of a metric, its median. So what differs from
    /// run to run (a boot, a layout of memory, a day) is in the intervals, which it is not if two runs are compared.
    pub fn of_runs(old: &[Run], new: &[Run], threshold: f64) -> Self {
        let sides = [("old", old), ("new", new)].map(|(name, runs)| {
            let mut remarks = Vec::new();
            for (number, run) in runs.iter().enumerate() {
                let which = format!("run {} of the {name} ones", number + 1);
                let differences = differences(&runs[0], run).into_iter();
                remarks.extend(differences.map(|what| format!("{which}: {what}")));
                remarks.extend(flaws(run).iter().map(|flaw| format!("{which} {flaw}")));
            }
            (medians(runs), remarks)
        });
        let [(old_medians, mut remarks), (new_medians, of_new)] = sides;
        let mut comparison = Self::new(&old_medians, &new_medians, threshold);
        comparison.runs = true;
        comparison.not_in_all = comparison.not_compared(old.iter().chain(new));
        comparison.alone.clear();
        remarks.extend(of_new);
        remarks.extend(differences(&old_medians, &new_medians));
        comparison.remarks = remarks;
        comparison
    }

    /// The metrics of `runs` of which nothing else is said, each once.
    fn not_compared<'a>(&self, runs: impl Iterator<Item = &'a Run>) -> Vec<String> {
        let lines = self.lines.iter().map(|line| &line.name);
        let mut said: BTreeSet<&String> = lines.chain(&self.other_unit).collect();
        let names = runs.flat_map(|run| &run.metrics).map(|metric| &metric.name);
        names.filter(|name| said.insert(*name)).cloned().collect()
    }

    /// How many metrics have become worse than is tolerated, or are not what the baseline has.
    pub fn regressions(&self) -> usize {
        let worse = self.lines.iter().filter(|line| line.regression);
        let other_unit = match self.baseline {
            true => self.other_unit.len(),
            false => 0,
        };
        worse.count() + self.missing.len() + other_unit
    }

    /// How many metrics are compared.
    pub fn metrics(&self) -> usize {
        self.lines.iter().filter(|line| line.of_median).count()
    }

    /// How many metrics' medians scatter too much for a regression to be seen, or have too few samples.
    pub fn uncertain(&self) -> usize {
        let open = |line: &&Line| line.of_median && line.verdict.lacking().is_some();
        self.lines.iter().filter(open).count()
    }

    /// How many times as many samples it would take for nothing to be too uncertain to tell; 1 if nothing is.
    pub fn effort(&self) -> f64 {
        let factor = |line: &Line| match line.verdict.lacking() {
            Some(more) if line.of_median => {
                let least = line.counts[0].min(line.counts[1]).max(1);
                1.0 + more as f64 / least as f64
            }
            _ => 1.0,
        };
        self.lines.iter().map(factor).fold(1.0, f64::max)
    }

    /// A verdict in words, with what it takes more of.
    fn in_words(&self, verdict: Verdict) -> String {
        match self.runs {
            false => verdict.name(),
            true => {
                let words = verdict
                    .name()
                    .replace("more samples", "more runs of either side");
                words.replace("not enough samples", "not enough runs")
            }
        }
    }

    /// The comparison for people.
    pub fn table(&self) -> String {
        let widest = |text: &dyn Fn(&Line) -> String| {
            let told = self.lines.iter().filter(|line| line.is_told());
            let widths = told.map(|line| text(line).chars().count());
            widths.max().unwrap_or(0)
        };
        let (width, shown) = (widest(&|line| line.name.clone()), widest(&Line::shown));
        let mut text = String::new();
        for remark in &self.remarks {
            let _ = writeln!(text, "note: {remark}");
        }
        for line in self.lines.iter().filter(|line| line.is_told()) {
            let mark = match (line.regression, line.suspicious) {
                (true, _) => "  REGRESSION",
                // Its verdict says so.
                _ if matches!(line.verdict, Verdict::TooFewAmong(..)) => "",
                (_, true) => "  (but among so many one may be so by accident)",
                _ => "",
            };
            let [old, new] = line.medians.map(|median| line.unit.show(median));
            let _ = writeln!(
                text,
                "{:<width$}  {old:>10} -> {new:>10}  {:<shown$}  {}{mark}",
                line.name,
                line.shown(),
                self.in_words(line.verdict),
            );
        }
        for name in &self.missing {
            let _ = writeln!(text, "{name:<width$}  in the baseline, but not measured");
        }
        for name in &self.other_unit {
            let _ = writeln!(text, "{name:<width$}  in another unit: not compared");
        }
        for name in &self.alone {
            let _ = writeln!(text, "{name:<width$}  in one of the two only");
        }
        for name in &self.not_in_all {
            let _ = writeln!(text, "{name:<width$}  not in all runs: not compared");
        }
        text
    }
}

/// What of the environment changes figures by itself, of this machine or of the peer. The kernel and the driver do, too,
/// but are what is compared.
const DECISIVE: [&str; 22] = [
    "cpu",
    "emulation",
    "cpus",
    "cpus allowed",
    "device",
    "board",
    "link",
    "rate",
    "mtu",
    "governor",
    "turbo",
    "thp",
    "thp defrag",
    "thp shmem",
    "mthp",
    "iommu",
    "numa device",
    "numa process",
    "numa balancing",
    "clock",
    "placement",
    "kernel command line",
];

/// In what that changes figures two runs differ.
pub(crate) fn differences(old: &Run, new: &Run) -> Vec<String> {
    let mut found = Vec::new();
    if old.aligned != new.aligned {
        found.push("one run was limited to aligned accesses, the other was not".into());
    }
    let is_pair = |run: &Run| run.environment.contains_key("peer");
    // A baseline does not say where it was measured.
    let both_say = !old.environment.is_empty() && !new.environment.is_empty();
    if both_say && is_pair(old) != is_pair(new) {
        found.push("one run was between two machines, the other was not".into());
    }
    for (name, before) in &old.environment {
        let own = name.strip_prefix("peer ").unwrap_or(name);
        let now = new.environment.get(name);
        if let Some(now) = now.filter(|now| DECISIVE.contains(&own) && *now != before) {
            found.push(format!("{name} differs: {before:?}, then {now:?}"));
        }
    }
    found
}

/// What makes a run doubtful by itself.
pub(crate) fn flaws(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    if !run.failed.is_empty() {
        found.push(format!("had {} failures", run.failed.len()));
    }
    if run.state == State::Unfinished {
        found.push("was not finished".into());
    }
    found
}

fn remarks(old: &Run, new: &Run) -> Vec<String> {
    let mut remarks = differences(old, new);
    for (run, which) in [(old, "first"), (new, "second")] {
        let flaws = flaws(run).into_iter();
        remarks.extend(flaws.map(|flaw| format!("the {which} run {flaw}")));
    }
    remarks
}

/// Compares a metric: its median, and those percentiles far out for which both sides have enough samples. None of them
/// if either side has no number.
fn lines(old: &Metric, new: &Metric, threshold: f64) -> Vec<(Line, Change, f64)> {
    let (Some(before), Some(now)) = (Series::of(&old.samples), Series::of(&new.samples)) else {
        return Vec::new();
    };
    let of = |part| Change::of_part(before.clone(), now.clone(), part, TAIL);
    let compared = |title: Option<&str>, change: Change| {
        let name = title.map_or(new.name.clone(), |title| format!("{} {title}", new.name));
        let (line, probability) = line(name, title.is_none(), new.unit, &change, threshold);
        (line, change, probability)
    };
    let mut lines = vec![compared(None, of(0.5))];
    for (title, part) in TAILS {
        let change = of(part);
        if change.within(TAIL).is_some() {
            lines.push(compared(Some(title), change));
        }
    }
    lines
}

/// What there is to be said of a change, and how probable the samples are at most if it is not for the worse by more than
/// `threshold`.
fn line(name: String, of_median: bool, unit: Unit, change: &Change, threshold: f64) -> (Line, f64) {
    let less_is_better = unit.less_is_better();
    let share = if less_is_better {
        threshold
    } else {
        -threshold
    };
    let limit = change.limit(share, TAIL);
    let within = change.within(TAIL);
    let verdict = match within {
        None => Verdict::TooFew(change.lacking(limit, TAIL).max(1)),
        Some(Interval { low, high }) => {
            let none = change.none();
            // Whether all of it is, and whether some of it may be.
            let (worse, better, intolerable) = match less_is_better {
                true => (low > none, high < none, high > limit),
                false => (high < none, low > none, low < limit),
            };
            match () {
                () if worse => Verdict::Slower,
                () if better => Verdict::Faster,
                () if intolerable => Verdict::Open(change.lacking(limit, TAIL)),
                () => Verdict::NoDifference,
            }
        }
    };
    let probability = change.probability(limit, less_is_better);
    let line = Line {
        name,
        of_median,
        unit,
        medians: change.values(),
        counts: change.sides().map(Series::count),
        scale: change.scale(),
        change: change.value(),
        within,
        verdict,
        regression: false,
        suspicious: probability <= TAIL,
    };
    (line, probability)
}

/// Compares medians that do not scatter: by their ratio, or by their difference if one of them is not above zero.
fn counted(old: &Metric, new: &Metric, threshold: f64) -> Line {
    let medians = [old, new].map(|metric| metric.summary.p50);
    let [before, now] = medians;
    let less = new.unit.less_is_better();
    // By how much it is worse, and what would be so by the share 1.
    let (scale, change, worse, whole) = match before > 0.0 && now > 0.0 {
        true if less => (Scale::Ratio, now / before, now / before - 1.0, 1.0),
        true => (Scale::Ratio, now / before, before / now - 1.0, 1.0),
        false => {
            let change = now - before;
            let worse = if less { change } else { -change };
            (Scale::Difference, change, worse, before.abs())
        }
    };
    let regression = worse > threshold * whole;
    Line {
        name: new.name.clone(),
        of_median: true,
        unit: new.unit,
        medians,
        counts: [old, new].map(|metric| metric.summary.count),
        scale,
        change,
        within: None,
        verdict: match () {
            () if worse.abs() <= COUNTED * whole => Verdict::NoDifference,
            () if worse > 0.0 => Verdict::Slower,
            () => Verdict::Faster,
        },
        regression,
        suspicious: regression,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Unit;
    use std::collections::BTreeMap;

    fn run(scale: f64, unit: Unit) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        run.state = State::Finished;
        let samples = (0..800).map(|i| scale * f64::from(90 + i % 20)).collect();
        run.metrics
            .extend(Metric::new("warm/x", unit, None, samples));
        run
    }

    fn verdict(old: f64, new: f64, unit: Unit) -> (Verdict, bool) {
        let comparison = Comparison::new(&run(old, unit), &run(new, unit), 0.05);
        assert!(comparison.alone.is_empty() && comparison.remarks.is_empty());
        let line = &comparison.lines[0];
        (line.verdict, line.regression)
    }

    #[test]
    fn times_are_better_if_shorter() {
        let unit = Unit::Nanoseconds;
        assert_eq!(verdict(1.0, 1.5, unit), (Verdict::Slower, true));
        assert_eq!(verdict(1.0, 0.5, unit), (Verdict::Faster, false));
        assert_eq!(verdict(1.0, 1.0, unit), (Verdict::NoDifference, false));
    }

    #[test]
    fn throughput_is_better_if_more() {
        let unit = Unit::BytesPerSecond;
        assert_eq!(verdict(1.0, 1.5, unit), (Verdict::Faster, false));
        assert_eq!(verdict(1.0, 0.5, unit), (Verdict::Slower, true));
    }

    #[test]
    fn what_scatters_hides_a_regression() {
        let mut restless = run(1.0, Unit::Nanoseconds);
        let samples = &mut restless.metrics[0].samples;
        *samples = [10.0, 100.0, 1000.0].repeat(20);
        fastrand::Rng::with_seed(1).shuffle(samples);
        let comparison = Comparison::new(&restless, &restless, 0.05);
        let Verdict::Open(more) = comparison.lines[0].verdict else {
            panic!("{:?}", comparison.lines[0]);
        };
        assert!(more > 100 && comparison.effort() > 3.0);
        assert!(comparison.table().contains("more samples would tell"));
        let calm = run(1.0, Unit::Nanoseconds);
        let comparison = Comparison::new(&calm, &calm, 0.05);
        assert_eq!((comparison.uncertain(), comparison.effort()), (0, 1.0));
    }

    fn of(samples: &[f64]) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        let metric = Metric::new("warm/x", Unit::Nanoseconds, None, samples.to_vec());
        run.metrics.extend(metric);
        run
    }

    fn only(old: &[f64], new: &[f64]) -> Line {
        Comparison::new(&of(old), &of(new), 0.05).lines.remove(0)
    }

    #[test]
    fn one_sample_shows_nothing() {
        let line = only(&[100.0], &[188.7]);
        assert_eq!((line.verdict, line.regression), (Verdict::TooFew(5), false));
        assert_eq!(line.shown(), "x1.887");
        assert_eq!(line.verdict.name(), "not enough samples: 5 more");
        assert_eq!(only(&[100.0; 20], &[188.7; 4]).verdict, Verdict::TooFew(2));
    }

    #[test]
    fn what_is_below_zero_has_no_ratio() {
        let scattered = |centre: f64| -> Vec<f64> {
            let mut dice = fastrand::Rng::with_seed(centre.to_bits());
            (0..40).map(|_| centre + 20.0 * dice.f64() - 10.0).collect()
        };
        let line = only(&scattered(-35.4), &scattered(-37.6));
        assert_eq!(line.scale, Scale::Difference);
        assert!(
            !line.regression && line.verdict != Verdict::Slower,
            "{line:?}"
        );
        // From below zero to above it.
        let line = only(&scattered(-30.0), &scattered(30.0));
        assert!(
            line.regression && line.verdict == Verdict::Slower,
            "{line:?}"
        );
        assert!((50.0..70.0).contains(&line.change), "{line:?}");
        assert!(line.shown().starts_with('+') && line.shown().contains(" ns ["));
        let line = only(&scattered(30.0), &scattered(-30.0));
        assert_eq!((line.verdict, line.regression), (Verdict::Faster, false));
    }

    #[test]
    fn a_tail_that_has_become_long_is_a_regression() {
        let with = |rare: f64, seed| -> Vec<f64> {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut one = || match dice.f64() < 0.02 {
                true => rare * (0.9 + 0.2 * dice.f64()),
                false => 90.0 + 20.0 * dice.f64(),
            };
            (0..2000).map(|_| one()).collect()
        };
        let comparison = Comparison::new(&of(&with(200.0, 1)), &of(&with(20e3, 2)), 0.05);
        let named: Vec<_> = comparison
            .lines
            .iter()
            .filter(|line| line.regression)
            .collect();
        assert_eq!(named.len(), 1, "{named:?}");
        assert_eq!(
            (named[0].name.as_str(), named[0].of_median),
            ("warm/x p99", false)
        );
        assert_eq!((comparison.metrics(), comparison.uncertain()), (1, 0));
        let same = Comparison::new(&of(&with(200.0, 1)), &of(&with(200.0, 2)), 0.05);
        // What has not changed there is not told.
        assert!(same.regressions() == 0 && !same.table().contains("p99"));
        assert_eq!(same.lines.len(), 2);
    }

    #[test]
    fn zero_can_be_compared() {
        let line = only(&[0.0; 20], &[0.0; 20]);
        assert_eq!(
            (line.verdict, line.regression),
            (Verdict::NoDifference, false)
        );
        let line = only(&[0.0; 20], &[704.0; 20]);
        assert_eq!((line.verdict, line.regression), (Verdict::Slower, true));
    }

    #[test]
    fn where_nothing_is_tolerated_twice_as_many_are_asked_for() {
        let scattered = |seed| -> Vec<f64> {
            let mut dice = fastrand::Rng::with_seed(seed);
            (0..40).map(|_| 90.0 + 20.0 * dice.f64()).collect()
        };
        let strict = Comparison::new(&of(&scattered(1)), &of(&scattered(2)), 0.0);
        assert_eq!(strict.lines[0].verdict, Verdict::Open(40));
        assert_eq!(strict.effort(), 2.0);
        // Of nothing each share is nothing, too.
        let mut some = vec![0.0; 30];
        some.extend([3.0; 20]);
        fastrand::Rng::with_seed(3).shuffle(&mut some);
        let line = only(&[0.0; 50], &some);
        assert_eq!(line.verdict, Verdict::Open(50), "{line:?}");
    }

    #[test]
    fn one_of_many_has_to_stand_out() {
        let (mut old, mut new) = (of(&[]), of(&[]));
        let sample = |number: u64, centre: f64| {
            let mut dice = fastrand::Rng::with_seed(number);
            let samples = (0..24).map(|_| centre * (0.8 + 0.4 * dice.f64())).collect();
            Metric::new(format!("warm/{number}"), Unit::Nanoseconds, None, samples).unwrap()
        };
        for number in 0..300 {
            old.metrics.push(sample(number, 100.0));
            let mut metric = sample(number + 1000, if number == 7 { 200.0 } else { 104.0 });
            metric.name = format!("warm/{number}");
            new.metrics.push(metric);
        }
        let comparison = Comparison::new(&old, &new, 0.05);
        let named = comparison.lines.iter().filter(|line| line.regression);
        let names: Vec<_> = named.map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["warm/7"]);
    }

    #[test]
    fn few_samples_among_many_metrics_are_said_to_be_few() {
        let (mut old, mut new) = (of(&[]), of(&[]));
        for number in 0..300 {
            let sample = |seed: u64, centre: f64| {
                let mut dice = fastrand::Rng::with_seed(seed);
                let samples = (0..10).map(|_| centre * (0.9 + 0.2 * dice.f64())).collect();
                Metric::new(format!("warm/{number}"), Unit::Nanoseconds, None, samples).unwrap()
            };
            old.metrics.push(sample(number, 100.0));
            new.metrics.push(sample(
                number + 1000,
                if number == 7 { 1000.0 } else { 100.0 },
            ));
        }
        let comparison = Comparison::new(&old, &new, 0.05);
        let line = &comparison.lines[7];
        // Of ten samples one of a thousand pairs lies so by accident: fourteen are the least for one of 12000.
        let Verdict::TooFewAmong(more, 300) = line.verdict else {
            panic!("{line:?}");
        };
        assert!((4..=12).contains(&more) && !line.regression, "{line:?}");
        let table = comparison.table();
        assert!(table.contains("not enough samples among 300 figures"));
        // Once.
        assert!(!table.contains("by accident"), "{table}");
        assert!(comparison.uncertain() > 0);
    }

    #[test]
    fn numbers_are_about() {
        let shown = [7, 137, 4_321, 987_654, 5_000_000].map(about);
        let wanted = [
            "7",
            "some 140",
            "some 4400",
            "some 990000",
            "more than a million",
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_baseline_is_compared_by_medians() {
        let unit = Unit::Instructions;
        let baseline = run(1.0, unit).baseline(|_| true);
        let regressions = |new: &Run| Comparison::with_baseline(&baseline, new, 0.05).regressions();
        assert_eq!(regressions(&run(1.04, unit)), 0);
        assert_eq!(regressions(&run(1.06, unit)), 1);
        assert_eq!(regressions(&run(0.5, unit)), 0);
        let verdict = |new: &Run| Comparison::with_baseline(&baseline, new, 0.05).lines[0].verdict;
        assert_eq!(verdict(&run(1.004, unit)), Verdict::NoDifference);
        assert_eq!(verdict(&run(1.006, unit)), Verdict::Slower);
        assert_eq!(verdict(&run(0.994, unit)), Verdict::Faster);
        assert_eq!(regressions(&Run::new(false, BTreeMap::new())), 1);
    }

    #[test]
    fn what_changes_figures_by_itself_is_said() {
        let with = |name: &str, value: &str| {
            let mut run = run(1.0, Unit::Nanoseconds);
            run.environment.insert(name.into(), value.into());
            run
        };
        let remarks = |name| Comparison::new(&with(name, "a"), &with(name, "b"), 0.05).remarks;
        for name in [
            "cpu",
            "peer cpu",
            "placement",
            "peer placement",
            "kernel command line",
            "numa device",
            "thp defrag",
            "thp shmem",
        ] {
            assert_eq!(
                remarks(name),
                [format!("{name} differs: \"a\", then \"b\"")]
            );
        }
        for name in ["date", "kernel", "peer kernel", "peer"] {
            assert!(remarks(name).is_empty(), "{name}");
        }
        let alone = with("cpu", "a");
        let mut pair = alone.clone();
        pair.environment.insert("peer".into(), "there".into());
        assert_eq!(
            Comparison::new(&alone, &pair, 0.05).remarks,
            ["one run was between two machines, the other was not"]
        );
        let whole = run(1.0, Unit::Nanoseconds);
        let mut cut_off = whole.clone();
        cut_off.state = State::Unfinished;
        let remarks = Comparison::new(&whole, &cut_off, 0.05).remarks;
        assert_eq!(remarks, ["the second run was not finished"]);
    }

    /// Runs whose samples scatter little, each around a middle that differs from run to run by a tenth.
    fn boots(middle: f64, count: u64) -> Vec<Run> {
        let boot = |number: u64| {
            let mut dice = fastrand::Rng::with_seed(number ^ middle.to_bits());
            let middle = middle * (0.95 + 0.1 * dice.f64());
            let samples: Vec<f64> = (0..50).map(|_| middle + dice.f64()).collect();
            of(&samples)
        };
        (0..count).map(boot).collect()
    }

    #[test]
    fn what_differs_from_run_to_run_is_no_change() {
        // Of two runs alone one of most pairs is called slower, as each is so sure of itself.
        let (old, new) = (boots(100.0, 9), boots(100.5, 9));
        let pairs = old.iter().zip(&new);
        let changed = pairs.filter(|(old, new)| {
            let verdict = Comparison::new(old, new, 0.05).lines[0].verdict;
            matches!(verdict, Verdict::Slower | Verdict::Faster)
        });
        assert!(changed.count() > 5);
        let comparison = Comparison::of_runs(&old, &new, 0.05);
        let line = &comparison.lines[0];
        assert_eq!(line.counts, [9, 9]);
        assert!(
            !matches!(line.verdict, Verdict::Slower | Verdict::Faster),
            "{line:?}"
        );
        let slower = Comparison::of_runs(&old, &boots(130.0, 9), 0.05);
        assert_eq!(slower.regressions(), 1);
        let few = Comparison::of_runs(&old[..3], &boots(130.0, 9), 0.05);
        assert_eq!(few.lines[0].verdict, Verdict::TooFew(3));
        assert!(few.table().contains("not enough runs: 3 more"));
    }

    #[test]
    fn what_a_run_of_several_lacks_is_not_compared() {
        let mut old = boots(100.0, 6);
        old[4].metrics.clear();
        old[5].environment.insert("cpu".into(), "another".into());
        old[0].environment.insert("cpu".into(), "one".into());
        old[3].state = State::Finished;
        let comparison = Comparison::of_runs(&old, &boots(100.0, 6), 0.05);
        assert!(comparison.lines.is_empty() && comparison.alone.is_empty());
        assert_eq!(comparison.not_in_all, ["warm/x"]);
        assert!(comparison.table().contains("not in all runs"));
        let has = |text: &str| comparison.remarks.iter().any(|remark| remark == text);
        assert!(has(
            "run 6 of the old ones: cpu differs: \"one\", then \"another\""
        ));
        assert!(has("run 1 of the new ones was not finished"));
        assert!(!has("run 4 of the old ones was not finished"));
    }

    #[test]
    fn a_baseline_may_be_nothing() {
        let baseline = |median: f64| of(&[median]);
        let line = |old: f64, new: f64| {
            let comparison = Comparison::with_baseline(&baseline(old), &of(&[new; 9]), 0.05);
            assert!(comparison.missing.is_empty());
            let line = &comparison.lines[0];
            (line.verdict, line.regression)
        };
        assert_eq!(line(0.0, 0.0), (Verdict::NoDifference, false));
        assert_eq!(line(0.0, 7.0), (Verdict::Slower, true));
        assert_eq!(line(7.0, 0.0), (Verdict::Faster, false));
        assert_eq!(line(-35.4, -37.6), (Verdict::Faster, false));
        assert_eq!(line(-100.0, -96.0), (Verdict::Slower, false));
    }

    #[test]
    fn another_unit_is_not_a_missing_metric() {
        let (old, new) = (run(1.0, Unit::Nanoseconds), run(1.0, Unit::Instructions));
        for comparison in [
            Comparison::new(&old, &new, 0.05),
            Comparison::with_baseline(&old, &new, 0.05),
        ] {
            assert_eq!(comparison.other_unit, ["warm/x"]);
            assert!(comparison.missing.is_empty() && comparison.alone.is_empty());
            assert!(comparison.table().contains("in another unit"));
        }
        assert_eq!(Comparison::new(&old, &new, 0.05).regressions(), 0);
        let strict = Comparison::with_baseline(&old, &new, 0.05);
        assert_eq!(strict.regressions(), 1);
    }

    #[test]
    fn what_one_run_lacks_is_said() {
        let empty = Run::new(true, BTreeMap::new());
        let comparison = Comparison::new(&run(1.0, Unit::Bytes), &empty, 0.05);
        assert_eq!(comparison.alone, ["warm/x"]);
        assert!(comparison.table().contains("aligned accesses"));
        assert_eq!(comparison.regressions(), 0);
    }
}
