//! The relay on real sockets.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use x0t_netfault::{Direction, Faults, LinkRelay};

const SOON: Duration = Duration::from_secs(5);

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let (len, _) = timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer[..len].to_vec()
}

#[tokio::test]
async fn two_nodes_talk_through_the_relay_until_one_direction_is_blocked() {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let relay = LinkRelay::bind(a.local_addr().unwrap(), b.local_addr().unwrap(), [1; 32]).await.unwrap();

    a.send_to(b"to b", relay.facing_a()).await.unwrap();
    assert_eq!(receive(&b).await, b"to b");
    b.send_to(b"to a", relay.facing_b()).await.unwrap();
    assert_eq!(receive(&a).await, b"to a");

    relay.set_faults(Direction::AToB, Faults::BLOCKED);
    a.send_to(b"never", relay.facing_a()).await.unwrap();
    b.send_to(b"still", relay.facing_b()).await.unwrap();
    assert_eq!(receive(&a).await, b"still");
    // The blocked one was taken off the wire before the channel opens again, so it cannot slip through afterwards.
    timeout(SOON, async {
        while relay.stats().a_to_b.blocked == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    relay.set_faults_both(Faults { delay: Duration::from_millis(30), duplicate_permille: 1_000, ..Faults::NONE });
    let sent = tokio::time::Instant::now();
    a.send_to(b"again", relay.facing_a()).await.unwrap();
    assert_eq!([receive(&b).await, receive(&b).await], [b"again", b"again"]);
    assert!(sent.elapsed() >= Duration::from_millis(30));
    assert_eq!((relay.stats().a_to_b.blocked, relay.stats().a_to_b.duplicated), (1, 1));
}

#[tokio::test]
async fn answers_go_to_where_a_side_was_last_heard_from() {
    let (first, second) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let b = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = LinkRelay::bind(first.local_addr().unwrap(), b.local_addr().unwrap(), [1; 32]).await.unwrap();

    second.send_to(b"from another port", relay.facing_a()).await.unwrap();
    receive(&b).await;
    b.send_to(b"answer", relay.facing_b()).await.unwrap();
    assert_eq!(receive(&second).await, b"answer");
}
