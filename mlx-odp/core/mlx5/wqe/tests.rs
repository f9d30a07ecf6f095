// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const TERMINATOR: u32 = 0x100;

/// A data segment to be.
#[derive(Clone, Debug)]
enum Part {
    Memory { lkey: u32, va: u64, len: u32 },
    Inline(usize),
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Memory { lkey, va, len } => memory(lkey, va, len),
            Self::Inline(len) => {
                let mut bytes = (INLINE | len as u32).to_be_bytes().to_vec();
                bytes.resize((INLINE_HEADER + len).next_multiple_of(SEGMENT), 0x5a);
                bytes
            }
        }
    }

    fn len(&self) -> u64 {
        match *self {
            Self::Memory { len: 0, .. } => WHOLE,
            Self::Memory { len, .. } => len.into(),
            Self::Inline(len) => len as u64,
        }
    }
}

fn memory(lkey: u32, va: u64, len: u32) -> Vec<u8> {
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(lkey.to_be_bytes());
    bytes.extend(va.to_be_bytes());
    bytes
}

/// A control segment for a WQE, and the `rest` that follows it.
fn wqe(opcode: u8, rest: &[u8]) -> Vec<u8> {
    assert_eq!(rest.len() % SEGMENT, 0);
    let segments = (1 + rest.len() / SEGMENT) as u32;
    let mut bytes = (0x0012_3400 | u32::from(opcode)).to_be_bytes().to_vec();
    bytes.extend((0x00ab_cd00 | segments).to_be_bytes());
    bytes.extend([0xff; 8]);
    bytes.extend(rest);
    bytes
}

fn list(segments: Result<DataSegments<'_>, BadWqe>) -> Result<Vec<DataSegment>, BadWqe> {
    segments?.collect()
}

/// Each transport, with what precedes the opcode's own segments.
fn transports() -> [(Transport, Vec<u8>); 4] {
    let mut base = vec![0xff; SEGMENT];
    base[AV_DQP_DCT] = 0x7f;
    [
        (Transport::Connected, vec![]),
        (Transport::Xrc, vec![0xff; SEGMENT]),
        (Transport::Addressed, base),
        (Transport::Addressed, vec![0xff; 3 * SEGMENT]),
    ]
}

/// Each opcode that names memory, with the number of its own segments.
const OPCODES: [(u8, usize); 8] = [
    (0x0a, 0),
    (0x0b, 0),
    (0x01, 0),
    (0x08, 1),
    (0x09, 1),
    (0x10, 1),
    (0x11, 2),
    (0x12, 2),
];

#[test]
fn data_segments_are_found_after_what_the_transport_and_the_opcode_require() {
    let data = [memory(0x77, 0x1000, 24), memory(0x78, 0x2000, 1)].concat();
    let expected = vec![
        DataSegment {
            lkey: 0x77,
            va: 0x1000,
            len: 24,
        },
        DataSegment {
            lkey: 0x78,
            va: 0x2000,
            len: 1,
        },
    ];
    for (transport, prefix) in transports() {
        for (opcode, own) in OPCODES {
            let rest = [prefix.clone(), vec![0xee; own * SEGMENT], data.clone()].concat();
            let bytes = wqe(opcode, &rest);
            let found = list(send(&bytes, transport, 0));
            assert_eq!(found, Ok(expected.clone()), "{transport:?} {opcode:#x}");
            // What follows the WQE is not of it.
            let longer = [bytes.clone(), memory(0x79, 0x3000, 9)].concat();
            assert_eq!(list(send(&longer, transport, 0)), Ok(expected.clone()));
            // Not all of what is required.
            let required = (prefix.len() / SEGMENT + own) as u32;
            for fewer in 1..=required {
                let mut short = bytes.clone();
                short[7] = fewer as u8;
                let found = list(send(&short, transport, 0));
                assert_eq!(
                    found,
                    Err(BadWqe::Short),
                    "{transport:?} {opcode:#x} {fewer}"
                );
            }
        }
    }
}

#[test]
fn a_wqe_that_makes_no_sense_is_refused() {
    let good = wqe(0x0a, &memory(1, 0x1000, 8));
    let send = |bytes: &[u8]| list(send(bytes, Transport::Connected, 0));
    assert_eq!(send(&[]), Err(BadWqe::Empty));
    assert_eq!(send(&good[..7]), Err(BadWqe::Empty));
    let mut none = good.clone();
    none[7] = 0x40;
    assert_eq!(send(&none), Err(BadWqe::Empty));
    let (says, has) = (32, 31);
    assert_eq!(send(&good[..31]), Err(BadWqe::Truncated { says, has }));
    for opcode in [0x00, 0x0e, 0x25, 0xff] {
        let other = wqe(opcode, &memory(1, 0x1000, 8));
        assert_eq!(send(&other), Err(BadWqe::Opcode(opcode)));
    }
    let wraps = wqe(0x0a, &memory(1, u64::MAX - 6, 8));
    assert_eq!(send(&wraps), Err(BadWqe::Wraps));
    let end = wqe(0x0a, &memory(1, u64::MAX - 7, 8));
    assert!(send(&end).is_ok());
}

#[test]
fn inline_data_have_their_bounds() {
    let send = |bytes: &[u8]| list(send(bytes, Transport::Connected, 0));
    let segment = DataSegment {
        lkey: 5,
        va: 0x5000,
        len: 3,
    };
    for len in [0, 1, 12, 13, 28, 29] {
        let rest = [Part::Inline(len).bytes(), memory(5, 0x5000, 3)].concat();
        assert_eq!(send(&wqe(0x0a, &rest)), Ok(vec![segment]), "{len}");
    }
    let too_long = [&(INLINE | 13).to_be_bytes()[..], &[0; 12]].concat();
    assert_eq!(send(&wqe(0x0a, &too_long)), Err(BadWqe::InlineTooLong));
    let endless = [&u32::MAX.to_be_bytes()[..], &[0; 12]].concat();
    assert_eq!(send(&wqe(0x0a, &endless)), Err(BadWqe::InlineTooLong));
    let received = receive(&endless, SEGMENT, TERMINATOR, 0);
    assert_eq!(list(received), Err(BadWqe::InlineReceive));
}

