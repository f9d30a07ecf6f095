// SPDX-License-Identifier: GPL-2.0
//! What the kernel tells of the machine in the files of sysfs and procfs, and the forms that it has there: a choice, a
//! list of numbers. `environment`, `machine` and `placement` read with it.

use std::{collections::BTreeSet, fs, path::Path};

/// What a file says, if there is one.
pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Of a list of choices the one in brackets.
pub(super) fn chosen(text: &str) -> String {
    text.split(['[', ']']).nth(1).unwrap_or(text).to_owned()
}

/// The numbers of a list as the kernel writes it: `0-3,8`.
pub(super) fn numbers(list: &str) -> BTreeSet<u32> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Numbers as the kernel lists them: `0-3,8`.
pub(super) fn list(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("tsc"), "tsc");
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(Vec::from_iter(numbers("0-2,8\n")), [0, 1, 2, 8]);
        assert!(numbers("").is_empty() && numbers("x-3").is_empty());
    }
}
