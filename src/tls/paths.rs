//! The candidate paths from a leaf to a CA of the bundle, found by names alone.
//!
//! webpki searches by itself, but its bounds cannot be set: with a few certificates of one name it parses
//! each of them hundreds of thousands of times. So the paths are found here, by raw issuer = subject, and
//! webpki is given one at a time. Key identifiers say which to try first. They exclude none, as in Go.

use super::bounds::{MAX_INTERMEDIATES, MAX_OF_ONE_SUBJECT, MAX_PATHS};
use super::certificate::ChainCertificate;

/// The candidate paths of a leaf.
pub(super) struct Candidates {
    /// Each the intermediates by their numbers, from the leaf's issuer up.
    pub(super) paths: Vec<Vec<usize>>,
    /// There are more, or longer ones.
    pub(super) is_cut: bool,
}

/// The walk that finds them. Certificates are numbers here, so that no name is compared twice.
struct Walk {
    /// For each certificate of the chain, whether a CA of the bundle has its issuer's name.
    ends: Vec<bool>,
    /// For each, the intermediates that have its issuer's name, best first.
    issuers: Vec<Vec<usize>>,
    /// For each, the first certificate with the same subject and key.
    holders: Vec<usize>,
    path: Vec<usize>,
    found: Candidates,
}

impl Candidates {
    /// The paths of the leaf that is the first of `chain`, over its other certificates. `is_anchor` says
    /// whether a CA of the bundle has a name.
    pub(super) fn find(chain: &[ChainCertificate<'_>], is_anchor: impl Fn(&[u8]) -> bool) -> Self {
        let first = |is_same: &dyn Fn(&ChainCertificate<'_>, &ChainCertificate<'_>) -> bool| -> Vec<usize> {
            let all = chain.iter().enumerate();
            all.map(|(at, one)| chain.iter().position(|other| is_same(other, one)).unwrap_or(at))
                .collect()
        };
        let copies = first(&|one, other| one.der == other.der);
        let subjects = first(&|one, other| one.subject() == other.subject());
        let holders = first(&|one, other| one.key() == other.key() && one.subject() == other.subject());

        let mut is_cut = false;
        let mut issuers = Vec::new();
        for certificate in chain {
            let name = chain
                .iter()
                .position(|other| other.subject() == certificate.issuer());
            let mut named: Vec<usize> = (1..chain.len())
                .filter(|at| Some(subjects[*at]) == name && copies[*at] == *at)
                .collect();
            named.sort_by_key(|at| misfit(chain[*at].key_ids.own, certificate.key_ids.issuer));
            is_cut |= named.len() > MAX_OF_ONE_SUBJECT;
            named.truncate(MAX_OF_ONE_SUBJECT);
            issuers.push(named);
        }
        let mut walk = Walk {
            ends: chain
                .iter()
                .map(|certificate| is_anchor(certificate.issuer()))
                .collect(),
            issuers,
            holders,
            path: Vec::new(),
            found: Self {
                paths: Vec::new(),
                is_cut,
            },
        };
        walk.go_on_from(0);
        walk.found
    }
}

/// How well a certificate with the key identifier `own` fits one that names `issuer`: less is better.
pub(super) fn misfit(own: Option<&[u8]>, issuer: Option<&[u8]>) -> u8 {
    match (own, issuer) {
        (Some(own), Some(issuer)) if own == issuer => 0,
        (Some(_), Some(_)) => 2,
        _ => 1,
    }
}

impl Walk {
    /// Adds the paths that go on from the certificate `head`, to which `self.path` leads. Four issuers each
    /// and six steps bound the walk where no path ends.
    fn go_on_from(&mut self, head: usize) {
        if self.ends[head] {
            if self.found.paths.len() == MAX_PATHS {
                self.found.is_cut = true;
                return;
            }
            self.found.paths.push(self.path.clone());
        }
        for number in 0..self.issuers[head].len() {
            let issuer = self.issuers[head][number];
            // A path that meets a subject with the same key again leads in a circle.
            let is_same = |at: usize| self.holders[at] == self.holders[issuer];
            if is_same(0) || self.path.iter().any(|at| is_same(*at)) {
                continue;
            }
            if self.path.len() == MAX_INTERMEDIATES {
                self.found.is_cut = true;
                return;
            }
            self.path.push(issuer);
            self.go_on_from(issuer);
            self.path.pop();
        }
    }
}
