//! What the fake node shows: its pods, its numbers, its logs, its configuration.

use serde_json::{Value, json};

/// A pod of the fake node, with its one container.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    pub(super) uid: &'static str,
    pub(super) container: &'static str,
    /// Further containers, found but not listed.
    more_containers: &'static [&'static str],
    image: &'static str,
    ip: &'static str,
    /// The container's environment: in plain sight for everybody who may read `/pods` or run `env`.
    pub(super) env: &'static [(&'static str, &'static str)],
    pub(super) log: &'static [&'static str],
}

/// Everything that runs on the node.
pub(super) static PODS: [Pod; 3] = [
    Pod {
        namespace: "default",
        name: "web",
        uid: "1f0c1a52-6b1e-4f0a-9a55-0c3f5f0e7a01",
        container: "nginx",
        more_containers: &[],
        image: "registry.example/nginx:1.29",
        ip: "10.244.1.11",
        env: &[
            ("BACKEND_URL", "http://ledger.payments:8080"),
            ("SESSION_SECRET", "kX9-lab-only-5pQzV"),
        ],
        log: &[
            "10.244.0.7 - - \"GET / HTTP/1.1\" 200 615",
            "10.244.0.7 - - \"GET /login HTTP/1.1\" 200 1204",
            "10.244.0.9 - - \"POST /login HTTP/1.1\" 302 0",
            "10.244.0.9 - - \"GET /account HTTP/1.1\" 200 3310",
            "10.244.0.7 - - \"GET /favicon.ico HTTP/1.1\" 404 153",
        ],
    },
    Pod {
        namespace: "payments",
        name: "ledger",
        uid: "7d3e9b14-0a7c-4c57-8a0e-5b8a4f6f9c02",
        container: "app",
        more_containers: &[],
        image: "registry.example/payments/ledger:4.2.0",
        ip: "10.244.1.12",
        env: &[
            (
                "DATABASE_URL",
                "postgres://ledger:hunter2-lab-only@db.payments:5432/ledger",
            ),
            ("AWS_SECRET_ACCESS_KEY", "lab/only/wJalrXUtnFEMIexample"),
            ("STRIPE_API_KEY", "sk_lab_0nly4Demonstration"),
        ],
        log: &[
            "ledger started, schema 42",
            "booked 12 transfers",
            "booked 7 transfers",
        ],
    },
    Pod {
        namespace: "kube-system",
        name: "node-agent",
        uid: "c2b84f0e-9a61-4d7b-8f83-2f1d6e5a7b03",
        container: "agent",
        more_containers: &[],
        image: "registry.example/node-agent:1.8.1",
        ip: "192.0.2.10",
        env: &[
            ("NODE_NAME", NODE),
            ("AGENT_TOKEN", "eyJhbGciOi.lab-only.c2lnbmF0dXJl"),
        ],
        log: &[
            "agent started, privileged, host path / at /host",
            "reported 3 pods",
        ],
    },
];

/// The pod of the recordings of a real API server, found but not listed, so that they can be sent as they are.
static RECORDED: Pod = Pod {
    namespace: "default",
    name: "bb",
    uid: "5b1c3b1e-6c5b-4a52-9a52-52e8b3a5d104",
    container: "c",
    more_containers: &["cat"],
    image: "registry.example/busybox:1.37",
    ip: "10.244.1.13",
    env: &[],
    log: &["first line", "second line", "third line"],
};

/// The node's name.
pub(super) const NODE: &str = "worker-1";

/// Finds a pod by namespace and name.
pub(super) fn pod(namespace: &str, name: &str) -> Option<&'static Pod> {
    PODS.iter()
        .chain([&RECORDED])
        .find(|pod| pod.namespace == namespace && pod.name == name)
}

// === impl Pod ===

impl Pod {
    /// Whether one of its containers is called so.
    pub(super) fn has_container(&self, name: &str) -> bool {
        self.container == name || self.more_containers.contains(&name)
    }
}

