// SPDX-License-Identifier: GPL-2.0
//! A queue pair's queues as the kernel sees them: memory that the application shares.
//!
//! libibverbs' provider for soft-RoCE writes requests into it, after a look at some of their fields. A
//! program may write whatever it likes, so this module does.
//!
//! Source: the kernel's user-space header `rdma/rdma_user_rxe.h`.

use std::{
    fs, io, mem, ptr,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
};

use crate::{uverbs, Context, Error, QueuePair, Result, Sge, SharedReceiveQueue};

/// A request, each field as it is to be in the queue.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What its completion is called by.
    pub id: u64,
    reserved: u32,
    /// The operation. The kernel's own soft-RoCE uses it as an index without a look at it ([`OPCODES`]).
    pub opcode: u32,
    /// [`SIGNALED`] and others. The kernel's own soft-RoCE trusts the offset of [`INLINE`] data.
    pub flags: u32,
    /// The immediate value, in the order of the network, or the key to be made invalid.
    pub immediate: u32,
    /// What depends on the operation: see [`Request::rdma`] and its relatives.
    pub parameters: [u64; 15],
    status: u32,
    state: u32,
    /// The address at the peer, once more.
    pub iova: u64,
    kernel: [u32; 6],
    /// How many bytes there are.
    pub len: u32,
    /// How many of them are left to do.
    pub left: u32,
    /// In which piece of memory they begin.
    pub piece: u32,
    /// How many pieces of memory there are.
    pub pieces: u32,
    /// Where in the piece they begin.
    pub offset: u32,
    padding: u32,
}

/// Opcodes below this number are in the kernel's table of them, or in a hole of it. What comes after
/// that the kernel takes for one of them, whatever is there.
pub const OPCODES: u32 = 0x21;
/// Memory is to be registered, by a pointer of the kernel's. Not for applications, but the kernel's own
/// soft-RoCE does not refuse it: it crashes.
pub const REGISTER_BY_POINTER: u32 = 0x20;
/// Report the end of the request, well or not.
pub const SIGNALED: u32 = 2;
/// The data is in the request, in place of the pieces.
pub const INLINE: u32 = 8;

impl Request {
    /// A request called `id` for `opcode`, as it should be for so many `pieces` with so many bytes.
    pub fn new(id: u64, opcode: u32, pieces: &[Sge]) -> Self {
        let len = pieces.iter().fold(0u32, |n, p| n.wrapping_add(p.len));
        Self {
            id,
            reserved: 0,
            opcode,
            flags: SIGNALED,
            immediate: 0,
            parameters: [0; 15],
            status: 0,
            state: 0,
            iova: 0,
            kernel: [0; 6],
            len,
            left: len,
            piece: 0,
            pieces: pieces.len() as u32,
            offset: 0,
            padding: 0,
        }
    }

    /// The parameters of a write or a read.
    pub fn rdma(mut self, addr: u64, key: u32) -> Self {
        self.iova = addr;
        self.parameters[..2].copy_from_slice(&[addr, u64::from(key)]);
        self
    }

    /// The parameters of an atomic operation.
    pub fn atomic(mut self, addr: u64, key: u32, compare_add: u64, swap: u64) -> Self {
        self.iova = addr;
        self.parameters[..4].copy_from_slice(&[addr, compare_add, swap, u64::from(key)]);
        self
    }

    /// The parameters of a flush of `len` bytes: of `placement` 1 (seen by all) or 2 (persistent), of
    /// `level` 0 (the range) or 1 (the whole region).
    pub fn flush(mut self, addr: u64, len: u32, key: u32, placement: u8, level: u8) -> Self {
        self.iova = addr;
        (self.len, self.left) = (len, len);
        self.parameters[..3].copy_from_slice(&[
            addr,
            u64::from(len) | (u64::from(key) << 32),
            u64::from(placement) | (u64::from(level) << 8),
        ]);
        self
    }

    /// The parameters of the binding of a memory window.
    pub fn bind(mut self, bind: &Bind) -> Self {
        let pair = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
        self.parameters[..4].copy_from_slice(&[
            bind.addr,
            bind.len,
            pair(bind.region, bind.window),
            pair(bind.key, bind.access),
        ]);
        self
    }
}

