//! An authority's state as bytes: JSON with a version, private keys included.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, TrustDomain, UnixTime, in_one_line};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::entries::Entries;
use super::keyring::Keyring;
use super::tokens::{Record, TokenState, Tokens};
use super::{Authority, AuthorityConfig, ENTRIES_MAX, ISSUED_NAMES_MAX, JOIN_TOKENS_MAX, check_name};
use crate::ca_life::{Acks, CaLife, Der, KeyId, Material};
use crate::entry::Entry;
use crate::federation::{FederationRelationship, Federations, ForeignBundle};
use crate::keys::{KeyError, PrivateKey};
use crate::leaf_rules::{parse, unix_time};
use crate::revocation::{IssuedSvids, Revocations};
use crate::seal::{SealKey, SealedKey, UnsealError};

/// Grows when an older reader would misunderstand the state, and only then.
const VERSION: u64 = 3;
/// The format without foreign trust domains; still written as long as there are none.
const VERSION_WITHOUT_FEDERATION: u64 = 2;
/// Bytes of stored state: every table full. A state directory reads files of this length and no longer ones.
const STORED_LEN_MAX: usize = 128 << 20;

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
    /// The private keys are sealed, and nobody has brought what opens them.
    #[error("the keys of the stored authority are sealed: `seal.key` is missing, or X0T_SEAL_KEY_FILE has to name it")]
    NoSealKey,
    /// The private keys do not open.
    #[error("a key of the stored authority does not open")]
    Unseal(#[from] UnsealError),
    /// A field that is readable and wrong.
    #[error("the stored authority's {field} is wrong: {reason}")]
    Content {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why the state is not given out as bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStorable {
    /// There is a seal key, and a private key does not take the seal. Without it the key does not leave.
    #[error(
        "a private key of the authority cannot be sealed: see that the file of the seal key is whole, and start again"
    )]
    Seal(#[from] KeyError),
    /// It has no JSON form.
    #[error("the authority's state has no JSON form: {0}")]
    Encoding(String),
}

impl Authority {
    /// Everything, as bytes for a file that its owner alone can read. Private keys are sealed if there is a seal key
    /// ([`Self::seal_with`]), and in clear otherwise; a key that cannot be sealed is not written at all.
    pub fn to_stored(&self) -> Result<Zeroizing<Vec<u8>>, NotStorable> {
        let domain = self.node.trust_domain();
        let seal = self.seal.as_ref().map(|seal| |key: &PrivateKey| seal.seal(key, domain));
        let keys = self.keyring.keys().map(|(key_id, key)| Ok((*key_id, stored_key(key, seal.as_ref())?)));
        let stored = Stored {
            version: if self.federations.is_empty() { VERSION_WITHOUT_FEDERATION } else { VERSION },
            node: self.node.clone(),
            life: self.keyring.life().clone(),
            keys: keys.collect::<Result<_, KeyError>>()?,
            svid_ttl_s: self.config.svid_ttl.as_secs(),
            backdate_s: self.config.backdate.as_secs(),
            authority_ttl_s: self.config.authority_ttl.as_secs(),
            ack_deadline_s: self.config.ack_deadline.as_secs(),
            recovery_s: Some(self.config.recovery.as_secs()),
            tokens: self.tokens.records().map(StoredToken::from).collect(),
            names: self.names.clone(),
            entries: self.entries.iter().cloned().collect(),
            revision: self.revision,
            revocations: self.revocations.clone(),
            foreign_bundles: self.federations.bundles().cloned().collect(),
            relationships: self.federations.relationships().cloned().collect(),
        };
        // Room for everything at once: a growing buffer would leave copies of the key behind.
        let documents: usize = stored.foreign_bundles.iter().map(|bundle| bundle.document().len()).sum();
        let room = 256 * 1024 + 1024 * stored.tokens.len() + 300 * stored.names.len() + 512 * stored.entries.len();
        let room = room + 2 * documents + 4096 * stored.relationships.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *bytes, &stored).map_err(|error| NotStorable::Encoding(error.to_string()))?;
        Ok(bytes)
    }

    /// Reads what [`Self::to_stored`] wrote, for `trust_domain`, without a seal key.
    pub fn from_stored(trust_domain: &TrustDomain, bytes: &[u8]) -> Result<Self, StoredAuthorityError> {
        Self::read_stored(trust_domain, bytes, None)
    }

    /// Reads what [`Self::to_stored`] wrote, and seals the keys from now on. Keys that were written in clear are taken as well: a
    /// mesh that had no seal key gets one with its next write.
    pub fn from_sealed(trust_domain: &TrustDomain, bytes: &[u8], seal: SealKey) -> Result<Self, StoredAuthorityError> {
        Self::read_stored(trust_domain, bytes, Some(seal))
    }

    fn read_stored(
        trust_domain: &TrustDomain,
        bytes: &[u8],
        seal: Option<SealKey>,
    ) -> Result<Self, StoredAuthorityError> {
        let stored = read(bytes)?;
        let found = stored.node.trust_domain();
        if found != trust_domain {
            let (found, wanted) = (found.clone(), trust_domain.clone());
            return Err(StoredAuthorityError::OtherTrustDomain { found, wanted });
        }
        let name = stored.node.node_name().ok_or_else(|| content("node", "it is not the identity of a node"))?;
        let keys = stored.keys.iter().map(|(id, key)| Ok((*id, read_key(trust_domain, *id, key, seal.as_ref())?)));
        let keyring = Keyring::restore(stored.life.clone(), keys.collect::<Result<_, StoredAuthorityError>>()?);
        Ok(Self {
            name: name.to_owned(),
            config: AuthorityConfig {
                svid_ttl: Duration::from_secs(stored.svid_ttl_s),
                backdate: Duration::from_secs(stored.backdate_s),
                authority_ttl: Duration::from_secs(stored.authority_ttl_s),
                ack_deadline: Duration::from_secs(stored.ack_deadline_s),
                recovery: stored.recovery_s.map_or(AuthorityConfig::default().recovery, Duration::from_secs),
            },
            keyring: keyring.map_err(|error| content("keys", in_one_line(&error)))?,
            seal,
            tokens: read_tokens(&stored.tokens)?,
            names: read_names(trust_domain, &stored.names)?,
            node: stored.node.clone(),
            entries: read_entries(trust_domain, &stored)?,
            federations: Federations::restore(trust_domain, stored.foreign_bundles, stored.relationships)
                .map_err(|error| content("foreign_bundles", error))?,
            revision: stored.revision,
            journal: Vec::new(),
            acks: Acks::default(),
            issued: IssuedSvids::default(),
            revocations: stored.revocations.clone(),
            is_waking: true,
        })
    }
}

