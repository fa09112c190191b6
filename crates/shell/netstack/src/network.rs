//! How this host reaches the mesh: through the stack, or through the kernel where the kernel has an interface into it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::sync::Mutex;

use crate::overlay::{Overlay, Stream, UdpPort};

/// The kernel tries for minutes; nobody waits that long for a node.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// No datagram is longer: its length field has 16 bits (RFC 768).
const DATAGRAM_MAX: usize = 65_535;

/// The way into the mesh.
#[derive(Clone, Debug)]
pub enum Network {
    /// No interface: the stack owns the overlay address.
    Stack(Overlay),
    /// The kernel owns it, and has an interface of this name into the mesh.
    Kernel(Ipv6Addr, String),
}

impl Network {
    /// The node's overlay address.
    pub fn address(&self) -> Ipv6Addr {
        match self {
            Self::Stack(overlay) => overlay.address(),
            Self::Kernel(address, _) => *address,
        }
    }

    /// Connects to a port of a node.
    ///
    /// # Errors
    /// With what the network said; `InvalidInput` for this node's own address.
    pub async fn connect(&self, remote: SocketAddrV6) -> io::Result<Connected> {
        if *remote.ip() == self.address() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is this node itself"));
        }
        match self {
            Self::Stack(overlay) => overlay.connect(remote).await.map(Connected::Overlay),
            Self::Kernel(..) => connect_kernel(remote.into()).await.map(Connected::Kernel),
        }
    }

    /// Takes a UDP port of the overlay address into use; a dynamic one if it is `None`.
    ///
    /// # Errors
    /// If it is in use, or too many are.
    pub async fn open_udp(&self, port: Option<u16>) -> io::Result<DatagramPort> {
        match self {
            Self::Stack(overlay) => overlay.open_udp(port).map(DatagramPort::Overlay),
            Self::Kernel(address, interface) => {
                let address = SocketAddrV6::new(*address, port.unwrap_or(0), 0, 0);
                let socket = confined(Type::DGRAM, address, interface)?;
                UdpSocket::from_std(socket.into()).map(DatagramPort::kernel)
            }
        }
    }
}

/// A socket of the overlay address that hears only what comes by the interface into the mesh. A kernel takes what is sent to its address by
/// any interface, and whoever is in a local network can send there under the name of any node.
///
/// # Errors
/// If the address is taken, or the kernel does not confine it (unprivileged from Linux 5.7 on).
pub fn confined(kind: Type, address: SocketAddrV6, interface: &str) -> io::Result<Socket> {
    /// Connections that wait to be accepted; as many as the standard library lets.
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::IPV6, kind.nonblocking(), None)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Connects through the kernel, with a deadline.
///
/// # Errors
/// What the kernel said, or `TimedOut`.
pub async fn connect_kernel(remote: SocketAddr) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(remote)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection, whoever carries it.
#[derive(Debug)]
pub enum Connected {
    /// The stack.
    Overlay(Stream),
    /// The kernel.
    Kernel(TcpStream),
    /// The kernel, within this host.
    Local(UnixStream),
}

impl Connected {
    /// Ends it so that the other side learns that something went wrong, and does not take what it got for everything.
    pub fn break_off(self) {
        match self {
            // Dropped unfinished, it is broken off.
            Self::Overlay(stream) => drop(stream),
            Self::Kernel(stream) => {
                // Then it ends like any other, which is all that is left to do.
                let _ = stream.set_zero_linger();
            }
            // What was not read yet makes an error of its end; there is no other way to say so.
            Self::Local(stream) => drop(stream),
        }
    }
}

impl AsyncRead for Connected {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Overlay(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Kernel(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connected {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Overlay(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Kernel(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Local(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Overlay(stream) => Pin::new(stream).poll_flush(cx),
            Self::Kernel(stream) => Pin::new(stream).poll_flush(cx),
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Overlay(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Kernel(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A UDP port, whoever carries its datagrams.
#[derive(Debug)]
pub enum DatagramPort {
    /// The stack.
    Overlay(UdpPort),
    /// The kernel. The buffer is where the next datagram will be.
    Kernel(UdpSocket, Mutex<Vec<u8>>),
}

impl DatagramPort {
    /// One of the kernel's.
    pub fn kernel(socket: UdpSocket) -> Self {
        Self::Kernel(socket, Mutex::new(vec![0; DATAGRAM_MAX]))
    }

    /// The next datagram, and who sent it. Cancel safe.
    ///
    /// # Errors
    /// What the kernel said; for a datagram sent before, perhaps.
    pub async fn receive(&self) -> io::Result<(SocketAddr, Vec<u8>)> {
        match self {
            Self::Overlay(port) => {
                let (from, payload) = port.receive().await;
                Ok((from.into(), payload))
            }
            Self::Kernel(socket, buffer) => {
                let mut buffer = buffer.lock().await;
                let (length, from) = socket.recv_from(&mut buffer).await?;
                Ok((from, buffer[..length].to_vec()))
            }
        }
    }

    /// Sends a datagram. One that cannot be sent is lost.
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) {
        match (self, to) {
            (Self::Overlay(port), SocketAddr::V6(to)) => drop(port.send_to(payload, to)),
            (Self::Overlay(_), SocketAddr::V4(_)) => {}
            // Whoever sent it finds out as with any lost datagram.
            (Self::Kernel(socket, _), to) => drop(socket.send_to(payload, to).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_confined_socket_hears_its_interface_and_does_not_block() {
        let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
        let socket: std::net::UdpSocket = match confined(Type::DGRAM, loopback, "lo") {
            Ok(socket) => socket.into(),
            // Whoever builds this may do so where there is no IPv6, or under an old kernel.
            Err(error) => return eprintln!("skipped: {error}"),
        };
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let sender = std::net::UdpSocket::bind(loopback).unwrap();
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(false).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap().0, 1);

        let listener: std::net::TcpListener = confined(Type::STREAM, loopback, "lo").unwrap().into();
        listener.set_nonblocking(false).unwrap();
        drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        assert_eq!(listener.accept().unwrap().0.read(&mut [0; 8]).unwrap(), 0);
        assert!(confined(Type::DGRAM, loopback, "no-such-link0").is_err());
    }
}
