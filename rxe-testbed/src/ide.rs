// SPDX-License-Identifier: GPL-2.0
//! `cargo testbed ide`: what rust-analyzer has to know of the modules' crates, which cargo does not.
//!
//! The kernel describes its own crates, with the paths of the chroot. Ours are added, the paths become the host's, and
//! what bindgen made of the headers is linked to where the sources look for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::build::{self, Wanted, World};
use crate::cache::files_under;
use crate::chroot::Bind;
use crate::modules;
use crate::process;
use crate::series::Series;
use crate::ui::Step;

const DESCRIBE: &str = include_str!("../scripts/describe-kernel.sh");

/// What each crate of a module may use of the kernel's, if the kernel has it.
const OF_THE_KERNEL: &[&str] = &["core", "kernel", "pin_init", "zerocopy", "zerocopy_derive"];

/// How the names of generated files end.
const GENERATED: &str = "_bindings.rs";

/// Writes the description, and says what an editor is to be told.
pub(crate) fn run(series: Option<Series>) -> Result<u8> {
    let world = build::ensure(Wanted::stock(series))?;
    let file = write(&world)?;
    let relative = file.strip_prefix(world.repository.root())?;
    println!("{}", file.display());
    println!("Settings of rust-analyzer, for this folder:");
    let projects = json!(["Cargo.toml", relative]);
    println!("    \"rust-analyzer.linkedProjects\": {projects}");
    Ok(0)
}

/// Writes the description of all crates of the modules and those of the kernel that they use; gives the file.
pub(crate) fn write(world: &World) -> Result<PathBuf> {
    let _building = world.cache.lock_build()?;
    let (cache, repository) = (&world.cache, &world.repository);
    let stage = world.compile()?;
    let step = Step::start("describing the crates");
    let scratch = cache.scratch()?;
    let name = "kernel.json";
    let inside = format!("/build/out/{name}");
    let binds = [
        Bind::write(world.kernel.dir(), "/build/kernel"),
        Bind::write(scratch.path(), "/build/out"),
    ];
    let release = &*world.kernel.version.release;
    let arguments = [release, world.kernel.compiler(), &*inside];
    let command = world.chroot.script(&binds, DESCRIBE, &arguments);
    process::run_logged(command, &cache.log("describe-kernel"), &step)?;
    let text = std::fs::read_to_string(scratch.path().join(name))?;
    let mut project = serde_json::from_str(&text).context("reading what the kernel says")?;
    on_the_host(&mut project, &|path| host_path(world, path));
    add_ours(&mut project, repository.root(), &configuration(&stage)?)?;
    link_generated(&stage, repository.root())?;
    let file = repository.path("target/rust-project.json");
    std::fs::create_dir_all(repository.path("target"))?;
    std::fs::write(&file, serde_json::to_string_pretty(&project)?)
        .with_context(|| format!("writing {}", file.display()))?;
    step.done();
    Ok(file)
}

/// A path of the chroot's as the host sees it.
fn host_path(world: &World, path: &str) -> Option<String> {
    let kernel = path.strip_prefix("/build/kernel/");
    let place = kernel.map(|rest| world.kernel.dir().join(rest));
    let place = place.or_else(|| path.starts_with("/usr").then(|| world.chroot.path(path)));
    place.map(|place| place.display().to_string())
}

/// Changes every string that `host` knows as a path.
fn on_the_host(value: &mut Value, host: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(path) = host(text) {
                *text = path;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|one| on_the_host(one, host)),
        Value::Object(values) => values.values_mut().for_each(|one| on_the_host(one, host)),
        _ => {}
    }
}

