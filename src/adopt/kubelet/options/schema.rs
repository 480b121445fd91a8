//! The keys of KubeletConfiguration, of every version from Kubernetes 1.10 to 1.36. A kubelet ignores keys
//! that it does not know, and does not start with a value of another type than its key has.

use ValueKind::{Any, Bool, Duration, LongNumber, Number, Path, Switches, Text, TextMap, Texts};

use super::fields::{FIELDS, ValueKind};

/// What a key of a configuration file holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// Further keys.
    Section,
    /// A value.
    Value(ValueKind),
}

/// The keys that are not among [`FIELDS`].
#[rustfmt::skip]
const OTHERS: [(ValueKind, &[&str]); 10] = [
    (Text, &[
        "apiVersion", "kind", "staticPodURL", "clusterDomain", "kubeletCgroups", "systemCgroups",
        "cgroupRoot",
        "cgroupDriver", "cpuManagerPolicy", "memoryManagerPolicy", "topologyManagerPolicy",
        "topologyManagerScope", "hairpinMode", "podCIDR", "contentType", "containerLogMaxSize",
        "configMapAndSecretChangeDetectionStrategy", "reservedSystemCPUs", "showHiddenMetricsForVersion",
        "systemReservedCgroup", "kubeReservedCgroup", "providerID", "containerRuntimeEndpoint",
        "imageServiceEndpoint", "imagePullCredentialsVerificationPolicy", "memoryReservationPolicy",
        "memorySwap.swapBehavior",
    ]),
    (Path, &["podLogsDir", "resolvConf", "volumePluginDir"]),
    (Bool, &[
        "cgroupsPerQOS", "singleProcessOOMKill", "runOnce", "cpuCFSQuota", "serializeImagePulls",
        "mergeDefaultEvictionSettings", "enableControllerAttachDetach", "failSwapOn",
        "kernelMemcgNotification", "registerNode", "localStorageCapacityIsolation", "failCgroupV1",
    ]),
    (Number, &[
        "registryPullQPS", "registryBurst", "eventBurst", "oomScoreAdj", "nodeLeaseDurationSeconds",
        "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "maxPods", "nodeStatusMaxImages",
        "kubeAPIQPS", "kubeAPIBurst", "maxParallelImagePulls", "evictionMaxPodGracePeriod", "podsPerCore",
        "iptablesMasqueradeBit", "iptablesDropBit", "containerLogMaxFiles", "containerLogMaxWorkers",
    ]),
    (LongNumber, &["maxOpenFiles", "userNamespaces.idsPerPod"]),
    (Duration, &[
        "syncFrequency", "fileCheckFrequency", "httpCheckFrequency", "nodeStatusUpdateFrequency",
        "nodeStatusReportFrequency", "imageMinimumGCAge", "imageMaximumGCAge", "volumeStatsAggPeriod",
        "cpuManagerReconcilePeriod", "draManagerReconcilePeriod", "runtimeRequestTimeout",
        "cpuCFSQuotaPeriod", "evictionPressureTransitionPeriod", "containerLogMonitorInterval",
        "shutdownGracePeriod", "shutdownGracePeriodCriticalPods",
        "crashLoopBackOff.maxContainerRestartPeriod",
    ]),
    (Texts, &[
        "clusterDNS", "enforceNodeAllocatable", "allowedUnsafeSysctls",
        "preloadedImagesVerificationAllowlist",
    ]),
    (Switches, &["featureGates"]),
    (TextMap, &[
        "cpuManagerPolicyOptions", "topologyManagerPolicyOptions", "qosReserved", "evictionHard",
        "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim", "systemReserved", "kubeReserved",
    ]),
    (Any, &[
        "staticPodURLHeader", "tlsCurvePreferences", "logging", "shutdownGracePeriodByPodPriority",
        "reservedMemory", "memoryThrottlingFactor", "registerWithTaints", "tracing",
    ]),
];

/// The keys that null takes away. Null leaves any other value as it is, as it leaves a struct.
const POINTERS: [&str; 31] = [
    "enableServer",
    "registryPullQPS",
    "eventRecordQPS",
    "enableDebuggingHandlers",
    "healthzPort",
    "oomScoreAdj",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "cgroupsPerQOS",
    "singleProcessOOMKill",
    "podPidsLimit",
    "resolvConf",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "nodeStatusMaxImages",
    "kubeAPIQPS",
    "serializeImagePulls",
    "maxParallelImagePulls",
    "mergeDefaultEvictionSettings",
    "enableControllerAttachDetach",
    "makeIPTablesUtilChains",
    "failSwapOn",
    "containerLogMaxFiles",
    "containerLogMonitorInterval",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "seccompDefault",
    "authentication.webhook.enabled",
    "authentication.anonymous.enabled",
];

/// Every key that holds a value, with its sections.
fn keys() -> impl Iterator<Item = (&'static str, ValueKind)> {
    let fields = FIELDS.iter().filter(|field| !field.key.starts_with("--"));
    // The switches of featureGates are in one value.
    let fields = fields.filter(|field| !field.key.starts_with("featureGates."));
    let fields = fields.map(|field| (field.key, field.kind));
    let others = OTHERS.iter();
    fields.chain(others.flat_map(|(kind, keys)| keys.iter().map(move |key| (*key, *kind))))
}

/// What the key at this path holds; `None`: a kubelet does not know it.
pub(super) fn shape(path: &str) -> Option<Shape> {
    if let Some((_, kind)) = keys().find(|(key, _)| *key == path) {
        return Some(Shape::Value(kind));
    }
    let is_below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    keys().any(|(key, _)| is_below(key)).then_some(Shape::Section)
}

/// Whether null takes the value of this key away.
pub(super) fn is_pointer(path: &str, kind: ValueKind) -> bool {
    matches!(kind, Texts | Switches | TextMap | Any) || POINTERS.contains(&path)
}

/// What may have been meant by a path that no kubelet knows: the same name written otherwise, or in the
/// sections where it belongs.
pub(super) fn meant(path: &str) -> Vec<String> {
    let name = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let sections = keys().flat_map(|(key, _)| {
        let ends = key.match_indices('.').map(|(end, _)| end);
        ends.chain([key.len()]).map(move |end| &key[..end])
    });
    let mut meant: Vec<String> = sections
        .filter(|key| name(key) == name(path))
        .map(str::to_owned)
        .collect();
    meant.sort();
    meant.dedup();
    meant
}
