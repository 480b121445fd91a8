//! The versions that a node has of what decides about a weakness, each with where it was found.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::go_binary::{self, GoProgram};
use super::version::Version;
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::{KubeletProgram, Root, plain};
use crate::adopt::prove::{KubeletBuild, ProbeReport};
use crate::files::{self, BUNDLE};

/// Debian's and Ubuntu's list of packages.
const PACKAGES: &str = "/var/lib/dpkg/status";
/// The program that the package of the Kubernetes project installs.
const PACKAGED: &str = "/usr/bin/kubelet";

/// Whose version decides.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(super) enum ComponentKind {
    #[serde(rename = "kubelet")]
    Kubelet,
    Go,
    #[serde(rename = "k3s")]
    K3s,
    #[serde(rename = "RKE2")]
    Rke2,
    #[serde(rename = "kube-apiserver")]
    ApiServer,
}

impl ComponentKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Go => "Go",
            Self::K3s => "k3s",
            Self::Rke2 => "RKE2",
            Self::ApiServer => "kube-apiserver",
        }
    }
}

/// What is said of the node from outside its files: by the operator, and by a Node object in a file.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// What `kubelet --version` prints.
    pub kubelet_version: Option<String>,
    /// The Node, as the API server has it.
    pub node: Option<Value>,
}

impl Claims {
    /// Whether this is a version of Kubernetes.
    #[must_use]
    pub fn is_version(text: &str) -> bool {
        Version::of_kubernetes(text.trim()).is_some()
    }
}

/// A version and where it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FoundVersion {
    pub(super) version: Version,
    pub(super) place: String,
}

/// What is known of one component. Two versions, such as those of a kubelet that runs and of the package that
/// replaced it, both count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Component {
    Known(Vec<FoundVersion>),
    /// The node has none, and how that shows.
    Absent(String),
    /// Why.
    NotKnown(String),
}

/// The components of a node.
#[derive(Clone, Debug)]
pub(super) struct Components {
    kubelet: Component,
    go: Component,
    k3s: Component,
    rke2: Component,
    /// The operating system that the Node names.
    pub(super) system: Option<String>,
    /// The container runtime that the Node names, such as `containerd://1.7.2`.
    pub(super) runtime: Option<String>,
}

