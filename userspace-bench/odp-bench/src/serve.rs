// SPDX-License-Identifier: GPL-2.0
//! Two machines: one measures, the other serves it with memory and with what its owner has to do with it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    time::Instant,
};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    meters::meters,
    pages::Kind,
    problem::{lacking, Problem},
    setting::Bench,
    target::{Act, Connection, Other, Target},
};
use odp_fixture::{
    env::{Buffer, Env, Mode},
    peer::{Link, Peer},
};
use odp_verbs::{LinkLayer, Mtu, OdpCaps, Op, QpConfig, Remote, Status, Transport};
use testkit::patience::scaled;

/// What one says first: only the same version understands the other.
const GREETING: &str = concat!("odp-bench ", env!("CARGO_PKG_VERSION"), ", protocol 4");

/// How a queue pair is made; what is not said is as usual.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Wanted {
    transport: Transport,
    depth: u32,
    inline: u32,
}

impl Wanted {
    fn config(self) -> QpConfig {
        QpConfig {
            depth: self.depth,
            inline: self.inline,
            ..QpConfig::new(self.transport)
        }
    }
}

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
    /// A queue pair; connecting them follows.
    Connect(Wanted),
    /// Registered memory.
    Map(How, Kind, usize),
    /// Something done with memory.
    Do(usize, Act),
    /// A receive on a connection, into the bytes of memory at an offset.
    Receive(usize, usize, usize, usize),
    /// A receive on a connection, of a message without data.
    ReceiveNothing(usize),
    /// To say when the next message has been received on a connection.
    Received(usize),
    /// To answer on each of some connections as soon as a number of messages has been received on it. There are two
    /// replies: before the first message, and after the last answer.
    Answer(Vec<(usize, usize)>),
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
    /// Something done with memory, which took so many nanoseconds by the clock of whoever did it.
    Took(u64),
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
            Self::Done | Self::Took(_) | Self::Mapped(..) | Self::Counted(_) => Ok(self),
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
    /// How many connections there are.
    links: Cell<usize>,
    /// The largest packet that it takes.
    pub(super) mtu: Mtu,
    /// What it says of itself.
    pub(super) environment: BTreeMap<String, String>,
}

/// What two machines tell each other first.
#[derive(Serialize, Deserialize)]
struct Hello {
    greeting: String,
    caps: OdpCaps,
    mtu: Mtu,
    link_layer: LinkLayer,
    environment: BTreeMap<String, String>,
}

impl Hello {
    fn of(env: &Env, environment: BTreeMap<String, String>, caps: OdpCaps) -> Result<Self> {
        Ok(Self {
            greeting: GREETING.into(),
            caps,
            mtu: env.mtu,
            link_layer: env.context.link_layer()?,
            environment,
        })
    }
}

/// Greets the other machine, and gives its environment; what both can do is left of `caps`.
fn greet(
    peer: &mut Peer,
    env: &Env,
    own: BTreeMap<String, String>,
    caps: &mut OdpCaps,
) -> Result<Hello> {
    let hello = Hello::of(env, own, *caps)?;
    peer.tell(&hello).map_err(Problem::PeerGone)?;
    let other: Hello = peer.hear().context("the peer is no odp-bench")?;
    if other.greeting != GREETING {
        bail!("the peer is {}, this is {GREETING}", other.greeting);
    }
    ensure!(
        other.link_layer == hello.link_layer,
        "{} is on {}, the peer's device on {}: they cannot reach each other; choose with --device and --ib-port on \
         both machines",
        env.context.name(),
        hello.link_layer,
        other.link_layer
    );
    *caps = caps.and(other.caps);
    Ok(other)
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

    /// Has it do something with its memory, and gives the nanoseconds that this took there.
    pub(super) fn does(&self, id: usize, act: Act) -> Result<f64> {
        match self.ask(&Request::Do(id, act))? {
            Reply::Took(time) => Ok(time as f64),
            _ => bail!("the peer does not say how long it took"),
        }
    }

    pub(super) fn receives(&self, link: usize, id: usize, at: usize, len: usize) -> Result<()> {
        self.ask(&Request::Receive(link, id, at, len)).map(drop)
    }

    pub(super) fn receives_nothing(&self, link: usize) -> Result<()> {
        self.ask(&Request::ReceiveNothing(link)).map(drop)
    }

    pub(super) fn answers(&self, links: Vec<(usize, usize)>) -> Result<()> {
        self.ask(&Request::Answer(links)).map(drop)
    }

    pub(super) fn answered(&self) -> Result<()> {
        self.talk(|peer| peer.hear()).map(drop)
    }

    pub(super) fn received(&self, link: usize) -> Result<()> {
        self.ask(&Request::Received(link)).map(drop)
    }

    /// A connection.
    pub(super) fn connect(&self, bench: &Bench, config: QpConfig) -> Result<Connection> {
        let wanted = Wanted {
            transport: config.transport,
            depth: config.depth,
            inline: config.inline,
        };
        // Once the peer makes its own it waits for this one: what is refused here is refused before.
        bench
            .probe(wanted.config())
            .context("making a queue pair")?;
        self.ask(&Request::Connect(wanted))?;
        let link = self.peer.borrow_mut().link(bench, wanted.config())?;
        let number = self.links.replace(self.links.get() + 1);
        Ok(Connection::new(
            link.qp,
            Other::There(number),
            link.patience,
        ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{prefetch::Way, target::Piece};

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
            Reply::Took(17),
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
