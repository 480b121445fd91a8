//! A report grouped for printing: addresses that do the same are named together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::report::{ProbeAnswer, ProbeOutcome, ProbeReport};
use super::sides::SideKind;
use super::table::{PROBES, Probe};

/// A probe that got through.
#[derive(Debug)]
pub(crate) struct Exposure<'a> {
    /// The probe.
    pub(crate) probe: &'static Probe,
    /// Where it got through.
    pub(crate) outcomes: Vec<&'a ProbeOutcome>,
    /// The same by side, in the order of the sides.
    pub(crate) from: Vec<Addresses>,
    /// It got through wherever it was tried.
    pub(crate) everywhere: bool,
}

/// Addresses of the node that were dialled from one side.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Addresses {
    /// The side.
    pub(crate) side: SideKind,
    /// The addresses, in order.
    pub(crate) addresses: Vec<IpAddr>,
    /// They are all that were dialled from there.
    pub(crate) all: bool,
}

/// What answered on one port, from one side, the same way at each of these addresses.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct AnswerGroup<'a> {
    /// From where, and to which addresses.
    pub(crate) to: Addresses,
    /// To which port.
    pub(crate) port: u16,
    /// How many probes of each address were answered so.
    pub(crate) answers: BTreeMap<&'a ProbeAnswer, usize>,
}

/// `loopback (all)`, or `node address 192.0.2.10 2001:db8::10`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.side.name())?;
        match self.addresses.as_slice() {
            [_, _, ..] if self.all => f.write_str(" (all)"),
            addresses => addresses.iter().try_for_each(|address| write!(f, " {address}")),
        }
    }
}

impl ProbeReport {
    /// What got through, by probe, in the order of the table.
    pub(crate) fn exposed_probes(&self) -> Vec<Exposure<'_>> {
        PROBES.iter().filter_map(|probe| self.exposure(probe)).collect()
    }

    fn exposure(&self, probe: &'static Probe) -> Option<Exposure<'_>> {
        let tried = || self.results.iter().filter(|outcome| outcome.probe == probe.id);
        let outcomes: Vec<&ProbeOutcome> = tried().filter(|outcome| outcome.through).collect();
        if outcomes.is_empty() {
            return None;
        }
        let from = SideKind::ALL.into_iter().filter_map(|side| {
            let through = outcomes.iter().filter(|outcome| outcome.side == side);
            let addresses: Vec<IpAddr> = through.map(|outcome| outcome.address.ip()).collect();
            let all = addresses.len() == tried().filter(|outcome| outcome.side == side).count();
            (!addresses.is_empty()).then_some(Addresses { side, addresses, all })
        });
        Some(Exposure {
            probe,
            from: from.collect(),
            everywhere: outcomes.len() == tried().count(),
            outcomes,
        })
    }

    /// What answered, by side and port, with addresses that answered alike in one group.
    pub(crate) fn answer_groups(&self) -> Vec<AnswerGroup<'_>> {
        let mut each: BTreeMap<_, BTreeMap<&ProbeAnswer, usize>> = BTreeMap::new();
        for outcome in &self.results {
            let at = (outcome.side, outcome.address.port(), outcome.address.ip());
            *each.entry(at).or_default().entry(&outcome.answer).or_default() += 1;
        }
        let mut groups: Vec<AnswerGroup<'_>> = Vec::new();
        for ((side, port, address), answers) in each {
            let alike = groups
                .iter_mut()
                .find(|group| (group.to.side, group.port) == (side, port) && group.answers == answers);
            match alike {
                Some(group) => group.to.addresses.push(address),
                None => groups.push(AnswerGroup {
                    to: Addresses {
                        side,
                        addresses: vec![address],
                        all: false,
                    },
                    port,
                    answers,
                }),
            }
        }
        let of_a_port: Vec<_> = groups.iter().map(|group| (group.to.side, group.port)).collect();
        for group in &mut groups {
            let this = (group.to.side, group.port);
            group.to.all = of_a_port.iter().filter(|other| **other == this).count() == 1;
        }
        groups
    }

    /// What was left out, and what keeps the report from proving anything.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let skipped = self.skipped.iter().map(|why| format!("left out: {why}"));
        skipped.chain(self.faults()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::adopt::prove::Ports;

    fn report(results: &[(&str, SideKind, &str, u16, bool)]) -> ProbeReport {
        let outcome = |(probe, side, address, status, through): &(&str, _, &str, u16, bool)| ProbeOutcome {
            probe: (*probe).to_owned(),
            side: *side,
            address: address.parse().unwrap(),
            answer: ProbeAnswer::Status(*status),
            through: *through,
        };
        ProbeReport {
            api_version: String::new(),
            kind: String::new(),
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

    #[test]
    fn addresses_are_named_only_where_they_differ() {
        use SideKind::{Loopback, NodeAddress};
        let report = report(&[
            ("pods", NodeAddress, "192.0.2.10:10250", 200, true),
            ("exec", NodeAddress, "192.0.2.10:10250", 404, true),
            ("pods", NodeAddress, "192.0.2.11:10250", 200, true),
            ("exec", NodeAddress, "192.0.2.11:10250", 404, true),
            ("pods", Loopback, "127.0.0.1:10250", 200, true),
            ("exec", Loopback, "127.0.0.1:10250", 401, false),
            ("pods", Loopback, "[::1]:10250", 200, true),
            ("exec", Loopback, "[::1]:10250", 404, true),
        ]);
        let from = |exposure: &Exposure<'_>| {
            let from: Vec<String> = exposure.from.iter().map(ToString::to_string).collect();
            (exposure.probe.id, exposure.everywhere, from.join("; "))
        };
        let exposed: Vec<_> = report.exposed_probes().iter().map(from).collect();
        assert_eq!(
            exposed,
            [
                ("pods", true, "node address (all); loopback (all)".to_owned()),
                ("exec", false, "node address (all); loopback ::1".to_owned()),
            ]
        );
        let groups = report.answer_groups();
        let groups: Vec<_> = groups
            .iter()
            .map(|group| (group.to.to_string(), group.port, group.answers.len()))
            .collect();
        assert_eq!(
            groups,
            [
                ("node address (all)".to_owned(), 10250, 2),
                ("loopback 127.0.0.1".to_owned(), 10250, 2),
                ("loopback ::1".to_owned(), 10250, 2),
            ]
        );
    }
}
