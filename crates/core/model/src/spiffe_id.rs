//! SPIFFE IDs, parsed once at the border.
//!
//! The strict grammar of the SPIFFE-ID specification, sections 2.1 to 2.4. What is spelled differently is a different text,
//! not another way of writing the same ID, so there is no normalisation, no trimming and no percent-decoding. Test names carry
//! the number of the conformance item they prove.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest trust domain name, in bytes (section 2.1).
const TRUST_DOMAIN_LEN_MAX: usize = 255;
/// The longest SPIFFE ID that is accepted, in bytes (section 2.3).
const SPIFFE_ID_LEN_MAX: usize = 2048;
const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Nothing there.
    #[error("the SPIFFE ID is empty")]
    Empty,
    /// Longer than 2048 bytes.
    #[error("the SPIFFE ID is {0} bytes long, at most 2048 are allowed")]
    TooLong(usize),
    /// Does not start with `spiffe://`.
    #[error("the SPIFFE ID does not start with `spiffe://`")]
    WrongScheme,
    /// No trust domain.
    #[error("the trust domain is missing")]
    MissingTrustDomain,
    /// Longer than 255 bytes.
    #[error("the trust domain is {0} bytes long, at most 255 are allowed")]
    TrustDomainTooLong(usize),
    /// Something else than `a-z`, `0-9`, `.`, `-` and `_`.
    #[error("byte 0x{0:02x} is not allowed in a trust domain: only a-z, 0-9, '.', '-' and '_' are")]
    BadTrustDomainByte(u8),
    /// Something else than `a-z`, `A-Z`, `0-9`, `.`, `-` and `_`.
    #[error("byte 0x{0:02x} is not allowed in a path segment: only a-z, A-Z, 0-9, '.', '-' and '_' are")]
    BadPathByte(u8),
    /// `//` inside the path.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("the path has a segment of only dots")]
    DotSegment,
    /// `/` at the end.
    #[error("the path ends with a slash")]
    TrailingSlash,
}

/// The name of a trust domain: one root of trust, one namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name alone, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which has no path; what authorities carry, and keys of bundle maps.
    pub fn id_text(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of one node or workload: a trust domain and a path of at least one segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// With its leading slash.
    path: Arc<str>,
}

impl SpiffeId {
    /// The identity of the node called `name` in `trust_domain`: `spiffe://<trust-domain>/node/<name>`.
    pub fn node(trust_domain: &TrustDomain, name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::EmptySegment);
        }
        if name.contains('/') {
            return Err(SpiffeIdError::BadPathByte(b'/'));
        }
        format!("{SCHEME}{trust_domain}/node/{name}").parse()
    }

    /// Whose namespace it lives in.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name of the node, if this is a node's identity.
    pub fn node_name(&self) -> Option<&str> {
        self.path.strip_prefix("/node/").filter(|name| !name.contains('/'))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if text.len() > SPIFFE_ID_LEN_MAX {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::WrongScheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self { trust_domain: TrustDomain(domain.into()), path: path.into() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::MissingTrustDomain);
    }
    if name.len() > TRUST_DOMAIN_LEN_MAX {
        return Err(SpiffeIdError::TrustDomainTooLong(name.len()));
    }
    match name.bytes().find(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
        Some(byte) => Err(SpiffeIdError::BadTrustDomainByte(byte)),
        None => Ok(()),
    }
}

