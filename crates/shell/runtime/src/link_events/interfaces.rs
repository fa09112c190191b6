//! The table of interfaces, fed with netlink messages.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::LinkChange;

/// A host with more interfaces than this (containers have one each) gets no link events for the rest.
const INTERFACES_MAX: usize = 4096;
/// Addresses remembered for one interface; more make no difference to whether it has any.
const ADDRESSES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Interfaces {
    table: BTreeMap<u32, Interface>,
    /// Counts dumps; an interface that the newest one did not mention is gone.
    generation: u32,
}

#[derive(Debug, Default)]
struct Interface {
    operational: bool,
    addresses: BTreeSet<std::net::IpAddr>,
    /// Set when the last address goes. An interface that never had one is not judged by that.
    lost_addresses: bool,
    reported: Option<bool>,
    generation: u32,
}

impl Interfaces {
    /// Everything is about to be listed.
    pub(super) fn begin_dump(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The number of the newest dump.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// All interfaces were listed: whatever was not is gone.
    pub(super) fn end_dump(&mut self) -> Vec<LinkChange> {
        let generation = self.generation;
        let gone = self.table.extract_if(.., |_, interface| interface.generation != generation);
        gone.filter_map(|(index, mut interface)| interface.report(index, false)).collect()
    }

    /// Takes in one message; `is_listed` if it is part of the newest dump rather than news.
    pub(super) fn handle(&mut self, message: &RouteNetlinkMessage, is_listed: bool) -> Option<LinkChange> {
        match message {
            RouteNetlinkMessage::NewLink(link) if is_about_interface(link) => self.set_link(link, is_listed),
            RouteNetlinkMessage::DelLink(link) if is_about_interface(link) => {
                let index = link.header.index;
                self.table.remove(&index)?.report(index, false)
            }
            RouteNetlinkMessage::NewAddress(message) => self.add_address(message),
            RouteNetlinkMessage::DelAddress(message) => self.remove_address(message),
            _ => None,
        }
    }

    fn set_link(&mut self, link: &LinkMessage, is_listed: bool) -> Option<LinkChange> {
        let generation = self.generation;
        let interface = self.interface(link.header.index)?;
        // One that appears while the list is being read may have missed its place in it.
        if is_listed || interface.reported.is_none() {
            interface.generation = generation;
        }
        interface.operational = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running);
        interface.report_state(link.header.index)
    }

    fn add_address(&mut self, message: &AddressMessage) -> Option<LinkChange> {
        let address = usable_address(message)?;
        // Addresses of interfaces not listed yet are asked for again after the list.
        let interface = self.table.get_mut(&message.header.index)?;
        if interface.addresses.len() < ADDRESSES_MAX {
            interface.addresses.insert(address);
        }
        interface.lost_addresses = false;
        interface.report_state(message.header.index)
    }

    fn remove_address(&mut self, message: &AddressMessage) -> Option<LinkChange> {
        let address = usable_address(message)?;
        let interface = self.table.get_mut(&message.header.index)?;
        if interface.addresses.remove(&address) {
            interface.lost_addresses = interface.addresses.is_empty();
        }
        interface.report_state(message.header.index)
    }

    fn interface(&mut self, index: u32) -> Option<&mut Interface> {
        if self.table.len() >= INTERFACES_MAX && !self.table.contains_key(&index) {
            return None;
        }
        Some(self.table.entry(index).or_default())
    }
}

impl Interface {
    fn report_state(&mut self, index: u32) -> Option<LinkChange> {
        self.report(index, self.operational && !self.lost_addresses)
    }

    fn report(&mut self, index: u32, up: bool) -> Option<LinkChange> {
        (self.reported.replace(up) != Some(up)).then_some(LinkChange { index, up })
    }
}

