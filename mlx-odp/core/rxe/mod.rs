// SPDX-License-Identifier: GPL-2.0

//! What is soft-RoCE's alone: the requests of applications, and the messages of peers, which a NIC in hardware looks at
//! itself.
//!
//! * [`request`]: checks the lengths in a work request;
//! * [`sge`]: the place of a copy in a scatter-gather list;
//! * [`announced`]: the message that is being received, so that one fault asks for more of it;
//! * [`rnr`]: the timer of an RNR NAK.

pub mod announced;
pub mod request;
pub mod rnr;
pub mod sge;
