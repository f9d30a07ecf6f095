// SPDX-License-Identifier: GPL-2.0

//! Both walks over one range, while a third notifier watches that nothing changes between them.

use kernel::mm::MmWithUser;
use kernel::prelude::*;

use hmm::{Event, IntervalNotifier, Invalidate, Owner, PageRange, Spin, Wants};

use crate::abi;
use crate::argument;
use crate::ours::Ours;
use crate::question::Question;
use crate::theirs::Theirs;

/// Counts invalidations.
struct Witness {
    invalidations: u64,
}

impl Invalidate for Witness {
    type Lock = Spin;

    fn invalidate(&mut self, _range: PageRange, _event: Event) {
        self.invalidations += 1;
    }

    fn retire(&mut self) {}
}

/// The ioctl.
pub(crate) fn compare(argument: &mut abi::Compare, mm: &MmWithUser) -> Result {
    let question = Question::of(argument, mm)?;
    match question.wants() {
        Some(wants) => compare_for(argument, mm, &question, wants),
        None => compare_for(argument, mm, &question, question.base),
    }
}

fn compare_for<W: Wants + Copy>(
    argument: &mut abi::Compare,
    mm: &MmWithUser,
    question: &Question,
    wants: W,
) -> Result {
    let range = question.range;
    let witness = Witness { invalidations: 0 };
    let witness = IntervalNotifier::new(mm, range, Owner::NONE, witness);
    let witness = KBox::pin_init(witness, GFP_KERNEL)?;
    let by_runs = argument.flags & abi::BY_RUNS != 0;
    let mut ours = Ours::new(mm, range, by_runs)?;
    let mut theirs = Theirs::new(question)?;
    let mut round = |argument: &mut abi::Compare| {
        let before = witness.read().invalidations;
        if argument.flags & abi::OURS_FIRST != 0 {
            argument.ours_errno = argument::errno(ours.walk(mm, wants));
            argument.theirs_errno = argument::errno(theirs.walk(mm));
        } else {
            argument.theirs_errno = argument::errno(theirs.walk(mm));
            argument.ours_errno = argument::errno(ours.walk(mm, wants));
        }
        witness.read().invalidations != before
    };
    // The first walk may itself replace pages, by faulting in. Then it has to look again.
    argument.tried = 0;
    loop {
        argument.tried += 1;
        argument.moved = u32::from(round(argument));
        if argument.moved == 0 || argument.tried >= argument.tries {
            break;
        }
        if kernel::current!().signal_pending() {
            return Err(EINTR);
        }
    }
    argument::deliver(ours.words(), argument.ours)?;
    argument::deliver(&theirs.words()?, argument.theirs)
}
