// SPDX-License-Identifier: GPL-2.0
//! `run`: case after case, with what was found kept after each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use odp_bench::{
    plan::{self, Estimate},
    Bench, Case, Options, Problem,
};
use odp_fixture::{env::Env, peer::Peer};
use odp_results::{
    advise, html,
    run::{write_atomically, Counted, Missing, Notes, Part, Run, State},
    table,
};
use testkit::process;

use crate::{
    arguments::{self, FAILED, TROUBLE},
    options, reports, Outcome,
};

/// Measures what `arguments` ask for, on each of the devices.
pub fn run(arguments: &arguments::Run) -> Outcome {
    let [_, _, ..] = arguments.device.as_slice() else {
        return on_one(arguments);
    };
    ensure!(
        !arguments.server && arguments.connect.is_none(),
        "--device: each of two machines takes one device"
    );
    let mut worst = 0;
    for device in &arguments.device {
        let arguments = arguments::Run {
            device: vec![device.clone()],
            json: of_device(&arguments.json, device),
            html: arguments.html.as_ref().map(|path| of_device(path, device)),
            ..arguments.clone()
        };
        // What a process was told of its place for one device would stay for the next.
        let copy = process::fork(|| {
            let status = match on_one(&arguments) {
                Ok(status) if status == ExitCode::SUCCESS => 0,
                Ok(_) => FAILED,
                Err(error) => {
                    eprintln!("odp-bench: {error:#}");
                    TROUBLE
                }
            };
            status.into()
        })?;
        let status = match copy.end()? {
            process::End::Status(status) => u8::try_from(status).unwrap_or(TROUBLE),
            _ => TROUBLE,
        };
        worst = worst.max(status);
    }
    Ok(ExitCode::from(worst))
}

/// Where the result of one device of several goes.
fn of_device(path: &Path, device: &str) -> PathBuf {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    path.with_extension(match ending.is_empty() {
        true => device.to_owned(),
        false => format!("{device}.{ending}"),
    })
}

/// Measures on one device.
fn on_one(arguments: &arguments::Run) -> Outcome {
    let cases = reports::select(&options::names(arguments)?)?;
    let mut options = options::options(arguments)?;
    process::defer_to_kernel();
    let env = options::open(arguments)?;
    // Before anything is allocated that should be near, too.
    let place = options::placement(arguments).take(env.context.name())?;
    eprintln!("# {}, {place}", options::described(&env)?);
    options.place = place;
    if arguments.server {
        return serve(env, options, arguments.port);
    }
    let mut bench = match &arguments.connect {
        None => Bench::new(env, options)?,
        Some(host) => {
            let peer = Peer::connect(host, arguments.port, PATIENCE)
                .with_context(|| format!("nobody answers at port {} of {host}", arguments.port))?;
            Bench::with_peer(env, options, peer)?
        }
    };
    options::check(arguments, &bench, &cases)?;
    bench.options.effort = foretell(arguments, &bench, &cases);
    let mut run = Run::new(arguments.aligned, bench.environment());
    let effort = bench.options.effort.to_string();
    run.environment.insert("effort".into(), effort);
    if let Some(host) = &arguments.connect {
        run.environment.insert("peer".into(), host.clone());
    }
    // That it cannot be written is told now rather than at the end.
    let mut notes = Notes::begin(&run, &arguments.json)?;
    draw(&run, arguments)?;
    let progress = progress(cases.len() as u64);
    let begun = Instant::now();
    for case in &cases {
        if arguments.time.is_some_and(|time| begun.elapsed() >= time) {
            run.skipped.push(Missing {
                case: case.name.clone(),
                why: "the time of --time was over".into(),
            });
            continue;
        }
        progress.set_message(case.name.clone());
        let (part, goes_on) = one(case, &bench, &progress);
        if let Some(notes) = &mut notes {
            notes.add(&part)?;
        }
        run.add(part);
        progress.inc(1);
        if !goes_on {
            progress.finish_and_clear();
            return conclude(&run, notes, arguments);
        }
    }
    progress.finish_and_clear();
    // Beside what was foretold.
    eprintln!("# that took {}", about(begun.elapsed()));
    run.state = State::Finished;
    conclude(&run, notes, arguments)
}

