// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

/// An event of `sub_type` with the words of `data`.
fn eqe(sub_type: u8, data: [u32; 7]) -> [u8; EQE] {
    let mut eqe = [0xee; EQE];
    eqe[TYPE] = EVENT_PAGE_FAULT;
    eqe[SUB_TYPE] = sub_type;
    for (room, word) in eqe[DATA..].chunks_exact_mut(4).zip(data) {
        room.copy_from_slice(&word.to_be_bytes());
    }
    eqe
}

fn decode(sub_type: u8, data: [u32; 7]) -> PageFault {
    PageFault::decode(&eqe(sub_type, data)).unwrap()
}

#[test]
fn a_fault_of_a_wqe_names_its_queue() {
    let word = |kind: u32| (kind << 24) | 0x00ab_cdef;
    let data = |kind| [7, 0xffff_1234, 0xffff_0400, 0xff65_4321, 0, 0, word(kind)];
    let kinds = [
        (0, Queue::Shared, Access::Write),
        (1, Queue::Send, Access::Read),
        (2, Queue::Receive, Access::Write),
        // A READ or an atomic: what comes back is written.
        (3, Queue::Send, Access::Write),
    ];
    for (kind, queue, access) in kinds {
        let fault = decode(0, data(kind));
        let PageFault::Wqe(wqe) = fault else {
            panic!("{fault:?}");
        };
        assert_eq!((wqe.queue, wqe.access), (queue, access));
        assert_eq!((wqe.wq_number, wqe.wqe_index), (0x00ab_cdef, 0x1234));
        assert_eq!(wqe.bytes_committed, 7);
        for error in [false, true] {
            let expected = Resume::Transport {
                page_fault_type: kind as u8,
                wq_number: 0x00ab_cdef,
                token: 0x0065_4321,
                error,
            };
            assert_eq!(fault.resume(error), Some(expected));
        }
    }
}

#[test]
fn a_fault_of_a_message_begins_after_what_was_moved() {
    let at = |committed, op_len, kind: u32| {
        let word = (kind << 24) | 0x12_3456;
        let data = [
            committed,
            0xaabb_ccdd,
            0xffff_0400,
            op_len,
            0x7fff,
            0x1000,
            word,
        ];
        decode(1, data)
    };
    let fault = at(4096, 10_000, 6);
    let PageFault::Rdma(rdma) = fault else {
        panic!("{fault:?}");
    };
    assert_eq!((rdma.rkey, rdma.va), (0xaabb_ccdd, 0x7fff_0000_2000));
    assert_eq!((rdma.packet, rdma.message), (1024, Some(5904)));
    assert_eq!(rdma.access, Access::Write);
    let expected = Resume::Transport {
        page_fault_type: 6,
        wq_number: 0x12_3456,
        token: 0x12_3456,
        error: false,
    };
    assert_eq!(fault.resume(false), Some(expected));

    // Of the last packet a part has been moved.
    let PageFault::Rdma(rest) = at(9_500, 10_000, 6) else {
        panic!("of another kind");
    };
    assert_eq!((rest.packet, rest.message), (500, Some(500)));

    let PageFault::Rdma(unknown) = at(0, 0, 4) else {
        panic!("of another kind");
    };
    assert_eq!((unknown.message, unknown.access), (None, Access::Read));
}

#[test]
fn only_the_last_event_of_the_memory_scheme_is_resumed() {
    let at = |flags: u32| {
        let data = [
            (flags << 24) | 16,
            (4 << 16) | 0xa1a2,
            0xa3a4_a5a6,
            (3 << 12) | 0xfff,
            0x0102_0304,
            0x7000,
            0x2000,
        ];
        decode(2, data)
    };
    let last = at(0x80);
    let PageFault::Memory(memory) = last else {
        panic!("{last:?}");
    };
    assert_eq!((memory.mkey, memory.va), (0x0102_0304, 0x7000_0000_2000));
    let sizes = (memory.before, memory.demand, memory.after);
    assert_eq!(sizes, (4 * 4096, 3 * 4096, 16 * 4096));
    let token = 0xa1a2_a3a4_a5a6;
    let resume = |error| Some(Resume::Memory { token, error });
    assert_eq!(last.resume(false), resume(false));
    assert_eq!(last.resume(true), resume(true));
    assert_eq!(at(0x7f).resume(false), None);
    assert_eq!(at(0x7f).resume(true), None);
}

#[test]
fn what_is_not_understood_is_said_to_be_so() {
    let mut other = eqe(0, [0; 7]);
    other[TYPE] = 0x0a;
    assert_eq!(PageFault::decode(&other), Err(NotAFault::Type(0x0a)));
    let unknown = PageFault::decode(&eqe(3, [0; 7]));
    assert_eq!(unknown, Err(NotAFault::SubType(3)));
}

proptest! {
    #[test]
    fn any_event_is_decoded_and_ended_with_an_error_in_one_way(
        data: [u32; 7],
        sub_type in 0u8..3,
    ) {
        let fault = decode(sub_type, data);
        let resumed = sub_type != 2 || data[0] >> 31 == 1;
        prop_assert_eq!(fault.resume(true).is_some(), resumed);
        if let PageFault::Rdma(rdma) = fault {
            prop_assert!(rdma.packet > 0);
        }
        prop_assert_eq!(fault.resume(false).is_some(), resumed);
    }
}
