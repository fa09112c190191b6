//! What joining and renewing say, as messages of a session's reliable stream.
//!
//! ```text
//! 0x41 JoinRequest    secret 32, name u16-prefixed (empty: the one in the token), signing request u16-prefixed
//! 0x42 JoinAccepted   chain, bundle, authorities u8 count, each a u16-prefixed SPIFFE ID
//! 0x43 JoinRefused    code u16-prefixed, text u16-prefixed
//! 0x44 RenewRequest   signing request u16-prefixed
//! 0x45 RenewAccepted  chain, bundle
//! 0x46 RenewRefused   code u16-prefixed, text u16-prefixed
//! 0x47 AgentRequest   id u64, body u16-prefixed: JSON, see `agent_message.rs`
//! 0x48 AgentAnswer    id u64, body u16-prefixed
//! 0x49 RecoverRequest chain, CSR u16-prefixed, signature u16-prefixed
//!
//! chain               u8 count (1..=4), each certificate u16-prefixed, leaf first
//! bundle              trust domain u16-prefixed, sequence u64, u8 count (0..=16), each certificate u16-prefixed,
//!                     u8 count (0..=64), each a JWT key: kid u16-prefixed, SubjectPublicKeyInfo u16-prefixed
//! ```
//!
//! Big-endian throughout. The first byte leaves room for other users of the same stream.

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x0t_model::{DecodeError, Reader, SpiffeId, SpiffeIdError, Writer};

use crate::agent_message::AGENT_BODY_MAX;
use crate::authority::{JoinRefusal, NODE_NAME_LEN_MAX, RecoverRefusal, RenewRefusal};
use crate::bundle::{BUNDLE_AUTHORITIES_MAX, BUNDLE_JWT_KEYS_MAX, Bundle, BundleError};
use crate::csr::CSR_LEN_MAX;
use crate::jwt::{JWT_PUBLIC_KEY_LEN_MAX, JwtKeyError, JwtPublicKey, KEY_ID_LEN_MAX, KeyId, KeyIdError};
use crate::token::JoinSecret;
use crate::verify::CERTIFICATE_LEN_MAX;

/// Certificates in a chain on the wire: leaf, and room for a few intermediates.
pub const MESSAGE_CHAIN_MAX: usize = 4;
/// Bytes of a signature: those of every kind of key that signs here fit.
const SIGNATURE_LEN_MAX: usize = 4096;
/// Authorities that a joiner is told of.
pub const MESSAGE_AUTHORITIES_MAX: usize = 16;
const CODE_LEN_MAX: usize = 32;
const TEXT_LEN_MAX: usize = 512;
const TRUST_DOMAIN_LEN_MAX: usize = 255;
const SPIFFE_ID_LEN_MAX: usize = 2048;

const JOIN_REQUEST: u8 = 0x41;
const JOIN_ACCEPTED: u8 = 0x42;
const JOIN_REFUSED: u8 = 0x43;
const RENEW_REQUEST: u8 = 0x44;
const RENEW_ACCEPTED: u8 = 0x45;
const RENEW_REFUSED: u8 = 0x46;
const AGENT_REQUEST: u8 = 0x47;
const AGENT_ANSWER: u8 = 0x48;
const RECOVER_REQUEST: u8 = 0x49;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Cut off, too long, or a value without meaning.
    #[error("the identity message is malformed")]
    Malformed(#[from] DecodeError),
    /// Text that is no UTF-8.
    #[error("the {0} is not text")]
    NotText(&'static str),
    /// An identity that is none.
    #[error("an identity in the message is not valid")]
    SpiffeId(#[from] SpiffeIdError),
    /// A bundle that is none.
    #[error("the bundle in the message is not valid")]
    Bundle(#[from] BundleError),
    /// A key for JWT-SVIDs that is none.
    #[error("a key for JWT-SVIDs in the message is not valid")]
    JwtKey(#[from] JwtKeyError),
    /// A name of such a key that is none.
    #[error("the name of a key for JWT-SVIDs in the message is not valid")]
    KeyId(#[from] KeyIdError),
    /// A field of a message to be sent does not fit.
    #[error("the {field} has {value} bytes or entries, at most {limit} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// What it has.
        value: usize,
        /// What it may have.
        limit: usize,
    },
}

/// A joiner's request, under the session that [`JoinToken::verify_authority`](crate::JoinToken::verify_authority) checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// From the token.
    pub secret: JoinSecret,
    /// The name the node would like; `None` for the one in the token.
    pub name: Option<String>,
    /// See [`signing_request`](crate::signing_request).
    pub csr: Vec<u8>,
}

/// A node whose SVID has ended asks for another, under a session that has shown it the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverRequest {
    /// The SVID that has ended, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// See [`signing_request`](crate::signing_request); for a new key.
    pub csr: Vec<u8>,
    /// Of the signing request, by the key of the old SVID.
    pub signature: Vec<u8>,
}

/// Welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAccepted {
    /// The node's SVID without its key, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust domain's authorities.
    pub bundle: Bundle,
    /// Who renews.
    pub authorities: Vec<SpiffeId>,
}

/// A renewal that worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewAccepted {
    /// The next SVID without its key, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust domain's authorities.
    pub bundle: Bundle,
}

