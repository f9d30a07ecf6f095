// SPDX-License-Identifier: GPL-2.0
//! Page faults that nobody has had: what a driver is told of a key or a queue pair that there is not, or not any more. It
//! has to answer, and not to believe.

use serde::Deserialize;

use crate::access::Span;
use crate::device::Device;
use crate::eq::Event;
use crate::fabric::Remote;
use crate::faults::Cause;
use crate::layout::mkc;
use crate::mkey::Translation;
use crate::on_demand::Scheme;
use crate::profile::LOG_MAX_EQ_SIZE;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Nonsense {
    /// There is no such key.
    UnknownKey,
    /// It is about what lies after the end of a region.
    PastEnd,
    /// It is about no bytes of a region.
    NoBytes,
    /// There is no such queue pair. In the transport scheme.
    UnknownPair,
}

/// As many at once as the largest event queue has room for.
const MOST: u64 = 1 << LOG_MAX_EQ_SIZE;

/// Numbers at the end of what there may be.
const NO_KEY: u32 = 0xf_ffff << 8;
const NO_PAIR: u32 = 0xff_fff0;

const PAGE: u64 = 0x1000;

/// What became of them: the tokens of those that the driver was told of, and how many others there were.
pub(crate) struct Invented {
    pub(crate) tokens: Vec<u64>,
    pub(crate) lost: u64,
}

impl Device {
    /// Tells the driver of so many of them. More than its queue has room for are lost, and make that overrun.
    pub(crate) fn invent(&mut self, nonsense: Nonsense, count: u64) -> Result<Invented, String> {
        let scheme = self.capabilities.page_faults();
        let scheme = scheme.ok_or("the device has no page faults")?;
        let queue = self.events.listener(Event::PageFault);
        let queue = queue.ok_or("nobody wants to hear of page faults")?;
        if count > MOST {
            return Err(format!("`count` is at most {MOST}"));
        }
        if nonsense == Nonsense::UnknownPair && scheme == Scheme::Memory {
            return Err("the memory scheme names no queue pairs".into());
        }
        let span = self.lacked(nonsense)?;
        let cause = match nonsense {
            Nonsense::UnknownPair => Cause::Request {
                counter: 0,
                reads: false,
                done: 0,
            },
            _ => Cause::Remote {
                remote: Remote {
                    address: span.address,
                    key: span.key,
                    length: span.length,
                },
                done: 0,
                packet: span.length,
                write: false,
            },
        };
        let told = count.min(self.events.room(queue) as u64);
        let mut tokens = Vec::new();
        for _ in 0..told {
            // Without a queue pair there is nothing to resume.
            let answered = nonsense != Nonsense::UnknownPair;
            let told =
                self.faults
                    .invent(scheme, (queue, NO_PAIR), span, cause, answered, &self.bus);
            tokens.push(told.token);
            self.post_fault(&[told]);
        }
        let lost = count - told;
        if lost > 0 {
            self.events.overrun(queue);
        }
        Ok(Invented { tokens, lost })
    }

    /// What the fault says that it lacks.
    fn lacked(&self, nonsense: Nonsense) -> Result<Span, String> {
        if matches!(nonsense, Nonsense::UnknownKey | Nonsense::UnknownPair) {
            return Ok(Span {
                key: NO_KEY,
                address: PAGE,
                length: 8,
            });
        }
        let mut all = self.mkeys.iter();
        let region = all.find(|(_, key)| {
            let pages = matches!(key.translation(), Some(Translation::Pages(_)));
            pages && key.is_on_demand() && !mkc::FREE.is_set(key.context())
        });
        let (number, key) = region.ok_or("there is no region that comes on demand")?;
        let context = key.context();
        let start = mkc::START_ADDR.get(context);
        let key = (number << 8) | mkc::MKEY_7_0.get32(context);
        Ok(match nonsense {
            Nonsense::PastEnd => Span {
                key,
                address: start.wrapping_add(mkc::LEN.get(context)).wrapping_add(PAGE),
                length: 8,
            },
            _ => Span {
                key,
                address: start,
                length: 0,
            },
        })
    }
}
