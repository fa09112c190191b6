//! Becoming a member: what `x0t join` does with a token, as a core.
//!
//! Every address of the token is knocked at; the first that completes a handshake is spoken to, and only that one, because the
//! token works once. The handshake is believed if the certificate chain contains an authority whose bundle has the digest that the
//! token carries, and the leaf is the very node that the token names: a relay in between can neither read nor answer.
//!
//! A node whose SVID has ended asks in the same way ([`JoinClient::recover`]): it knows the authority by its bundle and proves with its old
//! key who it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use x0t_identity::message::{JoinAccepted, JoinRequest, Message, RecoverRequest};
use x0t_identity::{Bundle, JoinToken, KeySource, PrivateKey, Svid, signing_request, verify_chain};
use x0t_model::{Entropy, Instant, Seed, SpiffeId, Underlay, UnixTime, in_one_line};
use x0t_overlay::{
    CertificateDer, CloseReason, Endpoint, EndpointConfig, Event, HandshakeError, Provider, Purpose, SessionId,
    VerifyPeer, close_code,
};

use crate::api::{Record, RecordKind};
use crate::start::stored_authorities;

/// Pause before an address that refused or kept silent is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// UDP may fail for so long before TLS is tried on the same host.
const UDP_PATIENCE: Duration = Duration::from_secs(3);
/// How long all of it may take.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(15);
/// How many addresses are knocked at.
const ADDRESSES_MAX: usize = 16;

/// What a host that has joined must store before it starts.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its files.
    pub records: Vec<Record>,
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// How it proves that.
    pub svid: Svid,
    /// Whom it trusts.
    pub bundle: Bundle,
    /// The address that led to an authority: a good first peer. If TLS was tried in place of UDP, the UDP address of the same host.
    pub introducer: Underlay,
}

/// Why a host has not joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The token's time is over, by this host's clock.
    #[error("the token expired {} s ago: ask for another with `x0t token create`", .0.as_secs())]
    Expired(Duration),
    /// There is nobody to ask.
    #[error("the token names no address: give one with `--via HOST:PORT`")]
    NoAddress,
    /// The authority said no.
    #[error("the authority refused: {text}")]
    Refused {
        /// A stable word.
        code: String,
        /// The authority's own words.
        text: String,
    },
    /// Somebody answered who is not the authority of the token.
    #[error("{address} is not the authority of this token: {reason}")]
    WrongAuthority {
        /// Who answered.
        address: Underlay,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered.
    #[error(
        "nobody answered at {tried}: check that the address can be reached over UDP from here, or over TLS on TCP 443, and that `x0t status` there says ready"
    )]
    Unreachable {
        /// Where.
        tried: String,
    },
    /// The token was handed over and nothing came back.
    #[error("the authority behind {address} took the token and did not answer; the token may be spent")]
    Unanswered {
        /// Where.
        address: Underlay,
    },
    /// The request cannot be put into words.
    #[error("the request cannot be sent: {0}")]
    Request(String),
    /// The authority's answer makes no sense.
    #[error("the authority's answer cannot be used: {0}")]
    BadAnswer(String),
    /// No key could be made.
    #[error("no key could be made: {0}")]
    Key(String),
}

/// What entitles to an SVID.
enum Claim {
    /// A token, and the name to ask for.
    Token(JoinToken, Option<String>),
    /// An SVID that has ended.
    OldSvid(Svid),
}

/// Judges whoever answers by what the node knew when its SVID ended.
struct OldBundleVerifier {
    bundle: Bundle,
    authorities: Vec<SpiffeId>,
}

impl VerifyPeer for OldBundleVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String> {
        let found = verify_chain(chain, &self.bundle, now).map_err(|error| in_one_line(&error))?;
        if self.authorities.contains(&found) { Ok(found) } else { Err(format!("{found} is no authority of this mesh")) }
    }
}

/// Judges whoever answers by the token alone.
struct TokenVerifier(JoinToken);

impl VerifyPeer for TokenVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String> {
        // It has checked the whole chain, with what leads from a successor to an authority that the token knows, and whose it is.
        self.0.verify_authority(chain, now).map(|_| self.0.authority.clone()).map_err(|error| in_one_line(&error))
    }
}

