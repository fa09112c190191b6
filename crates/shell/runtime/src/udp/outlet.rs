//! The half of a socket that sends, shared by all threads that do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use quinn_udp::{Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
use socket2::Socket as RawSocket;
use x0t_node::Train;

use super::UdpStats;

/// Unreachable addresses remembered between two looks.
const UNREACHABLE_MAX: usize = 256;
/// How long a worker waits for room in the kernel before it looks again whether there is some, and how often.
const ROOM_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const ROOM_WAITS_MAX: usize = 4;

/// What the kernel said about destinations. Bounded, for there is no telling how many.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) unreachable: BTreeSet<SocketAddr>,
    /// The shortest datagram that was too long for the device.
    pub(super) too_big: BTreeMap<SocketAddr, usize>,
}

impl Hints {
    pub(super) fn note_unreachable(&mut self, to: SocketAddr) {
        if self.unreachable.len() < UNREACHABLE_MAX {
            self.unreachable.insert(to);
        }
    }

    pub(super) fn note_too_big(&mut self, to: SocketAddr, len: usize) {
        if self.too_big.len() < UNREACHABLE_MAX || self.too_big.contains_key(&to) {
            self.too_big.entry(to).and_modify(|least| *least = len.min(*least)).or_insert(len);
        }
    }
}

/// A train on its way into the kernel.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) to: SocketAddr,
    pub(super) train: Train,
    /// Bytes that the kernel has taken, or has refused for good.
    pub(super) done: usize,
}

impl Sending {
    pub(super) fn new(to: SocketAddr, train: Train) -> Self {
        Self { to, train, done: 0 }
    }

    /// Datagrams that the kernel has not taken.
    pub(super) fn left(&self) -> u64 {
        (self.train.len() - self.done).div_ceil(self.train.stride().max(1)) as u64
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) raw: RawSocket,
    pub(super) state: UdpSocketState,
}

impl Outlet {
    /// Hands a train to the kernel, in as few calls as it can be done. False if the kernel takes no more for now.
    pub(super) fn try_send(
        &self,
        sending: &mut Sending,
        segments: bool,
        hints: &mut Hints,
        stats: &mut UdpStats,
    ) -> bool {
        let (len, stride) = (sending.train.len(), sending.train.stride());
        while sending.done < len {
            let at_once = if segments { self.state.max_gso_segments().max(1) * stride } else { stride };
            let end = len.min(sending.done + at_once);
            let bytes = &sending.train.bytes()[sending.done..end];
            let segment_size = (bytes.len() > stride).then_some(stride);
            match self.try_send_once(sending.to, bytes, segment_size, hints, stats) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The device cannot segment: the kernel layer has noted it, and the same bytes go again one by one.
                Err(_) if segment_size.is_some() && self.state.max_gso_segments() <= 1 => {}
                _ => sending.done = end,
            }
        }
        true
    }

    fn try_send_once(
        &self,
        to: SocketAddr,
        bytes: &[u8],
        segment_size: Option<usize>,
        hints: &mut Hints,
        stats: &mut UdpStats,
    ) -> io::Result<()> {
        let transmit = Transmit { destination: to, ecn: None, contents: bytes, segment_size, src_ip: None };
        let count = bytes.len().div_ceil(segment_size.unwrap_or(bytes.len()).max(1)) as u64;
        let send = || self.state.try_send((&self.raw).into(), &transmit);
        let mut sent = send();
        let is_old_news =
            |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused || quinn_udp::is_msg_size_err(error);
        if sent.as_ref().is_err_and(is_old_news) {
            // Not about this datagram, or nobody knows: an ICMP error may have arrived since. Reading the queue clears it, and what
            // the kernel then still refuses, it refuses itself.
            self.read_errors(hints, stats);
            sent = send();
        }
        match &sent {
            Ok(()) => {
                stats.datagrams_sent += count;
                stats.bytes_sent += bytes.len() as u64;
                stats.send_calls += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if quinn_udp::is_msg_size_err(error) => {
                stats.datagrams_dropped_too_big += count;
                hints.note_too_big(to, segment_size.unwrap_or(bytes.len()));
            }
            Err(_) if segment_size.is_some() && self.state.max_gso_segments() <= 1 => stats.segmentation_refused += 1,
            Err(error) => {
                tracing::debug!(%to, %error, "the kernel refused a datagram");
                stats.datagrams_refused += count;
                hints.note_unreachable(to);
            }
        }
        sent
    }

    pub(super) fn read_errors(&self, hints: &mut Hints, stats: &mut UdpStats) {
        for _ in 0..UNREACHABLE_MAX {
            let mut payload = [0; 1];
            // The control message would say who reported it; the address of the message is the destination it is about.
            let mut control = RecvAncillaryBuffer::default();
            let flags = RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT;
            let Ok(message) = recvmsg(&self.raw, &mut [IoSliceMut::new(&mut payload)], &mut control, flags) else {
                return;
            };
            stats.icmp_errors += 1;
            if let Some(to) = message.address.and_then(|address| SocketAddr::try_from(address).ok()) {
                hints.note_unreachable(to);
            }
        }
    }
}

/// What was counted and heard by those who send beside the event loop, since it looked last.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    pub(super) hints: Hints,
    pub(super) stats: UdpStats,
}

/// Sends for the event loop, on another thread. May wait for the kernel.
#[derive(Clone, Debug)]
pub struct UdpSender {
    pub(super) v4: Option<Arc<Outlet>>,
    pub(super) v6: Option<Arc<Outlet>>,
    pub(super) segments: bool,
    pub(super) elsewhere: Arc<Mutex<Elsewhere>>,
}

impl UdpSender {
    /// Sends, and waits while the kernel takes no more, 0.2 s at most; what it does not take then is dropped and counted. Gives the train
    /// back.
    pub fn send(&self, to: SocketAddr, train: Train) -> Train {
        let (mut hints, mut stats) = (Hints::default(), UdpStats::default());
        let outlet = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut sending = Sending::new(to, train);
        match outlet {
            Some(outlet) => {
                let mut waits = 0;
                while !outlet.try_send(&mut sending, self.segments, &mut hints, &mut stats) {
                    if waits == 0 {
                        stats.datagrams_queued += sending.left();
                    }
                    if waits == ROOM_WAITS_MAX {
                        stats.datagrams_dropped_queue_full += sending.left();
                        break;
                    }
                    waits += 1;
                    // An interrupted wait is one of the few.
                    let _ = poll(&mut [PollFd::from_borrowed_fd(outlet.raw.as_fd(), PollFlags::OUT)], Some(&ROOM_WAIT));
                }
            }
            None => {
                stats.datagrams_dropped_no_socket += sending.train.count() as u64;
                hints.note_unreachable(to);
            }
        }
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        elsewhere.stats.add(&stats);
        hints.unreachable.into_iter().for_each(|to| elsewhere.hints.note_unreachable(to));
        hints.too_big.into_iter().for_each(|(to, len)| elsewhere.hints.note_too_big(to, len));
        sending.train
    }
}
