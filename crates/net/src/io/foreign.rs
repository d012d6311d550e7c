//! Other people's rules that may drop our packets; they are named, never touched.

use std::fmt;

use super::{
    Result,
    nft::{BaseChain, Nft},
};
use crate::ruleset::{HookPoint, TABLE};

/// A base chain of another table that drops by default where pods' packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDrop {
    /// `ip`, `ip6` or `inet`
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub hook: &'static str,
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ForeignDrop { family, table, chain, hook } = self;
        write!(f, "chain {chain} of nftables table {family} {table} drops by default at hook {hook}")
    }
}

/// Base chains at `forward` and `input` with a drop policy that are not ours (iptables over nftables included).
pub fn foreign_drops(nft: &mut Nft) -> Result<Vec<ForeignDrop>> {
    let found = nft.base_chains()?.into_iter().filter_map(|BaseChain { family, table, chain, hook, drops }| {
        let family = match family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            _ => return None,
        };
        let hook = match hook.point {
            HookPoint::Forward => "forward",
            HookPoint::Input => "input",
            _ => return None,
        };
        (drops && !(family == "inet" && table == TABLE)).then_some(ForeignDrop { family, table, chain, hook })
    });
    Ok(found.collect())
}
