//! `kubelet-gate readonly-census`: the callers of the read-only port, as the running gate has counted them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit::{CliError, Exit, runtime};
use super::output::Output;
use super::table::Table;
use super::terminal::{Stream, Terminal};
use crate::serve::CensusReport;
use crate::serve::admin::client::{AdminError, AdminPlace, get};
use crate::settings::{KubeletFlags, Settings};

/// The gate has the answer at hand.
const DEADLINE: Duration = Duration::from_secs(5);

/// The arguments of `readonly-census`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 the gate does not answer, 64 wrong command line or configuration"
)]
pub(super) struct ReadonlyCensus {
    /// The configuration file of the running gate
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl ReadonlyCensus {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = Settings::load(&self.config, &KubeletFlags::default()).map_err(CliError::usage)?;
        let file = self.config.display();
        let Some(admin) = AdminPlace::of(&settings, None) else {
            return Err(CliError::usage(format!(
                "{file}: admin.socket is off and admin.listen names no port, so the gate cannot be asked; \
                 set admin.socket: auto, or a port such as 127.0.0.1:10256, and restart the gate"
            )));
        };
        if settings.read_only_port.listen.is_empty() {
            terminal.err.warning(&format!(
                "{file}: readOnlyPort.listen is empty, so no caller is counted"
            ));
        }
        let census = runtime()
            .map_err(CliError::failed)?
            .block_on(ask(&admin))
            .map_err(CliError::failed)?;
        match self.output {
            Output::Json => terminal.out.json(&census),
            Output::Table => print(&census, &mut terminal.out),
        }
        Ok(Exit::Good)
    }
}

/// Any local process may hold the port while the gate is down, so the answer is made printable here once
/// more.
async fn ask(admin: &AdminPlace) -> Result<CensusReport, AdminError> {
    get::<CensusReport>(admin, "/readonly-census", DEADLINE)
        .await
        .map(CensusReport::made_printable)
}

/// An empty cell would shift the ones after it, for a script that reads by columns.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn print(census: &CensusReport, out: &mut Stream) {
    if census.callers.is_empty() {
        return out.text(&format!(
            "no caller has used the read-only port since {}",
            census.since
        ));
    }
    let mut table = Table::new([
        "COUNT",
        "ADDRESS",
        "FIRST SEEN",
        "LAST SEEN",
        "PATH",
        "USER AGENT",
    ]);
    for caller in &census.callers {
        table.row([
            caller.count.to_string().into(),
            caller.address.as_str().into(),
            caller.first_seen.as_str().into(),
            caller.last_seen.as_str().into(),
            or_dash(&caller.path).into(),
            or_dash(&caller.user_agent).into(),
        ]);
    }
    out.table(&table);
    if census.forgotten > 0 {
        out.text(&format!(
            "{} more callers are not listed: too many came after them",
            census.forgotten
        ));
    }
}
