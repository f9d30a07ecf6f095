// SPDX-License-Identifier: GPL-2.0
//! A byte stream that ends with a token.

use std::io::Write;

use anyhow::{Context, Result};

/// Copies bytes to `sink` up to, and without, the end token.
pub(crate) struct Until<'a> {
    token: Vec<u8>,
    held: Vec<u8>,
    sink: &'a mut dyn Write,
    ended: bool,
}

impl<'a> Until<'a> {
    /// A stream that ends with `token`.
    pub(crate) fn new(token: &[u8], sink: &'a mut dyn Write) -> Self {
        Self {
            token: token.to_vec(),
            held: Vec::new(),
            sink,
            ended: false,
        }
    }

    /// Whether the token was seen.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Copies what arrived, holding back only what may be the token's beginning.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.held.extend(bytes);
        let found = self
            .held
            .windows(self.token.len())
            .position(|window| window == self.token);
        let ready = match found {
            Some(at) => {
                self.ended = true;
                at
            }
            None => self.held.len() - self.possible_beginning(),
        };
        self.sink
            .write_all(&self.held[..ready])
            .and_then(|()| self.sink.flush())
            .context("writing the command's output")?;
        self.held.drain(..ready);
        Ok(())
    }

    /// The length of the longest end of the held bytes that begins the token.
    fn possible_beginning(&self) -> usize {
        let longest = self.held.len().min(self.token.len() - 1);
        (0..=longest)
            .rev()
            .find(|length| self.held.ends_with(&self.token[..*length]))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(pieces: &[&str]) -> (String, bool) {
        let mut sink = Vec::new();
        let mut stream = Until::new(b"<end>", &mut sink);
        for piece in pieces {
            stream.feed(piece.as_bytes()).unwrap();
        }
        let ended = stream.ended();
        (String::from_utf8(sink).unwrap(), ended)
    }

    #[test]
    fn the_token_is_cut_off_wherever_it_is_split() {
        for split in 0..9 {
            let (a, b) = "data<end>".split_at(split);
            assert_eq!(copied(&[a, b]), ("data".into(), true));
        }
    }

    #[test]
    fn what_only_begins_like_the_token_is_data() {
        assert_eq!(copied(&["a<en", "ding", "<"]), ("a<ending".into(), false));
        assert_eq!(copied(&["<<end>"]), ("<".into(), true));
    }
}
