//! SPIFFE identity: who is it, and how does a node come to be somebody?
//!
//! # The life of an identity
//!
//! A mesh begins with one node that runs the embedded [`Authority`]: a self-signed CA for one trust domain, a table of
//! single-use join tokens and a list of the names it has given away. The CA's certificate, alone so far, is the [`Bundle`] of
//! the trust domain: what members check each other against.
//!
//! The operator asks for a [`JoinToken`] and carries it, by hand, to the next machine. The token holds a secret, which shows
//! the authority who may join, and the digest of the bundle, which shows the joiner that it talks to the right authority
//! ([`JoinToken::verify_authority`]): neither side trusts the other blindly, and nobody in between learns anything. The joiner
//! makes a key, proves possession of it in a signing request ([`signing_request`]) and says which name it would like
//! ([`message::JoinRequest`]). The authority maps token to name, takes nothing but the key from the request and answers with
//! an X.509-SVID ([`Authority::redeem`]).
//!
//! From then on the node has an [`Svid`]: a short-lived chain and its key. [`Rotation`] asks for the next one at about half of
//! its life, keeps the valid one whatever goes wrong, and adopts a new one only after checking it as a stranger would, with
//! [`verify_chain`]: leaf rules first, then time, then the trust domain that the leaf names, then the path to an authority of
//! *that* domain. The SVID's key also signs what routing floods, under a label of its own ([`AnchorProof`]).
//!
//! # What this crate never does
//!
//! It reads no clock, no file and no socket: `now` is an argument, stored state goes out as bytes. It decides who somebody is
//! and never what somebody may do. Randomness comes in as [`Entropy`](x0t_model::Entropy), with two exceptions inside
//! aws-lc-rs: [`AwsLcKeys`] generates keys, and an ECDSA signature draws a nonce. With [`SeededKeys`] (Ed25519, whose
//! signatures are deterministic) the whole issuance is repeated byte for byte by repeating the seed.

mod agent;
mod agent_message;
mod anchor;
mod authority;
mod authority_rules;
mod bundle;
pub mod ca_life;
mod ca_signer;
mod csr;
mod distrusted;
mod entry;
pub mod federation;
mod issuance;
mod jwt;
mod jwt_cache;
mod keys;
mod leaf_rules;
pub mod message;
mod pem;
mod public_key;
pub mod region_failover;
pub mod revocation;
mod rotation;
mod seal;
mod secret;
mod selector;
mod strict_json;
mod svid;
mod token;
mod upstream;
pub mod validation;
mod verify;

pub use agent::{AGENT_ENTRIES_MAX, Agent, AgentEvent, AgentStats, HeldSvid};
pub use agent_message::{
    AGENT_BODY_MAX, AgentAnswer, AgentMessageError, AgentRequest, Base64, BundlePart, ISSUE_BATCH_MAX, PartialBundle,
    SvidOutcome, SvidRequest, SyncAnswer, SyncRequest,
};
pub use anchor::{AnchorError, AnchorProof, sign_anchor, verify_anchor};
pub use authority::{
    Authority, AuthorityAnswer, AuthorityCommand, AuthorityConfig, AuthorityRequest, AuthorityServer, AuthorityStats,
    BundleView, CaChangeError, CommandRefusal, ENTRIES_BYTES_MAX, ENTRIES_MAX, EntryDelta, EntryRefusal,
    FederationAnswer, FederationRequest, ISSUED_NAMES_MAX, IssueRefusal, Issued, JOIN_TOKENS_MAX, JoinRefusal, Known,
    NODE_NAME_LEN_MAX, NotStorable, OperatorAnswer, OperatorRequest, RECOVERY_MAX, RecoverRefusal, RenewRefusal,
    SYNC_WAIT, ServerOutput, StoredAuthorityError, Ticket, TokenHash, TokenId, TokenRefusal, TokenState, TokenView,
};
pub use bundle::{
    BUNDLE_AUTHORITIES_MAX, BUNDLE_JWT_KEYS_MAX, BUNDLE_MAP_MAX, Bundle, BundleError, BundleMap, BundleUpdate,
};
pub use ca_signer::CaSigner;
pub use csr::{CSR_LEN_MAX, CsrError, RequestedKey, signing_request};
pub use distrusted::{Distrust, Distrusted};
pub use entry::{
    DNS_NAMES_MAX, Entry, EntryError, EntryId, EntrySpec, FEDERATES_WITH_MAX, HINT_LEN_MAX, Parent, TTL_MAX, TTL_MIN,
};
pub use issuance::IssueError;
pub use jwt::{
    AUDIENCE_LEN_MAX, AUDIENCES_MAX, Audience, AudienceError, AudienceSet, JWT_PUBLIC_KEY_LEN_MAX,
    JWT_SVID_TTL_DEFAULT, JWT_SVID_TTL_MAX, JwtAlgorithm, JwtError, JwtKeyError, JwtPublicKey, JwtRequest,
    JwtSigningKey, JwtSvid, JwtValidationCache, JwtValidator, KEY_ID_LEN_MAX, KEY_TRIES_MAX, KeyId, KeyIdError,
    LEEWAY_MAX, LeewayTooLong, MintError, TOKEN_LEN_MAX, VerifiedJwt,
};
pub use jwt_cache::{
    Answer, Fetch, FetchFailure, FetchId, JwtCache, JwtCacheConfig, JwtCacheError, JwtCacheKey, JwtCacheStats, Lookup,
    WaiterId,
};
pub use keys::{AwsLcKeys, KeyError, KeySource, PrivateKey, SeededKeys};
pub use leaf_rules::Leaf;
pub use rotation::{
    AdoptError, Failure, Rotation, RotationConfig, RotationEvent, RotationStatus, RotationView, SvidSource, overdue_at,
};
pub use seal::{SealKey, SealKeyId, SealedKey, UnsealError};
pub use secret::Secret;
pub use selector::{ENTRY_SELECTORS_MAX, PROCESS_SELECTORS_MAX, SELECTOR_LEN_MAX, Selector, SelectorError, Selectors};
pub use strict_json::StrictJsonError;
pub use svid::{Svid, SvidError};
pub use token::{JoinSecret, JoinToken, ParseTokenError, TOKEN_ADDRESSES_MAX};
pub use upstream::{UpstreamError, UpstreamFiles, import_upstream};
pub use verify::{CERTIFICATE_LEN_MAX, CHAIN_CERTIFICATES_MAX, VerifyError, verify_chain, verify_signature};
