// SPDX-License-Identifier: GPL-2.0
//! A peer that sends what no driver sends. It is this program: a soft-RoCE device of its own is on a network device
//! whose other end is a file, from which packets are read and to which they are written.
//!
//! Source of the formats: the InfiniBand specification, volume 1, chapter 9 and annex A17 (RoCEv2).

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context as _, Result};
use odp_fixture::env::{anonymous, Buffer, Env, Mode};
use odp_verbs::{
    Access, Binding, CompletionQueue, Endpoint, Gid, Op, QpConfig, QueuePair, Status, Transport,
    Window, WindowType,
};
use testkit::{memory::PAGE, patience, pattern::Pattern};

use crate::{
    harness::{only_on_soft_roce, skip, Test},
    userfault::Handler,
};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::data("strange-peer-repeats-reads", repeats_reads),
    Test::data("strange-peer-leaves-the-window", leaves_the_window),
    Test::data("strange-peer-sends-no-bytes", sends_no_bytes),
    Test::data("strange-peer-answers-again", answers_again),
    Test::on_demand("strange-peer-floods", floods),
];

const PATTERN: Pattern = Pattern::new(61);

/// Operations of reliable connections.
const WRITE_ONLY: u8 = 0x0a;
const READ: u8 = 0x0c;
const READ_FIRST: u8 = 0x0d;
const READ_MIDDLE: u8 = 0x0e;
const READ_LAST: u8 = 0x0f;
const READ_ONLY: u8 = 0x10;
const ACKNOWLEDGE: u8 = 0x11;
const ATOMIC_ACKNOWLEDGE: u8 = 0x12;
const FETCH_ADD: u8 = 0x14;

/// Syndromes of acknowledgements: all is well; the memory is not given.
const WELL: u8 = 0x1f;
const NOT_GIVEN: u8 = 0x62;

const OUR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const NETWORK: &str = "roce1";
const DEVICE: &str = "rxe1";
const PORT: u16 = 4791;
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The number of the peer's queue pair.
const PEER_QUEUE_PAIR: u32 = 0x5151;

/// The network device's other end, and the device on it.
struct Wire {
    file: File,
    mac: [u8; 6],
}

impl Wire {
    fn new() -> Result<Self> {
        let file = tap(NETWORK)?;
        let wire = |mac| Self { file, mac };
        run("ip", &format!("link set {NETWORK} mtu 9000 up"))?;
        run("ip", &format!("address add {OUR}/24 dev {NETWORK}"))?;
        let mac = PEER_MAC.map(|byte| format!("{byte:02x}")).join(":");
        run(
            "ip",
            &format!("neigh add {PEER} lladdr {mac} dev {NETWORK}"),
        )?;
        run(
            "rdma",
            &format!("link add {DEVICE} type rxe netdev {NETWORK}"),
        )?;
        let text = fs::read_to_string(format!("/sys/class/net/{NETWORK}/address"))?;
        let mut own = [0; 6];
        for (byte, text) in own.iter_mut().zip(text.trim().split(':')) {
            *byte = u8::from_str_radix(text, 16)?;
        }
        Ok(wire(own))
    }

