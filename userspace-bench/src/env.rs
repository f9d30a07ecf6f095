// SPDX-License-Identifier: GPL-2.0
//! A device made ready for use, and buffers registered with it in one of three ways.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    loopback::Loopback,
    memory::{Mapping, PAGE},
    pattern::{self, Mismatch, Pattern},
    verbs::{
        Access, Context, Error, Gid, Mtu, Op, ProtectionDomain, QpConfig, Region, Remote, Result,
        Sge, Status, Transport,
    },
};

/// How memory is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Its pages are pinned.
    Pinned,
    /// On demand, one region for the range.
    Explicit,
    /// On demand, through the region that covers the whole address space.
    Implicit,
}

impl Mode {
    /// The two that are on demand.
    pub const ON_DEMAND: [Mode; 2] = [Mode::Explicit, Mode::Implicit];

    /// The access flag that registers in this way.
    pub fn flag(self) -> Access {
        match self {
            Self::Pinned => Access::NONE,
            Self::Explicit | Self::Implicit => Access::ON_DEMAND,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Explicit => "explicit",
            Self::Implicit => "implicit",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        [Self::Pinned, Self::Explicit, Self::Implicit]
            .into_iter()
            .find(|m| m.to_string() == name)
            .ok_or_else(|| format!("{name} is none of pinned, explicit, implicit"))
    }
}

/// A device and what every program needs of it.
#[derive(Debug)]
pub struct Env {
    /// The device.
    pub context: Arc<Context>,
    /// The one protection domain.
    pub domain: Arc<ProtectionDomain>,
    /// The address that queue pairs speak from.
    pub gid: Gid,
    /// The largest packet.
    pub mtu: Mtu,
    /// How long a completion may take.
    pub patience: Duration,
    implicit: OnceLock<Arc<Region>>,
}

impl Env {
    /// Opens `device`, or the first there is, and takes the address at `gid`, or the first that suits.
    pub fn open(device: Option<&str>, gid: Option<u8>) -> Result<Self> {
        let context = Context::open(device)?;
        Ok(Self {
            domain: ProtectionDomain::new(&context)?,
            gid: context.gid(gid)?,
            mtu: context.active_mtu()?,
            patience: Duration::from_secs(10),
            implicit: OnceLock::new(),
            context,
        })
    }

    /// The region that covers the whole address space, registered when first asked for.
    pub fn implicit(&self) -> Result<Arc<Region>> {
        if let Some(region) = self.implicit.get() {
            return Ok(region.clone());
        }
        let region = Arc::new(self.new_implicit(Access::ALL)?);
        Ok(self.implicit.get_or_init(|| region).clone())
    }

    /// Another region that covers the whole address space.
    pub fn new_implicit(&self, access: Access) -> Result<Region> {
        new_implicit(&self.domain, access)
    }

    /// All of `memory` as a new region.
    pub fn register(&self, mode: Mode, memory: &Mapping, access: Access) -> Result<Region> {
        register(&self.domain, mode, memory, access)
    }

    /// `len` untouched bytes, registered for everything.
    pub fn buffer(&self, mode: Mode, len: usize) -> Result<Buffer> {
        self.cover(mode, anonymous(len)?, Access::ALL)
    }

    /// All of `memory`, registered.
    pub fn cover(&self, mode: Mode, memory: Mapping, access: Access) -> Result<Buffer> {
        let region = match mode {
            Mode::Implicit if access == Access::ALL => self.implicit()?,
            _ => Arc::new(self.register(mode, &memory, access)?),
        };
        Ok(Buffer {
            iova: memory.addr(),
            region,
            memory,
        })
    }

    /// All of `memory`, registered under addresses that start at `iova`.
    pub fn cover_iova(&self, memory: Mapping, iova: u64, access: Access) -> Result<Buffer> {
        let all = 0..memory.len();
        let region = Arc::new(self.domain.register_iova(&memory, all, iova, access)?);
        Ok(Buffer {
            iova,
            region,
            memory,
        })
    }

