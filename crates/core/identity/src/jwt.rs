//! JWT-SVIDs: identity as a bearer token, for where TLS ends before the workload (JWT-SVID specification).

mod algorithm;
mod public_key;

pub use algorithm::JwtAlgorithm;
pub(crate) use public_key::{Curve, JwtKeyParts};
pub use public_key::{JWT_PUBLIC_KEY_LEN_MAX, JwtKeyError, JwtPublicKey, KEY_ID_LEN_MAX, KeyId, KeyIdError};
