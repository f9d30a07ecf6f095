// SPDX-License-Identifier: GPL-2.0
//! Memory of applications (user memory): pages in which the queues and the doorbell records of objects lie that
//! applications have made for themselves. The command that makes such an object names it by number and offset.

use crate::layout::{create_umem_in, umem, words, Field};
use crate::mkey::{READABLE, WRITABLE};
use crate::ring::Buffer;
use crate::status::Status;
use crate::table::Table;

/// Bytes of a doorbell record.
const RECORD: u64 = 8;

/// User memory.
pub(crate) struct UserMemory {
    buffer: Buffer,
    /// What the device may do with all of its pages.
    pub(crate) rights: u64,
}

impl UserMemory {
    /// That of which the input of CREATE_UMEM has the pages, each with the rights to it.
    pub(crate) fn create(input: &[u8]) -> Result<Self, Status> {
        let context = create_umem_in::UMEM.of(input);
        let count = usize::try_from(umem::NUM_OF_MTT.get(context));
        let entries = words(&input[create_umem_in::BYTES..]);
        let entries = count.ok().and_then(|count| entries.get(..count));
        let entries = entries.ok_or(Status::BadInputLength)?;
        let all = READABLE | WRITABLE;
        let pages: Vec<u64> = entries.iter().map(|entry| entry & !all).collect();
        Ok(Self {
            buffer: Buffer::whole(
                pages,
                umem::LOG_PAGE_SIZE.get32(context),
                umem::PAGE_OFFSET.get(context),
            )?,
            rights: entries.iter().fold(all, |rights, entry| rights & entry),
        })
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> usize {
        self.buffer.pages()
    }
}

/// What the device does with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Reads,
    Writes,
}

/// A number of user memory, and how far into it something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: u32,
    offset: u64,
}

/// Where a command says that something lies in user memory, if it does.
pub(crate) struct Naming {
    pub(crate) valid: Field,
    pub(crate) number: Field,
    pub(crate) offset: Field,
}

impl Naming {
    #[cfg(test)]
    pub(crate) fn name(&self, input: &mut [u8], number: u32, offset: u64) {
        self.valid.set(input, 1_u64);
        self.number.set(input, number);
        self.offset.set(input, offset);
    }

    fn read(&self, input: &[u8]) -> Option<Place> {
        self.valid.is_set(input).then(|| Place {
            number: self.number.get32(input),
            offset: self.offset.get(input),
        })
    }
}

/// The user memory that a command names for an object: for its queue, for its doorbell record, or for none.
pub(crate) struct Named<'a> {
    memories: &'a Table<UserMemory>,
    queue: Option<Place>,
    record: Option<Place>,
}

impl<'a> Named<'a> {
    pub(crate) fn by(
        input: &[u8],
        queue: &Naming,
        record: &Naming,
        memories: &'a Table<UserMemory>,
    ) -> Self {
        Self {
            memories,
            queue: queue.read(input),
            record: record.read(input),
        }
    }

    /// Where a queue of `size` bytes is, whose entries have at most `entry` bytes, a power of two; `other` says it if it is
    /// not in user memory.
    pub(crate) fn queue(
        &self,
        size: u64,
        entry: u64,
        does: Does,
        other: impl FnOnce() -> Result<Buffer, Status>,
    ) -> Result<Buffer, Status> {
        match self.queue {
            Some(place) => self.part(place, size, entry, does),
            None => other(),
        }
    }

    /// The address of the doorbell record, which is `other` if it is not in user memory.
    pub(crate) fn record(&self, other: u64) -> Result<u64, Status> {
        let Some(place) = self.record else {
            return Ok(other);
        };
        let record = self.part(place, RECORD, RECORD, Does::Reads)?;
        record.address(0).ok_or(Status::BadParameter)
    }

    /// The numbers of what is named for the queue and for the record.
    pub(crate) fn numbers(&self) -> [Option<u32>; 2] {
        [self.queue, self.record].map(|place| place.map(|place| place.number))
    }

    fn part(&self, place: Place, size: u64, entry: u64, does: Does) -> Result<Buffer, Status> {
        let memory = self.memories.get(place.number)?;
        let needed = match does {
            Does::Reads => READABLE,
            Does::Writes => READABLE | WRITABLE,
        };
        match memory.rights & needed == needed {
            true => memory.buffer.part(place.offset, size, entry),
            false => Err(Status::BadParameter),
        }
    }
}
