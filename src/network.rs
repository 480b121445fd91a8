//! Networks that addresses belong to, as the configuration and the packet filters write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How many leading bits of a mapped address (`::ffff:192.0.2.1`) are not the IPv4 address.
const MAPPED: u8 = 96;

/// A network in CIDR notation, such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Network {
    /// The first address. An IPv4 address that is mapped into IPv6 is kept as IPv4.
    address: IpAddr,
    /// How many leading bits of an address tell whether it belongs to the network.
    bits: u8,
}

/// The networks of a list. An empty list stands for every address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks(Vec<Network>);

/// Why a text is no network.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor a network.
    #[error(
        "is no network; write a CIDR such as 10.0.0.0/8 or 2001:db8::/32, or an address such as 192.0.2.10"
    )]
    Syntax,
    /// `fe80::1%eth0`: a list of networks knows no interfaces.
    #[error("names the interface {zone:?}; write it without %{zone}, and it counts on every interface")]
    Zone {
        /// What follows the percent sign.
        zone: String,
    },
    /// More bits than an address has, or so few that a mapped network would be no IPv4 network.
    #[error("has a length that is not from {least} to {most}; write one, or leave it out for one address")]
    Length {
        /// The fewest bits.
        least: u8,
        /// The bits of an address of this family.
        most: u8,
    },
    /// Bits beyond the length are set: either the address or the length is not what was meant.
    #[error("has bits set beyond /{bits}; write {network} for the network, or {address} for one address")]
    HostBits {
        /// The length as written.
        bits: u8,
        /// The network with that length.
        network: Network,
        /// The address as written.
        address: IpAddr,
    },
}

// === impl Network ===

impl Network {
    /// Reads a network, or an address, which is a network of one.
    ///
    /// # Errors
    /// The text is neither, or says two things at once.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        if let Some((_, zone)) = address.split_once('%') {
            return Err(NetworkError::Zone {
                zone: zone.escape_default().to_string(),
            });
        }
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Syntax)?;
        let (least, most) = (least_bits(address), width(address));
        let bits = match length {
            None => most,
            Some(length) if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(NetworkError::Syntax);
            }
            Some(length) => match length.parse() {
                Ok(bits) if (least..=most).contains(&bits) => bits,
                _ => return Err(NetworkError::Length { least, most }),
            },
        };
        let network = Self {
            address: first(address, bits),
            bits,
        };
        if network.address != address {
            return Err(NetworkError::HostBits {
                bits,
                network,
                address,
            });
        }
        Ok(match (address.to_canonical(), address) {
            (address @ IpAddr::V4(_), IpAddr::V6(_)) => Self {
                address,
                bits: bits - MAPPED,
            },
            _ => network,
        })
    }

    /// Whether it has this address. An IPv4 address that is mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.is_ipv4() && first(address, self.bits) == self.address
    }

    /// Whether it has every address of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }

    /// Whether its addresses are those of IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether it has every address of its family.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

/// How many bits an address of this family has.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// How many bits a network of this family has at least: one that is mapped has those that say so.
fn least_bits(address: IpAddr) -> u8 {
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(_)) => MAPPED,
        _ => 0,
    }
}

/// The address with its first `bits` alone.
fn first(address: IpAddr, bits: u8) -> IpAddr {
    let cleared = u32::from(width(address).saturating_sub(bits));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(cleared).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(cleared).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == width(self.address) {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| de::Error::custom(format!("{text:?} {error}")))
    }
}

// === impl Networks ===

