// SPDX-License-Identifier: GPL-2.0
//! Whether two answers agree, entry by entry. Where they may differ is in the book
//! (`docs/src/differential.md`); every such case is a [`Difference`] and as narrow as can be told.

use crate::abi::State;
use crate::abi::{READ, SNAPSHOT};
use crate::arena::{Zone, HUGE};
use crate::oracle::{Answer, Question};

/// A difference that is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Runs do not tell what is unusable from what is absent.
    RunsKnowNoError,
    /// The second walk sees what the first one brought in after the page it had reported, or made
    /// writable there, because other pages asked for it.
    Grown,
    /// C faults in a whole hole or huge entry if any page of it asks, and fails if that cannot be
    /// done, also for a page that nobody asked for. Ours looks at each page's own request.
    FaultsUnasked,
    /// Of a hugetlb entry C looks at the first page's request only.
    FirstOfHugetlb,
}

/// A difference that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disagreement {
    /// One fails, or both in different ways.
    Errno {
        /// Our errno, 0 if we succeed.
        ours: u32,
        /// C's.
        theirs: u32,
    },
    /// They found different things.
    Page {
        /// The number of the page in the question.
        page: usize,
        /// What we found.
        ours: State,
        /// What C found.
        theirs: State,
    },
    /// Each walk replaces what the other one found, again and again.
    NeverSettles,
}

/// Compares; gives the differences that are allowed, each kind once.
pub(crate) fn judge(question: &Question, answer: &Answer) -> Result<Vec<Difference>, Disagreement> {
    if answer.moved {
        return Err(Disagreement::NeverSettles);
    }
    let (ours, theirs) = match (&answer.ours, &answer.theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let errno = |side: &Result<_, u32>| side.as_ref().err().copied().unwrap_or(0);
            return judge_errnos(question, errno(ours), errno(theirs));
        }
    };
    let uniform = question.is_uniform();
    let mut differences = Vec::new();
    for (page, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
        if ours == theirs {
            continue;
        }
        let difference = if question.by_runs && (ours, theirs) == (State::Absent, State::Error) {
            Difference::RunsKnowNoError
        } else if uniform {
            return Err(Disagreement::Page { page, ours, theirs });
        } else {
            let difference = mixed(question, page, ours, theirs);
            difference.ok_or(Disagreement::Page { page, ours, theirs })?
        };
        if !differences.contains(&difference) {
            differences.push(difference);
        }
    }
    Ok(differences)
}

fn judge_errnos(
    question: &Question,
    ours: u32,
    theirs: u32,
) -> Result<Vec<Difference>, Disagreement> {
    const REFUSALS: [i32; 2] = [libc::EFAULT, libc::EPERM];
    let refused = REFUSALS.contains(&(theirs as i32));
    if ours == theirs {
        Ok(Vec::new())
    } else if !question.is_uniform() && refused {
        Ok(vec![Difference::FaultsUnasked])
    } else if !question.is_uniform() && theirs == 0 && in_hugetlb(question) {
        Ok(vec![Difference::FirstOfHugetlb])
    } else {
        Err(Disagreement::Errno { ours, theirs })
    }
}

/// Whether it is about an area of hugetlb pages.
pub(crate) fn in_hugetlb(question: &Question) -> bool {
    question.span.zone() != Zone::Small
}

/// A difference between answers to a question that is not the same for all pages.
fn mixed(question: &Question, page: usize, ours: State, theirs: State) -> Option<Difference> {
    let wanted = question.wanted(page);
    let (first, second) = match question.ours_first {
        true => (ours, theirs),
        false => (theirs, ours),
    };
    if serves(first, wanted) && serves(second, wanted) && grown(first, second) {
        return Some(Difference::Grown);
    }
    if in_hugetlb(question)
        && serves(ours, wanted)
        && wanted > question.wanted(head(question, page))
    {
        return Some(Difference::FirstOfHugetlb);
    }
    None
}

/// The first page of the question that is in the same hugetlb entry as `page`.
fn head(question: &Question, page: usize) -> usize {
    let entry = match question.span.zone() {
        Zone::Gigantic => HUGE * HUGE,
        _ => HUGE,
    };
    let absolute = question.span.start() / crate::arena::PAGE + page as u64;
    page.saturating_sub((absolute % entry) as usize)
}

/// Whether `state` is enough for a request of `wanted`.
fn serves(state: State, wanted: u8) -> bool {
    match state {
        State::Valid { writable, .. } => wanted <= READ || writable,
        _ => wanted == SNAPSHOT,
    }
}

