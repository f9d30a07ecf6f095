// SPDX-License-Identifier: GPL-2.0
//! Finds functions, structures and macros in the kernel's C sources, by how the kernel writes them: what is
//! defined begins at the start of a line, and its last brace stands there, too.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The text of what is called `name` (`struct name` for a structure) in `source`. Of several definitions, one
/// for each configuration, all.
pub(crate) fn find(source: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        match definition(&lines, at, name) {
            Some(end) => {
                let start = beginning(&lines, at);
                found.push(lines[start..=end].join("\n"));
                at = end + 1;
            }
            None => at += 1,
        }
    }
    (!found.is_empty()).then(|| found.join("\n\n"))
}

/// A short hash of a text; white space at the ends of lines is no part of it.
pub(crate) fn hash(text: &str) -> String {
    let mut digest = Sha256::new();
    for line in text.lines() {
        digest.update(line.trim_end().as_bytes());
        digest.update(b"\n");
    }
    let bytes = digest.finalize();
    bytes[..6].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The last line of the definition of `name` if its name stands in line `at`.
fn definition(lines: &[&str], at: usize, name: &str) -> Option<usize> {
    let line = lines[at];
    if let Some(rest) = line.strip_prefix("#define ") {
        if !called(rest, name, 0) {
            return None;
        }
        let ends = |line: &&str| !line.trim_end().ends_with('\\');
        return Some(at + lines[at..].iter().position(ends)?);
    }
    if name.starts_with("struct ") {
        let opens = line.strip_prefix(name)?.trim_start().starts_with('{');
        return opens.then(|| closing(lines, at)).flatten();
    }
    if !line.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        return None;
    }
    let place = line
        .match_indices(name)
        .map(|(place, _)| place)
        .find(|place| called(line, name, *place))?;
    opens_body(lines, at, place).then(|| closing(lines, at))?
}

/// Whether `name` stands at `place`, by itself, with its parameters after it.
fn called(line: &str, name: &str, place: usize) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before = line[..place].chars().next_back();
    let after = line[place..].strip_prefix(name);
    !before.is_some_and(word) && after.is_some_and(|after| after.starts_with('('))
}

/// Whether a brace follows the parameters that begin at or after `place` of line `at`.
fn opens_body(lines: &[&str], at: usize, place: usize) -> bool {
    let mut depth = 0;
    for (number, line) in lines[at..].iter().enumerate() {
        let from = if number == 0 { place } else { 0 };
        for c in line[from..].chars() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                '{' if depth == 0 => return true,
                ';' if depth == 0 => return false,
                _ => {}
            }
        }
    }
    false
}

/// The line with the last brace of what begins in line `at`.
fn closing(lines: &[&str], at: usize) -> Option<usize> {
    let one_line = |line: &str| line.contains('{') && line.trim_end().ends_with('}');
    let mut rest = lines[at..].iter().enumerate();
    let (offset, _) = rest.find(|(_, line)| line.starts_with('}') || one_line(line))?;
    Some(at + offset)
}

/// The first line of what is named in line `at`: the type and the attributes may stand before.
fn beginning(lines: &[&str], at: usize) -> usize {
    let mut start = at;
    while start > 0 {
        let before = lines[start - 1].trim_end();
        let ends = before.is_empty()
            || before.starts_with('#')
            || before.ends_with([';', '}', '/', '\\', ':']);
        if ends || lines[start].starts_with("#define") {
            break;
        }
        start -= 1;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
#define twice(x)	\\
	((x) * 2)

int first(int a);

/* Calls it. */
static int __must_check
first(int a)
{
	if (a) {
		second(a);
	}
	return third(a);
}
EXPORT_SYMBOL(first);

#ifdef A
static inline void second(int a) { }
#else
static inline void second(int a)
{
	first(a);
}
#endif

struct pair {
	int a;
};

void takes(struct pair *pair,
	   int (*third)(int))
{
}
";

    fn of(name: &str) -> String {
        find(SOURCE, name).unwrap_or_default()
    }

    #[test]
    fn a_function_has_its_type_and_its_body() {
        let text = of("first");
        assert!(
            text.starts_with("static int __must_check\nfirst("),
            "{text}"
        );
        assert!(text.ends_with("\n}"), "{text}");
        assert!(!text.contains("EXPORT"), "{text}");
        assert!(of("takes").starts_with("void takes("));
    }

    #[test]
    fn all_definitions_are_one_text() {
        let text = of("second");
        assert_eq!(text.matches("second(int a)").count(), 2, "{text}");
        assert!(text.ends_with("\tfirst(a);\n}"), "{text}");
    }

    #[test]
    fn structures_and_macros_are_found() {
        assert_eq!(of("struct pair"), "struct pair {\n\tint a;\n};");
        assert_eq!(of("twice"), "#define twice(x)\t\\\n\t((x) * 2)");
    }

    #[test]
    fn what_is_only_declared_or_called_is_not_found() {
        for name in ["third", "fir", "irst", "struct third", "a"] {
            assert_eq!(find(SOURCE, name), None, "{name}");
        }
    }

    #[test]
    fn hashes_are_of_the_text() {
        assert_eq!(hash("a \nb"), hash("a\nb\n"));
        assert_ne!(hash("a\nb"), hash("a\n b"));
        assert_eq!(hash("").len(), 12);
    }
}
