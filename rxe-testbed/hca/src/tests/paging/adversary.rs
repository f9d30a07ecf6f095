// SPDX-License-Identifier: GPL-2.0
//! A device that does what devices seldom do, and a driver that serves it nevertheless.

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use super::{Fault, Stage, READ_ONLY};
use crate::layout::create_mkey_in;
use crate::tests::fuzz::Dice;
use crate::tests::scene::{Wish, SIGNALLED, USUAL};
use crate::{wqe, Script};

/// The register with the syndrome of an error of the firmware's.
const HEALTH_SYNDROME: u64 = 0x23c;

impl Stage {
    /// Has the device follow rules.
    fn rules(&mut self, rules: Value) -> Result<()> {
        let script = Script::parse(&json!({ "rules": rules }).to_string())?;
        self.scene.driver.device.follow(script);
        Ok(())
    }

    /// How often a rule was followed.
    fn done_by(&mut self, rule: usize) -> Result<u64> {
        let report = self.scene.driver.device.ask(r#"{"ask": "adversary"}"#);
        report["rules"][rule]["done"].as_u64().context("no report")
    }

    /// A write of the first side's own memory, which is not there.
    fn lack(&mut self) -> Result<()> {
        let list = [self.scene.remote(1, 0), self.at(0, 0, 8)];
        self.scene.send(0, wqe::WRITE, SIGNALLED, &list)
    }

    /// Serves a fault of it.
    fn serve(&mut self, fault: Fault) -> Result<()> {
        self.set(0, 0..2, READ_ONLY)?;
        ensure!(self.resume(fault, false)? == 0);
        self.done(0, (0, wqe::WRITE))
    }
}

#[test]
fn a_fault_is_late_and_another_one_overtakes_it() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rules(json!([{"do": {"delay-fault": 2}, "times": 1}]))?;
    let requesters = [0, 1].map(|side| stage.scene.ends[side].number);
    stage.lack()?;
    assert!(stage.poll_fault()?.is_none());
    let list = [stage.scene.remote(0, 0), stage.at(1, 0, 8)];
    stage.scene.send(1, wqe::WRITE, SIGNALLED, &list)?;
    let (second, first) = (stage.fault()?, stage.fault()?);
    assert_eq!(second.source(), (1, requesters[1]));
    assert_eq!(first.source(), (1, requesters[0]));
    stage.serve(first)?;
    stage.set(1, 0..2, READ_ONLY)?;
    assert_eq!(stage.resume(second, false)?, 0);
    stage.done(1, (0, wqe::WRITE))?;
    stage.no_violations();
    assert_eq!(stage.done_by(0)?, 1);
    Ok(())
}

#[test]
fn a_fault_that_is_told_twice_is_resumed_once() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut stage = Stage::of(profile)?;
        stage.rules(json!([{"do": "repeat-fault"}]))?;
        stage.lack()?;
        let (fault, again) = (stage.fault()?, stage.fault()?);
        assert_eq!(fault.token(), again.token());
        stage.serve(fault)?;
        // That is refused, and not held against the driver; a third answer is.
        assert_eq!(stage.resume(again, false)?, 5);
        stage.no_violations();
        assert_eq!(stage.resume(again, false)?, 5);
        stage.violated(crate::trace::Rule::Tokens);
    }
    Ok(())
}

#[test]
fn the_last_event_comes_alone() -> Result<()> {
    let mut stage = Stage::of("cx7-ib")?;
    stage.rules(json!([{"do": {"split-fault": 1}}]))?;
    stage.lack()?;
    let (first, last) = (stage.fault()?, stage.fault()?);
    assert_eq!((first.is_last(), last.is_last()), (false, true));
    assert_eq!(first.token(), last.token());
    stage.serve(last)?;
    stage.no_violations();
    Ok(())
}

