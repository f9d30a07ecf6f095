// SPDX-License-Identifier: GPL-2.0
//! Work requests: what is asked of a queue pair, and how that is written down for the library.

use std::ptr;

use rdma_mummy_sys as sys;
use serde::{Deserialize, Serialize};
use sys::ibv_wr_opcode as opcode;

/// A piece of local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sge {
    /// Its address, as the region counts them.
    pub addr: u64,
    /// Its length.
    pub len: u32,
    /// The key of its region.
    pub lkey: u32,
}

impl Sge {
    pub(super) fn raw(&self) -> sys::ibv_sge {
        sys::ibv_sge {
            addr: self.addr,
            length: self.len,
            lkey: self.lkey,
        }
    }
}

/// Writes a receive into `sges` down and hands it to `post`, with room for the request that was refused.
pub(super) fn post_receive(
    id: u64,
    sges: &[Sge],
    post: impl FnOnce(*mut sys::ibv_recv_wr, *mut *mut sys::ibv_recv_wr) -> i32,
) -> i32 {
    let mut list: Vec<_> = sges.iter().map(Sge::raw).collect();
    let mut wr = sys::ibv_recv_wr {
        wr_id: id,
        next: ptr::null_mut(),
        sg_list: list.as_mut_ptr(),
        num_sge: list.len() as i32,
    };
    post(&mut wr, &mut ptr::null_mut())
}

/// A place in a peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Its address, as the region counts them.
    pub addr: u64,
    /// The key of its region.
    pub rkey: u32,
}

impl Remote {
    /// The place `offset` bytes further on.
    pub fn plus(self, offset: usize) -> Self {
        Self {
            addr: self.addr.wrapping_add(offset as u64),
            ..self
        }
    }
}

/// What a queue pair is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum Op {
    Send,
    SendImm(u32),
    /// With the key of the peer's window that it is to invalidate.
    SendInv(u32),
    /// Invalidates a window of one's own.
    LocalInv(u32),
    Write(Remote),
    WriteImm(Remote, u32),
    Read(Remote),
    CompareSwap {
        at: Remote,
        compare: u64,
        swap: u64,
    },
    FetchAdd {
        at: Remote,
        add: u64,
    },
    /// Eight bytes, written at once. Only on an extended queue pair.
    AtomicWrite {
        at: Remote,
        value: [u8; 8],
    },
    /// What was written to the range is visible to all. Only on an extended queue pair.
    Flush {
        at: Remote,
        len: usize,
    },
    /// What was written is where `place` says; `None` is the whole region. Only on an extended queue pair.
    FlushTo {
        place: Place,
        at: Remote,
        len: Option<usize>,
    },
}

/// How far a flush brings what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where everybody sees it.
    Visible,
    /// To memory that outlives a loss of power.
    Persistent,
    /// Both.
    Both,
}

impl Place {
    /// As the specification counts them.
    pub(super) fn bits(self) -> u8 {
        let (visible, persistent) = (sys::IBV_FLUSH_GLOBAL as u8, sys::IBV_FLUSH_PERSISTENT as u8);
        match self {
            Self::Visible => visible,
            Self::Persistent => persistent,
            Self::Both => visible | persistent,
        }
    }
}

impl Op {
    fn opcode(&self) -> opcode::Type {
        match self {
            Self::Send => opcode::IBV_WR_SEND,
            Self::SendImm(_) => opcode::IBV_WR_SEND_WITH_IMM,
            Self::SendInv(_) => opcode::IBV_WR_SEND_WITH_INV,
            Self::LocalInv(_) => opcode::IBV_WR_LOCAL_INV,
            Self::Write(_) => opcode::IBV_WR_RDMA_WRITE,
            Self::WriteImm(..) => opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
            Self::Read(_) => opcode::IBV_WR_RDMA_READ,
            Self::CompareSwap { .. } => opcode::IBV_WR_ATOMIC_CMP_AND_SWP,
            Self::FetchAdd { .. } => opcode::IBV_WR_ATOMIC_FETCH_AND_ADD,
            Self::AtomicWrite { .. } => opcode::IBV_WR_ATOMIC_WRITE,
            Self::Flush { .. } | Self::FlushTo { .. } => opcode::IBV_WR_FLUSH,
        }
    }

    /// Whether only the extended interface can post it.
    pub(super) fn is_extended(&self) -> bool {
        matches!(
            self,
            Self::AtomicWrite { .. } | Self::Flush { .. } | Self::FlushTo { .. }
        )
    }

    /// The work request, without its list of local memory. Not for the extended ones.
    pub(super) fn raw(&self, id: u64) -> sys::ibv_send_wr {
        // SAFETY: zeroes are valid for integers, null pointers and unions of them.
        let mut wr: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
        wr.wr_id = id;
        wr.opcode = self.opcode();
        wr.send_flags = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
        match *self {
            Self::SendImm(imm) | Self::WriteImm(_, imm) => {
                wr.imm_data_invalidated_rkey_union.imm_data = imm.to_be();
            }
            Self::SendInv(rkey) | Self::LocalInv(rkey) => {
                wr.imm_data_invalidated_rkey_union.invalidated_rkey = rkey;
            }
            _ => {}
        }
        match *self {
            Self::Write(at) | Self::WriteImm(at, _) | Self::Read(at) => {
                wr.wr.rdma = sys::rdma_t {
                    remote_addr: at.addr,
                    rkey: at.rkey,
                };
            }
            Self::CompareSwap { at, compare, swap } => wr.wr.atomic = atomic(at, compare, swap),
            Self::FetchAdd { at, add } => wr.wr.atomic = atomic(at, add, 0),
            _ => {}
        }
        wr
    }
}

fn atomic(at: Remote, compare_add: u64, swap: u64) -> sys::atomic_t {
    sys::atomic_t {
        remote_addr: at.addr,
        compare_add,
        swap,
        rkey: at.rkey,
    }
}

/// The work request that binds a window of type 2.
pub(super) fn bind(id: u64, bind: sys::bind_mw_t) -> sys::ibv_send_wr {
    // SAFETY: zeroes are valid for integers, null pointers and unions of them.
    let mut wr: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
    wr.wr_id = id;
    wr.opcode = opcode::IBV_WR_BIND_MW;
    wr.send_flags = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
    wr.bind_mw_tso_union.bind_mw = bind;
    wr
}
