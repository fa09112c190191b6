//! What a flood of datagrams that nobody authenticated costs a node.

use std::net::SocketAddr;
use std::time::Duration;

use x0t_node::{Drive as _, Input, Output, Train};
use x0t_overlay::packet::PROTECTED_HEADER_LEN;

use crate::line::{Line, Load};
use crate::reference::{Loopback, WAITING};
use crate::sessions::Pair;
use crate::trust::WALL;
use crate::{BenchError, Row, Samples};

/// Datagrams of one batch, each handed over alone: a flood need not come in trains.
const BATCH: u64 = 32;
/// What a forged packet is cut or filled to before it goes through a socket.
const FORGED_LEN: usize = 1_200;
/// Where the number of a packet stands, and the index of its session (docs/design/0002-frames.md).
const INDEX: std::ops::Range<usize> = 2..6;
const NUMBER: std::ops::Range<usize> = 6..14;

/// One way to be false.
struct Forgery {
    row: Row,
    datagram: Vec<u8>,
    /// Whether each is given a number of its own, so that the replay window does not spare the work of opening it.
    numbered: bool,
}

/// A relay between two nodes, and what a stranger sends it in the name of one of them.
pub struct Flood {
    line: Line,
    forgeries: Vec<Forgery>,
    number: u64,
    loopback: Loopback,
    buffer: Vec<u8>,
}

impl Flood {
    /// Records genuine packets, and falsifies them.
    ///
    /// # Errors
    /// If there is no line to record on, or no socket.
    pub fn new() -> Result<Self, BenchError> {
        // Across a relay a hop header is what its link authenticates, between neighbours the whole packet.
        let (mut line, mut direct) = (Line::of(3)?, Line::of(2)?);
        let genuine = |image: Vec<Vec<u8>>| {
            let longest = image.into_iter().max_by_key(Vec::len);
            longest.ok_or(BenchError::Lost { sent: 1, arrived: 0 })
        };
        let forward = genuine(line.wire_image(Load::Single(1)))?;
        // The relay has a session of the same kind with its neighbour; only the index differs.
        let mut protected = genuine(direct.wire_image(Load::Single(1)))?;
        protected[INDEX].copy_from_slice(&forward[INDEX]);
        let mut stranger = forward.clone();
        stranger[INDEX].fill(0xee);
        let hello = Pair::new()?.hello()?;
        let damaged = |mut datagram: Vec<u8>| {
            datagram[PROTECTED_HEADER_LEN] ^= 1;
            datagram
        };
        let forgeries = vec![
            Forgery { row: Row::ForgedStranger, datagram: stranger, numbered: false },
            Forgery { row: Row::ForgedHop, datagram: damaged(forward.clone()), numbered: true },
            Forgery { row: Row::ForgedPacket, datagram: damaged(protected), numbered: true },
            Forgery { row: Row::Replayed, datagram: forward, numbered: false },
            Forgery { row: Row::ForgedHello, datagram: hello, numbered: false },
        ];
        let mut flood = Self { line, forgeries, number: 1 << 32, loopback: Loopback::new()?, buffer: vec![0; 2_048] };
        // The genuine one arrives once; from then on it is a replay.
        let genuine = flood.forgeries[3].datagram.clone();
        flood.offer(&genuine);
        flood.line.run_for(Duration::from_millis(5));
        Ok(flood)
    }

    /// Hands the relay one datagram in the name of the first node.
    fn offer(&mut self, datagram: &[u8]) {
        let mut train = self.line.node(1).spare_train();
        train.buffer_mut()[..datagram.len()].copy_from_slice(datagram);
        train.set(datagram.len(), datagram.len());
        self.offer_train(train);
    }

    fn offer_train(&mut self, train: Train) {
        let now = self.line.now();
        let node = self.line.node(1);
        let from = SocketAddr::from(([192, 0, 2, 1], 4600));
        node.handle(Input::Datagrams { from: from.into(), interface: 0, train }, now, WALL);
        while let Some(output) = node.poll_output() {
            if let Output::Datagrams { train, .. } = output {
                node.reclaim_train(train);
            }
        }
    }

    fn forwarded(&mut self) -> u64 {
        let now = self.line.now();
        let view = self.line.node(1).view(now, WALL);
        view.counters.get("node_packets_forwarded").copied().unwrap_or_default()
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        let before = self.forwarded();
        for at in 0..self.forgeries.len() {
            let (row, numbered) = (self.forgeries[at].row, self.forgeries[at].numbered);
            let mut datagram = std::mem::take(&mut self.forgeries[at].datagram);
            samples.time(row, BATCH, || {
                for _ in 0..BATCH {
                    if numbered {
                        self.number += 1;
                        datagram[NUMBER].copy_from_slice(&self.number.to_be_bytes());
                    }
                    self.offer(&datagram);
                }
            });
            self.forgeries[at].datagram = datagram;
        }
        self.loopback(samples)?;
        if self.forwarded() != before {
            return Err(BenchError::Believed("by a relay"));
        }
        self.line.run_for(Duration::from_millis(1));
        Ok(())
    }

    /// The same through a socket: receiving alone, then receiving and refusing.
    fn loopback(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        // The dearest: it has to be opened whole before it is known to be false.
        let mut datagram = self.forgeries[2].datagram.clone();
        datagram.resize(FORGED_LEN, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..WAITING {
            self.loopback.send(&datagram)?;
        }
        samples.time(Row::UdpReceive, WAITING, || {
            (0..WAITING).try_for_each(|_| self.loopback.receive(&mut buffer).map(drop))
        })?;
        for _ in 0..WAITING {
            self.number += 1;
            datagram[NUMBER].copy_from_slice(&self.number.to_be_bytes());
            self.loopback.send(&datagram)?;
        }
        samples.time(Row::ForgedReceive, WAITING, || {
            (0..WAITING).try_for_each(|_| {
                let mut train = self.line.node(1).spare_train();
                let len = self.loopback.receive(train.buffer_mut())?;
                train.set(len, len);
                self.offer_train(train);
                Ok::<(), BenchError>(())
            })
        })?;
        self.buffer = buffer;
        Ok(())
    }

    /// Offers one forgery of the given kind once more, for whoever times it otherwise.
    pub fn refuse(&mut self, row: Row) {
        let Some(at) = self.forgeries.iter().position(|forgery| forgery.row == row) else { return };
        let mut datagram = std::mem::take(&mut self.forgeries[at].datagram);
        if self.forgeries[at].numbered {
            self.number += 1;
            datagram[NUMBER].copy_from_slice(&self.number.to_be_bytes());
        }
        self.offer(&datagram);
        self.forgeries[at].datagram = datagram;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_forged_goes_on_and_genuine_traffic_still_does() {
        let (mut flood, mut samples) = (Flood::new().unwrap(), Samples::default());
        for _ in 0..20 {
            flood.round(&mut samples).unwrap();
        }
        let rows = (Row::SendBulk, Some(Row::ForwardBulk), Row::ReceiveBulk);
        flood.line.pass(Load::Bulk, rows, &mut samples).unwrap();
    }
}
