// SPDX-License-Identifier: GPL-2.0
//! What scripts for the guest's shell consist of. Whoever has the VM run something (`Vm::run`) puts it together
//! with these.

/// A word for the guest's shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `script`, with the guest's own scripts among its commands.
pub(crate) fn with_scripts(script: &str) -> String {
    format!("PATH=/usr/local/lib/testbed:$PATH\n{script}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_unchanged() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
