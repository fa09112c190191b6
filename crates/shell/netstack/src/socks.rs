//! A SOCKS5 listener (RFC 1928): programs that know it reach any port of any node of the mesh, by name. CONNECT only, no
//! authentication; whoever may connect to it may use it.

mod request;

use std::io;
use std::net::SocketAddrV6;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use x0t_model::TrustDomain;

use crate::names::address_of;
use crate::network::{Connected, Network};
use crate::relay::relay;

use request::{Host, METHODS_MAX, Refusal, Request, parse_methods};

/// A client says what it wants within this time.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// "No acceptable methods" and "no authentication required" (RFC 1928, 3).
const NO_METHOD: [u8; 2] = [5, 0xff];
const NO_AUTHENTICATION: [u8; 2] = [5, 0];

/// Serves one client to its end.
///
/// # Errors
/// What the client did wrong, or what ended its connection.
pub async fn serve(mut client: TcpStream, network: &Network, trust_domain: &TrustDomain) -> io::Result<()> {
    client.set_nodelay(true)?;
    let asked = tokio::time::timeout(REQUEST_DEADLINE, ask(&mut client)).await;
    let request = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let connected = match request {
        Ok(request) => connect(&request, network, trust_domain).await,
        Err(refusal) => Err(refusal),
    };
    match connected {
        Ok(far) => {
            client.write_all(&request::success()).await?;
            relay(Connected::Kernel(client), far).await
        }
        Err(refusal) => {
            client.write_all(&refusal.reply()).await?;
            client.shutdown().await?;
            Err(io::Error::new(io::ErrorKind::InvalidInput, refusal))
        }
    }
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

async fn connect(request: &Request, network: &Network, trust_domain: &TrustDomain) -> Result<Connected, Refusal> {
    let node = match &request.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    let address = address_of(&node, trust_domain).map_err(|_| Refusal::NotOfThisMesh)?;
    let remote = SocketAddrV6::new(address, request.port, 0, 0);
    network.connect(remote).await.map_err(|error| Refusal::of(&error))
}
