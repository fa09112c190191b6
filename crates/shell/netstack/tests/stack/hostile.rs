//! Packets that no honest peer sends.

use std::net::Ipv6Addr;
use std::time::Duration;

use proptest::prelude::*;
use x0t_netstack::stack::ConnectionId;

use crate::net::{ALPHA, BETA, Net, pattern};

/// A TCP segment with a right checksum, whatever else is wrong with it.
pub struct Segment {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub ports: (u16, u16),
    pub sequence: u32,
    pub acknowledges: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            source: ALPHA,
            destination: BETA,
            ports: (1, 80),
            sequence: 1,
            acknowledges: 0,
            flags: 0x10,
            window: 1_000,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

pub fn segment(it: &Segment) -> Vec<u8> {
    let mut options = it.options.clone();
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    let length = 20 + options.len() + it.payload.len();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(length as u16).to_be_bytes());
    packet.extend_from_slice(&[6, 64]);
    packet.extend_from_slice(&it.source.octets());
    packet.extend_from_slice(&it.destination.octets());
    packet.extend_from_slice(&it.ports.0.to_be_bytes());
    packet.extend_from_slice(&it.ports.1.to_be_bytes());
    packet.extend_from_slice(&it.sequence.to_be_bytes());
    packet.extend_from_slice(&it.acknowledges.to_be_bytes());
    packet.extend_from_slice(&[((20 + options.len()) as u8 / 4) << 4, it.flags]);
    packet.extend_from_slice(&it.window.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&options);
    packet.extend_from_slice(&it.payload);
    fix_checksum(&mut packet);
    packet
}

/// Makes the checksum of a TCP segment right again (RFC 9293, 3.1).
fn fix_checksum(packet: &mut [u8]) {
    if packet.len() < 60 || packet[6] != 6 {
        return;
    }
    packet[56..58].fill(0);
    let length = (packet.len() - 40) as u32;
    let words = packet[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + 6 + length;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn ends(net: &mut Net, ids: (ConnectionId, ConnectionId)) {
    let now = net.now;
    net.alpha().release(ids.0, now);
    net.beta().release(ids.1, now);
    // A mutation may have asked for a further one.
    net.run_for(Duration::from_secs(1));
    for (id, ..) in net.sides[1].offers.clone() {
        net.beta().release(id, now);
    }
    net.lost_per_million = 0;
    net.run_for(Duration::from_secs(300));
    for side in &mut net.sides {
        assert_eq!(side.stack.stats().connections_broken, 0, "a panic was caught");
        assert_eq!(side.stack.stats().connections, 0);
    }
    net.connection();
}

#[test]
fn a_forger_who_cannot_see_the_sequence_numbers_does_not_end_a_connection() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    net.record = Some(Vec::new());
    net.write(0, near, &mut &b"x"[..]);
    net.step();
    let real = net.record.take().unwrap()[0].clone();
    for flags in [0x04, 0x14, 0x02, 0x12, 0x01, 0x11] {
        let mut forged = real.clone();
        forged[44] ^= 0x40;
        forged[53] = flags;
        fix_checksum(&mut forged);
        let now = net.now;
        net.beta().handle_packet(&forged, now);
    }
    let mut read = Vec::new();
    net.until("it arrives all the same", |net| {
        net.read(1, far, &mut read);
        read == b"x"
    });
    ends(&mut net, (near, far));
}

#[derive(Clone, Debug)]
struct Mutation {
    packet: usize,
    to_alpha: bool,
    changes: Vec<(usize, u8)>,
    keeps_checksum: bool,
    truncate: Option<usize>,
    wait_ms: u64,
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let mutation = (
        any::<usize>(),
        any::<bool>(),
        // Mostly the TCP header: sequence, acknowledgement, offset, flags, window, options.
        proptest::collection::vec((prop_oneof![4 => 44_usize..76, 1 => 0_usize..120], any::<u8>()), 0..5),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.1, 0_usize..100),
        0_u64..300,
    );
    let mutation = mutation.prop_map(|(packet, to_alpha, changes, keeps_checksum, truncate, wait_ms)| Mutation {
        packet,
        to_alpha,
        changes,
        keeps_checksum,
        truncate,
        wait_ms,
    });
    proptest::collection::vec(mutation, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A peer that follows the conversation and then does whatever it likes with it.
    #[test]
    fn no_peer_breaks_the_stack(mutations in mutations()) {
        let mut net = Net::new();
        net.record = Some(Vec::new());
        net.lost_per_million = 100_000;
        let (near, far) = net.connection();
        let bytes = pattern(100_000);
        let mut left = [bytes.as_slice(), bytes.as_slice()];
        let mut read = Vec::new();
        for mutation in mutations {
            for (side, id) in [(0, near), (1, far)] {
                let stack = &mut net.sides[side].stack;
                if stack.send_with(id, |_| (0, ())).is_ok() {
                    net.write(side, id, &mut left[side]);
                }
                if net.sides[side].stack.receive_with(id, |_| (0, ())).is_ok() {
                    net.read(side, id, &mut read);
                }
            }
            net.run_for(Duration::from_millis(mutation.wait_ms));
            let record = net.record.as_ref().unwrap();
            let mut packet = record[mutation.packet % record.len()].clone();
            for (at, value) in &mutation.changes {
                if let Some(byte) = packet.get_mut(*at) {
                    *byte = *value;
                }
            }
            if let Some(length) = mutation.truncate {
                packet.truncate(length.max(40));
                let payload = (packet.len() - 40) as u16;
                packet[4..6].copy_from_slice(&payload.to_be_bytes());
            }
            let (source, destination) = if mutation.to_alpha { (BETA, ALPHA) } else { (ALPHA, BETA) };
            packet[8..24].copy_from_slice(&source.octets());
            packet[24..40].copy_from_slice(&destination.octets());
            if !mutation.keeps_checksum {
                fix_checksum(&mut packet);
            }
            let now = net.now;
            net.sides[usize::from(!mutation.to_alpha)].stack.handle_packet(&packet, now);
        }
        ends(&mut net, (near, far));
    }

    #[test]
    fn no_segment_out_of_nowhere_breaks_the_stack(
        flags in any::<u8>(), sequence in any::<u32>(), acknowledges in any::<u32>(), window in any::<u16>(),
        options in proptest::collection::vec(any::<u8>(), 0..40), payload in proptest::collection::vec(any::<u8>(), 0..80),
        again in any::<u8>(),
    ) {
        let mut net = Net::new();
        net.beta().expose(80);
        let mut it = Segment { sequence, acknowledges, flags, window, options, payload, ..Segment::default() };
        let now = net.now;
        net.beta().handle_packet(&segment(&it), now);
        net.run_for(Duration::from_millis(20));
        it.flags = again;
        it.sequence = it.sequence.wrapping_add(1);
        let now = net.now;
        net.beta().handle_packet(&segment(&it), now);
        net.run_for(Duration::from_secs(20));
        assert_eq!(net.beta().stats().connections_broken, 0, "a panic was caught");
    }
}
