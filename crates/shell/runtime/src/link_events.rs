//! What the kernel knows about interfaces, as soon as it knows it.
//!
//! Subscribes to RTNLGRP_LINK and the address groups, then asks for the present state of everything; when the kernel had to drop
//! messages (ENOBUFS) it asks again. An interface can pass packets if it is administratively up, has a carrier, is operational
//! (IFF_UP, IFF_LOWER_UP, IFF_RUNNING), and has not just lost the last of its addresses.
//!
//! The kernel reports an interface that is set down, deleted or moved away at once. A lost carrier passes through its `linkwatch`
//! work queue, which reports the first one at once and further ones at most once a second; the routing core's own detector covers
//! those.

mod interfaces;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::constants::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK};
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use tokio::sync::mpsc;

use interfaces::Interfaces;

/// The kernel never sends more than this in one datagram (NLMSG_GOODSIZE and dumps are at most 32 KiB).
const MESSAGE_BYTES: usize = 1 << 16;

/// Changes that wait to be taken; those behind them wait in the socket.
const CHANGES_MAX: usize = 16;

/// Something about an interface changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// Interface index.
    pub index: u32,
    /// Whether packets can pass.
    pub up: bool,
}

/// A subscription to the kernel's news about interfaces.
pub struct LinkEvents {
    socket: TokioSocket,
    buffer: Vec<u8>,
    interfaces: Interfaces,
    /// What to ask for next; the kernel answers one dump at a time.
    dumps: VecDeque<Dump>,
    changes: VecDeque<LinkChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dump {
    Links,
    Addresses,
}

impl std::fmt::Debug for LinkEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkEvents").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

impl LinkEvents {
    /// Subscribes. No privilege is needed. The state of every interface is reported first.
    ///
    /// # Errors
    /// If the kernel has no such socket for us.
    pub async fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        let mut events = Self {
            socket,
            buffer: Vec::with_capacity(MESSAGE_BYTES),
            interfaces: Interfaces::default(),
            dumps: VecDeque::new(),
            changes: VecDeque::new(),
        };
        events.resynchronise().await?;
        Ok(events)
    }

    /// The next change. Cancel safe.
    ///
    /// # Errors
    /// If the socket is unusable; there will be no further news.
    pub async fn next(&mut self) -> io::Result<LinkChange> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            self.buffer.clear();
            let received = poll_fn(|context| self.socket.poll_recv_from(context, &mut self.buffer)).await;
            match received {
                // Only the kernel (port 0) is asked and believed.
                Ok(sender) if sender.port_number() == 0 => self.take_in().await?,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    tracing::debug!("the kernel dropped link events; asking for everything");
                    self.resynchronise().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes all changes on, from a task of its own, and ends with an error if that is what they end with.
    pub fn pass_on(mut self) -> mpsc::Receiver<io::Result<LinkChange>> {
        let (sender, receiver) = mpsc::channel(CHANGES_MAX);
        tokio::spawn(async move {
            loop {
                let change = self.next().await;
                let last = change.is_err();
                if sender.send(change).await.is_err() || last {
                    return;
                }
            }
        });
        receiver
    }

    async fn resynchronise(&mut self) -> io::Result<()> {
        self.interfaces.begin_dump();
        let idle = self.dumps.is_empty();
        // A dump that runs already may miss what was dropped: it is finished, and both follow once more.
        self.dumps.truncate(1);
        self.dumps.extend([Dump::Links, Dump::Addresses]);
        if idle { self.request_dump().await } else { Ok(()) }
    }

    async fn request_dump(&mut self) -> io::Result<()> {
        let Some(&dump) = self.dumps.front() else { return Ok(()) };
        let question = match dump {
            Dump::Links => RouteNetlinkMessage::GetLink(LinkMessage::default()),
            Dump::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.interfaces.generation();
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes).await.map(drop)
    }

    async fn take_in(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut dump_done = false;
        for bytes in messages(&buffer) {
            // What this version of the parser does not know is nothing that was asked for.
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { continue };
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => {
                    // News that waited in the socket is older than the list and proves nothing about who is still there.
                    let is_listed = message.header.flags & NLM_F_MULTIPART != 0
                        && message.header.sequence_number == self.interfaces.generation();
                    self.changes.extend(self.interfaces.handle(&inner, is_listed));
                }
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => dump_done = true,
                _ => {}
            }
        }
        self.buffer = buffer;
        if dump_done {
            if self.dumps.pop_front() == Some(Dump::Links) && !self.dumps.contains(&Dump::Links) {
                self.changes.extend(self.interfaces.end_dump());
            }
            self.request_dump().await?;
        }
        Ok(())
    }
}

/// The netlink messages in one datagram: each begins with its length and is padded to a multiple of four.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let message = bytes.get(..length).filter(|message| !message.is_empty())?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_cut_into_its_messages_and_nonsense_ends_it() {
        let mut bytes = Vec::new();
        for length in [5_u32, 8] {
            bytes.extend(length.to_ne_bytes());
            bytes.extend([7; 4]);
        }
        let lengths = |bytes: &[u8]| messages(bytes).map(<[u8]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&bytes), [5, 8]);
        assert_eq!(lengths(&bytes[..12]), [5]);
        assert_eq!(lengths(&0_u32.to_ne_bytes()), [0_usize; 0]);
        assert_eq!(lengths(&[1, 2]), [0_usize; 0]);
    }
}
