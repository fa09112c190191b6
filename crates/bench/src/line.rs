//! Whole nodes in a row, in virtual time: what a datagram costs each of them.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use x0t_identity::AwsLcKeys;
use x0t_model::{Instant, NodeId, OverlayPrefix};
use x0t_node::{
    Crypto, Drive as _, HostOffload, Input, Node, NodeConfig, Offload, Opening, Output, PartialChecksum, Segments,
    Start, Train, Transport, Unsealed, VerifyAfresh,
};
use x0t_overlay::tls::RustlsProvider;

use crate::trust::{Trust, WALL};
use crate::{BenchError, Row, Samples};

/// Payload bytes of one segment of bulk: what TCP sends over an overlay of 1,280 bytes.
pub const SEGMENT_LEN: usize = 1_220;
/// Segments of one super-packet.
pub const SEGMENTS: usize = 40;
const TCP_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
/// How long the nodes may take, in their own time, until they carry traffic.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a datagram is on its way.
const LATENCY: Duration = Duration::from_micros(50);
/// How much time passes from one round to the next.
const ROUND: Duration = Duration::from_millis(1);

/// What the first node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A TCP super-packet of [`SEGMENTS`] segments, as a host with offloads hands it over.
    Bulk,
    /// So many packets of one segment, each alone.
    Single(usize),
}

impl Load {
    const fn datagrams(self) -> u64 {
        match self {
            Self::Bulk => SEGMENTS as u64,
            Self::Single(count) => count as u64,
        }
    }
}

/// Nodes in a row, each of which knows only the next.
pub struct Line {
    nodes: Vec<Node>,
    prefix: OverlayPrefix,
    now: Instant,
    bulk: Vec<u8>,
    single: Vec<u8>,
}

/// What a node wants sent: to which node of the line, and what.
type Parcel = (usize, Train);

impl Line {
    /// So many nodes, the last of which answers to the first.
    ///
    /// # Errors
    /// If there are no identities to be had, or no way comes to be within half a minute of virtual time.
    pub fn of(length: usize) -> Result<Self, BenchError> {
        Self::that_hands_out(length, None)
    }

    /// The same, of nodes that have trains of so many bytes and more sealed and opened elsewhere.
    ///
    /// # Errors
    /// The same.
    pub fn that_hands_out(length: usize, hands_out: Option<usize>) -> Result<Self, BenchError> {
        let now = Instant::from_millis(1_000_000);
        let trust = Trust::of(length)?;
        let prefix = OverlayPrefix::of(trust.authority.trust_domain());
        let (bundle, first) = (trust.authority.bundle().clone(), trust.authority.node().clone());
        let mut nodes = Vec::with_capacity(length);
        for (number, svid) in trust.svids.into_iter().enumerate() {
            let config = NodeConfig {
                hands_out,
                peers: (number > 0).then(|| address(number - 1).into()).into_iter().collect(),
                ..NodeConfig::default()
            };
            let crypto = Crypto {
                sessions: Arc::new(RustlsProvider::new()),
                signatures: Arc::new(VerifyAfresh),
                keys: Box::new(AwsLcKeys),
            };
            let start = Start {
                config,
                svid,
                bundle: bundle.clone(),
                is_authority: number == 0,
                authorities: vec![first.clone()],
                epoch: 1,
                incarnation: number as u64 + 1,
                crypto,
                seed: [number as u8 + 1; 32],
            };
            let mut node = Node::new(start, now, WALL)?;
            node.handle(Input::HostInterface(HostOffload { tcp: true, udp: true }), now, WALL);
            nodes.push(node);
        }
        let mut line = Self { nodes, prefix, now, bulk: Vec::new(), single: Vec::new() };
        let ends = [line.address_of(0), line.address_of(length - 1)];
        line.bulk = tcp_packet(ends, SEGMENT_LEN * SEGMENTS);
        line.single = tcp_packet(ends, SEGMENT_LEN);
        line.settle()?;
        Ok(line)
    }

    fn address_of(&self, number: usize) -> Ipv6Addr {
        self.prefix.address(self.nodes[number].id())
    }

    /// The last node's id.
    pub fn last(&self) -> NodeId {
        self.nodes[self.nodes.len() - 1].id()
    }

