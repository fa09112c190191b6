//! A SOCKS5 listener (RFC 1928): programs that know it reach any port of any node of the mesh, by name. CONNECT and UDP ASSOCIATE, no
//! authentication; whoever may connect to it may use it.

mod associate;
mod association;
mod place;
mod request;
mod stats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use x0t_model::TrustDomain;

use crate::network::{Connected, Network};
use crate::relay::relay;

use place::Place;
use request::{METHODS_MAX, Refusal, Request, parse_methods};
pub use stats::{Counters, SocksStats};

/// A client says what it wants within this time.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// "No acceptable methods" and "no authentication required" (RFC 1928, 3).
const NO_METHOD: [u8; 2] = [5, 0xff];
const NO_AUTHENTICATION: [u8; 2] = [5, 0];

/// The mesh that clients are led into, and where it is counted what they do.
#[derive(Clone, Copy, Debug)]
pub struct Mesh<'a> {
    /// The way there.
    pub network: &'a Network,
    /// Its name.
    pub trust_domain: &'a TrustDomain,
    /// What was done.
    pub counters: &'a Arc<Counters>,
}

/// Serves one client to its end.
///
/// # Errors
/// What the client did wrong, or what ended its connection.
pub async fn serve(mut client: TcpStream, mesh: Mesh<'_>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let asked = tokio::time::timeout(REQUEST_DEADLINE, ask(&mut client)).await;
    let request = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let refusal = match request {
        Ok(Request::Connect(place)) => match connect(&place, mesh).await {
            Ok(far) => {
                client.write_all(&request::success()).await?;
                return relay(Connected::Kernel(client), far).await;
            }
            Err(refusal) => refusal,
        },
        Ok(Request::Associate(announced)) => match associate::open(&client, &announced, &mesh).await {
            Ok(associated) => return associated.serve(&mut client, &mesh).await,
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    client.write_all(&refusal.reply()).await?;
    client.shutdown().await?;
    Err(io::Error::new(io::ErrorKind::InvalidInput, refusal))
}

/// The negotiation and the request. The inner error is one that the client is told of.
async fn ask(client: &mut TcpStream) -> io::Result<Result<Request, Refusal>> {
    let mut head = [0; 2];
    client.read_exact(&mut head).await?;
    let mut methods = [0; METHODS_MAX];
    // A client of another version is not understood, so it is not answered either.
    let count = parse_methods(head).ok_or(io::ErrorKind::InvalidData)?;
    let methods = &mut methods[..count];
    client.read_exact(methods).await?;
    if !methods.contains(&0) {
        client.write_all(&NO_METHOD).await?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.write_all(&NO_AUTHENTICATION).await?;

    let mut bytes = Vec::with_capacity(request::LEN_MAX);
    loop {
        match request::parse(&bytes) {
            request::Parsed::Needs(count) => {
                let start = bytes.len();
                bytes.resize(start + count, 0);
                client.read_exact(&mut bytes[start..]).await?;
            }
            request::Parsed::Request(request) => return Ok(Ok(request)),
            request::Parsed::Refused(refusal) => return Ok(Err(refusal)),
        }
    }
}

async fn connect(place: &Place, mesh: Mesh<'_>) -> Result<Connected, Refusal> {
    let remote = place.in_mesh(mesh.trust_domain).map_err(|_| Refusal::NotOfThisMesh)?;
    mesh.network.connect(remote).await.map_err(|error| Refusal::of(&error))
}
