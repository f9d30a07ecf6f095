// SPDX-License-Identifier: GPL-2.0
//! Holds the declarations of [`super`] against a header file in which each field is an array of as many `u8` as it
//! has bits.

use std::collections::HashMap;

use super::{Layout, ALL};

/// What is wrong with our declarations, by what the header `text` says; nothing if all agree. The fields of
/// structures that the header does not have are not checked, and are named.
pub fn differences(text: &str) -> Vec<String> {
    let header = Header::read(text);
    let mut found = Vec::new();
    for layout in ALL {
        match header.layout(&format!("mlx5_ifc_{}_bits", layout.name), 0) {
            Some(theirs) => compare(layout, &theirs, &mut found),
            None => found.push(format!("the header has no {}", layout.name)),
        }
    }
    found
}

fn compare(ours: &Layout, theirs: &Known, found: &mut Vec<String>) {
    if theirs.bits != ours.bytes * 8 {
        found.push(format!(
            "{} has {} bits, not {}",
            ours.name,
            theirs.bits,
            ours.bytes * 8
        ));
    }
    for field in ours.fields {
        let name = field.name.to_lowercase();
        match theirs.fields.get(&name) {
            Some(&place) if place == (field.bit, field.width) => {}
            Some((bit, width)) => found.push(format!(
                "{}.{name} is at {bit:#x}, {width:#x} bits wide",
                ours.name
            )),
            None => found.push(format!("{} has no {name}", ours.name)),
        }
    }
}

/// A structure of the header: its size, and its fields by their own names, which are unique where it matters.
#[derive(Clone, Default)]
struct Known {
    bits: usize,
    fields: HashMap<String, (usize, usize)>,
}

/// A header's structures as words, by name.
struct Header<'a> {
    blocks: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Header<'a> {
    fn read(text: &'a str) -> Self {
        let words = words(text);
        let mut blocks = HashMap::new();
        for (at, window) in words.windows(3).enumerate() {
            if matches!(window[0], "struct" | "union") && window[2] == "{" {
                // From the keyword to the bracket that closes the block.
                let mut depth = 0;
                let end = words[at..].iter().position(|word| {
                    depth += i32::from(*word == "{");
                    depth -= i32::from(*word == "}");
                    *word == "}" && depth == 0
                });
                if let Some(end) = end {
                    blocks.insert(window[1], words[at..=at + end].to_vec());
                }
            }
        }
        Self { blocks }
    }

    /// A structure's fields; `depth` keeps a header that contains itself from taking for ever.
    fn layout(&self, name: &str, depth: u32) -> Option<Known> {
        let words = self.blocks.get(name).filter(|_| depth < 16)?;
        let mut rest = &words[3..];
        Some(self.block(words[0] == "union", &mut rest, depth))
    }

    /// The members up to the bracket that closes the block.
    fn block(&self, union: bool, rest: &mut &[&str], depth: u32) -> Known {
        let mut all = Known::default();
        let mut end = 0;
        while let Some((&word, mut after)) = rest.split_first() {
            if word == "}" {
                *rest = after;
                break;
            }
            let (inner, opaque) = match word {
                "u8" => (Known::default(), true),
                "struct" | "union" => (self.member(word == "union", &mut after, depth), false),
                _ => {
                    *rest = after;
                    continue;
                }
            };
            let place = if union { 0 } else { end };
            let (name, count) = declarator(&mut after);
            let each = if opaque { 1 } else { inner.bits };
            for (field, (bit, width)) in inner.fields {
                all.fields.entry(field).or_insert((place + bit, width));
            }
            if let Some(name) = name {
                let width = each * count;
                all.fields.insert(name.to_lowercase(), (place, width));
            }
            end = place + each * count;
            all.bits = all.bits.max(end);
            *rest = after;
        }
        all
    }

    /// A structure in another one: `{ … }` with or without a name before it, or the name of one that is elsewhere.
    fn member(&self, union: bool, rest: &mut &[&str], depth: u32) -> Known {
        let named = rest.first().is_some_and(|word| *word != "{");
        let name = rest.first().copied().unwrap_or_default();
        *rest = &rest[usize::from(named)..];
        if rest.first() == Some(&"{") {
            *rest = &rest[1..];
            return self.block(union, rest, depth + 1);
        }
        self.layout(name, depth + 1).unwrap_or_default()
    }
}