fn stored_key(
    key: &PrivateKey,
    seal: Option<impl Fn(&PrivateKey) -> Result<SealedKey, KeyError>>,
) -> Result<StoredKey, KeyError> {
    match seal {
        Some(seal) => Ok(StoredKey::Sealed { key: seal(key)? }),
        None => Ok(StoredKey::Clear { pkcs8: Secret(BASE64.encode(key.pkcs8())) }),
    }
}

fn read_key(
    trust_domain: &TrustDomain,
    key_id: KeyId,
    stored: &StoredKey,
    seal: Option<&SealKey>,
) -> Result<PrivateKey, StoredAuthorityError> {
    let key = match (stored, seal) {
        (StoredKey::Clear { pkcs8 }, _) => {
            let pkcs8 = Zeroizing::new(base64("keys", &pkcs8.0)?);
            PrivateKey::from_pkcs8(&pkcs8).map_err(|error| content("keys", error))?
        }
        (StoredKey::Sealed { key }, Some(seal)) => seal.unseal(key, key_id, trust_domain)?,
        (StoredKey::Sealed { .. }, None) => return Err(StoredAuthorityError::NoSealKey),
    };
    if KeyId::of(key.public_key_info()) != key_id {
        return Err(content("keys", format!("a key is not that of the authority {key_id}")));
    }
    Ok(key)
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
    match version {
        0 | 1 => serde_json::from_slice::<StoredV1>(bytes).map_err(damaged)?.upgrade(),
        _ => serde_json::from_slice(bytes).map_err(damaged),
    }
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
    life: CaLife,
    keys: BTreeMap<KeyId, StoredKey>,
    svid_ttl_s: u64,
    backdate_s: u64,
    authority_ttl_s: u64,
    ack_deadline_s: u64,
    /// Absent from states of versions that did not know of it.
    #[serde(default)]
    recovery_s: Option<u64>,
    tokens: Vec<StoredToken>,
    names: BTreeMap<String, UnixTime>,
    entries: Vec<Entry>,
    revision: u64,
    revocations: Revocations,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    foreign_bundles: Vec<ForeignBundle>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relationships: Vec<FederationRelationship>,
}

