//! What the files of a unit set, line by line.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::{BadCommand, Command, commands};
use super::error::{FILES, UnitError, unread};
use super::keys::is_known;
use super::lines::{LineKind, LinePlace, Told, is_text, unit_lines};
use super::search::{FoundUnit, drop_ins, is_drop_in, listed};
use super::specifiers::{Specifiers, UnitName};
use super::variables::{Variables, assignments, from_files, is_name};
use super::words::{WordRules, take_word};
use crate::adopt::kubelet::root::Root;

/// Keys by which a service sees other files than the node has.
const OTHER_FILES: [&str; 8] = [
    "BindPaths",
    "BindReadOnlyPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "MountImages",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
];
/// Where systemd's own configuration is: one file, the first that is there, and drop-ins.
const CONFIGURATION: [&str; 5] = ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"];
/// Where programs are that set variables for every unit at boot.
const GENERATORS: [&str; 4] = [
    "/etc/systemd/system-environment-generators",
    "/run/systemd/system-environment-generators",
    "/usr/local/lib/systemd/system-environment-generators",
    "/usr/lib/systemd/system-environment-generators",
];
/// Those among them that set `PATH` or `XDG_DATA_DIRS` alone.
const HARMLESS_GENERATORS: [&str; 3] = ["60-flatpak", "60-flatpak-system-only", "snapd-env-generator"];

/// What the files of a unit set.
pub(super) struct UnitFiles<'a> {
    root: &'a Root,
    /// The name by which it is asked for.
    name: &'a str,
    found: FoundUnit,
    pub(super) commands: Vec<Command>,
    assignments: BTreeMap<String, (String, Arc<str>)>,
    environment_files: Vec<(String, bool)>,
    passed: Vec<String>,
    unset: Vec<String>,
    pub(super) denied: Vec<String>,
    pub(super) allowed: Vec<String>,
    pub(super) directory: String,
    /// `Type=oneshot`, which may have several commands.
    pub(super) is_oneshot: bool,
    /// Keys by which it sees other files, and where they are set.
    other_files: BTreeMap<&'static str, LinePlace>,
    pub(super) told: Told,
}

impl<'a> UnitFiles<'a> {
    /// Reads the unit's own file and its drop-ins.
    pub(super) fn of(root: &'a Root, name: &'a str, found: FoundUnit) -> Result<Self, UnitError> {
        let mut told = Told::default();
        let drop_ins = drop_ins(root, &found, &mut told)?;
        let fragment = found.fragment.clone();
        if drop_ins.len() >= FILES {
            return Err(UnitError::Files(fragment));
        }
        let mut unit = Self {
            root,
            name,
            found,
            commands: Vec::new(),
            assignments: BTreeMap::new(),
            environment_files: Vec::new(),
            passed: Vec::new(),
            unset: Vec::new(),
            denied: Vec::new(),
            allowed: Vec::new(),
            directory: String::new(),
            is_oneshot: false,
            other_files: BTreeMap::new(),
            told,
        };
        if let Err((place, why)) = unit.take(&fragment)? {
            let place = place.to_string();
            return Err(UnitError::Refused { place, why });
        }
        for file in drop_ins {
            if let Err((place, why)) = unit.take(&file)? {
                let told = &mut unit.told.notes;
                told.push(format!(
                    "{place}: {why}: systemd ignores it, and the rest of this file"
                ));
            }
        }
        for (key, place) in &unit.other_files {
            let why = format!("{key}: the unit sees other files than the node has, and these are not read");
            unit.told.unknown(place, why);
        }
        Ok(unit)
    }

