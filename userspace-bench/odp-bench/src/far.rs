// SPDX-License-Identifier: GPL-2.0
//! The machine at the other end, for the one that measures: what is asked of it, and what comes of that.
//!
//! `target` has memory and connections for which it makes no difference whose they are.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
};

use anyhow::{bail, Context, Result};

use super::{
    act::Act,
    pages::Kind,
    problem::Problem,
    protocol::{greet, Hello, Reply, Request, Wanted},
};
use odp_fixture::{
    env::{Env, Mode},
    peer::{Link, Peer},
};
use odp_verbs::{Mtu, OdpCaps, QpConfig, Remote};

/// The machine at the other end, for the one that measures.
pub(super) struct Far {
    peer: RefCell<Peer>,
    /// Why it is not asked any more: what it may still answer would be taken for the answer to something else.
    gone: RefCell<Option<(io::ErrorKind, String)>>,
    /// How many connections there are.
    links: Cell<usize>,
    /// The largest packet that it takes.
    pub(super) mtu: Mtu,
    /// What it says of itself.
    pub(super) environment: BTreeMap<String, String>,
}

impl Far {
    /// Begins to talk and says of itself what is its `own` environment; what both machines can do is left of `caps`.
    pub(super) fn new(
        mut peer: Peer,
        env: &Env,
        own: BTreeMap<String, String>,
        caps: &mut OdpCaps,
    ) -> Result<Self> {
        let Hello {
            environment, mtu, ..
        } = greet(&mut peer, env, own, caps)?;
        Ok(Self {
            peer: RefCell::new(peer),
            mtu,
            gone: RefCell::default(),
            links: Cell::new(0),
            environment,
        })
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        self.talk(|peer| {
            peer.tell(request)?;
            peer.hear()
        })
    }

    /// What `talk` with the peer comes to.
    fn talk(&self, talk: impl FnOnce(&mut Peer) -> io::Result<Reply>) -> Result<Reply> {
        if let Some((kind, why)) = &*self.gone.borrow() {
            let why = io::Error::new(*kind, why.clone());
            return Err(Problem::PeerGone(why).into());
        }
        let heard = talk(&mut self.peer.borrow_mut());
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

    /// Has it do something with its memory number `id`, and gives the nanoseconds that this took there.
    pub(super) fn does(&self, id: usize, act: Act) -> Result<f64> {
        match self.ask(&Request::Do(id, act))? {
            Reply::Took(time) => Ok(time as f64),
            _ => bail!("the peer does not say how long it took"),
        }
    }

    /// Has it receive on its connection number `link` into its memory number `id`.
    pub(super) fn receives(&self, link: usize, id: usize, at: usize, len: usize) -> Result<()> {
        self.ask(&Request::Receive(link, id, at, len)).map(drop)
    }

    /// Has it receive a message that brings no data to where it is received on its connection number `link`.
    pub(super) fn receives_nothing(&self, link: usize) -> Result<()> {
        self.ask(&Request::ReceiveNothing(link)).map(drop)
    }

    /// Has it answer when it has received so many messages on those of its connections: each a number and a count.
    pub(super) fn answers(&self, links: Vec<(usize, usize)>) -> Result<()> {
        self.ask(&Request::Answer(links)).map(drop)
    }

    /// Waits until it has answered all that it was to answer.
    pub(super) fn answered(&self) -> Result<()> {
        self.talk(|peer| peer.hear()).map(drop)
    }

    /// Waits until it has received a message on its connection number `link`.
    pub(super) fn received(&self, link: usize) -> Result<()> {
        self.ask(&Request::Received(link)).map(drop)
    }

    /// A queue pair of `env` that is connected to one of the peer's, and the peer's number for that.
    pub(super) fn connect(&self, env: &Env, config: QpConfig) -> Result<(Link, usize)> {
        let wanted = Wanted {
            transport: config.transport,
            depth: config.depth,
            inline: config.inline,
        };
        // Once the peer makes its own it waits for this one: what is refused here is refused before.
        env.probe(wanted.config()).context("making a queue pair")?;
        self.ask(&Request::Connect(wanted))?;
        let link = self.peer.borrow_mut().link(env, wanted.config())?;
        let number = self.links.replace(self.links.get() + 1);
        Ok((link, number))
    }

    /// Registered memory of the peer's: its number for that, and the first byte.
    pub(super) fn map(&self, mode: Mode, kind: Kind, len: usize) -> Result<(usize, Remote)> {
        match self.ask(&Request::Map(mode.into(), kind, len))? {
            Reply::Mapped(id, first) => Ok((id, first)),
            _ => bail!("the peer gives no memory"),
        }
    }

    /// The case is over.
    pub(super) fn release(&self) -> Result<()> {
        self.links.set(0);
        self.ask(&Request::Release).map(drop)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // A peer that is gone needs no farewell.
        let _ = self.peer.borrow_mut().tell(&Request::Bye);
    }
}
