// SPDX-License-Identifier: GPL-2.0
//! The repository's kernel modules, built out of tree against the prepared kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cache::{files_under, mark_used, Cache, Key};
use crate::chroot::{Bind, Chroot};
use crate::host;
use crate::kernel::Kernel;
use crate::process;
use crate::repository::Repository;
use crate::ui::{self, Step};

/// What Kbuild sees of the repository.
const SOURCES: &[&str] = &["Kbuild", "hmm", "mlx-odp"];

/// What cargo and editors leave in the sources, the oracle's program, and tests that are programs.
const NOT_SOURCES: &[&str] = &["target", ".git", "diff", "tests"];

/// Present while make runs. A make that was killed may have left half an object behind.
const INTERRUPTED: &str = ".building";

/// In the folder of built modules: the warnings of their build.
const WARNINGS: &str = "warnings";

const BUILD: &str = include_str!("../scripts/build-modules.sh");
const INDEX: &str = include_str!("../scripts/index-modules.sh");
const CHECK_CRATES: &str = include_str!("../scripts/check-crates.sh");

/// A Rust crate of the modules, as Kbuild compiles it.
pub(crate) struct Crate {
    /// The name by which others know it.
    pub(crate) name: &'static str,
    /// Its root in the repository.
    pub(crate) root: &'static str,
    /// Those of the modules' crates that it uses.
    pub(crate) uses: &'static [&'static str],
}

impl Crate {
    /// The object that Kbuild makes of it.
    fn object(&self) -> String {
        self.root.replace(".rs", ".o")
    }

    /// The module for tests that it is a part of.
    fn test(&self) -> Option<&'static str> {
        let is_there = |(_, folder): &&(&str, &str)| self.root.starts_with(folder);
        FOR_TESTS.iter().find(is_there).map(|(name, _)| *name)
    }

    /// Whether others use it.
    fn is_used(&self) -> bool {
        CRATES.iter().any(|one| one.uses.contains(&self.name))
    }
}

/// All of them; each uses only those before it.
pub(crate) const CRATES: &[Crate] = &[
    Crate {
        name: "hmm",
        root: "hmm/kernel/hmm.rs",
        uses: &[],
    },
    Crate {
        name: "mlx_odp",
        root: "mlx-odp/kernel/mlx_odp.rs",
        uses: &["hmm"],
    },
    Crate {
        name: "rxe_odp",
        root: "mlx-odp/nic/rxe/odp.rs",
        uses: &["hmm", "mlx_odp"],
    },
    Crate {
        name: "mlx5_odp",
        root: "mlx-odp/nic/mlx5/mlx5_odp.rs",
        uses: &["hmm", "mlx_odp"],
    },
    Crate {
        name: "hmm_dmirror",
        root: "hmm/dmirror/hmm_dmirror.rs",
        uses: &["hmm"],
    },
    Crate {
        name: "hmm_edu",
        root: "hmm/edu/hmm_edu.rs",
        uses: &["hmm"],
    },
    Crate {
        name: "oracle",
        root: "hmm/oracle/kernel/oracle.rs",
        uses: &["hmm"],
    },
];

/// The modules that no driver needs, only tests, and where their sources are. Those that do not build keep nobody from
/// the others.
const FOR_TESTS: &[(&str, &str)] = &[
    ("hmm_dmirror", "hmm/dmirror/"),
    ("hmm_edu", "hmm/edu/"),
    ("hmm_oracle", "hmm/oracle/"),
];

/// The modules of one state of the sources.
#[derive(Clone, Debug)]
pub(crate) struct Modules {
    dir: PathBuf,
    /// Those that do not build.
    left_out: Vec<&'static str>,
}