/// No, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of the stable words of [`JoinRefusal::code`] or [`RenewRefusal::code`]; unknown ones are to be treated as such.
    pub code: String,
    /// For a person.
    pub text: String,
}

impl From<&JoinRefusal> for Refused {
    fn from(refusal: &JoinRefusal) -> Self {
        Self::new(refusal.code(), refusal)
    }
}

impl From<&RecoverRefusal> for Refused {
    fn from(refusal: &RecoverRefusal) -> Self {
        Self::new(refusal.code(), refusal)
    }
}

impl From<&RenewRefusal> for Refused {
    fn from(refusal: &RenewRefusal) -> Self {
        Self::new(refusal.code(), refusal)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Joiner to authority.
    JoinRequest(JoinRequest),
    /// Authority to joiner.
    JoinAccepted(JoinAccepted),
    /// Authority to joiner.
    JoinRefused(Refused),
    /// Node to authority.
    RenewRequest {
        /// See [`signing_request`](crate::signing_request).
        csr: Vec<u8>,
    },
    /// Authority to node.
    RenewAccepted(RenewAccepted),
    /// Authority to node.
    RenewRefused(Refused),
    /// A node's agent to an authority.
    AgentRequest {
        /// Chosen by the node; the answer carries it.
        id: u64,
        /// An encoded [`AgentRequest`](crate::AgentRequest).
        body: Vec<u8>,
    },
    /// Authority to a node's agent.
    AgentAnswer {
        /// That of the request.
        id: u64,
        /// An encoded [`AgentAnswer`](crate::AgentAnswer). It may hold a token.
        body: Vec<u8>,
    },
    /// Node to authority, in a joiner's session; answered like a [`Self::JoinRequest`].
    RecoverRequest(RecoverRequest),
}

impl Message {
    /// Whether `first_byte` begins a message of this kind.
    pub const fn starts_with(first_byte: u8) -> bool {
        matches!(first_byte, JOIN_REQUEST..=RECOVER_REQUEST)
    }

    /// The message as bytes; an error if a field is longer than a receiver would accept.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut out = Vec::with_capacity(2048);
        let mut writer = Writer::new(&mut out);
        match self {
            Self::JoinRequest(JoinRequest { secret, name, csr }) => {
                writer.u8(JOIN_REQUEST).bytes(secret.as_bytes());
                write_field(&mut writer, "name", name.as_deref().unwrap_or("").as_bytes(), NODE_NAME_LEN_MAX)?;
                write_field(&mut writer, "signing request", csr, CSR_LEN_MAX)?;
            }
            Self::JoinAccepted(JoinAccepted { chain, bundle, authorities }) => {
                writer.u8(JOIN_ACCEPTED);
                write_chain(&mut writer, chain)?;
                write_bundle(&mut writer, bundle)?;
                write_count(&mut writer, "authorities", authorities.len(), MESSAGE_AUTHORITIES_MAX)?;
                for authority in authorities {
                    write_field(&mut writer, "authority", authority.to_string().as_bytes(), SPIFFE_ID_LEN_MAX)?;
                }
            }
            Self::RenewRequest { csr } => {
                writer.u8(RENEW_REQUEST);
                write_field(&mut writer, "signing request", csr, CSR_LEN_MAX)?;
            }
            Self::RenewAccepted(RenewAccepted { chain, bundle }) => {
                writer.u8(RENEW_ACCEPTED);
                write_chain(&mut writer, chain)?;
                write_bundle(&mut writer, bundle)?;
            }
            Self::JoinRefused(refused) => write_refused(&mut writer, JOIN_REFUSED, refused)?,
            Self::RenewRefused(refused) => write_refused(&mut writer, RENEW_REFUSED, refused)?,
            Self::AgentRequest { id, body } => {
                writer.u8(AGENT_REQUEST).u64(*id);
                write_field(&mut writer, "body", body, AGENT_BODY_MAX)?;
            }
            Self::AgentAnswer { id, body } => {
                writer.u8(AGENT_ANSWER).u64(*id);
                write_field(&mut writer, "body", body, AGENT_BODY_MAX)?;
            }
            Self::RecoverRequest(RecoverRequest { chain, csr, signature }) => {
                writer.u8(RECOVER_REQUEST);
                write_chain(&mut writer, chain)?;
                write_field(&mut writer, "signing request", csr, CSR_LEN_MAX)?;
                write_field(&mut writer, "signature", signature, SIGNATURE_LEN_MAX)?;
            }
        }
        Ok(out)
    }