    /// Virtual time.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// A node of the line.
    pub fn node(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// Runs the nodes until what the first one sends arrives at the last.
    fn settle(&mut self) -> Result<(), BenchError> {
        let deadline = self.now + PATIENCE;
        let last = self.nodes.len() - 1;
        let mut next_try = self.now;
        while self.now < deadline {
            self.run_for(Duration::from_millis(20));
            if self.now < next_try || self.nodes[0].next_hop(self.nodes[last].id()).is_none() {
                continue;
            }
            next_try = self.now + Duration::from_millis(200);
            let before = self.delivered();
            self.send(Load::Single(1));
            self.run_for(Duration::from_millis(20));
            if self.delivered() > before {
                return Ok(());
            }
        }
        Err(BenchError::Silent(PATIENCE.as_secs()))
    }

    /// Lets time pass; whatever the nodes say meanwhile reaches whom it is for.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut wire = VecDeque::new();
        for number in 0..self.nodes.len() {
            wire.extend(self.drain(number).into_iter().map(|parcel| (number, parcel)));
        }
        loop {
            while let Some((from, parcel)) = wire.pop_front() {
                self.now += LATENCY;
                let to = parcel.0;
                self.arrive(from, parcel);
                wire.extend(self.drain(to).into_iter().map(|parcel| (to, parcel)));
            }
            let due =
                self.nodes.iter().enumerate().filter_map(|(number, node)| Some((node.poll_timeout()?, number))).min();
            let Some((at, number)) = due.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.nodes[number].handle(Input::Timeout, self.now, WALL);
            wire.extend(self.drain(number).into_iter().map(|parcel| (number, parcel)));
        }
        self.now = self.now.max(end);
    }

    /// Hands the first node what its host sends; what it says stays in it until it is drained.
    fn send(&mut self, load: Load) {
        let node = &mut self.nodes[0];
        let checksum = Some(PartialChecksum { start: IPV6_HEADER_LEN as u16, offset: 16 });
        match load {
            Load::Bulk => {
                let segments = Some(Segments { protocol: Transport::Tcp, size: SEGMENT_LEN as u16 });
                let input = Input::LocalPacket { bytes: &self.bulk, offload: Offload { checksum, segments } };
                node.handle(input, self.now, WALL);
            }
            Load::Single(count) => {
                for _ in 0..count {
                    let offload = Offload { checksum, segments: None };
                    node.handle(Input::LocalPacket { bytes: &self.single, offload }, self.now, WALL);
                }
            }
        }
    }