/// Whether `second` is `first` after somebody has faulted, without replacing anything.
fn grown(first: State, second: State) -> bool {
    match (first, second) {
        (State::Absent, State::Valid { .. }) => true,
        (
            State::Valid { pfn, order, .. },
            State::Valid {
                pfn: pfn2,
                order: order2,
                writable,
            },
        ) => pfn == pfn2 && order == order2 && writable,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::WRITE;

    const PAGE: State = State::Valid {
        pfn: 7,
        writable: false,
        order: 0,
    };
    const WRITABLE: State = State::Valid {
        pfn: 7,
        writable: true,
        order: 0,
    };
    const OTHER: State = State::Valid {
        pfn: 8,
        writable: true,
        order: 0,
    };

    fn question(zone: Zone, base: u8, requests: Option<[u8; 2]>) -> Question {
        Question {
            base,
            most: WRITE,
            requests: requests.map(Vec::from),
            ..Question::uniform(zone.span().part(0, 2), base)
        }
    }

    fn answer(ours: [State; 2], theirs: [State; 2]) -> Answer {
        Answer {
            ours: Ok(ours.into()),
            theirs: Ok(theirs.into()),
            moved: false,
            tried: 1,
        }
    }

    fn errnos(ours: Result<Vec<State>, u32>, theirs: Result<Vec<State>, u32>) -> Answer {
        Answer {
            ours,
            theirs,
            moved: false,
            tried: 1,
        }
    }

    #[test]
    fn any_difference_counts_if_all_pages_ask_alike() {
        let asked = question(Zone::Small, SNAPSHOT, None);
        let same = answer([PAGE, State::Error], [PAGE, State::Error]);
        assert_eq!(judge(&asked, &same), Ok(vec![]));
        for (ours, theirs) in [
            (PAGE, WRITABLE),
            (PAGE, OTHER),
            (State::Absent, PAGE),
            (State::Absent, State::Error),
            (PAGE, State::Absent),
        ] {
            let wrong = answer([PAGE, ours], [PAGE, theirs]);
            let page = Disagreement::Page {
                page: 1,
                ours,
                theirs,
            };
            assert_eq!(judge(&asked, &wrong), Err(page));
        }
    }

    #[test]
    fn runs_may_leave_errors_out_but_nothing_else() {
        let asked = Question {
            by_runs: true,
            ..question(Zone::Small, SNAPSHOT, None)
        };
        let fine = answer([State::Absent; 2], [State::Error; 2]);
        assert_eq!(judge(&asked, &fine), Ok(vec![Difference::RunsKnowNoError]));
        assert!(judge(&asked, &answer([State::Error; 2], [State::Absent; 2])).is_err());
        assert!(judge(&asked, &answer([State::Absent; 2], [PAGE; 2])).is_err());
    }

    #[test]
    fn pages_nobody_asked_for_may_come_along_for_the_second() {
        let mut asked = question(Zone::Small, SNAPSHOT, Some([SNAPSHOT, READ]));
        let ours_less = answer([State::Absent, PAGE], [WRITABLE, PAGE]);
        let theirs_less = answer([WRITABLE, PAGE], [State::Absent, PAGE]);
        assert_eq!(judge(&asked, &ours_less), Ok(vec![Difference::Grown]));
        assert!(judge(&asked, &theirs_less).is_err());
        asked.ours_first = false;
        assert_eq!(judge(&asked, &theirs_less), Ok(vec![Difference::Grown]));
        assert!(judge(&asked, &ours_less).is_err());
        // A page that was asked for must be there.
        assert!(judge(&asked, &answer([PAGE, PAGE], [PAGE, State::Absent])).is_err());
        // Another frame is another page.
        assert!(judge(&asked, &answer([OTHER, PAGE], [PAGE, PAGE])).is_err());
    }

    #[test]
    fn c_may_miss_what_is_asked_behind_the_head_of_a_hugetlb_page() {
        let requests = Some([SNAPSHOT, READ]);
        let missed = answer([PAGE, PAGE], [State::Absent, State::Absent]);
        let asked = Question {
            ours_first: false,
            ..question(Zone::Huge, SNAPSHOT, requests)
        };
        assert!(judge(&asked, &missed).is_ok());
        let small = Question {
            ours_first: false,
            ..question(Zone::Small, SNAPSHOT, requests)
        };
        assert!(judge(&small, &missed).is_err());
    }

    #[test]
    fn errnos_may_differ_only_where_pages_ask_differently() {
        let fault = libc::EFAULT as u32;
        let fine = || Ok(vec![PAGE, PAGE]);
        let uniform = question(Zone::Small, READ, None);
        let mixed = question(Zone::Small, SNAPSHOT, Some([SNAPSHOT, READ]));
        assert_eq!(judge(&uniform, &errnos(Err(fault), Err(fault))), Ok(vec![]));
        assert!(judge(&uniform, &errnos(fine(), Err(fault))).is_err());
        assert!(judge(&mixed, &errnos(fine(), Err(fault))).is_ok());
        assert!(judge(&mixed, &errnos(Err(fault), fine())).is_err());
        let busy = libc::EBUSY as u32;
        assert!(judge(&mixed, &errnos(fine(), Err(busy))).is_err());
    }

    #[test]
    fn walks_that_never_settle_are_no_agreement() {
        let mut moved = answer([PAGE; 2], [PAGE; 2]);
        moved.moved = true;
        let asked = question(Zone::Small, SNAPSHOT, None);
        assert_eq!(judge(&asked, &moved), Err(Disagreement::NeverSettles));
    }
}
