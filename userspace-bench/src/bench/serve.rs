// SPDX-License-Identifier: GPL-2.0
//! Two machines: one measures, the other serves it with memory and with what its owner has to do with it.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    environment::environment,
    meters::meters,
    pages::Kind,
    setting::{Bench, Problem},
    target::{Act, Connection, Target},
};
use crate::{
    env::{Buffer, Env, Mode},
    peer::{Link, Peer},
    verbs::{OdpCaps, QpConfig, Remote, Transport},
};

/// What one says first: only the same version understands the other.
const GREETING: &str = concat!("odp-bench ", env!("CARGO_PKG_VERSION"));

/// How memory is registered, for the wire.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum How {
    Pinned,
    Explicit,
    Implicit,
}

impl From<Mode> for How {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Pinned => Self::Pinned,
            Mode::Explicit => Self::Explicit,
            Mode::Implicit => Self::Implicit,
        }
    }
}

impl From<How> for Mode {
    fn from(how: How) -> Self {
        match how {
            How::Pinned => Self::Pinned,
            How::Explicit => Self::Explicit,
            How::Implicit => Self::Implicit,
        }
    }
}

/// What the one that measures asks for.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A queue pair of this depth; connecting them follows.
    Connect(u32),
    /// Registered memory.
    Map(How, Kind, usize),
    /// Something done with memory.
    Do(usize, Act),
    /// What its driver has counted.
    Meters,
    /// All memory and all queue pairs given back.
    Release,
    /// The end.
    Bye,
}

/// What the one that serves answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Reply {
    Done,
    Mapped(usize, Remote),
    Counted(BTreeMap<String, u64>),
    /// It takes something that is not there.
    Lacking(String),
    /// A wrong byte, at this offset.
    Wrong(usize, String),
    Failed(String),
}

impl Reply {
    fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(Problem::Lacking(why)) => Self::Lacking(why.clone()),
            Some(Problem::WrongData { offset, what }) => Self::Wrong(*offset, what.clone()),
            _ => Self::Failed(format!("{error:#}")),
        }
    }

    /// An answer of the kinds that are no error.
    fn into_result(self) -> Result<Self> {
        match self {
            Self::Done | Self::Mapped(..) | Self::Counted(_) => Ok(self),
            Self::Lacking(why) => Err(Problem::Lacking(format!("on the peer: {why}")).into()),
            Self::Wrong(offset, what) => Err(Problem::WrongData { offset, what }.into()),
            Self::Failed(why) => bail!("on the peer: {why}"),
        }
    }
}

/// The machine at the other end, for the one that measures.
pub(super) struct Far {
    peer: RefCell<Peer>,
    /// Why it is not asked any more: what it may still answer would be taken for the answer to something else.
    gone: RefCell<Option<(io::ErrorKind, String)>>,
    /// What it says of itself.
    pub(super) environment: BTreeMap<String, String>,
}

/// What two machines tell each other first.
#[derive(Serialize, Deserialize)]
struct Hello {
    greeting: String,
    supported: bool,
    implicit: bool,
    environment: BTreeMap<String, String>,
}

impl Hello {
    fn of(env: &Env, caps: OdpCaps) -> Self {
        Self {
            greeting: GREETING.into(),
            supported: caps.supported,
            implicit: caps.implicit,
            environment: environment(env),
        }
    }
}

/// Greets the other machine, and gives its environment; what both can do is left of `caps`.
fn greet(peer: &mut Peer, env: &Env, caps: &mut OdpCaps) -> Result<BTreeMap<String, String>> {
    let hello = Hello::of(env, *caps);
    peer.tell(&hello).map_err(Problem::PeerGone)?;
    let other: Hello = peer.hear().context("the peer is no odp-bench")?;
    if other.greeting != GREETING {
        bail!("the peer is {}, this is {GREETING}", other.greeting);
    }
    caps.supported &= other.supported;
    caps.implicit &= other.implicit;
    Ok(other.environment)
}

fn config(depth: u32) -> QpConfig {
    QpConfig {
        depth,
        ..QpConfig::new(Transport::Rc)
    }
}

impl Far {
    /// Begins to talk; what both machines can do is left of `caps`.
    pub(super) fn new(mut peer: Peer, env: &Env, caps: &mut OdpCaps) -> Result<Self> {
        let environment = greet(&mut peer, env, caps)?;
        Ok(Self {
            peer: RefCell::new(peer),
            gone: RefCell::default(),
            environment,
        })
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        if let Some((kind, why)) = &*self.gone.borrow() {
            let why = io::Error::new(*kind, why.clone());
            return Err(Problem::PeerGone(why).into());
        }
        let mut peer = self.peer.borrow_mut();
        let heard = peer.tell(request).and_then(|()| peer.hear::<Reply>());
        if let Err(error) = &heard {
            *self.gone.borrow_mut() = Some((error.kind(), error.to_string()));
        }
        heard.map_err(Problem::PeerGone)?.into_result()
    }

