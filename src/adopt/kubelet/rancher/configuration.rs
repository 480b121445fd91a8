//! What k3s or RKE2 is told: by its configuration files, by its environment, by its flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::arguments;
use super::product::Product;
use crate::adopt::kubelet::invocation::{Word, placed};
use crate::adopt::kubelet::options::FIELDS;
use crate::adopt::kubelet::root::{Root, broken};

/// What it is told of the kubelet.
#[derive(Default)]
pub(super) struct RancherOptions {
    pub(super) data: Option<String>,
    pub(super) node_name: Option<String>,
    pub(super) node_ip: Option<String>,
    pub(super) no_agent: bool,
    pub(super) protects_kernel_defaults: bool,
    rootless: bool,
    /// `kubelet-arg`.
    pub(super) kubelet: Vec<Word>,
}

/// The keys of a configuration file with their values, in the order in which they are written.
struct Entries(Vec<(String, Value)>);

impl Entries {
    fn get(&self, key: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys and values, or nothing")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(InOrder)
    }
}

impl RancherOptions {
    /// Files first, later ones over earlier ones. Flags win over files, and files over the environment: k3s
    /// inserts what the files say before the flags of its command.
    pub(super) fn read(
        product: Product,
        words: &[Word],
        environment: &BTreeMap<String, String>,
        root: &Root,
        unread: &mut Vec<String>,
    ) -> Self {
        let mut options = Self::default();
        let variable = |name: &str| {
            let name = format!("{}_{name}", product.name().to_uppercase());
            environment.get(&name).filter(|value| !value.is_empty()).cloned()
        };
        // For the file's own name alone the environment wins.
        let main = variable("CONFIG_FILE")
            .or_else(|| file_flag(words))
            .unwrap_or_else(|| format!("/etc/rancher/{}/config.yaml", product.name()));
        for file in files(root, main, unread) {
            let read = root.read(Path::new(&file)).map_err(|error| error.to_string());
            let parsed = read
                .and_then(|text| serde_saphyr::from_str::<Entries>(&text).map_err(|error| broken(&error)));
            match parsed {
                Ok(entries) => options.take(&entries, &file, unread),
                Err(why) => unread.push(format!(
                    "{file}: {why}; its options for the kubelet are not known"
                )),
            }
        }
        options.data = flag(words, &["data-dir", "d"])
            .or(options.data)
            .or_else(|| variable("DATA_DIR"));
        options.node_name = flag(words, &["node-name"])
            .or(options.node_name)
            .or_else(|| variable("NODE_NAME"));
        options.node_ip = flag(words, &["node-ip", "i"]).or(options.node_ip);
        options.no_agent = switch(words, "disable-agent").unwrap_or(options.no_agent);
        options.protects_kernel_defaults =
            switch(words, "protect-kernel-defaults").unwrap_or(options.protects_kernel_defaults);
        if switch(words, "rootless").unwrap_or(options.rootless) {
            unread.push(
                "rootless: the kubelet runs in a user's namespaces, with files below that user's home"
                    .to_owned(),
            );
        }
        options.add(given(words), unread);
        options
    }

    /// `kubelet-arg` of the command adds to that of the files. The documentation says that it replaces them,
    /// so nothing is certain of what the files alone set.
    fn add(&mut self, given: Vec<Word>, unread: &mut Vec<String>) {
        let name = |word: &Word| arguments::name(&word.text).replace('_', "-");
        let decides = |name: &str| {
            matches!(name, "config" | "config-dir" | "feature-gates")
                || FIELDS.iter().any(|field| field.flag == name)
        };
        for word in self.kubelet.iter().filter(|_| !given.is_empty()) {
            let set = name(word);
            if decides(&set) && given.iter().all(|given| name(given) != set) {
                unread.push(format!(
                    "{}: kubelet-arg {set}, and --kubelet-arg in the command: the command's add to the \
                     file's by the program, and replace them by its documentation; keep them in one place",
                    word.place
                ));
            }
        }
        self.kubelet.extend(given);
    }

