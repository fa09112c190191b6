//! The network device that smoltcp believes to have: one packet in, packets out into a [`Burst`].

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::burst::Burst;

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
            Self::Packets(packets) => packets.push_with(len, write),
            Self::Nowhere(dropped) => {
                *dropped += 1;
                write(&mut vec![0; len])
            }
        }
    }
}