    /// Reads one whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            JOIN_REQUEST => {
                let secret = JoinSecret::from_bytes(reader.array()?);
                let name = read_text(&mut reader, "name", NODE_NAME_LEN_MAX)?;
                let name = (!name.is_empty()).then(|| name.to_owned());
                Self::JoinRequest(JoinRequest { secret, name, csr: read_csr(&mut reader)? })
            }
            JOIN_ACCEPTED => Self::JoinAccepted(JoinAccepted {
                chain: read_chain(&mut reader)?,
                bundle: read_bundle(&mut reader)?,
                authorities: read_authorities(&mut reader)?,
            }),
            JOIN_REFUSED => Self::JoinRefused(read_refused(&mut reader)?),
            RENEW_REQUEST => Self::RenewRequest { csr: read_csr(&mut reader)? },
            RENEW_ACCEPTED => {
                let chain = read_chain(&mut reader)?;
                Self::RenewAccepted(RenewAccepted { chain, bundle: read_bundle(&mut reader)? })
            }
            RENEW_REFUSED => Self::RenewRefused(read_refused(&mut reader)?),
            AGENT_REQUEST => Self::AgentRequest { id: reader.u64()?, body: read_body(&mut reader)? },
            AGENT_ANSWER => Self::AgentAnswer { id: reader.u64()?, body: read_body(&mut reader)? },
            RECOVER_REQUEST => Self::RecoverRequest(RecoverRequest {
                chain: read_chain(&mut reader)?,
                csr: read_csr(&mut reader)?,
                signature: reader.prefixed("signature", SIGNATURE_LEN_MAX)?.to_vec(),
            }),
            other => return Err(DecodeError::Invalid { field: "message type", value: other.into() }.into()),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// `text`, cut at a character's border.
pub(crate) fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    text
}

fn write_field(writer: &mut Writer<'_>, field: &'static str, bytes: &[u8], limit: usize) -> Result<(), MessageError> {
    if bytes.len() > limit {
        return Err(MessageError::TooLong { field, value: bytes.len(), limit });
    }
    writer.prefixed(bytes);
    Ok(())
}

fn write_count(writer: &mut Writer<'_>, field: &'static str, count: usize, limit: usize) -> Result<(), MessageError> {
    match u8::try_from(count) {
        Ok(byte) if count <= limit => writer.u8(byte),
        Ok(_) | Err(_) => return Err(MessageError::TooLong { field, value: count, limit }),
    };
    Ok(())
}

pub(crate) fn write_chain(writer: &mut Writer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), MessageError> {
    write_count(writer, "chain", chain.len(), MESSAGE_CHAIN_MAX)?;
    chain.iter().try_for_each(|certificate| write_field(writer, "certificate", certificate, CERTIFICATE_LEN_MAX))
}

