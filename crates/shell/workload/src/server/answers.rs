//! What callers get from one snapshot: worked out once for all callers with equal selectors, encoded once for all with equal
//! entitlements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes};
use prost::Message;
use rustls_pki_types::CertificateDer;
use tonic::Status;
use x0t_identity::{Bundle, Selectors, Svid};
use x0t_model::{TrustDomain, UnixTime};
use zeroize::{Zeroize, Zeroizing};

use crate::identities::{Held, Identities};
use crate::proto::spiffe::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};

/// Callers that are remembered; for more, the same work is done again.
const REMEMBERED_MAX: usize = 16_384;

/// What a stream sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `FetchX509SVID`.
    X509Svids,
    /// `FetchX509Bundles`.
    X509Bundles,
    /// `FetchJWTBundles`.
    JwtBundles,
}

/// The answers that follow from one snapshot.
pub(crate) struct Answers {
    identities: Arc<Identities>,
    of_callers: Mutex<BTreeMap<Selectors, Arc<Entitlement>>>,
    of_entries: Mutex<BTreeMap<Vec<usize>, Arc<Entitlement>>>,
}

/// Why there is no answer (checklist WS-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The source has not said anything yet.
    NothingKnown,
    /// No entry fits.
    NoIdentity,
    /// Entries fit, but none of their SVIDs is issued and valid.
    NotIssued,
    /// There is nothing to check peers of the own trust domain against.
    NoBundle,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NothingKnown => Self::unavailable("no identities are known yet"),
            Refusal::NoIdentity => Self::permission_denied("no identity issued"),
            Refusal::NotIssued => Self::unavailable("the identity is not issued yet"),
            Refusal::NoBundle => Self::unavailable("the bundle of the trust domain is not known yet"),
        }
    }
}

impl Answers {
    pub(crate) fn new(identities: Arc<Identities>) -> Self {
        Self { identities, of_callers: Mutex::default(), of_entries: Mutex::default() }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.identities.generation()
    }

    pub(crate) const fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// What a process with `selectors` is entitled to.
    pub(crate) fn entitlement(&self, selectors: &Selectors, now: UnixTime) -> Result<Arc<Entitlement>, Refusal> {
        if self.generation() == 0 {
            return Err(Refusal::NothingKnown);
        }
        let mut of_callers = self.of_callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = of_callers.get(selectors)
            && now < known.valid_until
        {
            return Ok(Arc::clone(known));
        }
        let entitlement = self.work_out(selectors, now)?;
        if of_callers.len() < REMEMBERED_MAX {
            of_callers.insert(selectors.clone(), Arc::clone(&entitlement));
        }
        Ok(entitlement)
    }

    fn work_out(&self, selectors: &Selectors, now: UnixTime) -> Result<Arc<Entitlement>, Refusal> {
        let entries: Vec<usize> = self.identities.entitled_places(selectors, now).into_iter().collect();
        if entries.is_empty() {
            return Err(Refusal::NoIdentity);
        }
        let mut of_entries = self.of_entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = of_entries.get(&entries)
            && now < known.valid_until
        {
            return Ok(Arc::clone(known));
        }
        let entitlement = Arc::new(Entitlement::new(Arc::clone(&self.identities), entries.clone(), now));
        if of_entries.len() < REMEMBERED_MAX {
            of_entries.insert(entries, Arc::clone(&entitlement));
        }
        Ok(entitlement)
    }
}

type Encoded = Result<Bytes, Refusal>;

/// One set of entries, and the messages that follow from it.
pub(crate) struct Entitlement {
    identities: Arc<Identities>,
    entries: Vec<usize>,
    now: UnixTime,
    /// When an entry or an SVID ends, the answer is another.
    valid_until: UnixTime,
    messages: [OnceLock<Encoded>; 3],
}

impl Entitlement {
    fn new(identities: Arc<Identities>, entries: Vec<usize>, now: UnixTime) -> Self {
        let second = std::time::Duration::from_secs(1);
        let ends = entries.iter().filter_map(|index| identities.held().get(*index)).flat_map(|held| {
            let svid = held.svid.as_ref().map(|svid| svid.not_after() + second);
            [held.entry.spec.expires_at, svid].into_iter().flatten()
        });
        let valid_until = ends.filter(|end| *end > now).min().unwrap_or(UnixTime::from_secs(u64::MAX));
        Self { identities, entries, now, valid_until, messages: Default::default() }
    }

