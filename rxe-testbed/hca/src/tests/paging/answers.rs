// SPDX-License-Identifier: GPL-2.0
//! What the driver says to a page fault, once, twice or never; and keys and queue pairs that go meanwhile.

use anyhow::Result;
use serde_json::json;

use super::{Fault, Stage, PAGE, PAGES, READ_ONLY, READ_WRITE, START};
use crate::layout::{destroy_mkey_in, destroy_qp_in, mkc};
use crate::mkey::NULL_MKEY;
use crate::tests::scene::SIGNALLED;
use crate::trace::Rule;
use crate::wqe;

/// Starts a write of a side's own memory that lacks its first page.
fn lacking(stage: &mut Stage) -> Result<Fault> {
    let list = [stage.scene.remote(1, 0), stage.at(0, 0, 8)];
    stage.scene.send(0, wqe::WRITE, SIGNALLED, &list)?;
    stage.fault()
}

#[test]
fn a_token_is_given_back_once() -> Result<()> {
    let mut stage = Stage::new()?;
    let fault = lacking(&mut stage)?;
    stage.set(0, 0..2, READ_ONLY)?;
    assert_eq!(stage.resume(fault, false)?, 0);
    stage.done(0, (0, wqe::WRITE))?;
    stage.no_violations();
    assert_eq!(stage.resume(fault, false)?, 5);
    stage.violated(Rule::Tokens);
    Ok(())
}

#[test]
fn a_fault_that_is_never_resumed_is_reported() -> Result<()> {
    // Before long, and in the end.
    for late in [true, false] {
        let mut stage = Stage::new()?;
        lacking(&mut stage)?;
        if late {
            stage.scene.driver.device.faults.bound = std::time::Duration::ZERO;
            assert!(stage.scene.driver.device.tick().is_some());
            stage.scene.driver.device.tick();
        } else {
            stage.quiet()?;
            stage.scene.driver.remove()?;
        }
        stage.violated(Rule::Tokens);
    }
    Ok(())
}

#[test]
fn a_fault_of_a_queue_pair_that_is_gone_needs_no_answer() -> Result<()> {
    for answered in [true, false] {
        let mut stage = Stage::new()?;
        let fault = lacking(&mut stage)?;
        let number = stage.scene.ends[0].number;
        let gone = stage
            .scene
            .driver
            .about(0x501, destroy_qp_in::QPN, number)?;
        assert!(gone.is_ok());
        if answered {
            assert_eq!(stage.resume(fault, false)?, 0);
        }
        stage.scene.driver.device.faults.bound = std::time::Duration::ZERO;
        stage.scene.driver.device.tick();
        stage.scene.driver.remove()?;
        stage.no_violations();
    }
    Ok(())
}

#[test]
fn what_is_resumed_does_not_fault_again_and_again() -> Result<()> {
    // Unless the page has come and gone each time.
    for zapped in [false, true] {
        let mut stage = Stage::new()?;
        let mut fault = lacking(&mut stage)?;
        for _ in 0..20 {
            if zapped {
                stage.set(0, 0..2, READ_ONLY)?;
                stage.set(0, 0..2, 0)?;
            }
            assert_eq!(stage.resume(fault, false)?, 0);
            fault = stage.fault()?;
        }
        match zapped {
            true => stage.no_violations(),
            false => stage.violated(Rule::Progress),
        }
    }
    Ok(())
}

#[test]
fn a_key_that_is_destroyed_is_not_reached() -> Result<()> {
    // A part of a region that is destroyed, or free, before the region leads elsewhere; and after it.
    for case in 0..4 {
        let mut stage = Stage::new()?;
        let whole = stage.table(3, 0, 0x20_0000, 20)?;
        let child = stage.table(1, 0, 0x10_0000, 12)?;
        let link = |key: u32| {
            let mut entry = vec![0; 4];
            entry.extend(key.to_be_bytes());
            entry.extend([0; 8]);
            entry
        };
        stage.change(whole, 0, &link(child), None)?;
        if case >= 2 {
            stage.change(whole, 0, &link(NULL_MKEY), None)?;
        }
        match case % 2 {
            0 => {
                let number = destroy_mkey_in::MKEY_INDEX;
                let done = stage.scene.driver.about(0x202, number, child >> 8)?;
                assert!(done.is_ok());
            }
            _ => stage.change(child, 0, &[], Some((29, mkc::FREE, 1)))?,
        }
        match case {
            0 | 1 => stage.violated(Rule::Reachable),
            _ => stage.no_violations(),
        }
    }
    Ok(())
}

#[test]
fn a_key_comes_back_without_its_past() -> Result<()> {
    for written in [false, true] {
        let mut stage = Stage::new()?;
        let key = stage.keys[0];
        stage.set(0, 2..4, READ_WRITE)?;
        stage.change(key, 0, &[], Some((29, mkc::FREE, 1)))?;
        if written {
            stage.set(0, 0..PAGES, 0)?;
        }
        stage.change(key, 0, &[], Some((29, mkc::FREE, 0)))?;
        match written {
            true => stage.no_violations(),
            false => stage.violated(Rule::Reachable),
        }
    }
    Ok(())
}

#[test]
fn who_leads_to_memory_is_told() -> Result<()> {
    let mut stage = Stage::new()?;
    let [memory, _] = stage.scene.memory;
    let key = stage.keys[0] >> 8;
    stage.set(0, 2..4, READ_ONLY)?;
    let maps = |stage: &mut Stage, ask: &str, page: u64| {
        let question = json!({"ask": ask, "address": memory + page * PAGE});
        let answer = stage.scene.driver.device.ask(&question.to_string());
        answer["maps"].clone()
    };
    let one = |page: u64, writable: bool| json!([{"key": key, "address": START + page * PAGE, "writable": writable}]);
    assert_eq!(maps(&mut stage, "who-maps", 3), one(3, false));
    assert_eq!(maps(&mut stage, "read-only", 3), one(3, false));
    assert_eq!(maps(&mut stage, "unmapped", 4), json!([]));
    stage.no_violations();
    assert_eq!(maps(&mut stage, "unmapped", 3), one(3, false));
    stage.violated(Rule::Frames);
    let mut stage = Stage::new()?;
    stage.set(0, 2..4, READ_WRITE)?;
    assert_eq!(maps(&mut stage, "read-only", 2), one(2, true));
    stage.violated(Rule::Frames);
    // A key that is free leads nowhere.
    stage.change(stage.keys[0], 0, &[], Some((29, mkc::FREE, 1)))?;
    assert_eq!(maps(&mut stage, "who-maps", 2), json!([]));
    for odd in ["", "[]", "{}", "{\"ask\": \"unmapped\"}"] {
        let answer = stage.scene.driver.device.ask(odd);
        assert!(answer["error"].is_string(), "{odd}");
    }
    Ok(())
}