impl Networks {
    /// These networks; none of them stands for every address.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether the list lets this address through.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|network| network.contains(address))
    }

    /// Whether the list lets every address of `network` through, by one of its own networks.
    #[must_use]
    pub fn cover(&self, network: &Network) -> bool {
        self.0.is_empty() || self.0.iter().any(|own| own.covers(network))
    }

    /// Whether every address is let through because the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.0.iter()
    }

    /// Ascending, without those that another one covers: the same list, however it was written.
    #[must_use]
    pub fn distinct(&self) -> Vec<Network> {
        let mut distinct: Vec<Network> = Vec::new();
        let mut sorted = self.0.clone();
        // The widest of those that begin with the same address comes first.
        sorted.sort();
        for network in sorted {
            if !distinct.last().is_some_and(|last| last.covers(&network)) {
                distinct.push(network);
            }
        }
        distinct
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap()
    }

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(texts.iter().map(|text| network(text)).collect())
    }

    /// Seen red: with the mapped form not turned into IPv4.
    #[test]
    fn networks_are_written_as_they_are_read_and_mapped_ones_are_ipv4() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.10", "192.0.2.10"),
            ("192.0.2.10/32", "192.0.2.10"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.10", "192.0.2.10"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_the_way_out() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "010.0.0.0/8",
            "node-1",
            "[::1]",
            "192.0.2.10:10250",
            "10.0.0.0-10.0.0.9",
            "*",
        ] {
            assert_eq!(Network::parse(text), Err(NetworkError::Syntax), "{text:?}");
        }
        for (text, says) in [
            (
                "10.1.2.3/8",
                "write 10.0.0.0/8 for the network, or 10.1.2.3 for one address",
            ),
            (
                "2001:db8::1/64",
                "write 2001:db8::/64 for the network, or 2001:db8::1 for one address",
            ),
            ("::ffff:10.0.0.0/90", "not from 96 to 128"),
            ("10.0.0.0/33", "not from 0 to 32"),
            ("10.0.0.0/999", "not from 0 to 32"),
            ("::/129", "not from 0 to 128"),
            ("fe80::1%eth0", "without %eth0"),
            ("fe80::%eth0/64", "without %eth0"),
        ] {
            let error = Network::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_list_is_everyone_and_any_other_only_who_is_in_it() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(networks(&[]).allow(address("192.0.2.1")) && networks(&[]).allow(address("::1")));
        let list = networks(&["10.0.0.0/8", "2001:db8::/32"]);
        for inside in ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8:ffff::1"] {
            assert!(list.allow(address(inside)), "{inside}");
        }
        for outside in [
            "11.0.0.0",
            "9.255.255.255",
            "::ffff:11.0.0.1",
            "2001:db9::",
            "::1",
            "::10.0.0.1",
        ] {
            assert!(!list.allow(address(outside)), "{outside}");
        }
        assert!(
            !networks(&["::/0"]).allow(address("10.0.0.1")),
            "IPv6 is not IPv4"
        );
        assert!(
            !networks(&["::/0"]).allow(address("::ffff:10.0.0.1")),
            "nor is a mapped address"
        );
        assert!(!networks(&["0.0.0.0/0"]).allow(address("2001:db8::1")));
    }

    #[test]
    fn a_list_is_the_same_in_any_order_and_without_what_it_has_already() {
        let list = networks(&[
            "10.1.0.0/16",
            "::1",
            "10.0.0.0/8",
            "9.0.0.0/8",
            "10.0.0.0/9",
            "::1",
        ]);
        let texts: Vec<String> = list.distinct().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["9.0.0.0/8", "10.0.0.0/8", "::1"]);
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
            any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()),
        ]
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,40}") {
            let _ = Network::parse(&text);
        }

        /// Each bit counts, and none beyond the length.
        #[test]
        fn an_address_is_inside_exactly_if_its_leading_bits_are_the_networks(
            address in any_address(), length in 0..=128_u8, flipped in 0..128_u32
        ) {
            let address = address.to_canonical();
            let most = width(address);
            let length = length.min(most);
            let network = Network { address: first(address, length), bits: length };
            prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
            prop_assert!(network.contains(address));
            let flipped = flipped % u32::from(most);
            let other: IpAddr = match address {
                IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() ^ (1 << (31 - flipped))).into(),
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() ^ (1 << (127 - flipped))).into(),
            };
            // Flipping a bit may make a mapped address of it, which is IPv4.
            if other.to_canonical() == other {
                prop_assert_eq!(network.contains(other), flipped >= u32::from(length));
            }
        }

        #[test]
        fn a_list_without_what_it_has_already_lets_the_same_addresses_through(
            written in proptest::collection::vec((any_address(), 0..=12_u8), 1..12), address in any_address()
        ) {
            let list = Networks::new(written.iter().map(|(address, bits)| {
                let address = address.to_canonical();
                Network { address: first(address, *bits), bits: *bits }
            }).collect());
            let distinct = Networks::new(list.distinct());
            prop_assert_eq!(list.allow(address), distinct.allow(address));
        }
    }
}