/// A bridge reports its ports coming and going with the same messages, under its own address family.
fn is_about_interface(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn usable_address(message: &AddressMessage) -> Option<std::net::IpAddr> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    // On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL is ours (rtnetlink(7)).
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONAL: LinkFlags = LinkFlags::Up.union(LinkFlags::LowerUp).union(LinkFlags::Running);

    fn link(index: u32, flags: LinkFlags) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, flags);
        link
    }

    fn address(index: u32, text: &str, scope: AddressScope) -> AddressMessage {
        let mut message = AddressMessage::default();
        (message.header.index, message.header.scope) = (index, scope);
        message.attributes.push(AddressAttribute::Local(text.parse().unwrap()));
        message
    }

    fn up(index: u32) -> Option<LinkChange> {
        Some(LinkChange { index, up: true })
    }

    fn down(index: u32) -> Option<LinkChange> {
        Some(LinkChange { index, up: false })
    }

    fn news(table: &mut Interfaces, message: &RouteNetlinkMessage) -> Option<LinkChange> {
        table.handle(message, false)
    }

    use RouteNetlinkMessage::{DelAddress, DelLink, NewAddress, NewLink};

    #[test]
    fn an_interface_is_up_with_carrier_and_reported_once() {
        let mut table = Interfaces::default();
        assert_eq!(news(&mut table, &NewLink(link(3, LinkFlags::Up))), down(3));
        assert_eq!(news(&mut table, &NewLink(link(3, OPERATIONAL))), up(3));
        assert_eq!(news(&mut table, &NewLink(link(3, OPERATIONAL))), None);
        assert_eq!(news(&mut table, &NewLink(link(3, LinkFlags::Up | LinkFlags::Running))), down(3));
    }

    #[test]
    fn a_deleted_interface_is_down_and_a_bridge_port_that_leaves_is_not() {
        let mut table = Interfaces::default();
        news(&mut table, &NewLink(link(3, OPERATIONAL)));
        let mut port = link(3, OPERATIONAL);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(news(&mut table, &DelLink(port)), None);
        assert_eq!(news(&mut table, &DelLink(link(3, OPERATIONAL))), down(3));
        assert_eq!(news(&mut table, &DelLink(link(3, OPERATIONAL))), None);
    }

    #[test]
    fn losing_the_last_address_takes_an_interface_down_until_it_has_one_again() {
        let mut table = Interfaces::default();
        news(&mut table, &NewLink(link(3, OPERATIONAL)));
        let v4 = || address(3, "192.0.2.1", AddressScope::Universe);
        let v6 = || address(3, "2001:db8::1", AddressScope::Universe);
        assert_eq!(news(&mut table, &NewAddress(v4())), None);
        assert_eq!(news(&mut table, &NewAddress(v6())), None);
        assert_eq!(news(&mut table, &DelAddress(v6())), None);
        assert_eq!(news(&mut table, &DelAddress(v4())), down(3));
        assert_eq!(news(&mut table, &NewLink(link(3, OPERATIONAL))), None);
        assert_eq!(news(&mut table, &NewAddress(v4())), up(3));
    }

    #[test]
    fn an_interface_that_only_ever_had_a_link_local_address_is_not_judged_by_it() {
        let mut table = Interfaces::default();
        news(&mut table, &NewLink(link(3, OPERATIONAL)));
        let local = || address(3, "fe80::1", AddressScope::Link);
        assert_eq!(news(&mut table, &NewAddress(local())), None);
        assert_eq!(news(&mut table, &DelAddress(local())), None);
    }

    #[test]
    fn an_interface_that_vanished_unseen_is_down_after_the_next_dump() {
        let mut table = Interfaces::default();
        table.begin_dump();
        for index in [3, 4] {
            table.handle(&NewLink(link(index, OPERATIONAL)), true);
        }
        assert_eq!(table.end_dump(), []);
        table.begin_dump();
        table.handle(&NewLink(link(4, OPERATIONAL)), true);
        // Old news of the one that is gone, and fresh news of one that came too late to be listed.
        news(&mut table, &NewLink(link(3, OPERATIONAL)));
        news(&mut table, &NewLink(link(5, OPERATIONAL)));
        assert_eq!(table.end_dump(), [LinkChange { index: 3, up: false }]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Interfaces::default();
        for index in 1..=(INTERFACES_MAX as u32 + 1) {
            news(&mut table, &NewLink(link(index, OPERATIONAL)));
        }
        assert_eq!(table.table.len(), INTERFACES_MAX);
        // Those inside are still followed.
        assert_eq!(news(&mut table, &NewLink(link(1, LinkFlags::empty()))), down(1));
    }
}
