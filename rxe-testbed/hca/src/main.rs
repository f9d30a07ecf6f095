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
use odp_hca::{layout, Options, Profile, Script, PROFILES};

/// An emulated ConnectX for QEMU's vfio-user-pci
///
/// The exit status is 1 if the driver in the guest, or the device, did what must not be.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The socket to make, and to wait at for one QEMU
    #[arg(long, value_name = "PATH", required_unless_present = "check_layouts")]
    socket: Option<PathBuf>,
    /// What the device announces
    #[arg(long, default_value = PROFILES[0].name)]
    profile: String,
    /// The device's identity, in hexadecimal
    #[arg(long, value_name = "GUID", default_value = "0002c90300000100", value_parser = guid)]
    guid: u64,
    /// Where to write what happens, an object of JSON a line
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// A socket to make that answers questions, an object of JSON a line: `{"ask": "faults"}`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// What the device does that a device seldom does: a script, an object of JSON
    #[arg(long, value_name = "FILE")]
    adversary: Option<PathBuf>,
    /// Only hold the declared structures against a header: include/linux/mlx5/mlx5_ifc.h
    #[arg(long, value_name = "HEADER")]
    check_layouts: Option<PathBuf>,
}

fn guid(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|error| error.to_string())
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let complaints = match (&cli.check_layouts, &cli.socket) {
        (Some(header), _) => {
            let text = std::fs::read_to_string(header);
            layout::header::differences(&text.with_context(|| header.display().to_string())?)
        }
        (None, Some(socket)) => serve(&cli, socket)?,
        (None, None) => Vec::new(),
    };
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(ExitCode::from(u8::from(!complaints.is_empty())))
}

/// Serves one QEMU; gives what was wrong.
fn serve(cli: &Cli, socket: &PathBuf) -> Result<Vec<String>> {
    let Some(profile) = Profile::named(&cli.profile) else {
        let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        bail!(
            "no profile `{}`: there is {}",
            cli.profile,
            names.join(", ")
        );
    };
    let trace = match &cli.trace {
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
    let listener = listen(socket)?;
    let options = Options {
        profile,
        guid: cli.guid,
    };
    let mut hca = Hca::new(listener, options, trace.clone()).with_script(script);
    if let Some(control) = &cli.control {
        hca = hca.with_control(listen(control)?);
    }
    let result = hca.serve();
    for socket in [Some(socket), cli.control.as_ref()].into_iter().flatten() {
        std::fs::remove_file(socket).with_context(|| socket.display().to_string())?;
    }
    result?;
    Ok(trace.violations().iter().map(ToString::to_string).collect())
}

fn listen(socket: &PathBuf) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket);
    listener.with_context(|| format!("making {}", socket.display()))
}
