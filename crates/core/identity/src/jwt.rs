//! JWT-SVIDs: identity as a bearer token, for where TLS ends before the workload (JWT-SVID specification).
//!
//! The parser is our own and small, over aws-lc-rs: what a JWT-SVID may be is much less than what JOSE allows, and most failures of
//! JOSE lie in the rest. A header that names its own key, an algorithm that nobody signs with and a second spelling of the same
//! token are not rejected by a rule; there is no code that would understand them.

mod algorithm;
mod audience;
mod error;
mod public_key;
mod signing;
mod svid;
mod token;
mod validator;

pub use algorithm::JwtAlgorithm;
pub use audience::{AUDIENCE_LEN_MAX, AUDIENCES_MAX, Audience, AudienceError, AudienceSet};
pub use error::JwtError;
pub(crate) use public_key::{Curve, JwtKeyParts};
pub use public_key::{JWT_PUBLIC_KEY_LEN_MAX, JwtKeyError, JwtPublicKey, KEY_ID_LEN_MAX, KeyId, KeyIdError};
pub use signing::{JWT_SVID_TTL_DEFAULT, JWT_SVID_TTL_MAX, JwtRequest, JwtSigningKey, MintError};
pub use svid::JwtSvid;
pub use token::TOKEN_LEN_MAX;
pub use validator::{JwtValidationCache, JwtValidator, KEY_TRIES_MAX, LEEWAY_MAX, LeewayTooLong, VerifiedJwt};
