// SPDX-License-Identifier: GPL-2.0
/*
 * Exports hmm's Rust symbols and its shim to other modules. The names are mangled, and their types
 * play no part: rustc checks the uses against the crate's metadata.
 */
#include <linux/export.h>

#define EXPORT_SYMBOL_RUST_GPL(symbol) extern int symbol; EXPORT_SYMBOL_GPL(symbol)

#include "exports_generated.h"
