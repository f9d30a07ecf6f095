// SPDX-License-Identifier: GPL-2.0
//! The kernel's own interface to a device, which libibverbs is written on.
//!
//! libibverbs refuses some requests by itself. A program need not use it, so the kernel has to be
//! asked directly what it makes of them. There are two ways in: commands that are written to the
//! device's file, and an ioctl with a list of attributes.
//!
//! Source: the kernel's user-space headers `rdma/ib_user_verbs.h`, `rdma/ib_user_ioctl_cmds.h` and
//! `rdma/rdma_user_ioctl_cmds.h`.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The kernel's answer: the errno of what it refused.
pub type Answer<T> = Result<T, i32>;

/// The keys of a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// What the kernel calls it.
    pub handle: u32,
    /// The key under which work requests know it.
    pub key: u32,
}

/// What is asked for in a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The handle of the protection domain.
    pub domain: u32,
    /// The first address.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// The address under which work requests name the first byte.
    pub iova: u64,
    /// The rights.
    pub access: u32,
}

/// What is asked for when a region is registered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reregistration {
    /// The handle of the region.
    pub region: u32,
    /// What of it is to change: [`CHANGE_TRANSLATION`], [`CHANGE_DOMAIN`], [`CHANGE_ACCESS`].
    pub flags: u32,
    /// What it is to be.
    pub new: Registration,
}

/// The addresses of a region change.
pub const CHANGE_TRANSLATION: u32 = 1;
/// The protection domain of a region changes.
pub const CHANGE_DOMAIN: u32 = 2;
/// The rights of a region change.
pub const CHANGE_ACCESS: u32 = 4;

mod command {
    pub const REG_MR: u32 = 9;
    pub const REREG_MR: u32 = 11;
    pub const DEREG_MR: u32 = 13;
    pub const ALLOC_MW: u32 = 14;
    pub const DEALLOC_MW: u32 = 16;
    pub const RESIZE_CQ: u32 = 19;
    pub const POST_SEND: u32 = 28;
    pub const MODIFY_SRQ: u32 = 33;
    pub const QUERY_SRQ: u32 = 34;
}

/// A command and its argument. Every argument here begins with the address of the answer, or has none.
#[repr(C)]
struct Written<A> {
    command: u32,
    in_words: u16,
    out_words: u16,
    argument: A,
}

