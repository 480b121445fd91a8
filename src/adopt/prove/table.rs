//! The probes. docs/prove.md shows them to people.

use Severity::{High, Low, Medium};

use super::Ports;

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

/// What the caller shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credential {
    /// Nothing.
    Nobody,
    /// A certificate that nobody issued.
    ForeignCertificate,
    /// A bearer token that nobody issued.
    GarbageToken,
    /// The limited token that was given; without one the probe is left out.
    Token,
}

/// How bad it is if it gets through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// Commands, or secrets.
    High,
    /// What runs here and how.
    Medium,
    /// That a kubelet is here.
    Low,
}

/// A request, and the answers by which it is known to have got through.
#[derive(Debug)]
pub struct Probe {
    /// Stable for ever.
    pub id: &'static str,
    /// To which port.
    pub port: Port,
    /// With which method.
    pub method: &'static str,
    /// For what, byte for byte.
    pub path: &'static str,
    /// With headers that ask for a WebSocket.
    pub websocket: bool,
    /// As whom.
    pub credential: Credential,
    /// Any of these statuses proves that the kubelet itself has taken the request for allowed.
    pub reaches: &'static [u16],
    /// It is open to the node itself on every kubelet, and has to be for health checks.
    pub normal_on_node: bool,
    /// How bad that is.
    pub severity: Severity,
    /// The checks that it bears on, by their numbers since CIS 1.7.
    pub cis: &'static [&'static str],
    /// What it gives whoever gets through.
    pub gives: &'static str,
}