    /// Reads one file. The inner error: systemd reads it no further.
    fn take(&mut self, file: &str) -> Result<Result<(), (LinePlace, String)>, UnitError> {
        let is_fragment = file == self.found.fragment;
        if !is_fragment && self.root.is_masked(file) {
            return Ok(Ok(()));
        }
        if !is_fragment && (self.root.is_folder(file) || !self.root.exists(file).map_err(unread(file))?) {
            self.told
                .notes
                .push(format!("{file}: no file, which systemd passes over"));
            return Ok(Ok(()));
        }
        let text = self.root.read_bytes(file).map_err(unread(file))?;
        let file: Arc<str> = file.into();
        for line in unit_lines(&text, &["Unit", "Service", "Install"]) {
            let place = LinePlace {
                file: Arc::clone(&file),
                line: line.number,
            };
            match line.kind {
                LineKind::Ignored(why) => self.told.ignored(&place, why),
                LineKind::Includes => self.told.unknown(
                    &place,
                    ".include: systemd before 246 reads that file, later ones ignore the line; it is not \
                     read here",
                ),
                LineKind::Stops(why) => return Ok(Err((place, why))),
                LineKind::Assignment { section, key, value } => {
                    if !is_known(&section, &key) {
                        if !key.starts_with("X-") {
                            let key: String = key.chars().take(64).collect();
                            let why = format!("there is no key {key:?} in [{section}]");
                            self.told.ignored(&place, why);
                        }
                    } else if &*section == "Service"
                        && let Err(why) = self.set(&key, &value, &place)
                    {
                        return Ok(Err((place, why)));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// A list is emptied by an empty value.
    ///
    /// # Errors
    /// systemd refuses the file.
    fn set(&mut self, key: &str, value: &str, place: &LinePlace) -> Result<(), String> {
        let id = self.found.id.clone();
        let fragment = self.found.fragment.clone();
        let specifiers = Specifiers {
            root: self.root,
            unit: Some(UnitName {
                name: if *place.file == *fragment { self.name } else { &id },
                fragment: &fragment,
                is_one_of_several: self.found.names.len() > 1 && *place.file == *fragment,
            }),
        };
        match key {
            "Environment" if value.is_empty() => self.assignments.clear(),
            "Environment" => {
                for (name, value) in assignments(value, &specifiers, place, &mut self.told) {
                    self.assignments.insert(name, (value, Arc::clone(&place.file)));
                }
            }
            "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
            "EnvironmentFile" => self.name_environment_file(value, &specifiers, place),
            "PassEnvironment" if value.is_empty() => self.passed.clear(),
            "PassEnvironment" => {
                let names = self.names(key, value, WordRules::Plain, &specifiers, place);
                self.passed.extend(names);
            }
            "UnsetEnvironment" if value.is_empty() => self.unset.clear(),
            "UnsetEnvironment" => {
                let names = self.names(key, value, WordRules::Escapes, &specifiers, place);
                self.unset.extend(names);
            }
            "IPAddressDeny" if value.is_empty() => self.denied.clear(),
            "IPAddressDeny" => self.denied.extend(value.split_whitespace().map(str::to_owned)),
            "IPAddressAllow" if value.is_empty() => self.allowed.clear(),
            "IPAddressAllow" => self.allowed.extend(value.split_whitespace().map(str::to_owned)),
            "WorkingDirectory" => self.set_directory(value, &specifiers, place)?,
            "Type" => self.set_type(value, place),
            "ExecStart" if value.is_empty() => self.commands.clear(),
            "ExecStart" => {
                let read = commands(value, &specifiers, place, &mut self.told, &mut self.commands);
                return self.bad_command(key, read, place);
            }
            // What these start is of no concern here, but an error in them keeps the unit from starting.
            "ExecCondition" | "ExecReload" | "ExecStartPost" | "ExecStartPre" | "ExecStop"
            | "ExecStopPost" => {
                let read = commands(value, &specifiers, place, &mut Told::default(), &mut Vec::new());
                return self.bad_command(key, read, place);
            }
            key => {
                if let Some(key) = OTHER_FILES.into_iter().find(|other| *other == key) {
                    match value {
                        "" => self.other_files.remove(key),
                        _ => self.other_files.insert(key, place.clone()),
                    };
                }
            }
        }
        Ok(())
    }

    fn bad_command(
        &mut self,
        key: &str,
        read: Result<(), BadCommand>,
        place: &LinePlace,
    ) -> Result<(), String> {
        match read {
            Ok(()) => Ok(()),
            Err(BadCommand::Ignored(why)) => {
                self.told.ignored(place, format!("{key}: {why}"));
                Ok(())
            }
            Err(BadCommand::Refused(why)) => Err(format!("{key}: {why}")),
        }
    }

    fn name_environment_file(&mut self, value: &str, specifiers: &Specifiers<'_>, place: &LinePlace) {
        let path = match specifiers.replaced(value, place, &mut self.told) {
            Ok(path) => path,
            Err(letter) => {
                let why = format!("EnvironmentFile: the specifier \"%{letter}\" is unknown");
                return self.told.ignored(place, why);
            }
        };
        let (path, optional) = match path.strip_prefix('-') {
            Some(path) => (path, true),
            None => (path.as_str(), false),
        };
        if path.starts_with('/') {
            self.environment_files.push((path.to_owned(), optional));
        } else {
            self.told
                .ignored(place, format!("EnvironmentFile: {path:?} is no absolute path"));
        }
    }

    /// Names of variables, for some keys with values. Those before an error count.
    fn names(
        &mut self,
        key: &str,
        value: &str,
        rules: WordRules,
        specifiers: &Specifiers<'_>,
        place: &LinePlace,
    ) -> Vec<String> {
        let mut names = Vec::new();
        let mut rest = value;
        loop {
            let word = match take_word(&mut rest, rules) {
                Ok(Some(word)) => String::from_utf8(word).unwrap_or_default(),
                Ok(None) => return names,
                Err(_) => {
                    let why = "a quote is not closed, or a backslash begins no escape";
                    self.told.ignored(place, format!("{key}: {why}"));
                    return names;
                }
            };
            let word = specifiers
                .replaced(&word, place, &mut self.told)
                .unwrap_or_default();
            let is_valid = match (word.split_once('='), rules) {
                (None, _) => is_name(&word),
                (Some((name, value)), WordRules::Escapes) => is_name(name) && is_text(value),
                _ => false,
            };
            if is_valid {
                names.push(word);
            } else {
                self.told
                    .ignored(place, format!("{key}: a word that names no variable"));
            }
        }
    }

    fn set_directory(
        &mut self,
        value: &str,
        specifiers: &Specifiers<'_>,
        place: &LinePlace,
    ) -> Result<(), String> {
        let (path, optional) = match value.strip_prefix('-') {
            Some(path) => (path, true),
            None => (value, false),
        };
        let why = match path {
            "" => {
                self.directory.clear();
                return Ok(());
            }
            "~" => {
                "/root".clone_into(&mut self.directory);
                return Ok(());
            }
            path => match specifiers.replaced(path, place, &mut self.told) {
                Ok(path) if path.starts_with('/') => {
                    self.directory = path;
                    return Ok(());
                }
                Ok(_) => "no absolute path".to_owned(),
                Err(letter) => format!("the specifier \"%{letter}\" is unknown"),
            },
        };
        let why = format!("WorkingDirectory: {why}");
        if optional {
            self.told.ignored(place, why);
            Ok(())
        } else {
            Err(why)
        }
    }

    fn set_type(&mut self, value: &str, place: &LinePlace) {
        match value {
            "oneshot" => self.is_oneshot = true,
            "simple" | "exec" | "forking" | "dbus" | "notify" | "notify-reload" | "idle" => {
                self.is_oneshot = false;
            }
            _ => self.told.ignored(place, "Type: there is no such type"),
        }
    }

    /// The environment: what systemd has for every unit, then this unit's. Files win over `Environment`,
    /// later ones over earlier.
    pub(super) fn variables(&mut self) -> Result<Variables, UnitError> {
        let mut variables = Variables::default();
        default_environment(self.root, &mut variables, &mut self.told)?;
        let has_programs = |folder: &&str| {
            let names = self.root.list(folder).unwrap_or_default();
            names.iter().any(|name| {
                !HARMLESS_GENERATORS.contains(&name.as_str())
                    && !self.root.is_masked(format!("{folder}/{name}"))
            })
        };
        variables.generators = GENERATORS.into_iter().find(has_programs);
        for name in &self.passed {
            variables.pass(name);
        }
        for (name, (value, file)) in &self.assignments {
            variables.set(name.clone(), value.clone(), file);
        }
        for (path, optional) in &self.environment_files {
            from_files(self.root, path, *optional, &mut variables, &mut self.told);
        }
        for pattern in &self.unset {
            variables.unset(pattern);
        }
        Ok(variables)
    }

    pub(super) fn fragment(&self) -> &str {
        &self.found.fragment
    }
}

/// `DefaultEnvironment=` of systemd's own configuration.
fn default_environment(root: &Root, variables: &mut Variables, told: &mut Told) -> Result<(), UnitError> {
    let mut files = Vec::new();
    for folder in CONFIGURATION {
        let main = format!("{folder}/systemd/system.conf");
        if root.exists(&main).map_err(unread(&main))? {
            files.push(main);
            break;
        }
    }
    let mut drop_ins: BTreeMap<String, String> = BTreeMap::new();
    for folder in CONFIGURATION {
        let folder = format!("{folder}/systemd/system.conf.d");
        for name in listed(root, &folder)?.into_iter().filter(|name| is_drop_in(name)) {
            drop_ins
                .entry(name.clone())
                .or_insert_with(|| format!("{folder}/{name}"));
        }
    }
    files.extend(drop_ins.into_values());
    if files.len() > FILES {
        return Err(UnitError::Files("systemd's system.conf".to_owned()));
    }
    let specifiers = Specifiers { root, unit: None };
    let mut defaults: BTreeMap<String, (String, Arc<str>)> = BTreeMap::new();
    'files: for file in files {
        if root.is_folder(&file) || !root.exists(&file).map_err(unread(&file))? {
            continue;
        }
        let text = root.read_bytes(&file).map_err(unread(&file))?;
        let file: Arc<str> = file.into();
        for line in unit_lines(&text, &["Manager"]) {
            let place = LinePlace {
                file: Arc::clone(&file),
                line: line.number,
            };
            match line.kind {
                LineKind::Assignment { key, value, .. } if key == "DefaultEnvironment" => {
                    if value.is_empty() {
                        defaults.clear();
                    }
                    for (name, value) in assignments(&value, &specifiers, &place, told) {
                        defaults.insert(name, (value, Arc::clone(&file)));
                    }
                    if !file.starts_with("/etc/") && file.ends_with("/system.conf") {
                        told.unknown(&place, "systemd before 254 does not read this file");
                    }
                }
                LineKind::Stops(why) => {
                    told.notes
                        .push(format!("{place}: {why}: systemd ignores it, and what follows it"));
                    break 'files;
                }
                LineKind::Ignored(why) => told.ignored(&place, why),
                LineKind::Assignment { .. } | LineKind::Includes => {}
            }
        }
    }
    for (name, (value, file)) in defaults {
        variables.set(name, value, &file);
    }
    Ok(())
}
