// SPDX-License-Identifier: GPL-2.0

//! The lengths in a work request. An application writes them itself, into memory that it shares with the driver, so
//! each may be anything. They are checked once, on the driver's own copy of the request.

/// The longest message, in bytes (InfiniBand specification, volume 1, 9.4.3).
pub const LONGEST_MESSAGE: u32 = 1 << 31;

/// How many bytes an atomic operation or an ATOMIC WRITE has.
pub const WORD: u32 = 8;

/// Where the local data of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// There is none: an operation on the queue pair's own windows.
    None,
    /// At the peer only: a FLUSH.
    Remote,
    /// In a scatter-gather list.
    List,
    /// The same, and the result has [`WORD`] bytes: an atomic operation.
    ListForWord,
    /// In the request itself, where a list would be.
    Inline,
    /// The same, of [`WORD`] bytes: an ATOMIC WRITE.
    InlineWord,
}

/// The lengths as the application has written them. All values in bytes, but for the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The length of the message.
    pub length: u32,
    /// How many bytes are left to do.
    pub left: u32,
    /// The element at which the data begins.
    pub element: u32,
    /// Where in the element it begins.
    pub offset: u32,
    /// The number of elements.
    pub elements: u32,
}

/// How much a request of the queue can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Elements of a scatter-gather list.
    pub elements: u32,
    /// Bytes of inline data.
    pub inline: u32,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The message is longer than there can be, or too short for a result.
    Length,
    /// The values contradict each other, or there is no room for what they describe.
    Malformed,
}

impl Claim {
    /// Whether nothing of it has been done yet, as in every new request.
    fn is_new(&self) -> bool {
        self.left == self.length && self.element == 0 && self.offset == 0
    }

    /// Checks a send request with this `data`. `length_of` has the length of each element within `capacity`.
    ///
    /// # Errors
    ///
    /// Why the request is refused.
    #[inline]
    pub fn check_send(
        &self,
        data: Data,
        capacity: Capacity,
        length_of: impl Fn(u32) -> u32,
    ) -> Result<(), BadRequest> {
        match data {
            Data::None => return Ok(()),
            Data::List | Data::ListForWord => {
                let length = sum(self.elements, capacity, length_of)?;
                if length > u64::from(LONGEST_MESSAGE) {
                    return Err(BadRequest::Length);
                }
                if length != u64::from(self.length) {
                    return Err(BadRequest::Malformed);
                }
                if data == Data::ListForWord && self.length < WORD {
                    return Err(BadRequest::Length);
                }
            }
            Data::Inline if self.length > capacity.inline => return Err(BadRequest::Malformed),
            Data::InlineWord if self.length != WORD => return Err(BadRequest::Malformed),
            Data::Inline | Data::InlineWord => {}
            Data::Remote if self.length > LONGEST_MESSAGE => return Err(BadRequest::Length),
            Data::Remote => {}
        }
        match self.is_new() {
            true => Ok(()),
            false => Err(BadRequest::Malformed),
        }
    }

    /// Checks a receive. Returns how many bytes it has room for: what is beyond 32 bits does not count, as no message
    /// is that long. The library counts in 32 bits, and so may the claim.
    ///
    /// # Errors
    ///
    /// The receive is [`BadRequest::Malformed`].
    #[inline]
    pub fn check_receive(
        &self,
        capacity: Capacity,
        length_of: impl Fn(u32) -> u32,
    ) -> Result<u32, BadRequest> {
        let length = sum(self.elements, capacity, length_of)?;
        match length as u32 == self.length && self.is_new() {
            true => Ok(u32::try_from(length).unwrap_or(u32::MAX)),
            false => Err(BadRequest::Malformed),
        }
    }
}

