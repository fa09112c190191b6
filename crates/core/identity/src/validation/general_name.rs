//! The names of subjects (RFC 5280, 4.2.1.6), and which texts are names at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::der::{DerError, Reader, ia5, oid, tag};
use super::name::Name;

/// One alternative name, or the base of a name constraint. An IP address is here as its bytes: in a constraint they are twice as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeneralName<'a> {
    /// A mailbox.
    Email(&'a str),
    /// A DNS name, perhaps with a wildcard.
    Dns(&'a str),
    /// A distinguished name.
    Directory(Name<'a>),
    /// A URI.
    Uri(&'a str),
    /// An address, or an address and a mask.
    Ip(&'a [u8]),
    /// A kind of name whose constraints are not understood here: the number of its tag (RFC 5280, GeneralName).
    Other(u8),
}

/// Names one behind the other, known to be well-formed.
#[derive(Clone, Copy, Debug)]
pub struct GeneralNames<'a>(Reader<'a>);

impl<'a> GeneralNames<'a> {
    /// Reads the whole of `raw`, a `SEQUENCE` of at least one name.
    pub(crate) fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        Self::of(Reader::inside(raw, tag::SEQUENCE)?)
    }

    /// Reads the names in `reader`, at least one.
    pub(crate) fn of(reader: Reader<'a>) -> Result<Self, DerError> {
        if reader.is_empty() {
            return Err(DerError::Value("a list of names is empty"));
        }
        let mut names = reader;
        while !names.is_empty() {
            GeneralName::read(&mut names)?;
        }
        Ok(Self(reader))
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = GeneralName<'a>> + use<'a> {
        let mut names = self.0;
        std::iter::from_fn(move || GeneralName::read(&mut names).ok())
    }

    /// The URIs.
    pub fn uris(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.iter().filter_map(|name| if let GeneralName::Uri(uri) = name { Some(uri) } else { None })
    }
}

impl<'a> GeneralName<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DerError> {
        let element = reader.element()?;
        let constructed = Reader::new(element.value);
        match element.tag {
            // OtherName ::= SEQUENCE { type-id, [0] EXPLICIT value }
            0xa0 => {
                let mut other = constructed;
                other.oid()?;
                let mut value = other.nested(tag::constructed(0))?;
                value.element()?;
                value.finish()?;
                other.finish()?;
                Ok(Self::Other(0))
            }
            0x81 => ia5(element.value).map(Self::Email),
            0x82 => ia5(element.value).map(Self::Dns),
            0xa3 => Ok(Self::Other(3)),
            0xa4 => {
                let mut inner = constructed;
                let name = Name::parse(inner.raw(tag::SEQUENCE)?)?;
                inner.finish()?;
                Ok(Self::Directory(name))
            }
            0xa5 => Ok(Self::Other(5)),
            0x86 => ia5(element.value).map(Self::Uri),
            0x87 => Ok(Self::Ip(element.value)),
            0x88 => oid(element.value).map(|_| Self::Other(8)),
            other => Err(DerError::Tag(other)),
        }
    }

    /// Whether it can be the name of a subject: text and length of each kind (RFC 5280, 4.2.1.6).
    pub(crate) fn is_subject_name(&self) -> bool {
        match self {
            Self::Email(email) => mailbox(email).is_some(),
            Self::Dns(name) => is_dns_name(name.strip_prefix("*.").unwrap_or(name)),
            Self::Ip(bytes) => address(bytes).is_some(),
            Self::Uri(uri) => has_scheme(uri),
            Self::Directory(_) | Self::Other(_) => true,
        }
    }
}

/// An address of 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

/// A name in the preferred syntax (RFC 1034, 3.5, as modified by RFC 1123, 2.1), without a dot at its end.
pub(crate) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Local part and host of a mailbox in dot-string or quoted form (RFC 5321, 4.1.2).
pub(crate) fn mailbox(email: &str) -> Option<(&str, &str)> {
    let at = email.rfind('@')?;
    let (local, host) = (&email[..at], &email[at + 1..]);
    let is_atom = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    let is_quoted = local.len() > 2
        && local.starts_with('"')
        && local.ends_with('"')
        && local[1..local.len() - 1].bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\');
    let fits = local.len() <= 64 && (is_quoted || local.split('.').all(is_atom)) && is_dns_name(host);
    fits.then_some((local, host))
}

/// The host in a URI's authority (RFC 3986, 3.2), as it is written; `None` without an authority or with an empty host.
pub(crate) fn uri_host(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once(':')?;
    let authority = rest.strip_prefix("//")?;
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // A literal in brackets has colons of its own.
    let host = if host.starts_with('[') { &host[..=host.find(']')?] } else { host.split(':').next()? };
    (!host.is_empty()).then_some(host)
}

fn has_scheme(uri: &str) -> bool {
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_where_it_is_and_nowhere_else() {
        for (uri, host) in [
            ("spiffe://example.org/workload", Some("example.org")),
            ("spiffe://example.org", Some("example.org")),
            ("https://user@evil@host.test:443/x@y", Some("host.test")),
            ("https://host.test?a=//other", Some("host.test")),
            ("https://host.test#@other", Some("host.test")),
            ("https://[2001:db8::1]:443/", Some("[2001:db8::1]")),
            ("urn:uuid:1", None),
            ("https:///path", None),
            ("https://@/", None),
            ("https://[half", None),
        ] {
            assert_eq!(uri_host(uri), host, "{uri}");
        }
    }

    #[test]
    fn only_mailboxes_are_mailboxes() {
        for right in ["a@example.com", "*@example.com", "user*@example.com", "a.b@example.com", "\"a @b\"@example.com"]
        {
            assert!(mailbox(right).is_some(), "{right}");
        }
        for wrong in [
            "a@b@example.com",
            "@example.com",
            "a@",
            "a",
            "a..b@example.com",
            ".a@example.com",
            "a@-x.com",
            "a b@x.com",
        ] {
            assert!(mailbox(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_dns_name_has_no_underscore_no_wildcard_and_no_dot_at_its_ends() {
        assert!(is_dns_name("xn--test--wg5h0h.com") && is_dns_name("localhost") && is_dns_name("1.example"));
        let long = ["a"; 128].join(".");
        for wrong in ["", ".", "a.", ".a", "a..b", "foo_bar.test", "*.test", "-a.test", "a-.test", "a b.test", &long] {
            assert!(!is_dns_name(wrong), "{wrong}");
        }
    }
}
