//! Driving a join over a real socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use x0t_model::{Instant, Underlay, UnixTime};
use x0t_runtime::clock::Clock;
use x0t_runtime::join::{JoinIoError, JoinMachine, JoinProgress, drive};

/// Asks each address, asks again every 20 ms, and is done with the first answer that says so.
struct Asker {
    addresses: Vec<SocketAddr>,
    outbox: Vec<(Underlay, Vec<u8>)>,
    ask_again: Option<Instant>,
    done: bool,
}

impl Asker {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, outbox: Vec::new(), ask_again: Some(Instant::ZERO), done: false }
    }
}

impl JoinMachine for Asker {
    fn handle_datagram(&mut self, _: Underlay, bytes: &mut [u8], _: Instant, _: UnixTime) {
        self.done |= bytes == b"welcome";
    }

    fn handle_timeout(&mut self, now: Instant, _: UnixTime) {
        self.outbox.extend(self.addresses.iter().map(|address| (Underlay::Udp(*address), b"please".to_vec())));
        self.ask_again = Some(now + Duration::from_millis(20));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.ask_again
    }

    fn poll_transmit(&mut self) -> Option<(Underlay, Vec<u8>)> {
        self.outbox.pop()
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

/// Answers the second request it gets, with `answer`.
fn introducer(answer: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for attempt in 1.. {
            let Ok((_, from)) = socket.recv_from(&mut buffer) else { return };
            if attempt >= 2 {
                socket.send_to(answer, from).unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_join_asks_until_it_is_answered_and_tells_how_it_gets_on() {
    let address = introducer(b"welcome");
    let mut progress = Vec::new();
    drive(&mut Asker::new(vec![address]), Duration::from_secs(5), |step| progress.push(step)).await.unwrap();
    assert_eq!(progress, [JoinProgress::Asking(address.into()), JoinProgress::Heard(address.into())]);
}

#[tokio::test]
async fn a_closed_port_is_told_and_silence_names_who_was_asked() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut progress = Vec::new();
    let began = Clock.now();
    let within = Duration::from_millis(200);
    let error = drive(&mut Asker::new(vec![closed]), within, |step| progress.push(step)).await.unwrap_err();
    assert!(matches!(&error, JoinIoError::Silence { tried, .. } if *tried == [closed.into()]), "{error}");
    assert!(Clock.now().since(began) >= within);
    assert_eq!(progress[0], JoinProgress::Asking(closed.into()));
    assert!(progress.contains(&JoinProgress::Unreachable(closed.into())));
    // Once, however often it was asked.
    assert_eq!(progress.len(), 2, "{progress:?}");
}

#[tokio::test]
async fn an_answer_that_leads_nowhere_is_not_called_silence() {
    let address = introducer(b"hm");
    let error = drive(&mut Asker::new(vec![address]), Duration::from_millis(200), |_| {}).await.unwrap_err();
    assert!(matches!(&error, JoinIoError::Unfinished { heard, .. } if *heard == [address.into()]), "{error}");
}
