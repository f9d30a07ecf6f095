// SPDX-License-Identifier: GPL-2.0
//! What a device may do to its driver and seldom does: page faults late or twice, commands that fail or take long,
//! changes of keys that fail or wait, packets that are lost. A script says what and how often; without one nothing is
//! done.
//!
//! Here it is chosen what is done; `hold` does it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::command;
use crate::hold::Held;
use crate::status::Status;

/// A time in a script.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(transparent)]
pub(crate) struct Milliseconds(u64);

impl Milliseconds {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// What may be done.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Deed {
    /// The driver is told of a page fault so much later. Others overtake it.
    DelayFault(Milliseconds),
    /// The driver is told of a page fault twice. Its second answer is refused.
    RepeatFault,
    /// The last event of a page fault does not say that it is the last one; one that does comes so much later. In the
    /// memory scheme.
    SplitFault(Milliseconds),
    /// A command of this name is executed so much later.
    DelayCommand { command: String, ms: Milliseconds },
    /// It is not executed, and ends with this status.
    FailCommand { command: String, status: Status },
    /// It is neither executed nor answered.
    IgnoreCommand { command: String },
    /// A request that changes a key waits for so long, and with it those behind it in its queue.
    HoldUpdate(Milliseconds),
    /// It fails, and changes nothing.
    FailUpdate,
    /// A packet is lost.
    LosePacket,
    /// It comes twice.
    RepeatPacket,
    /// It comes so much later. Others overtake it.
    DelayPacket(Milliseconds),
}

/// What happens, and could go another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion<'a> {
    /// A page fault, and whether its events say which is the last one.
    Fault {
        has_last: bool,
    },
    Command(&'a str),
    Update,
    Packet,
}

impl Deed {
    fn fits(&self, occasion: Occasion<'_>) -> bool {
        match (self, occasion) {
            (Self::DelayFault(_) | Self::RepeatFault, Occasion::Fault { .. }) => true,
            (Self::SplitFault(_), Occasion::Fault { has_last }) => has_last,
            (
                Self::DelayCommand { command, .. }
                | Self::FailCommand { command, .. }
                | Self::IgnoreCommand { command },
                Occasion::Command(name),
            ) => command == name,
            (Self::HoldUpdate(_) | Self::FailUpdate, Occasion::Update) => true,
            (Self::LosePacket | Self::RepeatPacket | Self::DelayPacket(_), Occasion::Packet) => {
                true
            }
            _ => false,
        }
    }

    /// The command that it is about.
    fn command(&self) -> Option<&str> {
        match self {
            Self::DelayCommand { command, .. }
            | Self::FailCommand { command, .. }
            | Self::IgnoreCommand { command } => Some(command),
            _ => None,
        }
    }
}

/// A deed, and when it is done.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(rename = "do")]
    deed: Deed,
    /// So many occasions go by first.
    #[serde(default)]
    skip: u64,
    /// Not more often than this.
    #[serde(default = "always")]
    times: u64,
    /// Of so many occasions one, by chance.
    #[serde(default = "every_one")]
    one_in: u64,
}

fn always() -> u64 {
    u64::MAX
}

fn every_one() -> u64 {
    1
}

/// What an adversary does.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What chance begins with: the same number means the same chances.
    #[serde(default)]
    seed: u64,
    /// Of those that fit, the first one whose time it is.
    rules: Option<Vec<Rule>>,
}

/// What is done by chance if a script has a seed only: all of it is what a device may do, and a driver has to serve.
fn by_chance() -> Vec<Rule> {
    let rule = |deed, one_in| Rule {
        deed,
        skip: 0,
        times: always(),
        one_in,
    };
    let resume = "PAGE_FAULT_RESUME".to_owned();
    vec![
        rule(Deed::DelayFault(Milliseconds(30)), 4),
        rule(Deed::SplitFault(Milliseconds(10)), 4),
        rule(
            Deed::DelayCommand {
                command: resume,
                ms: Milliseconds(10),
            },
            8,
        ),
        rule(Deed::HoldUpdate(Milliseconds(20)), 8),
        rule(Deed::LosePacket, 64),
        rule(Deed::RepeatPacket, 64),
        rule(Deed::DelayPacket(Milliseconds(2)), 64),
    ]
}

/// What is wrong with a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError(String);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScriptError {}

impl Script {
    /// One by which nothing is done.
    pub fn nothing() -> Self {
        Self {
            seed: 0,
            rules: Some(Vec::new()),
        }
    }

    /// The script that a text holds: an object of JSON.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let value = serde_json::from_str(text);
        value
            .map_err(|error| ScriptError(error.to_string()))
            .and_then(Self::from_json)
    }

    pub(crate) fn from_json(value: Value) -> Result<Self, ScriptError> {
        let script = Self::deserialize(value).map_err(|error| ScriptError(error.to_string()))?;
        for rule in script.rules.iter().flatten() {
            if let Some(name) = rule.deed.command().filter(|name| !command::is_known(name)) {
                return Err(ScriptError(format!("there is no command {name}")));
            }
            if rule.one_in == 0 {
                return Err(ScriptError("one-in: at least 1".into()));
            }
        }
        Ok(script)
    }
}

/// A rule, and how often there was an occasion for it and it was done.
struct Armed {
    rule: Rule,
    seen: u64,
    done: u64,
}

