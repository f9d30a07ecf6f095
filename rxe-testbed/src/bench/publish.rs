// SPDX-License-Identifier: GPL-2.0
//! What a run found, for the documents of the repository: a table between two marks, and a picture.

use std::path::Path;

use anyhow::{Context, Result};
use odp_results::run::write_atomically;

use super::rendering;
use super::verdict::Line;

/// Where a kind of run is published: the document, and the picture beside it.
struct Place {
    document: &'static str,
    picture: &'static str,
    /// The picture as the document sees it, and what stands for it where there are no pictures.
    link: &'static str,
}

/// Times go to the chapter on performance, instructions to that on odp-bench.
fn place(icount: bool) -> Place {
    match icount {
        false => Place {
            document: "docs/src/performance.md",
            picture: "docs/src/times.svg",
            link: "![What both drivers cost](times.svg)",
        },
        true => Place {
            document: "docs/src/is-odp-for-you.md",
            picture: "docs/src/instructions.svg",
            link: "![What both drivers take](instructions.svg)",
        },
    }
}

const BEGIN: &str = "<!-- made by cargo testbed bench --publish -->";
const END: &str = "<!-- end -->";

/// Puts the table and the picture into the repository at `root`; `heading` says where they are from.
pub(super) fn publish(root: &Path, lines: &[Line], icount: bool, heading: &str) -> Result<()> {
    let place = place(icount);
    let path = root.join(place.document);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let picture = rendering::picture(lines);
    let link = match &picture {
        Some(_) => format!("\n{}\n", place.link),
        None => String::new(),
    };
    let table = format!(
        "\n{}\n\n{}\n{link}",
        heading.trim(),
        rendering::markdown(lines).trim()
    );
    let text = between(&text, &table)
        .with_context(|| format!("{} has no line {BEGIN} and {END} after it", path.display()))?;
    write_atomically(&path, text.as_bytes())?;
    if let Some(picture) = picture {
        write_atomically(&root.join(place.picture), picture.as_bytes())?;
    }
    println!("written: {}, {}", place.document, place.picture);
    Ok(())
}

/// `text` with `new` between the marks.
fn between(text: &str, new: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{new}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = between(&text, "\nnew\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(between(&new, "\nnew\n").unwrap(), new);
        assert_eq!(between("no marks", ""), None);
    }

    #[test]
    fn the_documents_have_their_marks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for icount in [false, true] {
            let text = std::fs::read_to_string(root.join(place(icount).document)).unwrap();
            assert!(between(&text, "").is_some(), "{}", place(icount).document);
        }
    }
}