    /// Everything a node wants sent. What is for its host reaches it here.
    fn drain(&mut self, number: usize) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        let node = &mut self.nodes[number];
        while let Some(output) = node.poll_output() {
            match output {
                Output::Datagrams { to, train, .. } => parcels.push((number_of(to.address()), train)),
                Output::Seal { to, unsealed, .. } => {
                    parcels.extend(unsealed.seal().map(|train| (number_of(to.address()), train)));
                }
                Output::Open(mut opening) => {
                    opening.open();
                    node.handle(Input::Opened(opening), self.now, WALL);
                }
                Output::LocalPackets(delivery) => node.reclaim_delivery(delivery),
                _ => {}
            }
        }
        parcels
    }

    /// What the kernel does between two nodes: the bytes go into a buffer of the receiver's, the sender has its own back.
    fn carry(&mut self, from: usize, (to, train): Parcel) -> Parcel {
        let mut arrived = self.nodes[to].spare_train();
        arrived.buffer_mut()[..train.len()].copy_from_slice(train.bytes());
        arrived.set(train.len(), train.stride());
        self.nodes[from].reclaim_train(train);
        (to, arrived)
    }

    fn arrive(&mut self, from: usize, parcel: Parcel) {
        let (to, train) = self.carry(from, parcel);
        self.receive(from, to, train);
    }

    fn receive(&mut self, from: usize, to: usize, train: Train) {
        self.nodes[to].handle(Input::Datagrams { from: address(from).into(), interface: 0, train }, self.now, WALL);
    }

    fn delivered(&self) -> u64 {
        let last = &self.nodes[self.nodes.len() - 1];
        last.view(self.now, WALL).counters.get("node_packets_delivered").copied().unwrap_or_default()
    }

    /// What the first of two nodes that hand out their work wants sealed of `loads` super-packets.
    pub fn sealings(&mut self, loads: usize) -> Vec<Unsealed> {
        self.run_for(ROUND);
        (0..loads).for_each(|_| self.send(Load::Bulk));
        let node = &mut self.nodes[0];
        let outputs = std::iter::from_fn(|| node.poll_output());
        outputs
            .filter_map(|output| if let Output::Seal { unsealed, .. } = output { Some(unsealed) } else { None })
            .collect()
    }

    /// What the second node wants opened of the trains that were sealed.
    pub fn openings(&mut self, trains: Vec<Train>) -> Vec<Box<Opening>> {
        for train in trains {
            let (to, arrived) = self.carry(0, (1, train));
            self.receive(0, to, arrived);
        }
        let node = &mut self.nodes[1];
        let outputs = std::iter::from_fn(|| node.poll_output());
        outputs.filter_map(|output| if let Output::Open(opening) = output { Some(opening) } else { None }).collect()
    }

    /// Hands back what was opened, and gives the number of packets that the second node hands to its host.
    pub fn opened(&mut self, openings: Vec<Box<Opening>>) -> u64 {
        let before = self.delivered();
        for opening in openings {
            self.nodes[1].handle(Input::Opened(opening), self.now, WALL);
            self.drain(1);
        }
        self.delivered() - before
    }

    /// The datagrams of one load, as the first node would send them to the second.
    pub fn wire_image(&mut self, load: Load) -> Vec<Vec<u8>> {
        self.run_for(ROUND);
        self.send(load);
        let parcels = self.drain(0);
        parcels.iter().flat_map(|(_, train)| train.datagrams().map(<[u8]>::to_vec)).collect()
    }

    /// One load from the first node to the last, timed at each; `rows` names the first, the relays together and the last.
    ///
    /// # Errors
    /// If not everything arrives.
    pub fn pass(
        &mut self,
        load: Load,
        (send, forward, receive): (Row, Option<Row>, Row),
        samples: &mut Samples,
    ) -> Result<(), BenchError> {
        self.run_for(ROUND);
        let (before, sent) = (self.delivered(), load.datagrams());
        let last = self.nodes.len() - 1;
        let mut parcels = samples.time(send, sent, || {
            self.send(load);
            self.drain(0)
        });
        for number in 1..=last {
            let arrived: Vec<Parcel> = parcels.into_iter().map(|parcel| self.carry(number - 1, parcel)).collect();
            let row = if number == last { Some(receive) } else { forward };
            let work = || {
                for (to, train) in arrived {
                    self.receive(number - 1, to, train);
                }
                self.drain(number)
            };
            parcels = match row {
                Some(row) => samples.time(row, sent, work),
                None => work(),
            };
        }
        let arrived = self.delivered() - before;
        if arrived == sent { Ok(()) } else { Err(BenchError::Lost { sent, arrived }) }
    }
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8 + 1], 4600))
}

fn number_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]).saturating_sub(1),
        SocketAddr::V6(_) => 0,
    }
}

/// A TCP packet whose checksum is left to be finished: it holds the sum of the pseudo-header, as Linux leaves it.
fn tcp_packet([source, destination]: [Ipv6Addr; 2], payload: usize) -> Vec<u8> {
    const PROTOCOL: u8 = 6;
    let length = TCP_HEADER_LEN + payload;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(length as u16).to_be_bytes());
    packet.extend_from_slice(&[PROTOCOL, 64]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let words = packet[8..].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + length as u32 + u32::from(PROTOCOL);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Ports 5201 and 40000, data offset 5, ACK, a window.
    packet.extend_from_slice(&[0x14, 0x51, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    packet.extend_from_slice(&(sum as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.resize(IPV6_HEADER_LEN + length, 0x5a);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_first_node_sends_arrives_at_the_last() {
        for (length, hands_out) in [(2, None), (3, None), (2, Some(0)), (3, Some(0)), (3, Some(4_096))] {
            let mut line = Line::that_hands_out(length, hands_out).unwrap();
            let mut samples = Samples::default();
            let rows = (Row::SendBulk, Some(Row::ForwardBulk), Row::ReceiveBulk);
            for _ in 0..20 {
                line.pass(Load::Bulk, rows, &mut samples).unwrap();
                line.pass(Load::Single(16), rows, &mut samples).unwrap();
            }
            assert_eq!(samples.batches(Row::ReceiveBulk), 40);
            assert_eq!(samples.batches(Row::ForwardBulk), if length == 3 { 40 } else { 0 });
        }
    }
}
