//! Where systemd finds the files of a unit: its own file, its names, and the drop-ins of all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::{UnitError, unread};
use super::lines::Told;
use crate::adopt::kubelet::root::Root;

/// Where systemd looks for units; the first one counts.
const FOLDERS: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];
/// How many links between names systemd follows.
const ALIASES: usize = 8;

/// A unit that was found.
#[derive(Debug)]
pub(super) struct FoundUnit {
    /// Its own file.
    pub(super) fragment: String,
    /// The name that systemd shows: that of its file.
    pub(super) id: String,
    /// All its names.
    pub(super) names: BTreeSet<String>,
}

/// What a name of a unit is.
enum Named {
    /// A file. A link that leads out of systemd's folders counts as the file itself.
    File(String),
    /// Another name.
    Alias(String),
}

/// The unit of this name. `None`: there is no such unit, or it is masked.
///
/// # Errors
/// A folder cannot be read, or the unit is a link to what is not there.
pub(super) fn find(root: &Root, name: &str) -> Result<Option<FoundUnit>, UnitError> {
    let kind = kind_of(name);
    let named = named(root, kind)?;
    let own = resolved(&named, name);
    let template = || resolved(&named, &template_of(name)?);
    let Some(fragment) = own.or_else(template) else {
        return match named.get(name) {
            None => Ok(None),
            Some(_) => Err(UnitError::Refused {
                place: name.to_owned(),
                why: "a link to another name of a unit that leads to no file".to_owned(),
            }),
        };
    };
    if root.is_masked(&fragment) {
        return Ok(None);
    }
    if !root.exists(&fragment).map_err(unread(&fragment))? {
        let why = io::Error::new(ErrorKind::NotFound, "it is a link to what is not there");
        return Err(unread(&fragment)(why));
    }
    let id = file_name(&fragment);
    let instance = instance_of(name).filter(|instance| !instance.is_empty());
    let of_instance = |name: &str| match (instance, name.split_once("@.")) {
        (Some(instance), Some((prefix, kind))) => format!("{prefix}@{instance}.{kind}"),
        _ => name.to_owned(),
    };
    let aliases = |of: &str| {
        named
            .keys()
            .filter(|alias| resolved(&named, alias).is_some_and(|file| file_name(&file) == of))
            .map(|alias| of_instance(alias))
            .collect::<Vec<_>>()
    };
    let mut names: BTreeSet<String> = [name.to_owned(), of_instance(&id)].into();
    names.extend(aliases(name));
    names.extend(aliases(&id));
    Ok(Some(FoundUnit {
        fragment,
        id: of_instance(&id),
        names,
    }))
}

/// What each name of a unit of this kind is, the first folder that has it.
fn named(root: &Root, kind: &str) -> Result<HashMap<String, Named>, UnitError> {
    let mut found = HashMap::new();
    let folders: Vec<PathBuf> = FOLDERS
        .iter()
        .flat_map(|folder| [Some(PathBuf::from(folder)), root.within(Path::new(folder)).ok()])
        .flatten()
        .collect();
    for folder in FOLDERS {
        for (name, link) in root.files_and_links(folder).map_err(unread(folder))? {
            if kind_of(&name) != kind || found.contains_key(&name) {
                continue;
            }
            let named = match link {
                None => Named::File(format!("{folder}/{name}")),
                Some(link) => {
                    // One that cannot be followed is no link to a unit.
                    let Ok(target) = root.one_link(Path::new(folder), &link) else {
                        continue;
                    };
                    if !folders.iter().any(|folder| target.starts_with(folder)) {
                        Named::File(format!("{folder}/{name}"))
                    } else if let Some(alias) = alias(&name, &target) {
                        Named::Alias(alias)
                    } else {
                        continue;
                    }
                }
            };
            found.insert(name, named);
        }
    }
    Ok(found)
}

/// The name to which a link leads, if systemd takes it: of the same kind, not itself, an instance to the same
/// one or to its template.
fn alias(name: &str, target: &Path) -> Option<String> {
    let target = target.file_name()?.to_str()?;
    let fits = match (instance_of(name), instance_of(target)) {
        (None, None) => true,
        (Some(_), Some("")) => true,
        (Some(own), Some(other)) => own == other,
        _ => false,
    };
    (target != name && kind_of(target) == kind_of(name) && fits).then(|| target.to_owned())
}

fn resolved(named: &HashMap<String, Named>, name: &str) -> Option<String> {
    let mut name = name.to_owned();
    for step in 0..ALIASES {
        let next = named.get(&name);
        let next = next.or_else(|| named.get(&template_of(&name)?).filter(|_| step > 0));
        match next? {
            Named::File(file) => return Some(file.clone()),
            Named::Alias(alias) => name.clone_from(alias),
        }
    }
    None
}