/// Says how long it will take, and gives the effort to take.
fn foretell(arguments: &arguments::Run, bench: &Bench, cases: &[Case]) -> f64 {
    let count = match cases.len() {
        1 => "1 case".to_owned(),
        count => format!("{count} cases"),
    };
    // A clock that counts instructions says nothing of time. Whatever else keeps it from being guessed ends the cases,
    // too, with their own words for it.
    let estimate = match arguments.instruction {
        Some(_) => None,
        None => plan::estimate(bench, cases).ok(),
    };
    let Some(estimate) = estimate else {
        eprintln!("# {count}; how long they take cannot be told");
        return bench.options.effort;
    };
    let (effort, told) = planned(&estimate, arguments);
    eprintln!("# {count}, {told}");
    effort
}

/// The effort that the time allows, and what to say of both.
fn planned(estimate: &Estimate, arguments: &arguments::Run) -> (f64, String) {
    let effort = arguments.effort.unwrap_or(1.0);
    let needed = estimate.with(effort);
    let told = format!("about {}", about(needed));
    let Some(time) = arguments.time.filter(|time| *time < needed) else {
        return (effort, told);
    };
    // An estimate is no more than that.
    let fits = estimate.effort_for(time.mul_f64(0.8));
    let time = humantime::format_duration(time);
    match (fits, arguments.effort) {
        (Some(fits), None) => {
            // What is said is what is done.
            let fits = (fits * 100.0).floor() / 100.0;
            let needed = about(estimate.with(fits));
            (
                fits,
                format!("about {needed} with --effort {fits:.2}, as --time allows {time}"),
            )
        }
        (Some(fits), Some(_)) => (
            effort,
            format!(
                "{told}, of which --time allows {time}: --effort {fits:.2} would leave none out"
            ),
        ),
        // As many cases as fit, then.
        (None, None) => {
            let least = Estimate::LEAST;
            let needed = about(estimate.with(least));
            (
                least,
                format!("about {needed} even with --effort {least}, of which --time allows {time}"),
            )
        }
        (None, Some(_)) => (effort, format!("{told}, of which --time allows {time}")),
    }
}

/// A time for people who plan by it.
fn about(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.5 => "a second".into(),
        seconds if seconds < 100.0 => format!("{seconds:.0} seconds"),
        seconds if seconds < 100.0 * 60.0 => format!("{:.0} minutes", seconds / 60.0),
        seconds => format!("{:.1} hours", seconds / 3600.0),
    }
}

