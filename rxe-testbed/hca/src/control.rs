// SPDX-License-Identifier: GPL-2.0
//! Questions about the device, and its answers: a socket, and an object of JSON a line for each.
//!
//! `{"ask": "who-maps", "address": A, "length": L}` gives the keys that lead to memory between these addresses;
//! `unmapped` and `read-only` instead of `who-maps` say that none may, or only for reading, and are rule I6;
//! `{"ask": "adversary", "script": S}` has the device follow a script from now on, and gives what it has done so far; without
//! `script` only the latter.
//! `{"ask": "invent-faults", "what": W, "count": N}` tells the driver of page faults that make no sense, and gives their
//! tokens, and how many more were lost; `fall-ill` shows an error of the firmware's from which only a reset helps, until
//! a driver enables the device anew.
//! `faults` gives how many page faults there were, were resumed, and wait; `violations` what was wrong so far.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{json, Value};

use crate::adversary::Script;
use crate::device::Device;
use crate::invent::{Invented, Nonsense};
use crate::layout::mkc;
use crate::mkey::{MemoryKey, Translation, WRITABLE};
use crate::trace::Rule;

/// The longest line, and how often it is looked whether all is over.
const LONGEST: usize = 4096;
const PATIENCE: Duration = Duration::from_millis(100);

/// What a question without a length is about: a page.
const PAGE: u64 = 4096;

/// Answers questions at `listener`, one client after the other, until all is over.
pub(crate) fn serve(listener: &UnixListener, over: &AtomicBool, answer: impl Fn(&str) -> Value) {
    let listening = listener.set_nonblocking(true).is_ok();
    while listening && !over.load(Ordering::SeqCst) {
        match listener.accept() {
            // Who goes in the middle of a line has no more questions.
            Ok((client, _)) => drop(talk(&client, over, &answer)),
            Err(_) => std::thread::sleep(PATIENCE),
        }
    }
}

fn talk(client: &UnixStream, over: &AtomicBool, answer: &impl Fn(&str) -> Value) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client);
    let mut line = Vec::new();
    while !over.load(Ordering::SeqCst) && line.len() <= LONGEST {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                continue
            }
            Err(error) => return Err(error),
        }
        let mut writer = client;
        writeln!(writer, "{}", answer(&String::from_utf8_lossy(&line)))?;
        line.clear();
    }
    Ok(())
}

impl Device {
    /// Answers a question, which is an object of JSON.
    pub fn ask(&mut self, question: &str) -> Value {
        let Ok(question) = serde_json::from_str::<Value>(question) else {
            return json!({"error": "not an object of JSON"});
        };
        match question["ask"].as_str() {
            Some("faults") => {
                let (raised, resumed, waiting) = self.faults.counts();
                json!({"raised": raised, "resumed": resumed, "waiting": waiting})
            }
            Some("adversary") => match question.get("script") {
                None => self.adversary.report(),
                Some(script) => match Script::from_json(script.clone()) {
                    Ok(script) => {
                        self.follow(script);
                        self.adversary.report()
                    }
                    Err(error) => json!({"error": error.to_string()}),
                },
            },
            Some("invent-faults") => self.invent_faults(&question),
            Some("fall-ill") => {
                self.fall_ill();
                json!({})
            }
            Some("violations") => {
                let all = self.bus.violations();
                json!({"violations": all.iter().map(ToString::to_string).collect::<Vec<_>>()})
            }
            Some(ask @ ("who-maps" | "unmapped" | "read-only")) => {
                let Some(address) = question["address"].as_u64() else {
                    return json!({"error": "no `address`, which is a number"});
                };
                let length = question["length"].as_u64().unwrap_or(PAGE);
                let maps = self.who_maps(address, length);
                let wrong = maps
                    .iter()
                    .find(|map| ask == "unmapped" || ask == "read-only" && map.writable);
                if let Some(wrong) = wrong {
                    let (key, at) = (wrong.key, wrong.address);
                    let text = format!(
                        "key {key:#x} leads from {at:#x} to {address:#x}, which is to be {ask}"
                    );
                    self.bus.violation(Rule::Frames, text);
                }
                let maps = maps.iter().map(Mapping::to_json).collect::<Vec<_>>();
                json!({"maps": maps})
            }
            _ => {
                json!({"error": "`ask` for who-maps, unmapped, read-only, faults, adversary, invent-faults, fall-ill or violations"})
            }
        }
    }

    fn invent_faults(&mut self, question: &Value) -> Value {
        let count = question["count"].as_u64().unwrap_or(1);
        let told = Nonsense::deserialize(&question["what"])
            .map_err(|error| format!("what: {error}"))
            .and_then(|what| self.invent(what, count));
        match told {
            Ok(Invented { tokens, lost }) => json!({"tokens": tokens, "lost": lost}),
            Err(error) => json!({"error": error}),
        }
    }

    /// Which keys lead to memory between these addresses, which are those of the bus. Keys whose addresses are those of
    /// memory are not among them.
    fn who_maps(&self, address: u64, length: u64) -> Vec<Mapping> {
        let end = address.saturating_add(length);
        let mut found = Vec::new();
        for (number, key) in self.mkeys.iter() {
            let context = key.context();
            let Some(Translation::Pages(log_page)) = key.translation() else {
                continue;
            };
            if mkc::FREE.is_set(context) {
                continue;
            }
            let page = 1_u64 << log_page;
            let first = mkc::START_ADDR.get(context) & !(page - 1);
            let may_write = mkc::LW.is_set(context) || mkc::RW.is_set(context);
            for (index, entry) in key.pages() {
                let base = entry & !(page - 1);
                if base < end && base.saturating_add(page) > address {
                    found.push(Mapping {
                        key: number,
                        address: first.wrapping_add(index << log_page),
                        writable: may_write && is_writable(key, entry),
                    });
                }
            }
        }
        found
    }
}

fn is_writable(key: &MemoryKey, entry: u64) -> bool {
    !key.has_page_rights() || entry & WRITABLE != 0
}

/// A key that leads to memory.
struct Mapping {
    key: u32,
    address: u64,
    writable: bool,
}

impl Mapping {
    fn to_json(&self) -> Value {
        json!({"key": self.key, "address": self.address, "writable": self.writable})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn clients_come_one_after_the_other() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path)?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let server = std::thread::spawn(move || {
            serve(&listener, &ended, |line| json!({"said": line.trim()}));
        });
        for round in 0..2 {
            let client = UnixStream::connect(&path)?;
            let mut reader = BufReader::new(&client);
            for part in ["first", "second"] {
                // A line may come in pieces.
                (&client).write_all(part.as_bytes())?;
                std::thread::sleep(PATIENCE * round);
                (&client).write_all(b"\n")?;
                let mut line = String::new();
                reader.read_line(&mut line)?;
                assert_eq!(line, format!("{{\"said\":\"{part}\"}}\n"));
            }
        }
        let silent = UnixStream::connect(&path)?;
        over.store(true, Ordering::SeqCst);
        assert!(server.join().is_ok());
        drop(silent);
        Ok(())
    }
}
