// SPDX-License-Identifier: GPL-2.0
//! Does work requests one at a time, so that it is known what has to come of each (`predict.rs`), and checks the end.
//! Most are written into the send queue as they are, as the library would refuse some.

use std::collections::BTreeMap;

use anyhow::{ensure, Context as _, Result};
use odp_verbs::{
    ring::{Bind, SendRing},
    CompletionQueue, QpConfig, QueuePair, Status, Transport,
};
use rand::Rng;

use crate::{
    arena::Arena,
    dice::Dice,
    known::{Bound, Known},
    predict::{Outcome, Predictor},
    work::{self, Wanted, Work, PIECES},
};

/// Two connected queue pairs and their send queues.
struct Link {
    first: QueuePair,
    second: QueuePair,
    first_ring: SendRing,
    second_ring: SendRing,
}

impl Link {
    fn new(known: &Known) -> Result<Self> {
        let env = &known.env;
        let config = QpConfig {
            sges: PIECES,
            extended: true,
            ..QpConfig::new(Transport::Rc)
        };
        let make = || {
            let queue = CompletionQueue::new(&env.context, 2 * config.depth)?;
            SendRing::of(&env.context, || {
                QueuePair::new(&env.domain, &queue, env.gid, config)
            })
        };
        let ((first, first_ring), (second, second_ring)) = (make()?, make()?);
        let link = Self {
            first,
            second,
            first_ring,
            second_ring,
        };
        link.connect(known)?;
        Ok(link)
    }

    fn connect(&self, known: &Known) -> Result<()> {
        let mtu = known.env.mtu;
        self.first.connect(&self.second.endpoint()?, mtu)?;
        self.second.connect(&self.first.endpoint()?, mtu)?;
        Ok(())
    }

    fn restore(&mut self, known: &Known) -> Result<()> {
        self.first.reset()?;
        self.second.reset()?;
        while self.first.completions().poll()?.is_some() {}
        while self.second.completions().poll()?.is_some() {}
        self.connect(known)
    }
}

/// Whoever posts work.
pub struct Worker {
    link: Link,
    posted: u64,
    failed: u64,
    tally: BTreeMap<String, u64>,
}

impl Worker {
    /// With new queue pairs.
    pub fn new(known: &Known) -> Result<Self> {
        Ok(Self {
            link: Link::new(known)?,
            posted: 0,
            failed: 0,
            tally: BTreeMap::new(),
        })
    }

    /// How often work ended with which status.
    pub fn tally(&self) -> &BTreeMap<String, u64> {
        &self.tally
    }

    /// Posts one request and checks its end; says what it was.
    pub fn request(
        &mut self,
        known: &mut Known,
        arena: &mut Arena,
        dice: &mut Dice,
    ) -> Result<String> {
        // Some would touch memory that is none of ours, or take for ever.
        let (work, outcome) = loop {
            let work = work::random(known, arena, dice);
            let predictor = Predictor {
                known,
                arena,
                mtu: known.env.mtu.bytes(),
            };
            if let Some(outcome) = predictor.predict(&work) {
                break (work, outcome);
            }
        };
        let told = format!("{work:x?}");
        self.run(known, arena, dice, &work, outcome)
            .context(told.clone())?;
        Ok(told)
    }

    fn run(
        &mut self,
        known: &mut Known,
        arena: &mut Arena,
        dice: &mut Dice,
        work: &Work,
        outcome: Outcome,
    ) -> Result<()> {
        self.posted += 1;
        let (id, patience) = (self.posted, known.env.patience);
        // Windows of type 2 belong to the queue pair that they were bound on: that of the peer.
        let bind = matches!(work.wanted, Wanted::Bind(_) | Wanted::Invalidate(_));
        let (queue_pair, ring) = match bind {
            true => (&self.link.second, &self.link.second_ring),
            false => (&self.link.first, &self.link.first_ring),
        };
        if work.wanted == Wanted::Send {
            self.link.second.post_recv(id, &work.receive)?;
        }
        match work.op() {
            Some(op) if dice.random() => queue_pair.post_send(id, op, &work.pieces)?,
            _ => ring.post(queue_pair, &work.request(id), &work.pieces)?,
        }
        let end = queue_pair.completions().wait(patience)?;
        *self.tally.entry(end.status.to_string()).or_default() += 1;
        ensure!(end.id == id, "request {} ended in its place", end.id);
        ensure!(
            outcome.statuses.contains(&end.status),
            "ended with {}, expected {}",
            end.status,
            names(&outcome.statuses)
        );
        let good = end.status == Status::SUCCESS;
        let failed_there = match end.status {
            Status::REM_OP_ERR => Some(Status::LOC_PROT_ERR),
            Status::REM_INV_REQ_ERR => Some(Status::LOC_LEN_ERR),
            _ => None,
        };
        if let (Wanted::Send, Some(status)) = (work.wanted, failed_there) {
            let received = self.link.second.completions().wait(patience)?;
            let context = || format!("the receive, after {}", end.status);
            received.expect(&[status]).with_context(context)?;
        }
        if !good {
            // Packets before the one that failed may still be on their way; now they are not.
            self.recover(known)?;
        }
        for (addr, bytes) in &outcome.changes {
            let checked = match good {
                true => arena.expect(*addr, bytes),
                false => arena.settle(*addr, bytes),
            };
            checked.with_context(|| format!("at {addr:#x}, after {}", end.status))?;
        }
        match (work.wanted, good) {
            (Wanted::Send, true) => {
                let received = self.link.second.completions().wait(patience)?;
                let found = (received.id, received.status, received.len);
                let expected = (id, Status::SUCCESS, work.len());
                ensure!(found == expected, "received {found:?}, not {expected:?}");
            }
            (Wanted::Bind(bind), true) => bound(known, &bind),
            (Wanted::Invalidate(key), true) => invalidated(known, key),
            _ => {}
        }
        Ok(())
    }

    /// After a failure the queue pairs are of no use until they are reset. Now and then new ones take
    /// their place.
    fn recover(&mut self, known: &mut Known) -> Result<()> {
        const LIFE: u64 = 64;
        self.failed += 1;
        if self.failed % LIFE == 0 {
            self.link = Link::new(known)?;
            // Those of type 2 lost what they were bound to with the queue pair.
            for window in known.windows.iter_mut().filter(|w| w.kind == 2) {
                window.bound = None;
            }
            Ok(())
        } else {
            self.link.restore(known)
        }
    }
}

/// The window of `bind` is bound.
fn bound(known: &mut Known, bind: &Bind) {
    let region = known.region(bind.region).map(|r| r.made.handle);
    let window = known
        .windows
        .iter_mut()
        .find(|w| w.made.key == bind.window)
        .expect("a window that was bound is known");
    window.made.key = (window.made.key & !0xff) | (bind.key & 0xff);
    window.bound = region.filter(|_| bind.len != 0).map(|region| Bound {
        region,
        addr: bind.addr,
        len: bind.len,
        access: bind.access,
    });
}

/// The window with `key` is not bound any more.
fn invalidated(known: &mut Known, key: u32) {
    let window = known.windows.iter_mut().find(|w| w.made.key == key);
    if let Some(window) = window {
        window.bound = None;
    }
}

fn names(statuses: &[Status]) -> String {
    let names: Vec<_> = statuses.iter().map(Status::to_string).collect();
    names.join(" or ")
}
