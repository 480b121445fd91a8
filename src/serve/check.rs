//! What keeps a gate of this configuration from serving, without serving: everything that `serve` would meet
//! before it listens, and what only the API server knows.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::admin;
use super::admin::client::{AdminError, AdminPlace, api_server};
use super::admin::socket::AdminSocketError;
use super::error::StartError;
use super::left_out::left_out;
use super::names;
use super::node::{self, Ids, NodeError, SameMachine, Shown};
use super::start::{api_server_and_node_name, deny_list, unused_proxy};
use super::unit;
use crate::adopt::kubelet::{Root, next_starts_of_the_node, running_kubelets};
use crate::adopt::socket_unit;
use crate::apiserver::{AccessSpec, ApiServer, ReviewError, UserInfo};
use crate::audit::AuditError;
use crate::authn::DenyList;
use crate::error::chain;
use crate::forward::{Kubelet, KubeletError};
use crate::metrics::Metrics;
use crate::settings::{
    AuditSink, AuthorizationMode, KubeletFlags, Places, Settings, SettingsError, Upstream,
    UpstreamCredentials, UpstreamTrust,
};
use crate::tls::{Serving, ServingError};

/// How long a running gate may take to say where it served the API server.
const ADMIN: Duration = Duration::from_secs(2);

/// What is asked beside the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    /// Nothing: they are another machine's.
    Nothing,
    /// The kubelet that runs here.
    Kubelet,
    /// The kubelet and the API server.
    KubeletAndApiServer,
}