impl Components {
    pub(super) fn of(invocation: &Invocation, claims: &Claims, report: Option<&ProbeReport>) -> Self {
        let program = KubeletProgram::of(invocation);
        let (said, why) = match &program {
            Some(program) => match own(program) {
                Ok(said) => (said, String::new()),
                Err(why) => (GoProgram::default(), why),
            },
            None => (
                GoProgram::default(),
                "it is not known which program is the kubelet".to_owned(),
            ),
        };
        let node = |key: &str| {
            let info = claims.node.as_ref()?.get("status")?.get("nodeInfo")?;
            info.get(key)?.as_str().map(str::to_owned)
        };
        let from_program = || {
            program
                .as_ref()
                .map_or_else(String::new, |program| shown(&program.path))
        };
        let answered = report.and_then(|report| report.build.as_ref());
        let metrics = |build: &KubeletBuild| format!("/metrics of {}", build.address);

        let kubelet: Vec<(String, String)> = [
            answered.map(|build| (build.kubernetes.clone(), metrics(build))),
            said.kubernetes.clone().map(|version| (version, from_program())),
            claims
                .kubelet_version
                .clone()
                .map(|version| (version, "--kubelet-version".to_owned())),
            node("kubeletVersion").map(|version| (version, "the Node object".to_owned())),
            unpacked(&invocation.root, program.as_ref()),
            packaged(&invocation.root, program.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let go: Vec<(String, String)> = [
            answered.map(|build| (build.go.clone(), metrics(build))),
            (!said.go.is_empty()).then(|| (said.go.clone(), from_program())),
        ]
        .into_iter()
        .flatten()
        .collect();

        let kubelet = known(&kubelet, Version::of_kubernetes, &why);
        let go = known(&go, Version::of_go, &why);
        let name = program.as_ref().map(KubeletProgram::name);
        Self {
            k3s: distribution(&kubelet, "+k3s", "k3s", name),
            rke2: distribution(&kubelet, "+rke2r", "RKE2", name),
            kubelet,
            go,
            system: node("operatingSystem"),
            runtime: node("containerRuntimeVersion"),
        }
    }

    pub(super) fn get(&self, kind: ComponentKind) -> &Component {
        const ELSEWHERE: &Component = &Component::NotKnown(String::new());
        match kind {
            ComponentKind::Kubelet => &self.kubelet,
            ComponentKind::Go => &self.go,
            ComponentKind::K3s => &self.k3s,
            ComponentKind::Rke2 => &self.rke2,
            ComponentKind::ApiServer => ELSEWHERE,
        }
    }
}

/// What the program says of itself, or why it says nothing.
fn own(program: &KubeletProgram) -> Result<GoProgram, String> {
    let read = || -> Result<GoProgram, go_binary::GoProgramError> { go_binary::read(program.open()?) };
    read().map_err(|error| format!("{}: {error}", shown(&program.path)))
}

fn shown(path: &Path) -> String {
    plain(&path.display().to_string())
}

/// The versions that could be understood, each place after the first that has the same version left out.
fn known(found: &[(String, String)], parse: fn(&str) -> Option<Version>, why: &str) -> Component {
    let mut versions: Vec<FoundVersion> = Vec::new();
    let mut odd = None;
    for (text, place) in found {
        match parse(text.trim()) {
            Some(version)
                if versions
                    .iter()
                    .any(|known| known.version.release == version.release) => {}
            Some(version) => versions.push(FoundVersion {
                version,
                place: place.clone(),
            }),
            None => odd = Some(format!("{place} says {:?}, which is no release", plain(text))),
        }
    }
    match (versions.is_empty(), odd) {
        (false, _) => Component::Known(versions),
        (true, Some(odd)) => Component::NotKnown(odd),
        (true, None) => Component::NotKnown(why.to_owned()),
    }
}

/// A distribution that appends its own number to the version of Kubernetes.
fn distribution(kubelet: &Component, suffix: &str, name: &str, program: Option<&str>) -> Component {
    let is_its = |found: &&FoundVersion| found.version.build.starts_with(suffix);
    match (kubelet, program) {
        (Component::Known(versions), _) => {
            match versions.iter().filter(is_its).cloned().collect::<Vec<_>>() {
                its if !its.is_empty() => Component::Known(its),
                _ => Component::Absent(format!("the kubelet is not that of {name}")),
            }
        }
        (Component::NotKnown(why), Some(program)) if program.eq_ignore_ascii_case(name) => {
            Component::NotKnown(why.clone())
        }
        // RKE2's kubelet is called `kubelet` too, so a name tells what is not there only of k3s.
        (_, Some("kubelet" | "hyperkube" | "kubelite")) if name == "k3s" => {
            Component::Absent(format!("the kubelet is not that of {name}"))
        }
        _ => Component::NotKnown("the version of the kubelet, which would tell, is not known".to_owned()),
    }
}

/// The version of the package `kubelet`, if that installed the program.
fn packaged(root: &Root, program: Option<&KubeletProgram>) -> Option<(String, String)> {
    program.filter(|program| program.path == Path::new(PACKAGED))?;
    let path = root.resolve(Path::new(PACKAGES)).ok()?;
    let text = files::read_text(path, BUNDLE).ok()?;
    let field = |paragraph: &str, name: &str| {
        let line = paragraph
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    let paragraph = text.split("\n\n").find(|paragraph| {
        field(paragraph, "Package").as_deref() == Some("kubelet")
            && field(paragraph, "Status").is_some_and(|status| status.ends_with(" installed"))
    })?;
    let version = field(paragraph, "Version")?;
    // Without its epoch, and without the package's own revision: `1.20.15-00`, `1.30.1-1.1`.
    let upstream = version
        .split_once(':')
        .map_or(version.as_str(), |(_, version)| version);
    let upstream = upstream
        .rsplit_once('-')
        .map_or(upstream, |(upstream, _)| upstream);
    // `1.30.0~rc.1` is before 1.30.0.
    Some((
        upstream.replace('~', "-"),
        format!("{PACKAGES}: kubelet {}", plain(&version)),
    ))
}

/// The version in the name of the folder that RKE2 has unpacked its kubelet to:
/// `data/v1.30.4-rke2r1-1a2b3c4d/bin/kubelet`.
fn unpacked(root: &Root, program: Option<&KubeletProgram>) -> Option<(String, String)> {
    let program = program?;
    let path = root
        .resolve(&program.path)
        .unwrap_or_else(|_| program.path.clone());
    let version = path.iter().find_map(|name| {
        let (number, rest) = name.to_str()?.split_once("-rke2r")?;
        let revision: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("{number}+rke2r{revision}"))
    })?;
    Some((version, format!("the folder of {}", shown(&program.path))))
}