/// Writes a command. `answer` is where the kernel puts its answer, of so many bytes.
fn write<A>(file: BorrowedFd<'_>, command: u32, argument: A, answer: usize) -> Answer<()> {
    let message = Written {
        command,
        in_words: (mem::size_of::<Written<A>>() / 4) as u16,
        out_words: (answer / 4) as u16,
        argument,
    };
    let len = mem::size_of::<Written<A>>();
    // SAFETY: the message outlives the call, and so does the answer, which the caller owns. What the
    // kernel does to the memory of a registration is the business of whoever uses its keys.
    let written = unsafe { libc::write(file.as_raw_fd(), (&raw const message).cast(), len) };
    match written {
        n if n >= 0 => Ok(()),
        _ => Err(errno()),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

#[repr(C)]
struct RegMr {
    response: u64,
    start: u64,
    length: u64,
    hca_va: u64,
    pd_handle: u32,
    access_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct RegMrResponse {
    mr_handle: u32,
    lkey: u32,
    rkey: u32,
}

/// Registers memory by a written command.
pub fn register(file: BorrowedFd<'_>, wanted: &Registration) -> Answer<Made> {
    let mut response = RegMrResponse::default();
    let argument = RegMr {
        response: (&raw mut response).expose_provenance() as u64,
        start: wanted.addr,
        length: wanted.len,
        hca_va: wanted.iova,
        pd_handle: wanted.domain,
        access_flags: wanted.access,
    };
    write(
        file,
        command::REG_MR,
        argument,
        mem::size_of::<RegMrResponse>(),
    )?;
    Ok(Made {
        handle: response.mr_handle,
        key: response.lkey,
    })
}

#[repr(C)]
struct ReregMr {
    response: u64,
    mr_handle: u32,
    flags: u32,
    start: u64,
    length: u64,
    hca_va: u64,
    pd_handle: u32,
    access_flags: u32,
}

/// Changes a registration; the key that the region has then.
pub fn reregister(file: BorrowedFd<'_>, wanted: &Reregistration) -> Answer<u32> {
    let mut response = [0u32; 2];
    let argument = ReregMr {
        response: (&raw mut response).expose_provenance() as u64,
        mr_handle: wanted.region,
        flags: wanted.flags,
        start: wanted.new.addr,
        length: wanted.new.len,
        hca_va: wanted.new.iova,
        pd_handle: wanted.new.domain,
        access_flags: wanted.new.access,
    };
    write(
        file,
        command::REREG_MR,
        argument,
        mem::size_of_val(&response),
    )?;
    Ok(response[0])
}

/// Deregisters a region.
pub fn deregister(file: BorrowedFd<'_>, region: u32) -> Answer<()> {
    write(file, command::DEREG_MR, region, 0)
}

#[repr(C)]
struct AllocMw {
    response: u64,
    pd_handle: u32,
    mw_type: u8,
    reserved: [u8; 3],
}

/// Makes a memory window of type `kind`: 1 or 2, if it is to succeed.
pub fn allocate_window(file: BorrowedFd<'_>, domain: u32, kind: u8) -> Answer<Made> {
    let mut response = [0u32; 2];
    let argument = AllocMw {
        response: (&raw mut response).expose_provenance() as u64,
        pd_handle: domain,
        mw_type: kind,
        reserved: [0; 3],
    };
    write(
        file,
        command::ALLOC_MW,
        argument,
        mem::size_of_val(&response),
    )?;
    let [handle, key] = response;
    Ok(Made { handle, key })
}

/// Gives a memory window back.
pub fn free_window(file: BorrowedFd<'_>, window: u32) -> Answer<()> {
    write(file, command::DEALLOC_MW, window, 0)
}

#[repr(C)]
struct PostSend {
    response: u64,
    qp_handle: u32,
    wr_count: u32,
    sge_count: u32,
    wqe_size: u32,
}

/// Has the kernel look into the send queue of a queue pair.
pub fn ring_doorbell(file: BorrowedFd<'_>, queue_pair: u32) -> Answer<()> {
    // What a request written here would have; there is none.
    const REQUEST: u32 = 128;
    let mut response = 0u32;
    let argument = PostSend {
        response: (&raw mut response).expose_provenance() as u64,
        qp_handle: queue_pair,
        wr_count: 0,
        sge_count: 0,
        wqe_size: REQUEST,
    };
    write(
        file,
        command::POST_SEND,
        argument,
        mem::size_of_val(&response),
    )
}

#[repr(C)]
struct ResizeCq {
    response: u64,
    cq_handle: u32,
    cqe: u32,
}

/// Gives a completion queue room for so many `entries`, and does not map the new one.
pub fn resize_completions(file: BorrowedFd<'_>, queue: u32, entries: u32) -> Answer<()> {
    // The kernel's answer, and soft-RoCE's: where the queue could be mapped.
    let mut response = [0u64; 3];
    let argument = ResizeCq {
        response: (&raw mut response).expose_provenance() as u64,
        cq_handle: queue,
        cqe: entries,
    };
    write(
        file,
        command::RESIZE_CQ,
        argument,
        mem::size_of_val(&response),
    )
}

#[repr(C)]
struct ModifySrq {
    srq_handle: u32,
    attr_mask: u32,
    max_wr: u32,
    srq_limit: u32,
    /// Where soft-RoCE says where the new queue can be mapped; 0 is nowhere.
    mmap_info: u64,
}

/// Gives a shared receive queue room for so many `receives`, and does not have it told where that could be mapped.
pub fn resize_receives(file: BorrowedFd<'_>, queue: u32, receives: u32) -> Answer<()> {
    const MAX_WR: u32 = 1;
    let argument = ModifySrq {
        srq_handle: queue,
        attr_mask: MAX_WR,
        max_wr: receives,
        srq_limit: 0,
        mmap_info: 0,
    };
    write(file, command::MODIFY_SRQ, argument, 0)
}

#[repr(C)]
struct QuerySrq {
    response: u64,
    srq_handle: u32,
    reserved: u32,
}

/// How many receives a shared receive queue has room for.
pub fn room_for_receives(file: BorrowedFd<'_>, queue: u32) -> Answer<u32> {
    let mut response = [0u32; 4];
    let argument = QuerySrq {
        response: (&raw mut response).expose_provenance() as u64,
        srq_handle: queue,
        reserved: 0,
    };
    write(
        file,
        command::QUERY_SRQ,
        argument,
        mem::size_of_val(&response),
    )?;
    Ok(response[0])
}

/// The ioctl: its number, object, methods, and the attributes of each.
mod by_attributes {
    pub const IOCTL: u64 = 0xc018_1b01;
    pub const MANDATORY: u16 = 1;
    pub const OBJECT_MR: u16 = 7;
    pub const ADVISE: u16 = 2;
    pub const ADVISE_DOMAIN: u16 = 0;
    pub const ADVISE_ADVICE: u16 = 1;
    pub const ADVISE_FLAGS: u16 = 2;
    pub const ADVISE_LIST: u16 = 3;
    pub const REGISTER: u16 = 5;
    pub const REGISTER_HANDLE: u16 = 0;
    pub const REGISTER_DOMAIN: u16 = 1;
    pub const REGISTER_IOVA: u16 = 3;
    pub const REGISTER_ADDR: u16 = 4;
    pub const REGISTER_LENGTH: u16 = 5;
    pub const REGISTER_ACCESS: u16 = 6;
    pub const REGISTER_LKEY: u16 = 9;
    pub const REGISTER_RKEY: u16 = 10;
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attribute {
    id: u16,
    len: u16,
    flags: u16,
    reserved: u16,
    data: u64,
}

impl Attribute {
    /// The handle of an object, or room for that of a new one.
    fn handle(id: u16, handle: u32) -> Self {
        Self::inline(id, 0, u64::from(handle))
    }

    /// A number of `len` bytes, at most 8.
    fn inline(id: u16, len: u16, data: u64) -> Self {
        Self {
            id,
            len,
            flags: by_attributes::MANDATORY,
            reserved: 0,
            data,
        }
    }

    /// The number of `T`'s size at `to`, which the kernel writes.
    fn output<T>(id: u16, to: *mut T) -> Self {
        let len = mem::size_of::<T>() as u16;
        Self::inline(id, len, to.expose_provenance() as u64)
    }
}

#[repr(C)]
struct Call<const N: usize> {
    length: u16,
    object: u16,
    method: u16,
    attributes: u16,
    reserved1: u64,
    driver: u32,
    reserved2: u32,
    list: [Attribute; N],
}

fn call<const N: usize>(
    file: BorrowedFd<'_>,
    driver: u32,
    method: u16,
    list: [Attribute; N],
) -> Answer<[Attribute; N]> {
    let mut call = Call {
        length: mem::size_of::<Call<N>>() as u16,
        object: by_attributes::OBJECT_MR,
        method,
        attributes: N as u16,
        reserved1: 0,
        driver,
        reserved2: 0,
        list,
    };
    // SAFETY: the call and what its attributes point to outlive the ioctl.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), by_attributes::IOCTL, &raw mut call) };
    match r {
        0 => Ok(call.list),
        _ => Err(errno()),
    }
}

/// The number of soft-RoCE among the drivers.
pub const DRIVER_RXE: u32 = 14;

/// Registers memory by attributes.
pub fn register_by_attributes(file: BorrowedFd<'_>, wanted: &Registration) -> Answer<Made> {
    use by_attributes as id;
    let (mut lkey, mut rkey) = (0u32, 0u32);
    let list = [
        Attribute::handle(id::REGISTER_HANDLE, 0),
        Attribute::handle(id::REGISTER_DOMAIN, wanted.domain),
        Attribute::inline(id::REGISTER_IOVA, 8, wanted.iova),
        Attribute::inline(id::REGISTER_ADDR, 8, wanted.addr),
        Attribute::inline(id::REGISTER_LENGTH, 8, wanted.len),
        Attribute::inline(id::REGISTER_ACCESS, 4, u64::from(wanted.access)),
        Attribute::output(id::REGISTER_LKEY, &raw mut lkey),
        Attribute::output(id::REGISTER_RKEY, &raw mut rkey),
    ];
    let list = call(file, DRIVER_RXE, id::REGISTER, list)?;
    Ok(Made {
        handle: list[0].data as u32,
        key: lkey,
    })
}

/// A piece of memory that an advice names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its address, as the region counts them.
    pub addr: u64,
    /// Its length.
    pub len: u32,
    /// The key of its region.
    pub key: u32,
}

/// An advice, sensible or not.
#[derive(Clone, Copy, Debug)]
pub struct AdviceRequest<'a> {
    /// The handle of the protection domain.
    pub domain: u32,
    /// The number of the advice.
    pub advice: u64,
    /// Its flags.
    pub flags: u64,
    /// What it is about.
    pub pieces: &'a [Piece],
    /// How many bytes of that the kernel is told about.
    pub bytes: u16,
}

/// Advises the driver.
///
/// # Panics
///
/// If `bytes` is more than there are.
pub fn advise(file: BorrowedFd<'_>, request: &AdviceRequest<'_>) -> Answer<()> {
    use by_attributes as id;
    assert!(usize::from(request.bytes) <= mem::size_of_val(request.pieces));
    let list = request.pieces.as_ptr().expose_provenance() as u64;
    // Up to eight bytes the kernel looks for in the attribute itself.
    let list = if request.bytes > 8 { list } else { 0 };
    let list = [
        Attribute::handle(id::ADVISE_DOMAIN, request.domain),
        Attribute::inline(id::ADVISE_ADVICE, 8, request.advice),
        Attribute::inline(id::ADVISE_FLAGS, 8, request.flags),
        Attribute::inline(id::ADVISE_LIST, request.bytes, list),
    ];
    call(file, DRIVER_RXE, id::ADVISE, list).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_have_the_sizes_that_the_kernel_expects() {
        assert_eq!(mem::size_of::<Written<RegMr>>(), 8 + 40);
        assert_eq!(mem::size_of::<Written<ReregMr>>(), 8 + 48);
        assert_eq!(mem::size_of::<Written<u32>>(), 8 + 4);
        assert_eq!(mem::size_of::<Written<AllocMw>>(), 8 + 16);
        assert_eq!(mem::size_of::<Written<PostSend>>(), 8 + 24);
        assert_eq!(mem::size_of::<Written<ResizeCq>>(), 8 + 16);
        assert_eq!(mem::size_of::<Written<ModifySrq>>(), 8 + 24);
        assert_eq!(mem::size_of::<Written<QuerySrq>>(), 8 + 16);
        assert_eq!(mem::size_of::<Attribute>(), 16);
        assert_eq!(mem::size_of::<Call<3>>(), 24 + 3 * 16);
        assert_eq!(mem::size_of::<Piece>(), 16);
    }
}