/// What Kbuild defines for our crates beyond the kernel's configuration.
fn configuration(stage: &Path) -> Result<Vec<String>> {
    let file = stage.join("hmm/kernel/.hmm.o.cmd");
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let first = text.lines().next().unwrap_or_default();
    let words = first.split("--cfg ").skip(1);
    Ok(words
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Adds the crates of the modules; of the kernel's own, only what they use stays.
fn add_ours(project: &mut Value, root: &Path, configuration: &[String]) -> Result<()> {
    let crates = project["crates"]
        .as_array_mut()
        .context("the kernel describes no crates")?;
    let find = |crates: &[Value], name: &str| {
        let mut all = crates.iter();
        all.position(|one| one["display_name"] == name)
    };
    let kernel =
        find(crates, "kernel").context("the kernel does not describe its crate `kernel`")?;
    // Each comes after what it uses.
    crates.truncate(kernel + 1);
    let mut defined = crates[kernel]["cfg"].clone();
    let list = defined.as_array_mut().context("no configuration")?;
    list.extend(configuration.iter().map(|one| json!(one)));
    for ours in modules::CRATES {
        let uses = OF_THE_KERNEL.iter().chain(ours.uses);
        let uses: Vec<Value> = uses
            .filter_map(|name| Some(json!({ "crate": find(crates, name)?, "name": name })))
            .collect();
        crates.push(json!({
            "display_name": ours.name,
            "root_module": root.join(ours.root),
            "edition": crates[kernel]["edition"],
            "cfg": defined,
            "deps": uses,
            "env": crates[kernel]["env"],
            "is_workspace_member": true,
        }));
    }
    Ok(())
}

/// Links the generated files into the sources; Kbuild and git take no notice of links.
fn link_generated(stage: &Path, root: &Path) -> Result<()> {
    for file in files_under(stage, &[])? {
        if !file.to_string_lossy().ends_with(GENERATED) {
            continue;
        }
        let link = root.join(file.strip_prefix(stage)?);
        match std::fs::read_link(&link) {
            Ok(old) if old == file => continue,
            Ok(_) => std::fs::remove_file(&link)?,
            Err(_) => {}
        }
        std::os::unix::fs::symlink(&file, &link)
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_the_kernel() -> Value {
        json!({ "sysroot": "/usr", "crates": [
            { "display_name": "core", "deps": [], "cfg": [] },
            { "display_name": "kernel", "root_module": "/build/kernel/tree/rust/kernel/lib.rs", "edition": "2021",
              "cfg": ["CONFIG_X"], "env": {}, "deps": [{ "crate": 0, "name": "core" }] },
            { "display_name": "a_driver", "deps": [{ "crate": 1, "name": "kernel" }] },
        ]})
    }

    #[test]
    fn ours_follow_what_they_use() -> Result<()> {
        let mut project = of_the_kernel();
        add_ours(&mut project, Path::new("/r"), &["linux_7_3".into()])?;
        let crates = project["crates"].as_array().context("crates")?;
        assert_eq!(crates.len(), 2 + modules::CRATES.len());
        let hmm = &crates[2];
        assert_eq!(hmm["root_module"], "/r/hmm/kernel/hmm.rs");
        assert_eq!(hmm["cfg"], json!(["CONFIG_X", "linux_7_3"]));
        for (index, one) in crates.iter().enumerate() {
            for uses in one["deps"].as_array().context("deps")? {
                let target = uses["crate"].as_u64().context("index")? as usize;
                assert!(target < index, "{one}");
                assert_eq!(crates[target]["display_name"], uses["name"]);
            }
        }
        Ok(())
    }

    #[test]
    fn a_kernel_without_rust_is_told() {
        let mut project = json!({ "crates": [] });
        let error = add_ours(&mut project, Path::new("/r"), &[]).expect_err("no kernel");
        assert!(error.to_string().contains("`kernel`"), "{error}");
    }

    #[test]
    fn only_paths_change() {
        let mut project = of_the_kernel();
        let host = |path: &str| {
            path.strip_prefix("/build")
                .map(|rest| format!("/host{rest}"))
        };
        on_the_host(&mut project, &host);
        let kernel = &project["crates"][1];
        assert_eq!(
            kernel["root_module"],
            "/host/kernel/tree/rust/kernel/lib.rs"
        );
        assert_eq!(kernel["cfg"], json!(["CONFIG_X"]));
        assert_eq!(project["sysroot"], "/usr");
    }

    #[test]
    fn generated_files_are_linked_once() -> Result<()> {
        let (stage, root) = (tempfile::tempdir()?, tempfile::tempdir()?);
        for dir in [&stage, &root] {
            std::fs::create_dir(dir.path().join("d"))?;
        }
        let file = stage.path().join("d/x_bindings.rs");
        std::fs::write(&file, "1")?;
        std::fs::write(stage.path().join("d/x.rs"), "")?;
        for _ in 0..2 {
            link_generated(stage.path(), root.path())?;
        }
        assert_eq!(
            std::fs::read_link(root.path().join("d/x_bindings.rs"))?,
            file
        );
        assert!(!root.path().join("d/x.rs").exists());
        assert_eq!(files_under(root.path(), &[])?, Vec::<PathBuf>::new());
        Ok(())
    }
}
