//! Two endpoints that hand each other packets: what sealing, opening and a handshake cost without the node around them.

use std::sync::Arc;

use x0t_identity::{Bundle, verify_chain};
use x0t_model::{Entropy, Instant, NodeId, SpiffeId, UnixTime};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{
    Carrier, CertificateDer, Credentials, Endpoint, EndpointConfig, Event, HopHeader, Opened, Purpose, SessionId,
    TAG_LEN, VerifyPeer,
};

use crate::trust::{Trust, WALL};
use crate::{BenchError, Row, Samples};

/// Bytes of a datagram that is sealed: with all headers it fits an underlay of 1,400 bytes.
pub const DATAGRAM_LEN: usize = 1_300;
/// Packets of one run, as UDP GSO carries them.
pub const RUN: usize = 40;
const PROTECTED_LEN: usize = DATAGRAM_FRONT + DATAGRAM_LEN + TAG_LEN;
const FORWARD_LEN: usize = FORWARD_OVERHEAD + DATAGRAM_LEN;

/// Two endpoints with a session.
pub struct Pair {
    sides: [Endpoint; 2],
    carriers: [Carrier; 2],
    sessions: [SessionId; 2],
    now: Instant,
    run: Vec<u8>,
}

impl Pair {
    /// Two endpoints that have proven to each other who they are.
    ///
    /// # Errors
    /// If there are no identities to be had, or the handshake does not end.
    pub fn new() -> Result<Self, BenchError> {
        let trust = Trust::of(2)?;
        let provider = Arc::new(RustlsProvider::new());
        let verifier: Arc<dyn VerifyPeer> = Arc::new(ByBundle { bundle: trust.authority.bundle().clone() });
        let side = |number: usize| {
            let svid = &trust.svids[number];
            let credentials = Credentials { chain: svid.chain().to_vec(), key: svid.private_key_der() };
            let entropy = Entropy::new([number as u8 + 1; 32]);
            let mut endpoint =
                Endpoint::new(EndpointConfig::default(), Arc::<RustlsProvider>::clone(&provider), entropy);
            endpoint.set_identity(Arc::new(credentials), Arc::clone(&verifier));
            endpoint
        };
        let carriers = [1, 2].map(|last| Carrier::Udp(([192, 0, 2, last], 4600).into()));
        let (mut sides, now) = ([side(0), side(1)], Instant::from_millis(1_000_000));
        let sessions = handshake(&mut sides, carriers, now)?;
        Ok(Self { sides, carriers, sessions, now, run: Vec::new() })
    }

    /// A whole handshake, whose session is forgotten at once so that the next one finds what this one found.
    ///
    /// # Errors
    /// If it does not end.
    pub fn shake_hands(&mut self) -> Result<(), BenchError> {
        let [a, b] = handshake(&mut self.sides, self.carriers, self.now)?;
        self.sides[0].forget(a);
        self.sides[1].forget(b);
        Ok(())
    }

    /// The first packet of a handshake that is never finished.
    ///
    /// # Errors
    /// If the endpoint begins none.
    pub(crate) fn hello(&mut self) -> Result<Vec<u8>, BenchError> {
        let failed = |what: String| BenchError::Session(format!("no hello: {what}"));
        self.sides[0]
            .connect(Purpose::Link, self.carriers[1], self.now, WALL)
            .map_err(|error| failed(error.to_string()))?;
        self.sides[0].poll_transmit().map(|transmit| transmit.bytes).ok_or_else(|| failed("silence".to_owned()))
    }

    /// Seals a run of [`RUN`] datagrams, in place.
    ///
    /// # Errors
    /// If the session does not take them.
    pub fn seal(&mut self) -> Result<(), BenchError> {
        self.run.resize(RUN * PROTECTED_LEN, 7);
        let sealed = self.sides[0].seal_datagrams(self.sessions[0], &mut self.run, PROTECTED_LEN, 0);
        sealed.map(drop).map_err(|error| BenchError::Session(error.to_string()))
    }

    /// Opens the run that [`Self::seal`] sealed.
    ///
    /// # Errors
    /// If one does not open.
    pub fn open(&mut self) -> Result<(), BenchError> {
        self.receive(PROTECTED_LEN, |opened| matches!(opened, Some(Opened::Datagram { .. })))
    }

