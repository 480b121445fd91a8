//! What keeps a gate of these settings from serving, without serving: everything that `serve` would meet before it listens, and
//! what only the API server knows.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::node::{self, SameMachine, Shown};
use super::start::{StartError, api_server_and_node_name, unused_proxy};
use crate::adopt::kubelet::running_kubelets;
use crate::apiserver::{AccessSpec, ApiServer, ReviewError, UserInfo};
use crate::audit::AuditError;
use crate::forward::Kubelet;
use crate::metrics::Metrics;
use crate::settings::{AuditSink, AuthorizationMode, Settings};
use crate::tls::Serving;

/// What a check found.
#[derive(Default)]
pub(crate) struct Findings {
    /// What keeps the gate from starting, or makes it unsafe.
    pub(crate) problems: Vec<Box<dyn Error>>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

impl Findings {
    /// Checks `settings`. Without `offline` the API server is asked too.
    ///
    /// # Errors
    /// The operating system gives no runtime to ask with.
    pub(crate) fn of(settings: &Settings, offline: bool) -> io::Result<Self> {
        let mut found = Self {
            warnings: settings.warnings.clone(),
            ..Self::default()
        };
        let api_server = found.look_at_files(settings);
        if !offline && let Some((api_server, node_name)) = api_server {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(found.ask(settings, &api_server, &node_name));
        }
        Ok(found)
    }

    /// Every file that would keep the gate from starting, not only the first. Yields the client and the node's name,
    /// if there is something to ask the API server.
    fn look_at_files(&mut self, settings: &Settings) -> Option<(ApiServer, Arc<str>)> {
        let kubelet = Kubelet::new(
            settings.upstream.clone(),
            settings.limits.upstream_connect_timeout,
            None,
            Metrics::new().into(),
        );
        let (api_server, node_name) = match api_server_and_node_name(settings) {
            Ok((api_server, node_name)) => (api_server, Ok(node_name)),
            Err(error) => (None, Err(error)),
        };
        let name = node_name.as_ref().ok().cloned();
        let outcomes: [Result<(), StartError>; 5] = [
            Serving::load(&settings.tls).map(drop).map_err(StartError::from),
            kubelet.map(drop).map_err(StartError::from),
            node_name.map(drop),
            node::may_listen(settings, &running_kubelets(Path::new("/proc"))).map_err(StartError::from),
            audit_directory(settings),
        ];
        for problem in outcomes.into_iter().filter_map(Result::err) {
            self.problems.push(problem.into());
        }
        self.warnings.extend(unused_proxy());
        api_server.zip(name)
    }

    /// What the API server has to say: whether the Node is this machine, whether the gate may ask for reviews, and
    /// whether what it shows its kubelet is good for others too. That it cannot be asked is no error, since `serve`
    /// starts without it.
    async fn ask(&mut self, settings: &Settings, api_server: &ApiServer, node_name: &str) {
        match node::confirm(api_server, node_name, settings.limits.review_timeout).await {
            Ok(SameMachine::Yes) => {}
            Ok(SameMachine::Unproven(why)) => self.warnings.push(why),
            Ok(SameMachine::Unasked(why)) => {
                return self.warnings.push(format!(
                    "the API server cannot be asked, so that neither the node's name, the gate's rights nor the \
                     credentials of upstream are checked: {why}"
                ));
            }
            Err(error) => self.problems.push(error.into()),
        }
        if settings.authentication.webhook {
            self.may_ask(api_server.review_token("kubelet-gate-check", &[]).await);
        }
        if settings.authorization.mode == AuthorizationMode::Webhook {
            let user = UserInfo {
                username: "system:anonymous".to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
                ..UserInfo::default()
            };
            let question = AccessSpec {
                user: &user,
                verb: "get",
                subresource: "healthz",
                name: node_name,
            };
            self.may_ask(api_server.review_access(question).await);
        }
        let credentials = &settings.upstream.credentials;
        for shown in node::shown_to_kubelet(credentials, api_server, node_name).await {
            match shown {
                Shown::Own => {}
                Shown::Fleet(error) if credentials.allow_fleet => self.warnings.push(error.to_string()),
                Shown::Fleet(error) => self.problems.push(error.into()),
                Shown::Unknown(why) => self.warnings.push(why),
            }
        }
    }

    /// A review that is refused to the gate itself would be refused for every request.
    fn may_ask<T>(&mut self, answer: Result<T, ReviewError>) {
        match answer {
            Ok(_) => {}
            Err(error) if matches!(error.status().map(|status| status.as_u16()), Some(401 | 403)) => {
                self.problems.push(error.into());
            }
            Err(error) => self.warnings.push(error.to_string()),
        }
    }
}

fn audit_directory(settings: &Settings) -> Result<(), StartError> {
    match &settings.audit.sink {
        AuditSink::File(path) if !path.parent().is_some_and(Path::is_dir) => {
            Err(AuditError::NoDirectory { path: path.clone() }.into())
        }
        _ => Ok(()),
    }
}
