//! What the data thread sleeps in: one epoll for what carries packets, and an alarm for everything else.
//!
//! Packets come by few descriptors and often, so these are watched here, level-triggered: nothing has to be read until it is empty, and
//! waking up costs one system call. Everything else, questions, signals, TLS connections, link events, lives on the caller's runtime and is
//! polled only after it has rung the alarm; ringing is what its [`Waker`] does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use rustix::event::epoll::EventFlags;

/// What carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The IPv4 socket.
    UdpV4,
    /// The IPv6 socket.
    UdpV6,
    /// The interface into the mesh.
    Interface,
}

const SOURCES: usize = 3;
/// What the alarm is called in the kernel's answers.
const ALARM: u64 = SOURCES as u64;

/// What is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready([EventFlags; SOURCES]);

impl Ready {
    /// How.
    pub const fn of(&self, source: Source) -> EventFlags {
        self.0[source as usize]
    }
}

/// Watches descriptors and the alarm.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    watched: [EventFlags; SOURCES],
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    rung: AtomicBool,
    /// Watched edge-triggered, so it never has to be read.
    bell: OwnedFd,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // It fails only if the counter is full, after 2^64 times.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

impl Poller {
    /// Watches nothing yet. The alarm has been rung, so that everything is looked at once.
    ///
    /// # Errors
    /// If the kernel gives no more descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(ALARM), EventFlags::IN | EventFlags::ET)?;
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), bell });
        Ok(Self { epoll, watched: [EventFlags::empty(); SOURCES], alarm })
    }

    /// Watches `descriptor` for what `interest` says, and for errors; not at all if that is empty.
    ///
    /// # Errors
    /// If the kernel watches no more descriptors.
    pub fn watch(&mut self, source: Source, descriptor: impl AsFd, interest: EventFlags) -> io::Result<()> {
        let watched = &mut self.watched[source as usize];
        if *watched == interest {
            return Ok(());
        }
        let name = EventData::new_u64(source as u64);
        match (watched.is_empty(), interest.is_empty()) {
            (true, _) => epoll::add(&self.epoll, descriptor, name, interest)?,
            (false, true) => epoll::delete(&self.epoll, descriptor)?,
            (false, false) => epoll::modify(&self.epoll, descriptor, name, interest)?,
        }
        *watched = interest;
        Ok(())
    }

    /// The descriptor has been closed; the kernel has forgotten it.
    pub const fn closed(&mut self, source: Source) {
        self.watched[source as usize] = EventFlags::empty();
    }

    /// Sleeps until something is ready, the alarm rings or `timeout` has passed, in whole milliseconds.
    ///
    /// # Errors
    /// None that an intact kernel has.
    pub fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(ALARM) };
        let mut events = [none; SOURCES + 1];
        // A timeout that overflows is far enough away for any.
        let timeout = timeout.try_into().ok();
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready([EventFlags::empty(); SOURCES]);
        for event in &events[..count] {
            let (flags, name) = (event.flags, event.data.u64());
            if let Some(place) = ready.0.get_mut(name as usize) {
                *place = flags;
            }
        }
        Ok(ready)
    }

    /// The same for a task, which sleeps until something is ready. Cancel safe.
    ///
    /// # Errors
    /// If the kernel watches no more descriptors, or the runtime is shutting down.
    pub async fn ready(&self) -> io::Result<Ready> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may change their descriptor, which a borrowed one cannot"
        )]
        let watched = AsyncFd::with_interest(self.epoll.as_fd(), Interest::READABLE)?;
        loop {
            let ready = self.wait(Duration::ZERO)?;
            if ready != Ready([EventFlags::empty(); SOURCES]) {
                return Ok(ready);
            }
            watched.readable().await?.clear_ready();
        }
    }

    /// Rings the alarm when woken.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    /// Whether the alarm has been rung since the last call.
    pub fn take_alarm(&self) -> bool {
        self.alarm.rung.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[test]
    fn what_is_not_read_stays_ready_and_what_is_not_wanted_is_not_told() {
        let (one, two) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut poller = Poller::new().unwrap();
        poller.watch(Source::UdpV4, &one, EventFlags::IN).unwrap();
        two.send_to(b"x", one.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            let ready = poller.wait(LONG).unwrap();
            assert!(ready.of(Source::UdpV4).contains(EventFlags::IN) && ready.of(Source::Interface).is_empty());
        }
        poller.watch(Source::UdpV4, &one, EventFlags::OUT).unwrap();
        assert_eq!(poller.wait(LONG).unwrap().of(Source::UdpV4), EventFlags::OUT);
        poller.watch(Source::UdpV4, &one, EventFlags::empty()).unwrap();
        assert!(poller.wait(Duration::from_millis(1)).unwrap().of(Source::UdpV4).is_empty());
        poller.watch(Source::UdpV4, &one, EventFlags::IN).unwrap();
        assert!(poller.wait(LONG).unwrap().of(Source::UdpV4).contains(EventFlags::IN));
    }

    #[test]
    fn a_waker_ends_the_sleep_from_another_thread_however_often_it_is_used() {
        let poller = Poller::new().unwrap();
        assert!(poller.take_alarm(), "everything is looked at once");
        assert!(!poller.take_alarm());
        for _ in 0..3 {
            let waker = poller.waker();
            let ringing = std::thread::spawn(move || {
                waker.wake_by_ref();
                waker.wake();
            });
            let _ = poller.wait(Duration::from_secs(3_600)).unwrap();
            ringing.join().unwrap();
            assert!(poller.take_alarm());
        }
    }
}