/// The length of so many elements.
#[inline]
fn sum(
    elements: u32,
    capacity: Capacity,
    length_of: impl Fn(u32) -> u32,
) -> Result<u64, BadRequest> {
    match elements <= capacity.elements {
        true => Ok((0..elements).map(|i| u64::from(length_of(i))).sum()),
        false => Err(BadRequest::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity {
        elements: 4,
        inline: 64,
    };

    fn claim(length: u32, elements: u32) -> Claim {
        Claim {
            length,
            left: length,
            element: 0,
            offset: 0,
            elements,
        }
    }

    fn send(data: Data, claim: Claim, lengths: &[u32]) -> Result<(), BadRequest> {
        claim.check_send(data, CAPACITY, |i| lengths[i as usize])
    }

    #[test]
    fn a_list_has_the_length_of_the_message() {
        assert_eq!(send(Data::List, claim(0, 0), &[]), Ok(()));
        assert_eq!(send(Data::List, claim(600, 3), &[100, 0, 500]), Ok(()));
        for length in [0, 599, 601, u32::MAX] {
            let found = send(Data::List, claim(length, 3), &[100, 0, 500]);
            assert_eq!(found, Err(BadRequest::Malformed), "{length}");
        }
    }

    #[test]
    fn a_message_has_two_gib_at_most() {
        let half = 1 << 30;
        assert_eq!(send(Data::List, claim(1 << 31, 2), &[half, half]), Ok(()));
        let too_long = send(Data::List, claim((1 << 31) + 1, 3), &[half, half, 1]);
        assert_eq!(too_long, Err(BadRequest::Length));
        assert_eq!(
            send(Data::Remote, claim((1 << 31) + 1, 0), &[]),
            Err(BadRequest::Length)
        );
    }

    #[test]
    fn a_sum_that_wraps_is_too_long() {
        // 4 GiB and 4 KiB, which is 4 KiB in 32 bits.
        let lengths = [u32::MAX, 1, 4096];
        let wrapped = lengths.iter().fold(0u32, |n, l| n.wrapping_add(*l));
        assert_eq!(wrapped, 4096);
        assert_eq!(
            send(Data::List, claim(wrapped, 3), &lengths),
            Err(BadRequest::Length)
        );
        let receive = claim(wrapped, 3).check_receive(CAPACITY, |i| lengths[i as usize]);
        assert_eq!(receive, Ok(u32::MAX));
    }

    #[test]
    fn there_are_no_more_elements_than_there_is_room_for() {
        for elements in [5, u32::MAX] {
            let claim = claim(0, elements);
            assert_eq!(
                claim.check_send(Data::List, CAPACITY, |_| unreachable!()),
                Err(BadRequest::Malformed)
            );
            assert_eq!(
                claim.check_receive(CAPACITY, |_| unreachable!()),
                Err(BadRequest::Malformed)
            );
        }
    }

    #[test]
    fn nothing_of_a_new_request_is_done() {
        let good = claim(64, 1);
        let bad = [
            Claim { left: 63, ..good },
            Claim { left: 65, ..good },
            Claim { element: 1, ..good },
            Claim { offset: 8, ..good },
        ];
        for claim in bad {
            for data in [Data::List, Data::Inline, Data::Remote] {
                let found = claim.check_send(data, CAPACITY, |_| 64);
                assert_eq!(found, Err(BadRequest::Malformed), "{claim:?} {data:?}");
            }
            assert_eq!(
                claim.check_receive(CAPACITY, |_| 64),
                Err(BadRequest::Malformed)
            );
        }
        assert_eq!(good.check_receive(CAPACITY, |_| 64), Ok(64));
    }

    #[test]
    fn inline_data_fits_into_the_request() {
        assert_eq!(send(Data::Inline, claim(64, 0), &[]), Ok(()));
        assert_eq!(
            send(Data::Inline, claim(65, 0), &[]),
            Err(BadRequest::Malformed)
        );
        assert_eq!(send(Data::InlineWord, claim(8, 0), &[]), Ok(()));
        for length in [0, 7, 9, 4096] {
            let found = send(Data::InlineWord, claim(length, 0), &[]);
            assert_eq!(found, Err(BadRequest::Malformed), "{length}");
        }
    }

    #[test]
    fn an_atomic_operation_needs_room_for_its_result() {
        for (length, expected) in [
            (0, Err(BadRequest::Length)),
            (7, Err(BadRequest::Length)),
            (8, Ok(())),
            (64, Ok(())),
        ] {
            assert_eq!(
                send(Data::ListForWord, claim(length, 1), &[length]),
                expected
            );
        }
    }
}
