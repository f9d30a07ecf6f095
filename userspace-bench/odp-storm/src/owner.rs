// SPDX-License-Identifier: GPL-2.0
//! The owner of some slots: moves data between them through the NIC, and checks every byte.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::{env::Env, loopback::Loopback};
use odp_verbs::{Op, QpConfig, Status, Transport};
use rand::{seq::IndexedRandom, Rng};
use testkit::{memory::PAGE, pattern::Pattern};

use crate::{
    dice::Dice,
    field::{Field, WORDS},
    ground::{Ground, Nature, SLOT, SLOTS},
};

/// A slot that is owned.
struct Owned {
    ground: usize,
    slot: usize,
    /// What must be there.
    bytes: Vec<u8>,
    /// The slot's epoch when that was last looked at.
    seen: u64,
}

/// How often what came of operations.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations by nature of the memory at the peer, and status.
    pub ends: BTreeMap<(Nature, String), u64>,
    /// How many bytes were moved by operations that succeeded.
    pub bytes: u64,
    /// How often the pages stood still meanwhile, so that exactly those bytes had to be there.
    pub exact: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(mut self, other: Self) -> Self {
        for (key, n) in other.ends {
            *self.ends.entry(key).or_default() += n;
        }
        self.bytes += other.bytes;
        self.exact += other.exact;
        self
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.ends.values().sum()
    }
}

/// A thread's queue pairs and slots.
pub struct Owner<'a> {
    env: &'a Env,
    field: &'a Field,
    link: Loopback,
    slots: Vec<Owned>,
    dice: Dice,
    round: u64,
    salt: u64,
    tally: Tally,
}

/// A transfer from one slot to another.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    kind: Kind,
    from: usize,
    to: usize,
    from_offset: usize,
    to_offset: usize,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Send,
}

impl<'a> Owner<'a> {
    /// The owner number `number` of `owners`.
    pub fn new(
        env: &'a Env,
        field: &'a Field,
        number: usize,
        owners: usize,
        dice: Dice,
    ) -> Result<Self> {
        let mut slots = Vec::new();
        for ground in 0..field.grounds.len() {
            // The first slot has the words.
            for slot in (1..SLOTS).filter(|slot| slot % owners == number) {
                slots.push(Owned {
                    ground,
                    slot,
                    bytes: field.grounds[ground].nature.new_bytes(slot * SLOT, SLOT),
                    seen: 0,
                });
            }
        }
        Ok(Self {
            env,
            field,
            link: new_link(env)?,
            slots,
            dice,
            round: 0,
            salt: (number as u64 + 1) << 40,
            tally: Tally::default(),
        })
    }

    /// Goes on until the storm is over.
    pub fn run(mut self) -> Result<Tally> {
        while !self.field.is_over() {
            self.round += 1;
            let round = self.round;
            self.operate().with_context(|| format!("round {round}"))?;
        }
        for number in 0..self.slots.len() {
            self.look(number, None)
                .with_context(|| format!("at the end, {}", self.name(number)))?;
        }
        Ok(self.tally)
    }

    fn operate(&mut self) -> Result<()> {
        match self.dice.random_range(0..10) {
            0 => self.write_by_cpu(),
            1 => self.add(),
            _ => {
                let transfer = self.transfer();
                let (from, to) = (self.name(transfer.from), self.name(transfer.to));
                self.move_data(&transfer)
                    .with_context(|| format!("{transfer:x?} from {from} to {to}"))
            }
        }
    }

    fn name(&self, number: usize) -> String {
        let owned = &self.slots[number];
        let ground = &self.field.grounds[owned.ground];
        format!("slot {} of {}.{}", owned.slot, ground.nature, ground.mode)
    }

