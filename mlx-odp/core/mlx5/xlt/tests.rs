// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex::new(start), PageIndex::new(end))
}

#[test]
fn an_entry_says_where_a_page_is_and_what_is_allowed() {
    let entry = |perm| {
        let dma = 0x1234_5678_9000;
        u64::from_be_bytes(Mtt { dma, perm }.encode())
    };
    assert_eq!(entry(Perm::ReadOnly), 0x1234_5678_9001);
    assert_eq!(entry(Perm::ReadWrite), 0x1234_5678_9003);
    let ksm = Ksm {
        key: 0x0102_0304,
        va: 0x4000_0000,
    };
    let expected = [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0x40, 0, 0, 0];
    assert_eq!(ksm.encode(), expected);
}

#[test]
fn every_entry_of_a_used_buffer_is_written() {
    let mut buffer = [0xee; 37];
    write(&mut buffer, 5, |number| match number % 2 {
        0 => (number << 12).to_be_bytes(),
        _ => Mtt::ABSENT,
    });
    let mut expected = vec![0; 37];
    expected[8..16].copy_from_slice(&(6u64 << 12).to_be_bytes());
    expected[24..32].copy_from_slice(&(8u64 << 12).to_be_bytes());
    assert_eq!(buffer.as_slice(), expected);
}

#[test]
fn a_table_of_huge_pages_covers_whole_ones() {
    let table = Table::new(pages(1000, 2000), 9);
    assert_eq!(table.count(), 3);
    assert_eq!(table.pages(0), Some(pages(512, 1024)));
    assert_eq!(table.pages(2), Some(pages(1536, 2048)));
    assert_eq!(table.pages(3), None);
    assert_eq!(table.entries(pages(1023, 1025)), 0..2);
    assert_eq!(table.entries(pages(0, 512)), 0..0);
}

#[test]
fn a_region_that_begins_anywhere_has_blocks_of_two_chunks() {
    // 2 MiB begin at page 512.
    let border = PageIndex::new(512);
    assert_eq!(
        Table::new(pages(3, 2000), 0).shared_block(border),
        Some(504..512)
    );
    assert_eq!(Table::new(pages(8, 2000), 0).shared_block(border), None);
    assert_eq!(Table::new(pages(0, 512), 0).shared_block(border), None);
    assert_eq!(Table::new(pages(512, 600), 0).shared_block(border), None);
    assert_eq!(
        Table::new(pages(510, 514), 0).shared_block(border),
        Some(0..8)
    );
}

proptest! {
    #[test]
    fn blocks_are_whole_and_no_larger_than_needed(
        start in 0u64..1 << 40,
        len in 0u64..10_000,
        ksm: bool,
    ) {
        let (bytes, in_block) = if ksm { (KSM, 4) } else { (MTT, 8) };
        let rounded = blocks(start..start + len, bytes);
        prop_assert!(rounded.start % in_block == 0 && rounded.end % in_block == 0);
        if len == 0 {
            prop_assert!(rounded.is_empty());
        } else {
            prop_assert!(rounded.start <= start && start < rounded.start + in_block);
            prop_assert!(rounded.end >= start + len && rounded.end < start + len + in_block);
        }
    }

    /// Against a list of all entries with their pages.
    #[test]
    fn a_page_has_the_entry_that_has_the_page(
        start in 0u64..3000,
        len in 1u64..3000,
        order in prop_oneof![Just(0u32), Just(1), Just(9)],
        from in 0u64..7000,
        wanted in 0u64..200,
        border in 0u64..7000,
    ) {
        let table = Table::new(pages(start, start + len), order);
        let all: Vec<PageRange> = (0..table.count()).filter_map(|n| table.pages(n)).collect();
        prop_assert_eq!(all.len() as u64, table.count());
        for page in start..start + len {
            let holds = |entry: &&PageRange| entry.contains(PageIndex::new(page));
            prop_assert_eq!(all.iter().filter(holds).count(), 1);
        }
        let wanted = pages(from, from + wanted);
        let expected: Vec<u64> = (0u64..)
            .zip(&all)
            .filter(|(_, entry)| entry.overlaps(&wanted) && !wanted.is_empty())
            .map(|(number, _)| number)
            .collect();
        prop_assert_eq!(table.entries(wanted).collect::<Vec<_>>(), expected);

        let border = PageIndex::new(border);
        let shared: Vec<u64> = (0..table.count().next_multiple_of(8))
            .step_by(8)
            .filter(|&first| {
                let of_block: Vec<_> = (first..first + 8).filter_map(|n| table.pages(n)).collect();
                let pages = || of_block.iter().flat_map(PageRange::pages);
                pages().any(|page| page < border) && pages().any(|page| page >= border)
            })
            .collect();
        let found = table.shared_block(border);
        prop_assert_eq!(found.clone().map(|block| block.start), shared.first().copied());
        prop_assert!(shared.len() <= 1 && found.is_none_or(|block| block.end - block.start == 8));
    }
}
