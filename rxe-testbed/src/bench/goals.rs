// SPDX-License-Identifier: GPL-2.0
//! The performance goals of the driver: what each compares, and its limit.
//!
//! Two measurements are never exactly equal. Where equality is the goal, the limit is 1 plus the noise: how much the
//! stock driver differs from itself ([`super::verdict`]).

/// What a goal compares.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure {
    /// A metric of our driver over the same metric of C's.
    AgainstC(&'static str),
    /// A metric that only our driver has over another metric of C's.
    CountedAgainstC(&'static str, &'static str),
    /// A metric over another metric of the same run, on our driver.
    Within(&'static str, &'static str),
    /// The largest of the metrics whose names begin with this over the smallest, on our driver.
    Spread(&'static str),
    /// A metric of our driver over a constant.
    Amount(&'static str, f64),
}

/// The limit of a figure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// None: the figure is for information.
    Unlimited,
    /// At most this.
    AtMost(f64),
    /// 1 plus the noise: how much this figure of the stock driver differs from run to run.
    Equal(Figure),
}

/// A performance goal.
pub(super) struct Goal {
    pub(super) title: &'static str,
    pub(super) figure: Figure,
    pub(super) limit: Limit,
}

pub(super) const fn goal(title: &'static str, figure: Figure, limit: f64) -> Goal {
    Goal {
        title,
        figure,
        limit: Limit::AtMost(limit),
    }
}

pub(super) const fn equal(title: &'static str, figure: Figure, null: Figure) -> Goal {
    Goal {
        title,
        figure,
        limit: Limit::Equal(null),
    }
}

const fn told(title: &'static str, figure: Figure) -> Goal {
    Goal {
        title,
        figure,
        limit: Limit::Unlimited,
    }
}

/// The metric of the first touch of a small page.
pub(super) const UNTOUCHED: &str = "fault/explicit/4k/untouched/random/cost-of-a-fault";
/// What a warm access to explicit memory takes over one to pinned memory.
pub(super) const WARM: Figure = Figure::Within("warm/write/explicit", "warm/write/pinned");
const WARM_TOGETHER: Figure =
    Figure::Within("warm/write-4-qps/explicit", "warm/write-4-qps/pinned");

/// All of them.
pub(super) const GOALS: &[Goal] = &[
    goal(
        "register 256 MiB",
        Figure::AgainstC("registration/explicit/register/256MiB"),
        0.02,
    ),
    goal(
        "register 4 KiB to 16 TiB: dearest / cheapest",
        Figure::Spread("registration/explicit/register/"),
        2.0,
    ),
    goal(
        "kernel memory for registering 1 GiB / 16 KiB",
        Figure::Amount("registration/memory/1GiB", 16384.0),
        1.0,
    ),
    told(
        "the same against C",
        Figure::AgainstC("registration/memory/1GiB"),
    ),
    equal("64-byte WRITE, warm: explicit / pinned", WARM, WARM),
    equal(
        "64-byte WRITE, warm: implicit / pinned",
        Figure::Within("warm/write/implicit", "warm/write/pinned"),
        // The stock driver has no implicit regions.
        WARM,
    ),
    equal(
        "4 QPs on one region, warm: explicit / pinned",
        WARM_TOGETHER,
        WARM_TOGETHER,
    ),
    told(
        "4 QPs on one region, warm, against C",
        Figure::AgainstC("warm/write-4-qps/explicit"),
    ),
    goal(
        "cold 4 KiB page, untouched: cost over warm",
        Figure::AgainstC(UNTOUCHED),
        0.6,
    ),
    told(
        "the same against the CPU's own first touch",
        Figure::Within(UNTOUCHED, "fault/cpu/4k/cost-per-page"),
    ),
    goal(
        "cold 4 KiB page, resident, in order: cost over warm",
        Figure::AgainstC("fault/explicit/4k/resident/sequential/cost-per-page"),
        0.1,
    ),
    goal(
        "the same: all time in faults, counted / a typical page of C's",
        Figure::CountedAgainstC(
            "fault/explicit/4k/resident/sequential/in-faults-per-page",
            "fault/explicit/4k/resident/sequential/typical-cost",
        ),
        0.1,
    ),
    goal(
        "the same at random",
        Figure::CountedAgainstC(
            "fault/explicit/4k/resident/random/in-faults-per-page",
            "fault/explicit/4k/resident/random/typical-cost",
        ),
        0.18,
    ),
    goal(
        "THP, untouched, for each 4 KiB: cost over warm",
        Figure::AgainstC("fault/explicit/thp/untouched/sequential/cost-per-page"),
        0.02,
    ),
    goal(
        "THP, resident, for each 4 KiB: cost over warm",
        Figure::AgainstC("fault/explicit/thp/resident/sequential/cost-per-page"),
        0.02,
    ),
    goal(
        "the same: all time in faults, counted / a typical page of C's",
        Figure::CountedAgainstC(
            "fault/explicit/thp/resident/sequential/in-faults-per-page",
            "fault/explicit/thp/resident/sequential/typical-cost",
        ),
        0.02,
    ),
    goal(
        "64 x 1 MiB WRITE, 4 KiB pages: untouched / pinned",
        Figure::Within("stream/explicit/4k/untouched", "stream/explicit/4k/pinned"),
        1.05,
    ),
    goal(
        "64 x 1 MiB WRITE, THP: untouched / pinned",
        Figure::Within(
            "stream/explicit/thp/untouched",
            "stream/explicit/thp/pinned",
        ),
        1.05,
    ),
    goal(
        "synchronous prefetch of 8 MiB, 4 KiB pages",
        Figure::AgainstC("prefetch/explicit/4k/sync/advice"),
        0.6,
    ),
    told(
        "synchronous prefetch of 8 MiB, THP",
        Figure::AgainstC("prefetch/explicit/thp/sync/advice"),
    ),
    goal(
        "MADV_DONTNEED of 8 MiB of THP: mapped region / none",
        Figure::Within(
            "invalidation/dontneed/thp/explicit",
            "invalidation/dontneed/thp/no-region",
        ),
        1.1,
    ),
    told(
        "MADV_DONTNEED of 8 MiB of 4 KiB pages: region / none",
        Figure::Within(
            "invalidation/dontneed/4k/explicit",
            "invalidation/dontneed/4k/no-region",
        ),
    ),
];

impl Figure {
    /// The names of its metrics, or the beginnings of these.
    pub(super) fn names(self) -> Vec<&'static str> {
        match self {
            Self::Within(one, other) | Self::CountedAgainstC(one, other) => vec![one, other],
            Self::AgainstC(name) | Self::Amount(name, _) | Self::Spread(name) => vec![name],
        }
    }

    /// Whether it can be measured between two machines.
    pub(super) fn of_two(self) -> bool {
        self.names().into_iter().all(between_two)
    }
}

