// SPDX-License-Identifier: GPL-2.0
//! A block of the guest's code, and where it goes.

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a call: of whatever is not behind it.
    Call,
    Return,
    /// With anything else: a jump, or nothing in particular.
    Other,
}

/// A block of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where it begins.
    pub(crate) at: u64,
    /// Where the code behind it is.
    pub(crate) next: u64,
    pub(crate) instructions: u32,
    pub(crate) end: End,
}

impl Block {
    /// Whether it was left before its end for `next`, its own rest: QEMU does so at an access to a device. No call and no
    /// return goes there.
    pub(crate) fn is_left_for(&self, next: &Self) -> bool {
        self.end != End::Other && self.at < next.at && next.at < self.next
    }
}

/// How an instruction of x86-64 goes on. Those that enter or leave the kernel are no calls: they come in pairs.
pub(crate) fn end(instruction: &[u8]) -> End {
    let prefixes = [0xf2, 0xf3, 0x2e, 0x3e, 0x66];
    let is_prefix = |byte: &u8| prefixes.contains(byte) || byte & 0xf0 == 0x40;
    let skip = instruction
        .iter()
        .take_while(|byte| is_prefix(byte))
        .count();
    let operation = |modrm: u8| (modrm >> 3) & 7;
    match instruction[skip..] {
        [0xe8, ..] => End::Call,
        [0xff, modrm, ..] if operation(modrm) == 2 => End::Call,
        [0xc3 | 0xc2, ..] => End::Return,
        _ => End::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_returns_are_known() {
        for (bytes, expected) in [
            (&[0xe8, 1, 2, 3, 4][..], End::Call),
            // call *%rax; call *%r11, with a prefix; call *0x18(%rbx)
            (&[0xff, 0xd0], End::Call),
            (&[0x41, 0xff, 0xd3], End::Call),
            (&[0xff, 0x53, 0x18], End::Call),
            // A prefix that only fills up space.
            (&[0x2e, 0xe8, 1, 2, 3, 4], End::Call),
            (&[0xc3], End::Return),
            (&[0xf3, 0xc3], End::Return),
            (&[0xc2, 8, 0], End::Return),
            // jmp; jmp *%rax; jne; push *(%rax); iretq; nothing
            (&[0xe9, 1, 2, 3, 4], End::Other),
            (&[0xff, 0xe0], End::Other),
            (&[0x75, 2], End::Other),
            (&[0xff, 0x30], End::Other),
            (&[0x48, 0xcf], End::Other),
            (&[], End::Other),
        ] {
            assert_eq!(end(bytes), expected, "{bytes:x?}");
        }
    }
}
