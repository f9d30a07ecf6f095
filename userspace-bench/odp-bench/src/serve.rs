// SPDX-License-Identifier: GPL-2.0
//! The machine that does not measure: it serves the one that does with memory and with what its owner has to do with
//! it. Its other end is [`Far`](super::far::Far).

use std::{rc::Rc, time::Instant};

use anyhow::{bail, ensure, Context, Result};

use super::{
    meters::meters,
    pages::Kind,
    problem::{lacking, Problem},
    protocol::{greet, Reply, Request},
    setting::Bench,
};
use odp_fixture::{
    env::{Buffer, Mode},
    peer::{Link, Peer},
};
use odp_verbs::{Op, Status};
use testkit::patience::scaled;

/// Serves one machine that measures, until it says goodbye.
///
/// # Errors
///
/// If it ends without a goodbye, or says what is not understood.
pub fn serve(bench: &Bench, mut peer: Peer) -> Result<()> {
    let own = bench.own_environment();
    greet(&mut peer, bench, own, &mut bench.caps.clone())?;
    let mut links: Vec<Link> = Vec::new();
    let mut buffers: Vec<Rc<Buffer>> = Vec::new();
    loop {
        let request: Request = peer.hear().map_err(Problem::PeerGone)?;
        let reply = match request {
            Request::Bye => return Ok(()),
            Request::Connect(wanted) => {
                // Whoever asks for what there is not is told so, and goes on.
                if let Err(error) = bench.probe(wanted.config()) {
                    let why = Reply::of_error(&lacking(format!("no such queue pair: {error}")));
                    peer.tell(&why).map_err(Problem::PeerGone)?;
                    continue;
                }
                peer.tell(&Reply::Done).map_err(Problem::PeerGone)?;
                let link = peer.link_target(bench, wanted.config());
                links.push(link.context("connecting a queue pair to the peer's")?);
                continue;
            }
            Request::Release => {
                links.clear();
                buffers.clear();
                bench.finish().2?;
                Ok(Reply::Done)
            }
            Request::Map(how, kind, len) => map(bench, how.into(), kind, len).map(|buffer| {
                let first = buffer.remote(0);
                buffers.push(buffer);
                Reply::Mapped(buffers.len() - 1, first)
            }),
            Request::Meters => Ok(Reply::Counted(meters(&bench.context))),
            Request::Receive(link, id, at, len) => match (links.get(link), buffers.get(id)) {
                (Some(link), Some(buffer)) => {
                    let posted = link.qp.post_recv(2, &[buffer.sge(at, len)]);
                    posted.map(|()| Reply::Done).map_err(Into::into)
                }
                _ => bail!("the peer speaks of what it was not given"),
            },
            Request::ReceiveNothing(link) => match links.get(link) {
                Some(link) => {
                    let posted = link.qp.post_recv(2, &[]);
                    posted.map(|()| Reply::Done).map_err(Into::into)
                }
                None => bail!("the peer speaks of a connection that there is not"),
            },
            Request::Answer(counts) => {
                let of = |(link, count)| links.get(link).map(|link: &Link| (link, count));
                let Some(wanted) = counts.into_iter().map(of).collect::<Option<Vec<_>>>() else {
                    bail!("the peer speaks of a connection that there is not");
                };
                peer.tell(&Reply::Done).map_err(Problem::PeerGone)?;
                answer(wanted).map(|()| Reply::Done)
            }
            Request::Received(link) => match links.get(link) {
                Some(link) => link.wait().map(|_| Reply::Done).map_err(Into::into),
                None => bail!("the peer speaks of a connection that there is not"),
            },
            Request::Do(id, act) => match buffers.get(id) {
                Some(buffer) => {
                    let took = act.timed(bench, buffer);
                    took.map(|time| Reply::Took(time.as_nanos() as u64))
                }
                None => bail!("the peer speaks of memory that it was not given"),
            },
        };
        let reply = reply.unwrap_or_else(|error| Reply::of_error(&error));
        peer.tell(&reply).map_err(Problem::PeerGone)?;
    }
}

/// Waits for so many messages on each of some connections, and answers on each as soon as they are there.
///
/// # Errors
///
/// If one has not arrived in time.
fn answer(mut wanted: Vec<(&Link, usize)>) -> Result<()> {
    let all: Vec<&Link> = wanted.iter().map(|(link, _)| *link).collect();
    let begun = Instant::now();
    while let Some((first, _)) = wanted.first() {
        ensure!(
            begun.elapsed() < scaled(first.patience),
            "a message did not arrive, and nobody sends it again: the network or the receiver lost it"
        );
        for (link, left) in &mut wanted {
            if let Some(completion) = link.qp.completions().poll()? {
                completion.expect(&[Status::SUCCESS])?;
                *left -= 1;
            }
            if *left == 0 {
                link.qp.post_send(3, Op::Send, &[])?;
            }
        }
        wanted.retain(|(_, left)| *left > 0);
    }
    // The answers have left.
    all.into_iter().try_for_each(|link| link.wait().map(drop))?;
    Ok(())
}

fn map(bench: &Bench, mode: Mode, kind: Kind, len: usize) -> Result<Rc<Buffer>> {
    bench.cover(mode, kind.map(len)?)
}
