//! DER, and nothing but DER (X.690, 10 and 11): what two readers could understand differently is refused.

use x0t_model::UnixTime;

/// Tags (X.690, 8.1.2) that certificates, revocation lists and OCSP answers use.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// A context-specific tag of a primitive value.
    pub(crate) const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// A context-specific tag of a constructed value.
    pub(crate) const fn constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// Why bytes are no DER, or not of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    /// An element is longer than what holds it.
    #[error("it ends too early")]
    Truncated,
    /// Bytes behind the last element.
    #[error("something follows where nothing may")]
    Trailing,
    /// A length that is indefinite, not in its shortest form, or beyond 32 bits.
    #[error("a length is not written in the one way DER allows")]
    Length,
    /// Another element than expected, or a tag number above 30.
    #[error("an element with tag {0:#04x} stands where another is expected")]
    Tag(u8),
    /// Neither 0x00 nor 0xff.
    #[error("a boolean is neither 0x00 nor 0xff")]
    Boolean,
    /// Empty, or with bytes that say nothing.
    #[error("an integer is not in its shortest form")]
    Integer,
    /// Unused bits that are set, or more than seven of them.
    #[error("a bit string is not written in the one way DER allows")]
    BitString,
    /// No object identifier.
    #[error("an object identifier is malformed")]
    ObjectIdentifier,
    /// No time in the form of RFC 5280, 4.1.2.5.
    #[error("a time is not in the form that RFC 5280 asks for")]
    Time,
    /// Characters that this kind of string does not have.
    #[error("a string has characters that its kind does not allow")]
    Text,
    /// A default value that is written out (X.690, 11.5).
    #[error("a default value is written out")]
    DefaultWritten,
    /// Well-formed, but not what the definition of this field says.
    #[error("{0}")]
    Value(&'static str),
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// With tag and length.
    pub(crate) raw: &'a [u8],
}

/// Reads elements one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The elements inside the one element that `bytes` is.
    pub(crate) fn inside(bytes: &'a [u8], tag: u8) -> Result<Self, DerError> {
        let mut reader = Self(bytes);
        let value = reader.value(tag)?;
        reader.finish()?;
        Ok(Self(value))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// That nothing is left.
    pub(crate) const fn finish(&self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError::Trailing) }
    }

    pub(crate) fn element(&mut self) -> Result<Element<'a>, DerError> {
        let (&tag, rest) = self.0.split_first().ok_or(DerError::Truncated)?;
        // Tag numbers above 30 take further bytes; nothing in X.509 has one.
        if tag & 0x1f == 0x1f {
            return Err(DerError::Tag(tag));
        }
        let (&first, rest) = rest.split_first().ok_or(DerError::Truncated)?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(DerError::Truncated)?;
                let len = bytes.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
                if bytes[0] == 0 || len < 0x80 {
                    return Err(DerError::Length);
                }
                (len, rest)
            }
            _ => return Err(DerError::Length),
        };
        let (value, rest) = rest.split_at_checked(len).ok_or(DerError::Truncated)?;
        let raw = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok(Element { tag, value, raw })
    }

    fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let mut ahead = *self;
        let element = ahead.element()?;
        if element.tag != tag {
            return Err(DerError::Tag(element.tag));
        }
        *self = ahead;
        Ok(element)
    }

    /// The value of an element with `tag`.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        Ok(self.expect(tag)?.value)
    }

    /// The whole of an element with `tag`.
    pub(crate) fn raw(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        Ok(self.expect(tag)?.raw)
    }

    /// The elements inside an element with `tag`.
    pub(crate) fn nested(&mut self, tag: u8) -> Result<Self, DerError> {
        self.value(tag).map(Self)
    }

    pub(crate) fn sequence(&mut self) -> Result<Self, DerError> {
        self.nested(tag::SEQUENCE)
    }

    /// The value of an element with `tag`, if one comes next.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.0.first() == Some(&tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    /// `BOOLEAN DEFAULT FALSE`.
    pub(crate) fn flag(&mut self) -> Result<bool, DerError> {
        match self.optional(tag::BOOLEAN)?.map(boolean).transpose()? {
            Some(true) => Ok(true),
            Some(false) => Err(DerError::DefaultWritten),
            None => Ok(false),
        }
    }

    /// An integer as big-endian two's complement.
    pub(crate) fn integer(&mut self) -> Result<&'a [u8], DerError> {
        integer(self.value(tag::INTEGER)?)
    }

    /// An integer from 0 to 255, as versions, path lengths and reasons are.
    pub(crate) fn small_integer(&mut self) -> Result<u8, DerError> {
        small_integer(self.value(tag::INTEGER)?)
    }

    pub(crate) fn oid(&mut self) -> Result<&'a [u8], DerError> {
        oid(self.value(tag::OID)?)
    }

    pub(crate) fn octet_string(&mut self) -> Result<&'a [u8], DerError> {
        self.value(tag::OCTET_STRING)
    }

    /// A bit string of whole bytes, as keys and signatures are.
    pub(crate) fn bytes_of_bits(&mut self) -> Result<&'a [u8], DerError> {
        match self.value(tag::BIT_STRING)?.split_first() {
            Some((0, bytes)) => Ok(bytes),
            _ => Err(DerError::BitString),
        }
    }

    /// UTCTime until 2049, GeneralizedTime from 2050, both in seconds and UTC (RFC 5280, 4.1.2.5). What lies before 1970 counts as
    /// 1970.
    pub(crate) fn time(&mut self) -> Result<UnixTime, DerError> {
        let element = self.element()?;
        match element.tag {
            tag::UTC_TIME => utc_time(element.value),
            tag::GENERALIZED_TIME => {
                let (time, year) = generalized_time(element.value)?;
                if year < 2050 { Err(DerError::Time) } else { Ok(time) }
            }
            other => Err(DerError::Tag(other)),
        }
    }

    /// GeneralizedTime of any year, as OCSP uses it (RFC 6960, 4.2.1).
    pub(crate) fn generalized_time(&mut self) -> Result<UnixTime, DerError> {
        Ok(generalized_time(self.value(tag::GENERALIZED_TIME)?)?.0)
    }
}

