// SPDX-License-Identifier: GPL-2.0

//! An access has to wait for its page: parks its request, and makes rxe leave it ([`parked`]).

use mlx_odp::{AccessError, Region};

use crate::device::parked_of;
use crate::queue_pair::Engine;
use crate::{parked, responder_wait};

/// Parks the request of an access to `region` that ended with [`AccessError::MustWait`]. Called by rxe's tasks, inside
/// the access, which then fails. May allocate, but does not sleep for the page.
pub(crate) fn stop(region: &Region, error: AccessError, writes: bool) {
    let Some((qp, engine)) = parked::wait_for(region, error, writes) else {
        return;
    };
    // SAFETY: This is the task of `qp`.
    unsafe { parked::set_stopping(qp, engine) };
    if engine == Engine::Responder {
        // SAFETY: As above, and it is the responder that runs.
        unsafe { responder_wait::stop(qp) };
    }
}

/// As [`stop`], for an atomic operation: the responder itself can be told to send an RNR NAK. Returns whether it has
/// to.
pub(crate) fn stop_atomic(region: &Region, error: AccessError) -> bool {
    match parked::wait_for(region, error, true) {
        Some((qp, _)) => {
            // SAFETY: The responder of `qp` runs here.
            unsafe {
                responder_wait::give_back_resource(qp);
                responder_wait::expect_again(qp);
                let parked = parked_of((*qp).ibqp.device);
                parked.with(qp, |queue_pair| queue_pair.tell_not_ready(None));
            }
            true
        }
        None => false,
    }
}