    /// The device, once it has its address.
    fn open(&self) -> Result<Env> {
        let deadline = Instant::now() + patience::scaled(Duration::from_secs(10));
        loop {
            let env = Env::open(Some(DEVICE), None);
            let ours = Gid {
                index: 0,
                raw: OUR.to_ipv6_mapped().octets(),
            };
            match env {
                Ok(env) if env.gid.raw == ours.raw => return Ok(env),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                _ => ensure!(Instant::now() < deadline, "{DEVICE} gets no address"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a packet: `rest` is what follows the base header.
    fn send(&self, packet: &Packet) -> Result<()> {
        self.send_frame(&packet.frame(self.mac))
    }

    fn send_frame(&self, frame: &[u8]) -> Result<()> {
        let sent = (&self.file).write(frame).context("sending a packet")?;
        ensure!(sent == frame.len(), "{sent} bytes of a packet were sent");
        Ok(())
    }

    /// The next packet that comes, within `limit`.
    fn receive(&self, limit: Duration) -> Result<Option<Packet>> {
        let deadline = Instant::now() + patience::scaled(limit);
        let mut frame = vec![0; 16384];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one descriptor that is open.
            let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) };
            if ready <= 0 {
                return Ok(None);
            }
            let len = (&self.file).read(&mut frame).context("a packet")?;
            if let Some(packet) = Packet::parse(&frame[..len]) {
                return Ok(Some(packet));
            }
        }
    }

    /// The next packet, which has to come.
    fn expect(&self, opcode: u8, psn: u32) -> Result<Packet> {
        let packet = self.receive(Duration::from_secs(10))?;
        let packet = packet.with_context(|| format!("{opcode:#x}, number {psn}, does not come"))?;
        ensure!(
            (packet.opcode, packet.psn) == (opcode, psn),
            "{:#x}, number {}, came in the place of {opcode:#x}, number {psn}",
            packet.opcode,
            packet.psn
        );
        Ok(packet)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The network device goes with its file, and the device with it; but then that takes its time.
        let _ = run("rdma", &format!("link delete {DEVICE}"));
    }
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let status = Command::new(program)
        .args(arguments.split(' '))
        .status()
        .with_context(|| program.to_owned())?;
    ensure!(status.success(), "{program} {arguments}: {status}");
    Ok(())
}

/// A network device called `name`, and the file that is its other end.
fn tap(name: &str) -> Result<File> {
    const TUNSETIFF: u64 = 0x4004_54ca;
    const TAP_WITHOUT_HEADER: i16 = 0x0002 | 0x1000;
    /// `struct ifreq`.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        padding: [u8; 22],
    }
    let _ = run("modprobe", "tun");
    let mut options = File::options();
    let file = match options.read(true).write(true).open("/dev/net/tun") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(skip("there is no /dev/net/tun"));
        }
        file => file.context("/dev/net/tun")?,
    };
    let mut request = Request {
        name: [0; 16],
        flags: TAP_WITHOUT_HEADER,
        padding: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request is what the kernel expects, and outlives the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    ensure!(made == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    Ok(file)
}

/// A packet, without the headers of the network.
struct Packet {
    opcode: u8,
    /// Whether an acknowledgement is asked for.
    asks: bool,
    queue_pair: u32,
    psn: u32,
    /// What follows the base header, without padding and checksum.
    rest: Vec<u8>,
}

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
const BASE: usize = 12;
const CHECKSUM: usize = 4;

impl Packet {
    /// The frame, for the device with this address.
    fn frame(&self, mac: [u8; 6]) -> Vec<u8> {
        let padding = self.rest.len().wrapping_neg() & 3;
        let len = IP + UDP + BASE + self.rest.len() + padding + CHECKSUM;
        let mut frame = Vec::with_capacity(ETHERNET + len);
        frame.extend(mac);
        frame.extend(PEER_MAC);
        frame.extend([8, 0]);
        let word = |n: usize| (n as u16).to_be_bytes();
        frame.extend([0x45, 0]);
        frame.extend(word(len));
        // No fragments; it lives for 64 hops, and is UDP.
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend(PEER.octets());
        frame.extend(OUR.octets());
        let sum = internet_checksum(&frame[ETHERNET..]);
        frame[ETHERNET + 10..][..2].copy_from_slice(&sum.to_be_bytes());
        frame.extend(word(0xc000));
        frame.extend(word(PORT.into()));
        frame.extend(word(len - IP));
        frame.extend([0, 0]);
        frame.extend([self.opcode, (padding as u8) << 4, 0xff, 0xff]);
        frame.extend(self.queue_pair.to_be_bytes());
        frame.extend(((u32::from(self.asks) << 31) | self.psn).to_be_bytes());
        frame.extend(&self.rest);
        frame.extend(vec![0; padding]);
        let sum = invariant_checksum(&frame[ETHERNET..]);
        frame.extend(sum.to_le_bytes());
        frame
    }

    /// The packet of a frame, if it is one.
    fn parse(frame: &[u8]) -> Option<Self> {
        let udp = frame.get(ETHERNET + IP..)?;
        let is_udp = frame[12..14] == [8, 0] && frame[ETHERNET + 9] == 17;
        let base = udp.get(UDP..UDP + BASE)?;
        if !is_udp || udp[2..4] != PORT.to_be_bytes() {
            return None;
        }
        let number = |at: usize| u32::from_be_bytes(base[at..at + 4].try_into().expect("four"));
        let padding = usize::from((base[1] >> 4) & 3);
        let end = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        Some(Self {
            opcode: base[0],
            asks: number(8) >> 31 != 0,
            queue_pair: number(4) & 0xff_ffff,
            psn: number(8) & 0xff_ffff,
            rest: udp.get(UDP + BASE..end - padding - CHECKSUM)?.to_vec(),
        })
    }
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Of a packet from its IP header on: what may change on the way counts as ones.
fn invariant_checksum(packet: &[u8]) -> u32 {
    let mut packet = packet.to_vec();
    // Type of service, time to live, both checksums, a reserved byte.
    for at in [1, 8, 10, 11, IP + 6, IP + 7, IP + UDP + 4] {
        packet[at] = 0xff;
    }
    // As if eight bytes of ones were before it.
    let ones = [0xff; 8];
    let crc = ones.iter().chain(&packet).fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}

/// A queue pair of the device whose peer this program is.
struct Scene {
    // Dropped before the device.
    queue_pair: QueuePair,
    env: Env,
    wire: Wire,
}

impl Scene {
    fn new(tested: &Env, config: QpConfig) -> Result<Self> {
        only_on_soft_roce(tested, "the peer talks to soft-RoCE")?;
        let wire = Wire::new()?;
        let env = wire.open()?;
        let completions = CompletionQueue::new(&env.context, 2 * config.depth)?;
        let queue_pair = QueuePair::new(&env.domain, &completions, env.gid, config)?;
        let peer = Endpoint {
            qpn: PEER_QUEUE_PAIR,
            psn: 0,
            gid: Gid {
                index: 0,
                raw: PEER.to_ipv6_mapped().octets(),
            },
            lid: 0,
            receives: None,
        };
        queue_pair.connect(&peer, env.mtu)?;
        Ok(Self {
            queue_pair,
            env,
            wire,
        })
    }

    fn send(&self, opcode: u8, psn: u32, parts: &[&[u8]]) -> Result<()> {
        self.wire.send(&self.packet(opcode, psn, parts))
    }

    fn packet(&self, opcode: u8, psn: u32, parts: &[&[u8]]) -> Packet {
        Packet {
            opcode,
            asks: true,
            queue_pair: self.queue_pair.number(),
            psn,
            rest: parts.concat(),
        }
    }

    /// Asks for `len` bytes at `addr`.
    fn read(&self, psn: u32, addr: u64, key: u32, len: usize) -> Result<()> {
        self.send(READ, psn, &[&place(addr, key, len)])
    }

    /// Asks for them, and has to get those of `far`.
    fn reads(&self, psn: u32, addr: u64, key: u32, far: &Part<'_>) -> Result<()> {
        self.read(psn, addr, key, far.len)?;
        self.answered(psn, far, true)
    }

    /// Asks for the rest of what was answered, from a later packet on.
    fn reads_on(&self, psn: u32, addr: u64, key: u32, far: &Part<'_>) -> Result<()> {
        self.read(psn, addr, key, far.len)?;
        self.answered(psn, far, false)
    }

    fn answered(&self, psn: u32, far: &Part<'_>, begins: bool) -> Result<()> {
        let mtu = self.env.mtu.bytes();
        let packets = far.len.div_ceil(mtu).max(1);
        for packet in 0..packets {
            let opcode = match (begins && packet == 0, packet + 1 == packets) {
                (true, true) => READ_ONLY,
                (true, false) => READ_FIRST,
                (false, true) => READ_LAST,
                (false, false) => READ_MIDDLE,
            };
            let answer = self.wire.expect(opcode, psn + packet as u32)?;
            let header = if opcode == READ_MIDDLE { 0 } else { 4 };
            let len = mtu.min(far.len - packet * mtu);
            let expected = far.buffer.memory.bytes(far.from + packet * mtu, len);
            ensure!(answer.rest[header..] == expected, "other bytes came");
        }
        Ok(())
    }
}

/// Some bytes of memory.
struct Part<'a> {
    buffer: &'a Buffer,
    from: usize,
    len: usize,
}

/// The header of a READ or a WRITE.
fn place(addr: u64, key: u32, len: usize) -> Vec<u8> {
    let len = (len as u32).to_be_bytes();
    [&addr.to_be_bytes()[..], &key.to_be_bytes(), &len].concat()
}

fn filled(env: &Env, mode: Mode, len: usize) -> Result<Buffer> {
    let access = Access::ALL | Access::MW_BIND;
    let buffer = env.cover(mode, anonymous(len)?, access)?;
    buffer.fill(PATTERN, 0, len);
    Ok(buffer)
}

/// Repeated READs are answered as far as they ask for what the first one asked for, from where they begin.
fn repeats_reads(tested: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(tested, QpConfig::new(Transport::Rc))?;
    let mtu = scene.env.mtu.bytes();
    let far = filled(&scene.env, mode, 8 * mtu)?;
    let (addr, key) = (far.iova, far.region.rkey());
    let part = |from, len| Part {
        buffer: &far,
        from,
        len,
    };
    let at = |from: usize| addr + from as u64;
    // Three packets and a piece, twice; then from the second on, and the last alone.
    let len = 3 * mtu + 100;
    scene.reads(0, at(8), key, &part(8, len))?;
    scene.reads(0, at(8), key, &part(8, len))?;
    scene.reads_on(1, at(8 + mtu), key, &part(8 + mtu, len - mtu))?;
    scene.reads_on(3, at(8 + 3 * mtu), key, &part(8 + 3 * mtu, 100))?;
    scene.reads_on(3, at(8 + len - 1), key, &part(8 + len - 1, 1))?;
    // What is beyond the end is not, and nor is what wraps.
    scene.read(3, at(8 + len - 1), key, 100)?;
    scene.read(3, at(8 + len), key, 1)?;
    scene.read(3, u64::MAX, key, 2)?;
    // The next request is answered, and nothing before it was.
    scene.reads(4, at(0), key, &part(0, 64))
}

/// A peer that was given a window on one page gets no other bytes of the region by repeating a READ.
fn leaves_the_window(tested: &Env, mode: Mode) -> Result<()> {
    for zero_based in [false, true] {
        let scene = Scene::new(tested, QpConfig::new(Transport::Rc))?;
        let env = &scene.env;
        let far = filled(env, mode, 4 * PAGE)?;
        let based = match zero_based {
            true => Access::ZERO_BASED,
            false => Access::NONE,
        };
        let window = Window::new(&env.domain, WindowType::Two)?;
        let binding = Binding {
            region: &far.region,
            addr: far.iova + PAGE as u64,
            len: PAGE as u64,
            access: Access::REMOTE_READ | based,
        };
        window.post_bind(&scene.queue_pair, 1, binding)?;
        let bound = scene.queue_pair.completions().wait(env.patience)?;
        bound.expect(&[Status::SUCCESS])?;
        let first = match zero_based {
            true => 0,
            false => binding.addr,
        };
        let key = window.rkey();
        let part = |from, len| Part {
            buffer: &far,
            from: PAGE + from,
            len,
        };
        let at = |from: usize| first + from as u64;
        scene.reads(0, first, key, &part(0, PAGE))?;
        let context = || format!("zero-based: {zero_based}");
        let again = scene.reads(0, first, key, &part(0, PAGE));
        again.with_context(context)?;
        // The last byte, and from there on as many as there were.
        let again = scene.reads(0, at(PAGE - 1), key, &part(PAGE - 1, 1));
        again.with_context(context)?;
        for from in [PAGE - 1, PAGE, 2 * PAGE - 1] {
            scene.read(0, at(from), key, PAGE)?;
        }
        let next = scene.reads(1, at(100), key, &part(100, 64));
        next.with_context(context)?;
    }
    Ok(())
}

/// Requests of no bytes: with some all the same, and repeated after others that had some.
fn sends_no_bytes(tested: &Env, mode: Mode) -> Result<()> {
    let scene = Scene::new(tested, QpConfig::new(Transport::Rc))?;
    let far = filled(&scene.env, mode, 2 * PAGE)?;
    let (addr, key) = (far.iova, far.region.rkey());
    let part = |len| Part {
        buffer: &far,
        from: 0,
        len,
    };
    let write = |psn: u32, len: usize, bytes: &[u8]| {
        let header = place(addr + PAGE as u64, key, len);
        scene.send(WRITE_ONLY, psn, &[&header, bytes])
    };
    let acknowledged = |psn: u32, syndrome: u8| -> Result<()> {
        let answer = scene.wire.expect(ACKNOWLEDGE, psn)?;
        ensure!(
            answer.rest[0] == syndrome,
            "{:#x} to number {psn}",
            answer.rest[0]
        );
        Ok(())
    };
    scene.reads(0, addr, key, &part(64))?;
    write(1, 0, &[])?;
    acknowledged(1, WELL)?;
    let again = scene.reads(0, addr, key, &part(64));
    again.context("a READ, again after a WRITE of no bytes")?;
    // It is asked for with a key, and with one that there is not.
    for (psn, key) in [(2, key), (4, 0x1234_5678)] {
        let context = || format!("a READ of no bytes with the key {key:#x}");
        scene
            .reads(psn, addr, key, &part(0))
            .with_context(context)?;
        write(psn + 1, 8, &[7; 8])?;
        acknowledged(psn + 1, WELL)?;
        for _ in 0..2 {
            let again = scene.reads(psn, addr, key, &part(0));
            again.with_context(|| format!("{}, again", context()))?;
        }
    }
    write(6, 0, &[9; 8])?;
    acknowledged(6, NOT_GIVEN)?;
    let expected = [vec![7; 8], PATTERN.bytes(PAGE as u64 + 8, 100)].concat();
    ensure!(
        far.memory.bytes(PAGE, 108) == expected,
        "the bytes of a WRITE of none were written"
    );
    Ok(())
}

/// Answers an atomic operation of number `psn` with `value`.
fn answer(scene: &Scene, psn: u32, value: u64) -> Packet {
    let well = [WELL, 0, 0, 1];
    Packet {
        asks: false,
        ..scene.packet(ATOMIC_ACKNOWLEDGE, psn, &[&well, &value.to_be_bytes()])
    }
}

/// Posts a FETCH_ADD whose result has `room` at the start of `near`; its number.
fn fetch_add(scene: &Scene, near: &Buffer, room: usize) -> Result<u32> {
    let at = near.region.remote(near.iova);
    let op = Op::FetchAdd { at, add: 1 };
    scene.queue_pair.post_send(1, op, &[near.sge(0, room)])?;
    let request = scene.wire.receive(Duration::from_secs(10))?;
    let request = request.context("the request does not come")?;
    ensure!(request.opcode == FETCH_ADD, "{:#x} came", request.opcode);
    ensure!(request.queue_pair == PEER_QUEUE_PAIR, "to somebody else");
    Ok(request.psn)
}

/// The result of an atomic operation comes once, and has 8 bytes, whatever room there is for it.
fn answers_again(tested: &Env, mode: Mode) -> Result<()> {
    // Its queue has been once around when all have ended.
    let scene = Scene::new(
        tested,
        QpConfig {
            depth: 1,
            ..QpConfig::new(Transport::Rc)
        },
    )?;
    let near = filled(&scene.env, mode, PAGE)?;
    let mut numbers = Vec::new();
    for value in [1, 2, 3, 4] {
        let psn = fetch_add(&scene, &near, 64)?;
        scene.wire.send(&answer(&scene, psn, value))?;
        let end = scene.queue_pair.completions().wait(scene.env.patience)?;
        let end = end.expect(&[Status::SUCCESS])?;
        ensure!(end.len == 8, "the result has {} bytes", end.len);
        ensure!(near.memory.word(0) == value, "another result");
        numbers.push(psn);
    }
    for number in &numbers {
        for value in 10..15 {
            scene.wire.send(&answer(&scene, *number, value))?;
        }
    }
    // These have been seen when the next one ends.
    let psn = fetch_add(&scene, &near, 8)?;
    ensure!(near.memory.word(0) == 4, "a result was written again");
    near.check(PATTERN, 8, PAGE - 8)
        .context("after the result")?;
    scene.wire.send(&answer(&scene, psn, 5))?;
    let end = scene.queue_pair.completions().wait(scene.env.patience)?;
    end.expect(&[Status::SUCCESS])?;
    ensure!(near.memory.word(0) == 5, "another result");
    Ok(near.check(PATTERN, 8, PAGE - 8)?)
}

/// How much of the kernel's memory is left for something else.
fn memory_left() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no MemAvailable")?.parse::<u64>()? << 10)
}

