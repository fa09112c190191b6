//! The host's interface into the mesh.

mod mtu;
mod vnet;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};
use x0t_node::{ENCAPSULATION, HostOffload, HostPacket, Offload, TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX};

use crate::poller::{EventFlags, Poller, Ready, Source};

/// What the interface is called if nothing else is said.
pub const DEFAULT_NAME: &str = "x0t0";

pub use mtu::MTU_RANGE;

/// Pieces of one packet: a virtio-net header and as many segments as a super-packet has at most.
const PIECES_MAX: usize = 1 + 64;

/// Whether the host gets an interface into the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunMode {
    /// If it may: with `CAP_NET_ADMIN` and `/dev/net/tun`. Otherwise say so once and go on without.
    #[default]
    Auto,
    /// No. The mesh is still used by `x0t ping` and the like, and the node relays.
    Off,
    /// Yes, and fail if that is not possible.
    Require,
}

/// What the interface looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Its name, at most 15 bytes (IFNAMSIZ).
    pub name: String,
    /// The node's overlay address.
    pub address: Ipv6Addr,
    /// Everything that lies behind the interface: network and prefix length.
    pub network: (Ipv6Addr, u8),
    /// The largest packet it takes, in [`MTU_RANGE`]; what suits the host's other interfaces if nothing is said.
    pub mtu: Option<u16>,
    /// Whether to exchange super-packets and unfinished checksums with the kernel, if it can.
    pub offload: bool,
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No device.
    #[error(
        "cannot create the interface {name}; it needs /dev/net/tun and CAP_NET_ADMIN (run as root, or use --tun off)"
    )]
    Create {
        /// The interface.
        name: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A device, but no way to set it up.
    #[error("cannot {step} the interface {name}")]
    SetUp {
        /// The interface.
        name: String,
        /// What failed.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An interface that is up. It disappears when this value is dropped.
pub struct Tun {
    writer: TunWriter,
    name: String,
    /// Whether the poller has said that there is something, or there is likely to be.
    ready: bool,
    offload: HostOffload,
}

/// Hands packets to the host, on whichever thread.
#[derive(Clone)]
pub struct TunWriter {
    device: Arc<SyncDevice>,
    /// Whether each packet has a virtio-net header in front.
    vnet: bool,
    /// Whether the kernel has refused a super-packet.
    refused: Arc<AtomicBool>,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tun({})", self.name)
    }
}

impl Tun {
    /// Creates the interface and sets MTU, address and route.
    ///
    /// The address is a /128 and the network a route, so that the kernel neither resolves neighbours nor takes every address of the
    /// network for its own.
    ///
    /// # Errors
    /// [`TunError::Create`] without the right to do so, [`TunError::SetUp`] with the step that the kernel refused.
    pub async fn open(config: &TunConfig) -> Result<Self, TunError> {
        let name = config.name.clone();
        let build = |offload| {
            let device = DeviceBuilder::new().name(&name).enable(false).offload(offload).build_sync()?;
            device.set_nonblocking(true)?;
            Ok(device)
        };
        let device = if config.offload { build(true).or_else(|_| build(false)) } else { build(false) };
        let device = device.map_err(|source: io::Error| TunError::Create { name: name.clone(), source })?;
        let index = device.if_index().map_err(|source| set_up_error(&name, "find", source))?;
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| set_up_error(&name, "open netlink for", source))?;
        let connection = tokio::spawn(connection);
        let done = set_up(&handle, index, config).await;
        connection.abort();
        done?;
        let offload = HostOffload { tcp: device.tcp_gso(), udp: device.udp_gso() };
        if config.offload && !(offload.tcp && offload.udp) {
            tracing::info!(?offload, interface = name, "the kernel takes over less than it could");
        }
        let vnet = device.tcp_gso();
        let writer = TunWriter { device: Arc::new(device), vnet, refused: Arc::default() };
        Ok(Self { writer, name, ready: true, offload })
    }

    /// As `mode` says: `Ok(None)` if there is to be none, or if there can be none and `Auto` allows that.
    ///
    /// # Errors
    /// Those of [`Self::open`] if the interface is required.
    pub async fn open_as(mode: TunMode, config: &TunConfig) -> Result<Option<Self>, TunError> {
        match mode {
            TunMode::Off => Ok(None),
            TunMode::Require => Self::open(config).await.map(Some),
            TunMode::Auto => Ok(Self::open(config).await.map(Some).unwrap_or_else(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::info!(%error, cause, "going on without an interface into the mesh");
                None
            })),
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has the interface watched, if packets are wanted.
    ///
    /// # Errors
    /// Those of [`Poller::watch`].
    pub fn watch(&self, poller: &mut Poller, packets: bool) -> io::Result<()> {
        let interest = if packets { EventFlags::IN } else { EventFlags::empty() };
        poller.watch(Source::Interface, &*self.writer.device, interest)
    }

    /// The poller may have found something for [`Self::try_receive`].
    pub fn wake(&mut self, ready: &Ready) {
        self.ready |= !ready.of(Source::Interface).is_empty();
    }

    /// What the kernel takes over.
    pub fn offload(&self) -> HostOffload {
        self.offload
    }

    /// What hands packets to the host on another thread.
    pub fn writer(&self) -> TunWriter {
        self.writer.clone()
    }

    /// Whether the kernel has refused a super-packet since the last look.
    pub fn take_refusal(&self) -> bool {
        self.writer.refused.load(Ordering::Relaxed) && self.writer.refused.swap(false, Ordering::Relaxed)
    }

    /// Gives the kernel no super-packets from here on.
    pub fn refuse_super_packets(&mut self) {
        self.offload = HostOffload::default();
    }

    /// The next packet that the host wants carried, and what is left to do in it.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, `InvalidData` if what the kernel says about it makes no sense; anything else means that the
    /// interface is gone.
    pub fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Offload)> {
        if !self.ready {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut header = [0; vnet::HEADER_LEN];
        let mut slices = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let received = self.writer.device.recv_vectored(&mut slices[usize::from(!self.writer.vnet)..]);
        self.ready = received.is_ok();
        let read = received?;
        if !self.writer.vnet {
            return Ok((read, Offload::default()));
        }
        let length = read.checked_sub(vnet::HEADER_LEN).ok_or(io::ErrorKind::InvalidData)?;
        let offload = vnet::decode(header, length).ok_or(io::ErrorKind::InvalidData)?;
        Ok((length, offload))
    }

    /// Hands a packet to the host.
    ///
    /// # Errors
    /// `WouldBlock` if the host does not keep up, `InvalidInput` for something that the kernel does not take; the packet is then lost.
    pub fn try_send<'p>(
        &mut self,
        packet: &HostPacket,
        pieces: impl ExactSizeIterator<Item = &'p [u8]>,
    ) -> io::Result<()> {
        let sent = self.writer.try_send(packet, pieces);
        // Within this call the kernel has passed it up to its protocols, and what they answer at once (an echo, an acknowledgement) is
        // here already.
        self.ready = true;
        sent
    }
}

