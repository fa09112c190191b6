//! One authority of the trust domain: its public half and how far along its life it is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::{Entropy, TrustDomain, UnixTime};
use x509_parser::extensions::ParsedExtension;

use crate::authority_rules;
use crate::ca_signer::CaSigner;
use crate::issuance::{self, IssueError, Validity};
use crate::jwt::{JwtKeyError, JwtPublicKey};
use crate::keys::PrivateKey;
use crate::leaf_rules::parse;
use crate::verify::VerifyError;

/// Certificates between a leaf and its bundle entry: with the leaf they fill the chain that the wire carries.
pub const CARRIED_CERTIFICATES_MAX: usize = 3;
/// Roots that an upstream authority names: as many as a bundle holds if every slot is such a one.
const ROOTS_MAX: usize = 2;

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityKind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl AuthorityKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::X509, Self::Jwt];

    /// Its word on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a key: the first 20 bytes of SHA-256 over its SubjectPublicKeyInfo, in lower-case hex (RFC 7093, section 2, method 4
/// shortened as in method 1). A JWT key has a thumbprint besides, for the `kid` of tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 20]);

impl KeyId {
    /// The name of the key in `public_key_info` (DER).
    pub fn of(public_key_info: &[u8]) -> Self {
        let mut id = [0; 20];
        id.copy_from_slice(&digest(&SHA256, public_key_info).as_ref()[..20]);
        Self(id)
    }

    /// Who signed the leaf of `chain`: the key of the certificate behind it, or what the leaf itself says (its authority key
    /// identifier, which is this name wherever x0t made the authority). The chain has been verified before.
    pub fn of_issuer(chain: &[CertificateDer<'_>]) -> Option<Self> {
        if let Some(issuer) = chain.get(1) {
            return Some(Self::of(parse(issuer).ok()?.public_key().raw));
        }
        let leaf = parse(chain.first()?).ok()?;
        leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(names) => {
                names.key_identifier.as_ref()?.0.try_into().ok().map(Self)
            }
            _ => None,
        })
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 40 hexadecimal digits")]
pub struct ParseKeyIdError;

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| ParseKeyIdError)?;
        bytes.try_into().map(Self).map_err(|_| ParseKeyIdError)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// DER, written as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Der(Vec<u8>);

impl Der {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as a certificate; whether they are one is another question.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.0.clone())
    }
}

impl From<&CertificateDer<'_>> for Der {
    fn from(certificate: &CertificateDer<'_>) -> Self {
        Self(certificate.to_vec())
    }
}

impl From<&[u8]> for Der {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Der({} bytes)", self.0.len())
    }
}

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The public half of an authority. The private key is kept elsewhere, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "snake_case")]
pub enum Material {
    /// A CA that vouches for itself: its certificate is the bundle's.
    SelfSigned {
        /// The CA certificate.
        certificate: Der,
        /// The same key certified by the authority before it, so that whoever has not heard of the new one yet still finds
        /// a path.
        cross: Option<Cross>,
    },
    /// A CA below an authority outside x0t: the bundle holds the roots, each issued chain carries what is between.
    Upstream {
        /// The certificate of our key first, then those above it, without the root.
        chain: Vec<Der>,
        /// What the bundle holds.
        roots: Vec<Der>,
    },
    /// A key for JWT-SVIDs.
    Jwt {
        /// SubjectPublicKeyInfo.
        public_key_info: Der,
        /// The first second in which it signs.
        not_before: UnixTime,
        /// The last second in which a token that it has signed is valid.
        not_after: UnixTime,
    },
}

/// A cross certificate: the subject and key of one authority, signed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cross {
    /// The certificate.
    pub certificate: Der,
    /// Who signed it.
    pub by: KeyId,
}

