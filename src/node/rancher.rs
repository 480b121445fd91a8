//! k3s and RKE2: they make the kubelet's arguments themselves, from files and flags of their own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::invocation::{Invocation, Source, placed, program};
use super::root::Root;

/// Which of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Product {
    K3s,
    Rke2,
}

impl Product {
    /// The one that a command starts as a server or an agent, each of which runs a kubelet.
    pub(super) fn of(words: &[String]) -> Option<Self> {
        // k3s hides its arguments: its title is one word, "/usr/local/bin/k3s agent".
        let mut title = words
            .iter()
            .flat_map(|word| word.split(' '))
            .filter(|word| !word.is_empty());
        let (name, role) = (program(title.next()?), title.next().unwrap_or_default());
        match (name, role) {
            ("k3s", "server" | "agent") | ("k3s-server" | "k3s-agent", _) => Some(Self::K3s),
            ("rke2", "server" | "agent") => Some(Self::Rke2),
            _ => None,
        }
    }

    /// Whether the kubelet is a part of its process; RKE2's is a process of its own.
    pub(super) fn embeds_kubelet(self) -> bool {
        self == Self::K3s
    }

    fn name(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
        }
    }
}

/// What it is told, by its configuration files and flags.
#[derive(Default)]
struct Told {
    data: Option<String>,
    node_name: Option<String>,
    node_ip: Option<String>,
    /// Each with the place where it stands.
    kubelet: Vec<(String, String)>,
}

/// The kubelet that this command of k3s or RKE2 runs.
pub(super) fn invocation(product: Product, words: &[String], source: Source, root: Root) -> Invocation {
    let mut notes = Vec::new();
    let told = told(product, words, &source, &root, &mut notes);
    let name = product.name();
    let data = told.data.unwrap_or_else(|| format!("/var/lib/rancher/{name}"));
    let agent = format!("{}/agent", data.trim_end_matches('/'));
    let mut passed = vec![
        format!("--kubeconfig={agent}/kubelet.kubeconfig"),
        "--read-only-port=0".to_owned(),
    ];
    let drop_ins = format!("{agent}/etc/kubelet.conf.d");
    if root.has(&drop_ins) {
        passed.push(format!("--config-dir={drop_ins}"));
    } else {
        notes.push(format!(
            "{drop_ins} is not there: the flags are those that {name} passed before it had drop-ins (1.32)"
        ));
        passed.extend(
            [
                "--anonymous-auth=false",
                "--authentication-token-webhook=true",
                "--authorization-mode=Webhook",
                "--address=0.0.0.0",
                "--healthz-bind-address=127.0.0.1",
            ]
            .map(str::to_owned),
        );
        passed.push(format!("--client-ca-file={agent}/client-ca.crt"));
        passed.push(format!("--tls-cert-file={agent}/serving-kubelet.crt"));
        passed.push(format!("--tls-private-key-file={agent}/serving-kubelet.key"));
    }
    let host = || {
        root.read("/etc/hostname")
            .ok()
            .map(|name| name.trim().to_lowercase())
    };
    if let Some(node) = told.node_name.or_else(host).filter(|name| !name.is_empty()) {
        passed.push(format!("--hostname-override={node}"));
    }
    if let Some(ip) = told.node_ip {
        passed.push(format!("--node-ip={ip}"));
    }
    let mut arguments = placed(&passed, &format!("as {name} passes it"));
    for (argument, place) in &told.kubelet {
        arguments.extend(placed(
            &[format!("--{}", argument.trim_start_matches('-'))],
            place,
        ));
    }
    Invocation {
        source,
        words: arguments,
        root,
        directory: PathBuf::from("/"),
        notes,
    }
}

/// Files first, of which a later one replaces what an earlier one says, then flags.
fn told(product: Product, words: &[String], source: &Source, root: &Root, notes: &mut Vec<String>) -> Told {
    let mut told = Told::default();
    let folder = format!("/etc/rancher/{}", product.name());
    let flag = |name: &str| {
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match word
                .strip_prefix("--")
                .map(|word| word.split_once('=').unwrap_or((word, "")))
            {
                Some((flag, "")) if flag == name => return rest.next().cloned(),
                Some((flag, value)) if flag == name => return Some(value.to_owned()),
                _ => {}
            }
        }
        None
    };
    let main = flag("config").unwrap_or_else(|| format!("{folder}/config.yaml"));
    let more = format!("{main}.d");
    let names = root.list(&more).unwrap_or_default();
    let others = names
        .iter()
        .filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"))
        .map(|name| format!("{more}/{name}"));
    for file in std::iter::once(main).chain(others) {
        if !root.has(&file) {
            continue;
        }
        let read = root.read(Path::new(&file)).map_err(|error| error.to_string());
        let parsed =
            read.and_then(|text| serde_saphyr::from_str::<Value>(&text).map_err(|error| error.to_string()));
        match parsed {
            Ok(value) => told.take(&value, &file),
            Err(why) => notes.push(format!("{file}: {why}; what it says of the kubelet is not seen")),
        }
    }
    told.data = flag("data-dir").or(told.data);
    told.node_name = flag("node-name").or(told.node_name);
    told.node_ip = flag("node-ip").or(told.node_ip);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let argument = match word.strip_prefix("--kubelet-arg") {
            Some("") => rest.next().cloned(),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        told.kubelet
            .extend(argument.map(|argument| (argument, source.to_string())));
    }
    told
}

impl Told {
    fn take(&mut self, value: &Value, file: &str) {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let first = |key: &str| match value.get(key) {
            Some(Value::Array(values)) => {
                let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                Some(texts.join(","))
            }
            _ => text(key),
        };
        self.data = text("data-dir").or_else(|| self.data.take());
        self.node_name = text("node-name").or_else(|| self.node_name.take());
        self.node_ip = first("node-ip").or_else(|| self.node_ip.take());
        for (key, adds) in [("kubelet-arg", false), ("kubelet-arg+", true)] {
            let arguments = match value.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
                Some(value) => value.as_str().into_iter().collect::<Vec<_>>(),
            };
            if !adds {
                self.kubelet.clear();
            }
            let placed = |argument: &str| (argument.to_owned(), file.to_owned());
            self.kubelet.extend(arguments.into_iter().map(placed));
        }
    }
}
