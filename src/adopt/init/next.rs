//! What to do with the files: commands to paste from top to bottom, and the way back.

use std::path::{Path, PathBuf};

use super::configuration::DraftConfiguration;
use super::destination::{Destination, Naming};
use super::files::{CONFIGURATION, KUBECONFIG, RULES, SERVICE, SOCKET};
use super::listening;
use super::paths::Paths;
use super::text::filled;
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::plain;

/// Where the files are to be installed on the node.
const INSTALLED: &str = "/etc/kubelet-gate";
/// Where the program is to be installed.
const PROGRAM: &str = "/usr/local/bin/kubelet-gate";

/// Where the gate will run.
#[derive(Clone, Copy, Eq, PartialEq)]
enum GatePlace {
    /// On this node, by systemd.
    Here,
    /// On the node whose file system was inspected, by systemd.
    There,
    /// On this machine, with the node's file system where it was inspected.
    Mounted,
}

struct Next<'a> {
    inspection: &'a Inspection,
    configuration: &'a DraftConfiguration,
    paths: &'a Paths,
    destination: &'a Destination<'a>,
    /// The names of the other files.
    names: &'a [&'static str],
    place: GatePlace,
    /// The Node's name, or a placeholder.
    node: &'a str,
    /// The configuration with which the gate is started.
    config: String,
}

