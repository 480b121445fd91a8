//! Programs that are known to start a kubelet whose options no file of the node has, or has in a form that is
//! not read. They are named, and no verdict is given.

use super::command::Recognised;
use super::invocation::{Word, program};
use super::root::Root;

const CONTAINERS: [&str; 9] = [
    "docker",
    "podman",
    "nerdctl",
    "ctr",
    "crictl",
    "runc",
    "crun",
    "rkt",
    "systemd-nspawn",
];

/// Where podman finds the containers that systemd starts.
const QUADLETS: &str = "/etc/containers/systemd";

/// What a command is known to start.
pub(super) enum Known {
    /// A kubelet, in a way that is not read.
    Kubelet(Recognised),
    /// No kubelet.
    NoKubelet,
}

/// What is known of a command that is no kubelet's own.
pub(super) fn of(words: &[Word], root: &Root) -> Option<Known> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let (first, rest) = texts.split_first()?;
    let name = program(first);
    let mentions = rest.iter().any(|word| word.contains("kube"));
    let (what, why) = match name {
        "k0s" => return k0s(rest),
        name if CONTAINERS.contains(&name) && mentions => (
            format!(
                "a container ({name} {})",
                rest.first().copied().unwrap_or_default()
            ),
            "which program the image starts, with which files in place of the node's, is not read",
        ),
        "microshift" => (
            "MicroShift".to_owned(),
            "it makes its kubelet's configuration from its own at each start",
        ),
        "kubelet-wrapper" => (
            "the kubelet-wrapper of CoreOS, which starts the kubelet in a container".to_owned(),
            "the image and its files are not read",
        ),
        "snap" if rest.contains(&"kubelet.daemon") => (
            "the snap kubelet".to_owned(),
            "its arguments are those of `snap get kubelet`, below /var/snap/kubelet",
        ),
        name if super::shell::is(name) => (
            format!(
                "a script of the shell ({})",
                rest.first().copied().unwrap_or_default()
            ),
            "what a script passes to the kubelet is not read",
        ),
        _ if is_script(first, root) => (
            "a script".to_owned(),
            "what a script passes to the kubelet is not read",
        ),
        _ => return None,
    };
    let why = why.to_owned();
    Some(Known::Kubelet(Recognised { what, why }))
}

/// k0s: only a worker, or a controller that is one too, has a kubelet.
fn k0s(arguments: &[&str]) -> Option<Known> {
    let is_on = |flag: &str| {
        let on = |word: &&str| {
            let value = word
                .strip_prefix(flag)
                .map(|rest| rest.strip_prefix('=').unwrap_or(rest));
            value.is_some_and(|value| value.is_empty() || value.eq_ignore_ascii_case("true"))
        };
        arguments.iter().any(on)
    };
    let role = arguments
        .iter()
        .find(|word| matches!(**word, "worker" | "controller"))?;
    if *role == "controller" && !is_on("--enable-worker") && !is_on("--single") {
        return Some(Known::NoKubelet);
    }
    let extra = arguments
        .iter()
        .any(|word| word.starts_with("--kubelet-extra-args"));
    let flags = if extra {
        ", and --kubelet-extra-args add to it"
    } else {
        ""
    };
    Some(Known::Kubelet(Recognised {
        what: format!("k0s {role}"),
        why: format!(
            "its kubelet's configuration is a worker profile, which k0s fetches from the cluster at each \
             start{flags}"
        ),
    }))
}

/// Whether this program of the node is a script, whatever its name: it may add flags.
pub(super) fn is_script(program: &str, root: &Root) -> bool {
    root.read(program).is_ok_and(|text| text.starts_with("#!"))
}

/// What starts the kubelet of a node without a unit for it: no file of the node has its configuration, or it
/// is in a container.
pub(super) fn system(root: &Root) -> Option<Recognised> {
    let about = root.read("/etc/os-release").unwrap_or_default();
    let id = about
        .lines()
        .find_map(|line| line.strip_prefix("ID="))
        .unwrap_or_default();
    if id.trim_matches(['"', '\'']) == "talos" {
        return Some(Recognised {
            what: "its kubelet by Talos".to_owned(),
            why: "it has no systemd, and makes the kubelet's configuration from the machine's at each start"
                .to_owned(),
        });
    }
    let quadlets = root.list(QUADLETS).unwrap_or_default();
    let quadlet = quadlets
        .iter()
        .find(|name| name.contains("kubelet") && name.ends_with(".container"))?;
    Some(Recognised {
        what: format!("a container ({QUADLETS}/{quadlet})"),
        why: "which program the image starts, with which files in place of the node's, is not read"
            .to_owned(),
    })
}
