// SPDX-License-Identifier: GPL-2.0
//! What the user sees of a long step: a spinner on a terminal, plain lines elsewhere.
//!
//! Everything goes to standard error, so that standard output is the guest command's alone.

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The spinners: there may be several steps at once.
static SPINNERS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// One long step in progress.
pub(crate) struct Step {
    title: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Announces a step, for example `building the kernel modules`.
    pub(crate) fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let bar = std::io::stderr().is_terminal().then(|| spinner(&title));
        if bar.is_none() {
            line(&format!("... {title}"));
        }
        Self {
            title,
            started: Instant::now(),
            bar,
        }
    }

    /// Shows what the step is doing right now; nothing where there is no terminal.
    pub(crate) fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            let text: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
            bar.set_message(text);
        }
    }

    /// Prints lines that stay, above the spinner.
    pub(crate) fn say(&self, text: &str) {
        line(text);
    }

    /// Ends the step with success.
    pub(crate) fn done(self) {
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        line(&format!("  ✓ {} ({seconds:.1} s)", self.title));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner(title: &str) -> ProgressBar {
    let bar = SPINNERS.add(ProgressBar::new_spinner());
    if let Ok(style) =
        ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Prints something with no spinner in the way.
pub(crate) fn beside(print: impl FnOnce()) {
    SPINNERS.suspend(print);
}

/// Prints one line to standard error. A closed standard error is not worth dying for.
pub(crate) fn line(text: &str) {
    beside(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

/// Prints a remark that the user should see but that stops nothing.
pub(crate) fn note(text: &str) {
    line(&format!("note: {text}"));
}
