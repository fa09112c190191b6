//! Which names a CA may sign for (RFC 5280, 4.2.1.10).
//!
//! A name is permitted if no constraint speaks of its kind, or if one of those lets it be; it is excluded if any constraint might fit
//! it. *Might*, because a wildcard stands for names that are not written down (CVE-2025-61727, RUSTSEC-2026-0099), and because a kind
//! of name that is not understood here is excluded wherever a constraint speaks of it at all.

use std::net::IpAddr;

use super::certificate::Certificate;
use super::der::{DerError, Reader, tag};
use super::error::ValidationError;
use super::general_name::{GeneralName, is_dns_name, mailbox, uri_host};
use super::limits::Remaining;
use super::name::Likeness;

/// The constraints of one CA, known to be well-formed.
#[derive(Clone, Copy, Debug)]
pub struct NameConstraints<'a> {
    permitted: Option<Reader<'a>>,
    excluded: Option<Reader<'a>>,
}

/// What a name is to a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// All that the name stands for lies inside.
    Inside,
    /// Some of it does, or it cannot be told.
    Partly,
    /// None of it does.
    Outside,
    /// The constraint speaks of another kind of name.
    OtherKind,
}

/// Why names are refused: a budget, or a name of this kind.
#[derive(Debug)]
pub(crate) enum NameRefusal {
    OverBudget(ValidationError),
    Outside(&'static str),
}

impl<'a> NameConstraints<'a> {
    pub(crate) fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        let mut reader = Reader::inside(raw, tag::SEQUENCE)?;
        let permitted = reader.optional(tag::constructed(0))?.map(Reader::new);
        let excluded = reader.optional(tag::constructed(1))?.map(Reader::new);
        reader.finish()?;
        let lists = [permitted, excluded];
        if lists.iter().flatten().any(Reader::is_empty) || lists.iter().all(Option::is_none) {
            return Err(DerError::Value("nameConstraints constrains nothing"));
        }
        for mut list in lists.into_iter().flatten() {
            while !list.is_empty() {
                check_form(subtree(&mut list)?)?;
            }
        }
        Ok(Self { permitted, excluded })
    }

    /// The names that are permitted.
    pub fn permitted(&self) -> impl Iterator<Item = GeneralName<'a>> + use<'a> {
        subtrees(self.permitted)
    }

    /// The names that are excluded.
    pub fn excluded(&self) -> impl Iterator<Item = GeneralName<'a>> + use<'a> {
        subtrees(self.excluded)
    }

    /// Whether every name of `certificate` lies inside.
    pub(crate) fn check(&self, certificate: &Certificate<'_>, budget: &mut Remaining) -> Result<(), NameRefusal> {
        let subject = (!certificate.subject().is_empty()).then(|| GeneralName::Directory(certificate.subject()));
        let names = certificate.extensions().subject_alt_name.map(|names| names.value);
        for name in subject.into_iter().chain(names.iter().flat_map(|names| names.iter())) {
            self.check_name(&name, budget)?;
        }
        // The mailbox of old certificates counts where the alternative names have none.
        let has_mailbox = names.iter().flat_map(|names| names.iter()).any(|name| matches!(name, GeneralName::Email(_)));
        if !has_mailbox {
            for email in certificate.subject().email_addresses() {
                self.check_name(&GeneralName::Email(email.unwrap_or_default()), budget)?;
            }
        }
        Ok(())
    }

    fn check_name(&self, name: &GeneralName<'_>, budget: &mut Remaining) -> Result<(), NameRefusal> {
        let cost = if let GeneralName::Directory(name) = name { 1 + name.len() } else { 1 };
        let (mut is_constrained, mut is_permitted) = (false, false);
        for constraint in self.permitted() {
            budget.compare_names(cost).map_err(NameRefusal::OverBudget)?;
            let fit = fit(name, &constraint);
            is_constrained |= fit != Fit::OtherKind;
            is_permitted |= fit == Fit::Inside;
        }
        if is_constrained && !is_permitted {
            return Err(NameRefusal::Outside(kind(name)));
        }
        for constraint in self.excluded() {
            budget.compare_names(cost).map_err(NameRefusal::OverBudget)?;
            if matches!(fit(name, &constraint), Fit::Inside | Fit::Partly) {
                return Err(NameRefusal::Outside(kind(name)));
            }
        }
        Ok(())
    }
}

fn kind(name: &GeneralName<'_>) -> &'static str {
    match name {
        GeneralName::Email(_) => "mail",
        GeneralName::Dns(_) => "DNS",
        GeneralName::Directory(_) => "directory",
        GeneralName::Uri(_) => "URI",
        GeneralName::Ip(_) => "IP",
        GeneralName::Other(_) => "other",
    }
}

fn subtrees(list: Option<Reader<'_>>) -> impl Iterator<Item = GeneralName<'_>> {
    let mut list = list.unwrap_or(Reader::new(&[]));
    std::iter::from_fn(move || subtree(&mut list).ok())
}

/// `GeneralSubtree` with its minimum and maximum left at their defaults, as RFC 5280 demands.
fn subtree<'a>(list: &mut Reader<'a>) -> Result<GeneralName<'a>, DerError> {
    let mut subtree = list.sequence()?;
    let base = GeneralName::read(&mut subtree)?;
    subtree.finish().map_err(|_| DerError::Value("a name constraint has a minimum or a maximum"))?;
    Ok(base)
}

