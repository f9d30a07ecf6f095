// SPDX-License-Identifier: GPL-2.0
//! A thin safe layer over libibverbs.
//!
//! One type for each verbs object; each keeps alive what it was made from. Names are those of
//! the InfiniBand specification where it has one.

mod completion;
mod device;
mod error;
mod queue_pair;
mod region;
mod rereg;
mod shared_receive;
mod window;
mod work;

pub use completion::{Completion, CompletionQueue, Status};
pub use device::{Context, Gid, Mtu, OdpCaps, OdpTransport};
pub use error::{Error, Result};
pub use queue_pair::{Endpoint, QpConfig, QueuePair, Transport};
pub use region::{Access, Advise, ProtectionDomain, Region, Span, PREFETCH_FLUSH};
pub use rereg::Change;
pub use shared_receive::SharedReceiveQueue;
pub use window::{Binding, Window, WindowType};
pub use work::{Op, Remote, Sge};