#[test]
fn what_the_driver_was_not_told_of_it_need_not_resume() -> Result<()> {
    for rule in [
        json!({"do": {"delay-fault": 3_600_000}}),
        json!({"do": {"fail-command": {"command": "PAGE_FAULT_RESUME", "status": "resource-busy"}}}),
    ] {
        let mut stage = Stage::new()?;
        stage.rules(json!([rule]))?;
        stage.lack()?;
        if let Some(fault) = stage.poll_fault()? {
            stage.set(0, 0..2, READ_ONLY)?;
            assert_eq!(stage.resume(fault, false)?, 6);
            stage.quiet()?;
        }
        stage.scene.driver.execute(0x103, &[], 16)?;
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn commands_are_late_or_refused_and_change_nothing_then() -> Result<()> {
    let mut stage = Stage::new()?;
    let delay = json!({"do": {"delay-command": {"command": "CREATE_MKEY", "ms": 1}}, "times": 1});
    let refuse =
        json!({"do": {"fail-command": {"command": "CREATE_MKEY", "status": "no-resources"}}});
    stage.rules(json!([delay, refuse]))?;
    let before = stage.scene.driver.device.bus.now();
    stage.table(1, 0, 0x1000, 12)?;
    let after = stage.scene.driver.device.bus.now();
    assert!(after - before >= std::time::Duration::from_millis(1));
    let objects = stage.scene.driver.device.objects();
    let input = vec![0; create_mkey_in::BYTES];
    let refused = stage.scene.driver.try_command(0x200, &input, 16)?;
    assert_eq!(refused.err(), Some(0xf));
    assert_eq!(stage.scene.driver.device.objects(), objects);
    stage.no_violations();
    Ok(())
}

/// The interrupt comes though nothing else is waited for.
#[test]
fn a_late_command_is_told_of_as_any_other() -> Result<()> {
    let mut stage = Stage::new()?;
    let (driver, page) = (&mut stage.scene.driver, stage.scene.page);
    let ring = driver.event_queue(page, 4, 1 << 0x0a)?;
    driver.ring(page, 0x40, &(ring.number << 24).to_be_bytes());
    stage.rules(json!([{"do": {"delay-command": {"command": "NOP", "ms": 1}}}]))?;
    stage.scene.driver.raised.clear();
    stage.scene.driver.execute(0x80d, &[], 16)?;
    assert_eq!(stage.scene.driver.raised.len(), 1);
    Ok(())
}

#[test]
fn a_command_is_never_answered() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rules(json!([{"do": {"ignore-command": {"command": "NOP"}}}]))?;
    assert!(stage.scene.driver.try_command(0x80d, &[], 16).is_err());
    assert_eq!(stage.done_by(0)?, 1);
    Ok(())
}

#[test]
fn a_change_of_a_key_waits_and_is_done_then() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rules(json!([{"do": {"hold-update": 2}}]))?;
    stage.lack()?;
    let fault = stage.fault()?;
    let before = stage.scene.driver.device.bus.now();
    stage.serve(fault)?;
    let after = stage.scene.driver.device.bus.now();
    assert!(after - before >= std::time::Duration::from_millis(2));
    assert_eq!(stage.done_by(0)?, 1);
    stage.no_violations();
    Ok(())
}

#[test]
fn a_change_of_a_key_fails_and_changes_nothing() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.rules(json!([{"do": "fail-update", "times": 1}]))?;
    assert!(stage.set(0, 0..2, READ_ONLY).is_err());
    stage.lack()?;
    // The entry is still absent.
    assert_eq!(stage.fault()?.source().0, 1);
    stage.no_violations();
    Ok(())
}

#[test]
fn faults_that_make_no_sense_are_told_and_resumed_with_an_error() -> Result<()> {
    for (profile, all) in [
        (
            "cx5-ib",
            &["unknown-key", "past-end", "no-bytes", "unknown-pair"][..],
        ),
        ("cx7-ib", &["unknown-key", "past-end", "no-bytes"]),
    ] {
        let mut stage = Stage::of(profile)?;
        for what in all {
            let question = json!({"ask": "invent-faults", "what": what, "count": 2});
            let answer = stage.scene.driver.device.ask(&question.to_string());
            assert_eq!(
                answer["tokens"].as_array().map(Vec::len),
                Some(2),
                "{answer}"
            );
            for _ in 0..2 {
                let fault = stage.fault()?;
                assert!(fault.is_last());
                if *what != "unknown-pair" {
                    assert_eq!(stage.resume(fault, true)?, 0, "{what}");
                }
            }
        }
        let (.., waiting) = stage.scene.driver.device.faults.counts();
        assert_eq!(waiting, 0);
        stage.no_violations();
        for wrong in [
            json!({"ask": "invent-faults", "what": "sense"}),
            json!({"ask": "invent-faults", "what": "past-end", "count": 1_000_000}),
        ] {
            let answer = stage.scene.driver.device.ask(&wrong.to_string());
            assert!(answer["error"].is_string(), "{answer}");
        }
    }
    Ok(())
}

