//! What `iptables-save` prints.

use std::collections::BTreeMap;

/// The rules of each chain of each table, without counters.
#[derive(Debug, Default)]
pub(super) struct Saved(BTreeMap<(String, String), Vec<String>>);

impl Saved {
    pub(super) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split(' ').next().unwrap_or_default();
                saved.entry(table, chain);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                saved.entry(table, chain).push(rule.to_owned());
            }
        }
        saved
    }

    fn entry(&mut self, table: &str, chain: &str) -> &mut Vec<String> {
        self.0.entry((table.to_owned(), chain.to_owned())).or_default()
    }

    /// The rules of a chain; none if there is no such chain.
    pub(super) fn rules(&self, table: &str, chain: &str) -> &[String] {
        let key = (table.to_owned(), chain.to_owned());
        self.0.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn has(&self, table: &str, chain: &str) -> bool {
        self.0.contains_key(&(table.to_owned(), chain.to_owned()))
    }

    /// Every chain with its table and its rules.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        let chains = self.0.iter();
        chains.map(|((table, chain), rules)| (table.as_str(), chain.as_str(), rules.as_slice()))
    }
}
