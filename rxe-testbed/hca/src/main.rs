// SPDX-License-Identifier: GPL-2.0
//! `odp-hca`: the emulated ConnectX for a QEMU of one's own.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, Context, Result};
use clap::Parser;
use odp_hca::front::Hca;
use odp_hca::trace::Trace;
use odp_hca::{layout, Options, Profile, Script, Subnet, PROFILES};

/// An emulated ConnectX for QEMU's vfio-user-pci, or several on one subnet
///
/// With several, their LIDs are 1 and on, and the identity of each is 0x100 more than that of the one before it.
/// The exit status is 1 if the driver in the guest, or the device, did what must not be.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The socket to make, and to wait at for one QEMU; once for each device
    #[arg(long, value_name = "PATH", required_unless_present = "check_layouts")]
    socket: Vec<PathBuf>,
    /// What the device announces
    #[arg(long, default_value = PROFILES[0].name)]
    profile: String,
    /// The device's identity, in hexadecimal
    #[arg(long, value_name = "GUID", default_value = "0002c90300000100", value_parser = guid)]
    guid: u64,
    /// Where to write what happens, an object of JSON a line; once for each device
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// A socket to make that answers questions, an object of JSON a line: `{"ask": "faults"}`; once for each device
    #[arg(long, value_name = "PATH")]
    control: Vec<PathBuf>,
    /// What each device does that a device seldom does: a script, an object of JSON
    #[arg(long, value_name = "FILE")]
    adversary: Option<PathBuf>,
    /// Only hold the declared structures against a header: include/linux/mlx5/mlx5_ifc.h
    #[arg(long, value_name = "HEADER")]
    check_layouts: Option<PathBuf>,
}

/// How far the identities of devices are apart.
const GUIDS: u64 = 0x100;

fn guid(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|error| error.to_string())
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let complaints = match &cli.check_layouts {
        Some(header) => {
            let text = std::fs::read_to_string(header);
            layout::header::differences(&text.with_context(|| header.display().to_string())?)
        }
        None => serve(&cli)?,
    };
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(ExitCode::from(u8::from(!complaints.is_empty())))
}

/// Serves a QEMU at each socket; gives what was wrong.
fn serve(cli: &Cli) -> Result<Vec<String>> {
    for (option, count) in [("trace", cli.trace.len()), ("control", cli.control.len())] {
        let devices = cli.socket.len();
        if count != 0 && count != devices {
            bail!("--{option} is there {count} times and --socket {devices} times: each device has its own");
        }
    }
    let subnet = Subnet::new();
    let mut devices = Vec::new();
    for number in 0..cli.socket.len() {
        let (hca, trace) = device(cli, number)?;
        devices.push((hca.on_subnet(subnet.clone()), trace));
    }
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let serving: Vec<_> = devices
            .iter()
            .map(|(hca, _)| scope.spawn(|| hca.serve()))
            .collect();
        let panicked = |_| bail!("a device panicked");
        let ends = serving.into_iter().map(|thread| thread.join());
        ends.map(|end| end.unwrap_or_else(panicked)).collect()
    });
    for socket in cli.socket.iter().chain(&cli.control) {
        std::fs::remove_file(socket).with_context(|| socket.display().to_string())?;
    }
    results.into_iter().collect::<Result<()>>()?;
    let violations = devices.iter().flat_map(|(_, trace)| trace.violations());
    Ok(violations.map(|violation| violation.to_string()).collect())
}

/// The device for the socket of this number, and its trace.
fn device(cli: &Cli, number: usize) -> Result<(Hca, Trace)> {
    let Some(profile) = Profile::named(&cli.profile) else {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        bail!(
            "no profile `{}`: there is {}",
            cli.profile,
            names.join(", ")
        );
    };
    let trace = match cli.trace.get(number) {
        Some(path) => {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            Trace::to(Box::new(BufWriter::new(file)))
        }
        None => Trace::default(),
    };
    let script = match &cli.adversary {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Script::parse(&text).with_context(|| path.display().to_string())?
        }
        None => Script::nothing(),
    };
    let options = Options {
        profile,
        guid: cli.guid.wrapping_add(number as u64 * GUIDS),
        lid: u16::try_from(number + 1).context("too many devices")?,
    };
    let hca = Hca::new(listen(&cli.socket[number])?, options, trace.clone()).with_script(script);
    let hca = match cli.control.get(number) {
        Some(control) => hca.with_control(listen(control)?),
        None => hca,
    };
    Ok((hca, trace))
}

fn listen(socket: &PathBuf) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket);
    listener.with_context(|| format!("making {}", socket.display()))
}
