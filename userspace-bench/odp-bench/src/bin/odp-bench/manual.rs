// SPDX-License-Identifier: GPL-2.0
//! Manual pages, and completions for shells: both come from the definition of the arguments.

use std::{io, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory;

use crate::{
    arguments::{Arguments, Completions, Man},
    Outcome,
};

/// `man`.
pub fn man(arguments: &Man) -> Outcome {
    let folder = &arguments.folder;
    clap_mangen::generate_to(Arguments::command(), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `completions`.
pub fn completions(arguments: &Completions) -> Outcome {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use clap_complete::Shell;
    use std::fs;

    #[test]
    fn each_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let into = Man {
            folder: folder.path().into(),
        };
        man(&into).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("odp-bench.1").contains("Exit status"));
        for command in Arguments::command().get_subcommands() {
            let page = page(&format!("odp-bench-{}.1", command.get_name()));
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long() {
                    // A hyphen is written with a backslash there.
                    let option = format!("\\-\\-{}", long.replace('-', "\\-"));
                    assert!(page.contains(&option), "{option} in {page}");
                }
            }
        }
        let nowhere = Man {
            folder: folder.path().join("none"),
        };
        assert!(man(&nowhere).is_err());
    }

    #[test]
    fn each_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "odp-bench", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("tx-depth"), "{shell}");
        }
    }
}