impl TunWriter {
    /// See [`Tun::try_send`].
    ///
    /// # Errors
    /// The same.
    pub fn try_send<'p>(&self, packet: &HostPacket, pieces: impl ExactSizeIterator<Item = &'p [u8]>) -> io::Result<()> {
        let header = if self.vnet { vnet::encode(packet) } else { [0; vnet::HEADER_LEN] };
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        if self.vnet {
            slices[0] = IoSlice::new(&header);
            count = 1;
        }
        if count + pieces.len() > PIECES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for piece in pieces {
            slices[count] = IoSlice::new(piece);
            count += 1;
        }
        let sent = self.device.send_vectored(&slices[..count]);
        if let Err(error) = &sent
            && packet.offload.segments.is_some()
            && error.kind() == io::ErrorKind::InvalidInput
        {
            self.refused.store(true, Ordering::Relaxed);
        }
        sent.map(drop)
    }
}

async fn set_up(handle: &Handle, index: u32, config: &TunConfig) -> Result<(), TunError> {
    let failed = |step| move |source: rtnetlink::Error| set_up_error(&config.name, step, source);
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => {
            let links: Vec<_> = handle.link().get().execute().try_collect().await.map_err(failed("find an MTU for"))?;
            mtu::suitable(&links)
        }
    };
    let up = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
    handle.link().change(up).execute().await.map_err(failed("bring up"))?;
    let mut address = handle.address().add(index, IpAddr::V6(config.address), 128);
    // Nobody else is on this link: without duplicate address detection (RFC 4862 section 5.4) the address is usable at once.
    address.message_mut().header.flags.insert(AddressHeaderFlags::Nodad);
    address.execute().await.map_err(failed("set the address of"))?;
    let (network, prefix_length) = config.network;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(network, prefix_length)
        .output_interface(index)
        .build();
    handle.route().add(route).execute().await.map_err(failed("route the mesh to"))?;
    // As many segments as fit one train, so that a super-packet does not become a full one and a remainder, all the way to the far
    // host. A kernel that does not know the attribute makes longer ones, which works as well.
    let segments = (TRAIN_BYTES_MAX / (usize::from(mtu) + ENCAPSULATION)).min(TRAIN_DATAGRAMS_MAX);
    let limit = LinkAttribute::GsoMaxSegs(segments as u32);
    let limited = LinkUnspec::new_with_index(index).append_extra_attribute(limit).build();
    if let Err(error) = handle.link().change(limited).execute().await {
        tracing::debug!(%error, interface = config.name, "super-packets of any length");
    }
    Ok(())
}

fn set_up_error(
    name: &str,
    step: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> TunError {
    TunError::SetUp { name: name.to_owned(), step, source: source.into() }
}
