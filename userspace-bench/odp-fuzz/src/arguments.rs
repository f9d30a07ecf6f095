// SPDX-License-Identifier: GPL-2.0
//! What the program is asked for.

use clap::Parser;

/// Asks an RDMA device for what it should not grant, and checks each answer.
///
/// The requests are registrations, changes of registrations, prefetches, memory windows and work
/// requests, about half of them wrong in one way or several. Most go to the kernel directly, as
/// libibverbs would not let all of them through. Every answer, every completion status and every byte
/// of the memory is compared with what it has to be. Meanwhile another process has traffic of its own,
/// which must not be disturbed; afterwards nothing may be left behind: no region, no descriptor, no
/// kernel memory, no use of the driver's modules.
///
/// With --waiting, it does something else: queue pairs, prefetches and windows wait for pages of a file
/// whose server withholds them, and meanwhile what waits is destroyed, reset, deregistered, killed, or the
/// page comes after all. Each has to be gone at once, and nothing may have happened that may not.
///
/// Exit status 0 if all that held. Otherwise the last line on standard error says what did not, and
/// with which request.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// How many requests to make.
    #[arg(long, default_value_t = 20_000)]
    pub requests: u64,
    /// Instead, how often to take something down that waits for a page that never comes, at least.
    #[arg(long, conflicts_with = "requests")]
    pub waiting: Option<u64>,
    /// Where the random choices begin; a random seed if not given. It is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The RDMA device; the first there is if not given.
    #[arg(long)]
    pub device: Option<String>,
    /// The index of the address to speak from; the first that suits if not given.
    #[arg(long)]
    pub gid: Option<u8>,
    /// How long one request, or what has to come of an end, may take, in seconds, before it counts as hung.
    #[arg(long, default_value_t = 60)]
    pub patience: u64,
    /// Print every request, or all who wait, before it is made, to find the one that the kernel does not survive.
    #[arg(long)]
    pub verbose: bool,
    /// Play a part for another process.
    #[arg(long, hide = true)]
    pub role: Option<String>,
}
