//! Which flows are critical: they take two disjoint ways at once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const HEADER_LEN: usize = 40;
const NEXT_HEADER_TCP: u8 = 6;
const NEXT_HEADER_UDP: u8 = 17;
/// How many rules may be given: each costs a comparison per packet of the host.
pub const RULES_MAX: usize = 32;

/// One rule, written `tcp/22`, `udp/5060` or `dscp/46`. A port is meant on either side, so that both directions match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    /// TCP from or to this port.
    Tcp(u16),
    /// UDP from or to this port.
    Udp(u16),
    /// Packets marked with this differentiated services codepoint (RFC 2474, section 3).
    Dscp(u8),
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rule for critical flows: write tcp/PORT, udp/PORT (1 to 65535) or dscp/N (0 to 63)")]
pub struct RuleError(String);

impl Rule {
    /// Expedited forwarding (RFC 3246): what applications mark that cannot wait. The default.
    pub const EXPEDITED: Self = Self::Dscp(46);

    /// Whether the rule means an IPv6 packet, of which at least the header is there.
    fn matches(self, packet: &[u8]) -> bool {
        match self {
            Self::Tcp(port) => has_port(packet, NEXT_HEADER_TCP, port),
            Self::Udp(port) => has_port(packet, NEXT_HEADER_UDP, port),
            Self::Dscp(codepoint) => traffic_class(packet) >> 2 == codepoint,
        }
    }
}

/// Whether any rule means a well-formed IPv6 packet. What is too short to tell is ordinary.
pub fn is_critical(rules: &[Rule], packet: &[u8]) -> bool {
    packet.len() >= HEADER_LEN && rules.iter().any(|rule| rule.matches(packet))
}

/// The eight bits behind the version (RFC 8200, section 3).
fn traffic_class(packet: &[u8]) -> u8 {
    packet[0] << 4 | packet[1] >> 4
}

fn has_port(packet: &[u8], next_header: u8, port: u16) -> bool {
    let Some(ports) = packet.get(HEADER_LEN..HEADER_LEN + 4).filter(|_| packet[6] == next_header) else { return false };
    let port = port.to_be_bytes();
    ports[..2] == port || ports[2..] == port
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError(text.chars().take(40).collect());
        let (kind, number) = text.split_once('/').ok_or_else(error)?;
        if number.starts_with('+') {
            return Err(error());
        }
        let port = || number.parse().ok().filter(|port| *port > 0).ok_or_else(error);
        match kind {
            "tcp" => Ok(Self::Tcp(port()?)),
            "udp" => Ok(Self::Udp(port()?)),
            "dscp" => number.parse().ok().filter(|codepoint| *codepoint < 64).map(Self::Dscp).ok_or_else(error),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Dscp(codepoint) => write!(f, "dscp/{codepoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(codepoint: u8, next_header: u8, source: u16, destination: u16) -> Vec<u8> {
        let mut packet = vec![0; HEADER_LEN];
        packet[0] = 0x60 | codepoint >> 2;
        packet[1] = codepoint << 6 | 0x0f;
        packet[6] = next_header;
        packet.extend_from_slice(&source.to_be_bytes());
        packet.extend_from_slice(&destination.to_be_bytes());
        packet
    }

    #[test]
    fn a_rule_reads_and_writes_the_same() {
        for text in ["tcp/22", "udp/5060", "dscp/46", "dscp/0", "tcp/65535"] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            assert_eq!(serde_json::from_str::<Rule>(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
        }
        assert_eq!("dscp/46".parse(), Ok(Rule::EXPEDITED));
        for text in
            ["", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/+1", "dscp/64", "icmp/1", "TCP/22", "udp/1/2", "tcp/ 1"]
        {
            assert!(text.parse::<Rule>().is_err(), "`{text}`");
        }
    }

    #[test]
    fn a_port_is_meant_on_either_side_and_only_of_its_protocol() {
        let rules = ["tcp/22".parse().unwrap(), "udp/5060".parse().unwrap()];
        assert!(is_critical(&rules, &packet(0, 6, 40_000, 22)) && is_critical(&rules, &packet(0, 6, 22, 40_000)));
        assert!(!is_critical(&rules, &packet(0, 17, 22, 22)) && !is_critical(&rules, &packet(0, 6, 23, 2_200)));
        assert!(is_critical(&rules, &packet(0, 17, 1, 5_060)) && !is_critical(&rules, &packet(0, 58, 22, 5_060)));
    }

    #[test]
    fn a_codepoint_is_read_across_two_bytes_and_without_congestion_bits() {
        assert!(is_critical(&[Rule::EXPEDITED], &packet(46, 17, 1, 2)));
        assert!(!is_critical(&[Rule::EXPEDITED], &packet(45, 17, 1, 2)));
        assert!(!is_critical(&[], &packet(46, 17, 1, 2)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in ".*") {
            let _ = is_critical(&[Rule::Tcp(1), Rule::Udp(2), Rule::EXPEDITED], &bytes);
            let _ = text.parse::<Rule>();
        }
    }
}
