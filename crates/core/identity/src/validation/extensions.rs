//! Extensions of certificates (RFC 5280, 4.2), each read in full or refused.

use super::der::{DerError, Reader, named_bits, tag};
use super::general_name::GeneralNames;
use super::name_constraints::NameConstraints;

/// Extensions of one certificate. Honest ones have ten.
pub(crate) const EXTENSIONS_MAX: usize = 64;

/// What an extension says, and whether it is critical.
#[derive(Clone, Copy, Debug)]
pub struct Extension<T> {
    /// Who does not understand it must refuse the certificate.
    pub critical: bool,
    /// What it says.
    pub value: T,
}

/// RFC 5280, 4.2.1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicConstraints {
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// How many intermediates may follow below it.
    pub path_len: Option<u8>,
}

/// RFC 5280, 4.2.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage(u16);

impl KeyUsage {
    /// The names of the bits, from the first.
    pub const NAMES: [&'static str; 9] = [
        "digitalSignature",
        "nonRepudiation",
        "keyEncipherment",
        "dataEncipherment",
        "keyAgreement",
        "keyCertSign",
        "cRLSign",
        "encipherOnly",
        "decipherOnly",
    ];

    /// Whether the bit called `name` in [`NAMES`](Self::NAMES) is set.
    fn has(self, bit: u16) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// The key may sign what is neither a certificate nor a revocation list.
    pub fn digital_signature(self) -> bool {
        self.has(0)
    }

    /// The key may sign certificates.
    pub fn cert_sign(self) -> bool {
        self.has(5)
    }

    /// The key may sign revocation lists.
    pub fn crl_sign(self) -> bool {
        self.has(6)
    }

    /// Whether it may encrypt or agree on keys, which a key that only signs cannot.
    pub(crate) fn encrypts(self) -> bool {
        [2, 3, 4, 7, 8].into_iter().any(|bit| self.has(bit))
    }

    /// The names of the bits that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().zip(0..).filter(move |(_, bit)| self.has(*bit)).map(|(name, _)| name)
    }
}

/// A purpose of a key (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A TLS server.
    ServerAuth,
    /// A TLS client.
    ClientAuth,
    /// Signs OCSP answers for another CA.
    OcspSigning,
}

/// The purposes of a key. At least one.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedKeyUsage<'a>(Reader<'a>);

impl<'a> ExtendedKeyUsage<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        let purposes = Reader::inside(raw, tag::SEQUENCE)?;
        if purposes.is_empty() {
            return Err(DerError::Value("extendedKeyUsage lists no purpose"));
        }
        let mut rest = purposes;
        while !rest.is_empty() {
            rest.oid()?;
        }
        Ok(Self(purposes))
    }

    /// The object identifiers.
    pub(crate) fn oids(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || rest.oid().ok())
    }

    /// Whether `purpose` is named. `anyExtendedKeyUsage` names none in particular.
    pub fn names(&self, purpose: Purpose) -> bool {
        const KP: [u8; 7] = [0x2b, 6, 1, 5, 5, 7, 3];
        let last = match purpose {
            Purpose::ServerAuth => 1,
            Purpose::ClientAuth => 2,
            Purpose::OcspSigning => 9,
        };
        self.oids().any(|oid| oid.strip_prefix(&KP).is_some_and(|rest| rest == [last]))
    }

    /// Whether every purpose is allowed.
    pub fn names_any(&self) -> bool {
        self.oids().any(|oid| oid == [0x55, 0x1d, 0x25, 0])
    }
}

/// RFC 5280, 4.2.1.1.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthorityKeyId<'a> {
    /// Identifies the key.
    pub key_id: Option<&'a [u8]>,
    /// Whether it also names the issuer's issuer or its serial number.
    pub names_issuer: bool,
}

/// One place where a revocation list is (RFC 5280, 4.2.1.13).
#[derive(Clone, Copy, Debug)]
pub struct DistributionPoint<'a> {
    /// Its full names. `None` for a name relative to the issuer, or none at all.
    pub full_name: Option<GeneralNames<'a>>,
    /// Only some reasons are covered there.
    pub has_reasons: bool,
    /// Somebody other than the certificate's issuer signs the list.
    pub has_crl_issuer: bool,
}

/// Distribution points, known to be well-formed.
#[derive(Clone, Copy, Debug)]
pub struct DistributionPoints<'a>(Reader<'a>);

impl<'a> DistributionPoints<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        let points = Reader::inside(raw, tag::SEQUENCE)?;
        if points.is_empty() {
            return Err(DerError::Value("cRLDistributionPoints lists nothing"));
        }
        let mut rest = points;
        while !rest.is_empty() {
            DistributionPoint::read(&mut rest)?;
        }
        Ok(Self(points))
    }

    /// All of them: a list may belong to any (RUSTSEC-2026-0049 is about looking at the first only).
    pub fn iter(&self) -> impl Iterator<Item = DistributionPoint<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || DistributionPoint::read(&mut rest).ok())
    }
}

