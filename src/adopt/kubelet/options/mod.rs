//! A kubelet's effective options: what it really runs with, from its flags, its configuration file, its
//! drop-ins and both sets of defaults, combined as the kubelet combines them.

mod fields;
mod flags;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use self::fields::FIELDS;
pub use self::fields::Field;
pub(crate) use self::flags::{arguments, given};

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use self::fields::ValueKind;
use self::flags::{GivenFlag, parsed};
use self::values::{ValueError, flagged, found, is_zero, typed};
use super::invocation::Invocation;
use super::root::{Root, broken};

/// Deepest nesting of drop-ins that is read. The kubelet does not follow links to folders, so they cannot go
/// round.
const DEPTH: usize = 32;

/// Where a value came from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind", content = "place")]
pub enum ValueOrigin {
    /// It is not set.
    Default,
    /// It is not set, on a kubelet without `--config`, which has defaults of its own.
    LegacyDefault,
    /// A flag, and where that stands.
    Flag(String),
    /// The `--config` file.
    File(String),
    /// A file of `--config-dir`.
    DropIn(String),
}

impl std::fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::LegacyDefault => f.write_str("default without --config"),
            Self::Flag(place) => write!(f, "flag, {place}"),
            Self::File(path) | Self::DropIn(path) => f.write_str(path),
        }
    }
}

/// An option with its value.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which one.
    pub field: &'static Field,
    /// What it is.
    pub value: Value,
    /// Where it is set.
    pub origin: ValueOrigin,
}

impl Setting {
    /// The value as it is printed; an empty text is `""`.
    #[must_use]
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::String(text) if text.is_empty() => "\"\"".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(values) => {
                let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                if texts.is_empty() {
                    "(none named)".to_owned()
                } else {
                    texts.join(",")
                }
            }
            value => value.to_string(),
        }
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.value == Value::Bool(true)
    }

    /// Its number, 0 if it has none.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    /// Its text, empty if it has none.
    #[must_use]
    pub fn text(&self) -> &str {
        self.value.as_str().unwrap_or_default()
    }

    /// Whether a file or a flag sets it.
    #[must_use]
    pub(crate) fn is_set(&self) -> bool {
        !matches!(self.origin, ValueOrigin::Default | ValueOrigin::LegacyDefault)
    }
}

/// Why the options of a kubelet are not known.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct OptionsError {
    /// The file or flag.
    pub place: String,
    /// What is wrong with it.
    pub why: String,
}

/// All of [`FIELDS`], with their values.
#[derive(Clone, Debug)]
pub struct Effective {
    settings: Vec<Setting>,
    /// The files that were read, in their order.
    pub files: Vec<String>,
    /// What a kubelet would refuse, or what may surprise the operator.
    pub notes: Vec<String>,
    /// Sources that could not be read, and may hold any option.
    pub unread: Vec<String>,
}

impl Effective {
    /// Combines what `invocation` says: defaults, then the file, then the drop-ins, then the flags.
    ///
    /// # Errors
    /// A file cannot be read or understood, or a flag's value is wrong: a kubelet would not start with it.
    pub fn of(invocation: &Invocation) -> Result<Self, OptionsError> {
        let (mut notes, mut unread) = (Vec::new(), Vec::new());
        let flags = parsed(invocation, &mut notes);
        let last = |name: &str| {
            let given = flags.iter().rev().find(|given| given.name == name);
            given
                .map(|given| given.value.as_str())
                .filter(|value| !value.is_empty())
        };
        let root = &invocation.root;
        let mut files = Vec::new();
        let mut layers: Vec<(Value, Layer)> = Vec::new();
        let mut config = last("config").map(|path| absolute(&invocation.directory, path));
        // A copy of a node may lack an empty folder; the kubelets that had --api-servers named one.
        let is_folder = |path: &PathBuf| match root.resolve(path).and_then(std::fs::metadata) {
            Ok(about) => about.is_dir(),
            Err(_) => last("api-servers").is_some(),
        };
        if let Some(folder) = config.take_if(|path| is_folder(path)) {
            notes.push(format!(
                "--config names a folder, {}: before Kubernetes 1.6 that was where static pods are (now \
                 --pod-manifest-path), and such a kubelet has the defaults of one without a file. A newer \
                 kubelet does not start with it",
                shown(&folder)
            ));
        }
        if let Some(path) = &config {
            layers.push((document(root, path, &mut notes)?, Layer::File(path.clone())));
            files.push(shown(path));
        }
        if last("dynamic-config-dir").is_some() {
            unread.push(
                "--dynamic-config-dir: the configuration that the API server keeps for this node overrides \
                 the files"
                    .to_owned(),
            );
        }
        if let Some(folder) = last("config-dir").map(|path| absolute(&invocation.directory, path)) {
            let found = drop_ins(root, &folder, &mut notes, &mut unread)?;
            for path in invocation.with_copies(found) {
                layers.push((document(root, &path, &mut notes)?, Layer::DropIn(path.clone())));
                files.push(shown(&path));
            }
        }
        let settings: Vec<Setting> = FIELDS
            .iter()
            .map(|field| setting(field, config.is_none(), &layers, &flags, &invocation.directory))
            .collect::<Result<_, _>>()?;
        let left_out = settings
            .iter()
            .filter(|setting| setting.origin == ValueOrigin::LegacyDefault);
        let left_out: Vec<&str> = left_out.map(|setting| setting.field.key).collect();
        if config.is_none() && !layers.is_empty() && !left_out.is_empty() {
            notes.push(format!(
                "--config-dir without --config: options that the drop-ins do not set have the defaults of a \
                 kubelet without a file: {}",
                left_out.join(", ")
            ));
        }
        Ok(Self {
            settings,
            files,
            notes,
            unread,
        })
    }