/// Why material is no authority's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// A certificate that may not sign for this trust domain.
    #[error("a certificate may not sign for this trust domain")]
    Certificate(#[from] VerifyError),
    /// No certificate at all, or more than chains and bundles hold.
    #[error("{0} certificates between leaf and root and {1} roots are not possible")]
    Count(usize, usize),
    /// The key is not one that signs tokens.
    #[error("the key cannot sign JWT-SVIDs")]
    PublicKey(#[from] JwtKeyError),
    /// The cross certificate is for another key or another name.
    #[error("the cross certificate is not for this authority")]
    ForeignCross,
}

/// What is read from [`Material`] once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) key_id: KeyId,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

impl Material {
    /// A CA for `trust_domain` that vouches for itself with `key`. The `predecessor`, if it can and there is one, vouches for it
    /// too.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        key: &PrivateKey,
        (not_before, not_after): (UnixTime, UnixTime),
        predecessor: Option<&CaSigner>,
        entropy: &mut Entropy,
    ) -> Result<Self, IssueError> {
        let validity = Validity { not_before, not_after };
        let (certificate, cross) = issuance::authority(trust_domain, key, validity, predecessor, entropy)?;
        let cross = predecessor.zip(cross).map(|(by, cross)| Cross { certificate: Der::from(&cross), by: by.key_id() });
        Ok(Self::SelfSigned { certificate: Der::from(&certificate), cross })
    }

    /// `key`, for JWT-SVIDs.
    pub fn jwt(key: &PrivateKey, (not_before, not_after): (UnixTime, UnixTime)) -> Self {
        Self::Jwt { public_key_info: Der::from(key.public_key_info()), not_before, not_after }
    }

    /// What it signs.
    pub const fn kind(&self) -> AuthorityKind {
        match self {
            Self::SelfSigned { .. } | Self::Upstream { .. } => AuthorityKind::X509,
            Self::Jwt { .. } => AuthorityKind::Jwt,
        }
    }

    /// What the bundle holds for it: certificates, or a SubjectPublicKeyInfo.
    pub fn bundle_entries(&self) -> &[Der] {
        match self {
            Self::SelfSigned { certificate, .. } => std::slice::from_ref(certificate),
            Self::Upstream { roots, .. } => roots,
            Self::Jwt { public_key_info, .. } => std::slice::from_ref(public_key_info),
        }
    }

    /// The certificate whose subject is the issuer of what it signs; `None` for a JWT key.
    pub fn issuer(&self) -> Option<&Der> {
        match self {
            Self::SelfSigned { certificate, .. } => Some(certificate),
            Self::Upstream { chain, .. } => chain.first(),
            Self::Jwt { .. } => None,
        }
    }

    /// Which key, and from when until when it vouches for anything, if it is fit to do so for `trust_domain`. Signatures are
    /// not checked here: whoever makes material has made them, whoever imports an upstream authority has checked its path.
    pub(super) fn check(&self, trust_domain: &TrustDomain) -> Result<Facts, MaterialError> {
        match self {
            Self::SelfSigned { certificate, cross } => {
                let facts = certificate_facts(certificate, trust_domain)?;
                if let Some(cross) = cross {
                    check_cross(certificate, &cross.certificate, trust_domain)?;
                }
                Ok(facts)
            }
            Self::Upstream { chain, roots } => {
                let fits =
                    (1..=CARRIED_CERTIFICATES_MAX).contains(&chain.len()) && (1..=ROOTS_MAX).contains(&roots.len());
                let own = chain.first().filter(|_| fits).ok_or(MaterialError::Count(chain.len(), roots.len()))?;
                let mut facts = certificate_facts(own, trust_domain)?;
                for above in &chain[1..] {
                    facts.not_after = facts.not_after.min(certificate_facts(above, trust_domain)?.not_after);
                }
                for root in roots {
                    certificate_facts(root, trust_domain)?;
                }
                Ok(facts)
            }
            Self::Jwt { public_key_info, not_before, not_after } => {
                JwtPublicKey::from_spki(public_key_info.as_bytes())?;
                let key_id = KeyId::of(public_key_info.as_bytes());
                Ok(Facts { key_id, not_before: *not_before, not_after: *not_after })
            }
        }
    }
}