/// How long the other machine may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves one machine that measures.
fn serve(env: Env, options: Options, port: u16) -> Outcome {
    eprintln!("odp-bench: waiting at port {port}");
    let peer = Peer::accept(port, PATIENCE * 30).context("waiting for a machine that measures")?;
    odp_bench::serve(&Bench::new(env, options)?, peer)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the page of HTML, if there is to be one.
fn draw(run: &Run, arguments: &arguments::Run) -> Result<()> {
    if let Some(path) = &arguments.html {
        write_atomically(path, html::page(run).as_bytes()).context("the page of HTML")?;
    }
    Ok(())
}

/// Writes the result, and says how it ended, in the exit status, too.
fn conclude(run: &Run, notes: Option<Notes>, arguments: &arguments::Run) -> Outcome {
    run.save(&arguments.json)?;
    notes.map_or(Ok(()), Notes::end)?;
    draw(run, arguments)?;
    match arguments.quiet {
        true => println!("{}", table::closing_line(run)),
        false => print!("{}", table::table(run, false)),
    }
    if !arguments.quiet && advise::is_possible(run) {
        print!("\n{}", advise::advise(run));
    }
    for Missing { case, why } in &run.failed {
        eprintln!("odp-bench: {case}: {why}");
    }
    Ok(match run.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// A bar where there is a terminal. No thread of its own draws it: a process that has several cannot fork.
fn progress(cases: u64) -> ProgressBar {
    let bar = ProgressBar::new(cases);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} [{elapsed}, {eta} left] {wide_msg}")
    {
        bar.set_style(style);
    }
    bar
}

/// Runs one case. What comes of it, and whether there can be another one: not if the other machine is gone.
fn one(case: &Case, bench: &Bench, progress: &ProgressBar) -> (Part, bool) {
    let before = bench.meters();
    let result = case.run(bench);
    let after = bench.meters();
    let (metrics, skipped, released) = bench.finish();
    let gone = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Problem::PeerGone(_)));
    let goes_on = !released.as_ref().is_err_and(gone);
    // That the other machine is gone explains whatever else went wrong.
    let result = released.and(result);
    // A case that has nothing to show for itself is no success.
    let nothing = result.is_ok() && metrics.is_empty() && skipped.is_empty();
    let result = match nothing {
        true => Err(anyhow!("nothing was measured")),
        false => result,
    };
    if progress.is_hidden() {
        // Where nobody sees a bar, a line tells how far it has come.
        eprintln!("{}{}", case.name, remark(&result));
    }
    let mut part = Part {
        metrics,
        skipped,
        counters: vec![counted(case, before, after)],
        ..Part::default()
    };
    let Err(error) = result else {
        return (part, goes_on);
    };
    let missing = Missing {
        case: case.name.clone(),
        why: format!("{error:#}"),
    };
    match error.downcast_ref() {
        Some(Problem::Lacking(_)) => part.skipped.push(missing),
        _ => part.failed.push(missing),
    }
    (part, goes_on)
}

fn remark(result: &Result<()>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(error) => match error.downcast_ref() {
            Some(Problem::Lacking(why)) => format!(": skipped: {why}"),
            _ => format!(": FAILED: {error:#}"),
        },
    }
}

fn counted(case: &Case, before: BTreeMap<String, u64>, after: BTreeMap<String, u64>) -> Counted {
    Counted {
        case: case.name.clone(),
        before,
        after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    #[test]
    fn as_much_is_done_as_fits() {
        // A second for each case and 99 for the usual effort.
        let estimate = Estimate::of(1.0, 99.0);
        let planned = |words: &str| {
            let words = ["odp-bench", "run"]
                .into_iter()
                .chain(words.split_whitespace());
            match Arguments::parse_from(words).command {
                Command::Run(run) => planned(&estimate, &run),
                _ => unreachable!("it is called run"),
            }
        };
        assert_eq!(planned(""), (1.0, "about 2 minutes".into()));
        assert_eq!(planned("--time 1h").0, 1.0);
        let (effort, told) = planned("--time 20s");
        assert_eq!(effort, 0.15);
        assert_eq!(
            told,
            "about 16 seconds with --effort 0.15, as --time allows 20s"
        );
        // Who says how much gets that much, as far as there is time.
        let (effort, told) = planned("--time 20s --effort 0.5");
        assert_eq!(effort, 0.5);
        assert!(
            told.contains("of which --time allows 20s: --effort 0.15"),
            "{told}"
        );
        let (effort, told) = planned("--time 1s");
        assert_eq!(effort, Estimate::LEAST);
        assert!(told.contains("even with --effort 0.01"), "{told}");
        assert_eq!(planned("--time 1s --effort 0.5").0, 0.5);
    }

    #[test]
    fn times_are_rounded_for_people() {
        let shown = [0.2, 42.4, 700.0, 9000.0].map(|s| about(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["a second", "42 seconds", "12 minutes", "2.5 hours"]);
    }
}
