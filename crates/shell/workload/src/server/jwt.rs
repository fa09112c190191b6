//! The JWT-SVID profile (checklist WS-7, WS-8).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request as Message, Response as Answer, Status};
use tonic_prost::ProstCodec;
use x0t_identity::{AudienceSet, JwtValidator};
use x0t_model::SpiffeId;

use super::dispatch::REQUEST_LEN_MAX;
use super::{Caller, Shared};
use crate::proto::spiffe::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use crate::source::SourceError;

/// Answers `FetchJWTSVID`.
pub(crate) async fn fetch(shared: Arc<Shared>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    let service = tower::service_fn(move |message: Message<JwtsvidRequest>| {
        let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
        async move {
            let answer = fetch_for(&shared, &caller, message.into_inner()).await;
            answer.map(Answer::new).inspect_err(|_| shared.limits.count(|stats| &stats.calls_refused))
        }
    });
    Grpc::new(ProstCodec::default()).max_decoding_message_size(REQUEST_LEN_MAX).unary(service, request).await
}

async fn fetch_for(shared: &Shared, caller: &Caller, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let audience = AudienceSet::parse(request.audience.iter().map(String::as_str))
        .map_err(|error| Status::invalid_argument(format!("audience: {error}")))?;
    let wanted = match request.spiffe_id.as_str() {
        "" => None,
        text => Some(text.parse::<SpiffeId>().map_err(|error| Status::invalid_argument(error.to_string()))?),
    };
    let newest = shared.source.identities().borrow().clone();
    let entitlement = shared.entitlement(caller, &newest, true).await?;
    let mut seen = BTreeSet::new();
    let entries: Vec<_> = entitlement
        .held()
        .map(|held| &*held.entry)
        .filter(|entry| wanted.as_ref().is_none_or(|wanted| *wanted == entry.spec.spiffe_id))
        .filter(|entry| seen.insert(&entry.spec.spiffe_id))
        .collect();
    if entries.is_empty() {
        return Err(Status::permission_denied("this process is not entitled to the identity"));
    }
    let mut hints = BTreeSet::new();
    let minted = try_join_all(entries.iter().map(|entry| shared.source.mint_jwt(entry, &audience))).await?;
    let svids = entries.iter().zip(minted).map(|(entry, minted)| {
        let hint = entry.spec.hint.as_deref().filter(|hint| hints.insert(*hint));
        Jwtsvid {
            spiffe_id: minted.spiffe_id().to_string(),
            svid: minted.token().to_owned(),
            hint: hint.unwrap_or_default().to_owned(),
        }
    });
    Ok(JwtsvidResponse { svids: svids.collect() })
}

impl From<SourceError> for Status {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Unavailable(text) => Self::unavailable(text),
            SourceError::Denied(text) => Self::permission_denied(text),
        }
    }
}

/// Answers `ValidateJWTSVID`.
pub(crate) async fn validate(shared: Arc<Shared>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    let service = tower::service_fn(move |message: Message<ValidateJwtsvidRequest>| {
        let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
        async move {
            let answer = validate_for(&shared, &caller, message.into_inner()).await;
            answer.map(Answer::new).inspect_err(|_| shared.limits.count(|stats| &stats.calls_refused))
        }
    });
    Grpc::new(ProstCodec::default()).max_decoding_message_size(REQUEST_LEN_MAX).unary(service, request).await
}

async fn validate_for(
    shared: &Shared,
    caller: &Caller,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let audience = AudienceSet::parse([request.audience.as_str()])
        .map_err(|error| Status::invalid_argument(format!("audience: {error}")))?;
    if request.svid.is_empty() {
        return Err(Status::invalid_argument("svid must be specified"));
    }
    let newest = shared.source.identities().borrow().clone();
    let entitlement = shared.entitlement(caller, &newest, true).await?;
    let now = shared.source.now();
    let verified = JwtValidator::default()
        .validate(&request.svid, &audience, newest.bundles(), now)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let spiffe_id = verified.spiffe_id();
    // The node knows more trust domains than this caller has to do with.
    if !entitlement.bundles().any(|bundle| bundle.trust_domain() == spiffe_id.trust_domain()) {
        return Err(Status::invalid_argument("the token is of a trust domain whose keys this process does not have"));
    }
    let own =
        entitlement.held().next().map_or(spiffe_id.trust_domain(), |held| held.entry.spec.spiffe_id.trust_domain());
    let claims = verified.claims_for(own, &shared.config.foreign_claims);
    let fields = claims.into_iter().map(|(name, value)| (name, protobuf_value(value))).collect();
    Ok(ValidateJwtsvidResponse { spiffe_id: spiffe_id.to_string(), claims: Some(prost_types::Struct { fields }) })
}

/// The protobuf form of a JSON value. The depth is that of the token's claims, which the validator bounds.
fn protobuf_value(value: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(protobuf_value).collect() })
        }
        Value::Object(object) => Kind::StructValue(prost_types::Struct {
            fields: object.into_iter().map(|(name, value)| (name, protobuf_value(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