/// Who sends responses without end to an atomic operation whose result waits for its page has the kernel keep few.
fn floods(tested: &Env, mode: Mode) -> Result<()> {
    /// With a page of data each.
    const RESPONSES: usize = 4_000;
    /// Of what they would take.
    const KEPT: u64 = (RESPONSES * PAGE / 2) as u64;
    let scene = Scene::new(tested, QpConfig::new(Transport::Rc))?;
    let near = scene.env.buffer(mode, 2 * PAGE)?;
    let handler = Handler::new(&near.memory, 0)?;
    let psn = fetch_add(&scene, &near, 8)?;
    scene.wire.send(&answer(&scene, psn, 77))?;
    handler.wait()?;
    // Old: of no use to any request.
    let number = psn.wrapping_sub(1000) & 0xff_ffff;
    let response = scene.packet(READ_MIDDLE, number, &[&vec![1; PAGE]]);
    let frame = response.frame(scene.wire.mac);
    let before = memory_left()?;
    for _ in 0..RESPONSES {
        scene.wire.send_frame(&frame)?;
    }
    std::thread::sleep(Duration::from_millis(100));
    let taken = before.saturating_sub(memory_left()?);
    handler.give(&[0; PAGE])?;
    ensure!(
        taken < KEPT,
        "the kernel keeps {} MiB of responses",
        taken >> 20
    );
    let end = scene.queue_pair.completions().wait(scene.env.patience)?;
    end.expect(&[Status::SUCCESS])?;
    ensure!(near.memory.word(0) == 77, "another result");
    // It asks again for what might have been among those that were dropped, and goes on.
    let op = Op::FetchAdd {
        at: near.region.remote(near.iova),
        add: 1,
    };
    scene.queue_pair.post_send(1, op, &[near.sge(PAGE, 8)])?;
    loop {
        let Some(request) = scene.wire.receive(Duration::from_secs(10))? else {
            bail!("the next request does not come");
        };
        if request.opcode == FETCH_ADD && request.psn != psn {
            scene.wire.send(&answer(&scene, request.psn, 78))?;
            break;
        }
    }
    let end = scene.queue_pair.completions().wait(scene.env.patience)?;
    end.expect(&[Status::SUCCESS])?;
    ensure!(near.memory.word(PAGE) == 78, "another result");
    Ok(())
}