    fn take(&mut self, entries: &Entries, file: &str, unread: &mut Vec<String>) {
        let text = |key: &str| entries.get(key).and_then(Value::as_str).map(str::to_owned);
        let first = |key: &str| match entries.get(key) {
            Some(Value::Array(values)) => {
                let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                Some(texts.join(","))
            }
            _ => text(key),
        };
        let switch = |key: &str| match entries.get(key)? {
            Value::Bool(on) => Some(*on),
            value => boolean(value.as_str()?),
        };
        self.data = text("data-dir").or_else(|| self.data.take());
        self.node_name = text("node-name").or_else(|| self.node_name.take());
        self.node_ip = first("node-ip").or_else(|| self.node_ip.take());
        self.no_agent = switch("disable-agent").unwrap_or(self.no_agent);
        self.rootless = switch("rootless").unwrap_or(self.rootless);
        self.protects_kernel_defaults =
            switch("protect-kernel-defaults").unwrap_or(self.protects_kernel_defaults);
        for (key, value) in &entries.0 {
            let adds = match key.as_str() {
                "kubelet-arg" => false,
                "kubelet-arg+" => true,
                _ => continue,
            };
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            if values.iter().any(|value| !value.is_string() && !value.is_null()) {
                unread.push(format!(
                    "{file}: {key}: an entry is not a text such as \"read-only-port=0\""
                ));
            }
            let texts: Vec<String> = values
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            if !adds {
                self.kubelet.clear();
            }
            self.kubelet.extend(placed(&texts, file));
        }
    }
}

/// `--config`, by which k3s finds its file before it reads its flags: the first one, in these spellings.
fn file_flag(words: &[Word]) -> Option<String> {
    let names = ["--config", "-c"];
    let at = |word: &Word| names.contains(&word.text.split('=').next().unwrap_or_default());
    let found = words.iter().position(at)?;
    match words[found].text.split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => words.get(found + 1).map(|word| word.text.clone()),
    }
}

/// The last value of a flag, under any of its names.
fn flag(words: &[Word], names: &[&str]) -> Option<String> {
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
}

fn switch(words: &[Word], name: &str) -> Option<bool> {
    let mut flags = words.iter().filter_map(|word| named(&word.text));
    let (_, value) = flags.rfind(|(found, _)| *found == name)?;
    value.map_or(Some(true), boolean)
}

/// As Go reads one.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Each `--kubelet-arg`.
fn given(words: &[Word]) -> Vec<Word> {
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
    given
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
    if main.starts_with("http:") || main.starts_with("https:") {
        unread.push(format!("{main}: configuration from another machine is not read"));
        return Vec::new();
    }
    let folder = format!("{main}.d");
    let names = root.list(&folder).unwrap_or_else(|error| {
        unread.push(format!(
            "{folder}: {error}; the options of its files for the kubelet are not known"
        ));
        Vec::new()
    });
    let is_yaml = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".yaml") || name.ends_with(".yml")
    };
    let others = names
        .iter()
        .filter(|name| is_yaml(name))
        .map(|name| format!("{folder}/{name}"))
        .filter(|file| !root.is_folder(file));
    // A file that cannot be looked up is reported when it is read.
    let there = |file: &String| root.exists(file).unwrap_or(true);
    std::iter::once(main)
        .filter(there)
        .chain(others.filter(|file| there(file) || root.is_link(file)))
        .collect()
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
            let (mut options, mut unread) = (RancherOptions::default(), Vec::new());
            let entries = |value: Value| serde_json::from_value::<Entries>(value).unwrap();
            let one = json!({"kubelet-arg": first, "data-dir": other, "x": {"kubelet-arg": "y"}});
            options.take(&entries(one), "/a", &mut unread);
            let key = if adds { "kubelet-arg+" } else { "kubelet-arg" };
            options.take(&entries(json!({key: second, "node-ip": [other]})), "/b", &mut unread);
            let words: Vec<&str> = options.kubelet.iter().map(|word| word.text.as_str()).collect();
            let mut expected = if adds { first } else { Vec::new() };
            expected.extend(second);
            prop_assert_eq!(words, expected);
            prop_assert!(unread.is_empty(), "{:?}", unread);
        }

        #[test]
        fn any_file_is_read(text in "(kubelet-arg\\+?: |- |\\[|\\{|\n| |data-dir|node-ip|[ -~]){0,40}") {
            if let Ok(entries) = serde_saphyr::from_str::<Entries>(&text) {
                RancherOptions::default().take(&entries, "/a", &mut Vec::new());
            }
        }
    }
}
