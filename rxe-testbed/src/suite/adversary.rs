// SPDX-License-Identifier: GPL-2.0
//! What the emulated ConnectX does to its driver while a test runs: before the test it is told, afterwards it is asked
//! whether it has done it. What the test itself runs has to end well all the same.

use serde_json::{json, Value};

use super::one_test::run_one;
use crate::nic::Nic;
use crate::vm::Vm;

/// Where the queue of the driver has to overrun.
const OVERRUN: &str = "/adversary-overrun";

/// Who is told what: ends of tests' names, and what the device is asked, one after the other.
const ASKED: &[(&str, &[&str])] = &[
    // All that a device may do.
    (
        "/adversary-chance",
        &[r#"{"ask": "adversary", "script": {"seed": 1}}"#],
    ),
    // The same, but that packets are lost: then a queue pair may give up.
    (
        "/adversary-late",
        &[r#"{"ask": "adversary", "script": {"seed": 1, "rules": [
            {"do": {"delay-fault": 30}, "one-in": 4},
            {"do": {"split-fault": 10}, "one-in": 4},
            {"do": {"delay-command": {"command": "PAGE_FAULT_RESUME", "ms": 10}}, "one-in": 8},
            {"do": {"hold-update": 20}, "one-in": 8}
        ]}}"#],
    ),
    (
        "/adversary-twice",
        &[r#"{"ask": "adversary", "script": {"rules": [{"do": "repeat-fault"}]}}"#],
    ),
    (
        "/adversary-held-updates",
        &[
            r#"{"ask": "adversary", "script": {"rules": [{"do": {"hold-update": 200}, "times": 10}]}}"#,
        ],
    ),
    (
        "/adversary-refused-key",
        &[r#"{"ask": "adversary", "script": {"rules": [
            {"do": {"fail-command": {"command": "CREATE_MKEY", "status": "no-resources"}}, "times": 1}
        ]}}"#],
    ),
    (
        "/adversary-refused-resume",
        &[r#"{"ask": "adversary", "script": {"rules": [
            {"do": {"fail-command": {"command": "PAGE_FAULT_RESUME", "status": "resource-busy"}}, "times": 1}
        ]}}"#],
    ),
    // Faults that nobody has had, all at once.
    (
        "/adversary-no-such-key",
        &[r#"{"ask": "invent-faults", "what": "unknown-key", "count": 500}"#],
    ),
    (
        "/adversary-no-such-pair",
        &[r#"{"ask": "invent-faults", "what": "unknown-pair", "count": 100}"#],
    ),
    (
        "/adversary-past-end",
        &[r#"{"ask": "invent-faults", "what": "past-end", "count": 100}"#],
    ),
    (
        "/adversary-no-bytes",
        &[r#"{"ask": "invent-faults", "what": "no-bytes", "count": 100}"#],
    ),
    // The driver still answers faults when it falls ill.
    (
        "/adversary-ill",
        &[
            r#"{"ask": "adversary", "script": {"rules": [
                {"do": {"delay-command": {"command": "PAGE_FAULT_RESUME", "ms": 600000}}, "times": 100}
            ]}}"#,
            r#"{"ask": "invent-faults", "what": "unknown-key", "count": 100}"#,
            r#"{"ask": "fall-ill"}"#,
            NOTHING,
        ],
    ),
    // More than its queue has room for.
    (
        OVERRUN,
        &[r#"{"ask": "invent-faults", "what": "unknown-key", "count": 20000}"#],
    ),
    // The driver goes while it answers them.
    (
        "/adversary-reset",
        &[
            r#"{"ask": "adversary", "script": {"rules": [
                {"do": {"delay-command": {"command": "PAGE_FAULT_RESUME", "ms": 5000}}, "times": 100}
            ]}}"#,
            r#"{"ask": "invent-faults", "what": "unknown-key", "count": 100}"#,
        ],
    ),
    // After both ends have registered their memory.
    (
        "/adversary-failed-update",
        &[
            r#"{"ask": "adversary", "script": {"rules": [{"do": "fail-update", "skip": 2, "times": 1}]}}"#,
        ],
    ),
];

