// SPDX-License-Identifier: GPL-2.0
//! `/dev/hmm_oracle`: the ioctls as functions.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::abi::{self, State, Word};
use crate::arena::{Span, Zone};

mod raw {
    use crate::abi::{self, Compare, Mirror, Walk, Zap};

    nix::ioctl_readwrite!(
        /// Both walks over one range.
        compare, abi::MAGIC, abi::COMPARE, Compare);
    nix::ioctl_readwrite!(
        /// One walk, timed.
        walk, abi::MAGIC, abi::WALK, Walk);
    nix::ioctl_readwrite!(
        /// What forgetting a huge entry costs.
        zap, abi::MAGIC, abi::ZAP, Zap);
    nix::ioctl_readwrite!(
        /// Adds mirrors.
        mirror, abi::MAGIC, abi::MIRROR, Mirror);
}

/// What both walks are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) span: Span,
    /// The least that is wanted of every page: [`abi::SNAPSHOT`], [`abi::READ`] or [`abi::WRITE`].
    pub(crate) base: u8,
    /// The most that a request can ask for.
    pub(crate) most: u8,
    /// What is asked for each page by itself.
    pub(crate) requests: Option<Vec<u8>>,
    /// Our walk goes first.
    pub(crate) ours_first: bool,
    /// Our walk collects runs.
    pub(crate) by_runs: bool,
    /// C's walk is the one that takes the mmap lock itself.
    pub(crate) unlocked: bool,
}

impl Question {
    /// The same of all pages of `span`.
    pub(crate) fn uniform(span: Span, policy: u8) -> Self {
        Self {
            span,
            base: policy,
            most: policy,
            requests: None,
            ours_first: true,
            by_runs: false,
            unlocked: false,
        }
    }

    /// What is wanted of page number `page`, all taken together.
    pub(crate) fn wanted(&self, page: usize) -> u8 {
        let own = self.requests.as_ref().and_then(|pages| pages.get(page));
        own.map_or(self.base, |own| self.base.max(self.most.min(*own)))
    }

    /// Whether pages are to be faulted in.
    pub(crate) fn wants_faults(&self) -> bool {
        (0..self.span.pages() as usize).any(|page| self.wanted(page) != abi::SNAPSHOT)
    }

    /// Whether the same is wanted of all pages.
    pub(crate) fn is_uniform(&self) -> bool {
        let first = self.wanted(0);
        (1..self.span.pages() as usize).all(|page| self.wanted(page) == first)
    }

    /// The question in parts of which each is uniform.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        let pages = self.span.pages() as usize;
        let mut from = 0;
        while from < pages {
            let policy = self.wanted(from);
            let alike = (from..pages).take_while(|page| self.wanted(*page) == policy);
            let count = alike.count();
            let span = self.span.part(from as u64, count as u64);
            parts.push(Self {
                ours_first: self.ours_first,
                by_runs: self.by_runs,
                unlocked: self.unlocked,
                ..Self::uniform(span, policy)
            });
            from += count;
        }
        parts
    }
}

/// What one of them says: a state for each page, or why there is none.
pub(crate) type Side = Result<Vec<State>, u32>;

/// What both say.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
    /// Pages were replaced between the two walks, in every try.
    pub(crate) moved: bool,
    /// How many tries it took.
    pub(crate) tried: u32,
}

/// The open device.
pub(crate) struct Oracle(File);

impl Oracle {
    /// Opens the device.
    pub(crate) fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(abi::DEVICE);
        Ok(Self(file.with_context(|| {
            format!("{}: is hmm_oracle.ko loaded?", abi::DEVICE)
        })?))
    }

    /// Asks both.
    pub(crate) fn compare(&self, question: &Question) -> nix::Result<Answer> {
        const TRIES: u32 = 8;
        let pages = question.span.pages() as usize;
        let mut ours = vec![Word::default(); pages];
        let mut theirs = vec![Word::default(); pages];
        let mut argument = abi::Compare {
            start: question.span.start(),
            pages: pages as u64,
            base: question.base,
            most: question.most,
            requests: question
                .requests
                .as_ref()
                .map_or(0, |requests| requests.as_ptr() as u64),
            ours: ours.as_mut_ptr() as u64,
            theirs: theirs.as_mut_ptr() as u64,
            tries: TRIES,
            ..Default::default()
        };
        if question.ours_first {
            argument.flags |= abi::OURS_FIRST;
        }
        if question.by_runs {
            argument.flags |= abi::BY_RUNS;
        }
        if question.unlocked {
            argument.flags |= abi::UNLOCKED;
        }
        // SAFETY: The buffers have room for a word a page, the requests are as many as pages.
        unsafe { self.raw_compare(&mut argument)? };
        let side = |words: &[Word], errno: u32| match errno {
            0 => Ok(words.iter().map(|word| word.state()).collect()),
            errno => Err(errno),
        };
        Ok(Answer {
            ours: side(&ours, argument.ours_errno),
            theirs: side(&theirs, argument.theirs_errno),
            moved: argument.moved != 0,
            tried: argument.tried,
        })
    }

    /// The ioctl as it is.
    ///
    /// # Safety
    ///
    /// Each of the argument's pointers is to as many bytes or words as it has pages, to memory that
    /// the kernel cannot reach, or the rest of the argument is such that they are not used.
    pub(crate) unsafe fn raw_compare(&self, argument: &mut abi::Compare) -> nix::Result<()> {
        // SAFETY: By the contract of this function.
        unsafe { raw::compare(self.0.as_raw_fd(), argument) }.map(|_| ())
    }

    /// Whether the kernel has a walk that takes the mmap lock itself: from 7.3 on.
    pub(crate) fn has_unlocked(&self) -> Result<bool> {
        let span = Zone::Small.span().part(0, 1);
        match self.walk(span, abi::THEIRS_UNLOCKED, abi::SNAPSHOT) {
            Ok(_) => Ok(true),
            Err(Errno::EOPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno).context("asking for C's walk without the lock"),
        }
    }

    /// One walk; gives its time in nanoseconds and the number of pages found.
    pub(crate) fn walk(&self, span: Span, side: u32, policy: u8) -> nix::Result<(u64, u64)> {
        let mut argument = abi::Walk {
            start: span.start(),
            pages: span.pages(),
            side,
            policy,
            ..Default::default()
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::walk(self.0.as_raw_fd(), &mut argument)? };
        Ok((argument.nanoseconds, argument.found))
    }

    /// The nanoseconds of `rounds` times forgetting a huge entry: ours and C's.
    pub(crate) fn zap(&self, rounds: u32) -> nix::Result<(u64, u64)> {
        let mut argument = abi::Zap {
            rounds,
            ..Default::default()
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::zap(self.0.as_raw_fd(), &mut argument)? };
        Ok((argument.ours, argument.theirs))
    }

    /// Adds mirrors of `pages` pages from `start`, the first `touched` of them brought in. They
    /// stay until this is dropped.
    pub(crate) fn mirrors(
        &self,
        start: u64,
        pages: u64,
        touched: u64,
        mirrors: u64,
    ) -> nix::Result<()> {
        let mut argument = abi::Mirror {
            start,
            pages,
            touched,
            mirrors,
        };
        // SAFETY: The argument has no pointers.
        unsafe { raw::mirror(self.0.as_raw_fd(), &mut argument) }.map(|_| ())
    }
}