pub(crate) fn boolean(value: &[u8]) -> Result<bool, DerError> {
    match value {
        [0] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(DerError::Boolean),
    }
}

pub(crate) fn integer(value: &[u8]) -> Result<&[u8], DerError> {
    match value {
        [] => Err(DerError::Integer),
        [0, second, ..] if second & 0x80 == 0 => Err(DerError::Integer),
        [0xff, second, ..] if second & 0x80 != 0 => Err(DerError::Integer),
        _ => Ok(value),
    }
}

pub(crate) fn small_integer(value: &[u8]) -> Result<u8, DerError> {
    match integer(value)? {
        [byte @ 0..=0x7f] | [0, byte] => Ok(*byte),
        _ => Err(DerError::Value("an integer is out of range")),
    }
}

/// A set of named bits, the first being bit 0 (X.690, 11.2.2: no zeros at the end). Bits beyond the sixteenth are refused.
pub(crate) fn named_bits(value: &[u8]) -> Result<u16, DerError> {
    let (&unused, bytes) = value.split_first().ok_or(DerError::BitString)?;
    let ([_] | [_, _], 0..=7) = (bytes, unused) else {
        return if bytes.is_empty() && unused == 0 { Ok(0) } else { Err(DerError::BitString) };
    };
    let last = bytes[bytes.len() - 1];
    if last & ((1 << unused) - 1) != 0 || last >> unused & 1 == 0 {
        return Err(DerError::BitString);
    }
    let bits =
        bytes.iter().enumerate().fold(0_u16, |bits, (at, byte)| bits | u16::from(byte.reverse_bits()) << (8 * at));
    Ok(bits)
}

pub(crate) fn oid(value: &[u8]) -> Result<&[u8], DerError> {
    let ends = value.last().is_some_and(|last| last & 0x80 == 0);
    let starts_padded = |at: usize| value[at] == 0x80 && (at == 0 || value[at - 1] & 0x80 == 0);
    if ends && !(0..value.len()).any(starts_padded) { Ok(value) } else { Err(DerError::ObjectIdentifier) }
}

pub(crate) fn ia5(value: &[u8]) -> Result<&str, DerError> {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => Err(DerError::Text),
    }
}

fn utc_time(value: &[u8]) -> Result<UnixTime, DerError> {
    let year = u64::from(two_digits(value, 0)?);
    let year = if year < 50 { 2000 + year } else { 1900 + year };
    moment(year, value.get(2..).ok_or(DerError::Time)?)
}

fn generalized_time(value: &[u8]) -> Result<(UnixTime, u64), DerError> {
    let year = u64::from(two_digits(value, 0)?) * 100 + u64::from(two_digits(value, 2)?);
    Ok((moment(year, value.get(4..).ok_or(DerError::Time)?)?, year))
}

