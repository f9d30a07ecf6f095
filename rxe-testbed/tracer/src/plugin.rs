// SPDX-License-Identifier: GPL-2.0
//! What QEMU calls, and what is called of it: version 4 of its interface for TCG plugins (QEMU 9.2 and on;
//! `qemu-plugin.h`, "QEMU TCG Plugins" in its manual).

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::os::unix::net::UnixListener;
use std::sync::{LazyLock, Mutex};

use crate::block::{self, Block};
use crate::control::{self, lock};
use crate::recorder::Recorder;

/// The version of the interface.
#[no_mangle]
static qemu_plugin_version: c_int = 4;

/// `QEMU_PLUGIN_CB_NO_REGS`: no registers are read or written.
const NO_REGISTERS: c_int = 0;

/// The longest instruction.
const LONGEST: usize = 15;

/// `struct qemu_plugin_tb` and `struct qemu_plugin_insn`, of which only QEMU knows more.
enum Translation {}
enum Instruction {}

extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(
        id: u64,
        callback: extern "C" fn(u64, *mut Translation),
    );
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Translation,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const Translation) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Translation, number: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(instruction: *const Instruction, to: *mut c_void, len: usize)
        -> usize;
    fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
}

static RECORDER: LazyLock<Mutex<Recorder>> = LazyLock::new(Mutex::default);

/// QEMU has loaded the plugin; `control=PATH` is the socket to make.
///
/// # Safety
///
/// `arguments` are `count` strings, as QEMU gives them.
#[no_mangle]
unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _machine: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let argument = |number: usize| {
        // SAFETY: By this function's contract, for numbers below the count.
        let text = unsafe { CStr::from_ptr(*arguments.add(number)) };
        text.to_str().ok()?.strip_prefix("control=")
    };
    let Some(path) = (0..count.max(0) as usize).find_map(argument) else {
        eprintln!("tracer: control=PATH is missing");
        return 1;
    };
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("tracer: {path}: {error}");
            return 1;
        }
    };
    std::thread::spawn(move || control::serve(&listener, &RECORDER));
    // SAFETY: The number is that which QEMU has just given.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}

/// QEMU has translated a block, which is not run yet.
extern "C" fn translated(_id: u64, translation: *mut Translation) {
    // SAFETY: QEMU gives the block for the time of this call.
    let Some(block) = (unsafe { read(translation) }) else {
        return;
    };
    let number = lock(&RECORDER).add(block);
    let data = number as usize as *mut c_void;
    // SAFETY: As above; the data is a number and no address.
    unsafe { qemu_plugin_register_vcpu_tb_exec_cb(translation, runs, NO_REGISTERS, data) };
}

/// A block is about to run.
extern "C" fn runs(_cpu: c_uint, data: *mut c_void) {
    lock(&RECORDER).runs(data as usize as u32);
}

/// What is known of a block; nothing if it has no instruction.
///
/// # Safety
///
/// The block is the one that QEMU is translating.
unsafe fn read(translation: *const Translation) -> Option<Block> {
    // SAFETY: By this function's contract.
    let count = unsafe { qemu_plugin_tb_n_insns(translation) };
    let last = count.checked_sub(1)?;
    // SAFETY: As above, and the numbers are below the count.
    let first = unsafe { qemu_plugin_tb_get_insn(translation, 0) };
    // SAFETY: The same.
    let last = unsafe { qemu_plugin_tb_get_insn(translation, last) };
    let mut bytes = [0; LONGEST];
    // SAFETY: The instructions live as long as the block, and QEMU writes no more than there is room for.
    unsafe {
        let len = qemu_plugin_insn_data(last, bytes.as_mut_ptr().cast(), LONGEST);
        Some(Block {
            at: qemu_plugin_insn_vaddr(first),
            next: qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last) as u64,
            instructions: count as u32,
            end: block::end(&bytes[..len.min(LONGEST)]),
        })
    }
}
