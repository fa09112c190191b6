//! Trust bundles of a SPIRE server, and where foreign ones come from.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x0t_model::{SpiffeId, TrustDomain, UnixTime};

use super::entries::{ItemError, ok};
use super::entry_form::EntryFormError;
use super::proto::bundle::v1::bundle_client::BundleClient;
use super::proto::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest, GetFederatedBundleRequest,
    ListFederatedBundlesRequest, batch_delete_federated_bundle_request::Mode,
};
use super::proto::trustdomain::v1::trust_domain_client::TrustDomainClient;
use super::proto::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use super::proto::types::federation_relationship::BundleEndpointProfile;
use super::proto::types::{self, HttpsWebProfile, HttpsspiffeProfile};
use super::{ANSWER_LEN_MAX, SpireError, SpireServer};

const PAGE: i32 = 100;

/// A JWT authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpireJwtKey {
    /// `kid` of the tokens it signs.
    pub key_id: String,
    /// The public key as SubjectPublicKeyInfo, in DER.
    pub public_key: Vec<u8>,
    /// The last second of its life; absent if it has no end.
    pub expires_at: Option<UnixTime>,
    /// Not to be trusted for long.
    pub tainted: bool,
}

/// A trust bundle as a SPIRE server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpireBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// X.509 authorities, and whether each is tainted.
    pub x509_authorities: Vec<(CertificateDer<'static>, bool)>,
    /// JWT authorities.
    pub jwt_authorities: Vec<SpireJwtKey>,
    /// How often to ask for it; absent if it does not say.
    pub refresh_hint: Option<Duration>,
    /// Grows with each change.
    pub sequence: u64,
}

/// What deleting a foreign bundle does to the entries that federate with its trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenInUse {
    /// The bundle stays.
    Refuse,
    /// They are deleted as well.
    DeleteEntries,
    /// They federate with it no longer.
    Dissociate,
}

/// How a bundle endpoint proves who it is (SPIFFE Federation, 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleProfile {
    /// By a certificate of the public Web PKI.
    HttpsWeb,
    /// By an X.509-SVID with this id.
    HttpsSpiffe(SpiffeId),
}

/// Where the bundle of a foreign trust domain comes from. Three things, none derived from another (checklist FE-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federation {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// The endpoint's URL.
    pub url: String,
    /// How the endpoint proves who it is.
    pub profile: BundleProfile,
}

impl SpireServer {
    /// The bundle of the server's own trust domain.
    pub async fn bundle(&self) -> Result<SpireBundle, SpireError> {
        let call = |channel| async move { bundles(channel).get_bundle(GetBundleRequest::default()).await };
        Ok(from_spire(self.call("Bundle.GetBundle", call).await?)?)
    }

    /// The bundle of a foreign trust domain; [`SpireError::NotFound`] if there is none.
    pub async fn federated_bundle(&self, trust_domain: &TrustDomain) -> Result<SpireBundle, SpireError> {
        let request = GetFederatedBundleRequest { trust_domain: trust_domain.to_string(), output_mask: None };
        let call = |channel| async move { bundles(channel).get_federated_bundle(request).await };
        Ok(from_spire(self.call("Bundle.GetFederatedBundle", call).await?)?)
    }

    /// The bundles of all foreign trust domains, page by page.
    pub async fn list_federated_bundles(&self) -> Result<Vec<SpireBundle>, SpireError> {
        const METHOD: &str = "Bundle.ListFederatedBundles";
        let page = |page_token: String| {
            let request = ListFederatedBundlesRequest { output_mask: None, page_size: PAGE, page_token };
            let call =
                self.call(METHOD, |channel| async move { bundles(channel).list_federated_bundles(request).await });
            async move { call.await.map(|answer| (answer.bundles, answer.next_page_token)) }
        };
        Ok(self.pages(METHOD, page).await?.into_iter().map(from_spire).collect::<Result<_, _>>()?)
    }

