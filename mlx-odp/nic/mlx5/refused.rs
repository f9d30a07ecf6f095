// SPDX-License-Identifier: GPL-2.0

//! What this driver does not have yet: regions of dma-bufs that are not pinned. They are refused.

use kernel::ffi::c_int;

use mlx_odp::not_supported;

use crate::mlx5;

/// A registration of a dma-buf.
#[no_mangle]
extern "C" fn mlx5_ib_init_dmabuf_mr(_mr: *mut mlx5::mlx5_ib_mr, _pd: *mut mlx5::ib_pd) -> c_int {
    not_supported().to_errno()
}
