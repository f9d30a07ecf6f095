// SPDX-License-Identifier: GPL-2.0
//! The page of HTML that `odp-bench` makes, in a real browser: on a narrow screen and on a wide one, in the light and in
//! the dark, and on paper.
//!
//! The browser is Debian's headless Chromium, in a root of its own as it brings a hundred libraries. It looks at a page of
//! the metrics that the baseline has, with some more and samples around them, so that each kind of picture is there. The
//! pictures of it are kept with the results.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use odp_results::html;
use odp_results::run::{Counted, Metric, Missing, Run, Unit};

use super::Job;
use crate::build::World;
use crate::chroot::{Bind, Chroot};
use crate::process;
use crate::ui::Step;

/// The browser, and letters for it.
const PACKAGES: &[&str] = &["chromium-headless-shell", "fonts-dejavu-core"];

const BASELINE: &str = "rxe-testbed/baseline/7.3.json";

/// How the page is looked at: the name of the picture, the width, and whether it is dark.
const VIEWS: [(&str, u32, bool); 4] = [
    ("narrow", 400, false),
    ("narrow-dark", 400, true),
    ("wide", 1100, false),
    ("wide-dark", 1100, true),
];

/// What the page tells of itself in the browser: how wide it is and the screen, its colour, how many pictures are shown,
/// how wide the widest is, and how high the smallest letter.
const PROBE: &str = "<script>addEventListener('load',()=>{\
const shown=[...document.querySelectorAll('svg')].map(s=>s.getBoundingClientRect()).filter(r=>r.width>0&&r.height>0);\
const letters=[...document.querySelectorAll('svg text')].map(t=>t.getBoundingClientRect().height).filter(h=>h>0);\
const p=document.createElement('pre');p.textContent='probe:'+[document.documentElement.scrollWidth,innerWidth,\
getComputedStyle(document.body).backgroundColor.replace(/[^0-9]+/g,' ').trim().split(' ')[0],shown.length,\
Math.ceil(Math.max(...shown.map(r=>r.right))),Math.floor(Math.min(...letters))].join(' ')+';';\
document.body.append(p)})</script>";

/// The root that has the browser.
pub(super) fn browser(world: &World) -> Result<Chroot> {
    world.chroot.beside(&world.cache, "browser", PACKAGES)
}

/// What is wrong with the page.
pub(super) fn check(job: &Job<'_>, browser: &Chroot) -> Result<Vec<String>> {
    let folder = job.results.join("pages");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let page = html::page(&example(job.world)?).replace("</body>", &format!("{PROBE}</body>"));
    std::fs::write(folder.join("page.html"), page).context("writing the page")?;
    let view = View {
        browser,
        folder: &folder,
    };
    let mut wrong = Vec::new();
    for (name, width, dark) in VIEWS {
        let looks = view.looks(name, width, dark)?;
        wrong.extend(looks.wrong(dark).map(|what| format!("{name}: {what}")));
    }
    wrong.extend(view.on_paper()?);
    Ok(wrong)
}

/// A run with something of each kind.
fn example(world: &World) -> Result<Run> {
    let mut run = Run::load(&world.repository.path(BASELINE))?;
    // Around a middle, with some far out, the same each time.
    let scattered = |middle: f64| -> Vec<f64> {
        let at = |i: u32| middle * (0.9 + 0.2 * f64::from(i * 7919 % 1000) / 1000.0);
        let rare = |i: u32| if i % 100 == 7 { 10.0 } else { 1.0 };
        (0..1000).map(|i| at(i) * rare(i)).collect()
    };
    let kept = std::mem::take(&mut run.metrics).into_iter();
    let around = |metric: Metric| {
        let samples = scattered(metric.summary.p50);
        Metric::new(metric.name, metric.unit, metric.size, samples)
    };
    run.metrics = kept.filter_map(around).collect();
    for (mode, for_a_page) in [("pinned", 300.0), ("explicit", 0.1)] {
        for shift in [12, 16, 20, 24, 28] {
            let (size, pages) = (1u64 << shift, (1u64 << shift) as f64 / 4096.0);
            let name = format!("registration/{mode}/register/{size}B");
            let samples = scattered(20e3 + for_a_page * pages);
            let metric = Metric::new(name, Unit::Nanoseconds, Some(size), samples);
            run.metrics.extend(metric);
        }
    }
    let missing = |case: &str| Missing {
        case: case.into(),
        why: "a reason of a few words that is longer than a narrow screen is wide".into(),
    };
    run.skipped
        .push(missing("fault/explicit/hugetlb/untouched/sequential"));
    run.failed.push(missing("invalidation/swap-out/thp"));
    run.counters.push(Counted {
        case: "fault/explicit/4k/untouched/sequential".into(),
        after: [("port.odp_page_fault_nanoseconds".into(), 123_456_789)].into(),
        ..Counted::default()
    });
    Ok(run)
}

/// The browser, and where page and pictures are.
struct View<'a> {
    browser: &'a Chroot,
    folder: &'a Path,
}

