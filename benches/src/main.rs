//! Measures clawgate, `mosquitto_pub -l` and a local mosquitto bridge on the same work in one run: readings of a
//! sensor on a serial line, to an MQTT broker, at QoS 1.
//!
//! Every figure comes from outside the gateway that is measured: identities from the sensors' logs and from a
//! subscriber at the broker, resources from `/proc`. See `benches/README.md` for what each figure means.

mod broker;
mod clawgate;
mod line;
mod mqtt;
mod notify;
mod options;
mod own;
mod peers;
mod process;
mod pty;
mod receiver;
mod report;
mod scenario;
mod simulator;
mod subject;
mod tap;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use options::Options;

/// What a step of the benchmark gives, or why the run ends.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match Options::from_args(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let mut report = report::Report::new(options);
    for subject in subject::all(options) {
        report.add(scenario::measure(subject.as_ref(), options)?);
    }
    if options.wants("clawgate") {
        report.own = Some(own::measure(&clawgate::Clawgate::built(), options)?);
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(report.table().as_bytes())?;
    std::fs::write(&options.out, report.json()?)?;
    writeln!(stdout, "\nall figures: {}", options.out.display())?;
    Ok(())
}

/// One line of progress on stderr.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