    fn ground(&self, number: usize) -> &'a Ground {
        &self.field.grounds[self.slots[number].ground]
    }

    fn any_slot(&mut self) -> usize {
        self.dice.random_range(0..self.slots.len())
    }

    /// New bytes in a slot, written by the CPU.
    fn write_by_cpu(&mut self) -> Result<()> {
        let number = self.any_slot();
        let (start, len) = self.place();
        let new = Pattern::new(self.salt + self.round).bytes(start as u64, len);
        // What has gone since the last look has gone before this.
        self.look(number, None)?;
        let (ground, slot) = (self.ground(number), self.slots[number].slot);
        {
            let _held = ground.slot(slot).hold();
            ground.buffer.memory.write(slot * SLOT + start, &new);
        }
        let change = Change {
            start,
            new,
            complete: true,
            instead: None,
        };
        self.look(number, Some(&change))
    }

    fn place(&mut self) -> (usize, usize) {
        let len = match self.dice.random_range(0..4) {
            0 => self.dice.random_range(1..100),
            1 => self.dice.random_range(1..SLOT),
            _ => self.dice.random_range(1..3 * PAGE),
        };
        (self.dice.random_range(0..=SLOT - len), len)
    }

    /// Adds to a word that all have in common, through the NIC or not.
    fn add(&mut self) -> Result<()> {
        let (word, n) = (self.dice.random_range(0..WORDS), self.dice.random());
        let words = &self.field.grounds[0].buffer;
        if self.dice.random_ratio(1, 4) {
            words.memory.add_to_word(8 * word, n);
            self.field.sums.add(word, n);
            return Ok(());
        }
        let number = self.any_slot();
        let (ground, owned) = (self.ground(number), self.slots[number].slot);
        let (slot, offset) = (ground.slot(owned), owned * SLOT);
        let before = slot.epoch();
        let at = words.remote(8 * word);
        let op = Op::FetchAdd { at, add: n };
        let end = self.link.run(op, &[ground.buffer.sge(offset, 8)])?;
        // The word has been added to, also if there was no place for its old value.
        self.field.sums.add(word, n);
        self.count(Nature::Kept, end.status);
        let refused = ground.nature.refuses() && has_moved(before, slot.epoch());
        ensure!(
            end.status == Status::SUCCESS || (refused && end.status == Status::LOC_PROT_ERR),
            "FETCH_ADD ended with {}",
            end.status
        );
        if end.status != Status::SUCCESS {
            self.link = new_link(self.env)?;
        }
        // Which value it was, the others decide.
        let found = {
            let _held = slot.hold();
            ground.buffer.memory.bytes(offset, 8)
        };
        let change = Change {
            start: 0,
            new: found,
            complete: false,
            instead: None,
        };
        self.look(number, Some(&change))
    }

    /// A transfer between two slots.
    fn transfer(&mut self) -> Transfer {
        let (from, mut to) = (self.any_slot(), self.any_slot());
        if from == to {
            to = (to + 1) % self.slots.len();
        }
        let (to_offset, len) = self.place();
        Transfer {
            kind: *[Kind::Write, Kind::Write, Kind::Read, Kind::Read, Kind::Send]
                .choose(&mut self.dice)
                .expect("there are some"),
            from,
            to,
            from_offset: self.dice.random_range(0..=SLOT - len),
            to_offset,
            len,
        }
    }

    fn move_data(&mut self, transfer: &Transfer) -> Result<()> {
        let Transfer { from, to, len, .. } = *transfer;
        let (source, target) = (self.ground(from), self.ground(to));
        let (from_slot, to_slot) = (
            source.slot(self.slots[from].slot),
            target.slot(self.slots[to].slot),
        );
        let before = (from_slot.epoch(), to_slot.epoch());
        let status = self.run_transfer(transfer)?;
        let after = (from_slot.epoch(), to_slot.epoch());
        self.count(target.nature, status);
        // A side may refuse only if something happened to it meanwhile.
        let refused = |ground: &Ground, before, after, end| {
            status == end && ground.nature.refuses() && has_moved(before, after)
        };
        let (from_end, to_end) = transfer.kind.refusals();
        let complete = status == Status::SUCCESS;
        ensure!(
            complete
                || refused(source, before.0, after.0, from_end)
                || refused(target, before.1, after.1, to_end),
            "ended with {status} (epochs of the source {:?}, of the target {:?})",
            (before.0, after.0),
            (before.1, after.1)
        );
        if complete {
            self.tally.bytes += len as u64;
            let still = |number: usize, now| self.slots[number].seen == now;
            self.tally.exact += u64::from(still(from, after.0) && still(to, after.1));
        } else {
            self.link = new_link(self.env)?;
        }
        let forgotten = source.nature.forgets() && self.slots[from].seen != after.0;
        let offset = self.slots[from].slot * SLOT + transfer.from_offset;
        let new = &self.slots[from].bytes[transfer.from_offset..][..len];
        let change = Change {
            start: transfer.to_offset,
            new: new.to_vec(),
            complete,
            instead: forgotten.then(|| source.nature.new_bytes(offset, len)),
        };
        self.look(to, Some(&change)).context("the target")?;
        if forgotten {
            self.look(from, None).context("the source")?;
        }
        Ok(())
    }

    /// Has the NIC do it; how it ended.
    fn run_transfer(&mut self, transfer: &Transfer) -> Result<Status> {
        let (from, to) = (&self.slots[transfer.from], &self.slots[transfer.to]);
        let (source, target) = (
            &self.ground(transfer.from).buffer,
            &self.ground(transfer.to).buffer,
        );
        let from_offset = from.slot * SLOT + transfer.from_offset;
        let to_offset = to.slot * SLOT + transfer.to_offset;
        let near_source = [source.sge(from_offset, transfer.len)];
        let near_target = [target.sge(to_offset, transfer.len)];
        let status = match transfer.kind {
            Kind::Write => {
                let op = Op::Write(target.remote(to_offset));
                self.link.run(op, &near_source)?.status
            }
            Kind::Read => {
                let op = Op::Read(source.remote(from_offset));
                self.link.run(op, &near_target)?.status
            }
            Kind::Send => {
                self.link.second.post_recv(self.round, &near_target)?;
                self.link.run(Op::Send, &near_source)?.status
            }
        };
        if transfer.kind == Kind::Send && status == Status::SUCCESS {
            let received = self.link.second.completions().wait(self.env.patience)?;
            ensure!(
                received.status == Status::SUCCESS && received.len as usize == transfer.len,
                "received {received:?}"
            );
        }
        Ok(status)
    }

    fn count(&mut self, nature: Nature, status: Status) {
        let key = (nature, status.to_string());
        *self.tally.ends.entry(key).or_default() += 1;
    }

    /// Compares a slot with what must be there, after `change` if there was one, and takes what is there
    /// as what must be there from now on.
    fn look(&mut self, number: usize, change: Option<&Change>) -> Result<()> {
        let ground = self.ground(number);
        let owned = &mut self.slots[number];
        let slot = ground.slot(owned.slot);
        let (found, epoch) = {
            let _held = slot.hold();
            let found = ground.buffer.memory.bytes(owned.slot * SLOT, SLOT);
            (found, slot.epoch())
        };
        let gone = ground.nature.forgets() && epoch != owned.seen;
        let as_new = ground.nature.new_bytes(owned.slot * SLOT, SLOT);
        for (at, (found, old)) in found.iter().zip(&owned.bytes).enumerate() {
            let changed = change.and_then(|c| Some((c, at.checked_sub(c.start)?)));
            let changed = changed.filter(|(change, at)| *at < change.new.len());
            let new = changed.map(|(change, at)| change.new[at]);
            let right = (gone && *found == as_new[at])
                || match changed {
                    Some((change, at)) => change.may_be(at, *found, *old),
                    None => found == old,
                };
            if !right {
                bail!(
                    "byte {at:#x} is {found:#04x}, was {old:#04x}, {}; {}",
                    new.map_or("is nobody's to change".into(), |n| format!(
                        "should be {n:#04x}"
                    )),
                    match gone {
                        true => "pages have been taken away",
                        false => "no page has been taken away",
                    }
                );
            }
        }
        owned.bytes = found;
        owned.seen = epoch;
        Ok(())
    }
}

