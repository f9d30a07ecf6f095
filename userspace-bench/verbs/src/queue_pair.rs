// SPDX-License-Identifier: GPL-2.0
//! Queue pairs: made, connected to a peer by its [`Endpoint`], and given work.

use std::{
    mem,
    ptr::{self, NonNull},
    sync::{Arc, OnceLock},
};

use rdma_mummy_sys as sys;
use serde::{Deserialize, Serialize};
use sys::{ibv_qp_attr_mask as mask, ibv_qp_state as state};

use super::{
    dynamic,
    error::{check, object},
    work, Access, CompletionQueue, Error, Gid, Mtu, Op, ProtectionDomain, Result, Sge,
    SharedReceiveQueue, Transport,
};
use testkit::patience;

/// Datagrams are accepted from whoever knows this.
const QKEY: u32 = 0x1111_1111;
/// How many reads and atomics may be under way at once.
const READS: u8 = 16;

/// Which end of a connection a queue pair is, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Asks,
    IsAsked,
}

/// How a queue pair is made.
#[derive(Clone, Copy, Debug)]
pub struct QpConfig {
    /// The service.
    pub transport: Transport,
    /// How many work requests each of its queues holds.
    pub depth: u32,
    /// How many pieces of memory a work request may name.
    pub sges: u32,
    /// Whether it is made with the extended interface: atomic writes and flushes need that.
    pub extended: bool,
    /// How often a message is sent again to a peer that has no receive for it; 7 is without end.
    pub rnr_retries: u8,
    /// How long a peer waits before it sends again to this one that was not ready, in the encoding of the
    /// specification: 1 is 0.01 ms, 12 is 0.64 ms.
    pub rnr_timer: u8,
    /// How often a packet is sent again that nobody answers; soft-RoCE takes 7, the most there is, for
    /// without end.
    pub retries: u8,
    /// How long an answer may take before a packet is sent again, in the encoding of the specification: 4.096 us,
    /// doubled so many times. If not said, a quarter of a second, and longer where the kernel is slow.
    pub timeout: Option<u8>,
    /// How many READs, atomics and FLUSHes of a peer it takes at a time.
    pub reads: u8,
    /// What peers may ask of it at most, unless it is a datagram queue pair.
    pub rights: Access,
    /// How many bytes a work request may carry itself ([`QueuePair::post_inline`]).
    pub inline: u32,
}

impl QpConfig {
    /// A queue pair of `transport` with room for most purposes.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            depth: 64,
            sges: 4,
            extended: false,
            rnr_retries: 7,
            rnr_timer: 1,
            retries: 7,
            timeout: None,
            reads: READS,
            rights: Access::from_bits(
                Access::ALL.bits() | Access::FLUSH_GLOBAL.bits() | Access::FLUSH_PERSISTENT.bits(),
            ),
            inline: 0,
        }
    }
}

/// What a peer has to know of a queue pair to connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its number.
    pub qpn: u32,
    /// The sequence number of its first packet.
    pub psn: u32,
    /// The address of its port.
    pub gid: Gid,
    /// The other address of its port, on InfiniBand links.
    pub lid: u16,
    /// The number of its receive queue, which senders on extended connections name.
    pub receives: Option<u32>,
}

/// A queue pair.
#[derive(Debug)]
pub struct QueuePair {
    raw: NonNull<sys::ibv_qp>,
    extended: Option<NonNull<sys::ibv_qp_ex>>,
    gid: Gid,
    psn: u32,
    config: QpConfig,
    end: End,
    /// Where datagrams go.
    peer: OnceLock<(AddressHandle, u32)>,
    /// The receive queue of the peer's, of an extended connection.
    peer_receives: OnceLock<u32>,
    domain: Arc<ProtectionDomain>,
    completions: Arc<CompletionQueue>,
    receives: Option<Arc<SharedReceiveQueue>>,
}

