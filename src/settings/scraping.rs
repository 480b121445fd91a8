//! What a scraper may do without a new answer of the API server: `authorization.static` and
//! `authorization.webhook.staleAllow`.

use std::time::Duration;

use super::document::quoted;
use super::file;
use super::reading::Reading;
use crate::duration;
use crate::named::Named;

/// `authorization.webhook.staleAllow.maxAge`, at most.
const LONGEST_AGE: Duration = Duration::from_secs(3600);

/// Names that stand for every client, or for every pod.
const TOO_WIDE: [&str; 4] = [
    "system:authenticated",
    "system:unauthenticated",
    "system:anonymous",
    "system:serviceaccounts",
];

/// A subresource that shows measurements alone. `pods` shows the environment of containers, `log` serves
/// `/var/log`, `configz` shows the kubelet's configuration, and `proxy` runs commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScrapedSubresource {
    /// `healthz`.
    Healthz,
    /// `metrics`.
    Metrics,
    /// `stats`.
    Stats,
}

/// An item of `authorization.static`: these users and groups may `get` these subresources.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRule {
    /// Exact names of users.
    pub users: Vec<String>,
    /// Exact names of groups.
    pub groups: Vec<String>,
    /// What they may get.
    pub subresources: Vec<ScrapedSubresource>,
}

/// `authorization.webhook.staleAllow`: earlier answers that count while the API server is unreachable.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleAllow {
    /// `maxAge`: how long ago the API server may have given such an answer; zero means that none counts.
    pub max_age: Duration,
    /// `subresources`: what may be got by such an answer.
    pub subresources: Vec<ScrapedSubresource>,
}

impl Named for ScrapedSubresource {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("metrics", Self::Metrics),
        ("healthz", Self::Healthz),
        ("stats", Self::Stats),
    ];
}

// === impl StaleAllow ===

impl StaleAllow {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::StaleAllow) -> Self {
        let key = |name| format!("authorization.webhook.staleAllow.{name}");
        let longest = Duration::ZERO..=LONGEST_AGE;
        let max_age = reading.duration(&key("maxAge"), &file.max_age, longest);
        Self {
            max_age,
            subresources: subresources(reading, &key("subresources"), &file.subresources),
        }
    }

    pub(super) fn write(&self) -> file::StaleAllow {
        file::StaleAllow {
            max_age: duration::format(self.max_age),
            subresources: names(&self.subresources),
        }
    }
}

// === impl StaticRule ===

impl StaticRule {
    /// The rule that is written at `key`.
    pub(super) fn read(reading: &mut Reading<'_>, key: &str, file: file::StaticRule) -> Self {
        if file.users.is_empty() && file.groups.is_empty() {
            reading.refuse(
                key,
                "names neither users nor groups; write the exact names of those that the rule is for",
            );
        }
        if file.verbs.is_empty() {
            reading.refuse(
                key,
                "names no verbs; write verbs: [get], which is all that a static rule allows",
            );
        } else if file.verbs != ["get"] {
            let verbs = file.verbs.join(", ");
            reading.refuse(
                &format!("{key}.verbs"),
                format!("has [{verbs}], and a static rule allows get alone; write [get]"),
            );
        }
        Self {
            users: subjects(reading, &format!("{key}.users"), file.users),
            groups: subjects(reading, &format!("{key}.groups"), file.groups),
            subresources: subresources(reading, &format!("{key}.subresources"), &file.subresources),
        }
    }

    /// Whether it allows all that `other` allows.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let all = |some: &[String], of: &[String]| of.iter().all(|name| some.contains(name));
        let mut subresources = other.subresources.iter();
        all(&self.users, &other.users)
            && all(&self.groups, &other.groups)
            && subresources.all(|subresource| self.subresources.contains(subresource))
    }

    pub(super) fn write(&self) -> file::StaticRule {
        file::StaticRule {
            users: self.users.clone(),
            groups: self.groups.clone(),
            verbs: vec!["get".to_owned()],
            subresources: names(&self.subresources),
        }
    }
}

/// Exact names of users or groups.
fn subjects(reading: &mut Reading<'_>, key: &str, names: Vec<String>) -> Vec<String> {
    for (index, name) in names.iter().enumerate() {
        let why = if TOO_WIDE.contains(&name.trim()) {
            "stands for clients of every kind"
        } else if name.contains('*') {
            "has a *, and names are compared as they are"
        } else {
            continue;
        };
        reading.refuse(
            &format!("{key}[{index}]"),
            format!("{} {why}; write the exact name of a user or group", quoted(name)),
        );
    }
    reading.names(key, names)
}

fn subresources(reading: &mut Reading<'_>, key: &str, texts: &[String]) -> Vec<ScrapedSubresource> {
    let known = ScrapedSubresource::NAMES.iter().map(|(name, _)| *name);
    let known = known.collect::<Vec<_>>().join(", ");
    if texts.is_empty() {
        reading.refuse(key, format!("is empty; write some of {known}"));
    }
    let mut subresources = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match ScrapedSubresource::from_name(text) {
            Some(subresource) => subresources.push(subresource),
            None => reading.refuse(
                &format!("{key}[{index}]"),
                format!(
                    "{} is not possible: only subresources that show measurements alone are; write some of \
                     {known}",
                    quoted(text)
                ),
            ),
        }
    }
    subresources
}

fn names(subresources: &[ScrapedSubresource]) -> Vec<String> {
    let names = subresources.iter().map(|subresource| subresource.name());
    names.map(str::to_owned).collect()
}
