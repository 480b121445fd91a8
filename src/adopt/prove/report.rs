//! What probes have shown, and what has changed since.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::build::KubeletBuild;
use super::ports::Ports;
use super::sides::SideKind;
use super::table::{PROBES, Probe, ProbeCredential, UNTIDY};

/// The [`ProbeReport::api_version`].
pub(crate) const API_VERSION: &str = "kubelet-gate.dev/v1alpha1";
/// The [`ProbeReport::kind`].
pub(super) const KIND: &str = "ProbeReport";
/// The check of the authorization mode.
const AUTHORIZATION: &str = "4.2.2";

/// What came back.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeAnswer {
    /// An HTTP status.
    Status(u16),
    /// No connection: there is no listener, or a firewall rule refuses.
    Refused,
    /// No connection and no refusal in time: mostly a firewall rule that drops packets.
    Silent,
    /// A connection that the server closed without an HTTP answer, such as one that requires a certificate in
    /// the handshake.
    Failed(String),
    /// Nothing that shows open or closed, and why: a connection without an answer in time, or a fault on this
    /// side.
    Unknown(String),
}

impl std::fmt::Display for ProbeAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("no connection"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Unknown(why) => write!(f, "inconclusive: {why}"),
        }
    }
}

/// One probe, sent from one side to one address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeOutcome {
    /// The [`Probe::id`].
    pub probe: String,
    /// From where.
    pub side: SideKind,
    /// To where.
    pub address: SocketAddr,
    /// What came back.
    pub answer: ProbeAnswer,
    /// It got through.
    pub through: bool,
}

/// Everything that was tried.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
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
    pub results: Vec<ProbeOutcome>,
    /// What was left out or done otherwise, and why.
    pub skipped: Vec<String>,
    /// What was to be tried and could not be, and why: without it nothing is proven.
    pub untried: Vec<String>,
    /// What the kubelet says of its build, where a probe read its metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<KubeletBuild>,
}

/// What the probes that bear on a check of the benchmark have shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verified {
    /// One got through.
    Open,
    /// They were tried from the node's addresses and from loopback, none got through, and a gate refused
    /// them.
    Closed,
    /// None got through, but no gate was seen: a kubelet that refuses strangers by itself, or a port without
    /// a listener, gives the same result.
    NoGate,
    /// The probes do not tell.
    Untried,
}

impl ProbeReport {
    /// What got through.
    pub fn exposures(&self) -> impl Iterator<Item = &ProbeOutcome> {
        self.results.iter().filter(|outcome| outcome.through)
    }

    /// What shows nothing.
    pub fn unknown(&self) -> impl Iterator<Item = &ProbeOutcome> {
        let unknown = |outcome: &&ProbeOutcome| matches!(outcome.answer, ProbeAnswer::Unknown(_));
        self.results.iter().filter(unknown)
    }

    /// What keeps this report from proving anything, even if nothing got through: probes that were not tried
    /// or were inconclusive, and a kubelet's port without a listener.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let untried = self
            .untried
            .iter()
            .map(|why| format!("could not be tried: {why}"));
        let unknown = self.unknown().count();
        let unknown =
            (unknown > 0).then(|| format!("{unknown} of {} requests were inconclusive", self.results.len()));
        let deserted = self.is_deserted().then(|| {
            format!(
                "nothing listens on port {}, neither a kubelet nor a gate: it is closed to the API server as \
                 well",
                self.ports.secure
            )
        });
        untried.chain(unknown).chain(deserted).collect()
    }

    /// Whether nothing listens on the kubelet's own port: no kubelet runs, or it has another port.
    fn is_deserted(&self) -> bool {
        let mut secure = self
            .results
            .iter()
            .filter(|outcome| outcome.address.port() == self.ports.secure);
        !self.results.is_empty()
            && secure.all(|outcome| matches!(outcome.answer, ProbeAnswer::Refused | ProbeAnswer::Silent))
    }

    /// What has been shown of a check, by its number since CIS 1.7.
    #[must_use]
    pub fn verified(&self, cis: &str) -> Verified {
        let probe = |outcome: &ProbeOutcome| PROBES.iter().find(|probe| probe.id == outcome.probe);
        let bearing: Vec<(&ProbeOutcome, &Probe)> = self
            .results
            .iter()
            .filter_map(|outcome| Some((outcome, probe(outcome)?)))
            .filter(|(_, probe)| probe.cis.contains(&cis))
            .collect();
        let with_token = || {
            bearing
                .iter()
                .any(|(_, probe)| probe.credential == ProbeCredential::Token)
        };
        let from = |side| bearing.iter().any(|(outcome, _)| outcome.side == side);
        let unknown = |outcome: &ProbeOutcome| matches!(outcome.answer, ProbeAnswer::Unknown(_));
        if bearing.iter().any(|(outcome, _)| outcome.through) {
            Verified::Open
        } else if !from(SideKind::NodeAddress)
            // A client without credentials is refused for that alone: what an authenticated client may do
            // takes a token to see.
            || (cis == AUTHORIZATION && !with_token())
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

    /// Whether only a gate answers on the kubelet's own port. A kubelet redirects from an untidy path before
    /// it authenticates the client; a gate refuses the path.
    fn is_gated(&self) -> bool {
        let untidy = self.results.iter().filter(|outcome| outcome.probe == UNTIDY);
        let mut answers = untidy.map(|outcome| &outcome.answer);
        let mut gated = false;
        answers.all(|answer| match answer {
            ProbeAnswer::Refused | ProbeAnswer::Silent => true,
            answer => {
                gated = true;
                *answer == ProbeAnswer::Status(400)
            }
        }) && gated
    }
}

