// SPDX-License-Identifier: GPL-2.0
//! The functions of the guest's kernel, by `/proc/kallsyms`.

use anyhow::{bail, Result};

/// Addresses below are those of programs.
const KERNEL: u64 = 1 << 63;

/// What comes before a function's code, for tracing and for landing there by mistake.
const PADDING: &str = "__pfx_";

/// What the name of a part ends with that is elsewhere as it seldom runs. It is the same function.
const SELDOM: &str = ".cold";

/// A function, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    at: u64,
    /// As the linker has it.
    raw: String,
    /// For people, with its module.
    name: String,
}

/// All of them.
pub(super) struct Symbols(Vec<Symbol>);

impl Symbols {
    /// Reads lines like `ffffffffc06fff70 t rxe_mr_copy [rdma_rxe]`.
    pub(super) fn read(text: &str) -> Self {
        let mut symbols: Vec<Symbol> = text.lines().filter_map(symbol).collect();
        // Of several names of a function the first is the one that is said: always the same, `memcpy` and not `__memcpy`.
        let rank = |symbol: &Symbol| (symbol.at, symbol.raw.starts_with('_'));
        symbols.sort_by(|one, other| (rank(one), &one.raw).cmp(&(rank(other), &other.raw)));
        Self(symbols)
    }

    /// Where the function is that is meant by `name`: as the linker or a person has it, of one in Rust also only the end
    /// of its path.
    pub(super) fn find(&self, name: &str) -> Result<u64> {
        let means = |symbol: &&Symbol| {
            let path = symbol.name.split(" [").next().unwrap_or_default();
            let named = path == name || symbol.name == name || path.ends_with(&format!("::{name}"));
            symbol.raw == name || named && !symbol.raw.ends_with(SELDOM)
        };
        let mut found: Vec<&Symbol> = self.0.iter().filter(means).collect();
        found.dedup_by_key(|symbol| symbol.at);
        match found[..] {
            [one] => Ok(one.at),
            [] => bail!("the kernel has no function `{name}` now"),
            _ => {
                let names: Vec<&str> = found.iter().map(|symbol| symbol.name.as_str()).collect();
                bail!("`{name}` may be any of {}", names.join(", "))
            }
        }
    }

    /// The function whose code is at this address, and whether it begins there.
    pub(super) fn at(&self, address: u64) -> (&str, bool) {
        if address < KERNEL {
            return ("(a program)", false);
        }
        let after = self.0.partition_point(|symbol| symbol.at <= address);
        match after.checked_sub(1) {
            Some(number) => {
                let at = self.0[number].at;
                let first = self.0.partition_point(|symbol| symbol.at < at);
                (&self.0[first].name, at == address)
            }
            None => ("(unknown)", false),
        }
    }

    /// Where the kernel is entered by an interrupt or an exception, and where it goes on with another task.
    pub(super) fn disturbances(&self) -> Vec<u64> {
        let starts = [
            "asm_exc_",
            "asm_sysvec_",
            "asm_common_interrupt",
            "__switch_to_asm",
        ];
        let disturbs = |symbol: &&Symbol| starts.iter().any(|start| symbol.raw.starts_with(start));
        self.0
            .iter()
            .filter(disturbs)
            .map(|symbol| symbol.at)
            .collect()
    }
}

fn symbol(line: &str) -> Option<Symbol> {
    let mut words = line.split_whitespace();
    let at = u64::from_str_radix(words.next()?, 16).ok()?;
    let is_code = "tTwW".contains(words.next()?);
    let raw = words.next()?;
    if !is_code || raw.starts_with(PADDING) {
        return None;
    }
    let whole = raw.strip_suffix(SELDOM).unwrap_or(raw);
    let name = plain(&format!("{:#}", rustc_demangle::demangle(whole)));
    let name = match words.next() {
        Some(module) => format!("{name} {module}"),
        None => name,
    };
    let raw = raw.to_owned();
    Some(Symbol { at, raw, name })
}