/// A memory window and what it is to be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The first address, as the region counts them.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// The local key of the region.
    pub region: u32,
    /// The key of the window up to now.
    pub window: u32,
    /// The key that it is to have; the kernel takes the last byte of it.
    pub key: u32,
    /// The rights.
    pub access: u32,
}

/// Offsets in the memory that a queue shares.
const ELEMENT_BITS: usize = 0;
const MASK: usize = 4;
const PRODUCER: usize = 128;
const CONSUMER: usize = 256;
const DATA: usize = 384;

/// The send queue of a queue pair.
#[derive(Debug)]
pub struct SendRing {
    at: usize,
    element: usize,
    mask: u32,
    queue_pair: u32,
    context: Arc<Context>,
}

impl SendRing {
    /// Makes a queue pair of `context` with `make`, and finds its send queue.
    ///
    /// The library does not tell where it has put the queues, so nothing else may be made meanwhile.
    pub fn of(
        context: &Arc<Context>,
        make: impl FnOnce() -> Result<QueuePair>,
    ) -> Result<(QueuePair, Self)> {
        let (queue_pair, queues) = with_queues(make)?;
        let at = queues.send;
        // SAFETY: a queue begins there, and stays as long as the queue pair.
        let (bits, mask) = unsafe { (word(at, ELEMENT_BITS), word(at, MASK)) };
        let ring = Self {
            at,
            element: 1 << bits.load(Ordering::Relaxed),
            mask: mask.load(Ordering::Relaxed),
            queue_pair: queue_pair.handle(),
            context: context.clone(),
        };
        Ok((queue_pair, ring))
    }

    /// The bytes of the request that was posted last, as they are in the queue now.
    pub fn last(&self, queue_pair: &QueuePair) -> Vec<u8> {
        assert_eq!(queue_pair.handle(), self.queue_pair);
        // SAFETY: the queue pair is alive, and with it the queue; the element is inside of it.
        unsafe {
            let producer = word(self.at, PRODUCER).load(Ordering::Acquire);
            let index = producer.wrapping_sub(1) & self.mask;
            let element = self.at + DATA + index as usize * self.element;
            let from = ptr::with_exposed_provenance::<u8>(element);
            (0..self.element)
                .map(|i| from.add(i).read_volatile())
                .collect()
        }
    }

    /// Writes `value` to `field`, an offset in bytes, of the request at `index`, counted from anywhere.
    ///
    /// # Panics
    ///
    /// If the field is not inside of a request.
    pub fn scribble(&self, queue_pair: &QueuePair, index: u32, field: usize, value: u32) {
        assert_eq!(queue_pair.handle(), self.queue_pair);
        assert!(field % 4 == 0 && field + 4 <= self.element);
        let element = DATA + (index & self.mask) as usize * self.element;
        // SAFETY: the queue pair is alive, and with it the queue; the field is inside of it.
        unsafe { word(self.at, element + field) }.store(value, Ordering::Relaxed);
    }

    /// Moves the producer's index by `by`, as if so many requests had been posted, or taken back, and has the kernel
    /// look.
    pub fn move_producer(&self, queue_pair: &QueuePair, by: i32) -> Result<()> {
        assert_eq!(queue_pair.handle(), self.queue_pair);
        // SAFETY: the queue pair is alive, and with it the queue.
        let producer = unsafe { word(self.at, PRODUCER) };
        let index = producer.load(Ordering::Relaxed).wrapping_add_signed(by);
        producer.store(index & self.mask, Ordering::Release);
        self.ring()
    }

    fn ring(&self) -> Result<()> {
        uverbs::ring_doorbell(self.context.command_file(), self.queue_pair).map_err(|errno| {
            Error::Call {
                call: "POST_SEND",
                errno,
            }
        })
    }

    /// How many pieces of memory a request has room for.
    pub fn room(&self) -> usize {
        (self.element - mem::size_of::<Request>()) / mem::size_of::<Sge>()
    }

