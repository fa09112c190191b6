//! What of this host is reachable from the mesh, and what of the mesh is reachable from this host: forwards, exposed ports and the
//! SOCKS5 listener. They live on a thread of their own, with the stack if there is one, so that copying their bytes never delays a
//! packet of the event loop.

mod exposed;
mod forwards;
mod registry;
mod unix_listener;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use x0t_model::{Seed, TrustDomain};

use crate::lane::{HostPort, ports};
use crate::limits::Limits;
use crate::names::{NameError, address_of};
use crate::network::Network;
use crate::overlay::{Now, Overlay};
use crate::socks::{self, SocksStats};
use crate::spec::{Destination, Exposure, Forward, Listen, MeshPort};

pub use forwards::{Lease, Notice};
use registry::Registry;
pub use registry::{ExposureView, ForwardView};

/// Offers that wait to be looked at. Further ones are refused.
const OFFERS_MAX: usize = 64;

/// Why something is not forwarded or exposed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// It names no node.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The other end would be this node.
    #[error("{0} is this node itself: connect to the local port directly")]
    Own(Destination),
    /// The local address is taken or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: Listen,
        /// What the operating system said.
        source: io::Error,
    },
    /// The port in the mesh is exposed already.
    #[error("port {0} is exposed already")]
    Exposed(MeshPort),
    /// The port in the mesh is not exposed.
    #[error("port {0} is not exposed")]
    NotExposed(MeshPort),
    /// As many as there may be.
    #[error("there are {0} already, and no more may be")]
    TooMany(usize),
}

/// Starts and stops forwards and exposures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Forwarding(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Handle,
    network: Network,
    trust_domain: TrustDomain,
    registry: Mutex<Registry>,
    socks: Arc<socks::Counters>,
}

/// The thread that forwarding runs on. It ends when this is dropped, and all connections with it.
#[derive(Debug)]
pub struct ForwardingThread {
    _alive: oneshot::Sender<()>,
}

/// Whose forwarding it is.
#[derive(Clone, Debug)]
pub struct Home {
    /// The node's mesh.
    pub trust_domain: TrustDomain,
    /// The node's overlay address.
    pub address: Ipv6Addr,
}

impl Forwarding {
    /// On a host whose kernel has an interface of this name into the mesh.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn over_kernel(home: Home, interface: &str) -> io::Result<(Self, ForwardingThread)> {
        let network = Network::Kernel(home.address, interface.to_owned());
        Self::start(home, network)
    }

    /// On a host without: the stack owns the overlay address, and the event loop exchanges packets with it through the port.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn over_stack(
        home: Home,
        limits: Limits,
        seed: Seed,
        now: Now,
    ) -> io::Result<(Self, ForwardingThread, HostPort)> {
        let overlay = Overlay::new(home.address, limits, seed, now);
        let (mut host, port) = ports();
        host.show(overlay.clone());
        let (offers, offered) = mpsc::channel(OFFERS_MAX);
        let (forwarding, thread) = Self::start(home, Network::Stack(overlay.clone()))?;
        forwarding.0.runtime.spawn(overlay.drive(port, offers));
        forwarding.0.runtime.spawn(exposed::answer(forwarding.clone(), offered));
        Ok((forwarding, thread, host))
    }

    fn start(home: Home, network: Network) -> io::Result<(Self, ForwardingThread)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("x0t-forwarding".to_owned()).spawn(move || {
            // Nothing is ever sent: it ends when the other end is dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        let registry = Mutex::default();
        let (trust_domain, socks) = (home.trust_domain, Arc::default());
        let inner = Inner { runtime: handle, network, trust_domain, registry, socks };
        Ok((Self(Arc::new(inner)), ForwardingThread { _alive: alive }))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Only whole entries are put in and taken out.
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `destination` is.
    fn resolve(&self, destination: &Destination) -> Result<SocketAddrV6, ForwardingError> {
        let address = address_of(&destination.node, &self.0.trust_domain)?;
        if address == self.0.network.address() {
            return Err(ForwardingError::Own(destination.clone()));
        }
        Ok(SocketAddrV6::new(address, destination.port, 0, 0))
    }

    /// Forwards from now on until the lease is dropped.
    ///
    /// # Errors
    /// If the destination is none, or the local address cannot be listened on.
    pub fn forward(&self, forward: Forward) -> Result<Lease, ForwardingError> {
        forwards::lease(self, forward)
    }

    /// Forwards for as long as the node runs. If the local address cannot be listened on, that is tried again; until then the reason
    /// is shown.
    ///
    /// # Errors
    /// If the destination is none.
    pub fn keep_forward(&self, forward: Forward) -> Result<(), ForwardingError> {
        forwards::keep(self, forward)
    }

    /// Ends a kept forward, with its connections. Whether there was one.
    pub fn drop_forward(&self, forward: &Forward) -> bool {
        self.registry().end_kept(forward)
    }

    /// Lets nodes of the mesh reach a port of this host.
    ///
    /// # Errors
    /// If it is exposed already, names no nodes, or the kernel refuses the port.
    pub fn expose(&self, exposure: Exposure) -> Result<(), ForwardingError> {
        exposed::expose(self, exposure)
    }

    /// Lets no node reach it any more, and ends what connections there are.
    ///
    /// # Errors
    /// If it was not exposed.
    pub fn conceal(&self, port: MeshPort) -> Result<(), ForwardingError> {
        if let (Network::Stack(overlay), crate::spec::Protocol::Tcp) = (&self.0.network, port.protocol) {
            overlay.conceal(port.port);
        }
        if self.registry().end_exposed(port) { Ok(()) } else { Err(ForwardingError::NotExposed(port)) }
    }

    /// Serves SOCKS5 at `address` for as long as the node runs. Returns where exactly.
    ///
    /// # Errors
    /// If that cannot be listened on.
    pub fn serve_socks(&self, address: SocketAddr) -> Result<SocketAddr, ForwardingError> {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "SOCKS5 is served to other hosts: all of them can use the mesh as this node");
        }
        let listener = bind(address)?;
        let failed = |source| ForwardingError::Listen { address: address.into(), source };
        let address = listener.local_addr().map_err(failed)?;
        let forwarding = self.clone();
        self.0.runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            forwards::accept(
                |context| listener.poll_accept(context),
                |client, _| {
                    let forwarding = forwarding.clone();
                    async move {
                        let Inner { network, trust_domain, socks: counters, .. } = &*forwarding.0;
                        let served = socks::serve(client, socks::Mesh { network, trust_domain, counters }).await;
                        if let Err(error) = served {
                            tracing::debug!(%error, "a SOCKS5 client was not served to its end");
                        }
                    }
                },
            )
            .await;
        });
        Ok(address)
    }

    /// What the SOCKS5 listener has counted.
    pub fn socks_stats(&self) -> SocksStats {
        self.0.socks.stats()
    }

    /// The forwards.
    pub fn forwards(&self) -> Vec<ForwardView> {
        self.registry().forwards()
    }

    /// The exposed ports.
    pub fn exposures(&self) -> Vec<ExposureView> {
        self.registry().exposures()
    }
}

/// Binds a local address for connections.
fn bind(address: SocketAddr) -> Result<std::net::TcpListener, ForwardingError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| ForwardingError::Listen { address: address.into(), source })
}
