// SPDX-License-Identifier: GPL-2.0
//! A line of the console, which the guest's kernel writes with `console_msg_format=syslog`: `<PRIORITY>[TIME] TEXT`.

/// A line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The facility times eight, and the level. Every line that comes out of the kernel log has it.
    priority: Option<u8>,
    /// What is said.
    pub(super) text: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    pub(super) fn read(line: &'a str) -> Self {
        let line = line.trim_end();
        let priority = line
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
        let (priority, rest) = match priority {
            Some((number, rest)) => (Some(number), rest),
            None => (None, line),
        };
        let text = match rest
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
        {
            Some((_, text)) => text,
            // The time is followed by nothing where a line says nothing.
            None if priority.is_some() && rest.starts_with('[') && rest.ends_with(']') => "",
            None => rest,
        };
        Self { priority, text }
    }

    /// From 0, an emergency, to 7, for debugging; none for a line that did not come out of the kernel log.
    pub(super) fn level(&self) -> Option<u8> {
        self.priority.map(|priority| priority % 8)
    }

    /// Whether it is the kernel's, or at least not a line that a process wrote to `/dev/kmsg`: the kernel marks those
    /// with a facility other than its own, 0.
    pub(super) fn is_kernels(&self) -> bool {
        self.priority.is_none_or(|priority| priority / 8 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_has_a_level() {
        let line = Line::read("<4>[    7.489011] roce0 speed is unknown, defaulting to 1000\r\n");
        assert_eq!(line.text, "roce0 speed is unknown, defaulting to 1000");
        assert_eq!((line.level(), line.is_kernels()), (Some(4), true));
    }

    #[test]
    fn a_line_of_a_process_has_another_facility() {
        let line = Line::read("<12>[    5.974867] testbed: ready\r\n");
        assert_eq!(line.text, "testbed: ready");
        assert_eq!((line.level(), line.is_kernels()), (Some(4), false));
    }

    #[test]
    fn what_is_no_line_of_the_log_has_no_level() {
        for text in [
            "** 17 printk messages dropped **",
            "/usr/bin/x: line 35: no such file",
            "<x>[    1.000000] y",
            "<300>[    1.000000] y",
        ] {
            assert_eq!(Line::read(text).level(), None, "{text}");
        }
        assert_eq!(Line::read("** 17 messages **").text, "** 17 messages **");
    }

    #[test]
    fn the_debug_kernel_says_who_speaks() {
        let line = Line::read("<6>[    0.000000][    T0] Linux version 7\r\n");
        assert_eq!(line.text, "Linux version 7");
        assert_eq!(Line::read("<6>[    0.000000][   T12]\r\n").text, "");
        assert_eq!(Line::read("<6>[    0.000000] \r\n").text, "");
    }
}