/// `/pods`: the desired pods with their whole specs, environment included.
pub(super) fn pods() -> String {
    let items = PODS.iter().map(|pod| {
        let privileged = pod.namespace == "kube-system";
        json!({
            "metadata": {
                "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
                "creationTimestamp": STARTED,
                "labels": {"app": pod.name},
                "annotations": {"kubernetes.io/config.source": "api", "kubernetes.io/config.seen": STARTED},
            },
            "spec": {
                "nodeName": NODE,
                "serviceAccountName": pod.name,
                "hostNetwork": privileged,
                "restartPolicy": "Always",
                "containers": [{
                    "name": pod.container,
                    "image": pod.image,
                    "env": pod.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
                    "securityContext": {"privileged": privileged},
                    "volumeMounts": [{
                        "name": "kube-api-access", "readOnly": true,
                        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    }],
                }],
            },
            "status": {
                "phase": "Running", "hostIP": "192.0.2.10", "podIP": pod.ip, "qosClass": "Burstable",
                "startTime": STARTED,
                "containerStatuses": [{
                    "name": pod.container, "image": pod.image, "ready": true, "started": true, "restartCount": 0,
                    "containerID": format!("containerd://{}", container_id(pod)),
                    "state": {"running": {"startedAt": STARTED}},
                }],
            },
        })
    });
    pod_list(items.collect())
}

/// `/runningpods/`: what the runtime knows, which is less.
pub(super) fn running_pods() -> String {
    let items = PODS.iter().map(|pod| {
        json!({
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "spec": {"containers": [{"name": pod.container, "image": pod.image, "resources": {}}]},
            "status": {},
        })
    });
    pod_list(items.collect())
}

/// Written out, because the kubelet puts `kind` first and a map would sort it.
fn pod_list(items: Vec<Value>) -> String {
    let items = Value::Array(items);
    format!("{{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"items\":{items}}}")
}

/// `/stats/summary`.
pub(super) fn stats_summary() -> String {
    let usage = |cores: u64, bytes: u64| {
        json!({
            "cpu": {"time": STARTED, "usageNanoCores": cores, "usageCoreNanoSeconds": cores * 3600},
            "memory": {"time": STARTED, "usageBytes": bytes, "workingSetBytes": bytes, "rssBytes": bytes / 2},
        })
    };
    let pods = PODS.iter().enumerate().map(|(index, pod)| {
        let scale = index as u64 + 1;
        let mut stats = usage(scale * 2_500_000, scale * 33_554_432);
        stats["podRef"] = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid});
        stats["startTime"] = json!(STARTED);
        let mut container = usage(scale * 2_400_000, scale * 31_457_280);
        container["name"] = json!(pod.container);
        stats["containers"] = json!([container]);
        stats
    });
    let pods = pods.collect::<Vec<_>>();
    let mut node = usage(182_000_000, 1_288_490_188);
    node["nodeName"] = json!(NODE);
    node["startTime"] = json!(STARTED);
    node["fs"] = json!({"capacityBytes": 42_949_672_960_u64, "usedBytes": 9_663_676_416_u64});
    format!("{:#}", json!({"node": node, "pods": pods}))
}

/// `/configz`: a kubelet as it should not be.
pub(super) fn configz() -> String {
    let configuration = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "address": "127.0.0.1",
        "port": 10250,
        "readOnlyPort": 10255,
        "authentication": {
            "x509": {},
            "webhook": {"enabled": false, "cacheTTL": "2m0s"},
            "anonymous": {"enabled": true},
        },
        "authorization": {
            "mode": "AlwaysAllow",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "streamingConnectionIdleTimeout": "4h0m0s",
        "enableDebuggingHandlers": true,
        "enableProfilingHandler": true,
        "enableDebugFlagsHandler": true,
        "enableSystemLogHandler": true,
        "protectKernelDefaults": false,
        "staticPodPath": "/etc/kubernetes/manifests",
    });
    json!({"kubeletconfig": configuration}).to_string()
}

