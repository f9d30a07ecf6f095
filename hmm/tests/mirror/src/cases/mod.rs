// SPDX-License-Identifier: GPL-2.0
//! The cases. Each makes its own memory and mirror, and names what must hold.

mod events;
mod exact;
mod files;
mod huge;
mod inject;
pub(crate) mod life;
mod protect;
mod reclaim;
mod refusals;
mod scene;
mod storm;
mod threads;
mod uffd;

use crate::Case;

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        refusals::CASES,
        events::CASES,
        protect::CASES,
        huge::CASES,
        files::CASES,
        reclaim::CASES,
        exact::CASES,
        uffd::CASES,
        storm::CASES,
        life::CASES,
        threads::CASES,
        inject::CASES,
    ]
    .into_iter()
    .flatten()
}
