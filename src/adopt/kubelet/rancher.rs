//! k3s and RKE2: they make the kubelet's arguments from files and flags of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::invocation::{Invocation, Source, Word, placed, program};
use super::root::{Root, broken};
use super::systemd::UnitStart;
use crate::files::{self, BUNDLE};

/// Which of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Product {
    K3s,
    Rke2,
}

impl Product {
    /// The one that a command starts as a server or an agent, each of which runs a kubelet.
    pub(super) fn of(words: &[Word]) -> Option<Self> {
        let mut title = words
            .iter()
            .flat_map(|word| word.text.split(' '))
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

/// What its configuration files, its environment and its flags set.
#[derive(Default)]
struct RancherOptions {
    data: Option<String>,
    node_name: Option<String>,
    node_ip: Option<String>,
    no_agent: bool,
    kubelet: Vec<Word>,
}

/// The kubelet inside this process. k3s hides its arguments: its title is one word, `/usr/local/bin/k3s
/// agent`, and only its unit has what it was started with.
pub(super) fn of_process(
    product: Product,
    words: &[Word],
    process: &Path,
    unit: Option<&UnitStart>,
    source: Source,
    root: Root,
) -> Option<Invocation> {
    let bytes = files::read(process.join("environ"), BUNDLE).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let environment = text
        .split('\0')
        .filter_map(|assignment| assignment.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let hidden = words.first().is_some_and(|word| word.text.contains(' '));
    let started = unit.filter(|unit| Product::of(&unit.words) == Some(product));
    let words = match started {
        Some(started) if hidden => &started.words,
        _ => words,
    };
    let mut invocation = invocation(product, words, &environment, source, root)?;
    match started {
        Some(started) if hidden => invocation.unread.extend(started.unread.clone()),
        None if hidden => invocation.unread.push(format!(
            "{} hides its arguments, and no unit has them",
            product.name()
        )),
        _ => {}
    }
    Some(invocation)
}

/// The kubelet that this command of k3s or RKE2 runs; none with `--disable-agent`.
pub(super) fn invocation(
    product: Product,
    words: &[Word],
    environment: &BTreeMap<String, String>,
    source: Source,
    root: Root,
) -> Option<Invocation> {
    let (mut notes, mut unread) = (Vec::new(), Vec::new());
    let options = read_options(product, words, environment, &root, &mut unread);
    if options.no_agent {
        return None;
    }
    let name = product.name();
    let data = options.data.unwrap_or_else(|| format!("/var/lib/rancher/{name}"));
    let agent = format!("{}/agent", data.trim_end_matches('/'));
    let mut passed = vec![
        format!("--kubeconfig={agent}/kubelet.kubeconfig"),
        "--read-only-port=0".to_owned(),
    ];
    let drop_ins = format!("{agent}/etc/kubelet.conf.d");
    let there = root.exists(&drop_ins);
    if let Err(error) = &there {
        unread.push(format!("{drop_ins}: {error}"));
    }
    if there.is_ok_and(|there| there) {
        passed.push(format!("--config-dir={drop_ins}"));
    } else {
        notes.push(format!(
            "{drop_ins} is not found: the flags are those that {name} passed before it had drop-ins (1.32)"
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
    if let Some(node) = options.node_name.or_else(host).filter(|name| !name.is_empty()) {
        passed.push(format!("--hostname-override={node}"));
    }
    if let Some(ip) = options.node_ip {
        passed.push(format!("--node-ip={ip}"));
    }
    let mut arguments = placed(&passed, &format!("as {name} passes it"));
    arguments.extend(options.kubelet.into_iter().map(|word| Word {
        text: format!("--{}", word.text.trim_start_matches('-')),
        place: word.place,
    }));
    Some(Invocation {
        notes,
        unread,
        ..Invocation::new(source, arguments, root)
    })
}

/// Files first, later ones over earlier ones, then the environment, then flags.
fn read_options(
    product: Product,
    words: &[Word],
    environment: &BTreeMap<String, String>,
    root: &Root,
    unread: &mut Vec<String>,
) -> RancherOptions {
    let mut options = RancherOptions::default();
    // The last one, under any of its names.
    let flag = |names: &[&str]| {
        let mut found = None;
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some((name, value)) = named(&word.text) else {
                continue;
            };
            if names.contains(&name) {
                found = value
                    .map(str::to_owned)
                    .or_else(|| rest.next().map(|word| word.text.clone()));
            }
        }
        found
    };
    let variable = |name: &str| {
        let name = format!("{}_{name}", product.name().to_uppercase());
        environment.get(&name).filter(|value| !value.is_empty()).cloned()
    };
    let main = flag(&["config", "c"])
        .or_else(|| variable("CONFIG_FILE"))
        .unwrap_or_else(|| format!("/etc/rancher/{}/config.yaml", product.name()));
    for file in files(root, main, unread) {
        let read = root.read(Path::new(&file)).map_err(|error| error.to_string());
        let parsed =
            read.and_then(|text| serde_saphyr::from_str::<Value>(&text).map_err(|error| broken(&error)));
        match parsed {
            Ok(value) => options.take(&value, &file),
            Err(why) => unread.push(format!(
                "{file}: {why}; its options for the kubelet are not known"
            )),
        }
    }
    options.data = flag(&["data-dir", "d"])
        .or_else(|| variable("DATA_DIR"))
        .or(options.data);
    options.node_name = flag(&["node-name"])
        .or_else(|| variable("NODE_NAME"))
        .or(options.node_name);
    options.node_ip = flag(&["node-ip", "i"]).or(options.node_ip);
    options.no_agent |= words.iter().any(|word| {
        matches!(
            named(&word.text),
            Some((
                "disable-agent",
                None | Some("true" | "TRUE" | "True" | "t" | "T" | "1")
            ))
        )
    });
    let mut given = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let argument = match named(&word.text) {
            Some(("kubelet-arg", Some(value))) => Some(value.to_owned()),
            Some(("kubelet-arg", None)) => rest.next().map(|word| word.text.clone()),
            _ => None,
        };
        given.extend(argument.map(|text| Word {
            text,
            place: Arc::clone(&word.place),
        }));
    }
    // A list of flags replaces that of the files.
    if !given.is_empty() {
        options.kubelet = given;
    }
    options
}

/// A flag's name, with one hyphen or two, and its value, if that is in the same word.
fn named(word: &str) -> Option<(&str, Option<&str>)> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    Some(match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    })
}

/// The configuration files that are there, in their order.
fn files(root: &Root, main: String, unread: &mut Vec<String>) -> Vec<String> {
    let folder = format!("{main}.d");
    let names = root.list(&folder).unwrap_or_else(|error| {
        unread.push(format!(
            "{folder}: {error}; the options of its files for the kubelet are not known"
        ));
        Vec::new()
    });
    let others = names
        .iter()
        .filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"))
        .map(|name| format!("{folder}/{name}"));
    // A file that cannot be looked up is reported when it is read.
    let there = |file: &String| root.exists(file).unwrap_or(true);
    std::iter::once(main).chain(others).filter(there).collect()
}

impl RancherOptions {
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
        if let Some(off) = value.get("disable-agent").and_then(Value::as_bool) {
            self.no_agent = off;
        }
        for (key, adds) in [("kubelet-arg", false), ("kubelet-arg+", true)] {
            let arguments: Vec<String> = match value.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(values)) => values
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
                Some(value) => value.as_str().into_iter().map(str::to_owned).collect(),
            };
            if !adds {
                self.kubelet.clear();
            }
            self.kubelet.extend(placed(&arguments, file));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        /// A later file replaces the kubelet's arguments of an earlier one, or adds to them, whatever else
        /// either says.
        ///
        /// Seen red: without `clear`.
        #[test]
        fn a_later_file_replaces_or_adds(
            first in prop::collection::vec("[a-z=-]{0,12}", 0..4),
            second in prop::collection::vec("[a-z=-]{0,12}", 0..4),
            adds in any::<bool>(),
            other in any::<i64>(),
        ) {
            let mut options = RancherOptions::default();
            options.take(&json!({"kubelet-arg": first, "data-dir": other, "x": {"kubelet-arg": "y"}}), "/a");
            let key = if adds { "kubelet-arg+" } else { "kubelet-arg" };
            options.take(&json!({key: second, "node-ip": [other]}), "/b");
            let words: Vec<&str> = options.kubelet.iter().map(|word| word.text.as_str()).collect();
            let mut expected = if adds { first } else { Vec::new() };
            expected.extend(second);
            prop_assert_eq!(words, expected);
        }

        #[test]
        fn any_file_is_read(text in "(kubelet-arg\\+?: |- |\\[|\\{|\n| |data-dir|node-ip|[ -~]){0,40}") {
            if let Ok(value) = serde_saphyr::from_str::<Value>(&text) {
                RancherOptions::default().take(&value, "/a");
            }
        }
    }
}
