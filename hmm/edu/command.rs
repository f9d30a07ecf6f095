// SPDX-License-Identifier: GPL-2.0

//! What the test program can have done, through two files in debugfs.
//!
//! A line written to `command` is carried out; what it says is read from `result`. Numbers are
//! decimal, addresses are in bytes.
//!
//! | command                          | does                                                       |
//! |----------------------------------|------------------------------------------------------------|
//! | `open ADDRESS PAGES`             | makes the device ready for pages of the calling process    |
//! | `mirror ADDRESS PAGES`           | the same by a mirror, with translations of the device's    |
//! | `map ADDRESS PAGES read\|write`  | faults pages in and maps them                              |
//! | `copy ADDRESS LENGTH from\|to`   | the device reads from, or writes to, the process's memory  |
//! | `access BUS LENGTH from\|to`     | the same at an address of the device, mapped or not: only where an IOMMU is in between |
//! | `translate BUS`                  | says what the IOMMU translates it to                       |
//! | `list`                           | lists the mappings, one a line                             |
//! | `zaps DELAY ZAPS CUTS COPIES`    | of a mirror: how the device forgets pages from now on      |
//! | `hold`                           | the calling thread sleeps, and cannot be killed            |
//! | `let-go`                         | wakes it                                                   |
//! | `close`                          | ends the session                                           |
//!
//! With `zaps` it takes that many milliseconds longer, and is not confirmed so many times: by the first fence, and by the
//! second; and so many copies seem not to end.

use core::str::SplitWhitespace;
use core::sync::atomic::{AtomicBool, Ordering};

use hmm::{page_offset, Access, Addressing, DmaRange, DmaRun, PageIndex, PageRange};
use kernel::debugfs::ScopedDir;
use kernel::device::{Bound, Device};
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{new_mutex, Mutex};
use kernel::uaccess::UserSliceReader;

use crate::device::nap_while;
use crate::engine::{Engine, Way};
use crate::mirrored;
use crate::session;

/// The device, as the files see it.
#[pin_data]
pub(crate) struct Commands {
    device: &'static Device<Bound>,
    narrow_refused: bool,
    /// Whether the thread that said `hold` goes on sleeping.
    held: AtomicBool,
    #[pin]
    state: Mutex<State>,
}

struct State {
    // Dropped first: nothing is mapped any more when the registers go.
    session: Option<Session>,
    engine: Engine,
    result: Option<CString>,
}

/// The two ways to have pages on the device.
enum Session {
    /// The driver keeps their mappings, and the engine is started under a spinlock.
    Direct(Pin<KBox<session::Session>>),
    /// A mirror keeps them, with translations on the device.
    Mirrored(mirrored::Session),
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
            held: AtomicBool::new(false),
            state <- new_mutex!(State {
                session: None,
                engine,
                result: None,
            }),
        })
    }

    fn run(&self, line: &str) -> Result {
        let mut words = line.split_whitespace();
        let command = words.next();
        // Others go on meanwhile.
        match command {
            Some("hold") => return self.hold(),
            Some("let-go") => {
                self.held.store(false, Ordering::Relaxed);
                return Ok(());
            }
            _ => {}
        }
        let mut state = self.state.lock();
        state.result = None;
        let result = match command {
            Some("open") => self.open(&mut state, &mut words)?,
            Some("mirror") => self.mirror(&mut state, &mut words)?,
            Some("zaps") => state.zaps(&mut words)?,
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

    fn hold(&self) -> Result {
        self.held.store(true, Ordering::Relaxed);
        nap_while(|| self.held.load(Ordering::Relaxed));
        Ok(())
    }

    fn open(&self, state: &mut State, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        if state.session.is_some() {
            return Err(EBUSY);
        }
        let pages = pages(words)?;
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let session = KBox::pin_init(session::Session::open(mm, self.device, pages), GFP_KERNEL)?;
        let narrow = if self.narrow_refused {
            "refused"
        } else {
            "taken"
        };
        let text = CString::try_from_fmt(fmt!("{:?} narrow-{narrow}", session.range.addressing()))?;
        state.session = Some(Session::Direct(session));
        Ok(text)
    }

    fn mirror(&self, state: &mut State, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        if state.session.is_some() {
            return Err(EBUSY);
        }
        let pages = pages(words)?;
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let session = mirrored::Session::open(mm, self.device, pages)?;
        let text = CString::try_from_fmt(fmt!("{:?}", session.range.addressing()))?;
        state.session = Some(Session::Mirrored(session));
        Ok(text)
    }
}

impl State {
    fn session(&self) -> Result<&Session> {
        self.session.as_ref().ok_or(ENODEV)
    }

    /// How the device reaches memory.
    fn range(&self) -> Result<&DmaRange<'static>> {
        Ok(match self.session()? {
            Session::Direct(session) => &session.range,
            Session::Mirrored(session) => &session.range,
        })
    }

    fn close(&mut self) -> Result<CString> {
        let (mapped, unmapped) = match self.session.take().ok_or(ENODEV)? {
            Session::Direct(session) => {
                let last = PageIndex::new(u64::MAX);
                let mut table = session.table.write();
                table.take_out(PageRange::new(PageIndex::new(0), last));
                table.counts()
            }
            Session::Mirrored(session) => session.close(),
        };
        CString::try_from_fmt(fmt!("mapped {mapped} unmapped {unmapped}"))
    }

    fn zaps(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let Session::Mirrored(session) = self.session()? else {
            return Err(EINVAL);
        };
        let delay = number(words)?;
        let (zaps, cuts, copies) = (number(words)?, number(words)?, number(words)?);
        session.device.behaviour.set(delay, zaps, cuts, copies);
        empty()
    }

    fn map(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let pages = pages(words)?;
        let access = match words.next() {
            Some("read") => Access::Read,
            Some("write") => Access::Write,
            _ => return Err(EINVAL),
        };
        match self.session()? {
            Session::Direct(session) => {
                let task = kernel::current!();
                session.map(task.mm().ok_or(EINVAL)?, pages, access)?;
            }
            Session::Mirrored(session) => session.map(pages, access)?,
        }
        empty()
    }

    fn copy(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let (addr, len, way) = (number(words)?, number(words)?, way(words)?);
        match self.session.as_ref().ok_or(ENODEV)? {
            Session::Direct(session) => session.copy(&mut self.engine, addr, len, way)?,
            Session::Mirrored(session) => session.copy(&mut self.engine, addr, len, way)?,
        }
        empty()
    }

    fn access(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let (addr, len, way) = (number(words)?, number(words)?, way(words)?);
        if self.range()?.addressing() == Addressing::Frames {
            return Err(EPERM);
        }
        let offset = page_offset(addr) as u64;
        self.engine.copy(addr, way, offset, len)?;
        empty()
    }

    fn translate(&mut self, words: &mut SplitWhitespace<'_>) -> Result<CString> {
        let addr = number(words)?;
        match self.range()?.translated(addr) {
            Some(pfn) => CString::try_from_fmt(fmt!("{}", pfn.get())),
            None => empty(),
        }
    }

    fn list(&mut self) -> Result<CString> {
        // The text is made where nothing may sleep, so what it is about is copied first.
        let mut runs = KVVec::with_capacity(MOST_LISTED, GFP_KERNEL)?;
        let mut list = |run: DmaRun| runs.push_within_capacity(run).map_err(|_| ENOSPC);
        match self.session()? {
            Session::Direct(session) => {
                session.table.read().runs().try_for_each(|run| list(*run))?
            }
            Session::Mirrored(session) => session.device.extents(list)?,
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