    /// Puts the bundle of a foreign trust domain in place of what was there. It replaces, it never merges (checklist BN-6).
    pub async fn set_federated_bundle(&self, bundle: &SpireBundle) -> Result<Result<(), ItemError>, SpireError> {
        const METHOD: &str = "Bundle.BatchSetFederatedBundle";
        let request = BatchSetFederatedBundleRequest { bundle: vec![to_spire(bundle)], output_mask: None };
        let call = |channel| async move { bundles(channel).batch_set_federated_bundle(request).await };
        let answer = self.call(METHOD, call).await?;
        one(METHOD, answer.results.into_iter().map(|result| result.status))
    }

    /// Deletes the bundle of a foreign trust domain.
    pub async fn delete_federated_bundle(
        &self,
        trust_domain: &TrustDomain,
        when_in_use: WhenInUse,
    ) -> Result<Result<(), ItemError>, SpireError> {
        const METHOD: &str = "Bundle.BatchDeleteFederatedBundle";
        let mode = match when_in_use {
            WhenInUse::Refuse => Mode::Restrict,
            WhenInUse::DeleteEntries => Mode::Delete,
            WhenInUse::Dissociate => Mode::Dissociate,
        };
        let request =
            BatchDeleteFederatedBundleRequest { trust_domains: vec![trust_domain.to_string()], mode: mode.into() };
        let call = |channel| async move { bundles(channel).batch_delete_federated_bundle(request).await };
        let answer = self.call(METHOD, call).await?;
        one(METHOD, answer.results.into_iter().map(|result| result.status))
    }

    /// Where foreign bundles come from, page by page.
    pub async fn list_federations(&self) -> Result<Vec<Federation>, SpireError> {
        const METHOD: &str = "TrustDomain.ListFederationRelationships";
        let page = |page_token: String| {
            let request = ListFederationRelationshipsRequest { output_mask: None, page_size: PAGE, page_token };
            let call = |channel| async move { domains(channel).list_federation_relationships(request).await };
            let call = self.call(METHOD, call);
            async move { call.await.map(|answer| (answer.federation_relationships, answer.next_page_token)) }
        };
        let all = self.pages(METHOD, page).await?;
        Ok(all.into_iter().map(from_relationship).collect::<Result<_, _>>()?)
    }

    /// Begins to federate with a trust domain. `bundle` is what its endpoint is checked against the first time, and has to be
    /// given where the endpoint proves itself by an SVID of that domain (checklist FE-3).
    pub async fn create_federation(
        &self,
        federation: &Federation,
        bundle: Option<&SpireBundle>,
    ) -> Result<Result<(), ItemError>, SpireError> {
        const METHOD: &str = "TrustDomain.BatchCreateFederationRelationship";
        let profile = match &federation.profile {
            BundleProfile::HttpsWeb => BundleEndpointProfile::HttpsWeb(HttpsWebProfile {}),
            BundleProfile::HttpsSpiffe(id) => {
                BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile { endpoint_spiffe_id: id.to_string() })
            }
        };
        let relationship = types::FederationRelationship {
            trust_domain: federation.trust_domain.to_string(),
            bundle_endpoint_url: federation.url.clone(),
            trust_domain_bundle: bundle.map(to_spire),
            bundle_endpoint_profile: Some(profile),
        };
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            output_mask: None,
        };
        let call = |channel| async move { domains(channel).batch_create_federation_relationship(request).await };
        let answer = self.call(METHOD, call).await?;
        one(METHOD, answer.results.into_iter().map(|result| result.status))
    }

    /// Ends the relationship. The bundle is deleted by [`Self::delete_federated_bundle`].
    pub async fn delete_federation(&self, trust_domain: &TrustDomain) -> Result<Result<(), ItemError>, SpireError> {
        const METHOD: &str = "TrustDomain.BatchDeleteFederationRelationship";
        let request = BatchDeleteFederationRelationshipRequest { trust_domains: vec![trust_domain.to_string()] };
        let call = |channel| async move { domains(channel).batch_delete_federation_relationship(request).await };
        let answer = self.call(METHOD, call).await?;
        one(METHOD, answer.results.into_iter().map(|result| result.status))
    }

    /// Has the server fetch the bundle of a foreign trust domain right away.
    pub async fn refresh_federation(&self, trust_domain: &TrustDomain) -> Result<(), SpireError> {
        let request = RefreshBundleRequest { trust_domain: trust_domain.to_string() };
        let call = |channel| async move { domains(channel).refresh_bundle(request).await };
        self.call("TrustDomain.RefreshBundle", call).await
    }
}

