//! What can speak against sealing a node, each with the step or the flag that helps.

use std::path::PathBuf;

/// The user that programs without rights share on every distribution, and the one that a kernel shows for
/// users outside of its user namespace.
pub(super) const SHARED: u32 = 65534;

/// A reason not to seal the node now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "no gate runs: the one that wrote to firewall.runDirectory {} was process {pid}, and that is gone; \
         start it (systemctl start kubelet-gate)", directory.display()
    )]
    GateIsGone { directory: PathBuf, pid: u32 },
    #[error(
        "no gate runs on this node: none has written to firewall.runDirectory {}; start it (systemctl start \
         kubelet-gate), and make sure that the directory is there and the gate's own", .0.display()
    )]
    NoGate(PathBuf),
    #[error(
        "whether a gate runs cannot be seen: firewall.runDirectory: {0}; delete the file, and restart the \
         gate (systemctl restart kubelet-gate), which writes it anew"
    )]
    GateUnknown(String),
    #[error(
        "the gate runs as root, so that its connections cannot be told from those of the rest of the node; \
         run it as a user of its own, as config/systemd/kubelet-gate.service does"
    )]
    GateIsRoot,
    #[error(
        "the gate runs as uid {SHARED}, as other programs do; run it as a user of its own, as \
         config/systemd/kubelet-gate.service does"
    )]
    UserIsCommon,
    #[error(
        "the gate may not mark its connections; give it CAP_NET_ADMIN, as \
         config/systemd/kubelet-gate.service does, and restart it"
    )]
    MayNotMark,
    #[error(
        "uid {uid}, the gate's, is not its own: {other} runs as the same user; give the gate a user of its \
         own (User= in its unit)"
    )]
    UserIsShared { uid: u32, other: String },
    #[error("{0}; add it, or write sources.excludeApiServer: true if that is meant")]
    ApiServerLeftOut(String),
    #[error(
        "whether the API server has been served cannot be asked: admin.listen and admin.socket are off; \
         switch one on, or give --accept-unseen-api-server"
    )]
    ApiServerUnasked,
    #[error(
        "the gate has not served the API server yet: nothing shows that logs, exec and metrics of this node \
         would still work; have it come once (kubectl logs of any pod of this node, with the gate's port as \
         the node's kubelet port), or give --confirm-when-verified, which has it come during the trial, or \
         --accept-unseen-api-server"
    )]
    ApiServerUnseen,
    #[error(
        "whether the API server has been served cannot be seen: {0}; kubelet-gate status shows what the gate \
         answers; or give --accept-unseen-api-server"
    )]
    ApiServerUnknown(String),
    #[error("what other rules do cannot be seen: {0}; repair this, or give --accept-foreign-rules")]
    ForeignRulesUnknown(String),
    #[error(
        "another rule refuses or redirects connections to these ports ({place}): {rule}; a redirection that \
         comes before the seal's is not undone; remove it, or give --accept-foreign-rules"
    )]
    ForeignRule { place: String, rule: String },
    #[error(
        "which bits of the packet mark are in use cannot be seen: {0}; repair this, or give \
         --accept-foreign-rules"
    )]
    MarksUnknown(String),
    #[error(
        "bits {used:#010x} of the packet mark are used by other rules of this node, and by the gate (mask \
         {mask:#010x}): set firewall.mark to bits that are free, restart the gate; or give \
         --accept-foreign-rules"
    )]
    MarksUsed { used: u32, mask: u32 },
    #[error(
        "the callers of the read-only port cannot be seen: {0}; repair this, or give --close-health-checkers"
    )]
    CallersUnknown(String),
    #[error(
        "something on this node calls the read-only port {0} (a connection of the last minute; firewall \
         observe names it), and would be refused: {MOVE_IT}"
    )]
    Called(u16),
    #[error(
        "what firewall observe saw cannot be read: {0}; delete the file, and observe again (kubelet-gate \
         firewall observe), or give --close-health-checkers"
    )]
    ObservedUnknown(String),
    #[error(
        "{command} (uid {uid}) on this node called the read-only port {port} {count} times until {last}, and \
         would be refused: {MOVE_IT}; then observe again"
    )]
    Observed {
        command: String,
        uid: u32,
        port: u16,
        count: u64,
        last: String,
    },
}

