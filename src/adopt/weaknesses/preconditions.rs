//! What a weakness needs besides a version, as far as it can be read.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::components::{Component, ComponentKind, Components};
use super::version::{Release, Version};
use crate::adopt::inspect::{Inspection, Verdict};
use crate::adopt::kubelet::options::{Setting, ValueOrigin};
use crate::files::{self, BUNDLE};

/// One precondition; `weaknesses.yaml` names them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Precondition {
    /// The secure port offers HTTP/2.
    Http2,
    /// The secure port asks for client certificates.
    ClientCertificates,
    /// The read-only port is open.
    ReadOnlyPort,
    /// Neither a file nor a flag of the operator closes the read-only port.
    ReadOnlyPortNotSwitchedOff,
    /// The feature gate ContainerCheckpoint is on.
    CheckpointGate,
    /// It is on though its default was off.
    CheckpointGateSwitchedOn,
    /// The container runtime makes checkpoints.
    RuntimeCheckpoints,
    /// The health port is open.
    HealthPort,
    /// The kernel routes packets of others to 127.0.0.1.
    RouteLocalnet,
    /// A port of the kubelet listens on loopback alone.
    LoopbackPort,
    /// `/logs/` is served.
    LogHandler,
    /// The handlers that run commands are served.
    DebuggingHandlers,
    /// A client has `get` on `nodes/proxy`.
    NodesProxyHolder,
    /// The node runs Windows.
    Windows,
}

/// Whether it is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Met {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It could not be read.
    NotKnown,
}

/// A precondition with its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// What is needed.
    pub what: &'static str,
    /// Whether it is met.
    pub met: Met,
    /// What was read, or why nothing was.
    pub why: String,
}

impl Precondition {
    /// What is needed, in a few words.
    fn what(self) -> &'static str {
        match self {
            Self::Http2 => "HTTP/2 is offered",
            Self::ClientCertificates => "client certificates are asked for",
            Self::ReadOnlyPort => "the read-only port is open",
            Self::ReadOnlyPortNotSwitchedOff => "nothing else closes the read-only port",
            Self::CheckpointGate | Self::CheckpointGateSwitchedOn => "ContainerCheckpoint is on",
            Self::RuntimeCheckpoints => "the container runtime makes checkpoints",
            Self::HealthPort => "the health port is open",
            Self::RouteLocalnet => "loopback is routed",
            Self::LoopbackPort => "a port of the kubelet is on loopback alone",
            Self::LogHandler => "/logs/ is served",
            Self::DebuggingHandlers => "commands are served",
            Self::NodesProxyHolder => "a client has get on nodes/proxy",
            Self::Windows => "the node runs Windows",
        }
    }

    /// Reads whether it is met.
    pub(super) fn judge(self, inspection: &Inspection, components: &Components) -> Need {
        let (met, why) = self.answer(inspection, components);
        let of_options = !matches!(
            self,
            Self::RuntimeCheckpoints | Self::RouteLocalnet | Self::Windows
        );
        let (met, why) = match inspection.unread.first() {
            Some(unread) if met == Met::No && of_options => (
                Met::NotKnown,
                format!("{why}, but a source that may set it could not be read: {unread}"),
            ),
            _ => (met, why),
        };
        Need {
            what: self.what(),
            met,
            why,
        }
    }

    fn answer(self, inspection: &Inspection, components: &Components) -> (Met, String) {
        let setting = |key: &str| inspection.options.get(key);
        match self {
            Self::Http2 => http2(inspection, components),
            Self::ClientCertificates => on_if("authentication.x509.clientCAFile", setting, |setting| {
                !setting.text().is_empty()
            }),
            Self::ReadOnlyPort => match setting("readOnlyPort") {
                Some(port) if port.number() == 0 && is_of_distribution(port) => (
                    Met::NotKnown,
                    format!("{} does not close it in every version", written(port)),
                ),
                _ => on_if("readOnlyPort", setting, |setting| setting.number() != 0),
            },
            Self::ReadOnlyPortNotSwitchedOff => on_if("readOnlyPort", setting, |setting| {
                setting.number() != 0 || !setting.is_set() || is_of_distribution(setting)
            }),
            Self::CheckpointGate => on_if("featureGates.ContainerCheckpoint", setting, Setting::is_on),
            Self::CheckpointGateSwitchedOn => on_if("featureGates.ContainerCheckpoint", setting, |setting| {
                setting.is_set() && setting.is_on()
            }),
            Self::RuntimeCheckpoints => runtime(components.runtime.as_deref()),
            Self::HealthPort => health_port(setting("healthzPort"), setting("healthzBindAddress")),
            Self::RouteLocalnet => route_localnet(inspection),
            Self::LoopbackPort => loopback_port(inspection),
            Self::LogHandler => match setting("enableDebuggingHandlers") {
                Some(all) if !all.is_on() => (Met::No, written(all)),
                _ => on_if("enableSystemLogHandler", setting, Setting::is_on),
            },
            Self::DebuggingHandlers => on_if("enableDebuggingHandlers", setting, Setting::is_on),
            Self::NodesProxyHolder => (
                Met::NotKnown,
                "the cluster's RBAC tells: kubectl auth can-i --list".to_owned(),
            ),
            Self::Windows => match components.system.as_deref() {
                Some("windows") => (Met::Yes, "the Node object says so".to_owned()),
                _ => (Met::No, "it is a Linux node".to_owned()),
            },
        }
    }
}

fn written(setting: &Setting) -> String {
    let key = setting.field.key.trim_start_matches('-');
    format!("{key}={} ({})", setting.shown(), setting.origin)
}

