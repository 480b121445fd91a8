//! `kubelet-gate init`: writes everything that a gate in front of this node's kubelet needs into a folder.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;

use super::check;
use super::exit::{CliError, Exit};
use super::terminal::{BAD, Terminal};
use super::which_kubelet::{WhichKubelet, listed};
use crate::adopt::init::{Destination, Draft, Naming};
use crate::adopt::inspect::Inspection;
use crate::host;
use crate::seal::Firewall;
use crate::settings::Backend;

/// The arguments of `init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes:
  0   written, and checked unless --node-paths
  1   nothing could be written
  2   written, but something is missing or will not work as it is
  64  wrong command line")]
pub(super) struct Init {
    #[command(flatten)]
    kubelet: WhichKubelet,
    /// The folder to write to; it is made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// With --root: write the paths that the node uses, not those that lead to the files from here; they
    /// cannot be checked here
    #[arg(long, requires = "root")]
    node_paths: bool,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let (mut invocations, errors) = self.kubelet.find();
        if !errors.is_empty() {
            return Err(CliError::several(Exit::Failed, errors));
        }
        if invocations.len() > 1 {
            let way_out = match self.kubelet.root {
                Some(_) => {
                    "name the configuration of one with --kubelet-config and its flags with --kubelet-arg"
                }
                None => "choose one with --pid",
            };
            return Err(CliError::failed(format!("{}: {way_out}", listed(&invocations))));
        }
        let Some(invocation) = invocations.pop() else {
            return Err(CliError::failed("no kubelet was found"));
        };
        let runs = invocation.pid().is_some();
        let seen = runs && !invocation.elsewhere;
        let inspection = Inspection::of(invocation, OffsetDateTime::now_utc()).map_err(CliError::failed)?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let out = absolute(&self.out);
        let program = std::env::current_exe()
            .map_err(|error| CliError::failed(format!("cannot find this program's own file: {error}")))?;
        let addresses = match seen {
            true => host::addresses().unwrap_or_default(),
            false => Vec::new(),
        };
        let destination = Destination {
            naming: match self.node_paths {
                true => Naming::Node,
                false => Naming::Here,
            },
            out: &out,
            program: &program,
            addresses: &addresses,
            // The gate will bind both families if it can.
            ipv6: seen.then(|| TcpListener::bind("[::]:0").is_ok()),
            iptables: seen && Firewall::find(None).is_ok_and(|(backend, _)| backend != Backend::Nftables),
        };
        let draft = Draft::of(&inspection, &destination);
        draft.write(&out, self.force).map_err(CliError::failed)?;
        let err = &mut terminal.err;
        for note in &inspection.notes {
            err.note(note);
        }
        for remark in &draft.remarks {
            err.warning(remark);
        }
        for problem in &draft.problems {
            err.labelled(BAD, "problem:", problem);
        }
        for missing in &draft.missing {
            err.labelled(BAD, "missing:", missing);
        }
        self.print(&inspection, &draft, runs, terminal)
    }

    /// Says what was written, checks it, and says what to do next.
    fn print(
        &self,
        inspection: &Inspection,
        draft: &Draft,
        runs: bool,
        terminal: &mut Terminal,
    ) -> Result<Exit, CliError> {
        let Terminal { out, err, .. } = terminal;
        out.text(&format!(
            "written for the kubelet of {}:",
            inspection.invocation.source
        ));
        for file in &draft.files {
            out.hanging("  ", &self.out.join(file.name).display().to_string());
        }
        let next = self.out.join("NEXT.md").display().to_string();
        let config = self.out.join("kubelet-gate.yaml");
        if self.node_paths {
            out.text(&format!(
                "the paths in it are the node's: check it there; {next} has the next steps"
            ));
        } else if !draft.missing.is_empty() {
            out.text("fill in what is missing, then check it:");
            let offline = if runs { "" } else { "--offline " };
            out.command(&format!(
                "kubelet-gate check {offline}--config {}",
                config.display()
            ));
            out.text(&format!("{next} has the next steps"));
        } else {
            // A kubeconfig in a copied file system may name programs to run, and an API server to call.
            if check::quietly(&config, runs, err)? != Exit::Good {
                out.text("`kubelet-gate check` refuses it, for the reasons above");
                return Ok(Exit::Findings);
            }
            let unchecked = if runs {
                ""
            } else {
                ", except for what only the API server knows"
            };
            out.text(&format!("checked{unchecked}; {next} has the next steps"));
        }
        match draft.missing.is_empty() && draft.problems.is_empty() {
            true => Ok(Exit::Good),
            false => Ok(Exit::Findings),
        }
    }
}