/// The commands, in order, with the way back.
pub(super) fn text(
    inspection: &Inspection,
    configuration: &DraftConfiguration,
    paths: &Paths,
    destination: &Destination<'_>,
    names: &[&'static str],
) -> String {
    let place = match (paths.differ(), destination.naming) {
        (true, _) => GatePlace::Mounted,
        (false, Naming::Node) if !paths.root().is_here() => GatePlace::There,
        _ => GatePlace::Here,
    };
    let next = Next {
        inspection,
        configuration,
        paths,
        destination,
        names,
        place,
        node: configuration.node_name.as_deref().unwrap_or("NODE"),
        config: match place {
            GatePlace::Mounted => CONFIGURATION.to_owned(),
            _ => format!("{INSTALLED}/{CONFIGURATION}"),
        },
    };
    wrapped(&next.text())
}

impl Next<'_> {
    fn text(&self) -> String {
        let configuration = self.configuration;
        let mut text = self.first();
        let mut section = |title: &str, body: String| {
            if !body.is_empty() {
                text.push_str(&format!("\n## {title}\n{body}"));
            }
        };
        let findings = &configuration.findings;
        section(
            "Before you begin",
            list(&findings.problems) + &list(&findings.remarks),
        );
        section("Fill in", self.missing());
        if configuration.needs_credential {
            let kubelet = configuration
                .upstream
                .map_or_else(|| "127.0.0.1:10250".to_owned(), |address| address.to_string());
            let url = format!("https://{kubelet}");
            section(
                "A credential for the kubelet",
                configuration.policy.section(self.node, &url),
            );
        }
        section("The certificate that clients see", list(&configuration.presented));
        section("The API server must present a certificate", self.api_server());
        section("Install, check, start", self.start());
        section("Seal", self.seal());
        section("The way back", self.back());
        text
    }

    fn first(&self) -> String {
        let mut text = format!(
            "# What to do next\n\n\
             For the kubelet of {}{}. Nothing on this node has been changed yet.\n",
            shown(&self.inspection.invocation.source.to_string()),
            match &self.configuration.node_name {
                Some(name) => format!(", Node {name}"),
                None => String::new(),
            }
        );
        if self.configuration.node_name.is_none() {
            text.push_str("Replace NODE in the commands by the Node's name (kubectl get nodes).\n");
        }
        if self.configuration.needs_credential {
            text.push_str(
                "\n**Do not seal this node yet.** Its kubelet asks for a credential that the gate does not \
                 have: logs, exec and metrics of this node would stop working. Follow *A credential for the \
                 kubelet* first.\n",
            );
        }
        let out = word(self.destination.out);
        text.push_str(&match self.place {
            GatePlace::Here => format!(
                "\nPaste these commands into a root shell on this node, from top to bottom:\n\n\
                 ```sh\ncd {out}\nPATH=$PATH:/usr/local/bin\n```\n"
            ),
            GatePlace::There => format!(
                "\nThe files name the node's own paths. Copy this folder and the program to the node, for \
                 instance like this, with its address for ADDRESS:\n\n\
                 ```sh\nscp -r {out} root@ADDRESS:/root/gate\nscp {} \
                 root@ADDRESS:/root/gate/kubelet-gate\n```\n\n\
                 Paste the other commands into a root shell there, from top to bottom:\n\n\
                 ```sh\ncd /root/gate\nPATH=$PATH:/usr/local/bin\n```\n",
                word(self.destination.program)
            ),
            GatePlace::Mounted => self.mounted(&out),
        });
        text
    }

    fn mounted(&self, out: &str) -> String {
        let root = self.paths.root().path();
        let program = word(self.destination.program);
        let call = match (
            self.destination.program.parent(),
            self.destination.program.file_name(),
        ) {
            (Some(folder), Some(name)) if name == "kubelet-gate" => format!("PATH=$PATH:{}", word(folder)),
            _ => format!("alias kubelet-gate={program}"),
        };
        format!(
            "\n**These files are for a gate that runs from here**, such as in a container: they name the \
             node's files by paths below {}. This gate needs:\n\n\
             - the node's file system at that path, and the node's network and process namespaces\n\
             - the node's /run/kubelet-gate, /var/lib/kubelet-gate and /etc/systemd/system under these \
             names\n\
             - a user of its own, and the capabilities of config/systemd/kubelet-gate.service\n\n\
             To run the gate as a systemd service on the node, write the files again and follow the NEXT.md \
             there:\n\n\
             ```sh\n{program} init --root {} --node-paths --out {}\n```\n\n\
             To run it from here, paste these commands from top to bottom:\n\n\
             ```sh\ncd {out}\n{call}\n```\n",
            shown(&root.display().to_string()),
            word(root),
            word(&with_suffix(self.destination.out, "-for-systemd")),
        )
    }

    fn missing(&self) -> String {
        match list(&self.configuration.missing) {
            none if none.is_empty() => none,
            missing => {
                format!("{missing}\nFill them in in `{CONFIGURATION}`, and remove the `#` before each.\n")
            }
        }
    }

    /// Whether the API server presents a certificate, without which its requests do not pass the gate.
    fn api_server(&self) -> String {
        let folder = match self.inspection.options.text("staticPodPath") {
            "" => "/etc/kubernetes/manifests",
            folder => folder,
        };
        let manifest = Path::new(folder).join("kube-apiserver.yaml");
        let told = self.paths.root().read(&manifest).map(|text| {
            let mut lines = text.lines().map(str::trim_start);
            lines.any(|line| !line.starts_with('#') && line.contains("--kubelet-client-certificate"))
        });
        let manifest = shown(&manifest.display().to_string());
        let this = match told {
            Ok(true) => format!(
                "This node's own does ({manifest}: --kubelet-client-certificate). Every other API server of \
                 the cluster must, too."
            ),
            Ok(false) => format!(
                "**This node's own presents none**: {manifest} has no --kubelet-client-certificate. Set that \
                 and --kubelet-client-key, on every API server of the cluster, before you seal."
            ),
            Err(_) => "kube-apiserver presents one if it has the flags `--kubelet-client-certificate` and \
                       `--kubelet-client-key`; kubeadm, k3s, RKE2 and the managed services set them."
                .to_owned(),
        };
        format!(
            "The API server's requests pass the gate only if it presents a client certificate that the \
             gate's `clientCAFile` verifies, of a user with rights on `nodes/proxy`. Without one, logs, exec \
             and metrics of this node stop working when it is sealed. {this}\n\n\
             Only a request proves it. `firewall apply` refuses until the gate has served the API server, \
             unless `--accept-unseen-api-server` is given. The trial below gives it, and becomes the seal \
             only if the API server's requests pass.\n"
        )
    }

    fn start(&self) -> String {
        let config = &self.config;
        let prove = "kubelet-gate prove --save before.json     # exits 2 if anything is open today\n";
        let ready = "curl -s 'http://127.0.0.1:19250/readyz?verbose'\n";
        if self.place == GatePlace::Mounted {
            return format!(
                "```sh\n\
                 kubelet-gate check --offline --config {config}     # without --offline it asks the API \
                 server\n\
                 {prove}kubelet-gate serve --config {config}     # keeps running; use another shell, in this \
                 folder, for the rest\n\
                 {ready}```\n"
            );
        }
        format!(
            "```sh\n\
             {}\
             kubelet-gate check --config {config}\n\
             {prove}\
             systemctl daemon-reload && systemctl enable --now kubelet-gate\n\
             {ready}\
             ```\n",
            self.install()
        )
    }

    fn install(&self) -> String {
        let program = match self.place {
            GatePlace::There => Path::new("kubelet-gate"),
            _ => self.destination.program,
        };
        let mut text = String::new();
        if program != Path::new(PROGRAM) {
            text.push_str(&format!("install -D -m 755 {} {PROGRAM}\n", word(program)));
        }
        text.push_str(&format!(
            "install -D -m 644 kubelet-gate.sysusers /usr/lib/sysusers.d/kubelet-gate.conf && \
             systemd-sysusers\n\
             install -D -m 644 {CONFIGURATION} {INSTALLED}/{CONFIGURATION}\n"
        ));
        if self.names.contains(&KUBECONFIG) {
            text.push_str(&format!(
                "install -D -m 600 {KUBECONFIG} {INSTALLED}/{KUBECONFIG}\n"
            ));
        }
        let policy = self.configuration.policy;
        if self.configuration.needs_credential && policy.can_be_shown() {
            text.push_str(&format!(
                "for file in {}; do [ ! -f $file ] || install -D -m 600 $file {INSTALLED}/$file; done\n",
                policy.installed().join(" ")
            ));
        }
        for unit in [SERVICE, SOCKET].iter().filter(|unit| self.names.contains(unit)) {
            text.push_str(&format!("install -D -m 644 {unit} /etc/systemd/system/{unit}\n"));
        }
        text
    }

    fn seal(&self) -> String {
        let (config, node) = (&self.config, self.node);
        let configuration = self.configuration;
        if configuration.needs_credential && !configuration.policy.can_be_shown() {
            return "**Not with the kubelet's present options**: see *A credential for the kubelet*.\n"
                .to_owned();
        }
        let kubelet = configuration.upstream.map_or(10250, |address| address.port());
        // An operator who pastes everything at once must not seal the node before the gate can serve it.
        let guard = match configuration.needs_credential {
            true => format!("grep -qE '^  (clientCertificateFile|tokenFile): ' {config} && "),
            false => String::new(),
        };
        let only_if = match configuration.needs_credential {
            true => {
                "**Only if `upstream` in the configuration has a credential by now**, and the kubelet \
                 answered ok to it.\n\n"
            }
            false => "",
        };
        let what = match configuration.port == kubelet {
            true => format!(
                "The gate listens on port {kubelet} of the node's addresses; the seal closes loopback and \
                 the read-only port."
            ),
            false => format!(
                "No client uses the gate yet: it listens on port {}. The seal redirects the callers of port \
                 {kubelet} to it and refuses the rest.",
                configuration.port
            ),
        };
        let open = match configuration.port == kubelet {
            true => String::new(),
            false => self.open(kubelet),
        };
        let read = match self.names.contains(&RULES) {
            true => format!("     # or read {RULES}"),
            false => String::new(),
        };
        format!(
            "{only_if}{what}\n\n\
             ```sh\n\
             kubelet-gate firewall observe --for 10m --config {config}     # lists affected clients; changes \
             nothing\n\
             kubelet-gate firewall print --config {config}{read}\n\
             {guard}kubelet-gate firewall apply --accept-unseen-api-server --confirm-within 5m \
             --confirm-when-verified --config {config}\n\
             ```\n\n\
             The last command waits. Within its five minutes, have the API server send requests through the \
             seal, from a machine with kubectl, for any pod of this node:\n\n\
             ```sh\n\
             kubectl get pods -A --field-selector spec.nodeName={node}\n\
             kubectl -n NAMESPACE logs POD --tail=1\n\
             kubectl -n NAMESPACE exec POD -- date\n\
             ```\n\n\
             If both succeed, `apply` confirms the seal, and it stays in force, also after a reboot. If one \
             fails, or your session hangs, do nothing: the kernel removes the seal after the five \
             minutes.\n\n\
             `apply` may refuse: it exits 2, changes nothing, and names the reason. What to do about it:\n\n\
             - A process on this node calls the read-only port: move it to the gate. Or set \
             `readOnlyPort.healthz: true`, which keeps answering health checks, and restart the gate. Or add \
             `--close-health-checkers`, and its requests are refused from then on.\n\
             - Firewall rules of other programs refuse or redirect connections to these ports: read them, \
             and add `--accept-foreign-rules` if they do no harm.\n\
             {open}\n\
             ```sh\n\
             kubelet-gate firewall status --config {config}     # exits 0 if the node is sealed\n\
             kubelet-gate prove --compare before.json     # exits 0 if nothing gets through any more\n\
             ```\n"
        )
    }

    /// What the node's own firewall must open before the seal.
    fn open(&self, kubelet: u16) -> String {
        let mut ports = vec![self.configuration.port.to_string()];
        if self.inspection.options.number("readOnlyPort") != 0 {
            ports.push(listening::tombstone(self.destination).port().to_string());
        }
        format!(
            "- The node's own firewall opens port {kubelet} alone: the seal changes the port before that \
             firewall sees a packet, so it must open TCP {} as well. `apply` names the table and the chain. \
             With ufw: `for port in {words}; do ufw allow $port/tcp; done`. With firewalld: `for port in \
             {words}; do firewall-cmd --permanent --add-port=$port/tcp; done; firewall-cmd --reload`. A \
             firewall of Cilium or Calico that no listing shows needs the same in its host policies.\n",
            ports.join(", "),
            words = ports.join(" ")
        )
    }

    fn back(&self) -> String {
        let (stop, order) = match self.place {
            GatePlace::Mounted => ("", "Stop the gate after that, not before"),
            // While it is active, the next connection would start the gate again.
            _ if self.names.contains(&SOCKET) => (
                "systemctl stop kubelet-gate.socket\nsystemctl disable --now kubelet-gate\n",
                "In this order",
            ),
            _ => ("systemctl disable --now kubelet-gate\n", "In this order"),
        };
        format!(
            "```sh\n\
             kubelet-gate firewall remove --config {}     # clients reach the kubelet as before\n\
             {stop}```\n\n\
             {order}: if the gate is stopped while the node is sealed, the node has no logs and no exec. The \
             kubelet was not changed, so nothing has to be undone there.\n",
            self.config
        )
    }
}

