//! Threads that send for an event loop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use x0t_node::Train;
use x0t_node::assignments::QUEUE_MAX;
use x0t_runtime::udp::UdpSockets;
use x0t_runtime::workers::{Job, Spent, Workers};

const FLOWS: u32 = 6;

struct Bell(Thread, AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn workers(count: usize) -> (Workers, UdpSocket, Arc<Bell>) {
    let udp = UdpSockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let bell = Arc::new(Bell(std::thread::current(), AtomicBool::new(false)));
    let workers = Workers::start(count, &udp.sender(), None, &Waker::from(Arc::clone(&bell))).unwrap();
    (workers, receiver, bell)
}

/// Waits for room as an event loop does: asleep until a worker rings.
fn wait_for_room(workers: &mut Workers, bell: &Bell, spent: &mut usize) {
    while !workers.has_room() {
        workers.wake();
        workers.collect(|_| *spent += 1);
        while !workers.has_room() && !bell.1.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
        workers.collect(|_| *spent += 1);
    }
}

#[test]
fn what_a_flow_sends_leaves_in_order_and_every_buffer_comes_back() {
    let (mut workers, receiver, bell) = workers(3);
    let to = receiver.local_addr().unwrap();
    let (mut spent, mut next) = (0, [0_u32; FLOWS as usize]);
    for number in 0..600_u32 {
        let flow = number.wrapping_mul(0x9e37_79b1) % FLOWS;
        let bytes = [flow.to_be_bytes(), number.to_be_bytes()].concat();
        wait_for_room(&mut workers, &bell, &mut spent);
        workers.give(workers.worker_of(flow), Job::Send(to, Train::single(bytes))).unwrap();
        if number % 50 == 49 {
            for _ in 0..50 {
                let mut datagram = [0; 8];
                assert_eq!(receiver.recv(&mut datagram).unwrap(), 8);
                let [flow, number] = [0, 4].map(|at| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap()));
                assert!(next[flow as usize] <= number, "flow {flow}: {number} came after {}", next[flow as usize]);
                next[flow as usize] = number + 1;
            }
        }
    }
    assert_eq!(workers.stats().jobs, 600);
    while spent < 600 {
        workers.collect(|given_back| {
            assert!(matches!(given_back, Spent::Train(_)));
            spent += 1;
        });
        std::thread::yield_now();
    }
    assert!((0..3).all(|worker| workers.is_idle(worker)));
    workers.finish();
}

#[test]
fn no_worker_is_given_more_than_it_has_room_for_and_all_of_it_is_done_in_the_end() {
    let (mut workers, receiver, _) = workers(2);
    let to = receiver.local_addr().unwrap();
    let mut given = 0;
    while workers.has_room() {
        workers.give(0, Job::Send(to, Train::single(vec![given as u8; 100]))).unwrap();
        given += 1;
    }
    assert_eq!(given, QUEUE_MAX, "nothing was taken back");
    assert!(workers.is_idle(1) && !workers.is_idle(0) && workers.idlest() == 1);
    workers.finish();
    for number in 0..given {
        let mut datagram = [0; 200];
        assert_eq!((receiver.recv(&mut datagram).unwrap(), datagram[0]), (100, number as u8));
    }
}
