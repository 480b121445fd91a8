//! The probes. docs/prove.md lists them for operators.

use Severity::{High, Low, Medium};

use super::ports::Ports;

/// Which of the kubelet's ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Port {
    /// Its own, with TLS.
    Secure,
    /// The read-only one, in plain HTTP.
    ReadOnly,
    /// The one for health checks, in plain HTTP.
    Healthz,
}

impl Port {
    pub(super) fn number(self, ports: &Ports) -> u16 {
        match self {
            Self::Secure => ports.secure,
            Self::ReadOnly => ports.read_only,
            Self::Healthz => ports.healthz,
        }
    }
}

/// What the client presents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProbeCredential {
    /// Nothing.
    None,
    /// A self-signed certificate.
    ForeignCertificate,
    /// A made-up bearer token.
    GarbageToken,
    /// The read-only token that was given; without one the probe is left out.
    Token,
}

/// How serious it is if the probe gets through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// Gives commands or secrets.
    High,
    /// Gives what runs here and how.
    Medium,
    /// Gives that a kubelet is here.
    Low,
}

/// A request, and the answers by which it is known to have got through.
#[derive(Debug)]
pub struct Probe {
    /// Its name; it never changes.
    pub id: &'static str,
    /// To which port.
    pub port: Port,
    /// With which method.
    pub method: &'static str,
    /// For what, byte for byte.
    pub path: &'static str,
    /// With headers that ask for a WebSocket.
    pub websocket: bool,
    /// With which credential.
    pub credential: ProbeCredential,
    /// Each of these statuses proves that the kubelet treated the request as allowed.
    pub reaches: &'static [u16],
    /// Every kubelet allows it from the node itself, for health checks.
    pub normal_on_node: bool,
    /// How serious it is.
    pub severity: Severity,
    /// The checks of the benchmark that it tells about, by their numbers since CIS 1.7.
    pub cis: &'static [&'static str],
    /// What a client gets if it gets through.
    pub gives: &'static str,
}

const BASE: Probe = Probe {
    id: "",
    port: Port::Secure,
    method: "GET",
    path: "",
    websocket: false,
    credential: ProbeCredential::None,
    reaches: &[200],
    normal_on_node: false,
    severity: Medium,
    cis: &["4.2.1", "4.2.2", "4.2.15"],
    gives: "",
};

const fn get(id: &'static str, path: &'static str, severity: Severity, gives: &'static str) -> Probe {
    Probe {
        id,
        path,
        severity,
        gives,
        ..BASE
    }
}

/// Asks for a pod whose name no pod can have: the kubelet answers 404 only after it has allowed the request.
const fn on_no_pod(id: &'static str, method: &'static str, path: &'static str, gives: &'static str) -> Probe {
    Probe {
        method,
        reaches: &[404],
        ..get(id, path, High, gives)
    }
}

/// A path that a proxy may read differently than the kubelet. A kubelet answers most of them with a redirect
/// or 404 before it authenticates the client, so that only a 200 shows anything.
const fn trick(id: &'static str, path: &'static str) -> Probe {
    get(
        id,
        path,
        High,
        "every pod, by a path that a proxy may read differently",
    )
}

/// Tells a gate, which answers 400, from a kubelet, which redirects to `/pods`.
pub(super) const UNTIDY: &str = "double-slash";

const fn read_only(id: &'static str, path: &'static str, severity: Severity, gives: &'static str) -> Probe {
    Probe {
        port: Port::ReadOnly,
        cis: &["4.2.4"],
        ..get(id, path, severity, gives)
    }
}

const ATTACH: &str = "/attach/kubelet-gate-prove/Does_Not_Exist/none?output=1";
const CONTAINER_LOGS: &str = "/containerLogs/kubelet-gate-prove/Does_Not_Exist/none";
const EXEC: &str = "/exec/kubelet-gate-prove/Does_Not_Exist/none?command=id&output=1";
const PORT_FORWARD: &str = "/portForward/kubelet-gate-prove/Does_Not_Exist?port=80";
const RUN: &str = "/run/kubelet-gate-prove/Does_Not_Exist/none?cmd=id";
const CHECKPOINT: &str = "/checkpoint/kubelet-gate-prove/Does_Not_Exist/none";

const CADVISOR: &str = "every container by name, with its use of the machine";

