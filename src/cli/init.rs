//! `kubelet-gate init`: everything that a gate in front of this node's kubelet needs, written into a folder.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;

use super::which_kubelet::{WhichKubelet, listed};
use super::{FAILED, FINDINGS, GOOD, check};
use crate::adopt::init::{Draft, Here, NAMES, Naming, Written, draft};
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
        let here = Here {
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
        let draft = draft(&inspection, &here);
        write(&draft, &out, self.force).map_err(one)?;
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

/// All or nothing: each file is whole before any takes its place, and no link is followed.
fn write(draft: &Draft, out: &Path, force: bool) -> Result<(), String> {
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(out)
        .map_err(|error| told(out, error))?;
    let mut there = Vec::new();
    for path in NAMES.map(|name| out.join(name)) {
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => {
                return Err(format!(
                    "{}: a folder of that name is in the way: choose another folder",
                    path.display()
                ));
            }
            Ok(_) => there.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(told(&path, error)),
        }
    }
    if !there.is_empty() && !force {
        let there: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
        return Err(format!(
            "{}: there already, and may have been edited: choose another folder, or --force to write over",
            there.join(", ")
        ));
    }
    let aside = |file: &Written| out.join(format!(".{}.{}", file.name, std::process::id()));
    let written = draft.files.iter().try_for_each(|file| {
        let path = aside(file);
        write_one(file, &path).map_err(|error| told(&path, error))
    });
    let moved = written.and_then(|()| {
        draft.files.iter().try_for_each(|file| {
            let path = out.join(file.name);
            fs::rename(aside(file), &path).map_err(|error| told(&path, error))
        })
    });
    if moved.is_err() {
        for file in &draft.files {
            // It may not have been made, or be in its place already.
            let _ = fs::remove_file(aside(file));
        }
        return moved;
    }
    // What an earlier run wrote and this one did not would be taken for this one's.
    let stale = there
        .iter()
        .filter(|path| draft.files.iter().all(|file| out.join(file.name) != **path));
    for path in stale {
        fs::remove_file(path).map_err(|error| told(path, error))?;
    }
    Ok(())
}

fn write_one(file: &Written, path: &Path) -> io::Result<()> {
    let mode = if file.private { 0o600 } else { 0o644 };
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(path)?.write_all(file.text.as_bytes())
}
