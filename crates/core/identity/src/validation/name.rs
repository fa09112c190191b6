//! Distinguished names (RFC 5280, 4.1.2.4 and 7.1).

use std::fmt;

use super::der::{DerError, Reader, tag};

/// Attributes of one name. Honest names have four or five; comparing costs time.
pub(crate) const NAME_ATTRIBUTES_MAX: usize = 4096;
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];

/// A distinguished name, read and known to be well-formed. Two are equal if their DER is: whoever issues a certificate copies the
/// name of the issuer (RFC 5280, 4.1.2.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

/// One attribute of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: &'a [u8],
    tag: u8,
    value: &'a [u8],
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likeness {
    Same,
    Different,
    /// Bytes differ, and the kind of string is one whose rules of comparison are not known here.
    Unknown,
}

impl<'a> Name<'a> {
    /// Reads the whole of `raw`.
    pub(crate) fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        let mut names = Reader::inside(raw, tag::SEQUENCE)?;
        let mut attributes = 0;
        while !names.is_empty() {
            let mut relative = names.nested(tag::SET)?;
            if relative.is_empty() {
                return Err(DerError::Value("a relative name is empty"));
            }
            while !relative.is_empty() {
                let mut attribute = relative.sequence()?;
                attribute.oid()?;
                let value = attribute.element()?;
                attribute.finish()?;
                check_text(value.tag, value.value)?;
                attributes += 1;
            }
        }
        if attributes > NAME_ATTRIBUTES_MAX {
            return Err(DerError::Value("a name has too many attributes"));
        }
        Ok(Self(raw))
    }

    /// Its DER.
    pub const fn der(&self) -> &'a [u8] {
        self.0
    }

    /// Whether it names nobody.
    pub const fn is_empty(&self) -> bool {
        // An empty SEQUENCE.
        self.0.len() <= 2
    }

    /// The relative names, in order.
    fn relative_names(self) -> impl Iterator<Item = Reader<'a>> {
        let mut names = Reader::inside(self.0, tag::SEQUENCE).unwrap_or(Reader::new(&[]));
        std::iter::from_fn(move || names.nested(tag::SET).ok())
    }

    pub(crate) fn attributes(self) -> impl Iterator<Item = Attribute<'a>> {
        self.relative_names().flat_map(attributes)
    }

    /// The texts of its common names. `None` stands for one that is no text.
    pub(crate) fn common_names(self) -> impl Iterator<Item = Option<&'a str>> {
        self.attributes().filter(|attribute| attribute.kind == COMMON_NAME).map(|attribute| attribute.text())
    }

    /// The email addresses that old certificates keep in their subject.
    pub(crate) fn email_addresses(self) -> impl Iterator<Item = Option<&'a str>> {
        self.attributes().filter(|attribute| attribute.kind == EMAIL_ADDRESS).map(|attribute| attribute.text())
    }

    /// How many attributes it has.
    pub(crate) fn len(self) -> usize {
        self.attributes().count()
    }

    /// Whether this name lies in the subtree of `base`: its first relative names are those of `base`.
    pub(crate) fn is_within(self, base: Self) -> Likeness {
        let mut own = self.relative_names();
        let mut all = Likeness::Same;
        for wanted in base.relative_names() {
            let Some(found) = own.next() else { return Likeness::Different };
            match same_relative_name(found, wanted) {
                Likeness::Same => {}
                Likeness::Different => return Likeness::Different,
                Likeness::Unknown => all = Likeness::Unknown,
            }
        }
        all
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In the order of the DER, with the short names of RFC 4514 where there are some.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, attribute) in self.attributes().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            match attribute.kind {
                COMMON_NAME => f.write_str("CN=")?,
                [0x55, 4, 5] => f.write_str("serialNumber=")?,
                [0x55, 4, 6] => f.write_str("C=")?,
                [0x55, 4, 7] => f.write_str("L=")?,
                [0x55, 4, 8] => f.write_str("ST=")?,
                [0x55, 4, 10] => f.write_str("O=")?,
                [0x55, 4, 11] => f.write_str("OU=")?,
                other => write!(f, "{}=", DottedOid(other))?,
            }
            match attribute.text() {
                Some(text) => text.chars().filter(|c| !c.is_control()).try_for_each(|c| write!(f, "{c}"))?,
                None => f.write_str("(no text)")?,
            }
        }
        Ok(())
    }
}

/// An object identifier as numbers with dots between.
pub(crate) struct DottedOid<'a>(pub(crate) &'a [u8]);

impl fmt::Display for DottedOid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = 0_u128;
        let mut is_first = true;
        for byte in self.0 {
            number = number << 7 | u128::from(byte & 0x7f);
            if byte & 0x80 != 0 {
                continue;
            }
            if is_first {
                let root = (number / 40).min(2);
                write!(f, "{root}.{}", number - root * 40)?;
                is_first = false;
            } else {
                write!(f, ".{number}")?;
            }
            number = 0;
        }
        Ok(())
    }
}

