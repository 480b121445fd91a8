//! `kubelet-gate readonly-census`: who still asks the read-only port, as the running gate has counted them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{FAILED, GOOD, Output, USAGE, complain};
use crate::serve::CensusReport;
use crate::serve::admin::client::{AdminError, get};
use crate::settings::{KubeletFlags, Settings};

/// The gate has the answer at hand.
const DEADLINE: Duration = Duration::from_secs(5);

/// The arguments of `readonly-census`.
#[derive(Args, Debug)]
pub(super) struct ReadonlyCensus {
    /// The configuration file of the gate that runs
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl ReadonlyCensus {
    pub(super) fn run(&self) -> u8 {
        let settings = match Settings::load(&self.config, &KubeletFlags::default()) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error);
                return USAGE;
            }
        };
        let file = self.config.display();
        let Some(admin) = settings.admin_listen.filter(|admin| admin.port() != 0) else {
            eprintln!(
                "error: {file}: admin.listen names no port, and the gate is asked there; write a port such as \
                 127.0.0.1:10256 and restart the gate"
            );
            return USAGE;
        };
        if settings.read_only_port.listen.is_empty() {
            eprintln!("warning: {file}: readOnlyPort.listen is empty, so that nobody is counted");
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        };
        match runtime.block_on(ask(admin)) {
            Ok(census) => {
                self.print(&census);
                GOOD
            }
            Err(error) => {
                complain(&error);
                FAILED
            }
        }
    }

    fn print(&self, census: &CensusReport) {
        if self.output == Output::Table {
            return print!("{}", table(census));
        }
        match serde_json::to_string(census) {
            Ok(text) => println!("{text}"),
            Err(error) => complain(&error),
        }
    }
}

/// Whoever holds the port may answer, so that the answer is cleaned here once more.
async fn ask(admin: SocketAddr) -> Result<CensusReport, AdminError> {
    get::<CensusReport>(admin, "/readonly-census", DEADLINE)
        .await
        .map(CensusReport::made_printable)
}

/// An empty cell would shift the ones after it, for whoever reads by columns.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn table(census: &CensusReport) -> String {
    if census.callers.is_empty() {
        return format!("nobody has asked the read-only port since {}\n", census.since);
    }
    let headings = [
        "COUNT",
        "ADDRESS",
        "FIRST SEEN",
        "LAST SEEN",
        "PATH",
        "USER AGENT",
    ]
    .map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(headings)
        .chain(census.callers.iter().map(|caller| {
            [
                caller.count.to_string(),
                caller.address.clone(),
                caller.first_seen.clone(),
                caller.last_seen.clone(),
                or_dash(&caller.path),
                or_dash(&caller.user_agent),
            ]
        }))
        .collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    if census.forgotten > 0 {
        text.push_str(&format!(
            "{} more were forgotten: too many came after them\n",
            census.forgotten
        ));
    }
    text
}