fn certificate_facts(certificate: &Der, trust_domain: &TrustDomain) -> Result<Facts, MaterialError> {
    let certificate = CertificateDer::from(certificate.as_bytes());
    let (not_before, not_after) = authority_rules::check(&certificate, trust_domain)?;
    let key_id = KeyId::of(parse(&certificate)?.public_key().raw);
    Ok(Facts { key_id, not_before, not_after })
}

fn check_cross(own: &Der, cross: &Der, trust_domain: &TrustDomain) -> Result<(), MaterialError> {
    certificate_facts(cross, trust_domain)?;
    let (own, cross) = (CertificateDer::from(own.as_bytes()), CertificateDer::from(cross.as_bytes()));
    let (own, cross) = (parse(&own)?, parse(&cross)?);
    let same = own.subject().as_raw() == cross.subject().as_raw() && own.public_key().raw == cross.public_key().raw;
    if same { Ok(()) } else { Err(MaterialError::ForeignCross) }
}

/// How far along its life an authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SlotState {
    /// In the bundle from `sequence` on; signs nothing yet.
    Prepared {
        /// The bundle's number from which on it is in it.
        sequence: u64,
    },
    /// Signs.
    Active,
    /// Has signed what may still be valid.
    Old,
    /// Not to be believed for much longer: whatever it has signed has to be replaced.
    Tainted {
        /// The bundle's number from which on it is known to be tainted.
        sequence: u64,
    },
    /// Taken out of the bundle by an operator.
    Revoked,
    /// Taken out of the bundle by age.
    Pruned,
}

impl SlotState {
    /// A stable word for views, counters and tests.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepared { .. } => "prepared",
            Self::Active => "active",
            Self::Old => "old",
            Self::Tainted { .. } => "tainted",
            Self::Revoked => "revoked",
            Self::Pruned => "pruned",
        }
    }

    /// Whether members check SVIDs against it.
    pub const fn is_in_bundle(&self) -> bool {
        match self {
            Self::Prepared { .. } | Self::Active | Self::Old | Self::Tainted { .. } => true,
            Self::Revoked | Self::Pruned => false,
        }
    }

    /// Whether its private key has anything left to sign: SVIDs, or the revocation list of those it has signed.
    pub const fn needs_private_key(&self) -> bool {
        match self {
            Self::Prepared { .. } | Self::Active | Self::Old => true,
            Self::Tainted { .. } | Self::Revoked | Self::Pruned => false,
        }
    }
}

/// One authority and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    key_id: KeyId,
    material: Material,
    not_before: UnixTime,
    not_after: UnixTime,
    pub(super) state: SlotState,
    pub(super) since: UnixTime,
}

impl Slot {
    pub(super) fn prepared(material: Material, facts: Facts, sequence: u64, at: UnixTime) -> Self {
        let Facts { key_id, not_before, not_after } = facts;
        Self { key_id, material, not_before, not_after, state: SlotState::Prepared { sequence }, since: at }
    }

    /// Which key.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// What it signs.
    pub const fn kind(&self) -> AuthorityKind {
        self.material.kind()
    }

    /// Its public half.
    pub const fn material(&self) -> &Material {
        &self.material
    }

    /// The first second in which it vouches for anything.
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second in which it vouches for anything.
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// How far along.
    pub const fn state(&self) -> SlotState {
        self.state
    }

    /// Since when.
    pub const fn since(&self) -> UnixTime {
        self.since
    }

    /// From first to last second.
    pub const fn life(&self) -> Duration {
        self.not_after.since(self.not_before)
    }

    pub(super) fn facts(&self) -> Facts {
        Facts { key_id: self.key_id, not_before: self.not_before, not_after: self.not_after }
    }
}