impl<'a> DistributionPoint<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DerError> {
        let mut point = reader.sequence()?;
        let name = point.optional(tag::constructed(0))?;
        let full_name = name.map(distribution_point_name).transpose()?.flatten();
        let reasons = point.optional(tag::context(1))?.map(named_bits).transpose()?;
        let crl_issuer = point.optional(tag::constructed(2))?;
        crl_issuer.map(|names| GeneralNames::of(Reader::new(names))).transpose()?;
        point.finish()?;
        if name.is_none() && crl_issuer.is_none() {
            return Err(DerError::Value("a distribution point has no name"));
        }
        Ok(Self { full_name, has_reasons: reasons.is_some(), has_crl_issuer: crl_issuer.is_some() })
    }
}

/// `DistributionPointName`: the full names, or `None` for one that is relative to the issuer.
pub(crate) fn distribution_point_name(value: &[u8]) -> Result<Option<GeneralNames<'_>>, DerError> {
    let mut choice = Reader::new(value);
    let element = choice.element()?;
    choice.finish()?;
    match element.tag {
        0xa0 => GeneralNames::of(Reader::new(element.value)).map(Some),
        0xa1 => Ok(None),
        other => Err(DerError::Tag(other)),
    }
}

/// The extensions of one certificate.
#[derive(Clone, Debug, Default)]
pub struct Extensions<'a> {
    /// Whether it is a CA.
    pub basic_constraints: Option<Extension<BasicConstraints>>,
    /// What its key may do.
    pub key_usage: Option<Extension<KeyUsage>>,
    /// What for.
    pub extended_key_usage: Option<Extension<ExtendedKeyUsage<'a>>>,
    /// Its names.
    pub subject_alt_name: Option<Extension<GeneralNames<'a>>>,
    /// Which names certificates below it may have.
    pub name_constraints: Option<Extension<NameConstraints<'a>>>,
    /// Which key signed it.
    pub authority_key_id: Option<Extension<AuthorityKeyId<'a>>>,
    /// What its own key is called.
    pub subject_key_id: Option<Extension<&'a [u8]>>,
    /// Where its revocation list is.
    pub crl_distribution_points: Option<Extension<DistributionPoints<'a>>>,
    /// Where to ask about it: whether the extension is critical, and the OCSP responders.
    pub authority_info_access: Option<Extension<AccessDescriptions<'a>>>,
    /// Whether a stapled OCSP answer must come along (RFC 7633).
    pub must_staple: bool,
    /// id-pkix-ocsp-nocheck (RFC 6960, 4.2.2.2.1).
    pub ocsp_no_check: bool,
    /// policyConstraints is there, and not critical as it has to be.
    pub(crate) lax_policy_constraints: bool,
    /// The first critical extension that is not understood here.
    pub unknown_critical: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    /// Reads the inside of `Extensions`.
    pub(crate) fn parse(mut reader: Reader<'a>) -> Result<Self, DerError> {
        if reader.is_empty() {
            return Err(DerError::Value("the list of extensions is empty"));
        }
        let mut all = Self::default();
        let mut seen: Vec<&[u8]> = Vec::with_capacity(16);
        while !reader.is_empty() {
            let mut extension = reader.sequence()?;
            let (oid, critical, value) = (extension.oid()?, extension.flag()?, extension.octet_string()?);
            extension.finish()?;
            if seen.contains(&oid) {
                return Err(DerError::Value("an extension is there twice"));
            }
            if seen.len() == EXTENSIONS_MAX {
                return Err(DerError::Value("there are too many extensions"));
            }
            seen.push(oid);
            all.take(oid, critical, value)?;
        }
        Ok(all)
    }

    fn take(&mut self, oid: &'a [u8], critical: bool, value: &'a [u8]) -> Result<(), DerError> {
        match oid {
            [0x55, 0x1d, 0x0e] => {
                let mut reader = Reader::new(value);
                let id = reader.octet_string()?;
                reader.finish()?;
                self.subject_key_id = Some(Extension { critical, value: id });
            }
            [0x55, 0x1d, 0x0f] => {
                let mut reader = Reader::new(value);
                let bits = named_bits(reader.value(tag::BIT_STRING)?)?;
                reader.finish()?;
                if bits == 0 {
                    return Err(DerError::Value("keyUsage sets no bit"));
                }
                self.key_usage = Some(Extension { critical, value: KeyUsage(bits) });
            }
            [0x55, 0x1d, 0x11] => {
                self.subject_alt_name = Some(Extension { critical, value: GeneralNames::parse(value)? });
            }
            [0x55, 0x1d, 0x13] => {
                self.basic_constraints = Some(Extension { critical, value: basic_constraints(value)? })
            }
            [0x55, 0x1d, 0x1e] => {
                self.name_constraints = Some(Extension { critical, value: NameConstraints::parse(value)? });
            }
            [0x55, 0x1d, 0x1f] => {
                self.crl_distribution_points = Some(Extension { critical, value: DistributionPoints::parse(value)? });
            }
            // certificatePolicies: read for its form. Which policies hold matters only under a policyConstraints extension, and a
            // certificate with one is refused as unknown.
            [0x55, 0x1d, 0x20] => certificate_policies(value)?,
            [0x55, 0x1d, 0x23] => {
                self.authority_key_id = Some(Extension { critical, value: authority_key_id(value)? });
            }
            [0x55, 0x1d, 0x24] if !critical => self.lax_policy_constraints = true,
            [0x55, 0x1d, 0x25] => {
                self.extended_key_usage = Some(Extension { critical, value: ExtendedKeyUsage::parse(value)? });
            }
            [0x2b, 6, 1, 5, 5, 7, 1, 1] => {
                self.authority_info_access = Some(Extension { critical, value: AccessDescriptions::parse(value)? });
            }
            [0x2b, 6, 1, 5, 5, 7, 1, 24] => self.must_staple = tls_features(value)?,
            [0x2b, 6, 1, 5, 5, 7, 48, 1, 5] => {
                if value != [tag::NULL, 0] {
                    return Err(DerError::Value("ocsp-nocheck is not NULL"));
                }
                self.ocsp_no_check = true;
            }
            _ if critical && self.unknown_critical.is_none() => self.unknown_critical = Some(oid),
            _ => {}
        }
        Ok(())
    }

    /// Whether it is a CA certificate.
    pub fn is_ca(&self) -> bool {
        self.basic_constraints.is_some_and(|constraints| constraints.value.is_ca)
    }
}