fn check_form(base: GeneralName<'_>) -> Result<(), DerError> {
    let is_well_formed = match base {
        GeneralName::Email(host) if !host.contains('@') => is_dns_name(host.strip_prefix('.').unwrap_or(host)),
        GeneralName::Email(email) => mailbox(email).is_some(),
        GeneralName::Dns(name) => name.is_empty() || is_dns_name(name),
        GeneralName::Uri(host) => is_uri_constraint(host),
        GeneralName::Ip(bytes) => subnet(bytes).is_some(),
        GeneralName::Directory(_) | GeneralName::Other(_) => true,
    };
    if is_well_formed { Ok(()) } else { Err(DerError::Value("a name constraint is malformed")) }
}

/// A host or, with a dot before it, a domain. Trust domains of SPIFFE may have underscores.
fn is_uri_constraint(host: &str) -> bool {
    let host = host.strip_prefix('.').unwrap_or(host);
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 255 && host.split('.').all(is_part)
}

/// Address and mask of a subnet whose mask is ones followed by zeros.
fn subnet(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (address, mask) = match bytes.len() {
        8 | 32 => bytes.split_at(bytes.len() / 2),
        _ => return None,
    };
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let total: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let first_gap = mask.iter().position(|byte| *byte != 0xff).unwrap_or(mask.len());
    let rest_is_zero = mask.iter().skip(first_gap + 1).all(|byte| *byte == 0);
    (ones == total && rest_is_zero).then_some((address, mask))
}

fn fit(name: &GeneralName<'_>, constraint: &GeneralName<'_>) -> Fit {
    let inside = |is_inside: bool| if is_inside { Fit::Inside } else { Fit::Outside };
    match (name, constraint) {
        (GeneralName::Dns(name), GeneralName::Dns(base)) => dns_fit(name, base),
        (GeneralName::Email(email), GeneralName::Email(base)) => match mailbox(email) {
            Some(mailbox) => inside(is_mailbox_within(mailbox, base)),
            None => Fit::Partly,
        },
        (GeneralName::Uri(uri), GeneralName::Uri(base)) => match uri_host(uri) {
            // Without a host that has a name it cannot be told (RFC 5280: such a URI must be refused).
            Some(host) if is_host_name(host) => inside(is_host_within(host, base)),
            _ => Fit::Partly,
        },
        (GeneralName::Ip(address), GeneralName::Ip(base)) => match subnet(base) {
            Some((network, mask)) if network.len() == address.len() => {
                let masked = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte & mask).collect::<Vec<_>>();
                inside(masked(address) == masked(network))
            }
            // The other family is another kind; anything else is no address.
            Some(_) if matches!(address.len(), 4 | 16) => Fit::Outside,
            _ => Fit::Partly,
        },
        (GeneralName::Directory(name), GeneralName::Directory(base)) => match name.is_within(*base) {
            Likeness::Same => Fit::Inside,
            Likeness::Different => Fit::Outside,
            Likeness::Unknown => Fit::Partly,
        },
        (GeneralName::Other(one), GeneralName::Other(two)) if one == two => Fit::Partly,
        _ => Fit::OtherKind,
    }
}

/// A DNS constraint covers its name and all below it. `*.a.b` lies inside if `a.b` does, and reaches into `x.a.b` as well.
fn dns_fit(name: &str, base: &str) -> Fit {
    let (is_wildcard, name) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    if !is_dns_name(name) {
        return Fit::Partly;
    }
    if is_below_or_same(name, base) {
        return Fit::Inside;
    }
    let parent = base.split_once('.').map_or("", |(_, parent)| parent);
    if is_wildcard && parent.eq_ignore_ascii_case(name) { Fit::Partly } else { Fit::Outside }
}

fn is_below_or_same(name: &str, base: &str) -> bool {
    base.is_empty() || name.eq_ignore_ascii_case(base) || is_below(name, base)
}