impl<'a> Attribute<'a> {
    fn text(&self) -> Option<&'a str> {
        let is_text = matches!(self.tag, tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING);
        is_text.then(|| std::str::from_utf8(self.value).ok()).flatten()
    }

    fn likeness(&self, other: &Self) -> Likeness {
        if self.kind != other.kind {
            return Likeness::Different;
        }
        if (self.tag, self.value) == (other.tag, other.value) {
            return Likeness::Same;
        }
        match (self.text(), other.text()) {
            (Some(one), Some(two)) if folded(one).eq(folded(two)) => Likeness::Same,
            (Some(_), Some(_)) => Likeness::Different,
            _ => Likeness::Unknown,
        }
    }
}

fn attributes(mut relative: Reader<'_>) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let mut attribute = relative.sequence().ok()?;
        let kind = attribute.oid().ok()?;
        let value = attribute.element().ok()?;
        Some(Attribute { kind, tag: value.tag, value: value.value })
    })
}

/// Each attribute of either has its like in the other, whatever their order.
fn same_relative_name(one: Reader<'_>, two: Reader<'_>) -> Likeness {
    if attributes(one).count() != attributes(two).count() {
        return Likeness::Different;
    }
    let mut all = Likeness::Same;
    for wanted in attributes(two) {
        let mut best = Likeness::Different;
        for found in attributes(one) {
            match found.likeness(&wanted) {
                Likeness::Same => best = Likeness::Same,
                Likeness::Unknown if best == Likeness::Different => best = Likeness::Unknown,
                Likeness::Unknown | Likeness::Different => {}
            }
        }
        match best {
            Likeness::Same => {}
            Likeness::Different => return Likeness::Different,
            Likeness::Unknown => all = Likeness::Unknown,
        }
    }
    all
}

/// Without case, and with one space where there are several (RFC 5280, 7.1; RFC 4518 without its tables).
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.split_whitespace()
        .enumerate()
        .flat_map(|(at, word)| (at > 0).then_some(' ').into_iter().chain(word.chars().flat_map(char::to_lowercase)))
}

fn check_text(kind: u8, value: &[u8]) -> Result<(), DerError> {
    let is_printable = |byte: &u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?*@&_".contains(byte);
    let fits = match kind {
        tag::UTF8_STRING => std::str::from_utf8(value).is_ok(),
        // `*`, `@`, `&` and `_` are no PrintableString by the letter; many issuers write them, and nobody is misled.
        tag::PRINTABLE_STRING => value.iter().all(is_printable),
        tag::IA5_STRING => value.is_ascii(),
        _ => true,
    };
    if fits { Ok(()) } else { Err(DerError::Text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(relative: &[&[(u8, &str)]]) -> Vec<u8> {
        let tlv = |tag: u8, value: &[u8]| [&[tag, u8::try_from(value.len()).unwrap()], value].concat();
        let attribute = |(kind, text): &(u8, &str)| {
            tlv(tag::SEQUENCE, &[tlv(tag::OID, COMMON_NAME), tlv(*kind, text.as_bytes())].concat())
        };
        let sets: Vec<u8> = relative
            .iter()
            .flat_map(|set| tlv(tag::SET, &set.iter().flat_map(attribute).collect::<Vec<_>>()))
            .collect();
        tlv(tag::SEQUENCE, &sets)
    }

    #[test]
    fn case_spaces_and_kinds_of_string_make_no_difference_to_a_subtree() {
        let base = name(&[&[(tag::UTF8_STRING, "Example  Corp")]]);
        let base = Name::parse(&base).unwrap();
        let within = |relative: &[&[(u8, &str)]]| Name::parse(&name(relative)).unwrap().is_within(base);
        assert_eq!(within(&[&[(tag::PRINTABLE_STRING, " example corp ")]]), Likeness::Same);
        assert_eq!(within(&[&[(tag::UTF8_STRING, "EXAMPLE CORP")], &[(tag::UTF8_STRING, "more")]]), Likeness::Same);
        assert_eq!(within(&[&[(tag::UTF8_STRING, "ExampleCorp")]]), Likeness::Different);
        assert_eq!(
            within(&[&[(tag::UTF8_STRING, "more")], &[(tag::UTF8_STRING, "Example Corp")]]),
            Likeness::Different
        );
        assert_eq!(within(&[]), Likeness::Different);
        assert_eq!(within(&[&[(0x1e, "\0e\0x")]]), Likeness::Unknown, "a BMPString could mean the same");
    }

    #[test]
    fn a_name_is_printed_without_control_characters() {
        let der = name(&[&[(tag::UTF8_STRING, "one\u{1b}[31m")], &[(tag::UTF8_STRING, "two")]]);
        assert_eq!(Name::parse(&der).unwrap().to_string(), "CN=one[31m, CN=two");
        assert_eq!(DottedOid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]).to_string(), "1.2.840.113549.1.9.1");
    }
}
