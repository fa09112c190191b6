//! How much a packet may carry is known along the whole path.

use crate::net::{Net, id};

fn set_mtu(net: &mut Net, a: &str, b: &str, mtu: u16) {
    for (from, to) in [(a, b), (b, a)] {
        let (link, now) = (net.link(from, to), net.now);
        net.router(from).link_mtu(link, mtu, now);
    }
}

#[test]
fn a_path_carries_what_its_thinnest_link_does() {
    let mut net = Net::of("A-B:2 B-C:2 C-D:2");
    net.settle();
    assert_eq!(net.router("A").path_mtu(id("D")), Some(1200), "what passes everywhere, until more is known");
    for (a, b, mtu) in [("A", "B", 8972), ("B", "C", 1372), ("C", "D", 1472)] {
        set_mtu(&mut net, a, b, mtu);
    }
    net.advance_ms(10_000);
    let mtu = |net: &mut Net, from: &str, to: &str| net.router(from).path_mtu(id(to));
    assert_eq!(mtu(&mut net, "A", "B"), Some(8972), "a neighbour limits nothing itself");
    assert_eq!(mtu(&mut net, "A", "D"), Some(1372));
    assert_eq!(mtu(&mut net, "D", "A"), Some(1372));
    assert_eq!(mtu(&mut net, "C", "D"), Some(1472));
    assert_eq!(mtu(&mut net, "A", "A"), None);
}

#[test]
fn a_link_that_becomes_thinner_is_told_all_the_way_within_a_tenth_of_a_second() {
    let mut net = Net::of("A-B:2 B-C:2 C-D:2 D-E:2");
    net.settle();
    for (a, b) in [("A", "B"), ("B", "C"), ("C", "D"), ("D", "E")] {
        set_mtu(&mut net, a, b, 1472);
    }
    net.advance_ms(10_000);
    assert_eq!(net.router("A").path_mtu(id("E")), Some(1472));
    set_mtu(&mut net, "D", "E", 1252);
    net.advance_ms(100);
    assert_eq!(net.router("A").path_mtu(id("E")), Some(1252));
    assert_eq!(net.router("E").path_mtu(id("A")), Some(1252));
    assert_eq!(net.router("A").path_mtu(id("D")), Some(1472), "who is before it is as near as ever");
    set_mtu(&mut net, "D", "E", 1472);
    net.advance_ms(10_000);
    assert_eq!(net.router("A").path_mtu(id("E")), Some(1472), "a larger one is told with the next announcement");
}

#[test]
fn the_way_that_may_take_over_counts_too() {
    let mut net = Net::of("A-B:2 B-D:2 A-C:2 C-D:2");
    net.settle();
    for (a, b, mtu) in [("A", "B", 8972), ("B", "D", 8972), ("A", "C", 1472), ("C", "D", 1472)] {
        set_mtu(&mut net, a, b, mtu);
    }
    net.advance_ms(10_000);
    assert_eq!(net.router("A").path_mtu(id("D")), Some(1472));
    net.cut("A", "C");
    net.advance_ms(10_000);
    assert_eq!(net.router("A").path_mtu(id("D")), Some(8972), "once it is dead it does not");
}
