//! `kubelet-gate check`: everything that `serve` would do before it listens.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{FAILED, GOOD, USAGE, complain};
use crate::forward::Kubelet;
use crate::metrics::Metrics;
use crate::node;
use crate::settings::{AuditSink, KubeletFlags, Settings};
use crate::start::{StartError, api_server_and_node_name};
use crate::tls::Serving;

/// The arguments of `check`.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    flags: KubeletFlags,
}

impl Check {
    pub(super) fn run(&self) -> u8 {
        let settings = match Settings::load(&self.config, &self.flags) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error);
                return USAGE;
            }
        };
        for warning in &settings.warnings {
            eprintln!("warning: {warning}");
        }
        let found = problems(&settings);
        for problem in &found {
            complain(problem);
        }
        match settings.to_yaml() {
            Ok(yaml) => print!("{yaml}"),
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        }
        if found.is_empty() { GOOD } else { USAGE }
    }
}

/// Every file that would keep the gate from starting, not only the first.
fn problems(settings: &Settings) -> Vec<StartError> {
    let kubelet = Kubelet::new(
        settings.upstream.clone(),
        settings.limits.upstream_connect_timeout,
        Metrics::new().into(),
    );
    let outcomes: [Result<(), StartError>; 5] = [
        Serving::load(settings).map(drop).map_err(StartError::from),
        kubelet.map(drop).map_err(StartError::from),
        api_server_and_node_name(settings).map(drop),
        node::may_listen(settings, &node::running_kubelets(Path::new("/proc"))).map_err(StartError::from),
        audit_directory(settings),
    ];
    outcomes.into_iter().filter_map(Result::err).collect()
}

fn audit_directory(settings: &Settings) -> Result<(), StartError> {
    match &settings.audit.sink {
        AuditSink::File(path) if !path.parent().is_some_and(Path::is_dir) => {
            Err(crate::audit::AuditError::NoDirectory { path: path.clone() }.into())
        }
        _ => Ok(()),
    }
}
