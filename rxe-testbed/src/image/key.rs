// SPDX-License-Identifier: GPL-2.0
//! Public keys of ssh's, with which one can log in to an image.

use std::path::PathBuf;

use anyhow::{bail, Context, Result};

/// What the kinds of keys begin with, where they stand first in a line.
const KINDS: &[&str] = &["ssh-", "ecdsa-", "sk-"];

/// The keys of all files, one a line.
pub(super) fn read(files: &[PathBuf]) -> Result<String> {
    let mut keys = String::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("--key {}: it cannot be read", file.display()))?;
        let lines: Vec<&str> = lines(&text).collect();
        if lines.is_empty() || !lines.iter().all(|line| is_key(line)) {
            bail!(
                "--key {}: it is no public key of ssh's: `ssh-keygen` writes that to the file that ends in .pub",
                file.display()
            );
        }
        for line in lines {
            keys.push_str(line);
            keys.push('\n');
        }
    }
    Ok(keys)
}

/// Those that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether a line has a kind and a key.
fn is_key(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let kind = words.next().unwrap_or_default();
    KINDS.iter().any(|start| kind.starts_with(start)) && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_keys_are_taken() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let of = |text: &str| {
            let file = dir.path().join("key");
            std::fs::write(&file, text)?;
            read(&[file])
        };
        let keys = of("# mine\nssh-ed25519 AAAA me@here\n\n ecdsa-sha2-nistp256 BBBB\n")?;
        assert_eq!(keys, "ssh-ed25519 AAAA me@here\necdsa-sha2-nistp256 BBBB\n");
        for wrong in [
            "",
            "ssh-ed25519",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            "ssh-ed25519 AAAA\nmore\n",
        ] {
            let error = of(wrong).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains(".pub")), "{wrong}");
        }
        assert!(read(&[dir.path().join("none")]).is_err());
        assert_eq!(read(&[])?, "");
        Ok(())
    }
}