/// `path` is empty or starts with a slash. An identity always has a path: one without names a trust domain, which
/// [`TrustDomain`] is for.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(if path.is_empty() { SpiffeIdError::EmptySegment } else { SpiffeIdError::TrailingSlash });
    }
    for segment in path[1..].split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ => {}
        }
        if let Some(byte) = segment.bytes().find(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))) {
            return Err(SpiffeIdError::BadPathByte(byte));
        }
    }
    Ok(())
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(TrustDomain);
serde_as_text!(SpiffeId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> SpiffeIdError {
        text.parse::<SpiffeId>().expect_err(text)
    }

    #[test]
    fn sid_1_only_the_scheme_spiffe_is_accepted() {
        for text in ["spiffe:/x", "//td/x", "s", "http://td/x", "spiffe:td/x", "xspiffe://td/x"] {
            assert_eq!(refused(text), SpiffeIdError::WrongScheme, "{text}");
        }
    }

    #[test]
    fn sid_2_a_trust_domain_is_required() {
        assert_eq!(refused("spiffe://"), SpiffeIdError::MissingTrustDomain);
        assert_eq!(refused("spiffe:///a"), SpiffeIdError::MissingTrustDomain);
    }

    #[test]
    fn sid_3_userinfo_and_port_are_refused_even_when_empty() {
        for (text, byte) in
            [("spiffe://@td/a", b'@'), ("spiffe://u@td/a", b'@'), ("spiffe://td:/a", b':'), ("spiffe://td:80/a", b':')]
        {
            assert_eq!(refused(text), SpiffeIdError::BadTrustDomainByte(byte), "{text}");
        }
    }

    #[test]
    fn sid_4_query_and_fragment_are_refused_even_when_empty() {
        for (text, byte) in
            [("spiffe://td/a?", b'?'), ("spiffe://td/a?x=1", b'?'), ("spiffe://td/a#", b'#'), ("spiffe://td/a#b", b'#')]
        {
            assert_eq!(refused(text), SpiffeIdError::BadPathByte(byte), "{text}");
        }
    }

    #[test]
    fn sid_5_of_all_bytes_only_38_are_allowed_in_a_trust_domain() {
        let allowed: Vec<u8> =
            (0..=0x7f).filter(|byte| format!("a{}", char::from(*byte)).parse::<TrustDomain>().is_ok()).collect();
        assert_eq!(allowed, b"-.0123456789_abcdefghijklmnopqrstuvwxyz");
        for lookalike in ["\u{430}", "\u{ff41}", "\u{e9}", "%61", "a\u{200b}"] {
            assert!(lookalike.parse::<TrustDomain>().is_err(), "{lookalike}");
        }
    }

    #[test]
    fn sid_6_path_segments_have_their_own_alphabet_and_no_empty_or_dot_segments() {
        let allowed: Vec<u8> = (0..=0x7f)
            .filter(|b| *b != b'/' && format!("spiffe://td/a{}", char::from(*b)).parse::<SpiffeId>().is_ok())
            .collect();
        assert_eq!(allowed, b"-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz");
        assert_eq!(refused("spiffe://td/a//b"), SpiffeIdError::EmptySegment);
        assert_eq!(refused("spiffe://td/./b"), SpiffeIdError::DotSegment);
        assert_eq!(refused("spiffe://td/a/.."), SpiffeIdError::DotSegment);
        assert_eq!(refused("spiffe://td/"), SpiffeIdError::TrailingSlash);
        assert_eq!(refused("spiffe://td/a/"), SpiffeIdError::TrailingSlash);
    }

    #[test]
    fn sid_7_segments_that_merely_start_with_dots_are_valid() {
        for text in ["spiffe://td/...", "spiffe://td/.a", "spiffe://td/..a", "spiffe://td/a/.b/c.."] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn sid_8_numbers_and_dotted_quads_are_names_like_any_other() {
        for text in ["spiffe://1.2.3.4/a", "spiffe://123/a"] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
        assert_eq!(refused("spiffe://[::1]/a"), SpiffeIdError::BadTrustDomainByte(b'['));
    }

    #[test]
    fn sid_9_lengths_are_bounded_at_2048_and_255() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert_eq!(refused(&format!("{longest}a")), SpiffeIdError::TooLong(2049));
        assert!("d".repeat(255).parse::<TrustDomain>().is_ok());
        assert_eq!("d".repeat(256).parse::<TrustDomain>(), Err(SpiffeIdError::TrustDomainTooLong(256)));
    }

    #[test]
    fn sid_10_case_is_never_folded() {
        assert_eq!(refused("SPIFFE://td/a"), SpiffeIdError::WrongScheme);
        assert_eq!(refused("spiffe://TD/a"), SpiffeIdError::BadTrustDomainByte(b'T'));
        assert_ne!("spiffe://td/A".parse::<SpiffeId>(), "spiffe://td/a".parse::<SpiffeId>());
    }

    #[test]
    fn sid_11_nothing_is_trimmed_and_control_bytes_are_refused() {
        for text in [" spiffe://td/a", "spiffe://td/a ", "spiffe://td/a\n", "spiffe://td/a\0", "spiffe://td\r/a"] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sid_12_membership_is_exact_equality_of_trust_domains() {
        let plain: TrustDomain = "example.org".parse().unwrap();
        let dotted: TrustDomain = "example.org.".parse().unwrap();
        assert_ne!(plain, dotted);
        assert_eq!("spiffe://example.org/a".parse::<SpiffeId>().unwrap().trust_domain(), &plain);
    }

    #[test]
    fn an_identity_has_a_path_and_a_node_has_a_name() {
        assert_eq!(refused("spiffe://td"), SpiffeIdError::EmptySegment);
        let domain = "td".parse().unwrap();
        let node = SpiffeId::node(&domain, "alpha").unwrap();
        assert_eq!(node.to_string(), "spiffe://td/node/alpha");
        assert_eq!(node.node_name(), Some("alpha"));
        assert_eq!("spiffe://td/node/a/b".parse::<SpiffeId>().unwrap().node_name(), None);
        assert!(SpiffeId::node(&domain, "a/b").is_err());
        assert!(SpiffeId::node(&domain, "").is_err());
        assert!(SpiffeId::node(&domain, "..").is_err());
    }

    proptest! {
        #[test]
        fn sid_11_no_text_makes_the_parser_panic_and_what_parses_prints_back(text in "\\PC{0,40}") {
            for text in [text.clone(), format!("spiffe://{text}"), format!("spiffe://td/{text}")] {
                if let Ok(id) = text.parse::<SpiffeId>() {
                    prop_assert_eq!(id.to_string(), text);
                }
            }
        }
    }
}