/// Seconds that a command may take which does nothing.
const MOMENT: u64 = 30;

/// What a device does that does nothing of its own.
const NOTHING: &str = r#"{"ask": "adversary", "script": {"rules": []}}"#;

fn asked(test: &str) -> Option<&'static [&'static str]> {
    let mut all = ASKED.iter();
    all.find_map(|(end, questions)| test.ends_with(end).then_some(*questions))
}

/// Tells the device what to do during a test, if there is something. An error is what it says to that.
pub(super) fn before(vm: &mut Vm, test: &str) -> Result<(), String> {
    let Some(questions) = asked(test) else {
        return Ok(());
    };
    // What the kernel logs of it is logged during the test.
    run_one(vm, test, "true", MOMENT)?;
    for question in questions {
        let answer = ask(vm, question)?;
        if test.ends_with(OVERRUN) && answer["lost"].as_u64().unwrap_or(0) == 0 {
            return Err(format!("the queue has not overrun: {answer}"));
        }
        told(answer)?;
    }
    Ok(())
}

/// Has the device do nothing any more. An error is what it has not done, or a page fault that waits.
pub(super) fn after(vm: &Vm, test: &str) -> Result<(), String> {
    let Some(questions) = asked(test) else {
        return Ok(());
    };
    let script = questions
        .iter()
        .any(|question| question.contains("\"script\""));
    if script && questions.last() != Some(&NOTHING) {
        let report = ask(vm, r#"{"ask": "adversary"}"#)?;
        told(ask(vm, NOTHING)?)?;
        if !struck(&report) {
            return Err(format!("the device had no occasion: {report}"));
        }
    }
    let counts = ask(vm, r#"{"ask": "faults"}"#)?;
    match counts["waiting"].as_u64() {
        Some(0) => Ok(()),
        _ => Err(format!("page faults: {counts}")),
    }
}

fn ask(vm: &Vm, question: &str) -> Result<Value, String> {
    let nic: &Nic = vm.nic().ok_or("the VM has no emulated ConnectX")?;
    let question: Value = serde_json::from_str(question).map_err(|error| error.to_string())?;
    nic.ask(&question).map_err(|error| format!("{error:#}"))
}

fn told(answer: Value) -> Result<(), String> {
    match answer.get("error") {
        Some(error) => Err(format!("the device says: {error}")),
        None => Ok(()),
    }
}

/// Whether something of a script was done.
fn struck(report: &Value) -> bool {
    let rules = report["rules"].as_array();
    rules.is_some_and(|rules| rules.iter().any(|rule| rule["done"] != json!(0)))
}

/// Each test that says that there is an adversary has one, and the other way round.
#[cfg(test)]
pub(super) fn assert_named<'a>(tests: impl Iterator<Item = &'a str>) {
    let tests: Vec<&str> = tests.collect();
    for test in &tests {
        assert_eq!(
            test.contains("/adversary-"),
            asked(test).is_some(),
            "{test}"
        );
    }
    for (end, _) in ASKED {
        assert!(tests.iter().any(|test| test.ends_with(end)), "{end}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_an_object() -> serde_json::Result<()> {
        for question in ASKED.iter().flat_map(|(_, questions)| *questions) {
            let question: Value = serde_json::from_str(question)?;
            assert!(question["ask"].is_string());
            let script = question.get("script").map(ToString::to_string);
            assert!(script.is_none_or(|script| odp_hca::Script::parse(&script).is_ok()));
        }
        Ok(())
    }

    #[test]
    fn something_has_to_be_done() {
        let rule = |done: u64| json!({"do": "lose-packet", "seen": 9, "done": done});
        assert!(struck(&json!({"rules": [rule(0), rule(3)]})));
        assert!(!struck(&json!({"rules": [rule(0)]})));
        assert!(!struck(&json!({"error": "?"})));
    }
}
