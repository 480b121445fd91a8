//! Which users may read and change the files that configure a kubelet: section 4.1 of the benchmark.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::check::{Check, CheckResult, Compensation};
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::options::Effective;

/// The two checks of a file. Their numbers are the same in all versions of the benchmark.
struct FileChecks {
    mode: [&'static str; 2],
    owner: [&'static str; 2],
    title: &'static str,
    /// Every user may read it, on purpose.
    public: bool,
}

const UNIT: FileChecks = FileChecks {
    mode: ["unit-mode", "4.1.1"],
    owner: ["unit-owner", "4.1.2"],
    title: "the kubelet's systemd unit",
    public: true,
};
const KUBECONFIG: FileChecks = FileChecks {
    mode: ["kubeconfig-mode", "4.1.5"],
    owner: ["kubeconfig-owner", "4.1.6"],
    title: "the kubelet's kubeconfig",
    public: false,
};
const CLIENT_CA: FileChecks = FileChecks {
    mode: ["client-ca-mode", "4.1.7"],
    owner: ["client-ca-owner", "4.1.8"],
    title: "the client CA file",
    public: true,
};
const CONFIG: FileChecks = FileChecks {
    mode: ["config-mode", "4.1.9"],
    owner: ["config-owner", "4.1.10"],
    title: "the kubelet's configuration file",
    public: false,
};

/// Mode and owner of the unit, the kubeconfig, the client CA and the configuration file; of each only if
/// there is one.
pub(super) fn checks(options: &Effective, invocation: &Invocation) -> Vec<Check> {
    let unit = invocation.unit.as_ref().map_or("", |unit| &unit.file);
    [
        (UNIT, unit),
        (KUBECONFIG, options.text("--kubeconfig")),
        (CLIENT_CA, options.text("authentication.x509.clientCAFile")),
        (CONFIG, options.text("--config")),
    ]
    .into_iter()
    .filter(|(_, path)| !path.is_empty())
    .filter_map(|(checks, path)| {
        // A file that cannot be read is reported where its content is needed.
        let about = invocation
            .root
            .resolve(Path::new(path))
            .and_then(std::fs::metadata)
            .ok()?;
        Some(checks.judge(path, about.mode() & 0o7777, about.uid(), about.gid()))
    })
    .flatten()
    .collect()
}

impl FileChecks {
    fn judge(&self, path: &str, mode: u32, owner: u32, group: u32) -> [Check; 2] {
        let too_open = if self.public { 0o133 } else { 0o177 };
        let by_mode = if mode & 0o022 != 0 {
            CheckResult::fail(format!("users other than the owner may change {path}"))
        } else if mode & too_open != 0 {
            CheckResult::warn(format!(
                "{path} is readable or executable by more users than necessary"
            ))
        } else {
            CheckResult::PASS
        };
        let by_owner = match (owner, group) {
            (0, 0) => CheckResult::PASS,
            _ => CheckResult::fail(format!("{path} does not belong to root")),
        };
        let check = |[id, number]: [&'static str; 2], value, judgement: CheckResult| Check {
            id,
            old: Some(number),
            new: Some(number),
            title: self.title,
            key: path.to_owned(),
            value,
            origin: path.to_owned(),
            file: Some(path.to_owned()),
            verdict: judgement.verdict,
            why: judgement.why,
            gate: Compensation::None,
        };
        [
            check(self.mode, format!("mode {mode:04o}"), by_mode),
            check(self.owner, format!("owner {owner}:{group}"), by_owner),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn modes_and_owners_are_judged_apart() {
        use Verdict::{Fail, Pass, Warn};
        for (row, mode, owner, expected) in [
            (KUBECONFIG, 0o600, (0, 0), [Pass, Pass]),
            (KUBECONFIG, 0o644, (0, 0), [Warn, Pass]),
            (KUBECONFIG, 0o660, (0, 0), [Fail, Pass]),
            (KUBECONFIG, 0o600, (0, 1), [Pass, Fail]),
            (CLIENT_CA, 0o644, (1000, 0), [Pass, Fail]),
            (UNIT, 0o646, (0, 0), [Fail, Pass]),
            (CONFIG, 0o644, (0, 0), [Warn, Pass]),
        ] {
            let [by_mode, by_owner] = row.judge("/f", mode, owner.0, owner.1);
            assert_eq!(
                [by_mode.verdict, by_owner.verdict],
                expected,
                "{mode:o} {owner:?}"
            );
            assert_eq!(
                (by_mode.new, by_owner.new),
                (Some(row.mode[1]), Some(row.owner[1]))
            );
        }
    }
}
