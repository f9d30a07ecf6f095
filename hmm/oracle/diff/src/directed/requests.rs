// SPDX-License-Identifier: GPL-2.0
//! Requests page by page, and the two places where C's and ours differ by design.

use anyhow::{bail, ensure, Result};

use super::{some, Check, Lab};
use crate::abi::{State, READ, SNAPSHOT, WRITE};
use crate::agree::{judge, Difference};
use crate::arena::{Span, Zone, HUGE, PAGE};
use crate::memory;
use crate::operation::{Backing, Operation, Store, FILE_PAGES};
use crate::oracle::{Question, Side};

pub(super) const CHECKS: &[Check] = &[
    ("requests: only pages that ask are faulted in", only_asked),
    ("requests: the base is the least", base_is_least),
    ("requests: the most limits them", most_limits),
    (
        "requests: one page of a huge zero page for writing",
        one_of_huge_zero,
    ),
    (
        "requests: C fails for a page that nobody asked for",
        unasked_failure,
    ),
    (
        "requests: C looks at the head of a hugetlb page only",
        hugetlb_head,
    ),
];

/// A page whose entry nobody has used, in a table of its own.
fn fresh() -> Result<Span> {
    let span = Zone::Small.span().part(4 * HUGE, 16);
    memory::unmap(Zone::Small.span())?;
    memory::map_private(span)?;
    memory::advise(span, libc::MADV_NOHUGEPAGE)?;
    Ok(span)
}

/// Page 5 asks for `request`, the others for nothing.
fn page_five(span: Span, base: u8, most: u8, request: u8) -> Question {
    let mut requests = vec![SNAPSHOT; span.pages() as usize];
    requests[5] = request;
    Question {
        base,
        most,
        requests: Some(requests),
        ..Question::uniform(span, base)
    }
}

/// A state without its frame: absent, read-only or writable.
fn letters(side: &Side) -> String {
    let Ok(states) = side else {
        return some(side);
    };
    let letter = |state: &State| match state {
        State::Absent => '.',
        State::Error => '!',
        State::Valid { writable: true, .. } => 'w',
        State::Valid { .. } => 'r',
    };
    states.iter().map(letter).collect()
}

fn ask(lab: &Lab, question: &Question, ours: &str, theirs: &str) -> Result<()> {
    let answer = lab.oracle.compare(question)?;
    let said = (letters(&answer.ours), letters(&answer.theirs));
    ensure!(
        said == (ours.to_owned(), theirs.to_owned()),
        "ours {} (not {ours}), C's {} (not {theirs}), after {} tries",
        said.0,
        said.1,
        answer.tried
    );
    if let Err(disagreement) = judge(question, &answer) {
        bail!("{disagreement:?}");
    }
    Ok(())
}

fn only_asked(lab: &mut Lab) -> Result<()> {
    let mut question = page_five(fresh()?, SNAPSHOT, WRITE, WRITE);
    let alone = ".....w..........";
    ask(lab, &question, alone, alone)?;
    // In an empty table C faults in everything that was looked at; then it is there for ours too.
    question.span = fresh()?;
    question.ours_first = false;
    let all = "wwwwwwwwwwwwwwww";
    ask(lab, &question, all, all)
}

fn base_is_least(lab: &mut Lab) -> Result<()> {
    let question = page_five(fresh()?, READ, WRITE, WRITE);
    let found = "rrrrrwrrrrrrrrrr";
    ask(lab, &question, found, found)
}

fn most_limits(lab: &mut Lab) -> Result<()> {
    let none = page_five(fresh()?, SNAPSHOT, SNAPSHOT, WRITE);
    ask(lab, &none, "................", "................")?;
    let read = page_five(fresh()?, SNAPSHOT, READ, WRITE);
    let found = ".....r..........";
    ask(lab, &read, found, found)
}

/// The zero page is replaced as a whole, so the pages before it have to be looked at again.
fn one_of_huge_zero(lab: &mut Lab) -> Result<()> {
    for ours_first in [true, false] {
        lab.clear()?;
        let span = Zone::Small.span().part(4 * HUGE, HUGE);
        memory::map_private(span)?;
        memory::advise(span, libc::MADV_HUGEPAGE)?;
        memory::populate(span, false)?;
        let question = Question {
            ours_first,
            ..page_five(span.part(0, 16), SNAPSHOT, WRITE, WRITE)
        };
        ask(lab, &question, "wwwwwwwwwwwwwwww", "wwwwwwwwwwwwwwww")?;
    }
    Ok(())
}

/// The last pages lie beyond the end of the file.
fn unasked_failure(lab: &mut Lab) -> Result<()> {
    let at = Zone::Small.span().part(4 * HUGE, 16);
    let backing = Backing::File {
        file: Store::Memfd,
        offset: FILE_PAGES / 2 - 8,
        shared: true,
    };
    let mut question = page_five(at, SNAPSHOT, READ, READ);
    for ours_first in [false, true] {
        lab.clear()?;
        lab.stage
            .file(Store::Memfd)
            .set_len(FILE_PAGES / 2 * PAGE)?;
        lab.stage.perform(&Operation::Map {
            at,
            backing,
            protection: libc::PROT_READ,
        })?;
        question.ours_first = ours_first;
        let answer = lab.oracle.compare(&question)?;
        ensure!(
            answer.ours.is_ok(),
            "ours looks at a page that nobody asked for: {}",
            some(&answer.ours)
        );
        if !ours_first {
            let differences = judge(&question, &answer);
            ensure!(
                differences == Ok(vec![Difference::FaultsUnasked]),
                "{differences:?}"
            );
        }
    }
    Ok(())
}

fn hugetlb_head(lab: &mut Lab) -> Result<()> {
    let at = Zone::Huge.span().part(0, 2 * HUGE);
    lab.stage.perform(&Operation::Map {
        at,
        backing: Backing::Hugetlb { shared: false },
        protection: libc::PROT_READ | libc::PROT_WRITE,
    })?;
    // Then there is a table for the other one's entry. Without, it is a hole like any other.
    memory::populate(at.part(HUGE, HUGE), true)?;
    let question = Question {
        ours_first: false,
        ..page_five(at.part(0, 8), SNAPSHOT, WRITE, WRITE)
    };
    // C has found nothing of what was asked for, and says that all is well.
    ask(lab, &question, ".....www", "........")
}
