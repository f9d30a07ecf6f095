// SPDX-License-Identifier: GPL-2.0
/*
 * Exports mlx_odp's Rust symbols to other modules. The names are mangled. Their C types do not matter:
 * rustc checks each use against the crate's metadata.
 */
#include <linux/export.h>

#define EXPORT_SYMBOL_RUST_GPL(symbol) extern int symbol; EXPORT_SYMBOL_GPL(symbol)

#include "exports_generated.h"