/// `MMDDhhmmssZ` of `year`.
fn moment(year: u64, rest: &[u8]) -> Result<UnixTime, DerError> {
    if rest.len() != 11 || rest[10] != b'Z' {
        return Err(DerError::Time);
    }
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| two_digits(rest, at).map(u64::from));
    let (month, day, hour, minute, second) = (month?, day?, hour?, minute?, second?);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return Err(DerError::Time),
    };
    if day == 0 || day > days || hour > 23 || minute > 59 || second > 59 {
        return Err(DerError::Time);
    }
    if year < 1970 {
        return Ok(UnixTime::from_secs(0));
    }
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let month = usize::try_from(month - 1).map_err(|_| DerError::Time)?;
    let leap_days_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let days = (year - 1970) * 365 + leap_days_before(year) - leap_days_before(1970)
        + BEFORE_MONTH[month]
        + u64::from(is_leap && month > 1)
        + (day - 1);
    Ok(UnixTime::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

fn two_digits(value: &[u8], at: usize) -> Result<u8, DerError> {
    match value.get(at..at + 2) {
        Some([tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => Ok((tens - b'0') * 10 + (ones - b'0')),
        _ => Err(DerError::Time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Element<'_>, DerError> {
        Reader::new(bytes).element()
    }

    #[test]
    fn a_length_has_one_form() {
        assert_eq!(one(&[4, 1, 7]).unwrap().value, [7]);
        for bytes in [&[4, 0x81, 1, 7][..], &[4, 0x82, 0, 1, 7], &[4, 0x80, 7, 0, 0], &[4, 0x85, 0, 0, 0, 0, 1, 7]] {
            assert_eq!(one(bytes), Err(DerError::Length), "{bytes:02x?}");
        }
        let long = [&[4, 0x81, 0x80][..], &[9; 0x80]].concat();
        assert_eq!(one(&long).unwrap().value.len(), 0x80);
        for len in 0..long.len() {
            assert_eq!(one(&long[..len]), Err(DerError::Truncated));
        }
        assert_eq!(one(&[0x1f, 0x81, 1, 0]), Err(DerError::Tag(0x1f)));
    }

    #[test]
    fn integers_booleans_and_object_identifiers_have_one_form() {
        for wrong in [&[][..], &[0, 1], &[0xff, 0x80]] {
            assert_eq!(integer(wrong), Err(DerError::Integer));
        }
        for right in [&[0][..], &[0, 0x80], &[0xff, 0x7f], &[0x80]] {
            assert!(integer(right).is_ok());
        }
        assert_eq!(boolean(&[1]), Err(DerError::Boolean));
        assert_eq!(Reader::new(&[1, 1, 0]).flag(), Err(DerError::DefaultWritten));
        for wrong in [&[][..], &[0x80, 1], &[0x55, 0x80, 1], &[0x55, 0x81]] {
            assert_eq!(oid(wrong), Err(DerError::ObjectIdentifier), "{wrong:02x?}");
        }
        assert!(oid(&[0x55, 0x81, 0x80, 1]).is_ok(), "0x80 inside a number is a digit like another");
    }

    #[test]
    fn named_bits_end_with_a_one() {
        assert_eq!(named_bits(&[7, 0x80]), Ok(1), "digitalSignature");
        assert_eq!(named_bits(&[1, 0x06]), Ok(1 << 5 | 1 << 6), "keyCertSign, cRLSign");
        assert_eq!(named_bits(&[7, 0x00, 0x80]), Ok(1 << 8), "decipherOnly");
        assert_eq!(named_bits(&[0]), Ok(0));
        for wrong in [&[][..], &[0, 0x06], &[1, 0x07], &[8, 0x80], &[7, 0], &[1], &[0, 1, 1, 1]] {
            assert_eq!(named_bits(wrong), Err(DerError::BitString), "{wrong:02x?}");
        }
    }

    #[test]
    fn times_are_read_as_other_clocks_read_them() {
        let utc = |text: &str| utc_time(text.as_bytes()).map(UnixTime::as_secs);
        let generalized = |text: &str| generalized_time(text.as_bytes()).map(|(time, _)| time.as_secs());
        assert_eq!(utc("700101000000Z"), Ok(0));
        assert_eq!(utc("491231235959Z"), Ok(2_524_607_999));
        assert_eq!(utc("500101000000Z"), Ok(0), "1950");
        assert_eq!(utc("240229120000Z"), Ok(1_709_208_000));
        assert_eq!(generalized("99991231235959Z"), Ok(253_402_300_799));
        assert_eq!(generalized("20000301000000Z"), Ok(951_868_800));
        for wrong in [
            "230229120000Z",
            "240230120000Z",
            "2402291200Z",
            "240229120000",
            "240229120000+0000",
            "241301000000Z",
            "240100000000Z",
            "240101240000Z",
            "240101006000Z",
            "240101000060Z",
            "24010100000 Z",
        ] {
            assert_eq!(utc(wrong), Err(DerError::Time), "{wrong}");
        }
        for wrong in ["20500101000000.5Z", "20500101000000", "2050010100Z"] {
            assert_eq!(generalized(wrong), Err(DerError::Time), "{wrong}");
        }
        let early = [&[tag::GENERALIZED_TIME, 15][..], b"20490101000000Z"].concat();
        assert_eq!(Reader::new(&early).time(), Err(DerError::Time), "until 2049 a time is UTCTime");
    }
}
