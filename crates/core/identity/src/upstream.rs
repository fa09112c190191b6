//! An intermediate CA that an authority outside x0t has certified: read from files, looked at closely, and tried once.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use x0t_model::{Entropy, SpiffeId, TrustDomain, UnixTime};

use crate::authority_rules;
use crate::bundle::{Bundle, BundleError};
use crate::ca_life::{CARRIED_CERTIFICATES_MAX, Der, Material};
use crate::ca_signer::{CaSigner, public_key_of};
use crate::issuance::{self, IssueError, Validity};
use crate::keys::{KeyError, PrivateKey};
use crate::leaf_rules::parse;
use crate::verify::{VerifyError, verify_chain};

/// Certificates in one file.
const FILE_CERTIFICATES_MAX: usize = 8;

/// Why an intermediate is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Not PEM, or nothing in it.
    #[error("the file of {0} holds no certificate in PEM")]
    NoCertificate(&'static str),
    /// There is no file of roots, and none in the chain.
    #[error("no root is given: the chain has none, so name the file of the roots")]
    NoRoot,
    /// The chain begins with a root.
    #[error("the certificate is a root of its own: give one that a root has certified")]
    IsRoot,
    /// Not PKCS#8 in PEM.
    #[error("the key is not a PKCS#8 private key in PEM; `openssl pkcs8 -topk8 -nocrypt` makes one")]
    NoKey,
    /// A kind of key that signs no SVIDs here.
    #[error("the key is not usable")]
    Key(#[from] KeyError),
    /// The key is another's.
    #[error("the key is not the key of the first certificate of the chain")]
    KeyMismatch,
    /// A leaf and these would be more than the wire carries.
    #[error("{0} certificates stand between the leaf and the root, at most {max} are possible: let a CA nearer to the root certify this one", max = CARRIED_CERTIFICATES_MAX)]
    ChainTooLong(usize),
    /// A certificate that may not sign for this trust domain.
    #[error("the certificate number {position} of the chain may not sign for this trust domain")]
    Certificate {
        /// Counted from 1, which is the one of the key.
        position: usize,
        /// Why not.
        #[source]
        source: VerifyError,
    },
    /// A root that lets fewer CAs stand below it.
    #[error("the root allows {allowed} CA certificates below it, and the chain has {found}")]
    PathLength {
        /// What its path length says.
        allowed: u32,
        /// How many there are.
        found: usize,
    },
    /// The roots make no bundle.
    #[error("the roots make no bundle")]
    Roots(#[from] BundleError),
    /// Its time, or that of a certificate above it, is over.
    #[error("the certificate number {position} of the chain ended at {not_after:?}: have another one made")]
    Expired {
        /// Counted from 1, which is the one of the key.
        position: usize,
        /// Its last second.
        not_after: UnixTime,
    },
    /// Too little of its life is left.
    #[error(
        "the intermediate is valid until {not_after:?}, and SVIDs that live {svid_ttl:?} need six times that from now on"
    )]
    TooShort {
        /// The end of whichever certificate ends first.
        not_after: UnixTime,
        /// How long SVIDs live.
        svid_ttl: Duration,
    },
    /// A certificate that it issued for a trial is not accepted, and one of the chain says whom it may certify.
    #[error(
        "an SVID issued for a trial is refused, and the certificate number {position} of the chain has name constraints: have one made \
         without constraints on URIs, which validators of SPIFFE IDs do not agree upon"
    )]
    NameConstraints {
        /// Counted from 1, which is the one of the key; the roots follow.
        position: usize,
        /// What the trial said.
        #[source]
        source: VerifyError,
    },
    /// A certificate that it issued for a trial is not accepted.
    #[error("an SVID issued for a trial is refused: look at path lengths, and the order of the chain")]
    Trial(#[source] VerifyError),
    /// It cannot issue.
    #[error("the intermediate cannot issue")]
    Issue(#[from] IssueError),
}

impl UpstreamError {
    /// A stable word for the API and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate(_) => "no_certificate",
            Self::NoRoot => "no_root",
            Self::IsRoot => "is_root",
            Self::NoKey | Self::Key(_) => "bad_key",
            Self::KeyMismatch => "key_mismatch",
            Self::ChainTooLong(_) => "chain_too_long",
            Self::Certificate { .. } => "bad_certificate",
            Self::PathLength { .. } => "path_length",
            Self::Roots(_) => "bad_roots",
            Self::Expired { .. } => "expired",
            Self::TooShort { .. } => "too_short",
            Self::NameConstraints { .. } => "name_constraints",
            Self::Trial(_) => "trial_refused",
            Self::Issue(_) => "cannot_issue",
        }
    }
}

/// Files that make an upstream authority, as bytes.
#[derive(Clone, Copy)]
pub struct UpstreamFiles<'a> {
    /// PEM certificates: that of our key first, then those above it. The root may be among them.
    pub chain: &'a [u8],
    /// A PEM PKCS#8 private key.
    pub key: &'a [u8],
    /// PEM certificates: what goes into the bundle. If it is empty, the self-issued ones of the chain.
    pub roots: &'a [u8],
}