impl Armed {
    /// Whether its time has come, at one more occasion.
    fn strikes(&mut self, chance: &mut fastrand::Rng) -> bool {
        self.seen += 1;
        let due = self.seen > self.rule.skip && self.done < self.rule.times;
        let strikes = due && chance.u64(0..self.rule.one_in) == 0;
        self.done += u64::from(strikes);
        strikes
    }
}

/// Who decides what is done, and what is held meanwhile.
#[derive(Default)]
pub(crate) struct Adversary {
    rules: Vec<Armed>,
    chance: fastrand::Rng,
    pub(crate) held: Vec<(Duration, Held)>,
    /// A request that changes a key and was held: a queue pair and the request's counter.
    pub(crate) held_update: Option<(u32, u16)>,
}

impl Adversary {
    /// From now on it follows another script. What is held stays so.
    pub(crate) fn follow(&mut self, script: Script) {
        let rules = script.rules.unwrap_or_else(by_chance);
        let armed = |rule| Armed {
            rule,
            seen: 0,
            done: 0,
        };
        self.rules = rules.into_iter().map(armed).collect();
        self.chance = fastrand::Rng::with_seed(script.seed);
    }

    /// What is done on this occasion, if anything is.
    pub(crate) fn strikes(&mut self, occasion: Occasion<'_>) -> Option<Deed> {
        let chance = &mut self.chance;
        let mut fitting = self
            .rules
            .iter_mut()
            .filter(|armed| armed.rule.deed.fits(occasion));
        let struck = fitting.find_map(|armed| armed.strikes(chance).then_some(&armed.rule.deed));
        struck.cloned()
    }

    /// What was done so far.
    pub(crate) fn report(&self) -> Value {
        let rules = self.rules.iter();
        let rules = rules
            .map(|armed| json!({"do": armed.rule.deed, "seen": armed.seen, "done": armed.done}));
        json!({"rules": rules.collect::<Vec<_>>(), "held": self.held.len()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adversary(text: &str) -> Result<Adversary, ScriptError> {
        let mut adversary = Adversary::default();
        adversary.follow(Script::parse(text)?);
        Ok(adversary)
    }

    const FAULT: Occasion<'_> = Occasion::Fault { has_last: false };

    #[test]
    fn a_rule_has_its_time() -> Result<(), ScriptError> {
        let text = r#"{"rules": [{"do": {"delay-fault": 7}, "skip": 1, "times": 2}, {"do": "repeat-fault"}]}"#;
        let mut adversary = adversary(text)?;
        let struck: Vec<_> = (0..4).map(|_| adversary.strikes(FAULT)).collect();
        let late = Some(Deed::DelayFault(Milliseconds(7)));
        let twice = Some(Deed::RepeatFault);
        assert_eq!(struck, [twice.clone(), late.clone(), late, twice]);
        assert_eq!(adversary.strikes(Occasion::Packet), None);
        let report = adversary.report();
        assert_eq!(report["rules"][0]["done"], 2);
        assert_eq!(report["rules"][1]["seen"], 2);
        Ok(())
    }

    #[test]
    fn commands_are_meant_by_their_names() -> Result<(), ScriptError> {
        let text = r#"{"rules": [{"do": {"fail-command": {"command": "CREATE_MKEY", "status": "no-resources"}}}]}"#;
        let mut adversary = adversary(text)?;
        assert_eq!(adversary.strikes(Occasion::Command("QUERY_MKEY")), None);
        let struck = adversary.strikes(Occasion::Command("CREATE_MKEY"));
        assert!(matches!(
            struck,
            Some(Deed::FailCommand {
                status: Status::NoResources,
                ..
            })
        ));
        Ok(())
    }

    #[test]
    fn without_last_nothing_is_split() -> Result<(), ScriptError> {
        let mut adversary = adversary(r#"{"rules": [{"do": {"split-fault": 1}}]}"#)?;
        assert_eq!(adversary.strikes(FAULT), None);
        assert!(adversary
            .strikes(Occasion::Fault { has_last: true })
            .is_some());
        Ok(())
    }

    #[test]
    fn chance_is_that_of_the_seed() -> Result<(), ScriptError> {
        let run = |seed: u64| -> Result<Vec<bool>, ScriptError> {
            let mut adversary = adversary(&format!(r#"{{"seed": {seed}}}"#))?;
            let packets = (0..2000).map(|_| adversary.strikes(Occasion::Packet).is_some());
            Ok(packets.collect())
        };
        let (first, other) = (run(1)?, run(2)?);
        assert_eq!(first, run(1)?);
        assert_ne!(first, other);
        let struck = first.iter().filter(|struck| **struck).count();
        assert!((20..400).contains(&struck), "{struck}");
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, why) in [
            ("[", "EOF"),
            (r#"{"rule": []}"#, "unknown field `rule`"),
            (r#"{"rules": [{"do": "be-evil"}]}"#, "be-evil"),
            (
                r#"{"rules": [{"do": "lose-packet", "one-in": 0}]}"#,
                "one-in",
            ),
            (
                r#"{"rules": [{"do": {"ignore-command": {"command": "X"}}}]}"#,
                "no command X",
            ),
        ] {
            let error = Script::parse(text).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.contains(why)),
                "{text}: {error:?}"
            );
        }
    }
}
