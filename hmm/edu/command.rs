// SPDX-License-Identifier: GPL-2.0

//! What the test program can have done, through two files in debugfs.
//!
//! A line written to `command` is carried out; what it says is read from `result`. Numbers are
//! decimal, addresses are in bytes.
//!
//! | command                          | does                                                       |
//! |----------------------------------|------------------------------------------------------------|
//! | `open ADDRESS PAGES`             | makes the device ready for pages of the calling process    |
//! | `map ADDRESS PAGES read\|write`  | faults pages in and maps them                              |
//! | `copy ADDRESS LENGTH from\|to`   | the device reads from, or writes to, the process's memory  |
//! | `access BUS LENGTH from\|to`     | the same at an address of the device, mapped or not: only where an IOMMU is in between |
//! | `translate BUS`                  | says what the IOMMU translates it to                       |
//! | `list`                           | lists the mappings, one a line                             |
//! | `close`                          | ends the session                                           |

use core::str::SplitWhitespace;

use hmm::{page_offset, Access, Addressing, DmaRun, PageIndex, PageRange};
use kernel::debugfs::ScopedDir;
use kernel::device::{Bound, Device};
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{new_mutex, Mutex};
use kernel::uaccess::UserSliceReader;

use crate::engine::{Engine, Way};
use crate::session::Session;

/// The device, as the files see it.
#[pin_data]
pub(crate) struct Commands {
    device: &'static Device<Bound>,
    narrow_refused: bool,
    #[pin]
    state: Mutex<State>,
}

struct State {
    // Dropped first: nothing is mapped any more when the registers go.
    session: Option<Pin<KBox<Session>>>,
    engine: Engine,
    result: Option<CString>,
}

impl Commands {
    pub(crate) fn new(
        device: &'static Device<Bound>,
        engine: Engine,
        narrow_refused: bool,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            device,
            narrow_refused,
            state <- new_mutex!(State {
                session: None,
                engine,
                result: None,
            }),
        })
    }

    fn run(&self, line: &str) -> Result {
        let mut words = line.split_whitespace();
        let mut state = self.state.lock();
        state.result = None;
        let result = match words.next() {
            Some("open") => self.open(&mut state, &mut words)?,
            Some("close") => state.close()?,
            Some("map") => state.map(&mut words)?,
            Some("copy") => state.copy(&mut words)?,
            Some("access") => state.access(&mut words)?,
            Some("translate") => state.translate(&mut words)?,
            Some("list") => state.list()?,
            _ => return Err(EINVAL),
        };
        state.result = Some(result);
        Ok(())
    }

    fn open(&self, state: &mut State, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        if state.session.is_some() {
            return Err(EBUSY);
        }
        let pages = pages(words)?;
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let session = KBox::pin_init(Session::open(mm, self.device, pages), GFP_KERNEL)?;
        let narrow = if self.narrow_refused {
            "refused"
        } else {
            "taken"
        };
        let text = CString::try_from_fmt(fmt!("{:?} narrow-{narrow}", session.range.addressing()))?;
        state.session = Some(session);
        Ok(text)
    }
}

impl State {
    fn session(&self) -> Result<&Session> {
        self.session.as_deref().ok_or(ENODEV)
    }

    fn close(&mut self) -> Result<CString> {
        let session = self.session.take().ok_or(ENODEV)?;
        let last = PageIndex::new(u64::MAX);
        let mut table = session.table.write();
        table.take_out(PageRange::new(PageIndex::new(0), last));
        let (mapped, unmapped) = table.counts();
        drop(table);
        CString::try_from_fmt(fmt!("mapped {mapped} unmapped {unmapped}"))
    }

    fn map(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let pages = pages(words)?;
        let access = match words.next() {
            Some("read") => Access::Read,
            Some("write") => Access::Write,
            _ => return Err(EINVAL),
        };
        let task = kernel::current!();
        self.session()?
            .map(task.mm().ok_or(EINVAL)?, pages, access)?;
        empty()
    }

    fn copy(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let (addr, len, way) = (number(words)?, number(words)?, way(words)?);
        let session = self.session.as_deref().ok_or(ENODEV)?;
        session.copy(&mut self.engine, addr, len, way)?;
        empty()
    }

    fn access(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let (addr, len, way) = (number(words)?, number(words)?, way(words)?);
        if self.session()?.range.addressing() == Addressing::Frames {
            return Err(EPERM);
        }
        let offset = page_offset(addr) as u64;
        self.engine.copy(addr, way, offset, len)?;
        empty()
    }

    fn translate(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let addr = number(words)?;
        match self.session()?.range.translated(addr) {
            Some(pfn) => CString::try_from_fmt(fmt!("{}", pfn.get())),
            None => empty(),
        }
    }

    fn list(&mut self) -> Result<CString> {
        // The text is made where nothing may sleep, so what it is about is copied first.
        let mut runs = KVVec::with_capacity(MOST_LISTED, GFP_KERNEL)?;
        for run in self.session()?.table.read().runs() {
            runs.push_within_capacity(*run).map_err(|_| ENOSPC)?;
        }
        CString::try_from_fmt(fmt!("{}", List(&runs)))
    }
}

const MOST_LISTED: usize = 1024;

/// Mappings as text.
struct List<'a>(&'a [DmaRun]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0 {
            writeln!(
                f,
                "{} {} {} {:?} {:?} {}",
                run.start.addr(),
                run.pages,
                run.addr,
                run.perm,
                run.route,
                run.pfn.get()
            )?;
        }
        Ok(())
    }
}

fn empty() -> Result<CString> {
    CString::try_from_fmt(fmt!(""))
}

fn number(words: &mut SplitWhitespace<'_>) -> Result<u64> {
    words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or(EINVAL)
}

fn pages(words: &mut SplitWhitespace<'_>) -> Result<PageRange> {
    let start = PageIndex::containing(number(words)?);
    Ok(PageRange::new(start, start.saturating_add(number(words)?)))
}

fn way(words: &mut SplitWhitespace<'_>) -> Result<Way> {
    match words.next() {
        Some("from") => Ok(Way::FromMemory),
        Some("to") => Ok(Way::ToMemory),
        _ => Err(EINVAL),
    }
}

/// Makes the files.
pub(crate) fn add_files<'data>(commands: &'data Commands, dir: &ScopedDir<'data, '_>) {
    dir.write_only_callback_file(c"command", commands, &write_command);
    dir.read_callback_file(c"result", commands, &read_result);
}

fn write_command(commands: &Commands, text: &mut UserSliceReader) -> Result {
    let mut bytes = [0; 128];
    let bytes = bytes.get_mut(..text.len()).ok_or(EINVAL)?;
    text.read_slice(bytes)?;
    commands.run(core::str::from_utf8(bytes).map_err(|_| EINVAL)?)
}

fn read_result(commands: &Commands, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &commands.state.lock().result {
        Some(text) => f.write_str(text.to_str().map_err(|_| fmt::Error)?),
        None => Ok(()),
    }
}