/// `/flagz`.
pub(super) fn flagz() -> String {
    format!(
        "\nkubelet flagz\nWarning: This endpoint is not meant to be machine parseable.\n\n{}\n",
        FLAGS.join("\n")
    )
}

/// `/statusz`.
pub(super) fn statusz() -> String {
    format!(
        "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable.\n\nStarted: {STARTED}\n"
    )
}

/// `/debug/pprof/cmdline`: the arguments, parted by NUL.
pub(super) fn command_line() -> String {
    std::iter::once("/usr/bin/kubelet")
        .chain(FLAGS.iter().copied())
        .collect::<Vec<_>>()
        .join("\0")
}

/// The Prometheus pages, by what follows `/metrics`.
pub(super) fn metrics(page: &str) -> Option<String> {
    let per_pod = |family: &str, kind: &str, help: &str, scale: u64| {
        let mut text = format!("# HELP {family} {help}\n# TYPE {family} {kind}\n");
        for (index, pod) in PODS.iter().enumerate() {
            text.push_str(&format!(
                "{family}{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}\n",
                pod.container,
                pod.namespace,
                pod.name,
                scale * (index as u64 + 1)
            ));
        }
        text
    };
    Some(match page {
        "" => format!(
            "# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
             kubelet_node_name{{node=\"{NODE}\"}} 1\n\
             # HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n\
             # TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
             # HELP process_start_time_seconds [ALPHA] Start time of the process since unix epoch in seconds.\n\
             # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {STARTED_UNIX}\n",
            PODS.len()
        ),
        "/cadvisor" => per_pod(
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes.",
            33_554_432,
        ),
        "/resource" => per_pod(
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            120,
        ),
        "/probes" => per_pod(
            "prober_probe_total",
            "counter",
            "[BETA] Cumulative number of probes by result.",
            36,
        ),
        "/slis" => {
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n\
             kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 1\n"
                .to_owned()
        }
        _ => return None,
    })
}

/// `/logs/…`: a listing of the node's `/var/log`, or one of its files, with its content type.
pub(super) fn node_log(path: &str) -> Option<(&'static str, String)> {
    let listing = |names: &[&str]| {
        let links = names
            .iter()
            .map(|name| format!("<a href=\"{name}\">{name}</a>\n"))
            .collect::<String>();
        let head = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n";
        ("text/html; charset=utf-8", format!("{head}{links}</pre>\n"))
    };
    Some(match path {
        "" => listing(&["auth.log", "containers/", "kubelet.log"]),
        "containers/" => listing(&["web_default_nginx.log"]),
        "auth.log" => (
            "text/x-log; charset=utf-8",
            "Nov 23 08:00:01 worker-1 sshd[811]: Accepted publickey for operator from 192.0.2.50 port 50514\n".into(),
        ),
        "containers/web_default_nginx.log" => ("text/x-log; charset=utf-8", PODS[0].log.join("\n") + "\n"),
        "kubelet.log" => (
            "text/x-log; charset=utf-8",
            "I1123 08:00:02 server.go:163] \"Starting to listen\" address=\"0.0.0.0\" port=10250\n\
             I1123 08:00:02 server.go:182] \"Starting to listen read-only\" address=\"0.0.0.0\" port=10255\n"
                .into(),
        ),
        _ => return None,
    })
}

fn container_id(pod: &Pod) -> String {
    pod.uid.replace('-', "").repeat(2)
}

pub(super) const STARTED_UNIX: u64 = 1_795_420_800;
const STARTED: &str = "2026-11-23T08:00:00Z";
const FLAGS: [&str; 6] = [
    "--anonymous-auth=true",
    "--authorization-mode=AlwaysAllow",
    "--read-only-port=10255",
    "--hostname-override=worker-1",
    "--kubeconfig=/etc/kubernetes/kubelet.conf",
    "--v=2",
];