// SAFETY: libibverbs locks its objects itself; any thread may use them. Of the extended interface,
// which holds its lock from one call to the next, only `&self` methods that finish what they
// start are offered, and the provider takes the queue's lock in between.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Makes one in `domain` that reports to `completions` and speaks from `gid`.
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        gid: Gid,
        config: QpConfig,
    ) -> Result<Self> {
        Self::with_receives(domain, completions, gid, config, None)
    }

    /// The same, with the receives of `receives`, if there are some.
    pub fn with_receives(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        gid: Gid,
        config: QpConfig,
        receives: Option<&Arc<SharedReceiveQueue>>,
    ) -> Result<Self> {
        Self::end(domain, completions, gid, config, End::Asks, receives)
    }

    /// The end of a connection that is asked for operations and receives; [`new`](Self::new) makes the one that asks.
    /// Only extended and dynamic connections tell them apart: there this has a shared receive queue to itself, and
    /// sends nothing.
    pub fn target(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        gid: Gid,
        config: QpConfig,
    ) -> Result<Self> {
        let own = match config.transport {
            Transport::Xrc => {
                let (depth, sges) = (config.depth, config.sges);
                Some(SharedReceiveQueue::extended(
                    domain,
                    completions,
                    depth,
                    sges,
                )?)
            }
            Transport::Dc => Some(SharedReceiveQueue::new(domain, config.depth, config.sges)?),
            _ => None,
        };
        Self::end(domain, completions, gid, config, End::IsAsked, own.as_ref())
    }

    fn end(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        gid: Gid,
        config: QpConfig,
        end: End,
        receives: Option<&Arc<SharedReceiveQueue>>,
    ) -> Result<Self> {
        let mut attr = init_attr(domain, completions, config);
        match (config.transport, end, receives) {
            (Transport::Xrc, End::Asks, _) => asks(&mut attr),
            (Transport::Xrc, End::IsAsked, Some(queue)) => is_asked(&mut attr, queue),
            (_, _, queue) => attr.srq = queue.map_or(ptr::null_mut(), |queue| queue.raw()),
        }
        let raw = match config.transport {
            // SAFETY: the attributes name live objects.
            Transport::Dc => unsafe { dynamic::make(domain.context(), attr, end == End::Asks)? },
            _ => {
                // SAFETY: the attributes name live objects and outlive the call.
                let raw = unsafe { sys::ibv_create_qp_ex(domain.context().raw(), &mut attr) };
                object("ibv_create_qp", raw)?
            }
        };
        let extended = if config.extended {
            // SAFETY: the queue pair is alive and was made with send operations.
            NonNull::new(unsafe { sys::ibv_qp_to_qp_ex(raw.as_ptr()) })
        } else {
            None
        };
        // SAFETY: the queue pair is alive.
        let qpn = unsafe { raw.as_ref() }.qp_num;
        Ok(Self {
            raw,
            extended,
            gid,
            // Anything will do, as long as it differs from one queue pair to the next.
            psn: qpn.wrapping_mul(0x9e37_79b1) & 0xff_ffff,
            config,
            end,
            peer: OnceLock::new(),
            peer_receives: OnceLock::new(),
            domain: domain.clone(),
            completions: completions.clone(),
            receives: receives.cloned(),
        })
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_qp {
        self.raw.as_ptr()
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { self.raw.as_ref() }.qp_num
    }

    /// What the kernel calls it.
    pub fn handle(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.raw.as_ref() }.handle
    }

    /// Where its work requests end.
    pub fn completions(&self) -> &Arc<CompletionQueue> {
        &self.completions
    }

    /// What a peer has to know.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let lid = self.domain.context().lid()?;
        let receives = match (self.config.transport, &self.receives) {
            (Transport::Xrc, Some(queue)) => Some(queue.number()?),
            _ => None,
        };
        Ok(Endpoint {
            qpn: self.number(),
            psn: self.psn,
            gid: self.gid,
            lid,
            receives,
        })
    }

    /// Makes it known to others, who send packets of `mtu`: the target of dynamic connections has no number before, and
    /// takes requests from now on. Others need not be.
    pub fn announce(&self, mtu: Mtu) -> Result<()> {
        if (self.config.transport, self.end) != (Transport::Dc, End::IsAsked) {
            return Ok(());
        }
        self.to_init()?;
        let mut attr = attr(state::IBV_QPS_RTR);
        attr.path_mtu = mtu.raw();
        attr.min_rnr_timer = self.config.rnr_timer;
        attr.ah_attr = self.route(&self.endpoint()?);
        let what = mask::IBV_QP_AV | mask::IBV_QP_PATH_MTU | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(attr, what)
    }

    /// Connects to `peer`, with packets of `mtu`. A target has to be [announced](Self::announce) before its peer knows
    /// it.
    pub fn connect(&self, peer: &Endpoint, mtu: Mtu) -> Result<()> {
        if (self.config.transport, self.end) == (Transport::Dc, End::IsAsked) {
            return Ok(());
        }
        self.to_init()?;
        self.to_receive(peer, mtu)?;
        // One that is only asked never sends.
        if (self.config.transport, self.end) != (Transport::Xrc, End::IsAsked) {
            self.to_send()?;
        }
        if let Some(number) = peer.receives {
            let _ = self.peer_receives.set(number);
        }
        if self.names_peer() {
            let handle = AddressHandle::new(&self.domain, self.route(peer))?;
            let _ = self.peer.set((handle, peer.qpn));
        }
        Ok(())
    }

    /// Throws away all of its work, whatever its state, and makes it ready to be connected again.
    ///
    /// Its packets get other numbers from here on, so that nothing that is still on its way is taken
    /// for one of them.
    pub fn reset(&mut self) -> Result<()> {
        self.discard()?;
        self.psn = self.psn.wrapping_add(0x5a_a5a5) & 0xff_ffff;
        Ok(())
    }

    /// Throws away all of its work.
    pub fn discard(&self) -> Result<()> {
        self.modify(attr(state::IBV_QPS_RESET), mask(0))
    }

    /// Changes how many READs, atomics and FLUSHes of a peer it takes at a time, in whatever state it is.
    pub fn take_reads(&self, reads: u8) -> Result<()> {
        let mut attr = attr(state::IBV_QPS_RESET);
        attr.max_dest_rd_atomic = reads;
        self.change(attr, mask::IBV_QP_MAX_DEST_RD_ATOMIC)
    }

    /// Has all of its work end with an error.
    pub fn fail(&self) -> Result<()> {
        self.modify(attr(state::IBV_QPS_ERR), mask(0))
    }

    /// Destroys the address handle that its datagrams are sent with, which have no other.
    pub fn destroy_address_handle(&mut self) {
        drop(self.peer.take());
    }

    fn to_init(&self) -> Result<()> {
        let mut attr = attr(state::IBV_QPS_INIT);
        attr.pkey_index = 0;
        attr.port_num = self.domain.context().port();
        let mut what = mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT;
        if (self.config.transport, self.end) == (Transport::Dc, End::Asks) {
            // Nobody asks anything of it.
        } else if self.config.transport == Transport::Ud {
            attr.qkey = QKEY;
            what |= mask::IBV_QP_QKEY;
        } else {
            let access = match self.extended {
                Some(_) => Access::ALL | Access::FLUSH_GLOBAL | Access::FLUSH_PERSISTENT,
                None => Access::ALL,
            };
            attr.qp_access_flags = access.bits() & self.config.rights.bits();
            what |= mask::IBV_QP_ACCESS_FLAGS;
        }
        self.modify(attr, what)
    }

    fn to_receive(&self, peer: &Endpoint, mtu: Mtu) -> Result<()> {
        let mut attr = attr(state::IBV_QPS_RTR);
        let mut what = mask(0);
        if self.config.transport == Transport::Dc {
            attr.path_mtu = mtu.raw();
            what = mask::IBV_QP_PATH_MTU;
        } else if self.config.transport != Transport::Ud {
            attr.path_mtu = mtu.raw();
            attr.dest_qp_num = peer.qpn;
            attr.rq_psn = peer.psn;
            attr.ah_attr = self.route(peer);
            what = mask::IBV_QP_AV
                | mask::IBV_QP_PATH_MTU
                | mask::IBV_QP_DEST_QPN
                | mask::IBV_QP_RQ_PSN;
        }
        if self.answers() {
            attr.max_dest_rd_atomic = self.config.reads;
            attr.min_rnr_timer = self.config.rnr_timer;
            what |= mask::IBV_QP_MAX_DEST_RD_ATOMIC | mask::IBV_QP_MIN_RNR_TIMER;
        }
        self.modify(attr, what)
    }

    fn to_send(&self) -> Result<()> {
        let mut attr = attr(state::IBV_QPS_RTS);
        attr.sq_psn = self.psn;
        let mut what = mask::IBV_QP_SQ_PSN;
        if self.config.transport.is_reliable() {
            // 4.096 us * 2^16: a quarter of a second. Emulated processors are slow.
            let usual = || 16 + patience::factor().next_power_of_two().ilog2() as u8;
            attr.timeout = self.config.timeout.unwrap_or_else(usual);
            attr.retry_cnt = self.config.retries;
            attr.rnr_retry = self.config.rnr_retries;
            attr.max_rd_atomic = READS;
            what = what
                | mask::IBV_QP_TIMEOUT
                | mask::IBV_QP_RETRY_CNT
                | mask::IBV_QP_RNR_RETRY
                | mask::IBV_QP_MAX_QP_RD_ATOMIC;
        }
        self.modify(attr, what)
    }

    /// Whether each of its requests says where it goes.
    fn names_peer(&self) -> bool {
        matches!(self.config.transport, Transport::Ud | Transport::Dc)
    }

    /// Whether it answers READs and atomics, and says that it is not ready.
    fn answers(&self) -> bool {
        match self.config.transport {
            Transport::Rc => true,
            Transport::Xrc => self.end == End::IsAsked,
            Transport::Uc | Transport::Ud | Transport::Dc => false,
        }
    }

    fn modify(&self, attr: sys::ibv_qp_attr, what: mask) -> Result<()> {
        self.change(attr, what | mask::IBV_QP_STATE)
    }

    fn change(&self, mut attr: sys::ibv_qp_attr, what: mask) -> Result<()> {
        // SAFETY: the queue pair is alive and the attributes outlive the call.
        let r = unsafe { sys::ibv_modify_qp(self.raw.as_ptr(), &mut attr, what.0 as i32) };
        check("ibv_modify_qp", r)
    }

    fn route(&self, peer: &Endpoint) -> sys::ibv_ah_attr {
        sys::ibv_ah_attr {
            grh: sys::ibv_global_route {
                dgid: sys::ibv_gid { raw: peer.gid.raw },
                flow_label: 0,
                sgid_index: self.gid.index,
                hop_limit: 64,
                traffic_class: 0,
            },
            dlid: peer.lid,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            is_global: 1,
            port_num: self.domain.context().port(),
        }
    }

    /// Asks for `op`, on the local memory of `sges`. Its completion carries `id`.
    pub fn post_send(&self, id: u64, op: Op, sges: &[Sge]) -> Result<()> {
        if op.is_extended() {
            return self.post_extended(id, op);
        }
        let mut list: Vec<_> = sges.iter().map(Sge::raw).collect();
        if self.config.transport == Transport::Dc {
            // SAFETY: as in `post` below.
            return unsafe { self.post_dynamic(id, op, dynamic::Data::Memory(&list)) };
        }
        let wr = op.raw(id);
        // SAFETY: what the NIC does with the memory is covered by its keys (see the crate's documentation).
        unsafe { self.post(wr, &mut list) }
    }

    /// Asks for `op` with `bytes`, which the work request carries itself: at most as many as the queue pair was made
    /// for. They can be changed as soon as this returns.
    ///
    /// # Errors
    ///
    /// That of the library, if they are too many or `op` takes no bytes along.
    pub fn post_inline(&self, id: u64, op: Op, bytes: &[u8]) -> Result<()> {
        let carries = matches!(
            op,
            Op::Send | Op::SendImm(_) | Op::SendInv(_) | Op::Write(_) | Op::WriteImm(..)
        );
        let fits = u32::try_from(bytes.len()).is_ok_and(|len| len <= self.config.inline);
        if !carries || !fits {
            return Err(Error::Call {
                call: "ibv_post_send",
                errno: libc::EINVAL,
            });
        }
        if self.config.transport == Transport::Dc {
            // SAFETY: the library copies the bytes, which are borrowed, before it returns.
            return unsafe { self.post_dynamic(id, op, dynamic::Data::Inline(bytes)) };
        }
        let mut wr = op.raw(id);
        wr.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
        let mut list = [sys::ibv_sge {
            addr: bytes.as_ptr() as u64,
            length: bytes.len() as u32,
            lkey: 0,
        }];
        // SAFETY: the library copies the bytes, which are borrowed, before it returns.
        unsafe { self.post(wr, &mut list) }
    }

    /// Asks for `op` over a dynamic connection.
    ///
    /// # Safety
    ///
    /// What the data name is memory that a key covers.
    unsafe fn post_dynamic(&self, id: u64, op: Op, data: dynamic::Data<'_>) -> Result<()> {
        let Some((handle, number)) = self.peer.get() else {
            return Err(Error::Call {
                call: "ibv_wr_start",
                errno: libc::ENOTCONN,
            });
        };
        // SAFETY: both are alive, only the end that asks has a peer, and the caller answers for the data.
        unsafe {
            dynamic::post(
                self.raw.as_ptr(),
                (handle.raw.as_ptr(), *number),
                id,
                op,
                data,
            )
        }
    }

    /// Posts `wr` with the local memory of `list`.
    ///
    /// # Safety
    ///
    /// What the list names is memory that a key covers, or, if the request carries its data, bytes that can be read
    /// until this returns.
    unsafe fn post(&self, mut wr: sys::ibv_send_wr, list: &mut [sys::ibv_sge]) -> Result<()> {
        wr.sg_list = list.as_mut_ptr();
        wr.num_sge = list.len() as i32;
        if let Some((handle, qpn)) = self.peer.get() {
            let (ah, remote_qpn) = (handle.raw.as_ptr(), *qpn);
            wr.wr.ud = sys::ud_t {
                ah,
                remote_qpn,
                remote_qkey: QKEY,
            };
        }
        if let Some(number) = self.peer_receives.get() {
            wr.qp_type.xrc.remote_srqn = *number;
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is alive, the request and its list outlive the call, and the caller answers for
        // the memory.
        let r = unsafe { sys::ibv_post_send(self.raw.as_ptr(), &mut wr, &mut bad) };
        check("ibv_post_send", r)
    }

    /// Asks for a window of type 2 to be bound.
    pub(super) fn post_bind(&self, id: u64, bind: sys::bind_mw_t) -> Result<()> {
        let mut wr = work::bind(id, bind);
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is alive, as are window and region, and the request outlives the call.
        let r = unsafe { sys::ibv_post_send(self.raw(), &mut wr, &mut bad) };
        check("ibv_post_send", r)
    }

    /// Offers the memory of `sges` to the next message that arrives.
    pub fn post_recv(&self, id: u64, sges: &[Sge]) -> Result<()> {
        if let (Transport::Xrc | Transport::Dc, Some(queue)) =
            (self.config.transport, &self.receives)
        {
            return queue.post_recv(id, sges);
        }
        // SAFETY: as in `post_send`.
        let r = work::post_receive(id, sges, |wr, bad| unsafe {
            sys::ibv_post_recv(self.raw.as_ptr(), wr, bad)
        });
        check("ibv_post_recv", r)
    }

    /// Posts what only the extended interface knows. The kept crates have no wrapper for these two
    /// calls, only the function pointers.
    fn post_extended(&self, id: u64, op: Op) -> Result<()> {
        let unsupported = |call| Error::Call {
            call,
            errno: libc::EOPNOTSUPP,
        };
        let qp = self
            .extended
            .ok_or(unsupported("ibv_qp_to_qp_ex"))?
            .as_ptr();
        // SAFETY: the queue pair is alive; the library sets these pointers once and for all.
        let (write, flush) = unsafe { ((*qp).wr_atomic_write, (*qp).wr_flush) };
        let write = write.ok_or(unsupported("ibv_wr_atomic_write"))?;
        let flush = flush.ok_or(unsupported("ibv_wr_flush"))?;
        // SAFETY: the queue pair is alive and was made with send operations; start and complete
        // enclose one request, and the value outlives the call that copies it.
        let r = unsafe {
            sys::ibv_wr_start(qp);
            (*qp).wr_id = id;
            (*qp).wr_flags = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
            match op {
                Op::AtomicWrite { at, value } => {
                    write(qp, at.rkey, at.addr, value.as_ptr().cast());
                }
                Op::Flush { at, len } => {
                    let (place, level) = (sys::IBV_FLUSH_GLOBAL as u8, sys::IBV_FLUSH_RANGE as u8);
                    flush(qp, at.rkey, at.addr, len, place, level);
                }
                Op::FlushTo { place, at, len } => {
                    let level = match len {
                        Some(_) => sys::IBV_FLUSH_RANGE,
                        None => sys::IBV_FLUSH_MR,
                    };
                    let len = len.unwrap_or(0);
                    flush(qp, at.rkey, at.addr, len, place.bits(), level as u8);
                }
                _ => unreachable!("not an extended operation"),
            }
            sys::ibv_wr_complete(qp)
        };
        check("ibv_wr_complete", r)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: nothing else refers to the queue pair.
        unsafe { sys::ibv_destroy_qp(self.raw.as_ptr()) };
    }
}