/// The drop-ins of a unit, in the order of their names; of two with the same name the folder that comes first
/// wins, also to mask the other.
///
/// # Errors
/// A folder cannot be read.
pub(super) fn drop_ins(root: &Root, unit: &FoundUnit, told: &mut Told) -> Result<Vec<String>, UnitError> {
    let others = unit.names.iter().filter(|name| **name != unit.id);
    let mut names: Vec<&str> = std::iter::once(&unit.id)
        .chain(others)
        .map(String::as_str)
        .collect();
    names.push(kind_of(&unit.id));
    let mut seen = BTreeSet::new();
    let mut found: BTreeMap<String, (String, &str)> = BTreeMap::new();
    for name in names.iter().copied() {
        for folder in FOLDERS.iter().flat_map(|folder| drop_in_folders(folder, name)) {
            if !root
                .within(Path::new(&folder))
                .is_ok_and(|real| seen.insert(real))
            {
                continue;
            }
            let files = listed(root, &folder)?;
            if !files.is_empty() && is_relative_link(root, &folder) {
                told.unread.push(format!(
                    "{folder}: a relative link to a folder, which systemd 252 does not follow; whether \
                     this node's does is not known"
                ));
            }
            for file in files.into_iter().filter(|file| is_drop_in(file)) {
                let path = format!("{folder}/{file}");
                let Some((earlier, of)) = found.get(&file) else {
                    found.insert(file, (path, name));
                    continue;
                };
                let both_further = ![*of, name].contains(&unit.id.as_str()) && *of != name;
                if both_further && name.contains('.') && root.read(earlier).ok() != root.read(&path).ok() {
                    told.unread.push(format!(
                        "{earlier} and {path}: the unit has both names, and which of the two files systemd \
                         reads is not determined"
                    ));
                }
            }
        }
    }
    Ok(found.into_values().map(|(path, _)| path).collect())
}

/// What is in a folder of drop-ins; nothing if it is none.
///
/// # Errors
/// It cannot be read.
pub(super) fn listed(root: &Root, folder: &str) -> Result<Vec<String>, UnitError> {
    match root.list(folder) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(Vec::new()),
        listed => listed.map_err(unread(folder)),
    }
}

fn is_relative_link(root: &Root, folder: &str) -> bool {
    let Some((above, name)) = folder.rsplit_once('/').filter(|_| !root.is_folder(folder)) else {
        return false;
    };
    let links = root.files_and_links(above).unwrap_or_default().into_iter();
    let mut links = links.filter(|(link, _)| link == name);
    links.any(|(_, target)| target.is_some_and(|target| target.is_relative()))
}

/// systemd overlooks hidden files.
pub(super) fn is_drop_in(file: &str) -> bool {
    file.ends_with(".conf") && !file.starts_with('.')
}

/// The folders of drop-ins for this name below one folder, the nearest first: its own, its template's, those
/// for a part of its name. The name of a kind of unit alone has one.
fn drop_in_folders(folder: &str, name: &str) -> Vec<String> {
    let mut folders = vec![format!("{folder}/{name}.d")];
    let Some((_, kind)) = name.rsplit_once('.') else {
        return folders;
    };
    if let Some(template) = template_of(name) {
        folders.extend(drop_in_folders(folder, &template));
    }
    let mut prefix = prefix_of(name);
    // `a-b-` is a part of `a-b-c`, and a dash at its own end is passed over once.
    prefix = prefix.strip_suffix('-').unwrap_or(prefix);
    if let Some(at) = prefix.rfind('-').filter(|at| *at > 0) {
        let instance = instance_of(name).filter(|instance| !instance.is_empty());
        let instance = instance.map_or_else(String::new, |instance| format!("@{instance}"));
        folders.extend(drop_in_folders(
            folder,
            &format!("{}{instance}.{kind}", &prefix[..=at]),
        ));
    }
    folders
}

/// What is before the `@` of a name, or before its kind.
pub(super) fn prefix_of(name: &str) -> &str {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.split_once('@').map_or(stem, |(prefix, _)| prefix)
}

/// What is after the `@` of a name; empty for a template.
pub(super) fn instance_of(name: &str) -> Option<&str> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.split_once('@').map(|(_, instance)| instance)
}

/// The template of an instance.
fn template_of(name: &str) -> Option<String> {
    instance_of(name).filter(|instance| !instance.is_empty())?;
    Some(format!("{}@.{}", prefix_of(name), kind_of(name)))
}

/// The kind of a unit, such as `service`.
fn kind_of(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
