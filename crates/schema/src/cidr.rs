//! IP networks, and what is left of one when others are cut out.

use std::{fmt, net::IpAddr, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub fn bytes(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// `4` or `6`, the end of our names.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// As a Service's `ipFamilies` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// An address with a prefix length; the bits past the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address/prefix")]
pub struct CidrError(String);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from((number as u32).to_be_bytes()),
        Family::V6 => IpAddr::from(number.to_be_bytes()),
    }
}

impl Cidr {
    /// The network of `prefix` bits around `address`; a longer prefix than the family has means the address alone.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let family = Family::of(&address);
        let prefix = prefix.min(family.bytes() as u8 * 8);
        let cidr = Cidr { address, prefix };
        Cidr { address: from_number(family, number(address) & !cidr.host_mask()), prefix }
    }

    pub fn family(&self) -> Family {
        Family::of(&self.address)
    }

    /// The network's own (first) address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn host_mask(&self) -> u128 {
        let bits = self.family().bytes() as u32 * 8 - u32::from(self.prefix);
        1u128.checked_shl(bits).map_or(u128::MAX, |n| n - 1)
    }

    pub fn mask(&self) -> IpAddr {
        let all = 1u128.checked_shl(self.family().bytes() as u32 * 8).map_or(u128::MAX, |n| n - 1);
        from_number(self.family(), all & !self.host_mask())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(&address) == self.family() && number(address) & !self.host_mask() == number(self.address)
    }

    pub fn last(&self) -> IpAddr {
        from_number(self.family(), number(self.address) | self.host_mask())
    }

    /// The address at `offset`, if it is inside.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset <= self.host_mask()).then(|| from_number(self.family(), number(self.address) + offset))
    }

    /// Where `address` stands in the network.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| number(address) - number(self.address))
    }

    /// Offset of the last address.
    pub fn last_offset(&self) -> u128 {
        self.host_mask()
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let digits = Some(prefix).filter(|text| text.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)?;
        let prefix: u8 = digits.parse().map_err(|_| bad())?;
        if usize::from(prefix) > Family::of(&address).bytes() * 8 {
            return Err(bad());
        }
        Ok(Cidr::new(address, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The addresses of `family` in any of the blocks (a network, and networks cut out of it), as sorted,
/// disjoint, unconnected spans with both ends included.
pub fn spans(family: Family, blocks: &[(Cidr, Vec<Cidr>)]) -> Vec<(IpAddr, IpAddr)> {
    let mut all: Vec<(u128, u128)> = Vec::new();
    for (block, except) in blocks.iter().filter(|(block, _)| block.family() == family) {
        let mut left = vec![(number(block.address()), number(block.last()))];
        for cut in except.iter().filter(|cut| cut.family() == family) {
            let (from, to) = (number(cut.address()), number(cut.last()));
            left = left
                .into_iter()
                .flat_map(|(a, b)| {
                    if to < a || b < from {
                        return [Some((a, b)), None];
                    }
                    [(a < from).then(|| (a, from - 1)), (to < b).then(|| (to + 1, b))]
                })
                .flatten()
                .collect();
        }
        all.extend(left);
    }
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (a, b) in all {
        match merged.last_mut() {
            Some((_, end)) if a <= end.saturating_add(1) => *end = b.max(*end),
            _ => merged.push((a, b)),
        }
    }
    merged.into_iter().map(|(a, b)| (from_number(family, a), from_number(family, b))).collect()
}