    /// Every option, in the order of [`FIELDS`].
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The option with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.field.key == key)
    }

    /// Whether this option is on.
    #[must_use]
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(Setting::is_on)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self, key: &str) -> i64 {
        self.get(key).map_or(0, Setting::number)
    }

    /// Its text, empty if it has none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.get(key).map_or("", Setting::text)
    }

    /// The addresses that the kubelet announces for its node, by `--node-ip`. An unspecified one leaves the
    /// choice to the kubelet.
    #[must_use]
    pub(crate) fn announced_addresses(&self) -> Vec<IpAddr> {
        self.text("--node-ip")
            .split(',')
            .filter_map(|address| address.trim().parse().ok())
            .filter(|address: &IpAddr| !address.is_unspecified())
            .collect()
    }

    /// The files of the certificate and key that the kubelet serves: the rotated ones, the configured ones,
    /// or the ones that it makes itself.
    #[must_use]
    pub fn serving_pair(&self) -> (String, String) {
        let folder = self.text("--cert-dir");
        let (certificate, key) = (self.text("tlsCertFile"), self.text("tlsPrivateKeyFile"));
        if self.is_on("serverTLSBootstrap") && self.is_on("featureGates.RotateKubeletServerCertificate") {
            let both = format!("{folder}/kubelet-server-current.pem");
            (both.clone(), both)
        } else if certificate.is_empty() && key.is_empty() {
            (format!("{folder}/kubelet.crt"), format!("{folder}/kubelet.key"))
        } else {
            (certificate.to_owned(), key.to_owned())
        }
    }
}

/// A file whose options override the defaults and earlier files.
enum Layer {
    File(PathBuf),
    DropIn(PathBuf),
}

/// A configuration file as JSON.
fn document(root: &Root, path: &Path, notes: &mut Vec<String>) -> Result<Value, OptionsError> {
    let failed = |why: String| OptionsError {
        place: shown(path),
        why,
    };
    let text = root.read(path).map_err(|error| failed(error.to_string()))?;
    // JSON may have tabs, which YAML may not.
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(_) => {
            let options = serde_saphyr::options! {
                duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
            };
            // A kubelet reads the first document and ignores the others.
            let mut bytes = text.as_bytes();
            let first = serde_saphyr::read_with_options::<_, Value>(&mut bytes, options)
                .next()
                .transpose()
                .map_err(|error| failed(broken(&error)))?;
            first.unwrap_or(Value::Null)
        }
    };
    if !value.is_object() {
        return Err(failed(
            "not a KubeletConfiguration: the file is empty, a list or a single value".to_owned(),
        ));
    }
    if value["kind"] != "KubeletConfiguration" {
        notes.push(format!(
            "{}: without kind: KubeletConfiguration a kubelet does not start",
            path.display()
        ));
    }
    Ok(value)
}

