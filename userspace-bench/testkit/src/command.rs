// SPDX-License-Identifier: GPL-2.0
//! Other programs.

use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};

/// Runs `program`, whose output is of interest only if it fails.
///
/// # Errors
///
/// It cannot be started, or it fails: then what it has to say is part of the error.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_run_and_what_it_said() {
        assert!(run("true", &[]).is_ok());
        let error = run("sh", &["-c", "echo why >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("sh -c") && text.ends_with(": why"),
            "{text}"
        );
        assert!(run("/no/such/program", &[]).is_err());
    }
}
