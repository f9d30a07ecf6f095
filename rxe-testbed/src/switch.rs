// SPDX-License-Identifier: GPL-2.0
//! A network segment with any number of ends: a switch between pairs of datagram sockets, a datagram for each frame.
//!
//! It learns who is where. A frame waits for its place at its end, so that the sender is held up and nothing is lost. It is
//! dropped where there is no place at an end that has not said anything yet, or takes nothing: a VM that is not booted yet,
//! or hangs, keeps nobody waiting.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

/// An Ethernet address.
type Address = [u8; 6];

/// The largest frame: more than the 9000 bytes of the cards, with all headers.
const FRAME: usize = 1 << 16;

/// After this time it is looked whether the switch is still wanted.
const NAP: Duration = Duration::from_secs(1);

/// An end that takes no frame for so long is not waited for any more, until it says something.
const DEAF: Duration = Duration::from_secs(10);

/// A switch; it goes on until it is dropped.
pub(crate) struct Switch {
    ended: Arc<AtomicBool>,
}

/// What its threads share.
struct Ports {
    ports: Vec<Port>,
    known: Mutex<HashMap<Address, usize>>,
}

/// One of them.
struct Port {
    socket: UnixDatagram,
    /// Whether its end has said something since it last took nothing: then it is waited for.
    listens: AtomicBool,
}

impl Port {
    /// Passes on a frame to its end. What cannot be sent is lost, as on any network.
    fn send(&self, frame: &[u8]) {
        if !self.listens.load(Ordering::Relaxed) {
            send_if_there_is_room(&self.socket, frame);
        } else if self.socket.send(frame).is_err() {
            self.listens.store(false, Ordering::Relaxed);
        }
    }
}

impl Switch {
    /// A switch, and the other ends of its ports.
    pub(crate) fn new(ports: usize) -> Result<(Self, Vec<UnixDatagram>)> {
        let (mut all, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..ports {
            let (socket, end) = UnixDatagram::pair().context("making a pair of sockets")?;
            socket.set_read_timeout(Some(NAP)).context("a time limit")?;
            socket
                .set_write_timeout(Some(DEAF))
                .context("a time limit")?;
            let listens = AtomicBool::new(false);
            all.push(Port { socket, listens });
            ends.push(end);
        }
        let known = Mutex::default();
        let shared = Arc::new(Ports { ports: all, known });
        let ended = Arc::new(AtomicBool::new(false));
        for port in 0..ports {
            let (shared, ended) = (Arc::clone(&shared), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut frame = vec![0; FRAME];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok(length) = shared.ports[port].socket.recv(&mut frame) {
                        shared.pass_on(port, &frame[..length]);
                    }
                }
            });
        }
        Ok((Self { ended }, ends))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Ports {
    /// Passes on a frame that has come in at a port.
    fn pass_on(&self, from: usize, frame: &[u8]) {
        let Some((to, sender)) = addresses(frame) else {
            return;
        };
        self.ports[from].listens.store(true, Ordering::Relaxed);
        let to = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(sender, from);
            known.get(&to).copied()
        };
        let ports = self.ports.iter().enumerate();
        for (port, end) in ports.filter(|(port, _)| *port != from) {
            if to.is_none_or(|to| to == port) {
                end.send(frame);
            }
        }
    }
}

/// To whom a frame goes and from whom it comes.
fn addresses(frame: &[u8]) -> Option<(Address, Address)> {
    let to = frame.get(..6)?.try_into().ok()?;
    let from = frame.get(6..12)?.try_into().ok()?;
    Some((to, from))
}

fn send_if_there_is_room(socket: &UnixDatagram, frame: &[u8]) {
    let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
        let _ = socket.send(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Address = [0xff; 6];

    fn frame(to: Address, from: Address, text: &[u8]) -> Vec<u8> {
        [&to[..], &from, text].concat()
    }

    fn received(end: &UnixDatagram) -> Vec<u8> {
        let mut frame = vec![0; FRAME];
        let patience = Duration::from_secs(120);
        end.set_read_timeout(Some(patience)).unwrap();
        let length = end.recv(&mut frame).expect("a frame");
        frame.truncate(length);
        frame
    }

    #[test]
    fn a_frame_for_all_goes_to_all_others_and_one_for_one_to_that_one() -> Result<()> {
        let (_switch, ends) = Switch::new(3)?;
        let [a, b, c] = [[1; 6], [2; 6], [3; 6]];
        let hello = frame(ALL, a, b"hello");
        ends[0].send(&hello)?;
        assert_eq!(
            [received(&ends[1]), received(&ends[2])],
            [hello.clone(), hello]
        );
        // Where `a` is was learnt from that.
        let answer = frame(a, b, b"answer");
        ends[1].send(&answer)?;
        assert_eq!(received(&ends[0]), answer);
        let last = frame(ALL, c, b"last");
        ends[2].send(&last)?;
        assert_eq!(received(&ends[0]), last);
        // Nothing else came here, neither the answer nor its own.
        assert_eq!(received(&ends[1]), last);
        let direct = frame(c, a, b"direct");
        ends[0].send(&direct)?;
        assert_eq!(received(&ends[2]), direct);
        Ok(())
    }

    #[test]
    fn nothing_is_lost_between_two_and_an_end_that_takes_nothing_holds_up_nobody() -> Result<()> {
        const COUNT: u32 = 2000;
        let (_switch, ends) = Switch::new(3)?;
        let [a, b] = [[1; 6], [2; 6]];
        ends[1].send(&frame(ALL, b, b""))?;
        received(&ends[0]);
        let sender = ends[0].try_clone()?;
        let sending = std::thread::spawn(move || -> std::io::Result<()> {
            for number in 0..COUNT {
                // The third end has no place for these after some.
                let _ = sender.send(&frame([9; 6], a, b""))?;
                sender.send(&frame(b, a, &number.to_le_bytes()))?;
            }
            Ok(())
        });
        let mut expected = 0;
        while expected < COUNT {
            let frame = received(&ends[1]);
            if frame[..6] == b {
                assert_eq!(frame[12..], expected.to_le_bytes());
                expected += 1;
            }
        }
        assert!(sending.join().is_ok_and(|sent| sent.is_ok()));
        Ok(())
    }

    #[test]
    fn what_is_no_frame_goes_nowhere() {
        assert_eq!(addresses(&[0; 11]), None);
        assert!(addresses(&[0; 12]).is_some());
    }
}
