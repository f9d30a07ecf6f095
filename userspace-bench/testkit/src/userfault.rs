// SPDX-License-Identifier: GPL-2.0
//! Memory whose missing pages this process brings itself, when somebody asks for one (userfaultfd(2)).

use std::{ops::Range, time::Duration};

use anyhow::Result;

use crate::{
    memory::Mapping,
    userfaultfd::{Mode, Userfaultfd},
};

/// What is told of the missing pages of some memory, and brings them. Several threads may serve it.
#[derive(Debug)]
pub struct Userfault(Userfaultfd);

impl Userfault {
    /// For the pages of `range` in `memory`.
    pub fn new(memory: &Mapping, range: Range<usize>) -> Result<Self> {
        let file = Userfaultfd::for_missing()?;
        file.register(memory.at(range.start), range.len() as u64, Mode::Missing)?;
        Ok(Self(file))
    }

    /// The descriptor, for another process to take hold of.
    pub fn fd(&self) -> i32 {
        self.0.fd()
    }

    /// Whether somebody waits for a page, or does before `limit`; none is for ever.
    pub fn asked_within(&self, limit: Option<Duration>) -> Result<bool> {
        self.0.asked_within(limit)
    }

    /// The address of a page that somebody asks for before `limit`. None, too, if whoever asked has gone meanwhile, or
    /// another thread serves it: who asks first and takes the fault then may wait for ever.
    pub fn next_within(&self, limit: Duration) -> Result<Option<u64>> {
        if !self.asked_within(Some(limit))? {
            return Ok(None);
        }
        Ok(self.0.next_if_any()?.map(|fault| fault.va))
    }

    /// Waits until somebody asks for a page; its address. For one that does not go away before it is served.
    pub fn wait(&self) -> Result<u64> {
        loop {
            self.asked_within(None)?;
            if let Some(fault) = self.0.next_if_any()? {
                return Ok(fault.va);
            }
        }
    }

    /// Gives the page at `address` these bytes, and lets those go on who wait for it.
    pub fn give(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.0.give(address, bytes)
    }
}
