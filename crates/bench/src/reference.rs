//! What the ratios are relative to.

use std::hint::black_box;
use std::net::UdpSocket;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{BenchError, Row, Samples};

/// Bytes that the bare AEAD seals.
const AEAD_BYTES: usize = 1_400;
const AEAD_BATCH: u64 = 64;
const COPY_BYTES: usize = 1 << 16;
const COPY_BATCH: u64 = 16;

/// The bare AEAD and a plain copy.
pub(crate) struct Reference {
    key: LessSafeKey,
    packet: Vec<u8>,
    from: Vec<u8>,
    to: Vec<u8>,
    number: u64,
}

impl Reference {
    pub(crate) fn new() -> Result<Self, BenchError> {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|error| BenchError::Session(error.to_string()))?;
        let key = LessSafeKey::new(key);
        Ok(Self { key, packet: vec![1; AEAD_BYTES], from: vec![2; COPY_BYTES], to: vec![0; COPY_BYTES], number: 0 })
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        samples
            .time(Row::Aead, AEAD_BATCH, || {
                for _ in 0..AEAD_BATCH {
                    self.number += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&self.number.to_be_bytes());
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from([0; 14]), &mut self.packet)?;
                    drop(black_box(tag));
                }
                Ok::<(), aws_lc_rs::error::Unspecified>(())
            })
            .map_err(|error| BenchError::Session(error.to_string()))?;
        samples.time(Row::Copy, COPY_BATCH, || {
            for _ in 0..COPY_BATCH {
                black_box(&mut self.to).copy_from_slice(black_box(&self.from));
            }
        });
        Ok(())
    }
}

/// Datagrams that wait in a socket at once: what any kernel lets an unprivileged socket hold.
pub(crate) const WAITING: u64 = 32;

/// Two sockets on loopback. All datagrams of a batch wait in the receiver before the first is received, so that receiving is all
/// that is timed.
pub(crate) struct Loopback {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Loopback {
    pub(crate) fn new() -> Result<Self, BenchError> {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        sender.connect(receiver.local_addr()?)?;
        receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { sender, receiver })
    }

    pub(crate) fn send(&self, datagram: &[u8]) -> Result<(), BenchError> {
        self.sender.send(datagram)?;
        Ok(())
    }

    /// Receives one datagram, with the sender's address, as any node does.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<usize, BenchError> {
        Ok(self.receiver.recv_from(buffer)?.0)
    }
}