#[test]
fn a_queue_that_overran_hears_of_no_faults() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut stage = Stage::of(profile)?;
        // One waits to be told.
        stage.rules(json!([{"do": {"delay-fault": 2}, "times": 1}]))?;
        stage.lack()?;
        let question = json!({"ask": "invent-faults", "what": "unknown-key", "count": 100});
        let answer = stage.scene.driver.device.ask(&question.to_string());
        assert_eq!(answer["tokens"].as_array().map(Vec::len), Some(64));
        assert_eq!(answer["lost"], 36);
        stage.done(0, (13, wqe::WRITE))?;
        // The queue has 64 entries.
        for _ in 0..64 {
            let fault = stage.fault()?;
            assert_eq!(stage.resume(fault, true)?, 0);
        }
        assert!(stage.poll_fault()?.is_none());
        // There is room again, but the queue does not recover: what lacks something fails.
        let list = [stage.scene.remote(0, 0), stage.at(1, 0, 8)];
        stage.scene = stage.scene.again(&USUAL)?;
        stage.scene.send(1, wqe::WRITE, SIGNALLED, &list)?;
        stage.done(1, (13, wqe::WRITE))?;
        let (.., waiting) = stage.scene.driver.device.faults.counts();
        assert_eq!(waiting, 0);
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn what_a_full_queue_has_no_room_for_is_not_held_against_the_driver() -> Result<()> {
    // A fault is to be told twice, and there is room for one; or in two pieces, with room for the first.
    for (profile, rule) in [
        ("cx5-ib", json!("repeat-fault")),
        ("cx7-ib", json!({"split-fault": 2})),
    ] {
        let mut stage = Stage::of(profile)?;
        let question = json!({"ask": "invent-faults", "what": "unknown-key", "count": 63});
        stage.scene.driver.device.ask(&question.to_string());
        stage.rules(json!([{"do": rule, "times": 1}]))?;
        stage.lack()?;
        let split = profile == "cx7-ib";
        if split {
            stage.done(0, (13, wqe::WRITE))?;
        }
        for _ in 0..64 {
            let fault = stage.fault()?;
            assert_eq!(stage.resume(fault, true)?, 0);
        }
        assert!(stage.poll_fault()?.is_none());
        if !split {
            stage.done(0, (13, wqe::WRITE))?;
        }
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn a_reset_forgets_the_faults_that_wait() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.lack()?;
    let question = json!({"ask": "invent-faults", "what": "unknown-key", "count": 50});
    let driver = &mut stage.scene.driver;
    driver.device.ask(&question.to_string());
    assert_eq!(driver.device.faults.counts().2, 51);
    let reset = driver.registers.reset();
    driver.device.handle(reset);
    assert_eq!(
        (driver.device.objects(), driver.device.faults.counts().2),
        (0, 0)
    );
    driver.probe()?;
    stage.no_violations();
    Ok(())
}

#[test]
fn a_device_that_falls_ill_has_forgotten_everything() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.lack()?;
    let driver = &mut stage.scene.driver;
    driver.device.ask(r#"{"ask": "fall-ill"}"#);
    assert_eq!(driver.device.objects(), 0);
    // Neither commands nor doorbells do anything, and the fault is not missed.
    assert!(driver.try_command(0x80d, &[], 16).is_err());
    driver.ring(stage.scene.page, 0x800, &[0; 8]);
    // A driver finds an interface that is off, and brings the device up.
    assert_eq!(driver.read32(0x14) & 0x700, 0x100);
    assert_ne!(driver.read32(HEALTH_SYNDROME), 0);
    driver.probe()?;
    assert_eq!(driver.read32(HEALTH_SYNDROME), 0);
    assert_eq!(driver.violations(), []);
    Ok(())
}

/// Everything that a device may do, by chance: every byte goes where it is to.
#[test]
fn nothing_is_lost_whatever_the_device_does() -> Result<()> {
    for profile in ["cx5-ib", "cx7-ib"] {
        let mut dice = Dice(99);
        // Answers are waited for longer than packets are kept back.
        let wish = Wish {
            timeout: 11,
            ..USUAL
        };
        let mut stage = Stage::with(profile, &wish)?;
        stage
            .scene
            .driver
            .device
            .follow(Script::parse(r#"{"seed": 5}"#)?);
        super::chance::come_and_go(&mut stage, &mut dice, 60)?;
        let report = stage.scene.driver.device.ask(r#"{"ask": "adversary"}"#);
        let split = usize::from(profile == "cx7-ib");
        let rules = report["rules"].as_array().context("no report")?;
        let done = rules.iter().filter(|rule| rule["done"] != 0).count();
        assert_eq!(done, rules.len() - 1 + split, "{report}");
    }
    Ok(())
}
