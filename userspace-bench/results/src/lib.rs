// SPDX-License-Identifier: GPL-2.0
//! What `odp-bench` measured, apart from how: the file that a run leaves, its statistics, the comparison
//! of two runs, and the reports for people.
//!
//! It needs no libibverbs, so that the testbed can read on the host what the VM has measured.
//!
//! - [`run`]: a run as it is written to and read from a file.
//! - [`statistics`]: percentiles, and how sure one can be of a ratio.
//! - [`compare`]: faster, slower or no difference, metric by metric.
//! - [`table`], [`html`], [`chart`]: a run for people.

pub mod chart;
pub mod compare;
pub mod html;
pub mod run;
pub mod statistics;
pub mod table;