/// Whether odp-bench also measures a metric, or a case, between two machines.
fn between_two(name: &str) -> bool {
    !["registration/", "fault/cpu/", "invalidation/"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// The cases of odp-bench that the goals need: all, or those that `two` machines can measure.
pub(super) fn cases(two: bool) -> Vec<&'static str> {
    let mut cases = vec![
        "registration/explicit",
        "registration/memory",
        "warm/write",
        "warm/write-4-qps",
        "fault/cpu/4k",
        "fault/explicit/4k/untouched/random",
        "fault/explicit/4k/resident/sequential",
        "fault/explicit/4k/resident/random",
        "fault/explicit/thp/untouched/sequential",
        "fault/explicit/thp/resident/sequential",
        "stream/explicit",
        "prefetch/explicit/4k/sync",
        "prefetch/explicit/thp/sync",
        "invalidation/dontneed",
    ];
    cases.retain(|case| !two || between_two(case));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_its_cases() {
        for goal in GOALS {
            for two in [false, goal.figure.of_two()] {
                for name in goal.figure.names() {
                    let found = cases(two).iter().any(|case| name.starts_with(case));
                    assert!(found, "{name}");
                }
            }
        }
        assert!(!cases(true).contains(&"invalidation/dontneed"));
        assert!(GOALS.iter().any(|goal| !goal.figure.of_two()));
    }
}
