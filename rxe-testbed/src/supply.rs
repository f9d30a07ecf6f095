// SPDX-License-Identifier: GPL-2.0
//! `series`: which kernels there are, in the archive and in the cache.

use anyhow::Result;

use crate::build;
use crate::cache::Cache;
use crate::cli::SeriesArguments;
use crate::kernel;
use crate::repository::Repository;
use crate::series::{Supply, Version};
use crate::table::{Cell, Table};

/// Says which there are.
pub(crate) fn run(arguments: &SeriesArguments) -> Result<u8> {
    let cache = Cache::open()?;
    let repository = Repository::find()?;
    let _building = cache.lock_build()?;
    let (chroot, epoch) = build::prepare(&cache, &repository)?;
    let supply = kernel::supply(&cache, &chroot, &epoch)?;
    match arguments.names {
        true => supply
            .iter()
            .filter(|one| one.can_be_used())
            .for_each(|one| println!("{}", one.series)),
        false => print!("{}", table(&supply)),
    }
    Ok(0)
}

fn table(supply: &[Supply]) -> Table {
    let mut table = Table::new(["series", "the archive has", "the cache has"]);
    for one in supply {
        let title = match one.is_supported() {
            true => one.series.to_string(),
            false => format!("{} (nobody knows whether the modules build)", one.series),
        };
        let release = |version: &Option<Version>| {
            Cell::left(version.as_ref().map_or("-", |version| &version.release))
        };
        table.row(&title, [release(&one.archive), release(&one.cache)]);
    }
    table
}
