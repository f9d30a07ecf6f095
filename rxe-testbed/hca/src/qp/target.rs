// SPDX-License-Identifier: GPL-2.0
//! A target of dynamic connections (DCT), which is a queue pair that never sends, and this.

use crate::layout::dctc;

/// States of a target, as a query shows them.
const ACTIVE: u32 = 0;
const DRAINED: u32 = 2;

/// What a target is besides a queue pair.
pub(crate) struct Target {
    context: Vec<u8>,
    state: u32,
    /// How often somebody had another key, and whether the driver is to be told of the next one.
    violations: u32,
    armed: bool,
}

impl Target {
    /// One with that context, to which initiators may connect.
    pub(crate) fn new(context: Vec<u8>) -> Self {
        Self {
            context,
            state: ACTIVE,
            violations: 0,
            armed: false,
        }
    }

    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }

    /// Fills its context for a query.
    pub(crate) fn query(&self, context: &mut [u8]) {
        context.copy_from_slice(&self.context);
        dctc::STATE.set(context, self.state);
        dctc::DC_ACCESS_KEY_VIOLATION_COUNT.set(context, self.violations);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state == ACTIVE
    }

    /// From now on nobody connects to it.
    pub(crate) fn drain(&mut self) {
        self.state = DRAINED;
    }

    /// The driver is to be told of the next one who has another key.
    pub(crate) fn arm(&mut self) {
        self.armed = true;
    }

    /// The key that initiators have to have.
    pub(crate) fn access_key(&self) -> u64 {
        dctc::DC_ACCESS_KEY.get(&self.context)
    }

    /// Somebody had another key. Gives whether the driver is to be told.
    pub(crate) fn violated(&mut self) -> bool {
        self.violations = self.violations.saturating_add(1);
        std::mem::take(&mut self.armed)
    }
}
