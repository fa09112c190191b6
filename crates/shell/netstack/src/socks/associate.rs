//! A client's association from its request to its end: a port for the client, a port in the mesh, and what is relayed between the two.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use super::Mesh;
use super::association::{Association, canonical};
use super::place::Place;
use super::request::{self, Refusal};
use super::stats::{Counters, Seat};
use crate::network::DatagramPort;

/// After an error of a port itself, so that one that persists does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// What a client was given.
pub struct Associated {
    association: Association,
    /// Where the client sends to.
    front: DatagramPort,
    /// Where the mesh answers to.
    back: DatagramPort,
    /// What the client is told.
    reply: Vec<u8>,
    _seat: Seat,
}

/// Makes an association for a client, if there is room for one.
pub async fn open(client: &TcpStream, announced: &Place, mesh: &Mesh<'_>) -> Result<Associated, Refusal> {
    let opened = try_open(client, announced, mesh).await;
    match &opened {
        Ok(_) => mesh.counters.made(),
        Err(_) => mesh.counters.refused(),
    }
    opened.map_err(|error| {
        tracing::debug!(%error, "an association cannot be made");
        Refusal::Failure
    })
}

async fn try_open(client: &TcpStream, announced: &Place, mesh: &Mesh<'_>) -> io::Result<Associated> {
    let seat = mesh.counters.take_seat().ok_or_else(|| io::Error::other("there are too many already"))?;
    let association = Association::new(client.peer_addr()?, announced, mesh.network.address(), Instant::now());
    // Where the client has reached this host, it reaches it with its datagrams too.
    let mut local = canonical(client.local_addr()?);
    local.set_port(0);
    let front = UdpSocket::bind(local).await?;
    let reply = request::associated(front.local_addr()?);
    let back = mesh.network.open_udp(None).await?;
    Ok(Associated { association, front: DatagramPort::kernel(front), back, reply, _seat: seat })
}

impl Associated {
    /// Relays until the client ends its connection (RFC 1928, 7), or sends nothing for too long.
    ///
    /// # Errors
    /// If the connection broke, or `TimedOut`.
    pub async fn serve(mut self, client: &mut TcpStream, mesh: &Mesh<'_>) -> io::Result<()> {
        client.write_all(&self.reply).await?;
        let mut said = [0; 64];
        loop {
            tokio::select! {
                // Its end is all that the connection has to say.
                read = client.read(&mut said) => if read? == 0 { return Ok(()) },
                () = tokio::time::sleep_until(self.association.ends_at()) => return Err(io::ErrorKind::TimedOut.into()),
                received = self.front.receive() => match received {
                    Ok((from, datagram)) => self.pass_out(from, &datagram, mesh).await,
                    Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
                },
                received = self.back.receive() => match received {
                    Ok((from, payload)) => self.pass_in(from, &payload, mesh.counters).await,
                    Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
                },
            }
        }
    }

    async fn pass_out(&mut self, from: SocketAddr, datagram: &[u8], mesh: &Mesh<'_>) {
        match self.association.outgoing(from, datagram, mesh.trust_domain, Instant::now()) {
            Ok((to, payload)) => {
                mesh.counters.sent();
                self.back.send_to(payload, to.into()).await;
            }
            Err(reason) => mesh.counters.dropped(reason),
        }
    }

    async fn pass_in(&self, from: SocketAddr, payload: &[u8], counters: &Arc<Counters>) {
        match self.association.incoming(from, payload) {
            Ok((to, datagram)) => {
                counters.received();
                self.front.send_to(&datagram, to).await;
            }
            Err(reason) => counters.dropped(reason),
        }
    }
}