/// How to join.
#[derive(Clone, Debug)]
pub struct JoinTerms {
    /// From the authority.
    pub token: JoinToken,
    /// The name to ask for; the token's if `None`.
    pub name: Option<String>,
    /// Where to knock instead of at the token's addresses: whoever names one knows better than the token.
    pub via: Vec<Underlay>,
    /// Where TLS is tried on a host whose UDP address does not answer; `None` for nowhere.
    pub fallback_port: Option<u16>,
}

/// How to come back.
#[derive(Clone, Debug)]
pub struct RecoveryTerms {
    /// The SVID that has ended.
    pub svid: Svid,
    /// Whom the node trusted.
    pub bundle: Bundle,
    /// Who renews.
    pub authorities: Vec<SpiffeId>,
    /// Where members of the mesh were last found.
    pub via: Vec<Underlay>,
    /// Where TLS is tried on a host whose UDP address does not answer; `None` for nowhere.
    pub fallback_port: Option<u16>,
}

/// Joins. Call `handle_*` when something happened, drain [`Self::poll_transmit`], sleep until [`Self::poll_timeout`], look at
/// [`Self::outcome`].
pub struct JoinClient {
    claim: Claim,
    endpoint: Endpoint,
    key: PrivateKey,
    addresses: BTreeSet<Underlay>,
    attempts: BTreeMap<Underlay, Attempt>,
    /// The session that was given the token.
    asked: Option<(SessionId, Underlay)>,
    /// The last refusal by somebody who is not the authority.
    impostor: Option<JoinError>,
    deadline: Instant,
    outcome: Option<Result<Joined, JoinError>>,
}

#[derive(Clone, Copy)]
enum Attempt {
    At(Instant),
    Session(SessionId),
    /// Somebody else lives there.
    Impostor,
}

