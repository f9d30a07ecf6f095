// SPDX-License-Identifier: GPL-2.0
//! Dynamically connected transport, which only mlx5 devices have, through their own library: it is loaded if it is
//! there. One end (DCI) names the other (DCT) in each request.

use std::mem;

use rdma_mummy_sys as sys;

use super::{
    error::{check, object},
    Context, Error, Op, Result,
};

/// The key by which requests may come to a target.
const KEY: u64 = 0x6f64_702d_6265_6e63;

/// Makes a queue pair: one that asks, or one that is asked, which has a shared receive queue.
///
/// # Safety
///
/// The attributes name live objects.
pub(super) unsafe fn make(
    context: &Context,
    mut attr: sys::ibv_qp_init_attr_ex,
    asks: bool,
) -> Result<std::ptr::NonNull<sys::ibv_qp>> {
    use sys::{ibv_qp_create_send_ops_flags as ops, ibv_qp_init_attr_mask as init};

    attr.qp_type = sys::ibv_qp_type::IBV_QPT_DRIVER;
    attr.comp_mask = init::IBV_QP_INIT_ATTR_PD.0;
    attr.cap.max_recv_wr = 0;
    attr.cap.max_recv_sge = 0;
    // SAFETY: zeroes are valid for integers and unions of them.
    let mut more: sys::mlx5dv_qp_init_attr = unsafe { mem::zeroed() };
    more.comp_mask = u64::from(sys::mlx5dv_qp_init_attr_mask::MLX5DV_QP_INIT_ATTR_MASK_DC.0);
    if asks {
        attr.comp_mask |= init::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.0;
        let wanted = ops::IBV_QP_EX_WITH_RDMA_WRITE
            | ops::IBV_QP_EX_WITH_RDMA_READ
            | ops::IBV_QP_EX_WITH_SEND
            | ops::IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP;
        attr.send_ops_flags = u64::from(wanted.0);
        more.dc_init_attr.dc_type = sys::MLX5DV_DCTYPE_DCI;
    } else {
        more.dc_init_attr.dc_type = sys::MLX5DV_DCTYPE_DCT;
        more.dc_init_attr.__bindgen_anon_1.bindgen_union_field = KEY;
    }
    // SAFETY: both outlive the call, and the caller answers for the objects.
    let raw = unsafe { sys::mlx5dv_create_qp(context.raw(), &mut attr, &mut more) };
    object("mlx5dv_create_qp", raw)
}

/// Where the data of a request are.
pub(super) enum Data<'a> {
    Memory(&'a [sys::ibv_sge]),
    Inline(&'a [u8]),
}

/// Asks for `op` at the target called `number`, behind `handle`.
///
/// # Errors
///
/// `EOPNOTSUPP` of what such queue pairs are not used for here.
///
/// # Safety
///
/// `qp` is a live queue pair that asks, the handle is alive, and the keys of the data cover its memory.
pub(super) unsafe fn post(
    qp: *mut sys::ibv_qp,
    (handle, number): (*mut sys::ibv_ah, u32),
    id: u64,
    op: Op,
    data: Data<'_>,
) -> Result<()> {
    let known = matches!(
        op,
        Op::Send | Op::Write(_) | Op::Read(_) | Op::CompareSwap { .. }
    );
    // SAFETY: the queue pair is alive. It was made with send operations, so it has both interfaces.
    let (qp, dynamic) = unsafe {
        let qp = sys::ibv_qp_to_qp_ex(qp);
        (qp, sys::mlx5dv_qp_ex_from_ibv_qp_ex(qp))
    };
    if !known || qp.is_null() || dynamic.is_null() {
        return Err(Error::Call {
            call: "mlx5dv_qp_ex_from_ibv_qp_ex",
            errno: libc::EOPNOTSUPP,
        });
    }
    // SAFETY: the queue pair was made with these operations, so their functions are there; start and complete enclose
    // one request, what is inline is copied before the call returns, and the caller answers for the rest.
    let r = unsafe {
        sys::ibv_wr_start(qp);
        (*qp).wr_id = id;
        (*qp).wr_flags = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
        match op {
            Op::Write(at) => sys::ibv_wr_rdma_write(qp, at.rkey, at.addr),
            Op::Read(at) => sys::ibv_wr_rdma_read(qp, at.rkey, at.addr),
            Op::CompareSwap { at, compare, swap } => {
                sys::ibv_wr_atomic_cmp_swp(qp, at.rkey, at.addr, compare, swap);
            }
            _ => sys::ibv_wr_send(qp),
        }
        sys::mlx5dv_wr_set_dc_addr(dynamic, handle, number, KEY);
        match data {
            Data::Memory(list) => sys::ibv_wr_set_sge_list(qp, list.len(), list.as_ptr()),
            Data::Inline(bytes) => {
                sys::ibv_wr_set_inline_data(qp, bytes.as_ptr().cast_mut().cast(), bytes.len());
            }
        }
        sys::ibv_wr_complete(qp)
    };
    check("ibv_wr_complete", r)
}