    /// Puts `request` into the queue of `queue_pair`, with as many of `pieces` as there is room for.
    ///
    /// # Panics
    ///
    /// If it is not the queue pair that the queue belongs to: its memory might be gone.
    pub fn post(&self, queue_pair: &QueuePair, request: &Request, pieces: &[Sge]) -> Result<()> {
        self.post_all(queue_pair, &[(*request, pieces)])
    }

    /// The same for all of `requests` at once: the kernel sees all of them or none.
    ///
    /// # Panics
    ///
    /// As for [`SendRing::post`], and if they do not fit into the queue.
    pub fn post_all(&self, queue_pair: &QueuePair, requests: &[(Request, &[Sge])]) -> Result<()> {
        assert_eq!(queue_pair.handle(), self.queue_pair);
        assert!(requests.len() <= self.mask as usize);
        // SAFETY: the queue pair is alive, and with it the queue. The elements are inside of it, have room for a
        // request and these pieces, and the kernel does not look at them before the producer's index says so.
        // Nobody else writes here.
        unsafe {
            let producer = word(self.at, PRODUCER);
            let mut index = producer.load(Ordering::Relaxed) & self.mask;
            for (request, pieces) in requests {
                let pieces = &pieces[..pieces.len().min(self.room())];
                let element = self.at + DATA + index as usize * self.element;
                let to = ptr::with_exposed_provenance_mut::<Request>(element);
                to.write_volatile(*request);
                let mut to = to.add(1).cast::<uverbs::Piece>();
                for piece in pieces {
                    to.write_volatile(uverbs::Piece {
                        addr: piece.addr,
                        len: piece.len,
                        key: piece.lkey,
                    });
                    to = to.add(1);
                }
                index = (index + 1) & self.mask;
            }
            producer.store(index, Ordering::Release);
        }
        self.ring()
    }
}

/// Where the queues of a queue pair are.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    receive: usize,
    send: usize,
}

/// Makes a queue pair with `make`, and finds its queues.
///
/// The library does not tell where it has put them, so nothing else may be made meanwhile.
pub fn with_queues(make: impl FnOnce() -> Result<QueuePair>) -> Result<(QueuePair, Queues)> {
    let (queue_pair, mut new) = new_queues(make)?;
    // The send queue has the larger elements.
    new.sort_by_key(|at| {
        // SAFETY: a queue begins there, and stays as long as the queue pair.
        unsafe { word(*at, ELEMENT_BITS) }.load(Ordering::Relaxed)
    });
    match new[..] {
        [receive, send] => Ok((queue_pair, Queues { receive, send })),
        _ => Err(not_found(io::Error::from_raw_os_error(libc::ENOENT))),
    }
}

