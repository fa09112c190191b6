//! The JWT-SVID profile.

use serde_json::{Map, Number, Value};
use x0t_identity::{Audience, AudienceSet, Bundle, BundleMap, JwtSvid};
use x0t_model::{SpiffeId, UnixTime};

use super::context::{ContextError, read_trust_domain};
use super::{ClientError, WorkloadClient};
use crate::proto::spiffe::{
    JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};

/// How deep claims may be nested: as deep as a token's own.
const CLAIMS_DEPTH_MAX: usize = 16;

/// A JWT-SVID that the workload was given.
#[derive(Clone, Debug)]
pub struct GivenJwt {
    /// The token.
    pub svid: JwtSvid,
    /// What the operator wants it used for; may be empty.
    pub hint: String,
}

/// What a Workload API says of a token that it found valid.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJwt {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Its claims.
    pub claims: Map<String, Value>,
}

impl WorkloadClient {
    /// JWT-SVIDs for `audience`: of the identity `id`, or one of each. Their shape, their owner and their audience are checked;
    /// whoever they are shown to checks the signature.
    ///
    /// # Errors
    /// What the server or its answer lacks.
    pub async fn fetch_jwt(
        &self,
        audience: &AudienceSet,
        id: Option<&SpiffeId>,
        now: UnixTime,
    ) -> Result<Vec<GivenJwt>, ClientError> {
        let request = JwtsvidRequest {
            audience: audience.iter().map(ToString::to_string).collect(),
            spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
        };
        let answer: JwtsvidResponse = self.call("FetchJWTSVID", request).await?;
        if answer.svids.is_empty() {
            return Err(ContextError::NoSvid.into());
        }
        let mut given = Vec::new();
        for token in answer.svids {
            let said: SpiffeId = token.spiffe_id.parse().map_err(ContextError::SpiffeId)?;
            let svid = JwtSvid::read(&token.svid, now).map_err(ContextError::Token)?;
            let is_for_all = audience.iter().all(|audience| svid.audience().contains(audience.as_str()));
            if *svid.spiffe_id() != said || id.is_some_and(|id| *id != said) || !is_for_all {
                return Err(ContextError::OtherToken(said).into());
            }
            given.push(GivenJwt { svid, hint: token.hint });
        }
        Ok(given)
    }

    /// Asks the server whether `token` is valid for `audience`.
    ///
    /// # Errors
    /// `Status` with `InvalidArgument` if it is not.
    pub async fn validate_jwt(&self, audience: &Audience, token: &str) -> Result<ValidatedJwt, ClientError> {
        let request = ValidateJwtsvidRequest { audience: audience.to_string(), svid: token.to_owned() };
        let answer: ValidateJwtsvidResponse = self.call("ValidateJWTSVID", request).await?;
        let spiffe_id = answer.spiffe_id.parse().map_err(ContextError::SpiffeId)?;
        let fields = answer.claims.ok_or(ContextError::Missing("claims"))?.fields;
        let claims = fields.into_iter().map(|(name, value)| Some((name, json(value, CLAIMS_DEPTH_MAX)?)));
        let claims = claims.collect::<Option<_>>().ok_or(ContextError::Missing("claims that are JSON"))?;
        Ok(ValidatedJwt { spiffe_id, claims })
    }
}

/// The keys of each trust domain. A document that is malformed spoils the whole message.
pub(super) fn read_bundles(message: &JwtBundlesResponse) -> Result<BundleMap, ContextError> {
    let mut bundles = BundleMap::new();
    for (id, jwks) in &message.bundles {
        let trust_domain = read_trust_domain(id)?;
        let keys = Bundle::jwt_keys_from_jwks(jwks);
        let bundle = keys.and_then(|keys| Bundle::new(trust_domain.clone(), Vec::new(), 0)?.with_jwt_keys(keys));
        let known = bundle.and_then(|bundle| bundles.replace(bundle));
        known.map_err(|source| ContextError::Bundle { trust_domain, source })?;
    }
    if bundles.is_empty() { Err(ContextError::NoBundle) } else { Ok(bundles) }
}

/// `None` for what is no JSON: a value of no kind, a number that is none, or nesting without end.
fn json(value: prost_types::Value, depth: usize) -> Option<Value> {
    use prost_types::value::Kind;
    let depth = depth.checked_sub(1)?;
    Some(match value.kind? {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(flag) => Value::Bool(flag),
        Kind::NumberValue(number) => Value::Number(integer(number).or_else(|| Number::from_f64(number))?),
        Kind::StringValue(text) => Value::String(text),
        Kind::ListValue(list) => list.values.into_iter().map(|value| json(value, depth)).collect::<Option<_>>()?,
        Kind::StructValue(object) => {
            let fields = object.fields.into_iter().map(|(name, value)| Some((name, json(value, depth)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
    })
}

/// Times are written as integers, though the wire knows only floating point.
fn integer(number: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "exact in this range")]
    (number.fract() == 0.0 && number.abs() < EXACT).then(|| Number::from(number as i64))
}
