// SPDX-License-Identifier: GPL-2.0

//! Scatter-gather lists of work requests.

/// The index of the element that a copy has reached: it has done `done` bytes in all, `offset` of them in this
/// element. The first that fits; `None` if elements of these lengths have no such place.
///
/// All values in bytes. The application chooses the lengths, so they may be anything.
pub fn element_at(done: u32, offset: u32, lengths: impl Iterator<Item = u32>) -> Option<u32> {
    let mut before = 0u32;
    for (number, length) in (0u32..).zip(lengths) {
        if offset <= length && before.checked_add(offset) == Some(done) {
            return Some(number);
        }
        before = before.checked_add(length)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_element_a_copy_is_in() {
        let lengths = [1500, 0, 1000, 24];
        let at = |done, offset| element_at(done, offset, lengths.into_iter());
        assert_eq!(at(0, 0), Some(0));
        assert_eq!(at(1024, 1024), Some(0));
        assert_eq!(
            at(1500, 1500),
            Some(0),
            "at the end of an element, not yet in the next"
        );
        assert_eq!(at(1500, 0), Some(1));
        assert_eq!(at(1548, 48), Some(2));
        assert_eq!(at(2524, 24), Some(3));
        // Places that do not exist.
        assert_eq!(at(1501, 1501), None);
        assert_eq!(at(100, 1), None);
        assert_eq!(at(9999, 0), None);
        assert_eq!(element_at(0, 0, [].into_iter()), None);
        assert_eq!(element_at(7, 0, [u32::MAX, u32::MAX].into_iter()), None);
    }
}