    /// What its driver has counted; nothing if it is gone.
    pub(super) fn meters(&self) -> BTreeMap<String, u64> {
        match self.ask(&Request::Meters) {
            Ok(Reply::Counted(all)) => all,
            _ => BTreeMap::new(),
        }
    }

    pub(super) fn does(&self, id: usize, act: Act) -> Result<()> {
        self.ask(&Request::Do(id, act)).map(drop)
    }

    pub(super) fn connect(&self, bench: &Bench, depth: u32) -> Result<Connection> {
        self.ask(&Request::Connect(depth))?;
        let link = self.peer.borrow_mut().link(bench, config(depth))?;
        Ok(Connection::new(link.qp, None, link.patience))
    }

    pub(super) fn map<'a>(
        &self,
        bench: &'a Bench,
        mode: Mode,
        kind: Kind,
        len: usize,
    ) -> Result<Target<'a>> {
        match self.ask(&Request::Map(mode.into(), kind, len))? {
            Reply::Mapped(id, first) => Ok(Target::There(bench, id, first)),
            _ => bail!("the peer gives no memory"),
        }
    }

    /// The case is over.
    pub(super) fn release(&self) -> Result<()> {
        self.ask(&Request::Release).map(drop)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // A peer that is gone needs no farewell.
        let _ = self.peer.borrow_mut().tell(&Request::Bye);
    }
}

/// Serves one machine that measures, until it says goodbye.
///
/// # Errors
///
/// If it ends without a goodbye, or says what is not understood.
pub fn serve(bench: &Bench, mut peer: Peer) -> Result<()> {
    greet(&mut peer, bench, &mut bench.caps.clone())?;
    let mut links: Vec<Link> = Vec::new();
    let mut buffers: Vec<Rc<Buffer>> = Vec::new();
    loop {
        let request: Request = peer.hear().map_err(Problem::PeerGone)?;
        let reply = match request {
            Request::Bye => return Ok(()),
            Request::Connect(depth) => {
                peer.tell(&Reply::Done).map_err(Problem::PeerGone)?;
                let link = peer.link(bench, config(depth));
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
            Request::Meters => Ok(Reply::Counted(meters(bench.context.name()))),
            Request::Do(id, act) => match buffers.get(id) {
                Some(buffer) => act.perform(bench, buffer).map(|()| Reply::Done),
                None => bail!("the peer speaks of memory that it was not given"),
            },
        };
        let reply = reply.unwrap_or_else(|error| Reply::of_error(&error));
        peer.tell(&reply).map_err(Problem::PeerGone)?;
    }
}

fn map(bench: &Bench, mode: Mode, kind: Kind, len: usize) -> Result<Rc<Buffer>> {
    bench.cover(mode, kind.map(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{prefetch::Way, setting::lacking, target::Piece};

    /// What comes out at the other end of the wire.
    fn sent(reply: &Reply) -> Result<Reply> {
        let line = serde_json::to_string(reply).unwrap();
        serde_json::from_str::<Reply>(&line).unwrap().into_result()
    }

    #[test]
    fn a_problem_stays_what_it_is() {
        let error = sent(&Reply::of_error(&lacking("no swap"))).unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(Problem::Lacking(why)) if why.contains("no swap"))
        );
        let wrong = Problem::WrongData {
            offset: 17,
            what: "x".into(),
        };
        let error = sent(&Reply::of_error(&wrong.into())).unwrap_err();
        let found = error.downcast_ref();
        assert!(matches!(found, Some(Problem::WrongData { offset: 17, .. })));
        let other = sent(&Reply::of_error(&anyhow::anyhow!("odd"))).unwrap_err();
        assert_eq!(other.to_string(), "on the peer: odd");
    }

    #[test]
    fn memory_is_given_with_its_number() {
        let first = Remote {
            addr: 0x1000,
            rkey: 7,
        };
        let counted = BTreeMap::from([("faults".into(), 7)]);
        for reply in [
            Reply::Mapped(3, first),
            Reply::Done,
            Reply::Counted(counted),
        ] {
            assert_eq!(sent(&reply).unwrap(), reply);
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let acts = [
            Act::Discard,
            Act::Confirm(Kind::Thp),
            Act::Check(5, vec![Piece::at(4096, 64)]),
            Act::Advise(Way::Sync),
        ];
        for act in acts {
            let line = serde_json::to_string(&Request::Do(1, act.clone())).unwrap();
            let Request::Do(1, heard) = serde_json::from_str(&line).unwrap() else {
                panic!("{line}");
            };
            assert_eq!(heard, act);
        }
    }
}
