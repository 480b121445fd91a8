//! A kubelet's effective options: what it really runs with, from its flags, its configuration file, its
//! drop-ins and both sets of defaults, combined as the kubelet combines them.

mod document;
mod error;
mod fields;
mod flag_names;
mod flags;
mod schema;
#[cfg(test)]
mod tests;
mod values;

pub use self::error::OptionsError;
pub(crate) use self::fields::FIELDS;
pub use self::fields::Field;
pub(crate) use self::flags::{arguments, given};
pub(super) use self::values::address;

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use self::document::{ConfigurationFile, Role};
use self::fields::ValueKind;
use self::flags::{CommandLine, GivenFlag, is_of};
use self::values::{flagged, is_zero};
use super::invocation::Invocation;
use super::root::Root;

/// Deepest nesting of drop-ins that is read. The kubelet does not follow links to folders, so they cannot go
/// round.
const DEPTH: usize = 32;

/// Flags that kubelets had when `--config` was the folder of static pods, and that no newer one has.
const OLD: [&str; 6] = [
    "api-servers",
    "auth-path",
    "babysit-daemons",
    "configure-cbr0",
    "reconcile-cidr",
    "require-kubeconfig",
];

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

/// All of [`FIELDS`], with their values.
#[derive(Clone, Debug)]
pub struct Effective {
    settings: Vec<Setting>,
    /// The files that were read, in their order.
    pub files: Vec<String>,
    /// What may surprise the operator.
    pub notes: Vec<String>,
    /// Why a kubelet does not start with these flags and files, so that no value is in force.
    pub refused: Vec<String>,
    /// Sources that could not be read, and may hold any option.
    pub unread: Vec<String>,
}