/// Where to ask about a certificate (RFC 5280, 4.2.2.1).
#[derive(Clone, Copy, Debug)]
pub struct AccessDescriptions<'a>(Reader<'a>);

impl<'a> AccessDescriptions<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, DerError> {
        let descriptions = Reader::inside(raw, tag::SEQUENCE)?;
        if descriptions.is_empty() {
            return Err(DerError::Value("authorityInfoAccess lists nothing"));
        }
        let mut rest = descriptions;
        while !rest.is_empty() {
            access_description(&mut rest)?;
        }
        Ok(Self(descriptions))
    }

    /// The URIs of OCSP responders.
    pub fn ocsp_uris(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.0;
        let each = std::iter::from_fn(move || access_description(&mut rest).ok());
        each.filter_map(|(method, name)| match name {
            super::general_name::GeneralName::Uri(uri) if method == [0x2b, 6, 1, 5, 5, 7, 48, 1] => Some(uri),
            _ => None,
        })
    }
}

fn access_description<'a>(
    reader: &mut Reader<'a>,
) -> Result<(&'a [u8], super::general_name::GeneralName<'a>), DerError> {
    let mut description = reader.sequence()?;
    let method = description.oid()?;
    let location = super::general_name::GeneralName::read(&mut description)?;
    description.finish()?;
    Ok((method, location))
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, DerError> {
    let mut reader = Reader::inside(value, tag::SEQUENCE)?;
    let is_ca = reader.flag()?;
    let path_len = if reader.is_empty() { None } else { Some(reader.small_integer()?) };
    reader.finish()?;
    Ok(BasicConstraints { is_ca, path_len })
}

pub(crate) fn authority_key_id(value: &[u8]) -> Result<AuthorityKeyId<'_>, DerError> {
    let mut reader = Reader::inside(value, tag::SEQUENCE)?;
    let key_id = reader.optional(tag::context(0))?;
    let issuer = reader.optional(tag::constructed(1))?;
    issuer.map(|names| GeneralNames::of(Reader::new(names))).transpose()?;
    let serial = reader.optional(tag::context(2))?;
    reader.finish()?;
    Ok(AuthorityKeyId { key_id, names_issuer: issuer.is_some() || serial.is_some() })
}

fn certificate_policies(value: &[u8]) -> Result<(), DerError> {
    let mut policies = Reader::inside(value, tag::SEQUENCE)?;
    if policies.is_empty() {
        return Err(DerError::Value("certificatePolicies lists nothing"));
    }
    while !policies.is_empty() {
        let mut policy = policies.sequence()?;
        policy.oid()?;
        if !policy.is_empty() {
            policy.sequence()?;
        }
        policy.finish()?;
    }
    Ok(())
}

/// Whether status_request or status_request_v2 is among the features (RFC 7633, 4.1).
fn tls_features(value: &[u8]) -> Result<bool, DerError> {
    let mut features = Reader::inside(value, tag::SEQUENCE)?;
    let mut asks_for_status = false;
    while !features.is_empty() {
        asks_for_status |= matches!(features.integer()?, [5 | 17]);
    }
    Ok(asks_for_status)
}