/// The `*.conf` below a folder, in the kubelet's order. Links to folders are not followed, not even at the
/// top.
fn drop_ins(
    root: &Root,
    folder: &Path,
    notes: &mut Vec<String>,
    unread: &mut Vec<String>,
) -> Result<Vec<PathBuf>, OptionsError> {
    fn walk(root: &Root, folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        if depth > DEPTH {
            return Err(std::io::Error::other("folders nested too deep"));
        }
        for name in root.list(folder)? {
            let path = folder.join(&name);
            if root.is_folder(&path) {
                walk(root, &path, depth + 1, found)?;
            } else if name.ends_with(".conf") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    if !root.is_folder(folder) {
        let folder = shown(folder);
        match root.exists(&folder) {
            Ok(true) => notes.push(format!(
                "--config-dir {folder}: not a folder, or a link to one, which a kubelet does not follow: no \
                 drop-ins"
            )),
            Ok(false) => unread.push(format!(
                "--config-dir {folder}: not found: a kubelet does not start"
            )),
            Err(error) => unread.push(format!("--config-dir {folder}: {error}")),
        }
        return Ok(found);
    }
    walk(root, folder, 0, &mut found).map_err(|error| OptionsError {
        place: shown(folder),
        why: error.to_string(),
    })?;
    Ok(found)
}

fn setting(
    field: &'static Field,
    no_config: bool,
    layers: &[(Value, Layer)],
    flags: &[GivenFlag<'_>],
    directory: &Path,
) -> Result<Setting, OptionsError> {
    let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let (mut value, mut origin) = match field.legacy {
        Some(legacy) if no_config => (json(legacy), ValueOrigin::LegacyDefault),
        _ => (json(field.default), ValueOrigin::Default),
    };
    for (document, layer) in layers.iter().filter(|_| !field.key.starts_with("--")) {
        let (path, from) = match layer {
            Layer::File(path) => (path, ValueOrigin::File(shown(path))),
            Layer::DropIn(path) => (path, ValueOrigin::DropIn(shown(path))),
        };
        let failed = |error: ValueError| OptionsError {
            place: shown(path),
            why: error.to_string(),
        };
        let found = found(document, field.key).map_err(failed)?;
        match found {
            None => {}
            Some(Value::Null) => (value, origin) = (json(field.default), ValueOrigin::Default),
            Some(given) => {
                let typed = typed(field, given).map_err(failed)?;
                if field.zero_is_unset && is_zero(&typed) {
                    (value, origin) = (json(field.default), ValueOrigin::Default);
                } else {
                    (value, origin) = (typed, from.clone());
                }
                let starts_at = match layer {
                    Layer::File(path) => path.parent().unwrap_or(directory),
                    Layer::DropIn(_) => directory,
                };
                value = located(field, value, starts_at);
            }
        }
    }
    let of_flag = |given: &GivenFlag<'_>, text: &str| {
        flagged(field, &given.name, text).map_err(|error| OptionsError {
            place: given.place.to_owned(),
            why: error.to_string(),
        })
    };
    if let Some(gate) = field.key.strip_prefix("featureGates.") {
        for given in flags.iter().filter(|given| given.name == "feature-gates") {
            let gates = given
                .value
                .split(',')
                .filter_map(|gate| gate.trim().split_once('='));
            let gates = gates.map(|(name, set)| (name.trim(), set.trim()));
            for (_, set) in gates.filter(|(name, _)| *name == gate) {
                (value, origin) = (of_flag(given, set)?, ValueOrigin::Flag(given.place.to_owned()));
            }
        }
    }
    let named = |given: &&GivenFlag<'_>| !field.flag.is_empty() && given.name == field.flag;
    for (at, given) in flags.iter().filter(named).enumerate() {
        let flagged = of_flag(given, &given.value)?;
        match (&mut value, flagged) {
            // Of a list, the first flag replaces the file's value and later ones add to it. Otherwise the
            // last counts.
            (Value::Array(all), Value::Array(more)) if at > 0 => all.extend(more),
            (value, flagged) => *value = located(field, flagged, directory),
        }
        origin = ValueOrigin::Flag(given.place.to_owned());
    }
    Ok(Setting { field, value, origin })
}

/// A path made absolute.
fn located(field: &Field, value: Value, directory: &Path) -> Value {
    match (&value, field.kind) {
        (Value::String(path), ValueKind::Path) if !path.is_empty() => {
            json!(shown(&absolute(directory, path)))
        }
        _ => value,
    }
}

/// An absolute path without `.` and `..`; links are not followed.
fn absolute(directory: &Path, path: &str) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in directory.join(path).components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            _ => {}
        }
    }
    absolute
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// As JSON, by key: `{"value": …, "origin": …}`, with the flag that would set it.
#[must_use]
pub(crate) fn as_json(effective: &Effective) -> Value {
    let all = effective.settings.iter().map(|setting| {
        let flag = (!setting.field.flag.is_empty()).then_some(setting.field.flag);
        let about = json!({"flag": flag, "value": setting.value, "origin": setting.origin});
        (setting.field.key.to_owned(), about)
    });
    Value::Object(all.collect::<Map<String, Value>>())
}