impl Effective {
    /// Combines what `invocation` says: defaults, then the file, then the drop-ins, then the flags.
    ///
    /// # Errors
    /// A file cannot be read or understood, or a flag's value is wrong: a kubelet would not start with it.
    pub fn of(invocation: &Invocation) -> Result<Self, OptionsError> {
        let mut line = CommandLine::of(invocation);
        let mut told = Told {
            notes: std::mem::take(&mut line.notes),
            refused: Vec::new(),
            unread: std::mem::take(&mut line.unread),
        };
        let words = std::mem::take(&mut line.refused);
        match invocation.pid() {
            // It has started with these words: old versions ignore some of them.
            Some(_) => told.notes.extend(words),
            None => told.refused.extend(words),
        }
        let directory = &invocation.directory;
        let root = &invocation.root;
        let mut files = Vec::new();
        let config = line.last("config").map(|path| absolute(directory, path));
        let is_old = OLD
            .iter()
            .any(|flag| line.flags.iter().any(|given| given.name == *flag));
        let config = told.main_file(root, config, is_old)?;
        let no_config = config.is_none();
        let mut layers: Vec<ConfigurationFile> = config.into_iter().collect();
        if line.last("dynamic-config-dir").is_some() {
            told.unread.push(
                "--dynamic-config-dir: the configuration that the API server keeps for this node overrides \
                 the files"
                    .to_owned(),
            );
        }
        if let Some(folder) = line.last("config-dir").map(|path| absolute(directory, path)) {
            let found = drop_ins(root, &folder, &mut told)?;
            for path in invocation.with_copies(found) {
                layers.push(ConfigurationFile::read(root, &path, Role::DropIn)?);
            }
        }
        for layer in &mut layers {
            files.push(shown(&layer.path));
            told.notes.append(&mut layer.notes);
            told.refused.append(&mut layer.refused);
        }
        let settings: Vec<Setting> = FIELDS
            .iter()
            .map(|field| setting(field, no_config, &layers, &line, directory))
            .collect::<Result<_, _>>()?;
        let left_out = settings
            .iter()
            .filter(|setting| setting.origin == ValueOrigin::LegacyDefault);
        let left_out: Vec<&str> = left_out.map(|setting| setting.field.key).collect();
        if no_config && !layers.is_empty() && !left_out.is_empty() {
            told.notes.push(format!(
                "--config-dir without --config: options that the drop-ins do not set have the defaults of a \
                 kubelet without a file: {}",
                left_out.join(", ")
            ));
        }
        let Told {
            notes,
            refused,
            unread,
        } = told;
        Ok(Self {
            settings,
            files,
            notes,
            refused,
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

/// What there is to say about flags and files.
struct Told {
    notes: Vec<String>,
    refused: Vec<String>,
    unread: Vec<String>,
}

impl Told {
    /// The file of `--config`; `None`: there is none, or it is static pods, as `--config` meant before
    /// Kubernetes 1.6. `is_old`: a flag says that the kubelet is that old.
    fn main_file(
        &mut self,
        root: &Root,
        path: Option<PathBuf>,
        is_old: bool,
    ) -> Result<Option<ConfigurationFile>, OptionsError> {
        let Some(path) = path else { return Ok(None) };
        let is_folder = match root.resolve(&path).and_then(std::fs::metadata) {
            Ok(about) => about.is_dir(),
            // A copy of a node may lack an empty folder.
            Err(_) => is_old,
        };
        let names = if is_folder {
            "a folder"
        } else {
            let file = ConfigurationFile::read(root, &path, Role::Main)?;
            if !file.is_static_pod {
                return Ok(Some(file));
            }
            "a static pod"
        };
        self.notes.push(format!(
            "--config names {names}, {}: before Kubernetes 1.6 that was where static pods are (now \
             --pod-manifest-path), and such a kubelet has the defaults of one without a file. A newer \
             kubelet does not start with it",
            shown(&path)
        ));
        Ok(None)
    }
}

/// The `*.conf` below a folder, in the kubelet's order. Links to folders are not followed, not even at the
/// top.
fn drop_ins(root: &Root, folder: &Path, told: &mut Told) -> Result<Vec<PathBuf>, OptionsError> {
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
            Ok(true) => told.notes.push(format!(
                "--config-dir {folder}: not a folder, or a link to one, which a kubelet does not follow: no \
                 drop-ins"
            )),
            Ok(false) => told.unread.push(format!(
                "--config-dir {folder}: not found: a kubelet does not start"
            )),
            Err(error) => told.unread.push(format!("--config-dir {folder}: {error}")),
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
    layers: &[ConfigurationFile],
    line: &CommandLine<'_>,
    directory: &Path,
) -> Result<Setting, OptionsError> {
    let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let (mut value, mut origin) = match field.legacy {
        Some(legacy) if no_config => (json(legacy), ValueOrigin::LegacyDefault),
        _ => (json(field.default), ValueOrigin::Default),
    };
    for file in layers {
        match file.values.get(field.key) {
            None => {}
            Some(Some(given)) if !(field.zero_is_unset && is_zero(given)) => {
                let place = shown(&file.path);
                let starts_at;
                (origin, starts_at) = match file.role {
                    Role::Main => (ValueOrigin::File(place), file.path.parent().unwrap_or(directory)),
                    Role::DropIn => (ValueOrigin::DropIn(place), directory),
                };
                value = located(field, given.clone(), starts_at);
            }
            Some(_) => (value, origin) = (json(field.default), ValueOrigin::Default),
        }
    }
    let of_flag = |given: &GivenFlag<'_>, text: &str| {
        flagged(field, &given.name, text).map_err(|error| OptionsError {
            place: given.place.to_owned(),
            why: error.to_string(),
        })
    };
    if let Some(gate) = field.key.strip_prefix("featureGates.") {
        for (name, on, given) in line.feature_gates()? {
            if let Some(on) = of_flag(given, on)?.filter(|_| name == gate) {
                (value, origin) = (on, ValueOrigin::Flag(given.place.to_owned()));
            }
        }
    }
    let mut is_first = true;
    for given in line.flags.iter().filter(|given| is_of(field, given)) {
        let Some(flagged) = of_flag(given, &given.value)? else {
            continue;
        };
        match (&mut value, flagged) {
            // Of a list, the first flag replaces the file's value and later ones add to it. Otherwise the
            // last counts.
            (Value::Array(all), Value::Array(more)) if !is_first => all.extend(more),
            (value, flagged) => *value = located(field, flagged, directory),
        }
        is_first = false;
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
