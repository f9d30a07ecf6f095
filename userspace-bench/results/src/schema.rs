// SPDX-License-Identifier: GPL-2.0
//! The schema of the file of JSON, for programs that read it.
//!
//! It is made from the types that are written, and kept in the documentation; the tests compare both, and check a file
//! as it is written against it.

use schemars::generate::SchemaSettings;

use crate::run::{Run, FORMAT};

/// The schema of [`FORMAT`], as JSON Schema 2020-12.
///
/// # Panics
///
/// If it cannot be written as JSON, which it can.
pub fn schema() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Run>();
    // A name, not a place: whoever keeps a schema knows by it of which form it is.
    let id = format!("urn:odp-bench:result:{FORMAT}");
    schema.insert("$id".into(), id.into());
    serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Counted, Metric, Missing, State, Unit};
    use serde_json::Value;
    use std::collections::BTreeMap;

    /// What is wrong with `value` according to `schema`, a part of `root`. A validator for all of JSON Schema would
    /// bring half of Unicode along; a keyword that is not known here is an error, too.
    fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
        let Some(rules) = schema.as_object() else {
            return Err(format!("{schema} is no schema"));
        };
        for (keyword, rule) in rules {
            let holds = match keyword.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description" | "format" => true,
                "$ref" => {
                    let path = rule.as_str().and_then(|path| path.strip_prefix('#'));
                    let part = path.and_then(|path| root.pointer(path));
                    check(root, part.ok_or("a reference to nothing")?, value)?;
                    true
                }
                "type" => match rule {
                    Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                    kind => is(kind, value),
                },
                "const" => rule == value,
                "enum" => list(rule).contains(value),
                "minimum" => value.is_null() || value.as_f64() >= rule.as_f64(),
                "anyOf" => list(rule).iter().any(|s| check(root, s, value).is_ok()),
                "oneOf" => {
                    let fit = |s: &&Value| check(root, s, value).is_ok();
                    list(rule).iter().filter(fit).count() == 1
                }
                "items" => {
                    for item in list(value) {
                        check(root, rule, item)?;
                    }
                    true
                }
                "required" => list(rule)
                    .iter()
                    .all(|name| value.get(name.as_str().unwrap()).is_some()),
                "properties" => {
                    for (name, part) in value.as_object().into_iter().flatten() {
                        let of = rule.get(name).unwrap_or(&Value::Null);
                        if !of.is_null() {
                            check(root, of, part).map_err(|why| format!("{name}: {why}"))?;
                        }
                    }
                    true
                }
                // The schema has to name each property itself.
                "additionalProperties" if *rule == Value::Bool(false) => {
                    let known = schema.get("properties").ok_or("no properties at all")?;
                    let names = value.as_object().into_iter().flat_map(|all| all.keys());
                    names.into_iter().all(|name| known.get(name).is_some())
                }
                "additionalProperties" => {
                    for part in value.as_object().into_iter().flat_map(|all| all.values()) {
                        check(root, rule, part)?;
                    }
                    true
                }
                unknown => return Err(format!("this test does not know {unknown}")),
            };
            if !holds {
                return Err(format!("{value} is against {keyword} {rule}"));
            }
        }
        Ok(())
    }

    fn list(value: &Value) -> &[Value] {
        value.as_array().map_or(&[], Vec::as_slice)
    }

    fn is(kind: &Value, value: &Value) -> bool {
        match kind.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => false,
        }
    }

    /// A run as it is written, with something of each kind.
    fn written() -> Value {
        let environment = BTreeMap::from([("kernel".to_owned(), "7.3".to_owned())]);
        let mut run = Run::new(true, environment);
        run.state = State::Finished;
        for (number, unit) in Unit::ALL.into_iter().enumerate() {
            let samples = (0..[1, 10, 100, 5000, 20][number]).map(f64::from).collect();
            let size = (number > 1).then_some(4096);
            run.metrics
                .extend(Metric::new(format!("a/{number}"), unit, size, samples));
        }
        let missing = Missing {
            case: "a/b".into(),
            why: "none".into(),
        };
        run.skipped.push(missing.clone());
        run.failed.push(missing);
        run.counters.push(Counted {
            case: "a/b".into(),
            before: BTreeMap::from([("faults".into(), 1)]),
            after: BTreeMap::from([("faults".into(), 2)]),
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        run.save(&path).unwrap();
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_what_the_schema_says() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        check(&schema, &schema, &written()).unwrap();
    }

    #[test]
    fn the_schema_refuses_what_is_not_written() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        let broken = |change: fn(&mut Value)| {
            let mut value = written();
            change(&mut value);
            check(&schema, &schema, &value).unwrap_err()
        };
        broken(|run| run["format"] = Value::from(FORMAT + 1));
        broken(|run| run["metrics"][0]["unit"] = "miles".into());
        broken(|run| run["metrics"][0]["summary"]["p50"] = Value::Null);
        broken(|run| run["counters"][0]["after"]["faults"] = (-1).into());
        broken(|run| run["more"] = 1.into());
        broken(|run| run["metrics"][0]["more"] = 1.into());
        broken(|run| run["metrics"][0]["summary"]["p75"] = 1.into());
        broken(|run| run["failed"][0]["more"] = 1.into());
        broken(|run| {
            run.as_object_mut().unwrap().remove("state");
        });
    }

    #[test]
    fn the_schema_says_of_which_form_it_is() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        assert_eq!(schema["$id"], format!("urn:odp-bench:result:{FORMAT}"));
        let objects = schema["$defs"].as_object().unwrap().iter();
        for (name, part) in objects.chain([(&"Run".to_owned(), &schema)]) {
            if part["type"] == "object" {
                assert_eq!(part["additionalProperties"], false, "{name}");
            }
        }
    }

    #[test]
    fn the_documentation_has_the_schema() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/src/odp-bench.schema.json"
        );
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, schema()).unwrap();
            return;
        }
        assert!(
            kept == schema(),
            "{path} is another one: if the file's form has changed, count FORMAT up, and make it anew with \
             UPDATE_SCHEMA=1 cargo test -p odp-results schema"
        );
    }
}
