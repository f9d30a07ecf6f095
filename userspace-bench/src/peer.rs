// SPDX-License-Identifier: GPL-2.0
//! Two processes, on two hosts or on one, that arrange over TCP how their queue pairs are connected.
//!
//! One [listens](Peer::accept), the other [calls](Peer::connect); from then on both are equal. Messages are
//! lines of JSON. What goes over RDMA is nobody's business here.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use serde::{de::DeserializeOwned, Deserialize, Serialize};

use crate::{
    env::Env,
    patience::scaled,
    verbs::{
        self, Completion, CompletionQueue, Endpoint, Mtu, Op, QpConfig, QueuePair, Remote, Sge,
        Status,
    },
};

/// The TCP port if none is given.
pub const PORT: u16 = 18520;

/// How long to wait before trying again.
const NAP: Duration = Duration::from_millis(20);

/// The process at the other end.
#[derive(Debug)]
pub struct Peer {
    output: TcpStream,
    input: BufReader<TcpStream>,
}

impl Peer {
    /// Waits on `port` of all addresses until somebody calls, for at most `limit`, as all limits here on an
    /// [ordinary kernel](crate::patience).
    ///
    /// # Errors
    ///
    /// `TimedOut` if nobody did, and what the system says of the port.
    pub fn accept(port: u16, limit: Duration) -> io::Result<Self> {
        Self::accept_from(&TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?, limit)
    }

    fn accept_from(listener: &TcpListener, limit: Duration) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let start = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Self::new(stream, limit),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if start.elapsed() > scaled(limit) {
                return Err(late("nobody called", scaled(limit)));
            }
            thread::sleep(NAP);
        }
    }

    /// Calls `port` of `host` until somebody listens there, for at most `limit`.
    ///
    /// # Errors
    ///
    /// What the last attempt ended with.
    pub fn connect(host: &str, port: u16, limit: Duration) -> io::Result<Self> {
        let start = Instant::now();
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no address for {host}"));
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        // Nobody may listen at the first of a name's addresses: that of IPv6.
        let mut turns = addresses.iter().cycle();
        loop {
            let address = turns.next().ok_or_else(unknown)?;
            match TcpStream::connect_timeout(address, scaled(limit)) {
                Ok(stream) => return Self::new(stream, limit),
                Err(error) if start.elapsed() > scaled(limit) => return Err(error),
                Err(_) => thread::sleep(NAP),
            }
        }
    }

    /// Whatever is heard from this peer has to come within `limit`.
    fn new(stream: TcpStream, limit: Duration) -> io::Result<Self> {
        // What a listener accepts may be as it is itself.
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(scaled(limit)))?;
        stream.set_write_timeout(Some(scaled(limit)))?;
        let input = BufReader::new(stream.try_clone()?);
        Ok(Self {
            output: stream,
            input,
        })
    }

    /// Tells the peer something.
    pub fn tell(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.output.write_all(&line)
    }

    /// Waits for what the peer has to say.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if it is gone, `TimedOut` if it said nothing for as long as its limit, `InvalidData` if
    /// it said something else.
    pub fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer is gone",
            )),
            Ok(_) => Ok(serde_json::from_str(&line)?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let limit = self.output.read_timeout()?.unwrap_or_default();
                Err(late("the peer says nothing", limit))
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the peer `message` and hears the same kind of thing from it.
    pub fn exchange<T: Serialize + DeserializeOwned>(&mut self, message: &T) -> io::Result<T> {
        self.tell(message)?;
        self.hear()
    }

    /// Waits until the peer is at the same point of the program, which both call `place`.
    ///
    /// # Errors
    ///
    /// Those of [`hear`](Self::hear), and `InvalidData` if the peer is elsewhere.
    pub fn meet(&mut self, place: &str) -> io::Result<()> {
        let theirs = self.exchange(&place.to_owned())?;
        if theirs == place {
            return Ok(());
        }
        let text = format!("the peer is at `{theirs}`, not at `{place}`");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Makes a queue pair and connects it to the one that the peer makes by the same call, with the largest
    /// packets that both ports take. When it returns, both can be used.
    pub fn link(&mut self, env: &Env, config: QpConfig) -> anyhow::Result<Link> {
        let completions = CompletionQueue::new(&env.context, 2 * config.depth)?;
        let qp = QueuePair::new(&env.domain, &completions, env.gid, config)?;
        let theirs = self.exchange(&Offer {
            endpoint: qp.endpoint()?,
            mtu: env.mtu,
        })?;
        qp.connect(&theirs.endpoint, env.mtu.min(theirs.mtu))?;
        self.meet("connected")?;
        Ok(Link {
            qp,
            patience: env.patience,
        })
    }
}

fn late(what: &str, limit: Duration) -> io::Error {
    let text = format!("{what} for {} ms", limit.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// What is exchanged to connect two queue pairs.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    endpoint: Endpoint,
    mtu: Mtu,
}

/// A queue pair that is connected to one of the peer's.
#[derive(Debug)]
pub struct Link {
    /// This side's queue pair.
    pub qp: QueuePair,
    /// How long a completion may take.
    pub patience: Duration,
}

impl Link {
    /// Waits for the next completion, which has to be a success.
    pub fn wait(&self) -> verbs::Result<Completion> {
        let completion = self.qp.completions().wait(self.patience)?;
        completion.expect(&[Status::SUCCESS])
    }

    /// Asks for `op` and waits until it has succeeded.
    pub fn ok(&self, op: Op, sges: &[Sge]) -> verbs::Result<()> {
        self.qp.post_send(1, op, sges)?;
        self.wait().map(drop)
    }

    /// Writes the memory of `sge` to `to`.
    pub fn write(&self, sge: Sge, to: Remote) -> verbs::Result<()> {
        self.ok(Op::Write(to), &[sge])
    }

    /// Reads from `from` into the memory of `sge`.
    pub fn read(&self, from: Remote, sge: Sge) -> verbs::Result<()> {
        self.ok(Op::Read(from), &[sge])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Two peers of one process.
    fn pair(limit: Duration) -> (Peer, Peer) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let caller = thread::spawn(move || Peer::connect("127.0.0.1", port, limit).unwrap());
        let listening = Peer::accept_from(&listener, limit).unwrap();
        (listening, caller.join().unwrap())
    }

    #[test]
    fn what_one_tells_the_other_hears_in_order() {
        let (mut a, mut b) = pair(LIMIT);
        for number in 0..100u32 {
            a.tell(&number).unwrap();
        }
        b.tell(&"x\ny").unwrap();
        for number in 0..100u32 {
            assert_eq!(b.hear::<u32>().unwrap(), number);
        }
        assert_eq!(a.hear::<String>().unwrap(), "x\ny");
    }

    #[test]
    fn both_have_to_be_at_the_same_place() {
        let (mut a, mut b) = pair(LIMIT);
        let other = thread::spawn(move || (b.meet("here"), b.meet("there")));
        assert!(a.meet("here").is_ok());
        let error = a.meet("elsewhere").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(other.join().unwrap().1.is_err());
    }

    #[test]
    fn a_peer_that_is_gone_or_silent_is_noticed() {
        let (mut a, b) = pair(Duration::from_millis(50));
        let silent = a.hear::<u32>().unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        drop(b);
        let gone = a.hear::<u32>().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_millis(50);
        let error = Peer::accept_from(&listener, limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(listener);
        assert!(Peer::connect("127.0.0.1", port, limit).is_err());
    }
}
