// SPDX-License-Identifier: GPL-2.0
//! A file whose pages come when a test wants them to: a FUSE file system of this process's own.
//!
//! A thread that touches a page that is withheld waits until it is released, or for ever: until the file system is
//! given up, and then gets an error. That happens when the file is dropped, when the process ends, and when a
//! test has taken so long that it is about to be killed, so nothing that waits is left behind. Single pages can
//! be made to fail, too.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr},
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, Notifier, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use tempfile::TempDir;

use crate::{memory::PAGE, patience, pattern::Pattern};

/// The device that a server of files talks to.
pub const DEVICE: &str = "/dev/fuse";
/// The one file.
const NAME: &str = "file";
const FILE: INodeNo = INodeNo(2);
/// After this the file system is given up, if nothing else was asked for: shorter than any test may take.
const LIFE: Duration = Duration::from_secs(100);
/// What the kernel knows of a file stays true for as long as it likes.
const TTL: Duration = Duration::from_secs(1 << 20);

/// A file whose pages can be withheld, mounted under a name of its own.
#[derive(Debug)]
pub struct SlowFile {
    state: Arc<State>,
    dir: TempDir,
    /// Tells the kernel what it has to forget.
    notifier: Notifier,
    /// Dropped to have the file system given up.
    life: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl SlowFile {
    /// One of `pages` pages with what `pattern` has for them, none of which is withheld. Any user may use it.
    pub fn new(pages: usize, pattern: Pattern) -> io::Result<Self> {
        Self::lasting(pages, pattern, LIFE)
    }

    /// The same, given up after `life`.
    pub fn lasting(pages: usize, pattern: Pattern, life: Duration) -> io::Result<Self> {
        load()?;
        let state = Arc::new(State {
            contents: Mutex::new(Contents {
                bytes: pattern.bytes(0, pages * PAGE),
                pages: vec![Page::default(); pages],
                ..Contents::default()
            }),
            asked: Condvar::new(),
        });
        let dir = tempfile::Builder::new()
            .prefix("odp-slow.")
            .tempdir_in("/var/tmp")?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("slow".into())];
        config.acl = SessionACL::All;
        let session = Session::new(Server(state.clone()), dir.path(), &config)?.spawn()?;
        let notifier = session.notifier();
        let (alive, end) = mpsc::channel::<()>();
        let mounted = dir.path().to_owned();
        let keeper = thread::spawn(move || {
            let _ = end.recv_timeout(patience::scaled(life));
            give_up(&mounted);
            // It may have been cut off in the middle of a request.
            let _ = session.join();
        });
        Ok(Self {
            state,
            dir,
            notifier,
            life: Some(alive),
            keeper: Some(keeper),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    /// Opens the file.
    pub fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path())
    }

    /// From now on `pages` do not come. Those that are in memory are there.
    pub fn hold(&self, pages: Range<usize>) {
        self.state.contents().turn(pages, |page| page.held = true);
    }

    /// Lets all pages come, also to those who wait already.
    pub fn release(&self) {
        let mut contents = self.state.contents();
        let all = 0..contents.pages.len();
        contents.turn(all, |page| page.held = false);
    }

    /// Lets `pages` come, also to those who wait already.
    pub fn release_pages(&self, pages: Range<usize>) {
        self.state.contents().turn(pages, |page| page.held = false);
    }

    /// Lets those go on who wait already, for pages that `chosen` is true of. The pages stay withheld.
    pub fn let_go(&self, chosen: impl FnMut(usize) -> bool) {
        self.state.contents().let_go(chosen);
    }

    /// From now on `pages` cannot be had, withheld or not: a thread that asks for one, or waits for it already, gets
    /// an error.
    pub fn fail(&self, pages: Range<usize>) {
        self.state.contents().turn(pages, |page| page.fails = true);
    }

    /// `pages` can be had again.
    pub fn mend(&self, pages: Range<usize>) {
        self.state.contents().turn(pages, |page| page.fails = false);
    }

    /// Takes `pages` out of memory, after what was written to them has been written back. Waits for those that
    /// are being read.
    pub fn evict(&self, pages: Range<usize>) -> io::Result<()> {
        let (start, len) = (pages.start * PAGE, pages.len() * PAGE);
        self.notifier.inval_inode(FILE, start as i64, len as i64)
    }

    /// Waits until somebody waits for `page`, for at most `limit`.
    pub fn wait_until_asked(&self, page: usize, limit: Duration) -> io::Result<()> {
        self.wait_until(limit, |asked| asked.contains(&page))
            .map_err(|_| late(format!("nobody asks for page {page}")))
    }

    /// Waits until somebody waits for any page, for at most `limit`.
    pub fn wait_until_any_asked(&self, limit: Duration) -> io::Result<()> {
        self.wait_until(limit, |asked| !asked.is_empty())
            .map_err(|_| late("nobody asks for a page".into()))
    }

    fn wait_until(
        &self,
        limit: Duration,
        enough: impl Fn(&BTreeSet<usize>) -> bool,
    ) -> io::Result<()> {
        let end = Instant::now() + patience::scaled(limit);
        let mut contents = self.state.contents();
        while !enough(&contents.asked) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let woken = self.state.asked.wait_timeout(contents, left);
            contents = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Gives the file system up: a thread that waits for a page, or will ever ask for one, gets an error.
    pub fn give_up(&self) {
        give_up(self.dir.path());
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        drop(self.life.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        // What was withheld until now has nobody left to go to.
    }
}

fn late(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Loads the kernel's side, if it is not there.
fn load() -> io::Result<()> {
    if !Path::new(DEVICE).exists() {
        let status = Command::new("modprobe").arg("fuse").status()?;
        if !status.success() {
            return Err(io::Error::other("the kernel has no FUSE"));
        }
    }
    Ok(())
}

/// Cuts the connection of the file system at `dir`, if there is still one, and takes it away.
fn give_up(dir: &Path) {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else {
        return;
    };
    for flags in [libc::MNT_FORCE | libc::MNT_DETACH, libc::MNT_DETACH] {
        // SAFETY: the path is a C string that outlives the call.
        if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
            return;
        }
        // Only the first cuts the connection. A process that may not do that in a namespace is left with the second:
        // the end of the process cuts it then.
    }
}

/// What the server and the test share.
#[derive(Debug)]
struct State {
    contents: Mutex<Contents>,
    asked: Condvar,
}

impl State {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    pages: Vec<Page>,
    /// The withheld pages that somebody has asked for.
    asked: BTreeSet<usize>,
    /// What is to be given to whom.
    waiting: Vec<(Range<usize>, ReplyData)>,
}

/// What becomes of a page that is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// It does not come.
    held: bool,
    /// It cannot be had.
    fails: bool,
}

/// The pages that these bytes are in.
fn pages_of(bytes: &Range<usize>) -> Range<usize> {
    bytes.start / PAGE..bytes.end.div_ceil(PAGE)
}

impl Contents {
    /// Changes `pages`, and answers those who have nothing to wait for any more.
    fn turn(&mut self, pages: Range<usize>, change: impl FnMut(&mut Page)) {
        self.pages[pages].iter_mut().for_each(change);
        for (bytes, reply) in std::mem::take(&mut self.waiting) {
            self.answer(bytes, reply);
        }
    }

    /// Gives `reply` the bytes or an error, or keeps it until there is an answer.
    fn answer(&mut self, bytes: Range<usize>, reply: ReplyData) {
        let pages = &self.pages[pages_of(&bytes)];
        if pages.iter().any(|page| page.fails) {
            reply.error(Errno::EIO);
        } else if pages.iter().any(|page| page.held) {
            self.waiting.push((bytes, reply));
        } else {
            reply.data(&self.bytes[bytes]);
        }
    }

    /// Gives those the bytes who wait, if `chosen` is true of the first page.
    fn let_go(&mut self, mut chosen: impl FnMut(usize) -> bool) {
        for (bytes, reply) in std::mem::take(&mut self.waiting) {
            match chosen(pages_of(&bytes).start) {
                true => reply.data(&self.bytes[bytes]),
                false => self.waiting.push((bytes, reply)),
            }
        }
    }

    /// Notes the pages that are withheld from a reader.
    fn note(&mut self, bytes: &Range<usize>) -> bool {
        let pages = pages_of(bytes);
        let held = self.pages[pages.clone()].iter().any(|page| page.held);
        if held {
            self.asked.extend(pages);
        }
        held
    }

    /// What of `size` bytes at `offset` the file has.
    fn range(&self, offset: u64, size: usize) -> Range<usize> {
        let len = self.bytes.len();
        let start = usize::try_from(offset).map_or(len, |start| start.min(len));
        start..start.saturating_add(size).min(len)
    }
}

/// The file system: a directory with a file.
struct Server(Arc<State>);

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode == INodeNo::ROOT;
        let size = match root {
            true => 0,
            false => self.0.contents().bytes.len() as u64,
        };
        let never = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
            kind: match root {
                true => FileType::Directory,
                false => FileType::RegularFile,
            },
            perm: if root { 0o755 } else { 0o666 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Less than a page: none that nobody asked for.
        let _ = config.set_max_readahead(1);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match parent == INodeNo::ROOT && name == NAME {
            true => reply.entry(&TTL, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // An open that threw pages away would wait for those that are withheld.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut contents = self.0.contents();
        let bytes = contents.range(offset, size as usize);
        if contents.note(&bytes) {
            self.0.asked.notify_all();
        }
        contents.answer(bytes, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut contents = self.0.contents();
        let bytes = contents.range(offset, data.len());
        let written = bytes.len();
        contents.bytes[bytes].copy_from_slice(&data[..written]);
        match written == data.len() {
            true => reply.written(written as u32),
            false => reply.error(Errno::ENOSPC),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times and the like: nobody looks at them.
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
