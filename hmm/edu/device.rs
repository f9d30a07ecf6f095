// SPDX-License-Identifier: GPL-2.0

//! Emulates a device with its own translation table on top of the edu engine: a copy starts only if the table has its
//! pages.
//!
//! The table stands for what a NIC has in its memory. A change of it waits until the copy under way is over, as a NIC
//! confirms a change when no access uses the old translation any more: so the device forgets a page some tenths of a
//! second after it is asked to. How long that takes beyond that, and whether it works, can be set for tests
//! ([`Behaviour`]). An engine that does not end a copy may go on with it at any time: from then on nothing is confirmed.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hmm::{
    page_offset, Access, DeviceChunk, DmaRun, Entries, FaultError, MirrorDevice, PageIndex,
    PageRange, Perm, Pfn, Route, Zap, Zapped, PAGE_SIZE,
};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::{delay::fsleep, Delta};

use crate::engine::{Engine, Way};

/// The most pages of a session: 1 GiB.
const MOST_PAGES: u64 = 1 << 18;

/// A page's address for the engine, with flags below; 0 if it has none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

const WRITABLE: u64 = 1 << 0;
const VALID: u64 = 1 << 1;

impl Word {
    const NONE: Self = Self(0);

    fn new(addr: u64, perm: Perm) -> Self {
        match perm {
            Perm::ReadOnly => Self(addr | VALID),
            Perm::ReadWrite => Self(addr | VALID | WRITABLE),
        }
    }

    fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    fn addr(self) -> u64 {
        self.0 & !(PAGE_SIZE - 1)
    }

    fn perm(self) -> Perm {
        Perm::from_writable(self.0 & WRITABLE != 0)
    }
}

/// How the device behaves when it is to forget pages, and when it copies.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// How many milliseconds each zap takes longer than it has to, ten minutes at most. Also for one under way.
    delay: AtomicU64,
    /// How many zaps will not be confirmed, from now on.
    failing_zaps: AtomicU64,
    /// The same for cutting it off.
    failing_cuts: AtomicU64,
    /// How many copies seem not to end.
    endless_copies: AtomicU64,
}

impl Behaviour {
    pub(crate) fn set(&self, delay: u64, zaps: u64, cuts: u64, copies: u64) {
        self.delay.store(delay, Ordering::Relaxed);
        self.failing_zaps.store(zaps, Ordering::Relaxed);
        self.failing_cuts.store(cuts, Ordering::Relaxed);
        self.endless_copies.store(copies, Ordering::Relaxed);
    }

    fn wait(&self) {
        let mut slept = 0;
        nap_while(|| {
            slept += NAP;
            slept <= self.delay.load(Ordering::Relaxed)
        });
    }
}

/// How long at a time somebody sleeps, and in all at most, in milliseconds.
const NAP: u64 = 10;
const LONGEST: u64 = 600_000;

/// Sleeps while `goes_on` says so, but no longer than ten minutes. Cannot be killed.
pub(crate) fn nap_while(mut goes_on: impl FnMut() -> bool) {
    for _ in 0..LONGEST / NAP {
        if !goes_on() {
            break;
        }
        fsleep(Delta::from_millis(NAP as i64));
    }
}

