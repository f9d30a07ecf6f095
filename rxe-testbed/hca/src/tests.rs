// SPDX-License-Identifier: GPL-2.0
//! Tests of the whole device through its registers and the driver's memory, as a driver uses it.

mod driver;
mod dynamic;
mod fuzz;
mod keys;
mod life;
mod paging;
mod queues;
mod scene;
mod services;
mod subnet;
mod traffic;
mod users;
