//! Known weaknesses, as `inspect` shows them.

use std::path::{Path, PathBuf};

use anstyle::Style;
use clap::Args;

use super::exit::CliError;
use super::table::{Cell, Table};
use super::terminal::{BAD, BOLD, DOUBTFUL, Stream};
use crate::adopt::kubelet::Root;
use crate::adopt::weaknesses::{Claims, KnownWeakness, Met, Need, Standing, WeaknessListing};
use crate::report::sarif::{Finding, Level, Place, Rule};

/// The severity of a weakness without a score, as code scanning sorts it: medium.
const UNRATED: f64 = 5.0;

/// What is said of a kubelet's version from outside the node.
#[derive(Args, Debug)]
pub(super) struct SaidVersions {
    /// The kubelet's version, as `kubelet --version` prints it, where its program does not show it
    #[arg(long, value_name = "VERSION")]
    kubelet_version: Option<String>,
    /// A file with the Node, from `kubectl get node NAME -o json`: versions, operating system, runtime
    #[arg(long, value_name = "FILE")]
    node_object: Option<PathBuf>,
}

impl SaidVersions {
    /// Reads the file.
    pub(super) fn claims(&self) -> Result<Claims, CliError> {
        if let Some(version) = self.kubelet_version.as_deref()
            && !Claims::is_version(version)
        {
            return Err(CliError::usage(format!(
                "--kubelet-version {version:?}: expected what kubelet --version prints, such as v1.20.15"
            )));
        }
        let node = self.node_object.as_deref().map(node).transpose()?;
        Ok(Claims {
            kubelet_version: self.kubelet_version.clone(),
            node,
        })
    }
}

fn node(path: &Path) -> Result<serde_json::Value, CliError> {
    let wrong = |why: String| CliError::usage(format!("--node-object {}: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let text = Root::new("/")
        .read(absolute)
        .map_err(|error| wrong(error.to_string()))?;
    let node: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("broken JSON: {error}")))?;
    let info = node.get("status").and_then(|status| status.get("nodeInfo"));
    match (node.get("kind").and_then(|kind| kind.as_str()), info) {
        (Some("Node"), Some(_)) => Ok(node),
        _ => Err(wrong(
            "it is not one Node with status.nodeInfo: write it with kubectl get node NAME -o json".to_owned(),
        )),
    }
}

/// Prints the weaknesses of one kubelet.
pub(super) fn print(listing: &WeaknessListing, out: &mut Stream) {
    writeln!(out);
    let data = format!("of the kubelet's ports, by the data of {}", listing.data_of);
    out.labelled(BOLD, "known weaknesses", &data);
    if let Some(days) = listing.outdated_days {
        out.warning(&format!(
            "this data is {days} days old: weaknesses that were published since are not listed. Install a \
             newer kubelet-gate"
        ));
    }
    for known in &listing.versions {
        let label = format!("  {:<8}  ", known.name);
        match &known.version {
            Some(version) => out.hanging(&label, &format!("{version} ({})", known.from)),
            None => out.hanging(&label, &format!("not known: {}", known.from)),
        }
    }
    writeln!(out);
    out.table(&table(listing));
    for (standing, label) in [
        (Standing::NotOpen, "not open:"),
        (Standing::OtherSystem, "not this node:"),
    ] {
        let closed: Vec<String> = with(listing, standing)
            .map(|weakness| format!("{} ({})", weakness.id, weakness.why))
            .collect();
        if !closed.is_empty() {
            out.labelled(BOLD, label, &closed.join("; "));
        }
    }
    writeln!(out);
    let count = |standing| with(listing, standing).count();
    let counts = format!(
        "{} open, {} may be open, {} not known",
        count(Standing::Open),
        count(Standing::MayBeOpen),
        count(Standing::NotKnown)
    );
    let text = "of the known weaknesses. They change neither the verdicts above nor the exit code.";
    out.labelled(BOLD, &counts, text);
}

fn with(listing: &WeaknessListing, standing: Standing) -> impl Iterator<Item = &KnownWeakness> {
    listing
        .known
        .iter()
        .filter(move |weakness| weakness.standing == standing)
}

