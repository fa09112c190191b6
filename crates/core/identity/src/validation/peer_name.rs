//! Whether a certificate is for the name that was asked for (RFC 9525), for servers outside of the mesh.

use std::fmt;
use std::net::IpAddr;

use super::certificate::Certificate;
use super::checks::alternative_names;
use super::error::ValidationError;
use super::general_name::{GeneralName, address, is_dns_name, mailbox};
use super::public_suffix::PublicSuffixes;

/// The name a caller wants to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Dns(Box<str>),
    Ip(IpAddr),
    Email(Box<str>),
}

/// No DNS name, IP address or mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a DNS name in ASCII letters, an IP address or a mailbox")]
pub struct PeerNameError;

impl std::str::FromStr for PeerName {
    type Err = PeerNameError;

    /// An IP address if it reads as one, a mailbox if it has an `@`, else a DNS name.
    fn from_str(text: &str) -> Result<Self, PeerNameError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(Kind::Ip(address)));
        }
        if mailbox(text).is_some() {
            return Ok(Self(Kind::Email(text.into())));
        }
        if is_dns_name(text) { Ok(Self(Kind::Dns(text.into()))) } else { Err(PeerNameError) }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Dns(name) | Kind::Email(name) => f.write_str(name),
            Kind::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl PeerName {
    /// Whether `leaf` is for this name. Common names do not count, but one that is none of the alternative names makes the certificate
    /// one that no public CA may issue.
    pub(crate) fn check(
        &self,
        leaf: &Certificate<'_>,
        suffixes: Option<&PublicSuffixes>,
        is_public: bool,
    ) -> Result<(), ValidationError> {
        let mut wildcard = None;
        let mut is_named = false;
        for name in alternative_names(leaf) {
            match (&self.0, name) {
                (Kind::Ip(wanted), GeneralName::Ip(bytes)) => is_named |= address(bytes) == Some(*wanted),
                (Kind::Dns(wanted), GeneralName::Dns(name)) => match name.strip_prefix("*.") {
                    None => is_named |= wanted.eq_ignore_ascii_case(name),
                    Some(base) if is_one_label_below(wanted, base) => match spans_public_names(base, suffixes) {
                        None => is_named = true,
                        Some(because) => wildcard = Some((name, because)),
                    },
                    Some(_) => {}
                },
                (Kind::Email(wanted), GeneralName::Email(email)) => is_named |= is_same_mailbox(wanted, email),
                _ => {}
            }
        }
        match (is_named, wildcard) {
            (true, _) if is_public && !common_names_are_alternative(leaf) => Err(ValidationError::CommonName),
            (true, _) => Ok(()),
            (false, Some((wildcard, because))) => {
                Err(ValidationError::Wildcard { wanted: self.to_string().into(), wildcard: wildcard.into(), because })
            }
            (false, None) => Err(ValidationError::ServerName(self.to_string().into())),
        }
    }
}

/// `*.base` stands for names with one label more than `base` (RFC 9525, 6.3).
fn is_one_label_below(name: &str, base: &str) -> bool {
    name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(base))
}

/// Why `*.base` must not be believed, if so: its names may belong to different owners.
fn spans_public_names(base: &str, suffixes: Option<&PublicSuffixes>) -> Option<&'static str> {
    match suffixes {
        None => Some("and without a list of public suffixes a wildcard is not believed"),
        Some(suffixes) if suffixes.contains(base) => Some("which spans a public suffix"),
        Some(_) => None,
    }
}

fn is_same_mailbox(one: &str, two: &str) -> bool {
    match (mailbox(one), mailbox(two)) {
        (Some((one, at_one)), Some((two, at_two))) => one == two && at_one.eq_ignore_ascii_case(at_two),
        _ => false,
    }
}

/// Each common name is, character for character, a DNS name or an address of the certificate (CA/Browser Forum, 7.1.4.3).
fn common_names_are_alternative(leaf: &Certificate<'_>) -> bool {
    leaf.subject().common_names().all(|common| {
        common.is_some_and(|common| {
            alternative_names(leaf).any(|name| match name {
                GeneralName::Dns(name) => name == common,
                GeneralName::Ip(bytes) => address(bytes).is_some_and(|address| address.to_string() == common),
                _ => false,
            })
        })
    })
}
