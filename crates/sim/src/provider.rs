//! Handshakes that repeat: the cryptographic seam, filled with what a simulation needs.
//!
//! Authentication is real: both sides show their X.509-SVIDs, the node's own verifier judges them, and both sign the
//! transcript with Ed25519, which is deterministic. Secrecy is not: the key exchange is two public random values, so that a run
//! follows from its seed. Packets are still sealed under keys that only the two sessions use, so that forged, replayed and
//! misdirected packets fail here as they do in life. Message sizes are those of X25519MLKEM768, so that fragmentation and
//! retransmission have the same work to do.

use std::sync::Arc;

use x0t_identity::{PrivateKey, verify_signature};
use x0t_model::{Reader, SpiffeId, Writer};
use x0t_overlay::{
    CertificateDer, Handshake, HandshakeError, KeyChange, KeyError, KeyPair, NextKeys, Offer, PacketKey, Provider,
    Purpose, TAG_LEN,
};

/// A ClientHello with a hybrid key share.
const CLIENT_HELLO_LEN: usize = 1429;
/// A ServerHello with its half of the exchange.
const SERVER_HELLO_LEN: usize = 1180;
/// Keeps a simulated proof from passing for anything else that the key signs.
const LABEL: &str = "x0tta6bl4 simulated handshake";
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_PROOF: u8 = 3;
const CLIENT_PROOF: u8 = 4;

/// Starts simulated handshakes.
#[derive(Debug, Default)]
pub struct SimulatedProvider;

impl Provider for SimulatedProvider {
    fn client(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        Ok(Box::new(Machine::new(offer, true)))
    }