/// What an operation should have changed in a slot.
struct Change {
    start: usize,
    new: Vec<u8>,
    /// All of it must be there; otherwise the old bytes may be there as well.
    complete: bool,
    /// What may be in its place.
    instead: Option<Vec<u8>>,
}

impl Change {
    /// Whether the byte `at` of it may be what was `found`, and was `old` before.
    fn may_be(&self, at: usize, found: u8, old: u8) -> bool {
        found == self.new[at]
            || (!self.complete && found == old)
            || self
                .instead
                .as_ref()
                .is_some_and(|bytes| found == bytes[at])
    }
}

impl Kind {
    /// How it ends if the source, and if the target, is out of reach.
    fn refusals(self) -> (Status, Status) {
        match self {
            Self::Write => (Status::LOC_PROT_ERR, Status::REM_ACCESS_ERR),
            Self::Read => (Status::REM_ACCESS_ERR, Status::LOC_PROT_ERR),
            Self::Send => (Status::LOC_PROT_ERR, Status::REM_OP_ERR),
        }
    }
}

/// New queue pairs. After a failure, rxe does not make old ones quite as new when they are reset.
fn new_link(env: &Env) -> odp_verbs::Result<Loopback> {
    Loopback::new(env, QpConfig::new(Transport::Rc), env.mtu)
}

/// Whether something happened between two epochs.
fn has_moved(before: u64, after: u64) -> bool {
    before != after || before % 2 == 1
}
