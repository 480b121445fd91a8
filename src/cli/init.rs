//! `kubelet-gate init`: everything that a gate in front of this node's kubelet needs, written into a folder.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;

use super::which_kubelet::{WhichKubelet, listed};
use super::{FAILED, FINDINGS, GOOD, check};
use crate::adopt::init::{Destination, Draft, Naming};
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::plain;
use crate::host;

/// The arguments of `init`.
#[derive(Args, Debug)]
pub(super) struct Init {
    #[command(flatten)]
    kubelet: WhichKubelet,
    /// The folder to write into; it is made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// With --root: name files as the node itself does, not as they are found from here; they are not checked then
    #[arg(long, requires = "root")]
    node_paths: bool,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(&self) -> u8 {
        self.written().unwrap_or_else(|errors| {
            for error in errors {
                eprintln!("error: {error}");
            }
            FAILED
        })
    }

    fn written(&self) -> Result<u8, Vec<String>> {
        let one = |error: String| vec![error];
        let (mut invocations, errors) = self.kubelet.find();
        if !errors.is_empty() {
            return Err(errors);
        }
        if invocations.len() > 1 {
            let way_out = match self.kubelet.root {
                Some(_) => {
                    "name the configuration of one with --kubelet-config and its flags with --kubelet-arg"
                }
                None => "choose one with --pid",
            };
            return Err(one(format!("{}: {way_out}", listed(&invocations))));
        }
        let invocation = invocations.pop().ok_or_else(Vec::new)?;
        let runs = invocation.pid().is_some();
        let seen = runs && !invocation.elsewhere;
        let inspection =
            Inspection::of(invocation, OffsetDateTime::now_utc()).map_err(|error| one(error.to_string()))?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let out = absolute(&self.out);
        let program =
            std::env::current_exe().map_err(|error| one(format!("this program's file: {error}")))?;
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
            // What the gate will do.
            ipv6: seen.then(|| TcpListener::bind("[::]:0").is_ok()),
        };
        let draft = Draft::of(&inspection, &destination);
        draft
            .write(&out, self.force)
            .map_err(|error| one(error.to_string()))?;
        for note in &inspection.notes {
            eprintln!("note: {}", plain(note));
        }
        for remark in &draft.remarks {
            eprintln!("warning: {}", plain(remark));
        }
        for problem in &draft.problems {
            eprintln!("problem: {}", plain(problem));
        }
        for missing in &draft.missing {
            eprintln!("missing: {}", plain(missing));
        }
        self.told(&inspection, &draft, runs)
            .map_err(|error| one(format!("standard output: {error}")))
    }

    /// Says what was written, and what `check` says to that.
    fn told(&self, inspection: &Inspection, draft: &Draft, runs: bool) -> io::Result<u8> {
        let mut stdout = io::stdout().lock();
        let source = plain(&inspection.invocation.source.to_string());
        writeln!(stdout, "written for the kubelet of {source}:")?;
        for file in &draft.files {
            writeln!(stdout, "  {}", self.out.join(file.name).display())?;
        }
        let next = self.out.join("NEXT.md");
        let config = self.out.join("kubelet-gate.yaml");
        if self.node_paths {
            writeln!(
                stdout,
                "its paths are the node's: to be checked there, by {}",
                next.display()
            )?;
        } else if !draft.missing.is_empty() {
            writeln!(
                stdout,
                "fill in what is missing, then: kubelet-gate check {}--config {}; and go on by {}",
                if runs { "" } else { "--offline " },
                config.display(),
                next.display()
            )?;
        } else {
            // The kubeconfig of a file system that somebody copied here may name programs to run, and an API server to talk to.
            if check::quietly(&config, !runs) != GOOD {
                writeln!(stdout, "`kubelet-gate check` refuses it, as said above")?;
                return Ok(FINDINGS);
            }
            writeln!(
                stdout,
                "checked{}; what to do next is in {}",
                if runs {
                    ""
                } else {
                    ", but for what only the API server knows"
                },
                next.display()
            )?;
        }
        let good = draft.missing.is_empty() && draft.problems.is_empty();
        Ok(if good { GOOD } else { FINDINGS })
    }
}
