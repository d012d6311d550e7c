//! Other people's rules that may drop our packets; they are named, never touched.

use std::fmt;

use super::Result;
use super::nft::{BaseChain, Nft};
use crate::ruleset::{HookPoint, TABLE};

/// A base chain of another table that drops what it does not expect where pods' packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDrop {
    /// `ip`, `ip6` or `inet`
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub hook: &'static str,
    /// By its policy; otherwise by a rule without a condition.
    pub by_default: bool,
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ForeignDrop { family, table, chain, hook, by_default } = self;
        let how = if *by_default { "by default" } else { "by a rule for everything" };
        write!(f, "chain {chain} of nftables table {family} {table} drops {how} at hook {hook}")
    }
}

/// Base chains at `forward` and `input` that are not ours and drop by policy (ufw, Docker; iptables over nftables
/// included) or by a rule for everything (firewalld).
pub fn foreign_drops(nft: &mut Nft) -> Result<Vec<ForeignDrop>> {
    let closed = nft.closed_chains()?;
    let found = nft.base_chains()?.into_iter().filter_map(|BaseChain { family, table, chain, hook, drops }| {
        let closes = closed.contains(&(family, table.clone(), chain.clone()));
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
        let other = !(family == "inet" && table == TABLE);
        ((drops || closes) && other).then_some(ForeignDrop { family, table, chain, hook, by_default: drops })
    });
    Ok(found.collect())
}