/// A name with its array's dimensions up to the semicolon: how many there are in all.
fn declarator<'a>(rest: &mut &[&'a str]) -> (Option<&'a str>, usize) {
    let end = rest.iter().position(|word| *word == ";");
    let end = end.unwrap_or(rest.len());
    let (words, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    let name = words.first().copied().filter(|word| *word != "[");
    let dimensions = words.iter().enumerate().filter(|(_, word)| **word == "[");
    let count = dimensions
        .map(|(at, _)| words.get(at + 1).map_or(0, |word| number(word)))
        .product();
    (name, count)
}

fn number(word: &str) -> usize {
    match word.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).unwrap_or(0),
        None => word.parse().unwrap_or(0),
    }
}

/// The words and the punctuation that matters, without comments.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| !letter.is_whitespace()) {
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let end = match end {
            Some(0) => rest.chars().next().map_or(rest.len(), char::len_utf8),
            Some(end) => end,
            None => rest.len(),
        };
        let (word, after) = rest.split_at(end);
        found.push(word);
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "\
/* struct mlx5_ifc_eqc_bits { u8 status[0x40]; }; */
struct mlx5_ifc_inner_bits {
	u8         first[0x8];
	u8         reserved_at_8[0x18];
};

union mlx5_ifc_either_bits {
	struct mlx5_ifc_inner_bits inner;
	u8         wide[0x40];
};

struct mlx5_ifc_eqc_bits {
	u8         status[0x4];
	u8         reserved_at_4[0x1c];
	struct mlx5_ifc_inner_bits two[2];
	union mlx5_ifc_either_bits either;
	struct {
		u8         nameless[0x10];
	};
	union {
		u8     small[16];
		struct {
			u8 high[0x8];
			u8 low[0x8];
		} halves;
	} last;
	u8         pas[0][0x40];
};
";

    fn known() -> Known {
        Header::read(HEADER)
            .layout("mlx5_ifc_eqc_bits", 0)
            .unwrap_or_default()
    }

    #[test]
    fn structures_are_laid_out_one_member_after_the_other() {
        let known = known();
        assert_eq!(known.bits, 0xc0);
        for (name, place) in [
            ("status", (0, 4)),
            ("two", (0x20, 0x40)),
            ("either", (0x60, 0x40)),
            ("wide", (0x60, 0x40)),
            ("nameless", (0xa0, 0x10)),
            ("small", (0xb0, 0x10)),
            ("low", (0xb8, 8)),
            ("pas", (0xc0, 0)),
        ] {
            assert_eq!(known.fields.get(name), Some(&place), "{name}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let mut found = Vec::new();
        compare(&super::super::eqc::LAYOUT, &known(), &mut found);
        let text = found.join("\n");
        assert!(text.contains("eqc has 192 bits, not 512"), "{text}");
        assert!(text.contains("eqc has no intr"), "{text}");
        assert!(!text.contains("status"), "{text}");
        assert!(differences("").len() == ALL.len());
    }

    #[test]
    fn no_header_is_too_odd() {
        for text in [
            "struct",
            "struct a {",
            "struct a { struct a b; };",
            "}",
            "u8 a[;",
        ] {
            assert_eq!(differences(text).len(), ALL.len(), "{text}");
        }
        let own = "struct mlx5_ifc_eqc_bits { struct mlx5_ifc_eqc_bits again; };";
        assert!(differences(own).len() > ALL.len());
    }
}