fn init_attr(
    domain: &ProtectionDomain,
    completions: &CompletionQueue,
    config: QpConfig,
) -> sys::ibv_qp_init_attr_ex {
    use sys::{ibv_qp_create_send_ops_flags as ops, ibv_qp_init_attr_mask as init};

    // SAFETY: zeroes are valid for integers and null pointers.
    let mut attr: sys::ibv_qp_init_attr_ex = unsafe { mem::zeroed() };
    attr.send_cq = completions.raw();
    attr.recv_cq = completions.raw();
    attr.pd = domain.raw();
    attr.cap.max_send_wr = config.depth;
    attr.cap.max_recv_wr = config.depth;
    attr.cap.max_send_sge = config.sges;
    attr.cap.max_recv_sge = config.sges;
    attr.cap.max_inline_data = config.inline;
    attr.qp_type = match config.transport {
        Transport::Rc => sys::ibv_qp_type::IBV_QPT_RC,
        Transport::Uc => sys::ibv_qp_type::IBV_QPT_UC,
        Transport::Ud => sys::ibv_qp_type::IBV_QPT_UD,
        Transport::Xrc => sys::ibv_qp_type::IBV_QPT_XRC_SEND,
        Transport::Dc => sys::ibv_qp_type::IBV_QPT_DRIVER,
    };
    attr.comp_mask = init::IBV_QP_INIT_ATTR_PD.0;
    if config.extended {
        attr.comp_mask |= init::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.0;
        let wanted = ops::IBV_QP_EX_WITH_RDMA_WRITE
            | ops::IBV_QP_EX_WITH_RDMA_READ
            | ops::IBV_QP_EX_WITH_ATOMIC_WRITE
            | ops::IBV_QP_EX_WITH_FLUSH;
        attr.send_ops_flags = u64::from(wanted.0);
    }
    attr
}