impl JoinClient {
    /// Prepares to join on the given terms. `keys` makes the node's first key.
    pub fn new(
        terms: JoinTerms,
        provider: Arc<dyn Provider>,
        keys: &mut dyn KeySource,
        seed: Seed,
        now: Instant,
        wall: UnixTime,
    ) -> Result<Self, JoinError> {
        let JoinTerms { token, name, via, fallback_port } = terms;
        if token.expires < wall {
            return Err(JoinError::Expired(wall.since(token.expires)));
        }
        let of_token = token.addresses.iter().copied().map(Underlay::Udp).collect();
        let named: Vec<Underlay> = if via.is_empty() { of_token } else { via };
        let addresses: BTreeSet<_> = named.into_iter().take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(JoinError::NoAddress);
        }
        let verifier = Arc::new(TokenVerifier(token.clone()));
        let claim = Claim::Token(token, name);
        Self::start(claim, verifier, addresses, fallback_port, (provider, keys, seed), (now, wall))
    }

    /// Prepares to ask for another SVID in place of one that has ended. `keys` makes its key.
    pub fn recover(
        terms: RecoveryTerms,
        provider: Arc<dyn Provider>,
        keys: &mut dyn KeySource,
        seed: Seed,
        now: Instant,
        wall: UnixTime,
    ) -> Result<Self, JoinError> {
        let RecoveryTerms { svid, bundle, authorities, via, fallback_port } = terms;
        let addresses: BTreeSet<_> = via.into_iter().take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(JoinError::NoAddress);
        }
        let verifier = Arc::new(OldBundleVerifier { bundle, authorities });
        Self::start(Claim::OldSvid(svid), verifier, addresses, fallback_port, (provider, keys, seed), (now, wall))
    }

    fn start(
        claim: Claim,
        verifier: Arc<dyn VerifyPeer>,
        addresses: BTreeSet<Underlay>,
        fallback_port: Option<u16>,
        (provider, keys, seed): (Arc<dyn Provider>, &mut dyn KeySource, Seed),
        (now, wall): (Instant, UnixTime),
    ) -> Result<Self, JoinError> {
        let mut entropy = Entropy::new(seed);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), provider, entropy.fork("join"));
        endpoint.set_verifier(verifier);
        let key = keys.generate().map_err(|error| JoinError::Key(error.to_string()))?;
        let mut attempts: BTreeMap<_, _> = addresses.iter().map(|address| (*address, Attempt::At(now))).collect();
        for udp in addresses.iter().filter_map(|address| address.udp()).filter(|udp| !udp.ip().is_loopback()) {
            let over_tls = fallback_port.map(|port| Underlay::Tls(SocketAddr::new(udp.ip(), port)));
            attempts.extend(over_tls.map(|address| (address, Attempt::At(now + UDP_PATIENCE))));
        }
        let deadline = now + JOIN_DEADLINE;
        let mut client =
            Self { claim, endpoint, key, addresses, attempts, asked: None, impostor: None, deadline, outcome: None };
        client.handle_timeout(now, wall);
        Ok(client)
    }

    /// How it ended, once it has.
    pub const fn outcome(&self) -> Option<&Result<Joined, JoinError>> {
        self.outcome.as_ref()
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, from: Underlay, bytes: &mut [u8], now: Instant, wall: UnixTime) {
        let _ = self.endpoint.handle_datagram(from.into(), bytes, now, wall);
        self.settle(now, wall);
    }

    /// The instant of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.endpoint.handle_timeout(now, wall);
        if now >= self.deadline && self.outcome.is_none() {
            let tried = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.outcome = Some(Err(match (self.asked, self.impostor.take()) {
                (Some((_, address)), _) => JoinError::Unanswered { address },
                (None, Some(impostor)) => impostor,
                (None, None) => JoinError::Unreachable { tried },
            }));
        }
        self.settle(now, wall);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Once somebody was given the token, nobody else is knocked at.
        let knocking = self.asked.is_none() && self.outcome.is_none();
        let attempts = self.attempts.values().filter(|_| knocking).filter_map(|attempt| match attempt {
            Attempt::At(at) => Some(*at),
            Attempt::Session(_) | Attempt::Impostor => None,
        });
        attempts.chain(self.endpoint.poll_timeout()).chain([self.deadline]).min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(Underlay, Vec<u8>)> {
        loop {
            let transmit = self.endpoint.poll_transmit()?;
            if let Some(to) = transmit.carrier.underlay() {
                return Some((to, transmit.bytes));
            }
        }
    }

    fn settle(&mut self, now: Instant, wall: UnixTime) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Established { session, carrier, .. } => {
                    if let Some(address) = carrier.underlay() {
                        self.ask(session, address, now);
                    }
                }
                Event::Message { session, bytes } => self.on_answer(session, &bytes, now, wall),
                Event::Refused { session, carrier, reason, .. } => {
                    self.try_again(session, now);
                    if let (Some(address), CloseReason::Handshake(HandshakeError::Peer(reason))) =
                        (carrier.underlay(), reason)
                    {
                        self.rule_out(address, reason);
                    }
                }
                Event::Closed { session, .. } => self.try_again(session, now),
                _ => {}
            }
        }
        if self.asked.is_some() || self.outcome.is_some() {
            return;
        }
        for (address, attempt) in &mut self.attempts {
            if matches!(*attempt, Attempt::At(at) if at <= now) {
                *attempt = match self.endpoint.connect(Purpose::Join, (*address).into(), now, wall) {
                    Ok(session) => Attempt::Session(session),
                    Err(_) => Attempt::At(now + RETRY),
                };
            }
        }
    }

    fn try_again(&mut self, session: SessionId, now: Instant) {
        if self.asked.is_some_and(|(asked, _)| asked == session) {
            self.asked = None;
        }
        for attempt in self.attempts.values_mut() {
            if matches!(*attempt, Attempt::Session(of) if of == session) {
                *attempt = Attempt::At(now + RETRY);
            }
        }
    }

    /// Another answer cannot be expected there. Once every address is ruled out, so is joining.
    fn rule_out(&mut self, address: Underlay, reason: String) {
        self.attempts.insert(address, Attempt::Impostor);
        let error = JoinError::WrongAuthority { address, reason };
        if self.outcome.is_none() && self.attempts.values().all(|attempt| matches!(attempt, Attempt::Impostor)) {
            self.outcome = Some(Err(error));
        } else {
            self.impostor = Some(error);
        }
    }

    fn ask(&mut self, session: SessionId, address: Underlay, now: Instant) {
        if self.asked.is_some() {
            return self.endpoint.close(session, close_code::DONE, "another address was faster", now);
        }
        let request = signing_request(&self.key).map_err(|error| JoinError::Key(error.to_string())).and_then(|csr| {
            let message = match &self.claim {
                Claim::Token(token, name) => {
                    Message::JoinRequest(JoinRequest { secret: token.secret.clone(), name: name.clone(), csr })
                }
                Claim::OldSvid(svid) => Message::RecoverRequest(
                    RecoverRequest::signed(svid, csr).map_err(|error| JoinError::Key(error.to_string()))?,
                ),
            };
            message.encode().map_err(|error| JoinError::Request(error.to_string()))
        });
        match request {
            Ok(bytes) if self.endpoint.send_message(session, &bytes, now).is_ok() => {
                self.asked = Some((session, address))
            }
            Ok(_) => self.try_again(session, now),
            Err(error) => self.outcome = Some(Err(error)),
        }
    }

    fn on_answer(&mut self, session: SessionId, bytes: &[u8], now: Instant, wall: UnixTime) {
        let Some((_, address)) = self.asked.filter(|(asked, _)| *asked == session) else { return };
        self.outcome = Some(match Message::decode(bytes) {
            Ok(Message::JoinAccepted(accepted)) => self.accept(accepted, address, wall),
            Ok(Message::JoinRefused(refused)) => Err(JoinError::Refused { code: refused.code, text: refused.text }),
            Ok(_) => Err(JoinError::BadAnswer("it answers something that was not asked".into())),
            Err(error) => Err(JoinError::BadAnswer(in_one_line(&error))),
        });
        self.endpoint.close(session, close_code::DONE, "joined", now);
    }

    /// Checks what the authority gave as a stranger would, before anything of it is stored.
    fn accept(&self, accepted: JoinAccepted, introducer: Underlay, wall: UnixTime) -> Result<Joined, JoinError> {
        let bad = |error: &dyn std::error::Error| JoinError::BadAnswer(in_one_line(error));
        // The session has shown that this is the token's authority. Its bundle may hold more than the token pins: a successor.
        let trust_domain = match &self.claim {
            Claim::Token(token, _) => token.trust_domain(),
            Claim::OldSvid(svid) => svid.spiffe_id().trust_domain(),
        };
        if accepted.bundle.trust_domain() != trust_domain {
            return Err(JoinError::BadAnswer("the trust bundle is of another trust domain than the token".into()));
        }
        let spiffe_id = verify_chain(&accepted.chain, &accepted.bundle, wall).map_err(|error| bad(&error))?;
        let svid = Svid::new(accepted.chain, self.key.clone()).map_err(|error| bad(&error))?;
        let record = |kind, bytes| Record { kind, bytes };
        let (identity, bundle) = (svid.clone(), accepted.bundle.clone());
        let records = vec![
            record(RecordKind::Bundle, accepted.bundle.to_json()),
            record(RecordKind::Authorities, stored_authorities(&accepted.authorities)),
            record(RecordKind::Svid, svid.to_stored().to_vec()),
        ];
        // Where UDP did not pass today it may tomorrow: the node is to try it first, and knows TLS for its fallback.
        let by_udp = self.addresses.iter().find(|address| {
            let same_host = address.address().ip() == introducer.address().ip();
            same_host && address.udp().is_some() && !self.addresses.contains(&introducer)
        });
        Ok(Joined { records, spiffe_id, svid: identity, bundle, introducer: by_udp.copied().unwrap_or(introducer) })
    }
}

#[cfg(test)]
mod tests {
    use x0t_identity::ca_life::{AuthorityKind, Patience};
    use x0t_identity::{Authority, AuthorityConfig, SeededKeys};

    use super::*;

    #[test]
    fn a_token_still_knows_its_authority_once_a_successor_signs() {
        let (mut entropy, now) = (Entropy::new([1; 32]), UnixTime::from_secs(1_800_000_000));
        let mut keys = SeededKeys::new(entropy.fork("keys"));
        let node: SpiffeId = "spiffe://mesh.test/node/a".parse().unwrap();
        let config = AuthorityConfig::default();
        let mut authority = Authority::create(&node, config, &mut keys, &mut entropy, now).unwrap();
        let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
        let token = authority.create_token(None, Duration::from_secs(60), addresses, &mut entropy, now).unwrap();
        authority.prepare_ca(AuthorityKind::X509, &mut keys, &mut entropy, now).unwrap();
        authority.activate_ca(AuthorityKind::X509, Patience::Force, now).unwrap();
        let svid = authority.issue_self(&mut keys, &mut entropy, now).unwrap();
        let shown = authority.join_chain(&svid);
        assert_eq!(TokenVerifier(token).verify(&shown, now), Ok(node));
    }
}