const BASE: Probe = Probe {
    id: "",
    port: Port::Secure,
    method: "GET",
    path: "",
    websocket: false,
    credential: Credential::Nobody,
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

/// A pod that cannot be, by its name: the kubelet's 404 comes after it has let the request in.
const fn on_no_pod(id: &'static str, method: &'static str, path: &'static str, gives: &'static str) -> Probe {
    Probe {
        method,
        reaches: &[404],
        ..get(id, path, High, gives)
    }
}

/// A path that a proxy may read otherwise than the kubelet, and let pass for another. A kubelet answers most of them with a
/// redirect or 404 before it asks who is there, so that only a 200 shows anything.
const fn trick(id: &'static str, path: &'static str) -> Probe {
    get(
        id,
        path,
        High,
        "every pod, by a path that a proxy may read differently",
    )
}

/// By its answer a gate, which refuses it with 400, is told from a kubelet, which sends a redirect to `/pods`.
pub(super) const UNTIDY: &str = "double-slash";

const fn read_only(id: &'static str, path: &'static str, severity: Severity, gives: &'static str) -> Probe {
    Probe {
        port: Port::ReadOnly,
        cis: &["4.2.4"],
        ..get(id, path, severity, gives)
    }
}

/// All of them, in the order in which they are sent.
pub const PROBES: &[Probe] = &[
    get(
        "pods",
        "/pods",
        High,
        "every pod of the node, with its environment",
    ),
    get(
        "running-pods",
        "/runningpods/",
        Medium,
        "what runs here, as the container runtime has it",
    ),
    get(
        "metrics",
        "/metrics",
        Medium,
        "version and workings of the kubelet",
    ),
    get(
        "metrics-cadvisor",
        "/metrics/cadvisor",
        Medium,
        "every container by name, with its use of the machine",
    ),
    get(
        "metrics-resource",
        "/metrics/resource",
        Medium,
        "every container by name, with CPU and memory",
    ),
    get(
        "metrics-probes",
        "/metrics/probes",
        Low,
        "every container by name, and whether it is well",
    ),
    get(
        "stats-summary",
        "/stats/summary",
        Medium,
        "every pod by name, with its use of the machine",
    ),
    get("stats", "/stats/", Medium, "the machine's use, on old kubelets"),
    get("spec", "/spec/", Medium, "the machine, on old kubelets"),
    get("configz", "/configz", Medium, "the kubelet's whole configuration"),
    get("healthz", "/healthz", Low, "that a kubelet is here"),
    get("node-logs", "/logs/", High, "the node's /var/log"),
    on_no_pod(
        "container-logs",
        "GET",
        "/containerLogs/kubelet-gate-prove/Does_Not_Exist/none",
        "the log of any container",
    ),
    on_no_pod(
        "exec",
        "POST",
        "/exec/kubelet-gate-prove/Does_Not_Exist/none?command=id&output=1",
        "a shell in any container",
    ),
    Probe {
        websocket: true,
        reaches: &[101, 404],
        ..on_no_pod(
            "exec-websocket",
            "GET",
            "/exec/kubelet-gate-prove/Does_Not_Exist/none?command=id&output=1",
            "a shell in any container, by GET and WebSocket",
        )
    },
    on_no_pod(
        "run",
        "POST",
        "/run/kubelet-gate-prove/Does_Not_Exist/none?cmd=id",
        "commands in any container, by one request",
    ),
    on_no_pod(
        "attach",
        "POST",
        "/attach/kubelet-gate-prove/Does_Not_Exist/none?output=1",
        "the terminal of any container",
    ),
    on_no_pod(
        "port-forward",
        "POST",
        "/portForward/kubelet-gate-prove/Does_Not_Exist?port=80",
        "every port of any pod",
    ),
    Probe {
        // Where there is no such endpoint, it is a 404 before anybody is asked for; the wrong method is refused by the endpoint.
        reaches: &[405],
        ..get(
            "checkpoint",
            "/checkpoint/kubelet-gate-prove/Does_Not_Exist/none",
            High,
            "the memory of any container, and a full disk",
        )
    },
    get(
        "pprof",
        "/debug/pprof/cmdline",
        High,
        "profiles and memory of the kubelet, and its time",
    ),
    Probe {
        // Anything but PUT is refused by the endpoint itself, which has been reached then.
        reaches: &[406],
        ..get(
            "debug-flags",
            "/debug/flags/v",
            Medium,
            "how much the kubelet logs, to be changed by PUT",
        )
    },
    Probe {
        credential: Credential::ForeignCertificate,
        cis: &["4.2.1", "4.2.2", "4.2.3", "4.2.15"],
        ..get(
            "foreign-certificate",
            "/pods",
            High,
            "every pod, to a self-signed certificate",
        )
    },
    Probe {
        credential: Credential::GarbageToken,
        ..get("garbage-token", "/pods", High, "every pod, to a made-up token")
    },
    trick(UNTIDY, "//pods"),
    trick("dot-segments", "/metrics/../pods"),
    trick("encoded-letter", "/%70ods"),
    trick("encoded-slashes", "/metrics%2f..%2fpods"),
    trick("trailing-dot", "/pods/."),
    Probe {
        credential: Credential::Token,
        websocket: true,
        reaches: &[101, 404],
        cis: &["4.2.2"],
        ..on_no_pod(
            "token-exec-websocket",
            "GET",
            "/exec/kubelet-gate-prove/Does_Not_Exist/none?command=id&output=1",
            "a shell in any container, to a token that may only read",
        )
    },
    read_only(
        "read-only-pods",
        "/pods",
        High,
        "every pod of the node, with its environment",
    ),
    read_only(
        "read-only-metrics",
        "/metrics",
        Medium,
        "version and workings of the kubelet",
    ),
    read_only(
        "read-only-cadvisor",
        "/metrics/cadvisor",
        Medium,
        "every container by name, with its use of the machine",
    ),
    read_only(
        "read-only-stats",
        "/stats/summary",
        Medium,
        "every pod by name, with its use of the machine",
    ),
    read_only("read-only-spec", "/spec/", Medium, "the machine, on old kubelets"),
    Probe {
        // 500: not well, but there.
        reaches: &[200, 500],
        ..read_only("read-only-healthz", "/healthz", Low, "that a kubelet is here")
    },
    read_only(
        "read-only-pprof",
        "/debug/pprof/cmdline",
        High,
        "profiles and memory of the kubelet, on old ones",
    ),
    Probe {
        // Where it is not served on this port it is a 404; the right path with the wrong method is a 405 (CVE-2025-0426).
        reaches: &[405],
        ..read_only(
            "read-only-checkpoint",
            "/checkpoint/kubelet-gate-prove/Does_Not_Exist/none",
            High,
            "checkpoints by strangers, until the disk is full",
        )
    },
    Probe {
        port: Port::Healthz,
        normal_on_node: true,
        reaches: &[200, 500],
        cis: &[],
        ..get(
            "healthz-port",
            "/healthz",
            Low,
            "that a kubelet is here, and whether it is well",
        )
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