    fn server(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        Ok(Box::new(Machine::new(offer, false)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SendingClientHello,
    AwaitingServerHello,
    TakingHandshakeKeys,
    AwaitingServerProof,
    SendingClientProof,
    AwaitingClientHello,
    SendingServerHello,
    SendingServerProof,
    AwaitingClientProof,
    Done,
}

struct Machine {
    offer: Offer,
    state: State,
    inbox: Vec<u8>,
    transcript: blake3::Hasher,
    secret: [u8; 32],
    own_random: [u8; 32],
    peer_parameters: Option<Vec<u8>>,
    peer_chain: Option<Vec<CertificateDer<'static>>>,
    peer: Option<SpiffeId>,
    client: bool,
}

impl Machine {
    fn new(offer: Offer, client: bool) -> Self {
        let own_random = blake3::derive_key("x0t simulated handshake random", &offer.entropy);
        let mut transcript = blake3::Hasher::new();
        transcript.update(&[offer.purpose as u8]);
        Self {
            state: if client { State::SendingClientHello } else { State::AwaitingClientHello },
            inbox: Vec::new(),
            transcript,
            secret: [0; 32],
            own_random,
            peer_parameters: None,
            peer_chain: None,
            peer: None,
            client,
            offer,
        }
    }

    /// Takes one whole message off the inbox, if it is there.
    fn next_message(&mut self) -> Option<Vec<u8>> {
        let len = u32::from_be_bytes(self.inbox.get(..4)?.try_into().ok()?) as usize;
        let message = self.inbox.get(4..4 + len)?.to_vec();
        self.inbox.drain(..4 + len);
        Some(message)
    }

    fn hello(&mut self, kind: u8, len: usize, out: &mut Vec<u8>) {
        let mut message = vec![kind];
        Writer::new(&mut message).bytes(&self.own_random).prefixed(&self.offer.parameters);
        message.resize(len.max(message.len()), 0);
        self.transcript.update(&message);
        frame(out, &message);
    }

    fn on_hello(&mut self, kind: u8, message: &[u8]) -> Result<(), HandshakeError> {
        let mut reader = Reader::new(message);
        let read =
            (|| Some((reader.u8().ok()?, reader.array::<32>().ok()?, reader.prefixed("parameters", 512).ok()?)))();
        let Some((_, random, parameters)) = read.filter(|(got, ..)| *got == kind) else {
            return Err(protocol("an unexpected message"));
        };
        self.peer_parameters = Some(parameters.to_vec());
        let (client, server) = if self.client { (self.own_random, random) } else { (random, self.own_random) };
        self.secret = blake3::derive_key("x0t simulated secret", &[client, server].concat());
        self.transcript.update(message);
        Ok(())
    }

    /// The certificate chain and a signature over everything said so far.
    fn proof(&mut self, kind: u8, out: &mut Vec<u8>) {
        let mut message = vec![kind];
        let mut writer = Writer::new(&mut message);
        match &self.offer.credentials {
            Some(credentials) => {
                writer.u8(credentials.chain.len() as u8);
                for certificate in &credentials.chain {
                    writer.prefixed(certificate);
                }
                let to_sign = self.transcript.finalize();
                let signature = PrivateKey::from_pkcs8(credentials.key.secret_der())
                    .and_then(|key| key.sign(&[LABEL.as_bytes(), &[0], to_sign.as_bytes()].concat()))
                    .unwrap_or_default();
                writer.prefixed(&signature);
            }
            None => {
                writer.u8(0);
            }
        }
        self.transcript.update(&message);
        frame(out, &message);
    }

    fn on_proof(&mut self, kind: u8, message: &[u8]) -> Result<(), HandshakeError> {
        let to_verify = self.transcript.finalize();
        let (chain, signature) = read_proof(kind, message).ok_or_else(|| protocol("a malformed proof"))?;
        let nameless = !self.client && self.offer.purpose == Purpose::Join;
        match chain.first() {
            Some(leaf) if !nameless => {
                let peer = self.offer.verifier.verify(&chain, self.offer.now).map_err(HandshakeError::Peer)?;
                verify_signature(leaf, LABEL, to_verify.as_bytes(), signature)
                    .map_err(|error| HandshakeError::Peer(error.to_string()))?;
                self.peer = Some(peer);
            }
            None if nameless => {}
            _ => return Err(HandshakeError::Peer("no certificate was shown".into())),
        }
        self.peer_chain = Some(chain);
        self.transcript.update(message);
        Ok(())
    }

    fn keys(&self, level: &str) -> KeyPair {
        key_pair(&self.secret, level, self.client)
    }
}

impl Handshake for Machine {
    fn read(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.inbox.extend_from_slice(bytes);
        while let Some(message) = self.next_message() {
            self.state = match self.state {
                State::AwaitingClientHello => {
                    self.on_hello(CLIENT_HELLO, &message)?;
                    State::SendingServerHello
                }
                State::AwaitingServerHello => {
                    self.on_hello(SERVER_HELLO, &message)?;
                    State::TakingHandshakeKeys
                }
                State::AwaitingServerProof => {
                    self.on_proof(SERVER_PROOF, &message)?;
                    State::SendingClientProof
                }
                State::AwaitingClientProof => {
                    self.on_proof(CLIENT_PROOF, &message)?;
                    State::Done
                }
                _ => return Err(protocol("a message out of order")),
            };
        }
        Ok(())
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Option<KeyChange> {
        match self.state {
            State::SendingClientHello => {
                self.hello(CLIENT_HELLO, CLIENT_HELLO_LEN, out);
                self.state = State::AwaitingServerHello;
                None
            }
            State::TakingHandshakeKeys => {
                self.state = State::AwaitingServerProof;
                Some(KeyChange::Handshake(self.keys("handshake")))
            }
            State::SendingServerHello => {
                self.hello(SERVER_HELLO, SERVER_HELLO_LEN, out);
                self.state = State::SendingServerProof;
                Some(KeyChange::Handshake(self.keys("handshake")))
            }
            State::SendingServerProof => {
                self.proof(SERVER_PROOF, out);
                self.state = State::AwaitingClientProof;
                Some(self.one_rtt())
            }
            State::SendingClientProof => {
                self.proof(CLIENT_PROOF, out);
                self.state = State::Done;
                Some(self.one_rtt())
            }
            _ => None,
        }
    }

    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn peer_parameters(&self) -> Option<&[u8]> {
        self.peer_parameters.as_deref()
    }

    fn peer_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_chain.as_deref()
    }

    fn peer(&self) -> Option<SpiffeId> {
        self.peer.clone()
    }

    fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(label).update(&[0]).update(context).finalize_xof().fill(out);
        Ok(())
    }

    fn group_name(&self) -> Option<&'static str> {
        Some("simulated")
    }
}

impl Machine {
    fn one_rtt(&self) -> KeyChange {
        let next = SimulatedNextKeys { secret: Arc::new(self.secret), epoch: 0, client: self.client };
        KeyChange::OneRtt(self.keys("traffic 0"), Box::new(next))
    }
}

struct SimulatedNextKeys {
    secret: Arc<[u8; 32]>,
    epoch: u64,
    client: bool,
}

impl NextKeys for SimulatedNextKeys {
    fn next_keys(&mut self) -> KeyPair {
        self.epoch += 1;
        key_pair(&self.secret, &format!("traffic {}", self.epoch), self.client)
    }
}

fn key_pair(secret: &[u8; 32], level: &str, client: bool) -> KeyPair {
    let key = |side: &str| {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(level.as_bytes()).update(side.as_bytes());
        Arc::new(SimulatedKey(*hasher.finalize().as_bytes()))
    };
    let (client_key, server_key) = (key("client"), key("server"));
    if client {
        KeyPair { local: client_key, remote: server_key }
    } else {
        KeyPair { local: server_key, remote: client_key }
    }
}

/// An encrypt-then-MAC construction from one hash: enough for a simulation, and no more.
struct SimulatedKey([u8; 32]);

impl SimulatedKey {
    fn mask(&self, pn: u64, data: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let mut pad = [0; 64];
        hasher.update(&pn.to_be_bytes()).finalize_xof().fill(&mut pad);
        data.iter_mut().zip(pad.iter().cycle()).for_each(|(byte, pad)| *byte ^= pad);
    }

