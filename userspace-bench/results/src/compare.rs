// SPDX-License-Identifier: GPL-2.0
//! Two runs, or two series of runs, metric by metric: faster, slower, or no difference.

use std::fmt::Write;

use crate::{
    run::{Metric, Run},
    statistics::Ratio,
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
    /// Nothing that the samples show.
    NoDifference,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifference => "no difference",
        }
    }
}

/// One metric of both sides.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// The medians, the old one first, for people.
    pub medians: [String; 2],
    /// The new one over the old one.
    pub ratio: Ratio,
    /// What that means.
    pub verdict: Verdict,
    /// Whether it is worse by more than what is tolerated, even at the good end of the interval.
    pub regression: bool,
    /// Whether no difference is seen, but one beyond what is tolerated could hide in the interval.
    pub uncertain: bool,
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
    /// What makes the comparison doubtful.
    pub remarks: Vec<String>,
}

impl Comparison {
    /// Compares what a run has with a baseline of medians, on a machine whose clock counts instructions: the
    /// medians are what they are, without an interval, and [`COUNTED`] is no difference. What the baseline has and
    /// the run has not, counts as a regression; what only the run has, is not looked at.
    pub fn with_baseline(baseline: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(baseline, new),
            ..Self::default()
        };
        for metric in &baseline.metrics {
            let now = new
                .metric(&metric.name)
                .filter(|now| now.unit == metric.unit);
            let line = now.and_then(|now| {
                let median = |metric: &Metric| Metric {
                    samples: vec![metric.summary.p50],
                    ..metric.clone()
                };
                line(&median(metric), &median(now), threshold)
            });
            match line {
                Some(line) if (line.ratio.value - 1.0).abs() <= COUNTED => {
                    comparison.lines.push(Line {
                        verdict: Verdict::NoDifference,
                        ..line
                    });
                }
                Some(line) => comparison.lines.push(line),
                None => comparison.missing.push(metric.name.clone()),
            }
        }
        comparison
    }

    /// Compares `new` with `old`; what is worse by more than the share `threshold` is a regression.
    pub fn new(old: &Run, new: &Run, threshold: f64) -> Self {
        let mut comparison = Self {
            remarks: remarks(old, new),
            ..Self::default()
        };
        for metric in &new.metrics {
            let line = old
                .metric(&metric.name)
                .filter(|before| before.unit == metric.unit)
                .and_then(|before| line(before, metric, threshold));
            match line {
                Some(line) => comparison.lines.push(line),
                None => comparison.alone.push(metric.name.clone()),
            }
        }
        let gone = old.metrics.iter().filter(|m| new.metric(&m.name).is_none());
        comparison.alone.extend(gone.map(|m| m.name.clone()));
        comparison
    }

    /// How many metrics have become worse than is tolerated, or are missing.
    pub fn regressions(&self) -> usize {
        let worse = self.lines.iter().filter(|line| line.regression);
        worse.count() + self.missing.len()
    }

    /// How many metrics scatter too much for a regression to be seen.
    pub fn uncertain(&self) -> usize {
        self.lines.iter().filter(|line| line.uncertain).count()
    }

    /// The comparison for people.
    pub fn table(&self) -> String {
        let widest = self.lines.iter().map(|l| l.name.chars().count()).max();
        let width = widest.unwrap_or(0);
        let mut text = String::new();
        for remark in &self.remarks {
            let _ = writeln!(text, "note: {remark}");
        }
        for line in &self.lines {
            let Ratio { value, low, high } = line.ratio;
            let mark = match (line.regression, line.uncertain) {
                (true, _) => "  REGRESSION",
                (_, true) => " seen: too few samples, or they scatter too much",
                _ => "",
            };
            let _ = writeln!(
                text,
                "{:<width$}  {:>10} -> {:>10}  x{value:.3} [{low:.3}, {high:.3}]  {}{mark}",
                line.name,
                line.medians[0],
                line.medians[1],
                line.verdict.name(),
            );
        }
        for name in &self.missing {
            let _ = writeln!(text, "{name:<width$}  in the baseline, but not measured");
        }
        for name in &self.alone {
            let _ = writeln!(text, "{name:<width$}  in one of the two only");
        }
        text
    }
}

fn remarks(old: &Run, new: &Run) -> Vec<String> {
    let mut remarks = Vec::new();
    if old.aligned != new.aligned {
        remarks.push("one run was limited to aligned accesses, the other was not".into());
    }
    for name in ["cpu", "emulation", "cpus", "device"] {
        // A baseline does not say where it was measured.
        let of = |run: &'_ Run| run.environment.get(name).cloned();
        if let (Some(a), Some(b)) = (of(old), of(new)) {
            if a != b {
                remarks.push(format!("{name} differs: {a:?}, then {b:?}"));
            }
        }
    }
    for (run, which) in [(old, "first"), (new, "second")] {
        if !run.failed.is_empty() {
            remarks.push(format!("the {which} run had {} failures", run.failed.len()));
        }
    }
    remarks
}

fn line(old: &Metric, new: &Metric, threshold: f64) -> Option<Line> {
    let ratio = Ratio::of_medians(&old.samples, &new.samples)?;
    // From here on more is worse.
    let (worst, best) = match new.unit.less_is_better() {
        true => (ratio.high, ratio.low),
        false => (1.0 / ratio.low, 1.0 / ratio.high),
    };
    let verdict = match () {
        () if best > 1.0 => Verdict::Slower,
        () if worst < 1.0 => Verdict::Faster,
        () => Verdict::NoDifference,
    };
    Some(Line {
        name: new.name.clone(),
        medians: [old, new].map(|m| m.unit.show(m.summary.p50)),
        ratio,
        verdict,
        regression: best > 1.0 + threshold,
        uncertain: verdict == Verdict::NoDifference && worst > 1.0 + threshold,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Unit;
    use std::collections::BTreeMap;

    fn run(scale: f64, unit: Unit) -> Run {
        let mut run = Run::new(false, BTreeMap::new());
        let samples = (0..200).map(|i| scale * f64::from(90 + i % 20)).collect();
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
        restless.metrics[0].samples = vec![10.0, 100.0, 1000.0];
        let uncertain = |new: &Run| Comparison::new(&restless, new, 0.05).uncertain();
        assert_eq!(uncertain(&restless), 1);
        let calm = run(1.0, Unit::Nanoseconds);
        let comparison = Comparison::new(&calm, &calm, 0.05);
        assert_eq!(comparison.uncertain(), 0);
        assert!(!comparison.table().contains("scatter"));
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
    fn what_one_run_lacks_is_said() {
        let empty = Run::new(true, BTreeMap::new());
        let comparison = Comparison::new(&run(1.0, Unit::Bytes), &empty, 0.05);
        assert_eq!(comparison.alone, ["warm/x"]);
        assert!(comparison.table().contains("aligned accesses"));
        assert_eq!(comparison.regressions(), 0);
    }
}