const MOVE_IT: &str = "move it to the authenticated port or to 10248, or set readOnlyPort.healthz with the \
                       tombstone on a port of its own, or give --close-health-checkers";

#[cfg(test)]
mod tests {
    use super::super::error::FirewallError;
    use super::super::standing::Case;
    use super::super::trial::TrialError;
    use super::*;
    use crate::settings::Backend;

    /// A flag, a command, a program's unit, or a key of the configuration.
    const STEPS: [&str; 9] = [
        "--accept-",
        "--close-health-checkers",
        "--confirm-within",
        "--backend",
        "kubelet-gate firewall ",
        "systemctl ",
        "config/systemd/kubelet-gate.service",
        "User= in its unit",
        "sources.excludeApiServer",
    ];

    /// A new kind of refusal does not compile until it is here, and in the list below.
    fn is_listed(refusal: &Refusal) {
        match refusal {
            Refusal::GateIsGone { .. }
            | Refusal::NoGate(_)
            | Refusal::GateUnknown(_)
            | Refusal::GateIsRoot
            | Refusal::UserIsCommon
            | Refusal::MayNotMark
            | Refusal::UserIsShared { .. }
            | Refusal::ApiServerLeftOut(_)
            | Refusal::ApiServerUnasked
            | Refusal::ApiServerUnseen
            | Refusal::ApiServerUnknown(_)
            | Refusal::ForeignRulesUnknown(_)
            | Refusal::ForeignRule { .. }
            | Refusal::MarksUnknown(_)
            | Refusal::MarksUsed { .. }
            | Refusal::CallersUnknown(_)
            | Refusal::Called(_)
            | Refusal::ObservedUnknown(_)
            | Refusal::Observed { .. } => {}
        }
    }

    fn names_a_step(text: &str) {
        assert!(STEPS.iter().any(|step| text.contains(step)), "{text}");
    }

    /// (Not seen red.)
    #[test]
    fn every_refusal_names_the_step_or_the_flag_that_helps() {
        let why = || "why".to_owned();
        let refusals = [
            Refusal::GateIsGone {
                directory: "/run/x".into(),
                pid: 7,
            },
            Refusal::NoGate("/run/x".into()),
            Refusal::GateUnknown(why()),
            Refusal::GateIsRoot,
            Refusal::UserIsCommon,
            Refusal::MayNotMark,
            Refusal::UserIsShared { uid: 7, other: why() },
            Refusal::ApiServerLeftOut(why()),
            Refusal::ApiServerUnasked,
            Refusal::ApiServerUnseen,
            Refusal::ApiServerUnknown(why()),
            Refusal::ForeignRulesUnknown(why()),
            Refusal::ForeignRule {
                place: why(),
                rule: why(),
            },
            Refusal::MarksUnknown(why()),
            Refusal::MarksUsed { used: 1, mask: 3 },
            Refusal::CallersUnknown(why()),
            Refusal::Called(10255),
            Refusal::ObservedUnknown(why()),
            Refusal::Observed {
                command: why(),
                uid: 0,
                port: 10255,
                count: 1,
                last: why(),
            },
        ];
        assert_eq!(refusals.len(), 19);
        for refusal in refusals {
            is_listed(&refusal);
            names_a_step(&refusal.to_string());
        }
    }

    #[test]
    fn a_change_that_cannot_be_made_names_the_step_that_helps() {
        let missing = FirewallError::Unusable {
            backend: Backend::Nftables,
            why: "why".into(),
        };
        for error in [
            TrialError::Firewall(FirewallError::TooLate),
            TrialError::Firewall(FirewallError::AnotherTrial),
            TrialError::Firewall(missing),
            TrialError::OtherBackend(Backend::Nftables),
            TrialError::Unfinished,
            TrialError::NothingTried,
            TrialError::AnotherApply,
            TrialError::GoneAgain,
            TrialError::NotRemoved,
        ] {
            names_a_step(&error.to_string());
        }
        let remaining = std::time::Duration::from_secs(7);
        for case in [
            Case::Trial { remaining },
            Case::UnknownTrial { remaining },
            Case::Ended,
            Case::Unfinished,
            Case::Fragment,
            Case::Changed,
            Case::Gone,
            Case::Incomparable {
                confirmed_with: "1".into(),
                now: "2".into(),
            },
        ] {
            names_a_step(&case.problem().unwrap_or_default());
        }
    }
}