impl View<'_> {
    /// What the browser prints of the page with these options.
    fn run(&self, name: &str, options: &[&str]) -> Result<String> {
        let binds = [Bind::write(self.folder, "/build/out")];
        let mut program = vec![
            "/usr/bin/chromium-headless-shell",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--user-data-dir=/tmp/browser",
            "--virtual-time-budget=1000",
        ];
        program.extend(options);
        program.push("file:///build/out/page.html");
        let command = self.browser.command(&binds, &program);
        let log = self.folder.join(format!("{name}.log"));
        let step = Step::start("looking at the page in a browser");
        process::run_logged(command, &log, &step).context("the browser")?;
        process::read_lossy(&log)
    }

    /// How the page looks, with a picture of it.
    fn looks(&self, name: &str, width: u32, dark: bool) -> Result<Looks> {
        let size = format!("--window-size={width},1600");
        let scheme = match dark {
            true => "--blink-settings=preferredColorScheme=0",
            false => "--blink-settings=preferredColorScheme=1",
        };
        let picture = format!("--screenshot=/build/out/{name}.png");
        self.run(&format!("{name}-picture"), &[&size, scheme, &picture])?;
        let picture = self.folder.join(format!("{name}.png"));
        let text = self.run(name, &[&size, scheme, "--dump-dom"])?;
        let mut looks = Looks::of(&text).context("the page does not tell how it looks")?;
        looks.bytes = size_of(&picture)?;
        Ok(looks)
    }

    /// What is wrong with it on paper.
    fn on_paper(&self) -> Result<Option<String>> {
        self.run(
            "paper",
            &[
                "--no-pdf-header-footer",
                "--print-to-pdf=/build/out/page.pdf",
            ],
        )?;
        let paper = self.folder.join("page.pdf");
        let text = std::fs::read(&paper).with_context(|| format!("reading {}", paper.display()))?;
        let pages = pages(&String::from_utf8_lossy(&text));
        Ok(match pages {
            1..=40 => None,
            pages => Some(format!("{pages} pages on paper")),
        })
    }
}

fn size_of(path: &PathBuf) -> Result<u64> {
    let data =
        std::fs::metadata(path).with_context(|| format!("there is no {}", path.display()))?;
    ensure!(data.is_file(), "{} is no file", path.display());
    Ok(data.len())
}

/// How many pages a PDF says that it has.
fn pages(text: &str) -> u32 {
    let counts = text.split("/Count ").skip(1);
    let number = |rest: &str| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    counts.filter_map(number).max().unwrap_or(0)
}

/// What the page tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    page: u32,
    screen: u32,
    /// How much red there is in the background.
    red: u32,
    pictures: u32,
    /// Where the right end of the farthest picture is.
    farthest: u32,
    /// How high the smallest letter is.
    letters: u32,
    /// How large the file of the picture is.
    bytes: u64,
}

impl Looks {
    fn of(text: &str) -> Option<Self> {
        // The script that says so is in the page, too.
        let told = text.rsplit("probe:").next()?.split(';').next()?;
        let mut numbers = told.split(' ').map(|number| number.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            page: next()?,
            screen: next()?,
            red: next()?,
            pictures: next()?,
            farthest: next()?,
            letters: next()?,
            bytes: 0,
        })
    }

    /// What should not be so.
    fn wrong(self, dark: bool) -> impl Iterator<Item = String> {
        // A picture of nothing but paper takes a tenth of that.
        const PICTURE: u64 = 20_000;
        let checks = [
            (
                self.page <= self.screen,
                "the page is wider than the screen",
            ),
            (self.farthest <= self.screen, "a picture is cut off"),
            (self.pictures > 1, "the pictures are not shown"),
            (self.letters >= 9, "the letters of a picture cannot be read"),
            (
                (self.red < 64) == dark,
                "it is dark in the light, or light in the dark",
            ),
            (self.bytes > PICTURE, "nothing is to be seen"),
        ];
        let failed = checks.into_iter().filter(|(holds, _)| !holds);
        failed.map(move |(_, what)| format!("{what}: {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_tells_is_read() {
        let text = "<script>'probe:'+x;</script><pre>probe:400 400 22 5 384 11;</pre>";
        let looks = Looks::of(text).unwrap();
        assert_eq!((looks.page, looks.red, looks.letters), (400, 22, 11));
        let looks = Looks {
            bytes: 100_000,
            ..looks
        };
        assert_eq!(looks.wrong(true).count(), 0);
        assert_eq!(looks.wrong(false).count(), 1);
        let cut = Looks {
            page: 612,
            farthest: 600,
            letters: 4,
            ..looks
        };
        assert_eq!(cut.wrong(true).count(), 3);
        assert_eq!(Looks::of("<p>nothing</p>"), None);
    }

    #[test]
    fn pages_are_counted() {
        assert_eq!(pages("<</Type /Pages\n/Count 7\n/Kids [1 0 R]>>"), 7);
        assert_eq!(pages("%PDF"), 0);
    }
}
