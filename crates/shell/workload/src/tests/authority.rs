//! A source of identities with an authority of its own, in memory: for tests, and for the example that other people's clients are
//! tried against.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use x0t_identity::{
    AudienceSet, AwsLcKeys, Bundle, BundleMap, Entry, EntryId, EntrySpec, JWT_SVID_TTL_DEFAULT, JwtRequest,
    JwtSigningKey, JwtSvid, KeySource, Parent, PrivateKey, Selectors, Svid,
};
use x0t_model::{TrustDomain, UnixTime};
use x0t_workload::identities::{Crls, Held, Identities};
use x0t_workload::source::{IdentitySource, SourceError};

/// The authority of one trust domain.
pub struct TestAuthority {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub jwt_key: JwtSigningKey,
}

impl TestAuthority {
    pub fn new(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, trust_domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&trust_domain.id_text())];
        params.not_after = rcgen::date_time_ymd(2200, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateDer::from(params.self_signed(&key).unwrap().der().to_vec());
        let jwt_key = AwsLcKeys.generate_p256().unwrap();
        let jwt_key = JwtSigningKey::new(jwt_key, UnixTime::from_secs(7_000_000_000)).unwrap();
        Self { trust_domain, certificate, issuer: Issuer::new(params, key), jwt_key }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn bundle(&self) -> Bundle {
        let keys = [(self.jwt_key.key_id().clone(), self.jwt_key.public_key().clone())];
        let bundle = Bundle::new(self.trust_domain.clone(), vec![self.certificate.clone()], 1).unwrap();
        bundle.with_jwt_keys(keys).unwrap()
    }

    /// An SVID that is valid for centuries: no test depends on the clock.
    pub fn issue(&self, id: &str) -> Svid {
        let key = AwsLcKeys.generate().unwrap();
        Svid::new(vec![self.certify(id, &key)], key).unwrap()
    }

    pub fn certify(&self, id: &str, key: &PrivateKey) -> CertificateDer<'static> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.pkcs8())).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![uri(id)];
        params.not_after = rcgen::date_time_ymd(2200, 1, 1);
        CertificateDer::from(params.signed_by(&pair, &self.issuer).unwrap().der().to_vec())
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A source that does what it is told.
pub struct TestSource {
    pub authority: TestAuthority,
    state: Mutex<State>,
    snapshots: watch::Sender<Arc<Identities>>,
}

#[derive(Default)]
struct State {
    generation: u64,
    next_entry: u64,
    held: Vec<Held>,
    bundles: BundleMap,
    crls: Crls,
    mint_failure: Option<SourceError>,
}

impl TestSource {
    /// Knows nothing until something is told to it.
    pub fn new(trust_domain: &str) -> Arc<Self> {
        let authority = TestAuthority::new(trust_domain);
        let mut state = State::default();
        state.bundles.replace(authority.bundle()).unwrap();
        let snapshots = watch::Sender::new(Arc::new(Identities::unknown()));
        Arc::new(Self { authority, state: Mutex::new(state), snapshots })
    }

    /// Adds an entry for `/path` and issues its SVID.
    pub fn add(&self, path: &str, selectors: &[&str]) -> EntryId {
        self.add_with(path, selectors, |_| {})
    }

    pub fn add_with(&self, path: &str, selectors: &[&str], change: impl FnOnce(&mut EntrySpec)) -> EntryId {
        let spiffe_id = format!("{}{path}", self.authority.trust_domain().id_text());
        let svid = self.authority.issue(&spiffe_id);
        self.change(|state| {
            state.next_entry += 1;
            let mut spec = EntrySpec::new(
                spiffe_id.parse().unwrap(),
                Parent::AnyNode,
                Selectors::new(selectors.iter().map(|text| text.parse().unwrap())).unwrap(),
            );
            change(&mut spec);
            let id: EntryId = format!("entry-{:06}", state.next_entry).parse().unwrap();
            let entry = Entry {
                id: id.clone(),
                spec,
                created_at: UnixTime::from_secs(state.next_entry),
                revision: state.next_entry,
            };
            state.held.push(Held { entry: Arc::new(entry), svid: Some(svid) });
            id
        })
    }

    pub fn remove(&self, id: &EntryId) {
        self.change(|state| state.held.retain(|held| held.entry.id != *id));
    }

    /// Issues every SVID anew.
    pub fn rotate(&self) {
        self.change(|state| {
            for held in &mut state.held {
                held.svid = Some(self.authority.issue(&held.entry.spec.spiffe_id.to_string()));
            }
        });
    }

    /// Takes every SVID away, as before the first issuance.
    pub fn unissue(&self) {
        self.change(|state| state.held.iter_mut().for_each(|held| held.svid = None));
    }

    pub fn set_bundle(&self, bundle: Bundle) {
        self.change(|state| state.bundles.replace(bundle).unwrap());
    }

    pub fn remove_bundle(&self, trust_domain: &TrustDomain) {
        self.change(|state| assert!(state.bundles.remove(trust_domain)));
    }

    pub fn set_crl(&self, trust_domain: &TrustDomain, crl: &[u8]) {
        self.change(|state| state.crls.insert(trust_domain.clone(), vec![crl.into()]));
    }

    /// From now on no token is minted.
    pub fn fail_minting(&self, failure: SourceError) {
        self.state.lock().unwrap().mint_failure = Some(failure);
    }

    /// A new snapshot with nothing changed in it.
    pub fn touch(&self) {
        self.change(|_| {});
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let changed = change(&mut state);
        state.generation += 1;
        let identities =
            Identities::new(state.generation, state.held.clone(), state.bundles.clone(), state.crls.clone());
        self.snapshots.send_replace(Arc::new(identities));
        changed
    }
}

impl IdentitySource for TestSource {
    fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.snapshots.subscribe()
    }

    fn mint_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a AudienceSet,
    ) -> BoxFuture<'a, Result<Arc<JwtSvid>, SourceError>> {
        let failure = self.state.lock().unwrap().mint_failure.clone();
        let ttl = entry.spec.jwt_ttl.unwrap_or(JWT_SVID_TTL_DEFAULT);
        let request = JwtRequest { spiffe_id: &entry.spec.spiffe_id, audience, ttl, jti: None };
        let minted = match failure {
            Some(failure) => Err(failure),
            None => Ok(Arc::new(self.authority.jwt_key.mint(&request, self.now()).unwrap())),
        };
        Box::pin(std::future::ready(minted))
    }

    fn now(&self) -> UnixTime {
        UnixTime::from_secs(u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec).unwrap())
    }
}
