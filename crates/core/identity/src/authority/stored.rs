//! An authority's state as bytes: JSON with a version, CA key included.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::entries::Entries;
use super::tokens::{Record, TokenState, Tokens};
use super::{Authority, AuthorityConfig, ENTRIES_MAX, ISSUED_NAMES_MAX, JOIN_TOKENS_MAX, check_name, own_certificate};
use crate::bundle::Bundle;
use crate::ca_signer::CaSigner;
use crate::entry::Entry;
use crate::keys::PrivateKey;

/// Grows when an older reader would misunderstand the state, and only then.
const VERSION: u64 = 1;
/// Bytes of stored state: every table full.
const STORED_LEN_MAX: usize = 256 * 1024 * 1024;

/// Why stored state is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredAuthorityError {
    /// Longer than any state that was ever written.
    #[error("the stored authority has {0} bytes, at most {max} are possible", max = STORED_LEN_MAX)]
    TooLarge(usize),
    /// Not JSON, cut off, or a field is missing.
    #[error("the stored authority is damaged: {0}")]
    Damaged(String),
    /// Written by a later x0t; reading it would lose what this one does not know.
    #[error("the stored authority has format {found}, this version of x0t reads up to {known}: use the newer x0t")]
    NewerVersion {
        /// What was found.
        found: u64,
        /// What is known.
        known: u64,
    },
    /// It is another mesh's.
    #[error("the stored authority is of trust domain {found}, not of {wanted}")]
    OtherTrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        wanted: TrustDomain,
    },
    /// A field that is readable and wrong.
    #[error("the stored authority's {field} is wrong: {reason}")]
    Content {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Authority {
    /// Everything, CA key included, as bytes for a file that its owner alone can read.
    pub fn to_stored(&self) -> Zeroizing<Vec<u8>> {
        let stored = Stored {
            version: VERSION,
            node: self.node.clone(),
            certificate: BASE64.encode(&self.certificate),
            key: StoredKey(BASE64.encode(self.key.pkcs8())),
            authorities: self.bundle.authorities().iter().map(|authority| BASE64.encode(authority)).collect(),
            bundle_sequence: self.bundle.sequence(),
            svid_ttl_s: self.config.svid_ttl.as_secs(),
            backdate_s: self.config.backdate.as_secs(),
            authority_ttl_s: self.config.authority_ttl.as_secs(),
            tokens: self.tokens.records().map(StoredToken::from).collect(),
            names: self.names.clone(),
            entries: self.entries.iter().cloned().collect(),
            revision: self.revision,
        };
        // Room for everything at once: a growing buffer would leave copies of the key behind.
        let room = 64 * 1024 + 1024 * stored.tokens.len() + 300 * stored.names.len() + 512 * stored.entries.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        if serde_json::to_writer(&mut *bytes, &stored).is_err() {
            // Strings, numbers and maps with string keys always have a JSON form.
            debug_assert!(false, "the authority's state has no JSON form");
        }
        bytes
    }

    /// Reads what [`Self::to_stored`] wrote, for `trust_domain`.
    pub fn from_stored(trust_domain: &TrustDomain, bytes: &[u8]) -> Result<Self, StoredAuthorityError> {
        let stored = read(bytes)?;
        let found = stored.node.trust_domain();
        if found != trust_domain {
            let (found, wanted) = (found.clone(), trust_domain.clone());
            return Err(StoredAuthorityError::OtherTrustDomain { found, wanted });
        }
        let key = Zeroizing::new(base64("key", &stored.key.0)?);
        let key = PrivateKey::from_pkcs8(&key).map_err(|error| content("key", error))?;
        let certificate = CertificateDer::from(base64("certificate", &stored.certificate)?);
        let not_after = own_certificate(&certificate, &key, trust_domain)?;
        let authorities = stored.authorities.iter().map(|text| base64("authorities", text).map(CertificateDer::from));
        let bundle = Bundle::new(trust_domain.clone(), authorities.collect::<Result<_, _>>()?, stored.bundle_sequence);
        let bundle = bundle.map_err(|error| content("authorities", error))?;
        if !bundle.authorities().contains(&certificate) {
            return Err(content("authorities", "the CA certificate is not among them"));
        }
        let name = stored.node.node_name().ok_or_else(|| content("node", "it is not the identity of a node"))?;
        Ok(Self {
            name: name.to_owned(),
            config: AuthorityConfig {
                svid_ttl: Duration::from_secs(stored.svid_ttl_s),
                backdate: Duration::from_secs(stored.backdate_s),
                authority_ttl: Duration::from_secs(stored.authority_ttl_s),
            },
            signer: CaSigner::of(&certificate, &key, not_after).map_err(|error| content("certificate", error))?,
            certificate,
            key,
            not_after,
            bundle,
            tokens: read_tokens(&stored.tokens)?,
            names: read_names(trust_domain, &stored.names)?,
            node: stored.node.clone(),
            entries: read_entries(trust_domain, &stored)?,
            revision: stored.revision,
            journal: Vec::new(),
        })
    }
}

fn read(bytes: &[u8]) -> Result<Stored, StoredAuthorityError> {
    if bytes.len() > STORED_LEN_MAX {
        return Err(StoredAuthorityError::TooLarge(bytes.len()));
    }
    let damaged = |error: serde_json::Error| StoredAuthorityError::Damaged(error.to_string());
    // The version alone first: what else a later format holds is unknown.
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StoredAuthorityError::NewerVersion { found: version, known: VERSION });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn read_tokens(stored: &[StoredToken]) -> Result<Tokens, StoredAuthorityError> {
    let mut tokens = Tokens::default();
    for token in stored {
        let hash = HEXLOWER.decode(token.hash.as_bytes()).map_err(|error| content("tokens", error))?;
        let hash = hash.try_into().map_err(|_| content("tokens", "a hash is not 32 bytes long"))?;
        let state = match (token.used_at, &token.used_by) {
            (Some(at), Some(by)) => TokenState::Used { at, by: by.clone() },
            (None, None) => TokenState::Unused,
            _ => return Err(content("tokens", "a token is used without time or name")),
        };
        let StoredToken { name, created, expires, .. } = token.clone();
        if !tokens.restore(Record { hash, name, created, expires, state }) {
            return Err(content("tokens", format!("there are more than {JOIN_TOKENS_MAX}")));
        }
    }
    Ok(tokens)
}

fn read_names(
    trust_domain: &TrustDomain,
    names: &BTreeMap<String, UnixTime>,
) -> Result<BTreeMap<String, UnixTime>, StoredAuthorityError> {
    if names.len() > ISSUED_NAMES_MAX {
        return Err(content("names", format!("there are more than {ISSUED_NAMES_MAX}")));
    }
    match names.keys().find(|name| check_name(trust_domain, name).is_err()) {
        Some(name) => Err(content("names", format!("`{name}` cannot be the name of a node"))),
        None => Ok(names.clone()),
    }
}

fn read_entries(trust_domain: &TrustDomain, stored: &Stored) -> Result<Entries, StoredAuthorityError> {
    if stored.entries.len() > ENTRIES_MAX {
        return Err(content("entries", format!("there are more than {ENTRIES_MAX}")));
    }
    let mut entries = Entries::default();
    for entry in &stored.entries {
        entry.spec.check(trust_domain).map_err(|error| content("entries", format!("{}: {error}", entry.id)))?;
        if entry.revision > stored.revision {
            return Err(content("revision", "an entry is newer than the state"));
        }
        entries.restore(entry.clone());
    }
    entries.forget_deletions_before(stored.revision);
    Ok(entries)
}

fn base64(field: &'static str, text: &str) -> Result<Vec<u8>, StoredAuthorityError> {
    BASE64.decode(text.as_bytes()).map_err(|error| content(field, error))
}

fn content(field: &'static str, reason: impl ToString) -> StoredAuthorityError {
    StoredAuthorityError::Content { field, reason: reason.to_string() }
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    node: SpiffeId,
    certificate: String,
    key: StoredKey,
    authorities: Vec<String>,
    bundle_sequence: u64,
    svid_ttl_s: u64,
    backdate_s: u64,
    authority_ttl_s: u64,
    tokens: Vec<StoredToken>,
    names: BTreeMap<String, UnixTime>,
    #[serde(default)]
    entries: Vec<Entry>,
    #[serde(default)]
    revision: u64,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct StoredKey(String);

#[derive(Clone, Serialize, Deserialize)]
struct StoredToken {
    hash: String,
    name: Option<String>,
    created: UnixTime,
    expires: UnixTime,
    used_at: Option<UnixTime>,
    used_by: Option<String>,
}

impl From<&Record> for StoredToken {
    fn from(record: &Record) -> Self {
        let (used_at, used_by) = match &record.state {
            TokenState::Unused => (None, None),
            TokenState::Used { at, by } => (Some(*at), Some(by.clone())),
        };
        let Record { name, created, expires, .. } = record.clone();
        Self { hash: HEXLOWER.encode(&record.hash), name, created, expires, used_at, used_by }
    }
}