/// The name of a function without what it is generic over: `<a::B<c::D>>::e::<f::G>` becomes `a::B::e`.
fn plain(name: &str) -> String {
    let mut plain = String::new();
    // How many brackets it is in of what is left out.
    let mut left_out = 0;
    let mut before = ' ';
    for c in name.chars() {
        // An arrow is no bracket.
        let closes = c == '>' && before != '-';
        let opens = c == '<';
        before = c;
        match (left_out, opens) {
            (0, true) if plain.ends_with(|c: char| c.is_alphanumeric() || "_:}".contains(c)) => {
                left_out = 1;
                let rest = plain.trim_end_matches("::").len();
                plain.truncate(rest);
            }
            (0, _) => plain.push(c),
            (_, true) => left_out += 1,
            _ if closes => left_out -= 1,
            _ => {}
        }
    }
    match plain
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
    {
        Some((of, rest)) if !of.contains(" as ") => format!("{of}{rest}"),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ffffffff81000000 T _stext
ffffffff81000100 T __pfx_schedule
ffffffff81000110 T schedule
ffffffff81000200 T asm_exc_page_fault
ffffffff81000280 T copy
ffffffff81000280 T __copy
ffffffff81000300 D some_data
ffffffffc0000000 t one\t[first]
ffffffffc0000100 t one\t[second]
ffffffffc0000200 t _RNvNtCs1Bd5cUXbUqh_7rxe_odp12registration11reg_user_mr\t[rdma_rxe]
ffffffffc0000300 t schedule.cold
";

    #[test]
    fn names_are_without_what_is_generic() {
        for (name, expected) in [
            ("schedule", "schedule"),
            ("a::b", "a::b"),
            ("<a::B<c::D>>::e::<f::G<h>>", "a::B::e"),
            ("<a::B<fn(c) -> d> as e::F<g>>::h", "<a::B as e::F>::h"),
            ("a::b::<c>::{closure#0}::<d>", "a::b::{closure#0}"),
            ("<a::B>::c::<<a::B>::d<e>::{closure#0}>", "a::B::c"),
            ("<[a::B<c>]>::d", "[a::B]::d"),
        ] {
            assert_eq!(plain(name), expected, "{name}");
        }
    }

    #[test]
    fn functions_are_found_by_name_and_by_address() -> Result<()> {
        let symbols = Symbols::read(TEXT);
        assert_eq!(symbols.find("schedule")?, 0xffff_ffff_8100_0110);
        for name in [
            "reg_user_mr",
            "registration::reg_user_mr",
            "rxe_odp::registration::reg_user_mr",
        ] {
            assert_eq!(symbols.find(name)?, 0xffff_ffff_c000_0200, "{name}");
        }
        assert_eq!(symbols.find("one [second]")?, 0xffff_ffff_c000_0100);
        for name in ["copy", "__copy"] {
            assert_eq!(symbols.find(name)?, 0xffff_ffff_8100_0280, "{name}");
        }
        assert_eq!(symbols.at(0xffff_ffff_8100_0280), ("copy", true));
        assert!(symbols.find("user_mr").is_err() && symbols.find("some_data").is_err());
        let several = symbols.find("one").map_err(|error| error.to_string());
        assert_eq!(
            several,
            Err("`one` may be any of one [first], one [second]".into())
        );
        assert_eq!(symbols.at(0xffff_ffff_8100_0110), ("schedule", true));
        assert_eq!(symbols.at(0xffff_ffff_8100_01ff), ("schedule", false));
        let name = "rxe_odp::registration::reg_user_mr [rdma_rxe]";
        assert_eq!(symbols.at(0xffff_ffff_c000_0210), (name, false));
        assert_eq!(symbols.at(0xffff_ffff_c000_0300), ("schedule", true));
        assert_eq!(symbols.at(0x4000), ("(a program)", false));
        assert_eq!(symbols.disturbances(), [0xffff_ffff_8100_0200]);
        Ok(())
    }
}
