//! The names of a kubelet's flags, of every version up to Kubernetes 1.36, with those of the libraries in it.
//! Which of them are switches decides whether the word that follows is a value.

use super::fields::{FIELDS, ValueKind};

/// Flags without a value: `--flag`, or `--flag=false`.
#[rustfmt::skip]
const SWITCHES: [&str; 49] = [
    "add-dir-header", "allow-dynamic-housekeeping", "allow-privileged",
    "allow-verification-with-non-compliant-keys", "alsologtostderr", "babysit-daemons", "cgroups-per-qos",
    "configure-cbr0", "containerized", "cpu-cfs-quota", "docker-disable-shared-pid", "docker-only",
    "docker-tls", "enable-cadvisor-json-endpoints", "enable-controller-attach-detach",
    "enable-custom-metrics", "enable-load-reader", "exit-on-lock-contention",
    "experimental-allocatable-ignore-eviction", "experimental-cgroups-per-qos",
    "experimental-check-node-capabilities-before-mount", "experimental-cri", "experimental-dockershim",
    "experimental-fail-swap-on", "experimental-flannel-overlay", "experimental-kernel-memcg-notification",
    "experimental-logging-sanitization", "fail-swap-on", "help", "keep-terminated-pod-volumes",
    "kernel-memcg-notification", "local-storage-capacity-isolation", "log-cadvisor-usage",
    "log-json-split-stream", "log-text-split-stream", "logtostderr", "one-output", 
    "really-crash-for-testing", "reconcile-cidr", "register-node",
    "register-schedulable", "require-kubeconfig", "runonce", "serialize-image-pulls", "skip-headers",
    "skip-log-headers", "storage-driver-secure", "version", "windows-service",
];

/// Flags with a value: `--flag=value` or `--flag value`.
#[rustfmt::skip]
const VALUED: [&str; 156] = [
    "allowed-unsafe-sysctls", "api-servers", "application-metrics-count-limit", "auth-path",
    "azure-container-registry-config", "boot-id-file", "bootstrap-checkpoint-path", "cgroup-driver",
    "cgroup-root", "chaos-chance", "cloud-config", "cloud-provider", "cloud-provider-gce-l7lb-src-cidrs",
    "cloud-provider-gce-lb-src-cidrs", "cluster-dns", "cluster-domain", "cni-bin-dir", "cni-cache-dir",
    "cni-conf-dir", "container-hints", "container-log-max-files", "container-log-max-size",
    "container-runtime", "container-runtime-endpoint", "containerd", "containerd-env-metadata-whitelist",
    "containerd-namespace", "cpu-cfs-quota-period", "cpu-manager-policy", "cpu-manager-policy-options",
    "cpu-manager-reconcile-period", "default-not-ready-toleration-seconds",
    "default-unreachable-toleration-seconds", "docker", "docker-endpoint", "docker-env-metadata-whitelist",
    "docker-exec-handler", "docker-root", "docker-tls-ca", "docker-tls-cert", "docker-tls-key",
    "dynamic-config-dir", "enforce-node-allocatable", "event-burst",
    "event-storage-age-limit", "event-storage-event-limit", "eviction-hard",
    "eviction-max-pod-grace-period", "eviction-minimum-reclaim", "eviction-pressure-transition-period",
    "eviction-soft", "eviction-soft-grace-period", "experimental-allowed-unsafe-sysctls",
    "experimental-bootstrap-kubeconfig", "experimental-dockershim-root-directory",
    "experimental-mounter-path", "experimental-nvidia-gpus",
    "experimental-qos-reserved", "experimental-runtime-integration-type", "feature-gates",
    "file-check-frequency", "global-housekeeping-interval", "google-json-key", "hairpin-mode",
    "host-ipc-sources", "host-network-sources", "host-pid-sources", "housekeeping-interval",
    "http-check-frequency", "image-credential-provider-bin-dir", "image-credential-provider-config",
    "image-gc-high-threshold", "image-gc-low-threshold", "image-pull-progress-deadline",
    "image-service-endpoint", "init-config-dir", "iptables-drop-bit", "iptables-masquerade-bit",
    "kube-api-burst", "kube-api-content-type", "kube-api-qps", "kube-reserved", "kube-reserved-cgroup",
    "kubelet-cgroups", "lock-file", "log-backtrace-at", "log-dir", "log-file", "log-file-max-size",
    "log-flush-frequency", "log-json-info-buffer-size", "log-text-info-buffer-size", "logging-format",
    "low-diskspace-threshold-mb", "machine-id-file", "manifest-url", "manifest-url-header",
    "master-service-namespace", "max-housekeeping-interval", "max-open-files", "max-pods",
    "maximum-dead-containers", "maximum-dead-containers-per-container", "memory-manager-policy",
    "minimum-container-ttl-duration", "minimum-image-ttl-duration", "network-plugin", "network-plugin-dir",
    "network-plugin-mtu", "node-labels", "node-status-max-images", "node-status-update-frequency",
    "non-masquerade-cidr", "oom-score-adj", "outofdisk-transition-frequency", 
    "pod-cidr", "pod-infra-container-image", "pods-per-core", "provider-id", "qos-reserved",
    "raw-cgroup-prefix-whitelist", "register-with-taints", "registry-burst",
    "registry-qps", "reserved-cpus", "reserved-memory", "resolv-conf", "resource-container",
    "rkt-api-endpoint", "rkt-path", "rkt-stage1-image", "root-dir", "runtime-cgroups",
    "runtime-request-timeout", "seccomp-profile-root", "show-hidden-metrics-for-version", "stderrthreshold",
    "storage-driver-buffer-duration", "storage-driver-db", "storage-driver-host",
    "storage-driver-password", "storage-driver-table", "storage-driver-user", "sync-frequency",
    "system-cgroups", "system-container", "system-reserved", "system-reserved-cgroup",
    "topology-manager-policy", "topology-manager-policy-options", "topology-manager-scope", "v", "vmodule",
    "volume-plugin-dir", "volume-stats-agg-period", "windows-priorityclass",
];

/// Whether a flag takes the next word as its value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arity {
    Switch,
    Valued,
    /// No kubelet up to 1.36 has such a flag.
    Unknown,
}

/// The arity of the flag of this name, with hyphens.
pub(super) fn arity(name: &str) -> Arity {
    let field = FIELDS.iter().find(|field| field.flag == name);
    match field {
        Some(field) if field.kind == ValueKind::Bool => Arity::Switch,
        Some(_) => Arity::Valued,
        None if SWITCHES.contains(&name) => Arity::Switch,
        None if VALUED.contains(&name) => Arity::Valued,
        None => Arity::Unknown,
    }
}
