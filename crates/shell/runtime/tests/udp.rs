//! The underlay sockets on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_node::Train;
use x0t_runtime::poller::{Poller, Source};
use x0t_runtime::udp::{Batch, BindError, UdpSockets};

fn loopback(text: &str) -> UdpSockets {
    UdpSockets::bind(&[text.parse().unwrap()]).unwrap()
}

/// Whether anything came of it in `patience`.
fn wait(udp: &mut UdpSockets, patience: Duration) -> bool {
    let mut poller = Poller::new().unwrap();
    udp.watch(&mut poller, true).unwrap();
    // The alarm of a new poller has not rung for sleepers.
    let ready = poller.wait(patience).unwrap();
    udp.wake(&ready);
    ![Source::UdpV4, Source::UdpV6].into_iter().all(|source| ready.of(source).is_empty())
}

/// Everything that arrives until `count` datagrams have.
fn receive(udp: &mut UdpSockets, count: usize) -> Vec<(SocketAddr, u32, Vec<u8>)> {
    let mut batch = Batch::default();
    let mut received = Vec::new();
    while received.len() < count {
        assert!(wait(udp, Duration::from_secs(5)), "all arrive");
        udp.receive(&mut batch, Train::empty);
        for got in batch.drain() {
            received.extend(got.train.datagrams().map(|bytes| (got.from, got.interface, bytes.to_vec())));
        }
    }
    received
}

#[test]
fn a_burst_arrives_whole_in_order_and_with_the_interface_it_came_by() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut one, mut two) = (loopback(address), loopback(address));
        let (from, to) = (one.local_addresses()[0], two.local_addresses()[0]);
        let sent: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; 1 + usize::from(n) * 13]).collect();
        for bytes in &sent {
            one.send(to, Train::single(bytes.clone()));
        }
        let received = receive(&mut two, sent.len());
        assert_eq!(received.iter().map(|(.., bytes)| bytes.clone()).collect::<Vec<_>>(), sent);
        assert!(received.iter().all(|(sender, interface, _)| *sender == from && *interface == 1));
        let stats = two.stats();
        assert_eq!(stats.datagrams_received, 100);
        assert_eq!(stats.bytes_received, sent.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
    }
}

#[test]
fn both_families_are_served_at_once() {
    let mut both = UdpSockets::bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]).unwrap();
    let [v4, v6] = both.local_addresses().try_into().unwrap();
    loopback("127.0.0.1:0").send(v4, Train::single(b"four".to_vec()));
    loopback("[::1]:0").send(v6, Train::single(b"six".to_vec()));
    let received = receive(&mut both, 2);
    let texts: BTreeSet<_> = received.iter().map(|(from, _, bytes)| (from.is_ipv6(), bytes.as_slice())).collect();
    assert_eq!(texts, BTreeSet::from([(false, b"four".as_slice()), (true, b"six".as_slice())]));
}

#[test]
fn a_run_of_equal_datagrams_that_the_kernel_coalesced_is_split_again() {
    let mut receiver = loopback("127.0.0.1:0");
    let to = receiver.local_addresses()[0];
    // One system call with segmentation offload; on loopback the run arrives coalesced if the kernel can do that.
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = quinn_udp::UdpSocketState::new((&sender).into()).unwrap();
    if state.max_gso_segments() < 5 {
        return eprintln!("skipped: needs UDP segmentation offload");
    }
    let contents: Vec<u8> = (0..5_u8).flat_map(|n| vec![n; 1000]).take(4500).collect();
    let transmit =
        quinn_udp::Transmit { destination: to, ecn: None, contents: &contents, segment_size: Some(1000), src_ip: None };
    state.try_send((&sender).into(), &transmit).unwrap();
    let received = receive(&mut receiver, 5);
    let lengths: Vec<_> = received.iter().map(|(.., bytes)| (bytes[0], bytes.len())).collect();
    assert_eq!(lengths, [(0, 1000), (1, 1000), (2, 1000), (3, 1000), (4, 500)]);
    assert_eq!(receiver.stats().datagrams_received, 5);
}

#[test]
fn a_train_is_sent_in_one_call_or_singly_and_arrives_the_same() {
    for singly in [false, true] {
        let (mut one, mut two) = (loopback("127.0.0.1:0"), loopback("127.0.0.1:0"));
        if singly {
            one.send_singly();
        }
        let mut train = Train::empty();
        for n in 0..46_u8 {
            train.grow(1400, 1400).fill(n);
        }
        train.grow(77, 77).fill(99);
        let sent: Vec<Vec<u8>> = train.datagrams().map(<[u8]>::to_vec).collect();
        assert!(one.send(two.local_addresses()[0], train).is_some(), "nothing has to wait");
        let received = receive(&mut two, 47);
        assert_eq!(received.into_iter().map(|(.., bytes)| bytes).collect::<Vec<_>>(), sent);
        let stats = one.stats();
        assert_eq!((stats.datagrams_sent, stats.bytes_sent), (47, 46 * 1400 + 77));
        assert!(if singly { stats.send_calls == 47 } else { stats.send_calls <= 47 });
    }
}

#[test]
fn an_unreachable_port_is_named_and_other_destinations_are_not_disturbed() {
    let mut one = loopback("127.0.0.1:0");
    let mut two = loopback("127.0.0.1:0");
    let open = two.local_addresses()[0];
    let closed = loopback("127.0.0.1:0").local_addresses()[0];
    one.send(closed, Train::single(b"anybody?".to_vec()));
    // The error of the first may surface at the second, which is sent nevertheless.
    one.send(open, Train::single(b"hello".to_vec()));
    assert_eq!(receive(&mut two, 1)[0].2, b"hello");
    let mut unreachable = one.take_unreachable();
    let mut batch = Batch::default();
    while unreachable.is_empty() {
        assert!(wait(&mut one, Duration::from_secs(5)));
        one.receive(&mut batch, Train::empty);
        unreachable = one.take_unreachable();
    }
    assert_eq!(unreachable, BTreeSet::from([closed]));
    // Nothing is left over: the next wait is a real one.
    assert!(!wait(&mut one, Duration::from_millis(50)));
}

#[test]
fn a_datagram_larger_than_udp_carries_is_counted_and_forgotten() {
    let mut one = loopback("127.0.0.1:0");
    let mut two = loopback("127.0.0.1:0");
    let to = two.local_addresses()[0];
    one.send(to, Train::single(vec![0; 70_000]));
    one.send(to, Train::single(b"small".to_vec()));
    assert_eq!(receive(&mut two, 1)[0].2, b"small");
    assert_eq!(one.stats().datagrams_dropped_too_big, 1);
    assert!(one.take_unreachable().is_empty());
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_helps() {
    let taken = loopback("127.0.0.1:0");
    let address = taken.local_addresses()[0];
    let error = UdpSockets::bind(&[address]).unwrap_err();
    assert!(matches!(error, BindError::InUse(named) if named == address));
    let text = error.to_string();
    assert!(text.contains(&address.port().to_string()) && text.contains("--listen"), "{text}");
}

#[test]
fn at_most_one_address_for_each_family() {
    let addresses = ["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    assert!(matches!(UdpSockets::bind(&addresses), Err(BindError::TwoOfOneFamily(..))));
    assert!(matches!(UdpSockets::bind(&[]), Err(BindError::Nothing)));
}
