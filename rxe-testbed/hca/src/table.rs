// SPDX-License-Identifier: GPL-2.0
//! Objects by their numbers.

use std::collections::BTreeMap;

use crate::status::Status;

/// Objects of one kind. A number that is free again is used again at once, so that whoever still uses it is found.
pub(crate) struct Table<T> {
    objects: BTreeMap<u32, T>,
    first: u32,
    end: u32,
}

impl<T> Table<T> {
    /// An empty table for numbers from `first` to before `end`.
    pub(crate) fn new(first: u32, end: u32) -> Self {
        Self {
            objects: BTreeMap::new(),
            first,
            end,
        }
    }

    /// Adds an object; gives its number.
    pub(crate) fn add(&mut self, object: T) -> Result<u32, Status> {
        let mut free = self.first;
        for number in self.objects.keys() {
            if *number != free {
                break;
            }
            free += 1;
        }
        if free >= self.end {
            return Err(Status::NoResources);
        }
        self.objects.insert(free, object);
        Ok(free)
    }

    /// Puts an object where `add` puts none.
    pub(crate) fn put(&mut self, number: u32, object: T) {
        debug_assert!(number >= self.end);
        self.objects.insert(number, object);
    }

    pub(crate) fn get(&self, number: u32) -> Result<&T, Status> {
        self.objects.get(&number).ok_or(Status::BadResource)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Result<&mut T, Status> {
        self.objects.get_mut(&number).ok_or(Status::BadResource)
    }

    pub(crate) fn remove(&mut self, number: u32) -> Result<T, Status> {
        self.objects.remove(&number).ok_or(Status::BadResource)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.objects
            .iter()
            .map(|(number, object)| (*number, object))
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut table = Table::new(8, 11);
        assert_eq!(
            [table.add('a'), table.add('b'), table.add('c')],
            [Ok(8), Ok(9), Ok(10)]
        );
        assert_eq!(table.add('d'), Err(Status::NoResources));
        assert_eq!(table.remove(9), Ok('b'));
        assert_eq!(table.remove(9), Err(Status::BadResource));
        assert_eq!(table.add('e'), Ok(9));
        assert_eq!(table.get(9), Ok(&'e'));
        assert_eq!(table.len(), 3);
    }
}