/// An end of an extended connection that asks has nothing to receive with.
fn asks(attr: &mut sys::ibv_qp_init_attr_ex) {
    attr.recv_cq = ptr::null_mut();
    attr.cap.max_recv_wr = 0;
    attr.cap.max_recv_sge = 0;
}

/// One that is asked has the domain of `receives`, and what it receives with is there.
fn is_asked(attr: &mut sys::ibv_qp_init_attr_ex, receives: &SharedReceiveQueue) {
    use sys::ibv_qp_init_attr_mask as init;

    // SAFETY: zeroes are valid for integers and null pointers.
    *attr = unsafe { mem::zeroed() };
    attr.qp_type = sys::ibv_qp_type::IBV_QPT_XRC_RECV;
    attr.xrcd = receives.extended_domain();
    attr.comp_mask = init::IBV_QP_INIT_ATTR_XRCD.0;
}

fn attr(to: state::Type) -> sys::ibv_qp_attr {
    // SAFETY: zeroes are valid for integers and unions of them.
    let mut attr: sys::ibv_qp_attr = unsafe { mem::zeroed() };
    attr.qp_state = to;
    attr
}

/// The way to a peer, for datagrams.
#[derive(Debug)]
struct AddressHandle {
    raw: NonNull<sys::ibv_ah>,
}

impl AddressHandle {
    fn new(domain: &ProtectionDomain, mut route: sys::ibv_ah_attr) -> Result<Self> {
        // SAFETY: the domain is alive and the attributes outlive the call.
        let raw = unsafe { sys::ibv_create_ah(domain.raw(), &mut route) };
        Ok(Self {
            raw: object("ibv_create_ah", raw)?,
        })
    }
}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        // SAFETY: only the queue pair that owns the handle uses it.
        unsafe { sys::ibv_destroy_ah(self.raw.as_ptr()) };
    }
}
