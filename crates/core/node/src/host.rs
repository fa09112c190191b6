//! What the host and the node say to each other about a packet: the facts of a virtio-net header, and packets in pieces.

use std::ops::Range;

use crate::packet::flow_of;
use crate::train::Train;

/// What the host has left undone in a packet, or asks to have done (virtio 1.2, section 5.1.6.2). Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum holds the sum of the pseudo-header only.
    pub checksum: Option<PartialChecksum>,
    /// The packet is as long as many, to be cut into segments.
    pub segments: Option<Segments>,
}

/// A checksum that is not finished: the 16-bit sum from `start` to the end of the packet, to be put at `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Bytes from the front of the IPv6 packet to where the sum begins.
    pub start: u16,
    /// Bytes from there to the checksum field.
    pub offset: u16,
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// By which protocol.
    pub protocol: Transport,
    /// Payload bytes of each segment but the last.
    pub size: u16,
}

/// The two protocols that are cut and put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Transport {
    /// The protocol's number in an IPv6 header.
    pub const fn next_header(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Bytes from the front of its header to its checksum.
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// The one of that number, if it is one of the two.
    pub const fn of(next_header: u8) -> Option<Self> {
        match next_header {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// What the host's interface takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostOffload {
    /// It finishes checksums and takes TCP super-packets.
    pub tcp: bool,
    /// It takes UDP super-packets as well.
    pub udp: bool,
}

/// A packet for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    /// What is left to the host.
    pub offload: Offload,
    /// Bytes of the headers in front; 0 unless there are segments.
    pub header_len: u16,
    /// Which of the delivery's pieces it is made of.
    pub(crate) pieces: Range<usize>,
}

/// Packets for the host, in the buffer they arrived in.
#[derive(Debug, Default)]
pub struct Delivery {
    pub(crate) train: Train,
    pub(crate) packets: Vec<HostPacket>,
    pub(crate) pieces: Vec<Range<usize>>,
}

impl Delivery {
    /// One packet in one piece that is no super-packet.
    pub fn whole(packet: Vec<u8>, checksum: Option<PartialChecksum>) -> Self {
        let piece = 0..packet.len();
        let whole = HostPacket { offload: Offload { checksum, segments: None }, header_len: 0, pieces: 0..1 };
        Self { train: Train::single(packet), packets: vec![whole], pieces: vec![piece] }
    }

    /// Each packet with the pieces that make it up, in order.
    pub fn packets(&self) -> impl Iterator<Item = (&HostPacket, impl ExactSizeIterator<Item = &[u8]>)> {
        self.packets.iter().map(|packet| {
            let pieces = self.pieces[packet.pieces.clone()].iter();
            (packet, pieces.map(|piece| &self.train.bytes()[piece.clone()]))
        })
    }

    /// The flow that a packet belongs to: the same number for all packets of one conversation in one direction.
    pub fn flow(&self, packet: &HostPacket) -> u32 {
        let first = self.pieces.get(packet.pieces.start).and_then(|piece| self.train.bytes().get(piece.clone()));
        flow_of(first.unwrap_or_default())
    }

    /// Bytes of the buffer that they are in.
    pub const fn len(&self) -> usize {
        self.train.len()
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets there are.
    pub const fn count(&self) -> usize {
        self.packets.len()
    }
}