fn bundles(channel: tonic::transport::Channel) -> BundleClient<tonic::transport::Channel> {
    BundleClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX)
}

fn domains(channel: tonic::transport::Channel) -> TrustDomainClient<tonic::transport::Channel> {
    TrustDomainClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX)
}

fn one(
    method: &'static str,
    statuses: impl Iterator<Item = Option<types::Status>>,
) -> Result<Result<(), ItemError>, SpireError> {
    let statuses: Vec<_> = statuses.collect();
    match <[_; 1]>::try_from(statuses) {
        Ok([status]) => Ok(ok(status)),
        Err(_) => Err(SpireError::Protocol { method, what: "not one result per item" }),
    }
}

fn domain_of(name: &str) -> Result<TrustDomain, EntryFormError> {
    name.trim_start_matches("spiffe://").parse().map_err(EntryFormError::SpiffeId)
}

fn from_spire(bundle: types::Bundle) -> Result<SpireBundle, EntryFormError> {
    let jwt = |key: types::JwtKey| SpireJwtKey {
        key_id: key.key_id,
        public_key: key.public_key,
        expires_at: u64::try_from(key.expires_at).ok().filter(|at| *at > 0).map(UnixTime::from_secs),
        tainted: key.tainted,
    };
    Ok(SpireBundle {
        trust_domain: domain_of(&bundle.trust_domain)?,
        x509_authorities: bundle.x509_authorities.into_iter().map(|ca| (ca.asn1.into(), ca.tainted)).collect(),
        jwt_authorities: bundle.jwt_authorities.into_iter().map(jwt).collect(),
        refresh_hint: u64::try_from(bundle.refresh_hint).ok().filter(|hint| *hint > 0).map(Duration::from_secs),
        sequence: bundle.sequence_number,
    })
}

fn to_spire(bundle: &SpireBundle) -> types::Bundle {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let x509 = |(asn1, tainted): &(CertificateDer<'_>, bool)| types::X509Certificate {
        asn1: asn1.to_vec(),
        tainted: *tainted,
    };
    let jwt = |key: &SpireJwtKey| types::JwtKey {
        public_key: key.public_key.clone(),
        key_id: key.key_id.clone(),
        expires_at: key.expires_at.map_or(0, |at| seconds(at.as_secs())),
        tainted: key.tainted,
    };
    types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle.x509_authorities.iter().map(x509).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt).collect(),
        refresh_hint: bundle.refresh_hint.map_or(0, |hint| seconds(hint.as_secs())),
        sequence_number: bundle.sequence,
        wit_authorities: Vec::new(),
    }
}

fn from_relationship(relationship: types::FederationRelationship) -> Result<Federation, EntryFormError> {
    let profile = match relationship.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => BundleProfile::HttpsWeb,
        Some(BundleEndpointProfile::HttpsSpiffe(spiffe)) => {
            BundleProfile::HttpsSpiffe(spiffe.endpoint_spiffe_id.parse().map_err(EntryFormError::SpiffeId)?)
        }
        None => return Err(EntryFormError::Missing("profile of the bundle endpoint")),
    };
    Ok(Federation {
        trust_domain: domain_of(&relationship.trust_domain)?,
        url: relationship.bundle_endpoint_url,
        profile,
    })
}
