// SPDX-License-Identifier: GPL-2.0
//! `run`: case after case, with what was found kept after each.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use odp_results::{
    html,
    run::{write_atomically, Counted, Missing, Run, State},
    table,
};
use odp_verbs::{
    bench::{self, Bench, Case, Options, Problem},
    env::Env,
    peer::Peer,
    process,
};

use crate::{
    arguments::{self, FAILED},
    reports, Outcome,
};

/// Measures what `arguments` ask for.
pub fn run(arguments: &arguments::Run) -> Outcome {
    let cases = reports::select(&arguments.names)?;
    process::defer_to_kernel();
    let env = Env::open(arguments.device.as_deref(), arguments.gid)?;
    let device = env.context.name().to_owned();
    if !env.context.odp_caps()?.supported {
        bail!("{device} has no on-demand paging: there is nothing to measure");
    }
    let options = Options {
        aligned: arguments.aligned,
        effort: arguments.effort,
        folder: arguments.folder.clone(),
        instruction: arguments.instruction,
    };
    if arguments.server {
        return serve(env, options, arguments.port);
    }
    // Now rather than after the first case.
    let mut run = Run::new(arguments.aligned, BTreeMap::new());
    keep(&run, arguments)?;
    let bench = match &arguments.connect {
        None => Bench::new(env, options)?,
        Some(host) => {
            let peer = Peer::connect(host, arguments.port, PATIENCE)
                .with_context(|| format!("nobody answers at port {} of {host}", arguments.port))?;
            Bench::with_peer(env, options, peer)?
        }
    };
    run.environment = bench.environment();
    if let Some(host) = &arguments.connect {
        run.environment.insert("peer".into(), host.clone());
    }
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
        let goes_on = one(case, &bench, &mut run, &progress);
        keep(&run, arguments)?;
        progress.inc(1);
        if !goes_on {
            progress.finish_and_clear();
            return Ok(conclude(&run, arguments));
        }
    }
    progress.finish_and_clear();
    run.state = State::Finished;
    keep(&run, arguments)?;
    Ok(conclude(&run, arguments))
}

/// How long the other machine may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves one machine that measures.
fn serve(env: Env, options: Options, port: u16) -> Outcome {
    eprintln!("odp-bench: waiting at port {port}");
    let peer = Peer::accept(port, PATIENCE * 30).context("waiting for a machine that measures")?;
    bench::serve(&Bench::new(env, options)?, peer)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes down what is known so far.
fn keep(run: &Run, arguments: &arguments::Run) -> Result<()> {
    run.save(&arguments.json)?;
    if let Some(path) = &arguments.html {
        write_atomically(path, html::page(run).as_bytes()).context("the page of HTML")?;
    }
    Ok(())
}

/// Says how it ended, in the exit status, too.
fn conclude(run: &Run, arguments: &arguments::Run) -> ExitCode {
    match arguments.quiet {
        true => println!("{}", table::closing_line(run)),
        false => print!("{}", table::table(run, false)),
    }
    for Missing { case, why } in &run.failed {
        eprintln!("odp-bench: {case}: {why}");
    }
    match run.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
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

/// Runs one case; whatever comes of it goes into `run`. Whether there can be another one: not if the other
/// machine is gone.
fn one(case: &Case, bench: &Bench, run: &mut Run, progress: &ProgressBar) -> bool {
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
    run.metrics.extend(metrics);
    run.skipped.extend(skipped);
    run.counters.push(counted(case, before, after));
    let Err(error) = result else {
        return goes_on;
    };
    let missing = Missing {
        case: case.name.clone(),
        why: format!("{error:#}"),
    };
    match error.downcast_ref() {
        Some(Problem::Lacking(_)) => run.skipped.push(missing),
        _ => run.failed.push(missing),
    }
    goes_on
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