/// The format before there were slots: one CA and its key, in clear.
#[derive(Deserialize)]
struct StoredV1 {
    node: SpiffeId,
    certificate: String,
    key: Secret,
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

impl StoredV1 {
    /// Its CA becomes the active authority, in a bundle of the same number and content.
    fn upgrade(self) -> Result<Stored, StoredAuthorityError> {
        let certificate = CertificateDer::from(base64("certificate", &self.certificate)?);
        let pkcs8 = Zeroizing::new(base64("key", &self.key.0)?);
        let key = PrivateKey::from_pkcs8(&pkcs8).map_err(|error| content("key", error))?;
        let parsed = parse(&certificate).map_err(|error| content("certificate", error))?;
        if parsed.public_key().raw != key.public_key_info() {
            return Err(content("key", "it is not the key of the CA certificate"));
        }
        let began = unix_time(parsed.validity().not_before);
        let material = Material::SelfSigned { certificate: Der::from(&certificate), cross: None };
        let keyring = Keyring::create(self.node.trust_domain(), material, key, self.bundle_sequence, began);
        let keyring = keyring.map_err(|error| content("certificate", in_one_line(&error)))?;
        let clear = |key: &PrivateKey| StoredKey::Clear { pkcs8: Secret(BASE64.encode(key.pkcs8())) };
        Ok(Stored {
            version: VERSION,
            life: keyring.life().clone(),
            keys: keyring.keys().map(|(key_id, key)| (*key_id, clear(key))).collect(),
            node: self.node,
            svid_ttl_s: self.svid_ttl_s,
            backdate_s: self.backdate_s,
            authority_ttl_s: self.authority_ttl_s,
            ack_deadline_s: AuthorityConfig::default().ack_deadline.as_secs(),
            recovery_s: None,
            tokens: self.tokens,
            names: self.names,
            entries: self.entries,
            revision: self.revision,
            revocations: Revocations::default(),
            foreign_bundles: Vec::new(),
            relationships: Vec::new(),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "snake_case")]
enum StoredKey {
    Sealed { key: SealedKey },
    Clear { pkcs8: Secret },
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct Secret(String);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{AwsLcKeys, KeySource};

    #[test]
    fn a_key_that_does_not_take_the_seal_is_not_written_in_clear() {
        let key = AwsLcKeys.generate().unwrap();
        let failing = |_: &PrivateKey| Err(KeyError::Unusable);
        assert!(matches!(stored_key(&key, Some(failing)), Err(KeyError::Unusable)));
        let none = None::<fn(&PrivateKey) -> Result<SealedKey, KeyError>>;
        assert!(matches!(stored_key(&key, none), Ok(StoredKey::Clear { .. })), "without a seal key it always was");
    }
}