impl Modules {
    /// Gives the modules, building them if the sources or the kernel changed.
    pub(crate) fn ensure(
        cache: &Cache,
        repository: &Repository,
        chroot: &Chroot,
        kernel: &Kernel,
    ) -> Result<Self> {
        if !repository.path("Kbuild").is_file() {
            bail!("the repository has no Kbuild yet, so there is no driver of ours: use --driver stock");
        }
        let key = key(repository, kernel)?;
        let complete = cache.artefact(&kernel.own("modules"), &key);
        if complete.exists() {
            mark_used(&complete);
            let (dir, left_out) = (complete, Vec::new());
            return Ok(Self { dir, left_out });
        }
        let step = Step::start("building the kernel modules");
        let stage = stage(cache, repository, kernel)?;
        let left_out = make_what_builds(cache, chroot, kernel, &stage, &step)?;
        // What is not complete is not what these sources make: it is tried anew each time.
        let (kind, key) = match left_out.is_empty() {
            true => ("modules", key),
            false => {
                let key = Key::builder().add("all", key.as_str());
                (
                    "modules-part",
                    key.add("without", left_out.join(" ")).finish(),
                )
            }
        };
        let dir = cache.ensure(&kernel.own(kind), &key, |target| {
            collect(&stage, &target.join("updates"), &left_out)?;
            let said = process::read_lossy(&cache.log("modules"))?;
            let warnings: Vec<&str> = said.lines().filter(|line| is_warning(line)).collect();
            std::fs::write(target.join(WARNINGS), warnings.join("\n"))
                .context("keeping the build's warnings")?;
            let binds = [
                Bind::read(kernel.dir(), "/build/kernel"),
                Bind::write(target, "/build/out"),
            ];
            let command = chroot.script(&binds, INDEX, &[&kernel.version.release]);
            process::run_logged(command, &cache.log("modules-index"), &step)
                .context("indexing the modules")
        })?;
        step.done();
        Ok(Self { dir, left_out })
    }

    /// What the compilers and objtool had to say when they were built, of what was compiled then.
    pub(crate) fn warnings(&self) -> Result<Vec<String>> {
        let text = process::read_lossy(&self.dir.join(WARNINGS))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Fails if some of them do not build.
    pub(crate) fn expect_all(&self) -> Result<()> {
        if !self.left_out.is_empty() {
            bail!("{} does not build", self.left_out.join(" and "));
        }
        Ok(())
    }

    /// Whether `ensure` would have nothing to build.
    pub(crate) fn is_at_hand(cache: &Cache, repository: &Repository, kernel: &Kernel) -> bool {
        key(repository, kernel)
            .is_ok_and(|key| cache.artefact(&kernel.own("modules"), &key).exists())
    }

    /// Compiles what has changed since the last time, without what does not build, and gives the directory where Kbuild
    /// left what it made.
    pub(crate) fn compile(
        &self,
        cache: &Cache,
        repository: &Repository,
        chroot: &Chroot,
        kernel: &Kernel,
    ) -> Result<PathBuf> {
        let step = Step::start("compiling the kernel modules");
        let stage = stage(cache, repository, kernel)?;
        let without = &self.left_out;
        make(cache, chroot, kernel, &stage, without, &step)?;
        step.done();
        Ok(stage)
    }

    /// Writes the documentation of the crates' public items to `target`, from what was compiled in `stage`.
    pub(crate) fn document(
        &self,
        cache: &Cache,
        chroot: &Chroot,
        kernel: &Kernel,
        stage: &Path,
        target: &Path,
    ) -> Result<()> {
        let step = Step::start("documenting the kernel modules");
        let objects = documented(&self.left_out);
        let out = [Bind::write(target, "/build/doc")];
        let command = check_crates(chroot, kernel, stage, "doc", &objects, &out);
        process::run_logged(command, &cache.log("rustdoc"), &step)?;
        step.done();
        Ok(())
    }

    /// The directory with depmod's index.
    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// The folder with the module files.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.join("updates")
    }

    /// The module files.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        files_under(&self.folder(), &[])
    }
}

/// Checks the crates with clippy; gives its warnings, which should be none.
pub(crate) fn clippy(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
) -> Result<Vec<String>> {
    let step = Step::start("checking the kernel modules with clippy");
    let objects: Vec<String> = CRATES.iter().map(Crate::object).collect();
    let command = check_crates(chroot, kernel, stage, "clippy", &objects, &[]);
    let log = cache.log("clippy");
    let status = process::run_to_log(command, &log, &step)?;
    let text = process::read_lossy(&log)?;
    step.done();
    let mut warnings: Vec<String> = text
        .lines()
        .filter(|line| is_warning(line))
        .map(str::to_owned)
        .collect();
    if !status.success() && warnings.is_empty() {
        warnings.push(process::tail(&text, 20));
    }
    Ok(warnings)
}

