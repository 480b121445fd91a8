//! What the fake node shows: its pods, its numbers, its logs, its configuration. The pages are the files in
//! `pages/`.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// A pod of the fake node.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) containers: Vec<String>,
    /// The environment of the first container, in plain sight of every client that may read `/pods` or run
    /// `env`.
    pub(super) env: Vec<(String, String)>,
    pub(super) log: &'static str,
}

/// The pods of `/pods`, then one that is found but not listed: the pod that the recordings of a real API
/// server are about, so that they can be sent as they are.
static PODS: LazyLock<Vec<Pod>> =
    LazyLock::new(|| [LISTED, UNLISTED].into_iter().flat_map(pods_of).collect());

/// Finds a pod by namespace and name.
pub(super) fn pod(namespace: &str, name: &str) -> Option<&'static Pod> {
    PODS.iter()
        .find(|pod| pod.namespace == namespace && pod.name == name)
}

#[expect(clippy::expect_used, reason = "the text is part of the program")]
fn pods_of(list: &str) -> Vec<Pod> {
    let list: Value = serde_json::from_str(list).expect("a PodList is JSON");
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Pod::new)
        .collect()
}

// === impl Pod ===

impl Pod {
    fn new(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&pod["metadata"]["name"]);
        let containers = pod["spec"]["containers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let env = containers
            .first()
            .and_then(|container| container["env"].as_array());
        Self {
            namespace: text(&pod["metadata"]["namespace"]),
            containers: containers
                .iter()
                .map(|container| text(&container["name"]))
                .collect(),
            env: env
                .into_iter()
                .flatten()
                .map(|one| (text(&one["name"]), text(&one["value"])))
                .collect(),
            log: container_log(&name),
            name,
        }
    }

    /// Whether one of its containers has this name.
    pub(super) fn has_container(&self, name: &str) -> bool {
        self.containers.iter().any(|container| container == name)
    }
}

/// The Prometheus pages, by what follows `/metrics`.
pub(super) fn metrics(page: &str) -> Option<&'static str> {
    Some(match page {
        "" => include_str!("pages/metrics/kubelet.txt"),
        "/cadvisor" => include_str!("pages/metrics/cadvisor.txt"),
        "/resource" => include_str!("pages/metrics/resource.txt"),
        "/probes" => include_str!("pages/metrics/probes.txt"),
        "/slis" => include_str!("pages/metrics/slis.txt"),
        _ => return None,
    })
}

/// `/logs/…`: a listing of the node's `/var/log`, or one of its files, with its content type.
pub(super) fn node_log(path: &str) -> Option<(&'static str, &'static str)> {
    const LISTING: &str = "text/html; charset=utf-8";
    const LOG: &str = "text/x-log; charset=utf-8";
    Some(match path {
        "" => (LISTING, include_str!("pages/logs/index.html")),
        "containers/" => (LISTING, include_str!("pages/logs/containers.html")),
        "auth.log" => (LOG, include_str!("pages/logs/auth.log")),
        "containers/web_default_nginx.log" => (LOG, container_log("web")),
        "kubelet.log" => (LOG, include_str!("pages/logs/kubelet.log")),
        _ => return None,
    })
}

/// `/debug/pprof/cmdline`: the arguments, separated by NUL.
pub(super) fn command_line() -> String {
    let flags = FLAGZ.lines().filter(|line| line.starts_with("--"));
    std::iter::once("/usr/bin/kubelet")
        .chain(flags)
        .collect::<Vec<_>>()
        .join("\0")
}

/// The `status.nodeInfo` that a kubelet writes into its Node: the ids of this machine. An id that cannot be
/// read is empty.
pub fn node_info() -> Value {
    let read = |file| {
        std::fs::read_to_string(file)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    json!({
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
    })
}

fn container_log(pod: &str) -> &'static str {
    match pod {
        "web" => include_str!("pages/containers/web.log"),
        "ledger" => include_str!("pages/containers/ledger.log"),
        "node-agent" => include_str!("pages/containers/node-agent.log"),
        "bb" => include_str!("pages/containers/bb.log"),
        _ => "",
    }
}

/// `/pods`: the desired pods with their whole specs, environment included.
pub(super) const LISTED: &str = include_str!("pages/pods.json");
const UNLISTED: &str = include_str!("pages/unlisted.json");
/// `/runningpods/`: what the container runtime knows, which is less.
pub(super) const RUNNING: &str = include_str!("pages/runningpods.json");
/// `/stats/summary`.
pub(super) const STATS: &str = include_str!("pages/stats.json");
/// `/configz`: a kubelet that authenticates no client and allows every request.
pub(super) const CONFIGZ: &str = include_str!("pages/configz.json");
/// `/flagz`.
pub(super) const FLAGZ: &str = include_str!("pages/flagz.txt");
/// `/statusz`.
pub(super) const STATUSZ: &str = include_str!("pages/statusz.txt");
/// The `Process-Start-Time-Unix` header of the Prometheus pages.
pub(super) const STARTED_UNIX: &str = "1795420800";