fn is_shown(weakness: &KnownWeakness) -> bool {
    !matches!(weakness.standing, Standing::NotOpen | Standing::OtherSystem)
}

fn table(listing: &WeaknessListing) -> Table<6> {
    let mut table = Table::new(["WEAKNESS", "IS", "WIRE", "POD", "HOST POD", "ROOT"]);
    let mut explained: Vec<(&str, Vec<String>)> = Vec::new();
    for weakness in listing.known.iter().filter(|weakness| is_shown(weakness)) {
        let style = match weakness.standing {
            Standing::Open => BAD,
            Standing::MayBeOpen | Standing::NotKnown => DOUBTFUL,
            _ => Style::new(),
        };
        let shield = &weakness.shield;
        let row = table.row([
            weakness.id.as_str().into(),
            Cell::styled(weakness.standing.words(), style),
            shield.wire.word().into(),
            shield.pod.word().into(),
            shield.host_network_pod.word().into(),
            shield.root.word().into(),
        ]);
        row.below(&titled(weakness));
        row.below(&format!("{}: {}", weakness.decides, weakness.why));
        let mut more: Vec<String> = weakness.needs.iter().map(needed).collect();
        more.push(format!("shield: {}", weakness.how));
        // Most weaknesses of one component differ in their versions alone.
        match explained.iter().find(|(_, texts)| *texts == more) {
            Some((id, _)) => {
                row.below(&format!("the rest as for {id}"));
            }
            None => {
                for text in &more {
                    row.below(text);
                }
                explained.push((&weakness.id, more));
            }
        }
    }
    table
}

/// What it is, its other names, and how severe it is.
fn titled(weakness: &KnownWeakness) -> String {
    let also = match weakness.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(" (also {})", aliases.join(", ")),
    };
    let severity = weakness
        .severity
        .map_or_else(String::new, |score| format!(" (CVSS {score:.1})"));
    format!("{}{also}{severity}", weakness.title)
}

fn needed(need: &Need) -> String {
    let met = match need.met {
        Met::Yes => "yes",
        Met::No => "no",
        Met::NotKnown => "not known",
    };
    format!("only if {}: {met} ({})", need.what, need.why)
}

/// The rule of each weakness that is shown.
pub(super) fn rules(listing: &WeaknessListing) -> impl Iterator<Item = Rule> {
    let shown = listing.known.iter().filter(|weakness| is_reported(weakness));
    shown.map(|weakness| Rule {
        id: rule_id(weakness),
        name: weakness.title.clone(),
        help: format!("{}. Sources: {}", titled(weakness), weakness.sources.join(" ")),
        severity: weakness.severity.unwrap_or(UNRATED),
    })
}

/// What one kubelet may be open to. Of what the API server's version decides, a scan of each node would say
/// the same.
pub(super) fn findings(listing: &WeaknessListing, place: Place) -> impl Iterator<Item = Finding> {
    let shown = listing.known.iter().filter(|weakness| is_reported(weakness));
    shown.map(move |weakness| {
        let shield = &weakness.shield;
        Finding {
            rule: rule_id(weakness),
            key: weakness.decides.to_owned(),
            level: match weakness.standing {
                Standing::Open => Level::Error,
                Standing::MayBeOpen => Level::Warning,
                _ => Level::Note,
            },
            message: format!(
                "{}: {}. {}: {}. Shield: wire {}, pod {}, host-network pod {}, root {}: {}.",
                weakness.title,
                weakness.standing.words(),
                weakness.decides,
                weakness.why,
                shield.wire.word(),
                shield.pod.word(),
                shield.host_network_pod.word(),
                shield.root.word(),
                weakness.how
            ),
            place: place.clone(),
            suppressed: None,
        }
    })
}

fn is_reported(weakness: &KnownWeakness) -> bool {
    is_shown(weakness) && weakness.standing != Standing::NotJudged
}

fn rule_id(weakness: &KnownWeakness) -> String {
    format!("weakness/{}", weakness.id)
}
