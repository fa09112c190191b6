//! From the mesh to this host: to the ports that were exposed, and to no other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use socket2::Type;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use x0t_model::OverlayPrefix;

use super::registry::{Counters, Exposed};
use super::{Forwarding, ForwardingError, forwards};
use crate::datagrams;
use crate::names::address_of;
use crate::network::{Connected, DatagramPort, Network, confined, connect_kernel};
use crate::overlay::Offer;
use crate::relay::relay;
use crate::spec::{Exposure, MeshPort, Protocol};

/// Ports exposed at once.
const EXPOSED_MAX: usize = 256;

/// Exposes a port.
pub fn expose(forwarding: &Forwarding, exposure: Exposure) -> Result<(), ForwardingError> {
    let port = exposure.mesh_port();
    let domain = &forwarding.0.trust_domain;
    let admitted = exposure.from.iter().map(|node| address_of(node, domain)).collect::<Result<Vec<_>, _>>()?;
    let mesh = OverlayPrefix::of(domain);
    let exposed = Exposed { to: exposure.to, mesh, admitted, counters: Arc::<Counters>::default() };
    let mut registry = forwarding.registry();
    if registry.exposed(port).is_some() {
        return Err(ForwardingError::Exposed(port));
    }
    if registry.exposed_count() >= EXPOSED_MAX {
        return Err(ForwardingError::TooMany(EXPOSED_MAX));
    }
    let address = SocketAddrV6::new(forwarding.0.network.address(), exposure.port, 0, 0);
    let task = match (&forwarding.0.network, exposure.protocol) {
        (Network::Stack(overlay), Protocol::Tcp) => {
            overlay.expose(exposure.port);
            None
        }
        (Network::Kernel(_, interface), Protocol::Tcp) => {
            let listener = confined(Type::STREAM, address, interface);
            let listener = listener
                .map_err(|source| ForwardingError::Listen { address: SocketAddr::from(address).into(), source })?
                .into();
            Some(forwarding.0.runtime.spawn(serve_connections(listener, exposed.clone())))
        }
        (Network::Stack(overlay), Protocol::Udp) => {
            let front = overlay.open_udp(Some(exposure.port)).map(DatagramPort::Overlay);
            let front = front
                .map_err(|source| ForwardingError::Listen { address: SocketAddr::from(address).into(), source })?;
            Some(forwarding.0.runtime.spawn(serve_datagrams(front, exposed.clone())))
        }
        (Network::Kernel(_, interface), Protocol::Udp) => {
            let socket = confined(Type::DGRAM, address, interface);
            let socket = socket
                .map_err(|source| ForwardingError::Listen { address: SocketAddr::from(address).into(), source })?;
            let exposed = exposed.clone();
            Some(forwarding.0.runtime.spawn(async move {
                let Ok(socket) = UdpSocket::from_std(socket.into()) else { return };
                serve_datagrams(DatagramPort::kernel(socket), exposed).await;
            }))
        }
    };
    registry.insert_exposed(exposure, exposed);
    if let Some(task) = task {
        registry.serve_exposed(port, task.abort_handle());
    }
    Ok(())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Answers the connections that peers ask the stack for. Each is accepted once the local port has accepted, so that a service that does
/// not run is a refused connection.
pub async fn answer(forwarding: Forwarding, mut offers: mpsc::Receiver<Offer>) {
    while let Some(offer) = offers.recv().await {
        let port = MeshPort { protocol: Protocol::Tcp, port: offer.port };
        let Some(exposed) = forwarding.registry().exposed(port).cloned() else { continue };
        let task = tokio::spawn(answer_one(offer, exposed));
        forwarding.registry().serve_exposed(port, task.abort_handle());
    }
}

async fn answer_one(offer: Offer, exposed: Exposed) {
    let from = offer.from;
    if !exposed.admits(*from.ip()) {
        exposed.counters.failed();
        tracing::debug!(%from, "a node that is not admitted asked for an exposed port");
        return;
    }
    match connect_kernel(local(exposed.to)).await {
        Ok(service) => pass_on(Connected::Overlay(offer.accept()), from, Connected::Kernel(service), &exposed).await,
        Err(error) => {
            exposed.counters.failed();
            tracing::debug!(%error, %from, port = exposed.to, "nobody serves an exposed port");
        }
    }
}

async fn pass_on(peer: Connected, from: SocketAddrV6, service: Connected, exposed: &Exposed) {
    let _counted = exposed.counters.opened();
    if let Err(error) = relay(peer, service).await {
        tracing::debug!(%error, %from, port = exposed.to, "a connection to an exposed port was broken off");
    }
}

async fn serve_connections(listener: std::net::TcpListener, exposed: Exposed) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    forwards::accept(
        |context| listener.poll_accept(context),
        |peer, from: SocketAddr| {
            let exposed = exposed.clone();
            async move {
                let peer_stream = Connected::Kernel(peer);
                let SocketAddr::V6(from) = from else { return peer_stream.break_off() };
                if !exposed.admits(*from.ip()) {
                    exposed.counters.failed();
                    return peer_stream.break_off();
                }
                match connect_kernel(local(exposed.to)).await {
                    Ok(service) => pass_on(peer_stream, from, Connected::Kernel(service), &exposed).await,
                    Err(_) => {
                        exposed.counters.failed();
                        peer_stream.break_off();
                    }
                }
            }
        },
    )
    .await;
}

async fn serve_datagrams(front: DatagramPort, exposed: Exposed) {
    let admits = |from| matches!(from, SocketAddr::V6(from) if exposed.admits(*from.ip()));
    let open = || async { UdpSocket::bind(local(0)).await.map(DatagramPort::kernel) };
    datagrams::relay(Arc::new(front), local(exposed.to), admits, open).await;
}
