//! The tables and built-in chains that iptables-nft makes where there are none. Once they have been made they
//! stay, and turn up in every listing: so what was there before the seal is noted, and the rest goes with it.

use std::io;

use serde::{Deserialize, Serialize};

use super::hooks::{FAMILIES, Family, TABLES};
use crate::host::netfilter::{Kind, NFTABLES, Netfilter, ONLY_IF_EMPTY, attribute};

/// The tables, and the built-in chains, of iptables-nft that were there before the seal, and are not its own.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Builtins {
    tables: Vec<(Family, String)>,
    chains: Vec<(Family, String, String)>,
}

/// What iptables calls its own.
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// `NFT_MSG_GETTABLE`, `NFT_MSG_DELTABLE`, `NFT_MSG_GETCHAIN`, `NFT_MSG_DELCHAIN`.
const LIST_TABLES: Kind = Kind(NFTABLES, 1);
const DELETE_TABLE: u8 = 2;
const LIST_CHAINS: Kind = Kind(NFTABLES, 4);
const DELETE_CHAIN: u8 = 5;
/// `NFTA_TABLE_NAME`, and `NFTA_CHAIN_TABLE`, `_NAME` and `_POLICY`.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const ACCEPT: u32 = 1;

impl Builtins {
    /// Those that are there.
    ///
    /// # Errors
    /// This process may not (`CAP_NET_ADMIN`), or the kernel has no nf_tables.
    pub(in crate::seal) fn now() -> io::Result<Self> {
        let chains = chains()?.into_iter().map(|(chain, _)| chain).collect();
        let tables = tables()?;
        Ok(Self { tables, chains })
    }

    /// Takes away those that are there now and were not before, as far as they are empty: what has rules of
    /// another program stays. The kernel itself decides whether they are.
    ///
    /// # Errors
    /// As [`Self::now`].
    pub(in crate::seal) fn remove_others(&self) -> io::Result<()> {
        let netfilter = Netfilter::open()?;
        for ((family, table, chain), policy) in chains()? {
            let before = self
                .chains
                .iter()
                .any(|(of, its, name)| (*of, its, name) == (family, &table, &chain));
            if !before && policy == Some(ACCEPT) {
                let named = [named(CHAIN_TABLE, &table), named(CHAIN_NAME, &chain)].concat();
                done(netfilter.change(DELETE_CHAIN, ONLY_IF_EMPTY, family.number(), &named))?;
            }
        }
        for (family, table) in tables()? {
            if !self.tables.contains(&(family, table.clone())) {
                let named = named(TABLE_NAME, &table);
                done(netfilter.change(DELETE_TABLE, ONLY_IF_EMPTY, family.number(), &named))?;
            }
        }
        Ok(())
    }
}

/// Something of another program's is in it, or another program was faster.
fn done(change: io::Result<()>) -> io::Result<()> {
    match change {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        change => change,
    }
}

fn tables() -> io::Result<Vec<(Family, String)>> {
    let netfilter = Netfilter::open()?;
    let mut found = Vec::new();
    for family in FAMILIES {
        netfilter.list(LIST_TABLES, family.number(), &[], |_, table| {
            let name = table.text(TABLE_NAME).unwrap_or_default();
            if TABLES.contains(&name.as_str()) {
                found.push((family, name));
            }
        })?;
    }
    Ok(found)
}

/// The built-in chains with their policies.
#[expect(clippy::type_complexity, reason = "a chain's place, and its policy")]
fn chains() -> io::Result<Vec<((Family, String, String), Option<u32>)>> {
    let netfilter = Netfilter::open()?;
    let mut found = Vec::new();
    for family in FAMILIES {
        netfilter.list(LIST_CHAINS, family.number(), &[], |_, chain| {
            let [table, name] = [CHAIN_TABLE, CHAIN_NAME].map(|name| chain.text(name).unwrap_or_default());
            if TABLES.contains(&table.as_str()) && CHAINS.contains(&name.as_str()) {
                found.push(((family, table, name), chain.number(CHAIN_POLICY)));
            }
        })?;
    }
    Ok(found)
}

/// A name as the kernel's messages have it.
fn named(attribute_number: u16, name: &str) -> Vec<u8> {
    attribute(attribute_number, &[name.as_bytes(), &[0]].concat())
}