/// What a check found.
#[derive(Default)]
pub(crate) struct Findings {
    /// What would be in force, if the configuration can be read.
    pub(crate) settings: Option<Settings>,
    /// What keeps the gate from starting, or makes it unsafe: file and line, or flag, first.
    pub(crate) problems: Vec<String>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// What could be made of the files.
#[derive(Default)]
struct Parts {
    serving: Option<Serving>,
    kubelet: Option<Kubelet>,
    /// The client and the Node's name, if there is something to ask the API server.
    api_server: Option<(ApiServer, Arc<str>)>,
}

impl Findings {
    /// Checks the configuration file at `path`, under `flags`.
    ///
    /// # Errors
    /// The operating system gives no runtime to ask with.
    pub(crate) fn of(path: &Path, flags: &KubeletFlags, asked: Asked) -> io::Result<Self> {
        let mut found = Self::default();
        let (settings, places) = match Settings::load_with_places(path, flags) {
            Ok(loaded) => loaded,
            Err(SettingsError::Invalid(problems)) => {
                found.problems = problems.iter().map(ToString::to_string).collect();
                return Ok(found);
            }
            Err(error) => {
                found.problems.push(chain(&error));
                return Ok(found);
            }
        };
        found.warnings.clone_from(&settings.warnings);
        let parts = found.look_at_files(&settings, &places);
        if asked != Asked::Nothing {
            found.look_at_socket_unit(&settings, &Root::new("/"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            found.look_at_sources(&settings, &places).await;
            if asked != Asked::Nothing
                && let Some(kubelet) = &parts.kubelet
            {
                found.ask_kubelet(&settings, &places, kubelet, asked).await;
            }
            if asked == Asked::KubeletAndApiServer
                && let Some((api_server, node_name)) = &parts.api_server
            {
                let serving = parts.serving.as_ref();
                found
                    .ask(&settings, &places, api_server, node_name, serving)
                    .await;
            }
        });
        found.settings = Some(settings);
        Ok(found)
    }

    /// Every file that would keep the gate from starting, not only the first.
    fn look_at_files(&mut self, settings: &Settings, places: &Places) -> Parts {
        let mut parts = Parts::default();
        let (api_server, node_name) = match api_server_and_node_name(settings) {
            Ok((api_server, node_name)) => (api_server, Ok(node_name)),
            Err(error) => (None, Err(error)),
        };
        parts.api_server = api_server.zip(node_name.as_ref().ok().cloned());
        let serving = Serving::load(&settings.tls).map(|serving| parts.serving = Some(serving));
        let kubelet =
            kubelet(settings.upstream.clone(), settings).map(|kubelet| parts.kubelet = Some(kubelet));
        let may_listen = node::may_listen(settings, &running_kubelets(Path::new("/proc")));
        if may_listen.is_ok() {
            self.warnings
                .extend(node::next_start_warnings(settings, Path::new("/proc")));
        }
        let denied = deny_list(settings).map(|list| self.warnings.extend(denials(&list)));
        let outcomes: [Result<(), StartError>; 7] = [
            serving.map_err(StartError::from),
            denied,
            kubelet.map_err(StartError::from),
            node_name.map(drop),
            may_listen.map(drop).map_err(StartError::from),
            audit_directory(settings),
            admin::socket::group(settings).map(drop).map_err(StartError::from),
        ];
        for problem in outcomes.into_iter().filter_map(Result::err) {
            self.refuse(places, key(&problem), &problem);
        }
        if let Some(serving) = &parts.serving {
            self.warnings.extend(serving.warnings(&settings.tls));
            self.warnings
                .extend(names::missing_listeners(serving, &settings.listen));
        }
        if let Some((api_server, _)) = &parts.api_server {
            self.warnings.extend(api_server.warnings());
        }
        self.warnings.extend(unused_proxy());
        self.warnings.extend(unit::unknown_directives());
        parts
    }

    /// Whether the installed socket unit, if there is one, has the addresses of this configuration, and none
    /// that a kubelet wants.
    fn look_at_socket_unit(&mut self, settings: &Settings, root: &Root) {
        match socket_unit::installed(root) {
            Ok(None) => {}
            Ok(Some(unit)) => {
                let starts = next_starts_of_the_node(Path::new("/proc"), root);
                let judgement = socket_unit::judge(&unit, Some(settings), &starts);
                self.problems.extend(judgement.problems);
                self.warnings.extend(judgement.warnings);
            }
            Err(error) => self.warnings.push(format!(
                "the socket unit cannot be compared with the configuration: {error}"
            )),
        }
    }

    /// Whether the running kubelet shows the certificate that the gate will demand of it. That it does not
    /// run is a warning, unless the check is offline.
    async fn ask_kubelet(&mut self, settings: &Settings, places: &Places, kubelet: &Kubelet, asked: Asked) {
        let key = match &settings.upstream.trust {
            None => return,
            Some(UpstreamTrust::Pinned(_)) => "upstream.certificateFile",
            Some(UpstreamTrust::Ca { .. }) => "upstream.caFile",
        };
        match kubelet.probe().await {
            Ok(()) => {}
            Err(failure) if !failure.is_another => {
                if asked == Asked::KubeletAndApiServer {
                    let why = failure.why;
                    self.warnings
                        .push(format!("{key}: not compared with the running kubelet: {why}"));
                }
            }
            Err(_) if is_answered_by_gate(settings).await => self.warnings.push(format!(
                "{key}: not compared with the running kubelet: the gate itself answers at its address, for \
                 the seal redirects this program's connection"
            )),
            Err(failure) => {
                let (place, why) = (places.of(key), failure.why);
                self.problems.push(format!("{place}: {key}: {why}"));
            }
        }
    }

    /// What `sources` leave out: this node, and where the gate that runs served the API server.
    async fn look_at_sources(&mut self, settings: &Settings, places: &Places) {
        let sources = &settings.sources;
        if sources.port.is_empty() && sources.interactive.is_empty() {
            return;
        }
        let served = match AdminPlace::of(settings, None) {
            Some(place) => api_server(&place, ADMIN).await,
            None => Ok(None),
        };
        let served = match served {
            Ok(served) => served,
            // No gate runs, or it is another one.
            Err(AdminError::Unreachable { .. }) => None,
            Err(error) => {
                self.warnings.push(format!(
                    "{}: whether sources have the API server's address cannot be asked: {}",
                    places.of("sources"),
                    chain(&error)
                ));
                None
            }
        };
        let addresses = served.map(|served| served.addresses).unwrap_or_default();
        for sentence in left_out(sources, &addresses, &settings.listen) {
            let place = places.of("sources");
            self.warnings
                .push(format!("{place}: {sentence}; add it unless that is meant"));
        }
    }

    /// What the API server has to say: whether the Node is this machine, whether the gate may ask for
    /// reviews, and whether what it shows its kubelet is good for others too. That it cannot be asked is no
    /// error, since `serve` starts without it.
    async fn ask(
        &mut self,
        settings: &Settings,
        places: &Places,
        api_server: &ApiServer,
        node_name: &str,
        serving: Option<&Serving>,
    ) {
        let ids = Ids::of_this_machine(Path::new("/"));
        match node::confirm(api_server, node_name, &ids, settings.limits.review_timeout).await {
            Ok(SameMachine::Yes) => {}
            Ok(SameMachine::Unproven(why)) => self.warnings.push(why),
            Ok(SameMachine::Unasked(why)) => {
                return self.warnings.push(format!(
                    "the API server cannot be asked, so that neither the node's name, the gate's rights nor \
                     the credentials of upstream are checked: {why}"
                ));
            }
            Err(error) => self.refuse(places, "nodeName", &error),
        }
        // A second question, for the first one only yields whether the Node is this machine.
        if let Some(serving) = serving
            && let Ok(node) = api_server.node(node_name, settings.limits.review_timeout).await
        {
            self.warnings
                .extend(names::missing_node(serving, &node.addresses));
        }
        if settings.authentication.webhook {
            let answer = api_server.review_token("kubelet-gate-check", &[]).await;
            self.may_ask(places, "authentication.webhook.enabled", answer);
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
            let answer = api_server.review_access(question).await;
            self.may_ask(places, "authorization.mode", answer);
        }
        let credentials = &settings.upstream.credentials;
        for shown in node::shown_to_kubelet(credentials, api_server, node_name).await {
            match shown {
                Shown::Own => {}
                Shown::Fleet(fleet) if credentials.allow_fleet => {
                    self.warnings.push(fleet.to_string());
                    self.warnings
                        .extend(node::out_of_reach(&fleet, api_server, node_name).await);
                }
                Shown::Fleet(error) => self.refuse(places, error.key, &error),
                Shown::Unknown(why) => self.warnings.push(why),
            }
        }
    }

    /// A review that is refused to the gate itself would be refused for every request.
    fn may_ask<T>(&mut self, places: &Places, key: &str, answer: Result<T, ReviewError>) {
        match answer {
            Ok(_) => {}
            Err(error) if matches!(error.status().map(|status| status.as_u16()), Some(401 | 403)) => {
                self.refuse(places, key, &error);
            }
            Err(error) => self.warnings.push(error.to_string()),
        }
    }

    /// Notes a problem with the place of the key that it is about, and with that key unless the problem names
    /// it.
    fn refuse(&mut self, places: &Places, key: &str, problem: &dyn std::error::Error) {
        let (place, text) = (places.of(key), chain(problem));
        self.problems.push(if text.starts_with(key) {
            format!("{place}: {text}")
        } else {
            format!("{place}: {key}: {text}")
        });
    }
}

fn kubelet(upstream: Upstream, settings: &Settings) -> Result<Kubelet, KubeletError> {
    Kubelet::new(upstream, &settings.limits, None, Metrics::new().into())
}

/// Whether what answers at the kubelet's address has the gate's own serving key: on a sealed node, this
/// program's connections are brought to the gate.
async fn is_answered_by_gate(settings: &Settings) -> bool {
    let gate = Upstream {
        trust: Some(UpstreamTrust::Pinned(settings.tls.cert_file.clone())),
        credentials: UpstreamCredentials::default(),
        ..settings.upstream.clone()
    };
    match kubelet(gate, settings) {
        Ok(gate) => gate.probe().await.is_ok(),
        Err(_) => false,
    }
}

/// The key that a problem is about.
fn key(problem: &StartError) -> &'static str {
    match problem {
        StartError::AdminSocket(AdminSocketError::NoGroup(_)) => "admin.group",
        StartError::AdminSocket(AdminSocketError::Listen { .. }) => "admin.socket",
        StartError::ApiServer(_) | StartError::Kubeconfig(_) | StartError::NoApiServer => "kubeconfig",
        StartError::Audit(_) => "audit.path",
        StartError::Bind(_) | StartError::Inherited(_) => "listen",
        StartError::DenyList(_) => "authentication.denyFiles",
        StartError::Kubelet(error) => match error {
            KubeletError::Read { key, .. } | KubeletError::Pem { key, .. } => key,
            KubeletError::ServerName(_) => "upstream.serverName",
            KubeletError::Tls(_) => "upstream",
            KubeletError::Unfit { .. } => "upstream.clientCertificateFile",
            KubeletError::Token(_) => "upstream.tokenFile",
        },
        StartError::Node(error) => match error {
            NodeError::KubeletsPort { key, .. } | NodeError::NoKubelet { key, .. } => key,
            NodeError::KubeletConfig { .. } => "listen",
            NodeError::AnotherMachine { .. } | NodeError::NoName => "nodeName",
        },
        StartError::NoRandomness(_) | StartError::Helper(_) => "",
        StartError::Sandbox(_) => "sandbox",
        StartError::WithoutApiServer(_) => "sources",
        StartError::Serving(error) => match error {
            ServingError::Read { key, .. } | ServingError::Unfit { key, .. } => key,
            ServingError::Pem(_) | ServingError::Trust { .. } => "authentication.x509.clientCAFile",
            ServingError::CrlPem(_)
            | ServingError::OutdatedList { .. }
            | ServingError::Revocation { .. }
            | ServingError::ListGone { .. } => "authentication.x509.crlFiles",
            ServingError::Tls(_) => "tlsCertFile",
        },
    }
}

/// What each deny list denies: an operator sees whether the entries are those that were meant.
fn denials(list: &DenyList) -> Vec<String> {
    let warning = |(path, entries): (&Path, usize)| {
        let entries = match entries {
            0 => "nothing".to_owned(),
            1 => "1 entry".to_owned(),
            more => format!("{more} entries"),
        };
        format!(
            "authentication.denyFiles: {} denies {entries}; a certificate's PEM block counts as two",
            path.display()
        )
    };
    list.sizes().map(warning).collect()
}

fn audit_directory(settings: &Settings) -> Result<(), StartError> {
    match &settings.audit.sink {
        AuditSink::File(path) if !path.parent().is_some_and(Path::is_dir) => {
            Err(AuditError::NoDirectory { path: path.clone() }.into())
        }
        _ => Ok(()),
    }
}
