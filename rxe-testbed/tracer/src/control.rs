// SPDX-License-Identifier: GPL-2.0
//! Orders of the testbed: a line each, which is answered with a line when it is done, `ok` or what is wrong.
//!
//! ```text
//! record FUNCTION DISTURBANCE...    addresses in hexadecimal: begin
//! write FILE                        end, and write what was recorded
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::recorder::{Order, Recorder};

/// Whoever panicked with it in hand has left it whole: each change is one assignment or one push.
pub(crate) fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes orders of one after the other until the program ends.
pub(crate) fn serve(listener: &UnixListener, recorder: &Mutex<Recorder>) {
    for client in listener.incoming().flatten() {
        // A client that goes has no more orders.
        let _ = talk(&client, recorder);
    }
}

fn talk(mut client: &UnixStream, recorder: &Mutex<Recorder>) -> io::Result<()> {
    for line in BufReader::new(client).lines() {
        let answer = match obey(&line?, recorder) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        writeln!(client, "{answer}")?;
    }
    Ok(())
}

fn obey(line: &str, recorder: &Mutex<Recorder>) -> io::Result<()> {
    match line.split_once(' ') {
        Some(("record", addresses)) => {
            let order = order(addresses).ok_or_else(|| io::Error::other("no addresses"))?;
            lock(recorder).begin(order);
            Ok(())
        }
        Some(("write", path)) => {
            let mut recorder = lock(recorder);
            recorder.end();
            let mut out = BufWriter::new(File::create(path)?);
            recorder.write(&mut out)?;
            out.flush()
        }
        _ => Err(io::Error::other("no such order")),
    }
}

fn order(addresses: &str) -> Option<Order> {
    let addresses = addresses.split(' ');
    let addresses = addresses.map(|text| u64::from_str_radix(text, 16).ok());
    let mut addresses = addresses.collect::<Option<Vec<u64>>>()?;
    let function = addresses.remove(0);
    addresses.sort_unstable();
    Some(Order {
        function,
        disturbances: addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_on_a_socket() -> io::Result<()> {
        let place = std::env::temp_dir().join(format!("tracer-{}", std::process::id()));
        std::fs::create_dir_all(&place)?;
        let (socket, file) = (place.join("control"), place.join("recorded"));
        let listener = UnixListener::bind(&socket)?;
        std::thread::spawn(move || {
            let recorder = Mutex::default();
            serve(&listener, &recorder);
        });
        let mut client = UnixStream::connect(&socket)?;
        let mut answers = BufReader::new(client.try_clone()?).lines();
        let write = format!("write {}", file.display());
        for (order, expected) in [
            ("record ffffffff81000000 10", "ok"),
            (&write, "ok"),
            ("dance", "no such order"),
        ] {
            writeln!(client, "{order}")?;
            let answer = answers.next().transpose()?;
            assert_eq!(answer.as_deref(), Some(expected), "{order}");
        }
        // No call is lost, no block, no call.
        assert_eq!(std::fs::read(&file)?, [0; 24]);
        std::fs::remove_dir_all(&place)
    }

    #[test]
    fn orders_are_what_they_say() {
        let expected = Order {
            function: 0xffff_ffff_8100_0000,
            disturbances: vec![0x10, 0x20],
        };
        assert_eq!(order("ffffffff81000000 20 10"), Some(expected));
        assert_eq!(order("1 x"), None);
        let recorder = Mutex::default();
        let wrong = ["record", "record x", "write /nowhere/file", "dance now"];
        assert!(wrong.iter().all(|line| obey(line, &recorder).is_err()));
    }
}
