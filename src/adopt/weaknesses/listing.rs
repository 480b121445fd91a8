//! The published weaknesses, held against one kubelet.

use serde::Serialize;
use serde_json::{Value, json};
use time::Date;

use super::catalogue::{Affected, Catalogue, CatalogueError, Shield, Weakness};
use super::components::{Claims, Component, ComponentKind, Components, FoundVersion};
use super::preconditions::{Met, Need, Precondition};
use super::version::Version;
use crate::adopt::inspect::Inspection;
use crate::adopt::prove::ProbeReport;

/// Data that is older is said to be.
const CURRENT_DAYS: i64 = 180;

/// How a weakness stands on a node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// The version has it, and each precondition was read and is met.
    Open,
    /// The version has it, and not all that it needs could be read; or a distribution may have mended it.
    MayBeOpen,
    /// The version is not known.
    NotKnown,
    /// The version of the API server decides.
    NotJudged,
    /// The version does not have it, or a precondition is not met.
    NotOpen,
    /// Nodes with another operating system have it.
    OtherSystem,
}

impl Standing {
    /// In a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::MayBeOpen => "may be open",
            Self::NotKnown => "not known",
            Self::NotJudged => "not judged",
            Self::NotOpen => "not open",
            Self::OtherSystem => "not this node",
        }
    }
}

/// A published weakness, and how it stands on this node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownWeakness {
    /// Its CVE, or a name that does not change.
    pub id: String,
    /// CVEs of the same weakness.
    pub aliases: Vec<String>,
    /// What it is.
    pub title: String,
    /// The component whose version decides.
    pub decides: &'static str,
    /// How it stands.
    #[serde(rename = "is")]
    pub standing: Standing,
    /// Why it stands so.
    pub why: String,
    /// What it needs besides the version.
    pub needs: Vec<Need>,
    /// The CVSS base score, where a source states one.
    pub severity: Option<f64>,
    /// What shields the kubelet, from each side.
    pub shield: Shield,
    /// What the shield does.
    pub how: String,
    /// Where this was read.
    pub sources: Vec<String>,
}

/// A component's version.
#[derive(Clone, Debug, Serialize)]
pub struct KnownVersion {
    /// Which component.
    pub name: &'static str,
    /// `None`: it is not known.
    pub version: Option<String>,
    /// Where it was found, or why it was not.
    pub from: String,
}

/// Every published weakness, for one kubelet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WeaknessListing {
    /// When the sources of the data were read, as YYYY-MM-DD.
    pub data_of: String,
    /// How old the data is, if that is more than 180 days.
    pub outdated_days: Option<i64>,
    /// The versions that decide.
    pub versions: Vec<KnownVersion>,
    /// The weaknesses: what is open first.
    pub known: Vec<KnownWeakness>,
}

impl WeaknessListing {
    /// Holds the data against a kubelet. `today` tells how old the data is.
    ///
    /// # Errors
    /// The data in this program is broken.
    pub fn of(
        inspection: &Inspection,
        claims: &Claims,
        report: Option<&ProbeReport>,
        today: Date,
    ) -> Result<Self, CatalogueError> {
        let Catalogue { date, weaknesses } = Catalogue::embedded()?;
        let components = Components::of(&inspection.invocation, claims, report);
        let days = (today - date).whole_days();
        let judge = |weakness: Weakness| judged(weakness, inspection, &components);
        let mut known: Vec<KnownWeakness> = weaknesses.into_iter().map(judge).collect();
        // What is known to be severe first; a stable sort keeps the order of the data, which is by age.
        known.sort_by(|one, other| {
            let severity = |weakness: &KnownWeakness| weakness.severity.unwrap_or_default();
            let by_severity = severity(other).total_cmp(&severity(one));
            one.standing.cmp(&other.standing).then(by_severity)
        });
        Ok(Self {
            data_of: date.to_string(),
            outdated_days: (days > CURRENT_DAYS).then_some(days),
            versions: versions(&components),
            known,
        })
    }

    /// As JSON; docs/schemas/inspection.json describes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!(self)
    }
}

fn versions(components: &Components) -> Vec<KnownVersion> {
    use ComponentKind::{Go, K3s, Kubelet, Rke2};
    [Kubelet, Go, K3s, Rke2]
        .into_iter()
        .flat_map(|kind| {
            let line = |version: Option<&str>, from: &str| KnownVersion {
                name: kind.name(),
                version: version.map(str::to_owned),
                from: from.to_owned(),
            };
            match components.get(kind) {
                Component::Known(found) => found
                    .iter()
                    .map(|found| line(Some(&found.version.text), &found.place))
                    .collect(),
                Component::NotKnown(why) if matches!(kind, Kubelet | Go) => vec![line(None, why)],
                // A node without a distribution needs no line about it.
                Component::NotKnown(_) | Component::Absent(_) => Vec::new(),
            }
        })
        .collect()
}