/// Prose in lines of a bounded length; commands as they are.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::new();
    let mut commands = false;
    for line in text.lines() {
        commands ^= line.starts_with("```");
        match line.starts_with("- ") {
            _ if commands => wrapped.extend([line, "\n"]),
            true => wrapped.push_str(&filled("", "  ", line)),
            false => wrapped.push_str(&filled("", "", line)),
        }
    }
    wrapped
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {}\n", shown(line))).collect()
}

/// Text from the node in Markdown. It must not begin a comment or a block of code, which would hide the rest.
fn shown(text: &str) -> String {
    plain(text).replace('<', "\\<").replace('`', "\\`")
}

/// A path as a shell reads it.
fn word(path: &Path) -> String {
    let path = path.display().to_string();
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !path.is_empty() && path.chars().all(ordinary) {
        return path;
    }
    if plain(&path) == path {
        return format!("'{}'", path.replace('\'', "'\\''"));
    }
    let bytes: String = path.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("$'{bytes}'")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shells() {
        for (path, written) in [
            ("/root/gate", "/root/gate"),
            ("/root/my gate", "'/root/my gate'"),
            ("/it's", "'/it'\\''s'"),
            ("/$(reboot);`reboot`", "'/$(reboot);`reboot`'"),
            ("~", "'~'"),
            ("/a\n```", "$'\\x2f\\x61\\x0a\\x60\\x60\\x60'"),
        ] {
            assert_eq!(word(Path::new(path)), written);
        }
    }

    #[test]
    fn only_prose_is_wrapped() {
        let long = "word ".repeat(40);
        let text = format!("{long}\n- {long}\n```sh\n{long}\n```\n");
        let wrapped = wrapped(&text);
        let lines: Vec<&str> = wrapped.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[2].starts_with("- word") && lines[3].starts_with("  word"));
        assert_eq!(lines[5], long);
    }
}