/// What was open before and what is open now.
#[derive(Debug)]
pub(crate) struct ReportChanges<'a> {
    /// It was open, and is not.
    pub closed: Vec<&'a ProbeOutcome>,
    /// It was and is.
    pub still: Vec<&'a ProbeOutcome>,
    /// It was not, and is.
    pub newly: Vec<&'a ProbeOutcome>,
    /// Not tried any more, or inconclusive.
    pub unknown: Vec<&'a ProbeOutcome>,
}

/// How many of something changed, and how.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeCounts {
    pub(crate) closed: usize,
    pub(crate) still_open: usize,
    pub(crate) newly_open: usize,
    pub(crate) unknown: usize,
}

impl std::fmt::Display for ChangeCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            closed,
            still_open,
            newly_open,
            unknown,
        } = self;
        write!(
            f,
            "{closed} closed, {still_open} still open, {newly_open} newly open, {unknown} not shown this time"
        )
    }
}

impl<'a> ReportChanges<'a> {
    /// Compares two reports.
    #[must_use]
    pub(crate) fn between(before: &'a ProbeReport, now: &'a ProbeReport) -> Self {
        let key = |outcome: &ProbeOutcome| (outcome.probe.clone(), outcome.side, outcome.address);
        let open = |report: &ProbeReport| report.exposures().map(key).collect::<BTreeSet<_>>();
        let (was, is) = (open(before), open(now));
        let shown = now
            .results
            .iter()
            .filter(|outcome| !matches!(outcome.answer, ProbeAnswer::Unknown(_)));
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

    /// How many probes changed. Each counts once: it is still open if it got through from anywhere then and
    /// does from anywhere now, and closed only if each request that got through then is shown closed now.
    #[must_use]
    pub(crate) fn probes(&self) -> ChangeCounts {
        let named = |outcomes: &[&'a ProbeOutcome]| -> BTreeSet<&'a str> {
            outcomes.iter().map(|outcome| outcome.probe.as_str()).collect()
        };
        let (closed, unknown) = (named(&self.closed), named(&self.unknown));
        let (still, newly) = (named(&self.still), named(&self.newly));
        let was: BTreeSet<&str> = [&closed, &unknown, &still]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        let is: BTreeSet<&str> = still.union(&newly).copied().collect();
        let gone: BTreeSet<&str> = was.difference(&is).copied().collect();
        let not_shown = gone.intersection(&unknown).count();
        ChangeCounts {
            closed: gone.len() - not_shown,
            still_open: was.intersection(&is).count(),
            newly_open: is.difference(&was).count(),
            unknown: not_shown,
        }
    }

    /// How many requests changed: a probe counts once for each side and address.
    #[must_use]
    pub(crate) fn requests(&self) -> ChangeCounts {
        ChangeCounts {
            closed: self.closed.len(),
            still_open: self.still.len(),
            newly_open: self.newly.len(),
            unknown: self.unknown.len(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(results: &[(&str, &str, ProbeAnswer, bool)]) -> ProbeReport {
        let outcome = |(probe, address, answer, through): &(&str, &str, ProbeAnswer, bool)| ProbeOutcome {
            probe: (*probe).to_owned(),
            side: SideKind::NodeAddress,
            address: address.parse().unwrap(),
            answer: answer.clone(),
            through: *through,
        };
        ProbeReport {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            version: String::new(),
            host: String::new(),
            started: String::new(),
            finished: String::new(),
            ports: Ports::default(),
            results: results.iter().map(outcome).collect(),
            skipped: Vec::new(),
            untried: Vec::new(),
            build: None,
        }
    }

    /// The numbers of a comparison add up to those of the two runs. Seen red: with requests counted for
    /// probes.
    #[test]
    fn a_comparison_counts_what_the_two_runs_counted() {
        let open = |probe, address| (probe, address, ProbeAnswer::Status(200), true);
        let shut = |probe, address| (probe, address, ProbeAnswer::Status(401), false);
        let lost = |probe, address| (probe, address, ProbeAnswer::Unknown(String::new()), false);
        let (one, other) = ("192.0.2.10:10250", "192.0.2.11:10250");
        let before = report(&[
            open("pods", one),
            open("pods", other),
            open("exec", one),
            open("exec", other),
            open("run", one),
            shut("run", other),
            open("attach", one),
            shut("metrics", one),
            shut("spec", one),
        ]);
        let now = report(&[
            shut("pods", one),
            shut("pods", other),
            open("exec", one),
            shut("exec", other),
            shut("run", one),
            open("run", other),
            lost("attach", one),
            open("metrics", one),
            shut("spec", one),
        ]);
        let changes = ReportChanges::between(&before, &now);
        let (probes, requests) = (changes.probes(), changes.requests());
        assert_eq!(
            probes.to_string(),
            "1 closed, 2 still open, 1 newly open, 1 not shown this time"
        );
        assert_eq!(
            requests.to_string(),
            "4 closed, 1 still open, 2 newly open, 1 not shown this time"
        );
        let then = before.exposed_probes().len();
        assert_eq!(probes.closed + probes.still_open + probes.unknown, then);
        assert_eq!(probes.still_open + probes.newly_open, now.exposed_probes().len());
        let then = before.exposures().count();
        assert_eq!(requests.closed + requests.still_open + requests.unknown, then);
        assert_eq!(requests.still_open + requests.newly_open, now.exposures().count());
    }
}
