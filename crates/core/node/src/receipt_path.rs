//! What receipts have to do with the rest of the node: who is told what has arrived, and what follows from what a far end tells.

use std::time::Duration;

use x0t_model::NodeId;
use x0t_overlay::SessionId;
use x0t_routing::{LinkId, Standing};

use crate::api::What;
use crate::data_path::{Care, Dispatch};
use crate::message::{EndDatagram, PROBE, RECEIPT};
use crate::node::Node;
use crate::receipts::{Action, Seen, Size};

/// Padding of a probe that stands for large packets. With all headers it fits an underlay of 1,280 bytes, so that it says
/// something about the relays and nothing about the path MTU.
const LARGE_PROBE: [u8; 1_000] = [0; 1_000];
/// Words of a receipt's window.
const WORDS_MAX: usize = 16;

/// Packets that came in one session, counted together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrivals {
    session: SessionId,
    packets: u32,
    bytes: usize,
    /// One of them asks for a receipt at once.
    at_once: bool,
}

impl Node {
    /// A datagram came in an end-to-end session. Receipts are not answered with receipts.
    pub(crate) fn arrived(&mut self, session: SessionId, datagram: &[u8]) {
        let kind = datagram.first().copied();
        if kind == Some(RECEIPT) {
            return;
        }
        if self.arrivals.is_some_and(|arrivals| arrivals.session != session) {
            self.count_arrivals();
        }
        let arrivals = self.arrivals.get_or_insert(Arrivals { session, packets: 0, bytes: 0, at_once: false });
        arrivals.packets += 1;
        arrivals.bytes += datagram.len();
        arrivals.at_once |= kind == Some(PROBE);
    }

    fn count_arrivals(&mut self) {
        if let Some(Arrivals { session, packets, bytes, at_once }) = self.arrivals.take() {
            self.receipts.received(session, packets, bytes, at_once, self.now);
        }
    }

    /// Does what receipts call for. True if there was anything.
    pub(crate) fn advance_receipts(&mut self) -> bool {
        self.count_arrivals();
        let mut spoke = false;
        while let Some(action) = self.receipts.poll(self.now) {
            spoke = true;
            match action {
                Action::Report { session } => self.send_receipt(session),
                Action::Probe { node, link, size } => self.send_probe(node, link, size),
                Action::Hedge { node, link } => self.router.hedge(node, link, true),
                Action::Relax { node, link } => self.router.hedge(node, link, false),
                Action::Suspect { node, link } => self.doubt_way(node, link, true),
                Action::Trust { node, link } => self.doubt_way(node, link, false),
                Action::Demote { node, link, steps } => self.demote_way(node, link, steps),
            }
        }
        spoke
    }

    /// Tells the far end of a session what has come, by two ways if there are two: the loss of one says nothing about the other
    /// direction.
    fn send_receipt(&mut self, session: SessionId) {
        let (Some(dst), Some(seen)) = (self.ends.node_of(session), self.endpoint.seen(session)) else { return };
        let Some(receipt) = self.receipts.receipt(session, seen.highest, self.now) else { return };
        let mut window = [0; WORDS_MAX * 8];
        for (bytes, word) in window.chunks_mut(8).zip(seen.words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        let window = &window[..receipt.words.min(WORDS_MAX) * 8];
        let held_micros = u32::try_from(receipt.held.as_micros()).unwrap_or(u32::MAX);
        let mut datagram = Vec::with_capacity(window.len() + 13);
        EndDatagram::Receipt { highest: seen.highest, held_micros, window }.encode(&mut datagram);
        self.stats.receipts_sent += 1;
        self.send_with_care(Dispatch { session, dst, flow: 0, care: Care::Receipt }, &datagram);
    }

    /// A far end tells what has come to it in `session`.
    pub(crate) fn on_receipt(
        &mut self,
        (from, session): (NodeId, SessionId),
        highest: u64,
        held_micros: u32,
        window: &[u8],
    ) {
        self.stats.receipts_received += 1;
        let mut words = [0; WORDS_MAX];
        for (word, bytes) in words.iter_mut().zip(window.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        let seen = Seen { highest, words: &words[..(window.len() / 8).min(WORDS_MAX)] };
        let held = Duration::from_micros(held_micros.into());
        let router = &self.router;
        self.receipts.on_receipt((from, session), seen, held, |link| router.expected_loss(from, link), self.now);
    }

    fn send_probe(&mut self, dst: NodeId, link: LinkId, size: Size) {
        let Some(session) = self.ends.session_of(dst) else { return };
        let padding = match size {
            Size::Small => &[][..],
            Size::Large => &LARGE_PROBE[..],
        };
        let mut datagram = Vec::with_capacity(padding.len() + 1);
        EndDatagram::Probe { padding }.encode(&mut datagram);
        self.stats.probes_sent += 1;
        self.send_by(link, Dispatch { session, dst, flow: 0, care: Care::Ordinary }, &datagram);
    }

    /// Nothing, or something again, arrives by a way. It is news only while the link is well: a silent link has its own.
    fn doubt_way(&mut self, destination: NodeId, link: LinkId, suspect: bool) {
        let is_well = self.router.standing(link).is_some_and(Standing::is_usable);
        let changed = self.router.way_suspect(destination, link, suspect, self.now);
        let Some(via) = self.links.get(link).map(|link| link.proven.peer).filter(|_| is_well && changed) else {
            return;
        };
        if suspect {
            self.stats.ways_suspected += 1;
            self.tell(What::WaySuspect { destination, via });
        } else {
            self.tell(What::WayTrusted { destination, via });
        }
    }

    fn demote_way(&mut self, destination: NodeId, link: LinkId, steps: u8) {
        let demoted = self.router.demote(destination, link, steps, self.now);
        if let Some(via) = self.links.get(link).map(|link| link.proven.peer).filter(|_| demoted) {
            self.stats.ways_demoted += 1;
            self.tell(What::WayDemoted { destination, via, steps });
        }
    }
}