/// Compiles the examples in the documentation of the crates that others use.
pub(crate) fn examples(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
) -> Result<()> {
    let step = Step::start("compiling the examples of the kernel modules");
    let used = CRATES.iter().filter(|one| one.is_used());
    let objects: Vec<String> = used.map(Crate::object).collect();
    let command = check_crates(chroot, kernel, stage, "examples", &objects, &[]);
    process::run_logged(command, &cache.log("examples"), &step)?;
    step.done();
    Ok(())
}

/// Calls a tool on crates that have been compiled in `stage`.
fn check_crates(
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
    tool: &str,
    objects: &[String],
    binds: &[Bind<'_>],
) -> Command {
    let mut all = vec![
        Bind::read(kernel.dir(), "/build/kernel"),
        Bind::write(stage, "/build/modules"),
    ];
    all.extend_from_slice(binds);
    let mut arguments = vec![tool];
    arguments.extend(objects.iter().map(String::as_str));
    chroot.script(&all, CHECK_CRATES, &arguments)
}

/// Whether a line of a build's log is the first of a warning or an error, of rustc, clippy, the C compiler or objtool.
fn is_warning(line: &str) -> bool {
    let of_c = [": warning: ", ": error: "];
    line.starts_with("warning:")
        || line.starts_with("error")
        || !is_remark(line) && of_c.iter().any(|text| line.contains(text))
}

/// Whether a line of a build's log says what nobody has to do anything about: the debug kernel has no type information to
/// build against; the padding before a function has no symbol of its own where the function's name is nearly as long as the
/// kernel allows.
fn is_remark(line: &str) -> bool {
    line.starts_with("Skipping BTF generation")
        || line.contains("objtool: ") && line.contains("can't create __pfx_ symbol")
}

/// The objects whose crates are documented, and `--private` before those of which everything is: of a crate that others
/// use, what they see; of the others, all. What does not build has none.
fn documented(left_out: &[&str]) -> Vec<String> {
    let builds = |one: &&Crate| one.test().is_none_or(|name| !left_out.contains(&name));
    let (libraries, programs): (Vec<&Crate>, Vec<&Crate>) =
        CRATES.iter().filter(builds).partition(|one| one.is_used());
    let mut objects: Vec<String> = libraries.into_iter().map(Crate::object).collect();
    objects.push("--private".into());
    objects.extend(programs.into_iter().map(Crate::object));
    objects
}

fn key(repository: &Repository, kernel: &Kernel) -> Result<Key> {
    let mut key = Key::builder()
        .add("kernel", kernel.key().as_str())
        .add("scripts", format!("{BUILD}{INDEX}"));
    for source in SOURCES {
        key = key.add_tree(source, &repository.path(source), NOT_SOURCES)?;
    }
    Ok(key.finish())
}

/// Brings the staging directory up to date: only changed files are copied, so that make builds
/// only what depends on them.
fn stage(cache: &Cache, repository: &Repository, kernel: &Kernel) -> Result<PathBuf> {
    let stage = cache.path(kernel.own("stage-build"));
    let mark = stage.join(".kernel");
    let kernel_before = std::fs::read_to_string(&mark).unwrap_or_default();
    if kernel_before != kernel.key().as_str() || stage.join(INTERRUPTED).exists() {
        host::remove_tree(&stage);
        std::fs::create_dir_all(&stage).with_context(|| format!("making {}", stage.display()))?;
        std::fs::write(&mark, kernel.key().as_str()).context("marking the staging directory")?;
    }
    let mut present = BTreeSet::new();
    for source in SOURCES {
        for file in files_under(&repository.path(source), NOT_SOURCES)? {
            let relative = file.strip_prefix(repository.root())?;
            copy_if_changed(&file, &stage.join(relative))?;
            present.insert(relative.to_owned());
        }
    }
    forget_vanished(&stage, &present)?;
    Ok(stage)
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let content = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let dir = to.parent().context("a file without a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::write(to, content).with_context(|| format!("writing {}", to.display()))
}

/// Removes the staged copies of sources that the repository no longer has.
fn forget_vanished(stage: &Path, present: &BTreeSet<PathBuf>) -> Result<()> {
    let list = stage.join(".sources");
    for name in std::fs::read_to_string(&list).unwrap_or_default().lines() {
        if !present.contains(Path::new(name)) {
            let _ = std::fs::remove_file(stage.join(name));
        }
    }
    let names: Vec<_> = present
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    std::fs::write(&list, names.join("\n")).context("listing the staged sources")
}

/// Builds the modules, without those for tests that do not build; gives the names of these.
fn make_what_builds(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
    step: &Step,
) -> Result<Vec<&'static str>> {
    let mut left_out = Vec::new();
    loop {
        let result = make(cache, chroot, kernel, stage, &left_out, step);
        let Err(error) = result else {
            return Ok(left_out);
        };
        let log = process::read_lossy(&cache.log("modules"))?;
        let failing =
            failing_tests(&log).filter(|names| !names.iter().any(|name| left_out.contains(name)));
        let Some(failing) = failing else {
            return Err(error);
        };
        ui::note(&format!(
            "{} does not build: going on without",
            failing.join(" and ")
        ));
        left_out.extend(failing);
    }
}

/// The modules for tests that did not build, by what make says of each file that it could not make, and modpost of each
/// module that it refuses. None if there are others, or if nothing is said of files.
fn failing_tests(log: &str) -> Option<Vec<&'static str>> {
    let mut names = Vec::new();
    let failed = log.lines().filter_map(not_made);
    for file in failed.chain(log.lines().filter_map(refused)) {
        let name = test_of(file)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (!names.is_empty()).then_some(names)
}

/// The file that make could not make, if a line of its log says so.
fn not_made(line: &str) -> Option<&str> {
    let (_, what) = line.split_once("*** [")?;
    let (file, _) = what.rsplit_once("] Error ")?;
    // After the rule's own place.
    let file = file.rsplit_once(": ").map_or(file, |(_, file)| file);
    // A folder, a target like `modules`, or `Module.symvers` fails because something else did.
    let ending = Path::new(file).extension()?.to_str()?;
    ["o", "rs", "h", "c", "mod", "ko"]
        .contains(&ending)
        .then_some(file)
}

/// The module that modpost refuses, if a line says so: for a symbol that nobody exports, a namespace that is not imported,
/// a licence that is missing. modpost names it as a file, or after the word `module`.
fn refused(line: &str) -> Option<&str> {
    let (_, what) = line.split_once("ERROR: modpost: ")?;
    // A symbol stands in quotes, and may have any name.
    let mut words = what
        .split([' ', '[', ']', ',', ':'])
        .filter(|word| !word.starts_with(['"', '\'']));
    let mut last = "";
    words.find(|word| {
        let is_file = [".ko", ".o"].iter().any(|ending| word.ends_with(ending));
        let found = is_file || last == "module" && !word.is_empty();
        last = *word;
        found
    })
}

/// The module for tests that a file is of: a source or an object in its folder, or what is made of all of them.
fn test_of(file: &str) -> Option<&'static str> {
    let name = file.rsplit('/').next()?.split('.').next()?;
    let mut all = FOR_TESTS.iter();
    let found = all.find(|(test, folder)| file.contains(folder) || name == *test);
    found.map(|(test, _)| *test)
}

