// SPDX-License-Identifier: GPL-2.0

//! How far a copy has got in the scatter-gather list of a work request.

/// How far a copy has got in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgeCursor {
    /// The index of the element.
    pub element: u32,
    /// The offset in the element, in bytes; at most its length.
    pub offset: u32,
}

impl SgeCursor {
    /// Skips what is used up and is empty, and returns how many of `wanted` bytes are in one piece from there, at least
    /// one. `None` if the list, of so many elements with these lengths, ends.
    #[inline]
    pub fn next(
        &mut self,
        elements: u32,
        length_of: impl Fn(u32) -> u32,
        wanted: u32,
    ) -> Option<u32> {
        while self.element < elements {
            let room = length_of(self.element).saturating_sub(self.offset);
            if room != 0 {
                return Some(room.min(wanted));
            }
            self.element += 1;
            self.offset = 0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The pieces of a copy of `wanted` bytes from `cursor` on, as element, offset and length.
    fn pieces(mut cursor: SgeCursor, lengths: &[u32], wanted: u32) -> (Vec<(u32, u32, u32)>, u32) {
        let (mut found, mut left) = (Vec::new(), wanted);
        while left != 0 {
            let next = cursor.next(lengths.len() as u32, |i| lengths[i as usize], left);
            let Some(length) = next else { break };
            found.push((cursor.element, cursor.offset, length));
            cursor.offset += length;
            left -= length;
        }
        (found, left)
    }

    const START: SgeCursor = SgeCursor {
        element: 0,
        offset: 0,
    };

    #[test]
    fn goes_through_the_elements_in_order() {
        let lengths = [1500, 0, 1000, 24];
        let all = ([(0, 0, 1500), (2, 0, 1000), (3, 0, 24)].to_vec(), 0);
        assert_eq!(pieces(START, &lengths, 2524), all);
        assert_eq!(pieces(START, &lengths, 64), ([(0, 0, 64)].to_vec(), 0));
        let end = SgeCursor {
            element: 0,
            offset: 1500,
        };
        assert_eq!(pieces(end, &lengths, 7), ([(2, 0, 7)].to_vec(), 0));
    }

    #[test]
    fn ends_with_the_list() {
        assert_eq!(pieces(START, &[], 1), (Vec::new(), 1));
        assert_eq!(pieces(START, &[0, 0], 1), (Vec::new(), 1));
        assert_eq!(pieces(START, &[10, 5], 16).1, 1);
        let beyond = SgeCursor {
            element: u32::MAX,
            offset: u32::MAX,
        };
        assert_eq!(pieces(beyond, &[10], 1), (Vec::new(), 1));
        let past_its_end = SgeCursor {
            element: 0,
            offset: 11,
        };
        assert_eq!(pieces(past_its_end, &[10], 1), (Vec::new(), 1));
    }

    #[test]
    fn lengths_have_all_32_bits() {
        let lengths = [u32::MAX, u32::MAX];
        let late = SgeCursor {
            element: 0,
            offset: u32::MAX - 5,
        };
        let (found, left) = pieces(late, &lengths, 4096);
        assert_eq!(
            (found, left),
            ([(0, u32::MAX - 5, 5), (1, 0, 4091)].to_vec(), 0)
        );
    }
}
