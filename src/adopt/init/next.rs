//! What to do with the files that were written: commands that can be pasted from top to bottom, and the way back.

use std::path::{Path, PathBuf};

use super::configuration::Configuration;
use super::paths::Paths;
use super::{CONFIGURATION, Here, INSTALLED, Naming, RULES, filled, kubeconfig};
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::plain;

/// Where the program goes.
const PROGRAM: &str = "/usr/local/bin/kubelet-gate";

/// Where the gate will run.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Run {
    /// On this node, by systemd.
    Here,
    /// On the node whose file system was looked at, by systemd.
    There,
    /// From here, with the node's file system where it was looked at.
    Mounted,
}

struct Next<'a> {
    inspection: &'a Inspection,
    configuration: &'a Configuration,
    paths: &'a Paths,
    here: &'a Here<'a>,
    /// The other files.
    names: &'a [&'static str],
    run: Run,
    /// What the Node is called, or what stands for it.
    node: &'a str,
    /// The configuration that the gate is started with, there.
    config: String,
}

/// The commands, in order, with the way back.
pub(super) fn text(
    inspection: &Inspection,
    configuration: &Configuration,
    paths: &Paths,
    here: &Here<'_>,
    names: &[&'static str],
) -> String {
    let run = match (paths.differ(), here.naming) {
        (true, _) => Run::Mounted,
        (false, Naming::Node) if !paths.root().is_here() => Run::There,
        _ => Run::Here,
    };
    let next = Next {
        inspection,
        configuration,
        paths,
        here,
        names,
        run,
        node: configuration.node_name.as_deref().unwrap_or("NODE"),
        config: match run {
            Run::Mounted => CONFIGURATION.to_owned(),
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
        section("Know first", list(&findings.problems) + &list(&findings.remarks));
        section("Fill in", self.missing());
        if configuration.needs_credential {
            let kubelet = configuration
                .upstream
                .map_or_else(|| "127.0.0.1:10250".to_owned(), |address| address.to_string());
            let url = format!("https://{kubelet}");
            section(
                "Something to show the kubelet",
                configuration.asks.section(self.node, &url),
            );
        }
        section("The certificate that clients see", list(&configuration.presented));
        section("The API server must show a certificate", self.api_server());
        section("Install, look, start", self.start());
        section("Seal", self.seal());
        section("Back", self.back());
        text
    }

    fn first(&self) -> String {
        let mut text = format!(
            "# What to do next\n\n\
             For the kubelet of {}{}. Nothing of this node's has been changed yet.\n",
            shown(&self.inspection.invocation.source.to_string()),
            match &self.configuration.node_name {
                Some(name) => format!(", Node {name}"),
                None => String::new(),
            }
        );
        if self.configuration.node_name.is_none() {
            text.push_str("NODE stands below for what the Node is called (kubectl get nodes).\n");
        }
        if self.configuration.needs_credential {
            text.push_str(
                "\n**Do not seal this node yet.** Its kubelet asks for a credential that the gate has not got: logs, exec and metrics of \
                 this node would end. First the section *Something to show the kubelet*.\n",
            );
        }
        let out = word(self.here.out);
        text.push_str(&match self.run {
            Run::Here => format!(
                "\nAll of this is for a shell of root's on this node, from top to bottom:\n\n\
                 ```sh\ncd {out}\nPATH=$PATH:/usr/local/bin\n```\n"
            ),
            Run::There => format!(
                "\nThe files name the node's own paths. Take this folder and the program to the node, for instance so, with its address \
                 for ADDRESS:\n\n\
                 ```sh\nscp -r {out} root@ADDRESS:/root/gate\nscp {} root@ADDRESS:/root/gate/kubelet-gate\n```\n\n\
                 All the rest is for a shell of root's there, from top to bottom:\n\n\
                 ```sh\ncd /root/gate\nPATH=$PATH:/usr/local/bin\n```\n",
                word(self.here.program)
            ),
            Run::Mounted => self.mounted(&out),
        });
        text
    }

    fn mounted(&self, out: &str) -> String {
        let root = self.paths.root().path();
        let program = word(self.here.program);
        let call = match (self.here.program.parent(), self.here.program.file_name()) {
            (Some(folder), Some(name)) if name == "kubelet-gate" => format!("PATH=$PATH:{}", word(folder)),
            _ => format!("alias kubelet-gate={program}"),
        };
        format!(
            "\n**These files are for a gate that runs from here**, such as in a container: they name the node's files by paths below \
             {}. It needs the node's file system there, the node's network and process namespaces, /run/kubelet-gate, \
             /var/lib/kubelet-gate and /etc/systemd/system of the node's under these very names, a user of its own, and the \
             capabilities of config/systemd/kubelet-gate.service. For a service of systemd's on the node write the files anew, and go \
             by the NEXT.md there:\n\n\
             ```sh\n{program} init --root {} --node-paths --out {}\n```\n\n\
             Otherwise from here, from top to bottom:\n\n\
             ```sh\ncd {out}\n{call}\n```\n",
            shown(&root.display().to_string()),
            word(root),
            word(&with_suffix(self.here.out, "-for-systemd")),
        )
    }

    fn missing(&self) -> String {
        match list(&self.configuration.missing) {
            none if none.is_empty() => none,
            missing => format!("{missing}\nIn `{CONFIGURATION}`, where the line of each begins with `#`.\n"),
        }
    }

    /// What shows, or would show, that the API server comes through the gate.
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
                "This node's own does ({manifest}: --kubelet-client-certificate); each other of the cluster's must, too."
            ),
            Ok(false) => format!(
                "**This node's own presents none**: {manifest} has no --kubelet-client-certificate. Give it that and --kubelet-client-key, \
                 and each other of the cluster's, before you seal."
            ),
            Err(_) => "On a control-plane node the flags `--kubelet-client-certificate` and `--kubelet-client-key` of kube-apiserver say so; \
                       kubeadm, k3s, RKE2 and the managed services set them."
                .to_owned(),
        };
        format!(
            "The API server's requests come through the gate only if it presents a client certificate that the gate's `clientCAFile` \
             verifies, of a user who may `nodes/proxy`. Without one, logs, exec and metrics of this node end when it is sealed. {this}\n\n\
             Only a request shows it. `firewall apply` refuses until the gate has served the API server, unless it is told to try all the \
             same; the trial below does that, and becomes the seal only if the API server came through it.\n"
        )
    }

    fn start(&self) -> String {
        let config = &self.config;
        let prove = "kubelet-gate prove --save before.json     # what is open today; exit 2: something is\n";
        let ready = "curl -s 'http://127.0.0.1:19250/readyz?verbose'\n";
        if self.run == Run::Mounted {
            return format!(
                "```sh\n\
                 kubelet-gate check --offline --config {config}     # without --offline it asks the API server\n\
                 {prove}\
                 kubelet-gate serve --config {config}     # stays; the rest in another shell, in this folder\n\
                 {ready}\
                 ```\n"
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
        let program = match self.run {
            Run::There => Path::new("kubelet-gate"),
            _ => self.here.program,
        };
        let mut text = String::new();
        if program != Path::new(PROGRAM) {
            text.push_str(&format!("install -D -m 755 {} {PROGRAM}\n", word(program)));
        }
        text.push_str(&format!(
            "install -D -m 644 kubelet-gate.sysusers /usr/lib/sysusers.d/kubelet-gate.conf && systemd-sysusers\n\
             install -D -m 644 {CONFIGURATION} {INSTALLED}/{CONFIGURATION}\n"
        ));
        let kubeconfig = kubeconfig::NAME;
        if self.names.contains(&kubeconfig) {
            text.push_str(&format!(
                "install -D -m 600 {kubeconfig} {INSTALLED}/{kubeconfig}\n"
            ));
        }
        let asks = self.configuration.asks;
        if self.configuration.needs_credential && asks.can_be_shown() {
            text.push_str(&format!(
                "for file in {}; do [ ! -f $file ] || install -D -m 600 $file {INSTALLED}/$file; done\n",
                asks.installed().join(" ")
            ));
        }
        text + "install -D -m 644 kubelet-gate.service /etc/systemd/system/kubelet-gate.service\n"
    }

    fn seal(&self) -> String {
        let (config, node) = (&self.config, self.node);
        let configuration = self.configuration;
        if configuration.needs_credential && !configuration.asks.can_be_shown() {
            return "**Not while the kubelet is as it is**: see *Something to show the kubelet*.\n"
                .to_owned();
        }
        let kubelet = configuration.upstream.map_or(10250, |address| address.port());
        // Whoever pastes all of this must not close the node before the gate can serve it.
        let guard = match configuration.needs_credential {
            true => format!("grep -qE '^  (clientCertificateFile|tokenFile): ' {config} && "),
            false => String::new(),
        };
        let only_if = match configuration.needs_credential {
            true => {
                "**Only if `upstream` in the configuration has a credential by now**, and the kubelet said ok to it.\n\n"
            }
            false => "",
        };
        let what = match configuration.port == kubelet {
            true => format!(
                "The gate has port {kubelet} of the node's addresses; the seal closes loopback and the read-only port."
            ),
            false => format!(
                "Until now nobody comes to the gate: it listens on {}. The seal brings the callers of {kubelet} to it and refuses the \
                 rest.",
                configuration.port
            ),
        };
        let read = match self.names.contains(&RULES) {
            true => format!("     # or read {RULES}"),
            false => String::new(),
        };
        format!(
            "{only_if}{what}\n\n\
             ```sh\n\
             kubelet-gate firewall observe --for 10m --config {config}     # who would be affected; changes nothing\n\
             kubelet-gate firewall print --config {config}{read}\n\
             {guard}kubelet-gate firewall apply --accept-unseen-api-server --confirm-within 5m --confirm-when-verified --config {config}\n\
             ```\n\n\
             The last one waits. Within its five minutes, from where kubectl works, have the API server come through the seal, by any pod \
             of this node:\n\n\
             ```sh\n\
             kubectl get pods -A --field-selector spec.nodeName={node}\n\
             kubectl -n NAMESPACE logs POD --tail=1\n\
             kubectl -n NAMESPACE exec POD -- date\n\
             ```\n\n\
             If both answer, `apply` says that it is confirmed, and the seal holds, also after a reboot. If one does not, or your session \
             hangs, do nothing: after the five minutes the kernel takes the seal away by itself.\n\n\
             `apply` may refuse: exit 2, nothing is changed, and it names what speaks against it. Once you have looked at that:\n\n\
             - something on this node calls the read-only port: move it; or set `readOnlyPort.healthz: true`, which goes on answering \
             health checks, and restart the gate; or add `--close-health-checkers`, and it is refused from then on\n\
             - rules of others name these ports: add `--accept-foreign-rules` if they do no harm\n\n\
             ```sh\n\
             kubelet-gate firewall status --config {config}     # exit 0: sealed\n\
             kubelet-gate prove --compare before.json     # exit 0: nothing gets through any more\n\
             ```\n"
        )
    }

    fn back(&self) -> String {
        let (stop, order) = match self.run {
            Run::Mounted => ("", "Then end the gate, not before"),
            _ => ("systemctl disable --now kubelet-gate\n", "In this order"),
        };
        format!(
            "```sh\n\
             kubelet-gate firewall remove --config {}     # the kubelet is reached as before\n\
             {stop}\
             ```\n\n\
             {order}: a gate that is stopped behind a seal leaves the node without logs and exec. The kubelet was not touched, so nothing \
             of it has to be undone.\n",
            self.config
        )
    }
}

/// Prose in lines that are not too long; commands as they are.
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

/// Text of the node's in Markdown, where it must not begin what would hide the rest: a comment, a block of code.
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
