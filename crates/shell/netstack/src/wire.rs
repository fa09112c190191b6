//! The network device that smoltcp believes to have: one packet in, packets out into a [`Burst`].

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::burst::Burst;

const IPV6_HEADER_LEN: usize = 40;
/// Where the IPv6 header says what follows it, and what stands there for TCP.
const NEXT_HEADER: usize = 6;
const TCP: u8 = 6;
const TCP_HEADER_LEN: usize = 20;
/// Where a segment has its flags, and the one of its first.
const FLAGS: usize = 13;
const SYN: u8 = 0x02;

/// Where packets leave, and how much room is left there.
#[derive(Debug)]
pub struct Exit<'a> {
    /// Packets that wait to be carried.
    pub packets: &'a mut Burst,
    /// No more than this many wait.
    pub packets_max: usize,
    /// Answers for which there was no room.
    pub dropped: &'a mut u64,
}

impl Exit<'_> {
    /// Whether nothing more fits.
    pub const fn is_full(&self) -> bool {
        self.packets.len() >= self.packets_max
    }

    /// The same exit for a shorter while.
    pub const fn reborrow(&mut self) -> Exit<'_> {
        Exit { packets: self.packets, packets_max: self.packets_max, dropped: self.dropped }
    }
}

/// A device for the time of one call.
#[derive(Debug)]
pub struct Wire<'a> {
    arriving: Option<&'a [u8]>,
    exit: Exit<'a>,
    mtu: usize,
}

impl<'a> Wire<'a> {
    /// A device at which `arriving` waits.
    pub const fn new(arriving: Option<&'a [u8]>, exit: Exit<'a>, mtu: usize) -> Self {
        Self { arriving, exit, mtu }
    }
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Arriving<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Leaving<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Arriving<'_>, Leaving<'_>)> {
        let packet = self.arriving.take()?;
        Some((Arriving(packet), Leaving::through(&mut self.exit)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        (!self.exit.is_full()).then(|| Leaving::through(&mut self.exit))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet to be read.
#[derive(Debug)]
pub struct Arriving<'a>(&'a [u8]);

impl RxToken for Arriving<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Advertises one unit of window less than smoltcp would.
///
/// A window is rounded down to the unit of its scale, from a right edge that stands still, so that the edge which is advertised moves
/// left by up to a unit as bytes arrive: the window shrinks (RFC 7323, 2.4). smoltcp takes nothing beyond the edge it has advertised
/// last, and so drops the end of a segment that an earlier edge allowed; what follows waits for a retransmission timeout. With one
/// unit less no edge on the wire was ever beyond a later one of its own. A SYN's window is not scaled and stays.
fn hold_back_window(packet: &mut [u8]) {
    let is_tcp = packet.get(NEXT_HEADER) == Some(&TCP);
    let Some(segment) = packet.get_mut(IPV6_HEADER_LEN..).filter(|segment| is_tcp && segment.len() >= TCP_HEADER_LEN)
    else {
        return;
    };
    let window = u16::from_be_bytes([segment[14], segment[15]]);
    if segment[FLAGS] & SYN != 0 || window == 0 {
        return;
    }
    segment[14..16].copy_from_slice(&(window - 1).to_be_bytes());
    // RFC 1624: HC' = ~(~HC + ~m + m').
    let sum = u32::from(!u16::from_be_bytes([segment[16], segment[17]])) + u32::from(!window) + u32::from(window - 1);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    segment[16..18].copy_from_slice(&(!sum).to_be_bytes());
}

/// Room for a packet. An answer to a packet that arrived may find none; it is then lost, as any packet may be.
#[derive(Debug)]
pub enum Leaving<'a> {
    /// It goes here.
    Packets(&'a mut Burst),
    /// It goes nowhere, and this counts it.
    Nowhere(&'a mut u64),
}

impl<'a> Leaving<'a> {
    fn through(exit: &'a mut Exit<'_>) -> Self {
        if exit.is_full() { Self::Nowhere(exit.dropped) } else { Self::Packets(exit.packets) }
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        match self {
            Self::Packets(packets) => packets.push_with(len, |packet| {
                let written = write(packet);
                hold_back_window(packet);
                written
            }),
            Self::Nowhere(dropped) => {
                *dropped += 1;
                write(&mut vec![0; len])
            }
        }
    }
}
