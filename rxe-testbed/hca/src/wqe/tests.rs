// SPDX-License-Identifier: GPL-2.0
//! Requests as bytes.

use super::*;
use proptest::prelude::*;

fn control(opcode: u8, units: u8, flags: u8) -> Vec<u8> {
    vec![0, 0, 9, opcode, 0, 0, 7, units, 0, 0, 0, flags, 1, 2, 3, 4]
}

fn segment(length: u32, key: u32, address: u64) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(key.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    bytes
}

#[test]
fn a_write_names_both_ends() {
    let mut bytes = control(WRITE_IMMEDIATE, 4, 0x0a);
    bytes.extend(0x1122_3344_5566_7788_u64.to_be_bytes());
    bytes.extend([0, 0, 0x12, 0x5a, 0, 0, 0, 0]);
    bytes.extend(segment(5, 0x900, 0x10_0000_0001));
    bytes.extend([0x80, 0, 0, 3, 0xa, 0xb, 0xc]);
    bytes.resize(PIECE, 0);
    let request = Request::parse(&bytes, 9, Service::Reliable);
    let (address, key) = (0x1122_3344_5566_7788, 0x125a);
    assert_eq!(request.operation, Ok(Operation::Write { address, key }));
    assert_eq!(request.immediate, Some([1, 2, 3, 4]));
    assert!(request.signalled && request.solicited && !request.fenced);
    let memory = Segment::Memory(Span {
        key: 0x900,
        address: 0x10_0000_0001,
        length: 5,
    });
    assert_eq!(request.data, [memory, Segment::Inline(vec![0xa, 0xb, 0xc])]);
    assert_eq!(request.length(), 8);
}

#[test]
fn what_is_not_known_is_malformed() {
    let operation = |bytes: &[u8]| Request::parse(bytes, 0, Service::Reliable).operation;
    assert_eq!(operation(&[]), Err(Malformed::Length));
    assert_eq!(operation(&control(SEND, 0, 0)), Err(Malformed::Length));
    assert_eq!(operation(&control(SEND, 2, 0)), Err(Malformed::Length));
    assert_eq!(operation(&control(SEND, 1, 0)), Ok(Operation::Send));
    assert_eq!(operation(&control(READ, 1, 0)), Err(Malformed::Length));
    assert_eq!(operation(&control(0x0e, 1, 0)), Err(Malformed::Operation));
    let mut odd = control(SEND, 1, 0);
    odd[0] = 1;
    assert_eq!(operation(&odd), Err(Malformed::Operation));
    let mut long = control(SEND, 2, 0);
    long.extend([0x80, 0, 0, 13]);
    long.resize(2 * SEGMENT, 0);
    assert_eq!(operation(&long), Err(Malformed::Length));
    let mut read = control(READ, 3, 0);
    read.extend([0; SEGMENT]);
    read.extend([0x80, 0, 0, 1]);
    read.resize(3 * SEGMENT, 0);
    assert_eq!(operation(&read), Err(Malformed::Operation));
}

#[test]
fn an_atomic_says_how_eight_bytes_change() {
    for (opcode, change) in [
        (FETCH_AND_ADD, Change::Add(7)),
        (
            COMPARE_AND_SWAP,
            Change::Swap {
                compare: 5,
                swap: 7,
            },
        ),
    ] {
        let mut bytes = control(opcode, 4, 0);
        bytes.extend(0x1000_u64.to_be_bytes());
        bytes.extend([0, 0, 9, 1, 0, 0, 0, 0]);
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(5_u64.to_be_bytes());
        bytes.extend(segment(8, 0x900, 0x2000));
        let request = Request::parse(&bytes, 0, Service::Reliable);
        let expected = Operation::Atomic {
            address: 0x1000,
            key: 0x901,
            change,
        };
        assert_eq!((request.operation, request.length()), (Ok(expected), 8));
        bytes[3] = opcode;
        bytes[7] = 2;
        let short = Request::parse(&bytes, 0, Service::Reliable);
        assert_eq!(short.operation, Err(Malformed::Length));
    }
    assert_eq!(Change::Add(u64::MAX).of(3), 2);
    let swap = Change::Swap {
        compare: 1,
        swap: 9,
    };
    assert_eq!((swap.of(1), swap.of(2)), (9, 2));
}

#[test]
fn what_comes_first_depends_on_the_service() {
    let mut bytes = control(SEND, 3, 0);
    bytes.extend([0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(segment(8, 0x900, 0x2000));
    let request = Request::parse(&bytes, 0, Service::ExtendedReliable);
    assert_eq!((request.shared, request.length()), (Some(0x102), 8));
    let request = Request::parse(&bytes, 0, Service::Datagram);
    assert_eq!(request.operation, Err(Malformed::Length));
    let mut bytes = control(SEND, 5, 0);
    let mut to = [0; ADDRESS];
    to[..4].copy_from_slice(&[1, 2, 3, 4]);
    to[8..16].copy_from_slice(&[0x80, 0, 5, 6, 0x3f, 0, 0, 9]);
    to[26..32].copy_from_slice(&[7, 8, 0x40, 0x12, 0x34, 0x56]);
    to[32..].fill(0xfe);
    bytes.extend(to);
    bytes.extend(segment(8, 0x900, 0x2000));
    let request = Request::parse(&bytes, 0, Service::Datagram);
    let route = Route {
        class: 7,
        flow: 0x2_3456,
        hops: 8,
        source: 1,
        destination: [0xfe; 16],
    };
    let expected = Address {
        key: 0x0102_0304,
        access_key: 0x0102_0304_0000_0000,
        pair: 0x506,
        port: 9,
        level: 0xf,
        route: Some(route),
    };
    assert_eq!((request.to, request.length()), (Some(expected), 8));
    bytes[16 + 8] = 0;
    let short = Request::parse(&bytes, 0, Service::Datagram);
    assert_eq!(short.operation, Err(Malformed::Operation));
}

#[test]
fn a_list_of_receives_may_end_early() {
    let mut bytes = segment(4, 0x900, 0x1000);
    bytes.extend(segment(0, 0x901, 0x2000));
    bytes.extend(segment(0, NO_KEY, 0));
    bytes.extend(segment(4, 0x902, 0x3000));
    let spans = receives(&bytes);
    let lengths: Vec<u64> = spans.iter().map(|span| span.length).collect();
    assert_eq!(lengths, [4, MOST]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn no_request_is_too_odd(
        opcode in 0_u8..0x30, service in 0_usize..4, units in 0_u8..70,
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = control(opcode, units, 0);
        bytes.extend(&rest);
        let services = [
            Service::Reliable,
            Service::ExtendedReliable,
            Service::Datagram,
            Service::KeyUpdates,
        ];
        let request = Request::parse(&bytes, 3, services[service]);
        let known = usize::from(units & 0x3f) * SEGMENT <= bytes.len();
        prop_assert!(known || request.operation == Err(Malformed::Length));
        let inline: usize = request.data.iter().map(|segment| match segment {
            Segment::Inline(bytes) => bytes.len(),
            Segment::Memory(_) => 0,
        }).sum();
        prop_assert!(inline <= rest.len());
        let _ = receives(&rest);
    }
}