/// Consumes one injected failure, if any is left.
fn fails(left: &AtomicU64) -> bool {
    let less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

/// The translations of the pages of a session.
#[pin_data]
pub(crate) struct Device {
    pages: PageRange,
    pub(crate) behaviour: Behaviour,
    /// How many words were entered, and how many taken out.
    entered: AtomicU64,
    forgotten: AtomicU64,
    /// A copy did not end: nobody knows what the engine still does with a translation that it was given. Written with the
    /// words locked.
    lost: AtomicBool,
    /// Held while the engine uses one of them.
    #[pin]
    words: Mutex<KVVec<Word>>,
}

impl Device {
    pub(crate) fn new(pages: PageRange) -> Result<Arc<Self>> {
        if pages.is_empty() || pages.len() > MOST_PAGES {
            return Err(EINVAL);
        }
        let words = KVVec::from_elem(Word::NONE, pages.len() as usize, GFP_KERNEL)?;
        let device = pin_init!(Self {
            pages,
            behaviour: Behaviour::default(),
            entered: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            words <- new_mutex!(words),
        });
        Arc::pin_init(device, GFP_KERNEL)
    }

    fn index(&self, page: PageIndex) -> usize {
        page.get().wrapping_sub(self.pages.start().get()) as usize
    }

    /// Copies between the process's memory and the device's buffer; `None` if the device has no translation for it, and
    /// has to fault.
    pub(crate) fn copy(
        &self,
        engine: &mut Engine,
        user: u64,
        len: u64,
        way: Way,
    ) -> Result<Option<()>> {
        let offset = page_offset(user) as u64;
        if len > PAGE_SIZE - offset {
            return Err(EINVAL);
        }
        let words = self.words.lock();
        let word = words.get(self.index(PageIndex::containing(user)));
        let access = way.access();
        let allowed = word.filter(|word| word.is_valid() && word.perm().allows(access));
        let Some(word) = allowed else {
            return Ok(None);
        };
        let mut copied = engine.copy_sleeping(word.addr() + offset, way, offset, len);
        if fails(&self.behaviour.endless_copies) {
            copied = Err(ETIMEDOUT);
        }
        if copied == Err(ETIMEDOUT) {
            self.lost.store(true, Ordering::Relaxed);
        }
        copied.map(Some)
    }

    /// Takes the words of `pages` out, and confirms that the engine uses none of them.
    fn forget<'z>(&self, pages: PageRange, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
        // After the copy under way.
        drop(self.words.lock());
        if self.lost.load(Ordering::Relaxed) {
            return Err(zap);
        }
        self.write(pages, |_| Word::NONE);
        // Another one may have begun in between.
        match self.lost.load(Ordering::Relaxed) {
            true => Err(zap),
            false => Ok(zap.confirmed()),
        }
    }

    /// Changes the words of `pages` to what `word` says.
    fn write(&self, pages: PageRange, mut word: impl FnMut(PageIndex) -> Word) {
        let mut words = self.words.lock();
        for page in pages.start().get()..pages.end().get() {
            let page = PageIndex::new(page);
            let Some(old) = words.get_mut(self.index(page)) else {
                continue;
            };
            let new = word(page);
            let count = |counter: &AtomicU64, there: Word, gone: Word| {
                if there.is_valid() && !gone.is_valid() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            };
            count(&self.entered, new, *old);
            count(&self.forgotten, *old, new);
            *old = new;
        }
    }

    /// How many words were entered, and how many taken out.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.entered.load(Ordering::Relaxed),
            self.forgotten.load(Ordering::Relaxed),
        )
    }

    /// Calls `visit` with what the device has, in ascending order. It knows no frames.
    ///
    /// # Errors
    ///
    /// Those of `visit`.
    pub(crate) fn extents(&self, mut visit: impl FnMut(DmaRun) -> Result) -> Result {
        let words = self.words.lock();
        let mut last = None::<DmaRun>;
        for (page, word) in (self.pages.start().get()..).zip(words.iter()) {
            let next = word.is_valid().then(|| DmaRun {
                start: PageIndex::new(page),
                pfn: Pfn::new(0),
                pages: 1,
                addr: word.addr(),
                perm: word.perm(),
                order: 0,
                route: Route::Memory,
            });
            match (&mut last, next) {
                (Some(last), Some(next)) if continued_by(last, &next) => last.pages += 1,
                (_, next) => {
                    last.map_or(Ok(()), &mut visit)?;
                    last = next;
                }
            }
        }
        last.map_or(Ok(()), visit)
    }
}

fn continued_by(run: &DmaRun, next: &DmaRun) -> bool {
    let end = run.range().end();
    run.perm == next.perm && end == next.start && run.addr + run.pages * PAGE_SIZE == next.addr
}

/// The session as the device of a mirror.
pub(crate) struct Region(pub(crate) Arc<Device>);

/// What the device has for one chunk: some of the words.
pub(crate) struct Part {
    device: Arc<Device>,
    pages: PageRange,
}

impl MirrorDevice for Region {
    type Chunk = Part;

    fn open(&self, pages: PageRange) -> Result<Part> {
        let device = self.0.clone();
        Ok(Part { device, pages })
    }
}

impl DeviceChunk for Part {
    fn enter(&mut self, entries: &Entries<'_>) -> Result<(), FaultError> {
        self.device.write(entries.changed(), |page| {
            let entry = entries.at(page);
            entry.map_or(Word::NONE, |entry| Word::new(entry.addr, entry.perm))
        });
        Ok(())
    }

    fn zap<'z>(&mut self, zap: Zap<'z>, _entries: &Entries<'_>) -> Result<Zapped<'z>, Zap<'z>> {
        self.device.behaviour.wait();
        if fails(&self.device.behaviour.failing_zaps) {
            return Err(zap);
        }
        self.device.forget(zap.pages(), zap)
    }

    fn cut_off<'z>(&mut self, zap: Zap<'z>) -> Result<Zapped<'z>, Zap<'z>> {
        if fails(&self.device.behaviour.failing_cuts) {
            return Err(zap);
        }
        self.device.forget(self.pages, zap)
    }
}

impl Way {
    /// What the device does with memory.
    pub(crate) fn access(self) -> Access {
        match self {
            Way::FromMemory => Access::Read,
            Way::ToMemory => Access::Write,
        }
    }
}
