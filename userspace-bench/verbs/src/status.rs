// SPDX-License-Identifier: GPL-2.0
//! How a work request ended.

use std::fmt;

use rdma_mummy_sys as sys;
use sys::ibv_wc_status as wc;

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u32);

#[expect(missing_docs, reason = "the names are those of the specification")]
impl Status {
    pub const SUCCESS: Self = Self(wc::IBV_WC_SUCCESS);
    pub const LOC_LEN_ERR: Self = Self(wc::IBV_WC_LOC_LEN_ERR);
    pub const LOC_QP_OP_ERR: Self = Self(wc::IBV_WC_LOC_QP_OP_ERR);
    pub const LOC_PROT_ERR: Self = Self(wc::IBV_WC_LOC_PROT_ERR);
    pub const MW_BIND_ERR: Self = Self(wc::IBV_WC_MW_BIND_ERR);
    pub const WR_FLUSH_ERR: Self = Self(wc::IBV_WC_WR_FLUSH_ERR);
    pub const LOC_ACCESS_ERR: Self = Self(wc::IBV_WC_LOC_ACCESS_ERR);
    pub const REM_INV_REQ_ERR: Self = Self(wc::IBV_WC_REM_INV_REQ_ERR);
    pub const REM_ACCESS_ERR: Self = Self(wc::IBV_WC_REM_ACCESS_ERR);
    pub const REM_OP_ERR: Self = Self(wc::IBV_WC_REM_OP_ERR);
    pub const RETRY_EXC_ERR: Self = Self(wc::IBV_WC_RETRY_EXC_ERR);
    pub const RNR_RETRY_EXC_ERR: Self = Self(wc::IBV_WC_RNR_RETRY_EXC_ERR);

    pub(super) fn from_raw(status: wc::Type) -> Self {
        Self(status)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            wc::IBV_WC_SUCCESS => "SUCCESS",
            wc::IBV_WC_LOC_LEN_ERR => "LOC_LEN_ERR",
            wc::IBV_WC_LOC_QP_OP_ERR => "LOC_QP_OP_ERR",
            wc::IBV_WC_LOC_PROT_ERR => "LOC_PROT_ERR",
            wc::IBV_WC_WR_FLUSH_ERR => "WR_FLUSH_ERR",
            wc::IBV_WC_MW_BIND_ERR => "MW_BIND_ERR",
            wc::IBV_WC_BAD_RESP_ERR => "BAD_RESP_ERR",
            wc::IBV_WC_LOC_ACCESS_ERR => "LOC_ACCESS_ERR",
            wc::IBV_WC_REM_INV_REQ_ERR => "REM_INV_REQ_ERR",
            wc::IBV_WC_REM_ACCESS_ERR => "REM_ACCESS_ERR",
            wc::IBV_WC_REM_OP_ERR => "REM_OP_ERR",
            wc::IBV_WC_RETRY_EXC_ERR => "RETRY_EXC_ERR",
            wc::IBV_WC_RNR_RETRY_EXC_ERR => "RNR_RETRY_EXC_ERR",
            wc::IBV_WC_FATAL_ERR => "FATAL_ERR",
            wc::IBV_WC_RESP_TIMEOUT_ERR => "RESP_TIMEOUT_ERR",
            wc::IBV_WC_GENERAL_ERR => "GENERAL_ERR",
            other => return write!(f, "status {other}"),
        })
    }
}
