// SPDX-License-Identifier: GPL-2.0
//! Memory that breaks, by `MADV_HWPOISON`: the kernel then signals it to the process that did it.

use std::io;

use crate::arena::Span;
use crate::memory;

/// Breaks the fresh page `at`, so that nobody loses anything.
pub(crate) fn poison(at: Span) -> io::Result<()> {
    memory::map_private(at)?;
    memory::populate(at, true)?;
    let usual = catch(on_bus_error as *const () as libc::sighandler_t)?;
    let result = memory::advise(at, libc::MADV_HWPOISON);
    catch(usual)?;
    result
}

/// Sets what is done on SIGBUS; gives what was done before.
fn catch(handler: libc::sighandler_t) -> io::Result<libc::sighandler_t> {
    // SAFETY: Zero is a valid value of each field.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: As above.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    if handler != libc::SIG_DFL {
        new.sa_flags = libc::SA_SIGINFO;
    }
    // SAFETY: `handler` is the default or a function that is made for it.
    match unsafe { libc::sigaction(libc::SIGBUS, &new, &mut old) } {
        0 => Ok(old.sa_sigaction),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The announcement of a broken page is no accident here; everything else on SIGBUS is.
extern "C" fn on_bus_error(_: libc::c_int, about: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel passes a valid pointer, as the handler was set with SA_SIGINFO.
    let code = unsafe { (*about).si_code };
    if code != libc::BUS_MCEERR_AR && code != libc::BUS_MCEERR_AO {
        // SAFETY: May be called by a signal handler.
        unsafe { libc::abort() }
    }
}