    /// The entries, in order: the default identity first.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Held> {
        self.entries.iter().filter_map(|index| self.identities.held().get(*index))
    }

    /// The X.509-SVIDs that can be handed out, with their hints. Of two entries with one hint the first keeps it (WS-5).
    pub(crate) fn svids(&self) -> impl Iterator<Item = (&Svid, &str)> {
        let mut hints = BTreeSet::new();
        let valid = self.held().filter_map(|held| Some((held, held.svid.as_ref()?)));
        valid.filter(|(_, svid)| self.now <= svid.not_after()).map(move |(held, svid)| {
            let hint = held.entry.spec.hint.as_deref().filter(|hint| hints.insert(*hint));
            (svid, hint.unwrap_or_default())
        })
    }

    /// The own trust domain of each identity: one, unless a source mixes several.
    fn own(&self) -> BTreeSet<&TrustDomain> {
        self.held().map(|held| held.entry.spec.spiffe_id.trust_domain()).collect()
    }

    /// The foreign trust domains whose bundles are handed out: those that an entry federates with.
    fn foreign(&self) -> BTreeSet<&TrustDomain> {
        let own = self.own();
        let federated = self.held().flat_map(|held| &held.entry.spec.federates_with);
        federated.filter(|domain| !own.contains(domain)).collect()
    }

    /// The bundles of foreign trust domains that are known.
    pub(crate) fn foreign_bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.foreign().into_iter().filter_map(|domain| self.identities.bundles().get(domain))
    }

    /// All bundles that are handed out, own ones first.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        let own = self.own().into_iter().filter_map(|domain| self.identities.bundles().get(domain));
        own.chain(self.foreign_bundles())
    }

    /// The revocation lists of all these trust domains (WS-13).
    pub(crate) fn crls(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        let domains = self.own().into_iter().chain(self.foreign());
        domains.filter_map(|domain| self.identities.crls().get(domain)).flatten()
    }

    /// The bundle of the trust domain of `svid`; an empty one would trust nobody and may not be sent with an SVID (WS-5).
    pub(crate) fn bundle_of(&self, svid: &Svid) -> Result<&Arc<Bundle>, Refusal> {
        let bundle = self.identities.bundles().get(svid.spiffe_id().trust_domain());
        bundle.filter(|bundle| !bundle.authorities().is_empty()).ok_or(Refusal::NoBundle)
    }

    /// The message of `profile`, framed for gRPC. `encoded` is called if it had to be encoded.
    pub(crate) fn message(&self, profile: Profile, encoded: impl FnOnce()) -> Encoded {
        let message = &self.messages[profile as usize];
        message
            .get_or_init(|| {
                encoded();
                match profile {
                    Profile::X509Svids => self.x509_svids(),
                    Profile::X509Bundles => self.x509_bundles(),
                    Profile::JwtBundles => self.jwt_bundles(),
                }
            })
            .clone()
    }

    fn x509_svids(&self) -> Encoded {
        let mut svids = Vec::new();
        for (svid, hint) in self.svids() {
            svids.push(X509svid {
                spiffe_id: svid.spiffe_id().to_string(),
                x509_svid: concatenated(svid.chain()),
                x509_svid_key: svid.key_pkcs8().to_vec(),
                bundle: concatenated(self.bundle_of(svid)?.authorities()),
                hint: hint.to_owned(),
            });
        }
        if svids.is_empty() {
            return Err(Refusal::NotIssued);
        }
        let federated = self.foreign_bundles().filter(|bundle| !bundle.authorities().is_empty());
        let federated_bundles = federated.map(|bundle| x509_bundle(bundle)).collect();
        let mut message = X509svidResponse { svids, crl: self.crl_list(), federated_bundles };
        let framed = framed(&message);
        for svid in &mut message.svids {
            svid.x509_svid_key.zeroize();
        }
        Ok(framed)
    }

    fn x509_bundles(&self) -> Encoded {
        // A trust domain may have keys for tokens alone. An empty list of certificates is none that clients could read.
        let with_authorities = self.bundles().filter(|bundle| !bundle.authorities().is_empty());
        let bundles: BTreeMap<_, _> = with_authorities.map(|bundle| x509_bundle(bundle)).collect();
        if bundles.is_empty() {
            return Err(Refusal::NoBundle);
        }
        Ok(framed(&X509BundlesResponse { crl: self.crl_list(), bundles }))
    }

    fn jwt_bundles(&self) -> Encoded {
        let bundle = |bundle: &Arc<Bundle>| (bundle.trust_domain().id_text(), bundle.to_jwks());
        let bundles: BTreeMap<_, _> = self.bundles().map(bundle).collect();
        if bundles.is_empty() {
            return Err(Refusal::NoBundle);
        }
        Ok(framed(&JwtBundlesResponse { bundles }))
    }

    fn crl_list(&self) -> Vec<Vec<u8>> {
        self.crls().map(|crl| crl.to_vec()).collect()
    }
}

/// The key of a bundle on the wire is the SPIFFE ID of its trust domain, not its bare name (WS-6).
fn x509_bundle(bundle: &Bundle) -> (String, Vec<u8>) {
    (bundle.trust_domain().id_text(), concatenated(bundle.authorities()))
}

fn concatenated(certificates: &[CertificateDer<'static>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.as_ref()).copied().collect()
}

/// One gRPC message: not compressed, its length, its bytes. Wiped when the last copy is dropped, for it may hold keys.
fn framed(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    // Of the final size, so that no part of a key is left behind by growth.
    let mut bytes = Zeroizing::new(Vec::with_capacity(5 + len));
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    // A vector has room for everything.
    let _ = message.encode(&mut *bytes);
    Bytes::from_owner(Wiped(bytes))
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
