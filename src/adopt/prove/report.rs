//! What probes have shown, and what has changed since.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::table::UNTIDY;
use super::{Credential, PROBES, Ports, Probe, SideKind};

/// The [`Report::api_version`].
pub const API_VERSION: &str = "kubelet-gate.dev/v1alpha1";
/// The [`Report::kind`].
pub const KIND: &str = "ProbeReport";
/// Not everybody may do everything.
const AUTHORIZATION: &str = "4.2.2";

/// What came back.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// An HTTP status.
    Status(u16),
    /// No connection: nobody listens, or a rule refuses.
    Refused,
    /// No connection, and no word of it for too long: mostly a rule that drops.
    Silent,
    /// A connection that the other end closed without an HTTP answer, such as one that wants a certificate in the handshake.
    Failed(String),
    /// Nothing that shows anything, and why: a connection and no answer in time, or a fault on this side.
    Unknown(String),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("no connection"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Unknown(why) => write!(f, "nothing shown: {why}"),
        }
    }
}

/// One probe, sent from one side to one address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The [`Probe::id`].
    pub probe: String,
    /// From where.
    pub side: SideKind,
    /// To where.
    pub address: SocketAddr,
    /// What came back.
    pub answer: Answer,
    /// It got through.
    pub through: bool,
}

/// Everything that was tried.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Of this program.
    pub version: String,
    /// What the node calls itself.
    pub host: String,
    /// When the first probe was sent, as RFC 3339.
    pub started: String,
    /// When the last one had been answered.
    pub finished: String,
    /// The ports that were probed.
    pub ports: Ports,
    /// Each probe on each address.
    pub results: Vec<Outcome>,
    /// What was left out or done otherwise, and why.
    pub skipped: Vec<String>,
    /// What was to be tried and could not be, and why: without it nothing is proven.
    pub untried: Vec<String>,
}

/// What the probes that bear on a check of the benchmark have shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verified {
    /// One got through.
    Open,
    /// They were tried from the node's addresses and from loopback, none got through, and who refused them is a gate.
    Closed,
    /// None got through, but no gate was seen: a kubelet that refuses strangers by itself does so as well, and so does nobody.
    NoGate,
    /// It cannot be said.
    Untried,
}

impl Report {
    /// What got through.
    pub fn exposures(&self) -> impl Iterator<Item = &Outcome> {
        self.results.iter().filter(|outcome| outcome.through)
    }

    /// What shows nothing.
    pub fn unknown(&self) -> impl Iterator<Item = &Outcome> {
        let unknown = |outcome: &&Outcome| matches!(outcome.answer, Answer::Unknown(_));
        self.results.iter().filter(unknown)
    }

    /// What keeps this report from proving anything, though nothing got through: what was not tried, or showed nothing, and that
    /// nobody is there at all.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let untried = self
            .untried
            .iter()
            .map(|why| format!("could not be tried: {why}"));
        let unknown = self.unknown().count();
        let unknown = (unknown > 0)
            .then(|| format!("nothing is shown by {unknown} of {} requests", self.results.len()));
        let deserted = self.is_deserted().then(|| {
            format!(
                "nobody takes connections on port {}, neither a kubelet nor a gate: it is closed, but to everybody",
                self.ports.secure
            )
        });
        untried.chain(unknown).chain(deserted).collect()
    }

    /// Whether nobody takes connections on the kubelet's own port: no kubelet runs, or it has another port.
    fn is_deserted(&self) -> bool {
        let mut secure = self
            .results
            .iter()
            .filter(|outcome| outcome.address.port() == self.ports.secure);
        !self.results.is_empty()
            && secure.all(|outcome| matches!(outcome.answer, Answer::Refused | Answer::Silent))
    }

    /// What has been shown of a check, by its number since CIS 1.7.
    #[must_use]
    pub fn verified(&self, cis: &str) -> Verified {
        let probe = |outcome: &Outcome| PROBES.iter().find(|probe| probe.id == outcome.probe);
        let bearing: Vec<(&Outcome, &Probe)> = self
            .results
            .iter()
            .filter_map(|outcome| Some((outcome, probe(outcome)?)))
            .filter(|(_, probe)| probe.cis.contains(&cis))
            .collect();
        let from = |side| bearing.iter().any(|(outcome, _)| outcome.side == side);
        let unknown = |outcome: &Outcome| matches!(outcome.answer, Answer::Unknown(_));
        if bearing.iter().any(|(outcome, _)| outcome.through) {
            Verified::Open
        } else if !from(SideKind::NodeAddress)
            // Who shows nothing is refused for that alone: what those may who are somebody takes a token to see.
            || (cis == AUTHORIZATION && !bearing.iter().any(|(_, probe)| probe.credential == Credential::Token))
            || !from(SideKind::Loopback)
            || bearing.iter().any(|(outcome, _)| unknown(outcome))
        {
            Verified::Untried
        } else if !self.is_gated() {
            Verified::NoGate
        } else {
            Verified::Closed
        }
    }

    /// Whether a gate, and nobody else, answers where the kubelet's own port takes connections. A kubelet tidies a path by a
    /// redirect before it asks who wants it; a gate refuses it.
    fn is_gated(&self) -> bool {
        let untidy = self.results.iter().filter(|outcome| outcome.probe == UNTIDY);
        let mut answers = untidy.map(|outcome| &outcome.answer);
        let mut gated = false;
        answers.all(|answer| match answer {
            Answer::Refused | Answer::Silent => true,
            answer => {
                gated = true;
                *answer == Answer::Status(400)
            }
        }) && gated
    }
}

/// What has become of what was open, and what is open that was not.
#[derive(Debug)]
pub struct Changes<'a> {
    /// It was open, and is not.
    pub closed: Vec<&'a Outcome>,
    /// It was and is.
    pub still: Vec<&'a Outcome>,
    /// It was not, and is.
    pub newly: Vec<&'a Outcome>,
    /// Not tried any more, or without an answer that shows anything.
    pub unknown: Vec<&'a Outcome>,
}

impl<'a> Changes<'a> {
    /// Compares two reports.
    #[must_use]
    pub fn between(before: &'a Report, now: &'a Report) -> Self {
        let key = |outcome: &Outcome| (outcome.probe.clone(), outcome.side, outcome.address);
        let open = |report: &Report| report.exposures().map(key).collect::<BTreeSet<_>>();
        let (was, is) = (open(before), open(now));
        let shown = now
            .results
            .iter()
            .filter(|outcome| !matches!(outcome.answer, Answer::Unknown(_)));
        let shown: BTreeSet<_> = shown.map(key).collect();
        let (gone, unknown) = before
            .exposures()
            .filter(|outcome| !is.contains(&key(outcome)))
            .partition(|outcome| shown.contains(&key(outcome)));
        let (still, newly) = now.exposures().partition(|outcome| was.contains(&key(outcome)));
        Self {
            closed: gone,
            still,
            newly,
            unknown,
        }
    }
}