fn not_found(error: io::Error) -> Error {
    Error::Call {
        call: "/proc/self/maps",
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Makes something with `make`, and finds its queues, where nothing else is made meanwhile.
fn new_queues<T>(make: impl FnOnce() -> Result<T>) -> Result<(T, Vec<usize>)> {
    let before = shared_with_devices().map_err(not_found)?;
    let made = make()?;
    let after = shared_with_devices().map_err(not_found)?;
    let new = after.into_iter().filter(|at| !before.contains(at));
    Ok((made, new.collect()))
}

/// A shared receive queue.
#[derive(Debug)]
pub struct ReceiveRing {
    at: usize,
    queue: Arc<SharedReceiveQueue>,
}

impl ReceiveRing {
    /// Makes one with `make`.
    ///
    /// The library does not tell where it has put it, so nothing else may be made meanwhile.
    pub fn of(make: impl FnOnce() -> Result<Arc<SharedReceiveQueue>>) -> Result<Self> {
        let (queue, new) = new_queues(make)?;
        match new[..] {
            [at] => Ok(Self { at, queue }),
            _ => Err(not_found(io::Error::from_raw_os_error(libc::ENOENT))),
        }
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<SharedReceiveQueue> {
        &self.queue
    }

    /// Says of the receive that was posted first that it has room for `len` bytes.
    pub fn claim(&self, len: u32) {
        // Of `struct rxe_recv_wqe`.
        const LENGTH: usize = 16;
        // SAFETY: the queue is alive, and the first element inside of it.
        unsafe { word(self.at, DATA + LENGTH) }.store(len, Ordering::Relaxed);
    }
}

impl Queues {
    /// Says again and again that the receive queue is full, however much of it the kernel has taken, and of the send
    /// queue, too, if `both`.
    ///
    /// # Safety
    ///
    /// The queues stay mapped: in a process that was forked from that of the queue pair.
    pub unsafe fn stay_full(self, both: bool) -> ! {
        loop {
            for at in [self.receive, self.send]
                .into_iter()
                .take(1 + usize::from(both))
            {
                // SAFETY: by the contract.
                unsafe {
                    let mask = word(at, MASK).load(Ordering::Relaxed);
                    let taken = word(at, CONSUMER).load(Ordering::Acquire);
                    word(at, PRODUCER).store(taken.wrapping_sub(1) & mask, Ordering::Release);
                }
            }
        }
    }

    /// Whether the receive queue of `queue_pair`, whose queues these are, is said to be full.
    pub fn is_full(self, _queue_pair: &QueuePair) -> bool {
        // SAFETY: the queue pair is alive, and with it the queue.
        unsafe {
            let mask = word(self.receive, MASK).load(Ordering::Relaxed);
            let next = word(self.receive, PRODUCER).load(Ordering::Acquire) + 1;
            next & mask == word(self.receive, CONSUMER).load(Ordering::Acquire) & mask
        }
    }
}

/// Where the fields of a request are that say how much data it has and where.
pub mod field {
    use std::ops::Range;

    use super::{mem, Request};

    /// What is zero in a new request, and what the kernel's own soft-RoCE writes to while it works on one.
    pub const KERNEL: [Range<usize>; 2] = [
        mem::offset_of!(Request, status)..mem::offset_of!(Request, iova),
        mem::offset_of!(Request, kernel)..mem::offset_of!(Request, len),
    ];

    /// [`Request::opcode`].
    pub const OPCODE: usize = mem::offset_of!(Request, opcode);
    /// [`Request::flags`].
    pub const FLAGS: usize = mem::offset_of!(Request, flags);
    /// The kernel's own: how far it has come.
    pub const STATE: usize = mem::offset_of!(Request, state);
    /// [`Request::len`].
    pub const LEN: usize = mem::offset_of!(Request, len);
    /// [`Request::left`].
    pub const LEFT: usize = mem::offset_of!(Request, left);
    /// [`Request::piece`].
    pub const PIECE: usize = mem::offset_of!(Request, piece);
    /// [`Request::pieces`].
    pub const PIECES: usize = mem::offset_of!(Request, pieces);
    /// [`Request::offset`].
    pub const OFFSET: usize = mem::offset_of!(Request, offset);
}

/// The word at `offset` of the queue at `at`.
///
/// # Safety
///
/// There is a queue, for as long as `'a`.
unsafe fn word<'a>(at: usize, offset: usize) -> &'a AtomicU32 {
    // SAFETY: by the contract; the kernel accesses the word atomically, too.
    unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(at + offset)) }
}

/// The first addresses of the memory that this process shares with RDMA devices.
fn shared_with_devices() -> io::Result<Vec<usize>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let ours = maps.lines().filter(|line| line.contains("/uverbs"));
    let starts = ours.filter_map(|line| line.split('-').next());
    Ok(starts
        .filter_map(|start| usize::from_str_radix(start, 16).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_fields_where_the_kernel_has_them() {
        assert_eq!(mem::offset_of!(Request, parameters), 24);
        assert_eq!(mem::offset_of!(Request, status), 144);
        assert_eq!(mem::offset_of!(Request, iova), 152);
        assert_eq!(mem::offset_of!(Request, len), 184);
        assert_eq!(mem::offset_of!(Request, offset), 200);
        assert_eq!(mem::size_of::<Request>(), 208);
    }

    #[test]
    fn parameters_are_packed_as_the_kernel_unpacks_them() {
        let bind = Bind {
            addr: 1,
            len: 2,
            region: 3,
            window: 4,
            key: 5,
            access: 6,
        };
        let request = Request::new(9, 8, &[]).bind(&bind);
        assert_eq!(
            request.parameters[..4],
            [1, 2, (4 << 32) | 3, (6 << 32) | 5]
        );
    }
}