/// Every probe, in the order in which they are sent.
#[rustfmt::skip]
pub const PROBES: &[Probe] = &[
    get("pods", "/pods", High, "every pod of the node, with its environment"),
    get("running-pods", "/runningpods/", Medium, "what runs here, as the container runtime has it"),
    get("metrics", "/metrics", Medium, "version and workings of the kubelet"),
    get("metrics-cadvisor", "/metrics/cadvisor", Medium, CADVISOR),
    get("metrics-resource", "/metrics/resource", Medium, "every container by name, with CPU and memory"),
    get("metrics-probes", "/metrics/probes", Low, "every container by name, and whether it is healthy"),
    get("stats-summary", "/stats/summary", Medium, "every pod by name, with its use of the machine"),
    get("stats", "/stats/", Medium, "the machine's use, on old kubelets"),
    get("spec", "/spec/", Medium, "the machine, on old kubelets"),
    get("configz", "/configz", Medium, "the kubelet's whole configuration"),
    get("healthz", "/healthz", Low, "that a kubelet is here"),
    get("node-logs", "/logs/", High, "the node's /var/log"),
    on_no_pod("container-logs", "GET", CONTAINER_LOGS, "the log of any container"),
    on_no_pod("exec", "POST", EXEC, "a shell in any container"),
    Probe {
        websocket: true,
        reaches: &[101, 404],
        ..on_no_pod("exec-websocket", "GET", EXEC, "a shell in any container, by GET and WebSocket")
    },
    on_no_pod("run", "POST", RUN, "commands in any container, by one request"),
    on_no_pod("attach", "POST", ATTACH, "the terminal of any container"),
    on_no_pod("port-forward", "POST", PORT_FORWARD, "every port of any pod"),
    // A kubelet without this endpoint answers 404 before it authenticates the client; with it, it refuses the
    // method.
    Probe {
        reaches: &[405],
        ..get("checkpoint", CHECKPOINT, High, "the memory of any container, and a full disk")
    },
    get("pprof", "/debug/pprof/cmdline", High, "profiles and memory of the kubelet, and its time"),
    // The endpoint itself refuses every method but PUT: the request has reached it.
    Probe {
        reaches: &[406],
        ..get("debug-flags", "/debug/flags/v", Medium, "how much the kubelet logs, to be changed by PUT")
    },
    Probe {
        credential: ProbeCredential::ForeignCertificate,
        cis: &["4.2.1", "4.2.2", "4.2.3", "4.2.15"],
        ..get("foreign-certificate", "/pods", High, "every pod, to a self-signed certificate")
    },
    Probe {
        credential: ProbeCredential::GarbageToken,
        ..get("garbage-token", "/pods", High, "every pod, to a made-up token")
    },
    trick(UNTIDY, "//pods"),
    trick("dot-segments", "/metrics/../pods"),
    trick("encoded-letter", "/%70ods"),
    trick("encoded-slashes", "/metrics%2f..%2fpods"),
    trick("trailing-dot", "/pods/."),
    Probe {
        credential: ProbeCredential::Token,
        websocket: true,
        reaches: &[101, 404],
        cis: &["4.2.2"],
        ..on_no_pod("token-exec-websocket", "GET", EXEC, "a shell in any container, to a read-only token")
    },
    read_only("read-only-pods", "/pods", High, "every pod of the node, with its environment"),
    read_only("read-only-metrics", "/metrics", Medium, "version and workings of the kubelet"),
    read_only("read-only-cadvisor", "/metrics/cadvisor", Medium, CADVISOR),
    read_only("read-only-stats", "/stats/summary", Medium, "every pod by name, with its use of the machine"),
    read_only("read-only-spec", "/spec/", Medium, "the machine, on old kubelets"),
    // 500: the kubelet is there, and unhealthy.
    Probe {
        reaches: &[200, 500],
        ..read_only("read-only-healthz", "/healthz", Low, "that a kubelet is here")
    },
    read_only(
        "read-only-pprof",
        "/debug/pprof/cmdline",
        High,
        "profiles and memory of the kubelet, on old ones",
    ),
    // Not served on this port: 404. Served: 405, since only the method is wrong (CVE-2025-0426).
    Probe {
        reaches: &[405],
        ..read_only(
            "read-only-checkpoint",
            CHECKPOINT,
            High,
            "checkpoints without a credential, until the disk is full",
        )
    },
    Probe {
        port: Port::Healthz,
        normal_on_node: true,
        reaches: &[200, 500],
        cis: &[],
        ..get("healthz-port", "/healthz", Low, "that a kubelet is here, and whether it is healthy")
    },
    Probe {
        port: Port::Healthz,
        cis: &[],
        ..get(
            "healthz-port-pprof",
            "/debug/pprof/cmdline",
            High,
            "profiles and memory of the kubelet (CVE-2019-11248)",
        )
    },
];