/// Reads an intermediate CA for `trust_domain` and tries it: an SVID that it issues must be accepted by a stranger who holds the
/// roots. That covers what no list of checks would: path lengths, name constraints, names that do not chain, a wrong root.
pub fn import_upstream(
    trust_domain: &TrustDomain,
    files: UpstreamFiles<'_>,
    svid_ttl: Duration,
    now: UnixTime,
    entropy: &mut Entropy,
) -> Result<(Material, PrivateKey), UpstreamError> {
    let mut chain = certificates("the chain", files.chain)?;
    let roots = if files.roots.is_empty() {
        let roots: Vec<_> = chain.iter().filter(|certificate| is_self_issued(certificate)).cloned().collect();
        if roots.is_empty() { Err(UpstreamError::NoRoot) } else { Ok(roots) }
    } else {
        certificates("the roots", files.roots)
    }?;
    chain.retain(|certificate| !roots.contains(certificate));
    if chain.len() > CARRIED_CERTIFICATES_MAX {
        return Err(UpstreamError::ChainTooLong(chain.len()));
    }
    let own = chain.first().ok_or(UpstreamError::IsRoot)?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(files.key).map_err(|_| UpstreamError::NoKey)?;
    let key = PrivateKey::from_pkcs8(key.secret_pkcs8_der())?;
    let mut not_after = UnixTime::from_secs(u64::MAX);
    for (index, certificate) in chain.iter().enumerate() {
        let refused = |source| UpstreamError::Certificate { position: index + 1, source };
        let (_, ends) = authority_rules::check(certificate, trust_domain).map_err(refused)?;
        if ends <= now {
            return Err(UpstreamError::Expired { position: index + 1, not_after: ends });
        }
        not_after = not_after.min(ends);
    }
    if parse(own).map_err(|source| UpstreamError::Certificate { position: 1, source })?.public_key().raw
        != key.public_key_info()
    {
        return Err(UpstreamError::KeyMismatch);
    }
    let bundle = Bundle::new(trust_domain.clone(), roots.clone(), 0)?;
    check_path_lengths(&chain, &roots)?;
    if not_after.since(now) < svid_ttl * 6 {
        return Err(UpstreamError::TooShort { not_after, svid_ttl });
    }
    try_out(trust_domain, &chain, (&key, not_after), &bundle, now, entropy)?;
    let der = |certificates: &[CertificateDer<'_>]| certificates.iter().map(Der::from).collect();
    Ok((Material::Upstream { chain: der(&chain), roots: der(&roots) }, key))
}

/// Path validation looks at what is below an anchor, and other implementations at the anchor's own path length too.
fn check_path_lengths(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<(), UpstreamError> {
    let read =
        |certificate| parse(certificate).map_err(|source| UpstreamError::Certificate { position: chain.len(), source });
    let Some(last) = chain.last() else { return Ok(()) };
    let last = read(last)?;
    for root in roots {
        let root = read(root)?;
        let constraints = root.basic_constraints().ok().flatten();
        let allowed = constraints.and_then(|constraints| constraints.value.path_len_constraint);
        if let Some(allowed) = allowed.filter(|_| root.subject().as_raw() == last.issuer().as_raw())
            && (allowed as usize) < chain.len()
        {
            return Err(UpstreamError::PathLength { allowed, found: chain.len() });
        }
    }
    Ok(())
}

fn try_out(
    trust_domain: &TrustDomain,
    chain: &[CertificateDer<'static>],
    (key, not_after): (&PrivateKey, UnixTime),
    bundle: &Bundle,
    now: UnixTime,
    entropy: &mut Entropy,
) -> Result<(), UpstreamError> {
    let own = chain.first().ok_or(UpstreamError::NoCertificate("the chain"))?;
    let signer = CaSigner::of(own, key, not_after)?;
    let id = SpiffeId::node(trust_domain, "trial").map_err(|error| IssueError::Encoding(error.to_string()))?;
    let validity = Validity { not_before: now, not_after: now + Duration::from_secs(60) };
    let (leaf, _) = issuance::leaf((&id, &[]), &public_key_of(key)?, &signer, validity, entropy)?;
    let shown: Vec<_> = std::iter::once(leaf).chain(chain.iter().cloned()).collect();
    let Err(source) = verify_chain(&shown, bundle, now) else { return Ok(()) };
    let constrained = chain.iter().chain(bundle.authorities()).position(has_name_constraints);
    Err(match constrained {
        Some(index) => UpstreamError::NameConstraints { position: index + 1, source },
        None => UpstreamError::Trial(source),
    })
}

fn has_name_constraints(certificate: &CertificateDer<'static>) -> bool {
    parse(certificate).is_ok_and(|parsed| parsed.name_constraints().is_ok_and(|constraints| constraints.is_some()))
}

fn is_self_issued(certificate: &CertificateDer<'static>) -> bool {
    parse(certificate).is_ok_and(|parsed| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

fn certificates(whose: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(FILE_CERTIFICATES_MAX + 1).collect();
    match read {
        Ok(read) if !read.is_empty() && read.len() <= FILE_CERTIFICATES_MAX => Ok(read),
        Ok(_) | Err(_) => Err(UpstreamError::NoCertificate(whose)),
    }
}