fn judged(weakness: Weakness, inspection: &Inspection, components: &Components) -> KnownWeakness {
    let needs = |more: &[Precondition]| -> Vec<Need> {
        let all = weakness.needs.iter().chain(more);
        all.map(|need| need.judge(inspection, components)).collect()
    };
    let (standing, why, needs) = match components.get(weakness.decides) {
        _ if weakness.decides == ComponentKind::ApiServer => {
            (Standing::NotJudged, fixed_in(&weakness.affected), Vec::new())
        }
        Component::Absent(why) => (Standing::NotOpen, why.clone(), Vec::new()),
        Component::Known(found) => of_versions(&weakness, found, needs),
        Component::NotKnown(_) if is_every_version(&weakness.affected) => {
            let needs = needs(&[]);
            (standing_with(&needs), "every version".to_owned(), needs)
        }
        Component::NotKnown(why) => {
            let needs = needs(&[]);
            let why = match why.is_empty() {
                true => format!("the version of {} is not known", weakness.decides.name()),
                false => format!("the version of {} is not known: {why}", weakness.decides.name()),
            };
            (Standing::NotKnown, why, needs)
        }
    };
    let unmet = needs.iter().find(|need| need.met == Met::No);
    let (standing, why) = match unmet {
        Some(_) if weakness.needs.contains(&Precondition::Windows) => {
            (Standing::OtherSystem, "Windows alone has it".to_owned())
        }
        Some(need) => (Standing::NotOpen, format!("{}: no, {}", need.what, need.why)),
        None => (standing, why),
    };
    KnownWeakness {
        id: weakness.id,
        aliases: weakness.aliases,
        title: weakness.title,
        decides: weakness.decides.name(),
        standing,
        why,
        needs,
        severity: weakness.severity,
        shield: weakness.shield,
        how: weakness.how,
        sources: weakness.sources,
    }
}

/// How it stands with these versions, of which each counts.
fn of_versions(
    weakness: &Weakness,
    found: &[FoundVersion],
    needs: impl Fn(&[Precondition]) -> Vec<Need>,
) -> (Standing, String, Vec<Need>) {
    let in_range = |version: &Version| {
        let mut affected = weakness.affected.iter();
        affected.find(|affected| affected.range.contains(&version.release))
    };
    for FoundVersion { version, .. } in found {
        let Some(affected) = in_range(version) else {
            continue;
        };
        let needs = needs(&affected.needs);
        let text = match affected.range.fixed() {
            Some(fixed) => format!("{} has it, {fixed} does not", version.text),
            None => "every version".to_owned(),
        };
        return match standing_with(&needs) {
            Standing::Open if version.may_have_backports() => {
                let why = format!("{text}; this build of a distribution may have the fix");
                (Standing::MayBeOpen, why, needs)
            }
            standing => (standing, text, needs),
        };
    }
    let leaves_open = |found: &&FoundVersion| {
        let release = &found.version.release;
        let ranges = || weakness.affected.iter().map(|affected| &affected.range);
        ranges().any(|range| range.leaves_open(release)) && !ranges().any(|range| range.concerns(release))
    };
    if let Some(found) = found.iter().find(leaves_open) {
        let why = format!(
            "no source says whether {}, a pre-release, has it",
            found.version.text
        );
        return (Standing::MayBeOpen, why, needs(&[]));
    }
    let texts: Vec<&str> = found.iter().map(|found| found.version.text.as_str()).collect();
    let why = format!("{} does not have it", texts.join(", "));
    (Standing::NotOpen, why, Vec::new())
}

/// With the version's weakness given.
fn standing_with(needs: &[Need]) -> Standing {
    match needs.iter().any(|need| need.met == Met::NotKnown) {
        true => Standing::MayBeOpen,
        false => Standing::Open,
    }
}

/// Whether one range has no end and begins with the first version.
fn is_every_version(affected: &[Affected]) -> bool {
    affected.iter().any(|affected| affected.range.fixed().is_none())
}

fn fixed_in(affected: &[Affected]) -> String {
    let mut fixed: Vec<String> = affected
        .iter()
        .filter_map(|affected| affected.range.fixed())
        .map(ToString::to_string)
        .collect();
    fixed.reverse();
    match fixed.as_slice() {
        [] => "every version has it".to_owned(),
        fixed => format!(
            "fixed in {}; this node does not tell its version",
            fixed.join(", ")
        ),
    }
}
