//! `kubelet-gate init`: everything that a gate in front of this node's kubelet needs, written into a folder.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;

use super::check;
use super::which_kubelet::{WhichKubelet, listed};
use super::{FAILED, FINDINGS, GOOD};
use crate::firewall::{Backend, Firewall, Plan};
use crate::init::{Draft, Naming, Written, draft};
use crate::inspect::Inspection;
use crate::node::{self, binds};
use crate::settings::{KubeletFlags, Settings};

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
            return Err(one(format!(
                "{}: choose one that runs with --pid, or name its --kubelet-config and --kubelet-arg",
                listed(&invocations)
            )));
        }
        let invocation = invocations.pop().ok_or_else(Vec::new)?;
        let runs = invocation.pid().is_some();
        let inspection =
            Inspection::of(invocation, OffsetDateTime::now_utc()).map_err(|error| one(error.to_string()))?;
        let naming = if self.node_paths {
            Naming::Node
        } else {
            Naming::Here
        };
        let addresses = if runs {
            node::addresses().unwrap_or_default()
        } else {
            Vec::new()
        };
        let mut draft = draft(&inspection, naming, &addresses);
        self.plan(&inspection, &mut draft);
        self.write(&draft).map_err(one)?;
        for note in &inspection.notes {
            eprintln!("note: {note}");
        }
        for remark in &draft.remarks {
            eprintln!("warning: {remark}");
        }
        for missing in &draft.missing {
            eprintln!("missing: {missing}");
        }
        println!("written for the kubelet of {}:", inspection.invocation.source);
        for file in &draft.files {
            println!("  {}", self.out.join(file.name).display());
        }
        let config = self.out.join("kubelet-gate.yaml");
        if !draft.missing.is_empty() {
            println!(
                "fill in what is missing, then: kubelet-gate check --config {}",
                config.display()
            );
            return Ok(FINDINGS);
        }
        if self.node_paths {
            println!("its paths are the node's: to be checked there");
            return Ok(GOOD);
        }
        // The kubeconfig of a file system that somebody copied here may name programs to run, and an API server to talk to.
        let code = check::quietly(&config, !runs);
        match code {
            GOOD => println!(
                "checked{}; what to do next is in {}",
                if runs {
                    ""
                } else {
                    ", but for what only the API server knows"
                },
                self.out.join("NEXT.md").display()
            ),
            _ => println!("`kubelet-gate check` refuses it, as said above"),
        }
        Ok(if code == GOOD { GOOD } else { FINDINGS })
    }

    /// The rules that would seal the node, if the configuration is whole.
    fn plan(&self, inspection: &Inspection, draft: &mut Draft) {
        let Some(configuration) = draft.files.first() else {
            return;
        };
        let path = self.out.join(configuration.name);
        let Ok(settings) = Settings::parse(&configuration.text, &path, &KubeletFlags::default()) else {
            return;
        };
        let bound = binds(&inspection.options).unwrap_or_default();
        let ports: Vec<u16> = bound.iter().map(std::net::SocketAddr::port).collect();
        if let Ok(plan) = Plan::of(&settings, &ports, Backend::Nftables) {
            let rules = Firewall::of(Backend::Nftables).print(&plan);
            draft.files.push(Written {
                name: "firewall.nft",
                text: format!(
                    "# To be read: `kubelet-gate firewall apply` loads these, on trial first, and lets the gate itself through.\n{rules}"
                ),
                private: false,
            });
        }
    }

    fn write(&self, draft: &Draft) -> Result<(), String> {
        let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.out)
            .map_err(|error| told(&self.out, error))?;
        let there: Vec<String> = draft
            .files
            .iter()
            .map(|file| self.out.join(file.name))
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        if !there.is_empty() && !self.force {
            return Err(format!(
                "{}: there already, and may have been edited: choose another folder, or --force to write over",
                there.join(", ")
            ));
        }
        for file in &draft.files {
            let path = self.out.join(file.name);
            self.write_one(file, &path).map_err(|error| told(&path, error))?;
        }
        Ok(())
    }

    fn write_one(&self, file: &Written, path: &Path) -> io::Result<()> {
        if self.force && path.exists() {
            fs::remove_file(path)?;
        }
        let mode = if file.private { 0o600 } else { 0o644 };
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        options.open(path)?.write_all(file.text.as_bytes())
    }
}