    /// Seals a hop header over the front of [`RUN`] packets.
    ///
    /// # Errors
    /// If the session does not take them.
    pub fn seal_hops(&mut self) -> Result<(), BenchError> {
        let (src, dst) = (NodeId::from_bytes([1; NodeId::LEN]), NodeId::from_bytes([2; NodeId::LEN]));
        let hop = HopHeader { src, dst, ttl: 9, kind: PayloadKind::EndToEnd, flags: 0, flow: 7 };
        self.run.resize(RUN * FORWARD_LEN, 7);
        let hops = std::iter::repeat_n(hop, RUN);
        let sealed = self.sides[0].seal_hops(self.sessions[0], &mut self.run, FORWARD_LEN, hops);
        sealed.map_err(|error| BenchError::Session(error.to_string()))
    }

    /// Opens the hop headers that [`Self::seal_hops`] sealed.
    ///
    /// # Errors
    /// If one does not open.
    pub fn open_hops(&mut self) -> Result<(), BenchError> {
        self.receive(FORWARD_LEN, |opened| matches!(opened, Some(Opened::Forward { .. })))
    }

    fn receive(&mut self, len: usize, is_right: impl Fn(Option<Opened<'_>>) -> bool) -> Result<(), BenchError> {
        let mut arrived = 0;
        for packet in self.run.chunks_mut(len) {
            let opened = self.sides[1].handle_datagram(self.carriers[0], packet, self.now, WALL);
            arrived += u64::from(is_right(opened));
        }
        let sent = RUN as u64;
        if arrived == sent { Ok(()) } else { Err(BenchError::Lost { sent, arrived }) }
    }

    /// Acknowledgements and new epochs, between batches.
    fn settle(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(mut transmit) = self.sides[from].poll_transmit() {
                self.sides[to].handle_datagram(self.carriers[from], &mut transmit.bytes, self.now, WALL);
            }
            while self.sides[to].poll_event().is_some() {}
        }
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        let count = RUN as u64;
        samples.time(Row::Seal, count, || self.seal())?;
        samples.time(Row::Open, count, || self.open())?;
        samples.time(Row::SealHop, count, || self.seal_hops())?;
        samples.time(Row::OpenHop, count, || self.open_hops())?;
        samples.time(Row::Handshake, 1, || self.shake_hands())?;
        self.settle();
        Ok(())
    }
}

/// One handshake; the session of each side.
fn handshake(sides: &mut [Endpoint; 2], carriers: [Carrier; 2], now: Instant) -> Result<[SessionId; 2], BenchError> {
    const EXCHANGES_MAX: usize = 64;
    let mut established = [None; 2];
    let failed = |error: String| BenchError::Session(format!("no handshake: {error}"));
    sides[0].connect(Purpose::Link, carriers[1], now, WALL).map_err(|error| failed(error.to_string()))?;
    for _ in 0..EXCHANGES_MAX {
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(mut transmit) = sides[from].poll_transmit() {
                sides[to].handle_datagram(carriers[from], &mut transmit.bytes, now, WALL);
            }
            while let Some(event) = sides[to].poll_event() {
                match event {
                    Event::Established { session, .. } => established[to] = Some(session),
                    Event::Refused { reason, .. } => return Err(failed(format!("{reason:?}"))),
                    _ => {}
                }
            }
        }
        if let [Some(a), Some(b)] = established {
            return Ok([a, b]);
        }
    }
    Err(failed("it does not end".to_owned()))
}

/// Believes what a stranger would: a chain to an authority of the bundle.
struct ByBundle {
    bundle: Bundle,
}

impl VerifyPeer for ByBundle {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String> {
        verify_chain(chain, &self.bundle, now).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_seals_the_other_opens() {
        let mut pair = Pair::new().unwrap();
        pair.seal().unwrap();
        pair.open().unwrap();
        assert!(matches!(pair.open(), Err(BenchError::Lost { arrived: 0, .. })), "replayed");
        pair.seal_hops().unwrap();
        pair.open_hops().unwrap();
        pair.shake_hands().unwrap();
    }
}