/// Runs make in the chroot. What the compiler says goes to the terminal, warnings as well.
fn make(
    cache: &Cache,
    chroot: &Chroot,
    kernel: &Kernel,
    stage: &Path,
    without: &[&str],
    step: &Step,
) -> Result<()> {
    let binds = [
        Bind::write(kernel.dir(), "/build/kernel"),
        Bind::write(stage, "/build/modules"),
    ];
    let jobs = host::processors().to_string();
    let without = without.join(" ");
    let release = &*kernel.version.release;
    let arguments = [release, kernel.compiler(), &jobs, &without];
    let command = chroot.script(&binds, BUILD, &arguments);
    let log = cache.log("modules");
    let mark = stage.join(INTERRUPTED);
    std::fs::write(&mark, "").context("marking the staging directory")?;
    let status = process::run_to_log(command, &log, step)?;
    std::fs::remove_file(&mark).context("unmarking the staging directory")?;
    let said = without_progress(&process::read_lossy(&log)?);
    if !said.is_empty() {
        step.say(&said);
    }
    if !status.success() {
        bail!("the kernel modules do not build (log: {})", log.display());
    }
    Ok(())
}

/// A build log without the lines that only say what is being compiled.
fn without_progress(log: &str) -> String {
    let is_progress = |line: &str| {
        let verb = line
            .strip_prefix("  ")
            .map(str::trim_start)
            .unwrap_or_default();
        line.starts_with("  ")
            && verb.split_whitespace().next().is_some_and(|word| {
                matches!(
                    word,
                    "CC" | "RUSTC" | "LD" | "MODPOST" | "BTF" | "BINDGEN" | "CLIPPY" | "GEN" | "AR"
                )
            })
            && line.contains("[M]")
    };
    log.lines()
        .filter(|line| !is_progress(line) && !is_remark(line))
        .map(|line| line.replace("/build/modules/", ""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Copies what was made; of what was left out there may be a module of earlier sources.
fn collect(stage: &Path, target: &Path, left_out: &[&str]) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let mut found = 0;
    for file in files_under(stage, &[])? {
        let is_wanted = !left_out
            .iter()
            .any(|name| file.file_stem() == Some(name.as_ref()));
        if is_wanted && file.extension().is_some_and(|extension| extension == "ko") {
            let name = file.file_name().unwrap_or_default();
            std::fs::copy(&file, target.join(name))
                .with_context(|| format!("copying {}", file.display()))?;
            found += 1;
        }
    }
    if found == 0 {
        bail!("Kbuild made no module");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_are_those_of_kbuild() -> Result<()> {
        let kbuild = std::fs::read_to_string(Repository::find()?.path("Kbuild"))?;
        let named = |line: &str| -> Option<String> {
            let (object, uses) = line.split_once(" := ")?;
            let object = object.strip_prefix("RUSTFLAGS_")?;
            Some(format!("{object}: {}", uses.matches("--extern ").count()))
        };
        let joined = kbuild.replace("\\\n", "");
        let variables = |text: &str| {
            let text = text.replace("$(rxe)", "mlx-odp/nic/rxe");
            let text = text.replace("$(mlx5)", "mlx-odp/nic/mlx5");
            let text = text.replace("$(dmirror)", "hmm/dmirror");
            text.replace("$(oracle)", "hmm/oracle/kernel")
        };
        let mut theirs: Vec<String> = variables(&joined).lines().filter_map(named).collect();
        let mut ours: Vec<String> = CRATES
            .iter()
            .map(|one| format!("{}: {}", one.object(), one.uses.len()))
            .collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
        Ok(())
    }

    #[test]
    fn warnings_of_both_compilers_are_found() {
        assert!(is_warning("warning: unused variable: `x`"));
        assert!(is_warning("/m/a.h:134:9: warning: \"b\" redefined"));
        assert!(is_warning("/m/a.c:1:2: error: no"));
        let padding =
            "a.o: warning: objtool: _RIN: symbol name too long, can't create __pfx_ symbol";
        for line in [
            "  CC [M]  a.o",
            " --> a.rs:1:2",
            "note: no warning",
            padding,
        ] {
            assert!(!is_warning(line), "{line}");
        }
    }

    #[test]
    fn tests_that_do_not_build_are_told_from_drivers() {
        let failed = |files: &[&str]| {
            let line = |file: &&str| {
                format!("make[4]: *** [/build/kernel/tree/scripts/Makefile.build:287: {file}] Error 1\n")
            };
            let lines: String = files.iter().map(line).collect();
            format!(
                "error: no\n{lines}make[4]: *** Waiting for unfinished jobs....\n\
                 make[3]: *** [/build/kernel/tree/Makefile:2003: .] Error 2\n\
                 make: *** [Makefile:248: modules] Error 2\n"
            )
        };
        let failing = |files: &[&str]| failing_tests(&failed(files));
        assert_eq!(failing(&["hmm/edu/hmm_edu.o"]), Some(vec!["hmm_edu"]));
        let files = ["hmm/oracle/kernel/shim.o", "hmm/dmirror/uapi_bindings.rs"];
        assert_eq!(failing(&files), Some(vec!["hmm_oracle", "hmm_dmirror"]));
        assert_eq!(failing(&["hmm/edu/hmm_edu.o", "hmm/kernel/hmm.o"]), None);
        assert_eq!(failing(&[]), None);
        // Of the whole module: the object of all objects, what modpost writes, the module.
        for file in ["hmm_edu.o", "hmm_edu.mod.o", "hmm_edu.ko"] {
            assert_eq!(failing(&[file]), Some(vec!["hmm_edu"]), "{file}");
        }
        for file in ["hmm.o", "hmm.ko", "rdma_rxe.mod.c"] {
            assert_eq!(failing(&[file, "hmm_edu.ko"]), None, "{file}");
        }
    }

    #[test]
    fn what_modpost_refuses_is_told_too() {
        let failing = |lines: &[&str]| {
            let lines: String = lines
                .iter()
                .map(|line| format!("ERROR: modpost: {line}\n"))
                .collect();
            failing_tests(&format!(
                "{lines}WARNING: modpost: suppressed 3 unresolved symbol warnings because there were too many)\n\
                 make[4]: *** [/build/kernel/tree/scripts/Makefile.modpost:147: Module.symvers] Error 1\n\
                 make[3]: *** [/build/kernel/tree/Makefile:2086: modpost] Error 2\n"
            ))
        };
        let edu = "\"hmm_none.ko\" [hmm_edu.ko] undefined!";
        assert_eq!(failing(&[edu, edu]), Some(vec!["hmm_edu"]));
        let in_place = "\"none\" [/build/modules/hmm_oracle.ko] undefined!";
        assert_eq!(
            failing(&[edu, in_place]),
            Some(vec!["hmm_edu", "hmm_oracle"])
        );
        for line in [
            "module hmm_edu uses symbol x from namespace Y, but does not import it.",
            "missing MODULE_LICENSE() in hmm_edu.o",
            "GPL-incompatible module hmm_edu.ko uses GPL-only symbol 'x'",
        ] {
            assert_eq!(failing(&[line]), Some(vec!["hmm_edu"]), "{line}");
        }
        assert_eq!(failing(&[edu, "\"none\" [hmm.ko] undefined!"]), None);
        assert_eq!(failing(&["something else"]), None);
    }

    #[test]
    fn what_does_not_build_is_not_documented() {
        let all = documented(&[]);
        let without = documented(&["hmm_edu", "hmm_oracle"]);
        assert_eq!(all.len(), without.len() + 2);
        assert!(all.contains(&"hmm/edu/hmm_edu.o".into()));
        assert!(!without.iter().any(|object| object.contains("edu")));
        assert!(without.contains(&"hmm/kernel/hmm.o".into()));
    }

    #[test]
    fn the_modules_for_tests_are_those_of_kbuild() -> Result<()> {
        let repository = Repository::find()?;
        let kbuild = std::fs::read_to_string(repository.path("Kbuild"))?;
        for (name, folder) in FOR_TESTS {
            assert!(kbuild.contains(&format!("\n{name}-y := ")), "{name}");
            assert!(repository.path(folder).is_dir(), "{folder}");
        }
        Ok(())
    }

    #[test]
    fn only_errors_are_shown() {
        let log = "  CC [M]  hmm/shim.o\nerror: no\n --> /build/modules/hmm/core/lib.rs:1\n  LD [M]  x.ko\n";
        assert_eq!(without_progress(log), "error: no\n --> hmm/core/lib.rs:1");
    }

    #[test]
    fn unchanged_files_are_left_alone() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("a"), dir.path().join("d/a"));
        std::fs::write(&from, "1")?;
        copy_if_changed(&from, &to)?;
        let first = std::fs::metadata(&to)?.modified()?;
        copy_if_changed(&from, &to)?;
        assert_eq!(first, std::fs::metadata(&to)?.modified()?);
        Ok(())
    }

    #[test]
    fn vanished_sources_vanish_from_the_stage() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("a.c"), "")?;
        forget_vanished(dir.path(), &BTreeSet::from(["a.c".into()]))?;
        assert!(dir.path().join("a.c").exists());
        forget_vanished(dir.path(), &BTreeSet::new())?;
        assert!(!dir.path().join("a.c").exists());
        Ok(())
    }
}
