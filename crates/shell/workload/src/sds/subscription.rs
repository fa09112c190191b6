//! What one Envoy has asked for and been sent: the state-of-the-world variant of xDS, without IO.

use std::collections::BTreeSet;

use prost_types::Any;
use tonic::Status;

use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

/// What all resources of this service are.
pub(crate) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Names in one request.
const NAMES_MAX: usize = 256;
/// Bytes of a name: a SPIFFE ID fits.
const NAME_LEN_MAX: usize = 2048;

/// The state of one stream. Its default has asked for nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    /// `None` until the first request.
    names: Option<BTreeSet<String>>,
    /// Trust domains for which this stream was told whom to trust. If there is nobody left to trust, that must be said too.
    trusted: BTreeSet<String>,
    version: u64,
    nonce: u64,
    sent: Vec<Any>,
}

impl Subscription {
    /// Takes a request in: a first one, a change of what is wanted, an acknowledgement, a rejection. Says whether other names are
    /// wanted than before, in which case they are owed a response.
    pub(crate) fn handle_request(&mut self, request: &DiscoveryRequest) -> Result<bool, Status> {
        if !matches!(request.type_url.as_str(), "" | SECRET_TYPE) {
            return Err(Status::invalid_argument("this service knows no other resources than secrets"));
        }
        if request.resource_names.len() > NAMES_MAX
            || request.resource_names.iter().any(|name| name.len() > NAME_LEN_MAX)
        {
            return Err(Status::invalid_argument("too many resources, or too long a name"));
        }
        // Written before our last response was read: the answer to that one is still to come.
        if self.nonce > 0 && request.response_nonce != self.nonce.to_string() {
            return Ok(false);
        }
        if let Some(error) = &request.error_detail {
            // Sending the same again would change nothing. The client stays with what it has until something new comes.
            tracing::warn!(code = error.code, error = error.message, "an Envoy rejects the secrets it was sent");
        }
        let names = request.resource_names.iter().filter(|name| !name.is_empty()).cloned().collect();
        if self.names.is_none() && !request.version_info.is_empty() {
            // It comes back after its stream was cut, with what it was last told: perhaps to trust somebody who is gone meanwhile.
            let domains = request.resource_names.iter().filter_map(|name| name.strip_prefix("spiffe://"));
            self.trusted.extend(domains.filter(|rest| !rest.contains('/')).map(str::to_owned));
        }
        let is_new = self.names.as_ref() != Some(&names);
        self.names = Some(names);
        Ok(is_new)
    }

    /// What is wanted: no names means everything; `None` means that nothing was asked yet.
    pub(crate) const fn names(&self) -> Option<&BTreeSet<String>> {
        self.names.as_ref()
    }

    /// Whether this stream was once told whom to trust in `trust_domain`.
    pub(crate) fn was_trusted(&self, trust_domain: &str) -> bool {
        self.trusted.contains(trust_domain)
    }

    /// Those whom this stream was once told to trust.
    pub(crate) fn trusted(&self) -> impl Iterator<Item = &str> {
        self.trusted.iter().map(String::as_str)
    }

    /// A response with `resources`, if they are owed one (`is_asked`) or differ from what was sent.
    pub(crate) fn offer(&mut self, resources: Vec<Resource>, is_asked: bool) -> Option<DiscoveryResponse> {
        let is_same =
            self.sent.len() == resources.len() && self.sent.iter().zip(&resources).all(|(one, two)| *one == two.any);
        if resources.is_empty() || (is_same && !is_asked) {
            return None;
        }
        if !is_same {
            self.version += 1;
        }
        Some(self.answer(resources))
    }

    /// A response with `resources`.
    pub(crate) fn answer(&mut self, resources: Vec<Resource>) -> DiscoveryResponse {
        self.nonce += 1;
        self.trusted.extend(resources.iter().filter_map(|resource| resource.trusts.clone()));
        self.sent = resources.into_iter().map(|resource| resource.any).collect();
        DiscoveryResponse {
            version_info: self.version.max(1).to_string(),
            resources: self.sent.clone(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.nonce.to_string(),
        }
    }
}

/// A secret on its way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resource {
    /// As it is sent.
    pub(crate) any: Any,
    /// The trust domain, if it says whom to trust in one.
    pub(crate) trusts: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::google::rpc::Status as RpcStatus;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    fn secret(content: u8) -> Vec<Resource> {
        vec![Resource { any: Any { type_url: SECRET_TYPE.into(), value: vec![content] }, trusts: None }]
    }