fn write_bundle(writer: &mut Writer<'_>, bundle: &Bundle) -> Result<(), MessageError> {
    write_field(writer, "trust domain", bundle.trust_domain().as_str().as_bytes(), TRUST_DOMAIN_LEN_MAX)?;
    writer.u64(bundle.sequence());
    let authorities = bundle.authorities();
    write_count(writer, "bundle", authorities.len(), BUNDLE_AUTHORITIES_MAX)?;
    authorities
        .iter()
        .try_for_each(|certificate| write_field(writer, "certificate", certificate, CERTIFICATE_LEN_MAX))?;
    write_count(writer, "JWT keys", bundle.jwt_keys().len(), BUNDLE_JWT_KEYS_MAX)?;
    bundle.jwt_keys().iter().try_for_each(|(key_id, key)| {
        write_field(writer, "key id", key_id.as_str().as_bytes(), KEY_ID_LEN_MAX)?;
        write_field(writer, "JWT key", key.to_spki(), JWT_PUBLIC_KEY_LEN_MAX)
    })
}

fn write_refused(writer: &mut Writer<'_>, message_type: u8, refused: &Refused) -> Result<(), MessageError> {
    writer.u8(message_type);
    write_field(writer, "code", refused.code.as_bytes(), CODE_LEN_MAX)?;
    write_field(writer, "text", refused.text.as_bytes(), TEXT_LEN_MAX)
}

fn read_text<'a>(reader: &mut Reader<'a>, field: &'static str, limit: usize) -> Result<&'a str, MessageError> {
    str::from_utf8(reader.prefixed(field, limit)?).map_err(|_| MessageError::NotText(field))
}

fn read_csr(reader: &mut Reader<'_>) -> Result<Vec<u8>, MessageError> {
    Ok(reader.prefixed("signing request", CSR_LEN_MAX)?.to_vec())
}

fn read_body(reader: &mut Reader<'_>) -> Result<Vec<u8>, MessageError> {
    Ok(reader.prefixed("body", AGENT_BODY_MAX)?.to_vec())
}

fn read_count(reader: &mut Reader<'_>, field: &'static str, limit: usize) -> Result<usize, DecodeError> {
    let value = usize::from(reader.u8()?);
    if value > limit { Err(DecodeError::TooLong { field, value, limit }) } else { Ok(value) }
}

fn read_certificates(reader: &mut Reader<'_>, count: usize) -> Result<Vec<CertificateDer<'static>>, DecodeError> {
    let certificate = |_| {
        let der = reader.prefixed("certificate", CERTIFICATE_LEN_MAX)?;
        Ok(CertificateDer::from(der.to_vec()))
    };
    (0..count).map(certificate).collect()
}

pub(crate) fn read_chain(reader: &mut Reader<'_>) -> Result<Vec<CertificateDer<'static>>, DecodeError> {
    let count = read_count(reader, "chain", MESSAGE_CHAIN_MAX)?;
    if count == 0 {
        return Err(DecodeError::Invalid { field: "chain", value: 0 });
    }
    read_certificates(reader, count)
}

fn read_bundle(reader: &mut Reader<'_>) -> Result<Bundle, MessageError> {
    let trust_domain = read_text(reader, "trust domain", TRUST_DOMAIN_LEN_MAX)?.parse()?;
    let sequence = reader.u64()?;
    let count = read_count(reader, "bundle", BUNDLE_AUTHORITIES_MAX)?;
    let bundle = Bundle::new(trust_domain, read_certificates(reader, count)?, sequence)?;
    let count = read_count(reader, "JWT keys", BUNDLE_JWT_KEYS_MAX)?;
    let keys: Vec<_> = (0..count).map(|_| read_jwt_key(reader)).collect::<Result<_, _>>()?;
    Ok(bundle.with_jwt_keys(keys)?)
}

fn read_jwt_key(reader: &mut Reader<'_>) -> Result<(KeyId, JwtPublicKey), MessageError> {
    let key_id = read_text(reader, "key id", KEY_ID_LEN_MAX)?.parse()?;
    Ok((key_id, JwtPublicKey::from_spki(reader.prefixed("JWT key", JWT_PUBLIC_KEY_LEN_MAX)?)?))
}

fn read_authorities(reader: &mut Reader<'_>) -> Result<Vec<SpiffeId>, MessageError> {
    let count = read_count(reader, "authorities", MESSAGE_AUTHORITIES_MAX)?;
    (0..count).map(|_| Ok(read_text(reader, "authority", SPIFFE_ID_LEN_MAX)?.parse()?)).collect()
}

fn read_refused(reader: &mut Reader<'_>) -> Result<Refused, MessageError> {
    let code = read_text(reader, "code", CODE_LEN_MAX)?.to_owned();
    Ok(Refused { code, text: read_text(reader, "text", TEXT_LEN_MAX)?.to_owned() })
}
