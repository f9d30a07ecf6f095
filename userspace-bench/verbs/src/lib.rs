// SPDX-License-Identifier: GPL-2.0
//! A thin safe layer over libibverbs.
//!
//! One type for each verbs object; each keeps alive what it was made from. Names are those of
//! the InfiniBand specification where it has one. [`uverbs`] and [`ring`] are the kernel's own
//! interface, for what libibverbs would not let through.
//!
//! # Why posting work is safe
//!
//! A NIC writes to memory behind the compiler's back, so the layer has to say why that is sound:
//!
//! - A NIC reaches memory only through a key. A key for a range comes from a
//!   [`Mapping`](testkit::memory::Mapping), whose memory is never borrowed as a Rust reference, only
//!   copied in and out with volatile accesses. What a NIC does there is no different from what a
//!   device does to its registers.
//! - A key for the whole address space comes from an `unsafe` function, whose caller promises to
//!   use it on such memory only.
//! - Mappings lie in a part of the address space where neither the kernel nor the allocator puts
//!   anything of its own. A hole in a mapping stays a hole.

mod completion;
mod device;
mod dynamic;
mod error;
mod queue_pair;
mod region;
mod rereg;
pub mod ring;
mod shared_receive;
mod status;
mod transport;
pub mod uverbs;
mod window;
mod work;

pub use completion::{Completion, CompletionQueue};
pub use device::{Context, Gid, Limits, LinkLayer, Mtu, OdpCaps, OdpTransport};
pub use error::{Error, Result};
pub use queue_pair::{Endpoint, QpConfig, QueuePair};
pub use region::{Access, Advise, ProtectionDomain, Region, Span, PREFETCH_FLUSH};
pub use rereg::Change;
pub use shared_receive::SharedReceiveQueue;
pub use status::Status;
pub use transport::Transport;
pub use window::{Binding, Window, WindowType};
pub use work::{Op, Place, Remote, Sge};