/// Whether k3s or RKE2 is said to pass this flag, and no file and no operator: their versions differ in it.
fn is_of_distribution(setting: &Setting) -> bool {
    matches!(&setting.origin, ValueOrigin::Flag(place) if place.starts_with("as "))
}

fn on_if<'s>(
    key: &str,
    setting: impl Fn(&str) -> Option<&'s Setting>,
    is_met: impl Fn(&Setting) -> bool,
) -> (Met, String) {
    match setting(key) {
        Some(setting) if is_met(setting) => (Met::Yes, written(setting)),
        Some(setting) => (Met::No, written(setting)),
        None => (Met::NotKnown, format!("{key} is not read")),
    }
}

/// Kubelets offer HTTP/2 wherever Go's server does, and have no option for it. Since 1.36 the feature gate
/// ReloadKubeletClientCAFile serves each connection with a configuration of its own; that of 1.36.0 and
/// 1.36.1 offers HTTP/1.1 alone. What later ones offer has not been tried.
fn http2(inspection: &Inspection, components: &Components) -> (Met, String) {
    if let Some(pid) = inspection.invocation.pid()
        && is_switched_off(pid)
    {
        return (Met::No, "GODEBUG=http2server=0 in its environment".to_owned());
    }
    let Component::Known(versions) = components.get(ComponentKind::Kubelet) else {
        let why = "the kubelet's version, which would tell, is not known";
        return (Met::NotKnown, why.to_owned());
    };
    let ca = inspection.options.text("authentication.x509.clientCAFile");
    let reloads = inspection.options.is_on("featureGates.ReloadKubeletClientCAFile");
    let release = |text: &str| Release::parse(text);
    let before = |text: &str| {
        let is = |version: &Version| release(text).is_some_and(|release| version.release < release);
        versions.iter().any(|found| is(&found.version))
    };
    let newest = versions
        .iter()
        .map(|found| found.version.text.as_str())
        .max()
        .unwrap_or_default();
    if before("1.36.0-0") {
        (Met::Yes, "kubelets before 1.36 do".to_owned())
    } else if ca.is_empty() || !reloads {
        (Met::Yes, "it does not reload its client CA".to_owned())
    } else if before("1.36.2") {
        (
            Met::No,
            format!("{newest} with a client CA offers HTTP/1.1 alone"),
        )
    } else {
        (
            Met::NotKnown,
            format!("1.36.1 with a client CA offers HTTP/1.1 alone; {newest} was not tried"),
        )
    }
}

/// Whether a process' environment switches Go's HTTP/2 server off. Of a key that is there twice the last
/// counts.
fn is_switched_off(pid: i32) -> bool {
    let environment = files::read(format!("/proc/{pid}/environ"), BUNDLE).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    let settings = environment
        .split('\0')
        .find_map(|assignment| assignment.strip_prefix("GODEBUG="));
    let mut values = settings
        .into_iter()
        .flat_map(|settings| settings.split(','))
        .filter_map(|setting| {
            let (key, value) = setting.split_once('=')?;
            (key == "http2server").then_some(value)
        });
    values.next_back() == Some("0")
}

/// CRI-O since 1.25 and containerd since 2.0 can make checkpoints, with `criu` and, for CRI-O, a setting.
fn runtime(named: Option<&str>) -> (Met, String) {
    let not_known = |why: String| (Met::NotKnown, why);
    let Some(named) = named else {
        return not_known("no Node object names the runtime (--node-object)".to_owned());
    };
    let since = match named.split_once("://") {
        Some(("containerd", version)) => Release::parse("2.0.0-0").map(|since| (version, since)),
        Some(("cri-o", version)) => Release::parse("1.25.0-0").map(|since| (version, since)),
        Some(("docker", _)) => return (Met::No, format!("{named} makes none for a kubelet")),
        _ => None,
    };
    let Some((version, since)) =
        since.and_then(|(version, since)| Some((Version::of_kubernetes(version)?, since)))
    else {
        return not_known(named.to_owned());
    };
    match version.release < since {
        true => (Met::No, format!("{named} does not")),
        false => not_known(format!(
            "{named} does if criu is installed and it is set up for it"
        )),
    }
}

fn health_port(port: Option<&Setting>, address: Option<&Setting>) -> (Met, String) {
    let (Some(port), Some(address)) = (port, address) else {
        return (Met::NotKnown, "it is not read".to_owned());
    };
    if port.number() == 0 {
        return (Met::No, written(port));
    }
    let reach = if is_loopback(address.text()) {
        ": from the node's own network alone"
    } else {
        ""
    };
    (Met::Yes, format!("{}{reach}", written(address)))
}

fn route_localnet(inspection: &Inspection) -> (Met, String) {
    let check = inspection
        .checks
        .iter()
        .find(|check| check.id == "route-localnet");
    match check {
        Some(check) if check.verdict == Verdict::Pass => (Met::No, format!("route_localnet={}", check.value)),
        Some(check) if check.value.ends_with("=1") => (Met::Yes, check.value.clone()),
        Some(check) => (Met::NotKnown, check.why.clone()),
        None => (Met::NotKnown, "there is no node to look at".to_owned()),
    }
}

fn loopback_port(inspection: &Inspection) -> (Met, String) {
    let options = &inspection.options;
    let address = |key: &str| options.get(key).filter(|setting| is_loopback(setting.text()));
    let health = address("healthzBindAddress").filter(|_| options.number("healthzPort") != 0);
    match address("address").or(health) {
        Some(setting) => (Met::Yes, written(setting)),
        None => (Met::No, "its ports are on other addresses".to_owned()),
    }
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}