    fn tag(&self, pn: u64, aad: &[u8], data: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher
            .update(&[1])
            .update(&pn.to_be_bytes())
            .update(&(aad.len() as u64).to_be_bytes())
            .update(aad)
            .update(data);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
        tag
    }
}

impl PacketKey for SimulatedKey {
    fn seal(&self, pn: u64, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], KeyError> {
        self.mask(pn, data);
        Ok(self.tag(pn, aad, data))
    }

    fn open(&self, pn: u64, aad: &[u8], data_and_tag: &mut [u8]) -> Result<usize, KeyError> {
        let len = data_and_tag.len().checked_sub(TAG_LEN).ok_or(KeyError)?;
        let (data, tag) = data_and_tag.split_at_mut(len);
        if *tag != self.tag(pn, aad, data) {
            return Err(KeyError);
        }
        self.mask(pn, data);
        Ok(len)
    }

    fn confidentiality_limit(&self) -> u64 {
        1 << 23
    }

    fn integrity_limit(&self) -> u64 {
        1 << 52
    }
}

fn frame(out: &mut Vec<u8>, message: &[u8]) {
    Writer::new(out).u32(message.len() as u32).bytes(message);
}

fn read_proof(kind: u8, message: &[u8]) -> Option<(Vec<CertificateDer<'static>>, &[u8])> {
    let mut reader = Reader::new(message);
    if reader.u8().ok()? != kind {
        return None;
    }
    let count = reader.u8().ok()?.min(8);
    let chain = (0..count).map(|_| reader.prefixed("certificate", 8192).ok().map(|der| der.to_vec().into()));
    let chain = chain.collect::<Option<Vec<_>>>()?;
    let signature = if count == 0 { &[] } else { reader.prefixed("signature", 8192).ok()? };
    Some((chain, signature))
}

fn protocol(text: &str) -> HandshakeError {
    HandshakeError::Tls { alert: None, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_packet_opens_only_whole_and_only_as_what_it_was() {
        let (sealing, opening) = (key_pair(&[7; 32], "traffic 0", true), key_pair(&[7; 32], "traffic 0", false));
        let mut packet = b"a packet of some length".to_vec();
        let tag = sealing.local.seal(5, b"header", &mut packet).unwrap();
        packet.extend_from_slice(&tag);
        assert!(!packet.windows(6).any(|window| window == b"packet"));
        for (pn, aad) in [(6, &b"header"[..]), (5, b"other")] {
            assert_eq!(opening.remote.open(pn, aad, &mut packet.clone()), Err(KeyError));
        }
        assert_eq!(opening.remote.open(5, b"header", &mut packet), Ok(23));
        assert_eq!(&packet[..23], b"a packet of some length");
    }
}