fn is_below(name: &str, base: &str) -> bool {
    name.len().checked_sub(base.len() + 1).is_some_and(|dot| {
        name.is_char_boundary(dot) && name.as_bytes()[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(base)
    })
}

/// A mailbox, all mailboxes of a host, or with a dot before it all mailboxes of all hosts below a domain.
fn is_mailbox_within((local, host): (&str, &str), base: &str) -> bool {
    match (mailbox(base), base.strip_prefix('.')) {
        (Some((wanted, at)), _) => local == wanted && host.eq_ignore_ascii_case(at),
        (None, Some(domain)) => is_below(host, domain),
        (None, None) => host.eq_ignore_ascii_case(base),
    }
}

/// A host is that host alone; with a dot before it, all hosts below it and not itself.
fn is_host_within(host: &str, base: &str) -> bool {
    match base.strip_prefix('.') {
        Some(domain) => is_below(host, domain),
        None => host.eq_ignore_ascii_case(base),
    }
}

fn is_host_name(host: &str) -> bool {
    is_uri_constraint(host) && !host.starts_with('.') && host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_and_wildcards() {
        for (name, base, fits) in [
            ("example.com", "example.com", Fit::Inside),
            ("a.b.Example.com", "example.COM", Fit::Inside),
            ("notexample.com", "example.com", Fit::Outside),
            ("example.com", "", Fit::Inside),
            ("com", "example.com", Fit::Outside),
            ("*.example.com", "example.com", Fit::Inside),
            ("*.example.com", "bar.example.com", Fit::Partly),
            ("*.example.com", "a.bar.example.com", Fit::Outside),
            ("*.com", "example.com", Fit::Partly),
            ("b*r.example.com", "bar.example.com", Fit::Partly),
            ("foo_bar.example.com", "example.org", Fit::Partly),
        ] {
            assert_eq!(dns_fit(name, base), fits, "{name} in {base}");
        }
    }

    #[test]
    fn uris_are_held_to_their_hosts() {
        // RUSTSEC-2026-0098: constraints on URIs have to be enforced at all.
        for (uri, base, fits) in [
            ("spiffe://example.org/a", "example.org", Fit::Inside),
            ("spiffe://Example.org/a", "example.org", Fit::Inside),
            ("spiffe://sub.example.org/a", "example.org", Fit::Outside),
            ("spiffe://sub.example.org/a", ".example.org", Fit::Inside),
            ("spiffe://example.org/a", ".example.org", Fit::Outside),
            ("spiffe://example.org.evil.test/a", "example.org", Fit::Outside),
            ("https://example.org@evil.test/", "example.org", Fit::Outside),
            ("https://192.0.2.1/", "example.org", Fit::Partly),
            ("https://[2001:db8::1]/", "example.org", Fit::Partly),
            ("urn:x", "example.org", Fit::Partly),
            ("spiffe://example.org./a", "example.org", Fit::Partly),
        ] {
            assert_eq!(fit(&GeneralName::Uri(uri), &GeneralName::Uri(base)), fits, "{uri} in {base}");
        }
    }

    #[test]
    fn addresses_mailboxes_and_kinds_that_are_not_understood() {
        let net = GeneralName::Ip(&[192, 0, 2, 0, 255, 255, 255, 0]);
        assert_eq!(fit(&GeneralName::Ip(&[192, 0, 2, 9]), &net), Fit::Inside);
        assert_eq!(fit(&GeneralName::Ip(&[192, 0, 3, 9]), &net), Fit::Outside);
        assert_eq!(fit(&GeneralName::Ip(&[0; 16]), &net), Fit::Outside);
        assert_eq!(fit(&GeneralName::Ip(&[192, 0, 2, 0, 255, 255, 255, 0]), &net), Fit::Partly);
        for wrong in [&[255, 0, 255, 0][..], &[255, 253, 0, 0], &[127, 0, 0, 0], &[0, 0, 0, 1]] {
            assert_eq!(subnet(&[&[10, 0, 0, 0], wrong].concat()), None, "{wrong:?}");
        }
        assert!(subnet(&[0; 8]).is_some() && subnet(&[255; 32]).is_some());
        let email = |email, base| fit(&GeneralName::Email(email), &GeneralName::Email(base));
        assert_eq!(email("a@example.com", "example.com"), Fit::Inside);
        assert_eq!(email("a@sub.example.com", "example.com"), Fit::Outside);
        assert_eq!(email("a@sub.example.com", ".example.com"), Fit::Inside);
        assert_eq!(email("A@example.com", "a@example.com"), Fit::Outside, "local parts have case");
        assert_eq!(email("a@EXAMPLE.com", "a@example.com"), Fit::Inside);
        assert_eq!(email("a@b@example.com", "example.com"), Fit::Partly);
        assert_eq!(fit(&GeneralName::Other(0), &GeneralName::Other(0)), Fit::Partly);
        assert_eq!(fit(&GeneralName::Other(0), &GeneralName::Other(8)), Fit::OtherKind);
    }

    #[test]
    fn a_permitted_address_of_one_family_does_not_permit_the_other() {
        let constraints = [&[0x30, 14, 0xa0, 12, 0x30, 10, 0x87, 8][..], &[192, 0, 2, 0, 255, 255, 255, 0]].concat();
        let constraints = NameConstraints::parse(&constraints).unwrap();
        let mut budget = Remaining::new(super::super::limits::Limits::SVID);
        assert!(constraints.check_name(&GeneralName::Ip(&[192, 0, 2, 1]), &mut budget).is_ok());
        assert!(constraints.check_name(&GeneralName::Ip(&[0; 16]), &mut budget).is_err());
    }
}
