//! Whether the Node of the gate's node name is the machine that the gate runs on.
//!
//! A gate with a wrong name asks the API server about another Node: it admits the users of that Node and
//! refuses the users of this one. The kubelet writes its machine's ids into its Node, and these are
//! compared with this machine's.

use std::path::Path;
use std::time::Duration;

use http::StatusCode;

use super::error::NodeError;
use crate::apiserver::{ApiServer, NodeInfo};
use crate::files::{self, DOCUMENT};

/// What the API server says about the Node, unless that is another machine.
#[derive(Debug)]
pub(crate) enum SameMachine {
    /// One of the ids is equal.
    Yes,
    /// The API server answered, and the answer proves nothing: why.
    Unproven(String),
    /// The API server could not be asked: why.
    Unasked(String),
}

/// The ids of a machine, in one spelling; `None` where it has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Ids {
    boot: Option<String>,
    machine: Option<String>,
    system: Option<String>,
}

/// Asks for the Node of this name, and compares it with this machine, whose ids are `ids`.
///
/// # Errors
/// It is proven to be another machine.
pub(crate) async fn confirm(
    api_server: &ApiServer,
    name: &str,
    ids: &Ids,
    within: Duration,
) -> Result<SameMachine, NodeError> {
    match api_server.node(name, within).await {
        Ok(info) => ids.compare(name, &info),
        Err(error) => Ok(match error.status() {
            None => SameMachine::Unasked(error.to_string()),
            Some(StatusCode::NOT_FOUND) => {
                let text =
                    "there is no such Node (yet?): see that kubectl get nodes shows it under this very name";
                SameMachine::Unproven(format!("nodeName {name}: {text}"))
            }
            Some(StatusCode::FORBIDDEN) => SameMachine::Unproven(format!(
                "nodeName {name}: the gate's own user may not read this Node, so that nothing shows it to be \
                 this machine"
            )),
            Some(_) => SameMachine::Unproven(format!("nodeName {name}: {error}")),
        }),
    }
}

impl Ids {
    /// The ids that can be read. The firmware's can be read by root alone.
    pub(crate) fn of_this_machine(root: &Path) -> Self {
        let read = |file: &str| id(&files::read_text(root.join(file), DOCUMENT).ok()?);
        Self {
            boot: read("proc/sys/kernel/random/boot_id"),
            // The kubelet takes it from cAdvisor, which looks in these places.
            machine: read("etc/machine-id").or_else(|| read("var/lib/dbus/machine-id")),
            system: read("sys/class/dmi/id/product_uuid"),
        }
    }

    fn compare(&self, name: &str, node: &NodeInfo) -> Result<SameMachine, NodeError> {
        let pairs = [
            ("systemUUID", &self.system, id(&node.system_uuid)),
            ("machineID", &self.machine, id(&node.machine_id)),
            ("bootID", &self.boot, id(&node.boot_id)),
        ];
        let both = pairs.map(|(kind, ours, theirs)| Some((kind, ours.clone()?, theirs?)));
        let mut both = both.into_iter().flatten();
        if both.clone().any(|(_, ours, theirs)| ours == theirs) {
            return Ok(SameMachine::Yes);
        }
        match both.next() {
            // Until its kubelet has started, a machine's Node has the id of the previous boot.
            None | Some(("bootID", ..)) => Ok(SameMachine::Unproven(format!(
                "nodeName {name}: neither machineID nor systemUUID of the Node can be compared with this \
                 machine's"
            ))),
            Some((kind, ours, theirs)) => Err(NodeError::AnotherMachine {
                name: name.to_owned(),
                kind,
                theirs,
                ours,
            }),
        }
    }
}

/// Reads an id: all three kinds are 32 hexadecimal digits, with or without hyphens, in either case.
/// `None` for placeholders.
fn id(text: &str) -> Option<String> {
    let digits: String = text.trim().to_lowercase().replace('-', "");
    let sound = digits.len() == 32
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && digits.bytes().any(|byte| byte != b'0')
        && digits.bytes().any(|byte| byte != b'f');
    sound.then_some(digits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    const A: &str = "4C4C4544-0042-3510-8056-B4C04F4A3533";
    const B: &str = "11112222-3333-4444-5555-666677778888";
    const C: &str = "0123456789abcdef0123456789abcdef";

    fn root(boot: &str, machine: &str, system: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/sys/kernel/random/boot_id", boot),
            ("etc/machine-id", machine),
            ("sys/class/dmi/id/product_uuid", system),
        ] {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            if !text.is_empty() {
                fs::write(file, format!("{text}\n")).unwrap();
            }
        }
        root
    }

    fn verdict(ours: [&str; 3], theirs: [&str; 3]) -> &'static str {
        let root = root(ours[0], ours[1], ours[2]);
        let [boot_id, machine_id, system_uuid] = theirs.map(str::to_owned);
        let node = NodeInfo {
            boot_id,
            machine_id,
            system_uuid,
            addresses: Vec::new(),
        };
        match Ids::of_this_machine(root.path()).compare("worker-1", &node) {
            Ok(SameMachine::Yes) => "same",
            Ok(_) => "unproven",
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("worker-1") && text.contains("nodeName"), "{text}");
                "another"
            }
        }
    }

    /// Seen red: with a boot id that disagrees taken for a proof, a machine that was
    /// just restarted is another.
    #[test]
    fn another_machine_is_one_of_which_no_id_agrees_and_a_lasting_one_disagrees() {
        assert_eq!(verdict([A, C, B], [A, C, B]), "same");
        assert_eq!(verdict([A, C, B], ["", C, ""]), "same");
        assert_eq!(verdict([A, C, B], [B, C, A]), "same", "one that agrees is enough");
        assert_eq!(verdict([A, "", ""], [A, C, B]), "same");
        assert_eq!(
            verdict(["", "", A], ["", "", &A.to_lowercase()]),
            "same",
            "in any case"
        );
        assert_eq!(verdict([A, C, B], [B, A, A]), "another");
        assert_eq!(verdict([A, C, ""], ["", A, B]), "another");
        assert_eq!(verdict(["", "", A], ["", "", B]), "another");
        assert_eq!(
            verdict([A, "", ""], [B, "", ""]),
            "unproven",
            "restarted, and its kubelet not yet"
        );
        assert_eq!(verdict(["", "", ""], [A, C, B]), "unproven");
        assert_eq!(verdict([A, C, B], ["", "", ""]), "unproven");
        assert_eq!(
            verdict(["", C, ""], ["", "", A]),
            "unproven",
            "of different kinds"
        );
    }

    #[test]
    fn placeholders_are_no_ids() {
        for text in [
            "",
            "uninitialized",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "Not Settable",
            "0123456789abcdef",
        ] {
            assert_eq!(id(text), None, "{text}");
        }
        assert_eq!(id(A).unwrap(), "4c4c4544004235108056b4c04f4a3533");
    }
}
