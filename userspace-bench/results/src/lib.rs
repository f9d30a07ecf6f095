// SPDX-License-Identifier: GPL-2.0
//! What `odp-bench` measured, apart from how: the file that a run leaves, its statistics, the comparison
//! of two runs, and the reports for people.
//!
//! It needs no libibverbs, so that the testbed can read on the host what the VM has measured.
//!
//! - [`run`]: a run as it is written to and read from a file.
//! - [`statistics`]: percentiles, and how sure one can be of them and of a change.
//! - [`advise`]: whether on-demand paging pays, from what a run has measured.
//! - [`compare`]: faster, slower, no difference or not enough samples, metric by metric.
//! - [`history`]: many runs, and where a metric changed for good.
//! - [`schema`]: what the file is made of, for programs.
//! - [`table`], [`html`], [`chart`]: a run for people; [`mod@csv`]: for spreadsheets.

pub mod advise;
pub mod chart;
pub mod compare;
pub mod csv;
pub mod history;
pub mod html;
pub mod run;
pub mod schema;
pub mod statistics;
pub mod table;