    /// Whether the driver tells the addresses of a region from those of the process, where they differ.
    ///
    /// One that confuses them uses the one as if it were the other and reaches beyond its own
    /// tables: soft-RoCE of Linux 7.2 then crashes the kernel, or writes to memory that is not its
    /// own. So ask this before anything else is done with such a region: here both readings lie
    /// inside of the region.
    pub fn tells_iova(&self) -> Result<bool> {
        const LEN: usize = 512;
        let pattern = Pattern::new(0);
        let near = self.buffer(Mode::Pinned, PAGE)?;
        let memory = anonymous(8 * PAGE)?;
        let iova = memory.at(2 * PAGE);
        let far = self.cover_iova(memory, iova, Access::ALL | Access::ON_DEMAND)?;
        near.fill(pattern, 0, LEN);
        let written = self
            .rc()?
            .run(Op::Write(far.remote(0)), &[near.sge(0, LEN)])?;
        Ok(written.status == Status::SUCCESS && far.check(pattern, 0, LEN).is_ok())
    }

    /// Two connected queue pairs of this process.
    pub fn pair(&self, config: QpConfig) -> Result<Loopback> {
        Loopback::new(self, config, self.mtu)
    }

    /// Two reliably connected queue pairs of this process.
    pub fn rc(&self) -> Result<Loopback> {
        self.pair(QpConfig::new(Transport::Rc))
    }
}

/// All of `memory` as a new region of `domain`; if implicit, with everything else.
pub fn register(
    domain: &Arc<ProtectionDomain>,
    mode: Mode,
    memory: &Mapping,
    access: Access,
) -> Result<Region> {
    match mode {
        Mode::Implicit => new_implicit(domain, access),
        _ => domain.register(memory, 0..memory.len(), access | mode.flag()),
    }
}

fn new_implicit(domain: &Arc<ProtectionDomain>, access: Access) -> Result<Region> {
    // SAFETY: every address that these programs put into a work request is taken from a
    // `Mapping` (or lies in a hole of one, or beside one, where nothing is ever mapped).
    unsafe { domain.register_implicit(access) }
}

/// Untouched memory.
pub fn anonymous(len: usize) -> Result<Mapping> {
    Mapping::anonymous(len).map_err(|e| Error::Call {
        call: "mmap",
        errno: e.raw_os_error().unwrap_or(libc::ENOMEM),
    })
}

/// Memory and the region that covers it.
#[derive(Debug)]
pub struct Buffer {
    /// Dropped before the memory.
    pub region: Arc<Region>,
    /// The memory.
    pub memory: Mapping,
    /// Under which address the region knows the first byte.
    pub iova: u64,
}

impl Buffer {
    /// `len` bytes at `offset`, for local use.
    pub fn sge(&self, offset: usize, len: usize) -> Sge {
        self.region.sge(self.iova.wrapping_add(offset as u64), len)
    }

    /// The bytes at `offset`, for a peer.
    pub fn remote(&self, offset: usize) -> Remote {
        self.region.remote(self.iova.wrapping_add(offset as u64))
    }

    /// Writes what `pattern` has for `offset` to the `len` bytes there.
    pub fn fill(&self, pattern: Pattern, offset: usize, len: usize) {
        self.memory
            .write(offset, &pattern.bytes(offset as u64, len));
    }

    /// Checks that the `len` bytes at `offset` are what `pattern` has for that offset.
    pub fn check(
        &self,
        pattern: Pattern,
        offset: usize,
        len: usize,
    ) -> std::result::Result<(), Mismatch> {
        self.check_from(pattern, offset, offset, len)
    }

    /// Checks that the `len` bytes at `offset` are what `pattern` has for `position`.
    pub fn check_from(
        &self,
        pattern: Pattern,
        position: usize,
        offset: usize,
        len: usize,
    ) -> std::result::Result<(), Mismatch> {
        pattern.check(position as u64, &self.memory.bytes(offset, len))
    }

    /// Checks that the `len` bytes at `offset` are zero.
    pub fn check_zero(&self, offset: usize, len: usize) -> std::result::Result<(), Mismatch> {
        pattern::check_zero(&self.memory.bytes(offset, len))
    }
}
