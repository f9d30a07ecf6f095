// SPDX-License-Identifier: GPL-2.0
//! What two machines say to each other: a greeting, then requests of the one that measures ([`Far`](super::far::Far)) and
//! replies of the one that [serves](super::serve::serve).

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use super::{act::Act, pages::Kind, problem::Problem};
use odp_fixture::{
    env::{Env, Mode},
    peer::Peer,
};
use odp_verbs::{LinkLayer, Mtu, OdpCaps, QpConfig, Remote, Transport};

/// What one says first: only the same version understands the other.
const GREETING: &str = concat!("odp-bench ", env!("CARGO_PKG_VERSION"), ", protocol 4");

/// How a queue pair is made; what is not said is as usual.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) transport: Transport,
    pub(super) depth: u32,
    pub(super) inline: u32,
}

impl Wanted {
    pub(super) fn config(self) -> QpConfig {
        QpConfig {
            depth: self.depth,
            inline: self.inline,
            ..QpConfig::new(self.transport)
        }
    }
}

/// How memory is registered, for the wire.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum How {
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
pub(super) enum Request {
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
pub(super) enum Reply {
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
    pub(super) fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(Problem::Lacking(why)) => Self::Lacking(why.clone()),
            Some(Problem::WrongData { offset, what }) => Self::Wrong(*offset, what.clone()),
            _ => Self::Failed(format!("{error:#}")),
        }
    }

    /// An answer of the kinds that are no error.
    pub(super) fn into_result(self) -> Result<Self> {
        match self {
            Self::Done | Self::Took(_) | Self::Mapped(..) | Self::Counted(_) => Ok(self),
            Self::Lacking(why) => Err(Problem::Lacking(format!("on the peer: {why}")).into()),
            Self::Wrong(offset, what) => Err(Problem::WrongData { offset, what }.into()),
            Self::Failed(why) => bail!("on the peer: {why}"),
        }
    }
}

/// What two machines tell each other first.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    greeting: String,
    caps: OdpCaps,
    pub(super) mtu: Mtu,
    link_layer: LinkLayer,
    pub(super) environment: BTreeMap<String, String>,
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
pub(super) fn greet(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{act::Piece, advice::Way, problem::lacking};

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
