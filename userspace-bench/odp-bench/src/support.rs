// SPDX-License-Identifier: GPL-2.0
//! Whether the device, and the peer's, support the messages that the options describe ([`Shape`](crate::shape::Shape)):
//! what is not possible is said before anything runs.

use anyhow::{ensure, Context as _, Result};

use super::{pages::available, setting::Bench, shape::transport_name};
use odp_results::run::Unit;
use odp_verbs::{Limits, OdpCaps, OdpTransport, Transport};

/// Fails if `bench` cannot have the messages that its options describe, and says why.
pub fn check(bench: &Bench) -> Result<()> {
    let shape = &bench.options.shape;
    shape.makes_sense(bench.mtu.bytes())?;
    let (operation, transport) = (shape.operation, transport_name(shape.transport));
    let device = bench.context.name();
    let limits = bench.context.limits()?;
    has(device, &limits, &bench.caps, shape.transport)?;
    let whose = match bench.is_pair() {
        true => format!("{device} or the peer's device"),
        false => device.to_owned(),
    };
    ensure!(
        operation.is_in(bench.caps.of(shape.transport)),
        "{whose} has no {operation} over {transport} for on-demand memory: choose another --op or --connection"
    );
    ensure!(
        2 * shape.qps <= limits.queue_pairs as usize,
        "--qp {}: {device} has {} queue pairs, and each needs one to talk to",
        shape.qps,
        limits.queue_pairs
    );
    ensure!(
        2 * shape.depth <= limits.depth as usize,
        "--tx-depth {}: a queue of {device} holds {} work requests, of which half is used",
        shape.depth,
        limits.depth
    );
    for &size in &shape.sizes {
        bench.allows_message(size)?;
        // A source and a target for each way of registering.
        let needed = shape.stride(size).saturating_mul(4 * shape.at_once());
        let free = available()?;
        ensure!(
            (needed as u64) < free,
            "{} messages of {size} bytes at once: {} of memory are needed, {} are free",
            shape.at_once(),
            Unit::Bytes.show(needed as f64),
            Unit::Bytes.show(free as f64)
        );
    }
    // What the device says of inline data is for the smallest work requests: to try tells more.
    bench.probe(shape.config()).with_context(|| {
        format!(
            "{device} makes no queue pair as it is asked for: {transport}, {} work requests, {} bytes inline",
            2 * shape.depth, shape.inline
        )
    })
}

/// Fails if a device with `limits` has no queue pairs of `transport`.
fn has(device: &str, limits: &Limits, caps: &OdpCaps, transport: Transport) -> Result<()> {
    ensure!(
        transport != Transport::Dc || caps.dc != OdpTransport::default(),
        "--connection dc: {device} has no dynamic connections for on-demand memory, or its library (libmlx5) does not \
         say so; choose rc"
    );
    ensure!(
        transport != Transport::Xrc || limits.extended,
        "--connection xrc: {device} has no extended reliable connections (`ibv_devinfo -v` shows XRC where there are \
         some); choose rc"
    );
    Ok(())
}