#[test]
fn a_list_to_receive_into_ends_at_its_end_or_before() {
    let first = DataSegment {
        lkey: 1,
        va: 0x1000,
        len: 100,
    };
    let second = DataSegment {
        lkey: TERMINATOR,
        va: 0x2000,
        len: 200,
    };
    let data = [memory(1, 0x1000, 100), memory(TERMINATOR, 0x2000, 200)].concat();
    let ended = [data.clone(), memory(TERMINATOR, 0, 0), memory(9, 0, 9)].concat();
    let list_of = |bytes: &[u8], size| list(receive(bytes, size, TERMINATOR, 0));
    assert_eq!(list_of(&data, 32), Ok(vec![first, second]));
    assert_eq!(list_of(&ended, 64), Ok(vec![first, second]));
    // No bytes with another key are as many as a segment can have.
    let whole = DataSegment {
        lkey: 3,
        va: 0x3000,
        len: 1 << 31,
    };
    assert_eq!(list_of(&memory(3, 0x3000, 0), 16), Ok(vec![whole]));
    // In a send queue, the key means nothing.
    let sent = wqe(0x0a, &memory(TERMINATOR, 0, 0));
    let sent = list(send(&sent, Transport::Connected, 0)).unwrap();
    assert_eq!(sent[0].len, 1 << 31);
    let (says, has) = (48, 32);
    assert_eq!(list_of(&data, 48), Err(BadWqe::Truncated { says, has }));
    assert_eq!(list_of(&data, 0), Err(BadWqe::Empty));
    assert_eq!(list_of(&data, 24), Err(BadWqe::Short));

    let linked = [vec![0xff; SEGMENT], ended].concat();
    let shared = |size| list(shared_receive(&linked, size, TERMINATOR, 0));
    assert_eq!(shared(80), Ok(vec![first, second]));
    assert_eq!(shared(16), Ok(vec![]));
    assert_eq!(shared(15), Err(BadWqe::Short));
}

fn part() -> impl Strategy<Value = Part> {
    let memory = (1u32..9, 0u64..1 << 50, 0u32..5000);
    prop_oneof![
        3 => memory.prop_map(|(lkey, va, len)| Part::Memory { lkey, va, len }),
        1 => (0usize..60).prop_map(Part::Inline),
    ]
}

/// What has to be paged in, by the definition: of each part, the bytes whose place in the message is not committed.
fn missing(parts: &[Part], committed: u64) -> Vec<DataSegment> {
    let mut before = 0;
    let mut missing = Vec::new();
    for part in parts {
        let done = committed.saturating_sub(before).min(part.len());
        before += part.len();
        if let Part::Memory { lkey, va, .. } = *part {
            if done < part.len() {
                missing.push(DataSegment {
                    lkey,
                    va: va + done,
                    len: part.len() - done,
                });
            }
        }
    }
    missing
}

proptest! {
    #[test]
    fn what_is_committed_is_not_paged_in(
        parts in prop::collection::vec(part(), 0..8),
        committed in 0u32..20_000,
        transport in 0usize..4,
        opcode in 0usize..OPCODES.len(),
    ) {
        let (transport, prefix) = transports()[transport].clone();
        let (opcode, own) = OPCODES[opcode];
        let data: Vec<u8> = parts.iter().flat_map(Part::bytes).collect();
        let bytes = wqe(opcode, &[prefix, vec![0xee; own * SEGMENT], data.clone()].concat());
        let expected = missing(&parts, committed.into());
        prop_assert_eq!(list(send(&bytes, transport, committed)), Ok(expected.clone()));

        if !data.is_empty() && parts.iter().all(|part| matches!(part, Part::Memory { .. })) {
            let found = list(receive(&data, data.len(), TERMINATOR, committed));
            prop_assert_eq!(found, Ok(expected));
        }
    }

    /// Any bytes: the list has an end, and is no longer than the bytes allow.
    #[test]
    fn any_bytes_make_a_list_with_an_end(
        mut bytes in prop::collection::vec(any::<u8>(), 0..MOST + 40),
        known_opcode in prop::option::of(0usize..OPCODES.len()),
        segments in prop::option::of(0u8..64),
        size in 0usize..MOST + 40,
        committed: u32,
        transport in 0usize..4,
    ) {
        if let (Some(opcode), Some(byte)) = (known_opcode, bytes.get_mut(3)) {
            *byte = OPCODES[opcode].0;
        }
        if let (Some(segments), Some(byte)) = (segments, bytes.get_mut(7)) {
            *byte = segments;
        }
        let (transport, _) = transports()[transport].clone();
        let most = bytes.len() / SEGMENT;
        for segments in [
            send(&bytes, transport, committed),
            receive(&bytes, size, TERMINATOR, committed),
            shared_receive(&bytes, size, TERMINATOR, committed),
        ] {
            let Ok(mut segments) = segments else { continue };
            let (mut count, mut failed) = (0, false);
            for segment in segments.by_ref() {
                prop_assert!(!failed);
                let Ok(segment) = segment else {
                    failed = true;
                    continue;
                };
                count += 1;
                prop_assert!(count <= most);
                prop_assert!(segment.len > 0 && segment.va.checked_add(segment.len - 1).is_some());
            }
            prop_assert!(segments.next().is_none());
        }
    }
}
