// SPDX-License-Identifier: GPL-2.0
//! Who waits for a page that does not come, and what is taken down meanwhile.

mod ending;
mod kind;
mod scene;

pub use ending::Ending;
pub use kind::Kind;
pub use scene::{page, Extent, Scene, FILE};