    #[test]
    fn an_acknowledgement_is_not_answered_and_a_change_is_pushed_once() {
        let mut subscription = Subscription::default();
        assert!(subscription.handle_request(&request(&["default"], "")).unwrap());
        let first = subscription.offer(secret(1), true).unwrap();
        assert!(!subscription.handle_request(&request(&["default"], &first.nonce)).unwrap());
        assert_eq!(subscription.offer(secret(1), false), None);
        let second = subscription.offer(secret(2), false).unwrap();
        assert_ne!((&first.version_info, &first.nonce), (&second.version_info, &second.nonce));
        assert_eq!(subscription.offer(secret(2), false), None);
    }

    #[test]
    fn a_rejection_does_not_bring_the_same_again() {
        let mut subscription = Subscription::default();
        subscription.handle_request(&request(&["default"], "")).unwrap();
        let first = subscription.offer(secret(1), true).unwrap();
        let rejected = DiscoveryRequest {
            error_detail: Some(RpcStatus { code: 3, message: "no".into() }),
            ..request(&["default"], &first.nonce)
        };
        let is_asked = subscription.handle_request(&rejected).unwrap();
        assert_eq!(subscription.offer(secret(1), is_asked), None);
        assert!(subscription.offer(secret(2), false).is_some());
    }

    #[test]
    fn a_request_with_an_old_nonce_counts_for_nothing() {
        let mut subscription = Subscription::default();
        subscription.handle_request(&request(&["default"], "")).unwrap();
        subscription.offer(secret(1), true).unwrap();
        subscription.offer(secret(2), false).unwrap();
        assert!(!subscription.handle_request(&request(&["other"], "1")).unwrap());
        assert!(!subscription.handle_request(&request(&["other"], "")).unwrap());
        assert!(subscription.names().unwrap().contains("default"));
        assert!(subscription.handle_request(&request(&["other"], "2")).unwrap());
    }

    #[test]
    fn other_names_are_owed_a_response_even_if_nothing_changed() {
        let mut subscription = Subscription::default();
        subscription.handle_request(&request(&["a"], "")).unwrap();
        let first = subscription.offer(secret(1), true).unwrap();
        let is_asked = subscription.handle_request(&request(&["a", "b"], &first.nonce)).unwrap();
        let second = subscription.offer(secret(1), is_asked).unwrap();
        assert_eq!(first.version_info, second.version_info);
        assert_ne!(first.nonce, second.nonce);
    }

    #[test]
    fn l17_a_client_that_comes_back_may_still_trust_whom_an_earlier_stream_named() {
        let mut subscription = Subscription::default();
        let names = ["spiffe://other.test", "spiffe://mesh.test/web", "ALL"];
        let again = DiscoveryRequest { version_info: "7".into(), ..request(&names, "") };
        subscription.handle_request(&again).unwrap();
        assert_eq!(subscription.trusted().collect::<Vec<_>>(), ["other.test"]);
        let mut fresh = Subscription::default();
        fresh.handle_request(&request(&names, "")).unwrap();
        assert!(!fresh.was_trusted("other.test"), "a new one waits for what it has never had");
    }

    #[test]
    fn requests_out_of_bounds_are_refused() {
        let mut subscription = Subscription::default();
        let many = DiscoveryRequest { resource_names: vec!["x".into(); 257], ..DiscoveryRequest::default() };
        let long = DiscoveryRequest { resource_names: vec!["x".repeat(2049)], ..DiscoveryRequest::default() };
        let other =
            DiscoveryRequest { type_url: "type.googleapis.com/envoy.Cluster".into(), ..DiscoveryRequest::default() };
        for bad in [many, long, other] {
            assert_eq!(subscription.handle_request(&bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
