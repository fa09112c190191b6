#!/usr/bin/env python3
"""Underlays that are IPv6 only, each node in a network namespace without any IPv4 address: A - {R1, R2} - B over TUN, links of 1280 bytes.

global       the links have global addresses. Pings of the largest packet that IPv6 entitles to, TCP and a stream of UDP echoes cross a relay;
             the relay in use is killed, and the link in use is cut silently and with a link-down event.
link-local   the same nodes with nothing but link-local addresses, configured with their zone (`[fe80::1%va-r1]:4600`).

Prints a table, or JSON with --json; exits 1 if anything did not get through or did not heal, or an outage was beyond four times its goal
(the machine may be busy). Needs root, iproute2, nftables, iputils-ping and iperf3.

    cargo build --release && sudo tests/netns/ipv6.py target/release/x0t
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from diamond import BOUND_MS, ECHO_SERVER, drop_all, next_hop, outage, two_ways
from lab import Lab, wait

NODES = ["a", "r1", "r2", "b"]
LINKS = [("a", "r1", "fd81:1"), ("a", "r2", "fd81:2"), ("r1", "b", "fd81:3"), ("r2", "b", "fd81:4")]
MTU = 1280
# The longest echo whose packet is 1280 bytes: IPv6 entitles to it (RFC 8200, 5), and this underlay carries it in pieces only.
PING_BYTES = MTU - 40 - 8


class Mesh(Lab):
    def __init__(self, binary, folder):
        joins = {"r1": ["a"], "r2": ["a"], "b": ["r1", "r2"]}
        super().__init__(binary, folder, "x0tv-", "six.test", NODES, LINKS, joins, ["--discovery", "off", "--punch", "off"])

    def wire(self):
        super().wire()
        for left, right, _ in LINKS:
            for node, other in ((left, right), (right, left)):
                self.inside(node, "ip", "link", "set", self.device(node, other), "mtu", str(MTU))

    def raise_link(self, node, other):
        """Up again after a link-down event, at which the kernel has taken the addresses away."""
        device = self.device(node, other)
        self.inside(node, "ip", "link", "set", device, "up")
        for left, right, subnet in self.links:
            if {left, right} == {node, other}:
                self.give_link_local(node, device, left == node) if self.is_link_local else self.give_address(
                    node, device, subnet, 1 if left == node else 2)

    is_link_local = False

    def give_link_local(self, node, device, is_left):
        self.inside(node, "ip", "address", "replace", f"fe80::{1 if is_left else 2}/64", "dev", device, "nodad")

    def leave_link_local_only(self):
        """Stops all nodes, takes the global addresses away, and starts the nodes with the link-local ones of their neighbours."""
        for node in self.nodes:
            self.x0t(node, "down")
        self.is_link_local = True
        peers = {node: [] for node in self.nodes}
        for left, right, _ in self.links:
            for node, other, is_left in ((left, right, True), (right, left, False)):
                device = self.device(node, other)
                self.inside(node, "ip", "-6", "address", "flush", "dev", device)
                self.give_link_local(node, device, is_left)
                peers[node].append(f"[fe80::{2 if is_left else 1}%{device}]:4600")
        for node in self.nodes:
            flags = [word for peer in peers[node] for word in ("--peer", peer)]
            # Whoever is first finds nobody yet, and says so with its exit code.
            self.x0t(node, "up", *flags, check=False)
        for node in self.nodes:
            wait(lambda: self.status(node)["ready"], f"{node} is ready again")

    def underlay_addresses(self):
        """Where each neighbour is, as the nodes see it."""
        return {peer["address"] for node in self.nodes for peer in json.loads(self.x0t(node, "peers", "--json"))}


def carries(mesh, addresses):
    """What gets through: pings of the largest entitled packet, all of five, and TCP both ways in Mbit/s."""
    ping = mesh.inside("a", "ping", "-6", "-c", "5", "-i", "0.2", "-W", "1", "-s", str(PING_BYTES), addresses["b"], check=False)
    received = int(ping.split(" received")[0].rsplit(" ", 1)[1])
    megabits = []
    for direction in ((), ("-R",)):
        server = mesh.spawn("b", "iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        end = json.loads(mesh.inside("a", "iperf3", "-6", "-c", addresses["b"], "-t", "1", "-J", *direction, timeout=30))["end"]
        server.wait(10)
        megabits.append(end["sum_received"]["bits_per_second"] / 1e6)
    return received, megabits


def faults(mesh, addresses, kinds):
    """Each fault at the relay or link in use, under a stream of echoes."""
    for kind in kinds:
        wait(lambda: two_ways(mesh), f"two ways before the fault `{kind}`", 40)
        used = next_hop(mesh, "a", "b")[0]
        device = mesh.device("a", used)
        cut, heal = {
            "kill": (lambda: mesh.kill(used), lambda: mesh.start(used)),
            "drop": (lambda: mesh.inside("a", "nft", drop_all(device)), lambda: mesh.inside("a", "nft", "delete table netdev cut")),
            "down": (lambda: mesh.inside("a", "ip", "link", "set", device, "down"), lambda: mesh.raise_link("a", used)),
        }[kind]
        yield kind, used, outage(mesh, addresses, cut, heal)
    wait(lambda: two_ways(mesh), "two ways after all faults", 40)


def story(mesh, note):
    wait(lambda: two_ways(mesh), "two ways between a and b", 40)
    addresses = {node: mesh.address(node) for node in NODES}
    what = "link-local" if mesh.is_link_local else "global"
    seen = mesh.underlay_addresses()
    expected = all(address.startswith("[fe80::") and "%" in address if mesh.is_link_local else address.startswith("[fd81:") for address in seen)
    note(f"{what}: the links are IPv6", expected, f"{len(seen)} addresses, as {sorted(seen)[0]}")
    wait(lambda: "1 received" in mesh.inside("a", "ping", "-6", "-c", "1", "-W", "1", addresses["b"], check=False), "a reaches b")
    received, megabits = carries(mesh, addresses)
    note(f"{what}: packets of {MTU} bytes through links of {MTU}", received == 5, f"{received} of 5 echoes")
    note(f"{what}: TCP through a relay", min(megabits) > 5, f"{megabits[0]:.0f} Mbit/s, back {megabits[1]:.0f}")
    server = mesh.spawn("b", sys.executable, "-c", ECHO_SERVER, addresses["b"])
    try:
        time.sleep(0.3)
        for kind, used, gap in faults(mesh, addresses, ("kill", "drop", "down")):
            goal = BOUND_MS[kind][1]
            note(f"{what}: {kind} {used}", gap["gap_ms"] <= 4 * goal,
                 f"longest silence {gap['gap_ms']:.1f} ms (goal {goal}), {gap['lost']} of {gap['sent']} echoes lost")
    finally:
        server.kill()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    for tool in ("ip", "nft", "ping", "iperf3"):
        if not shutil.which(tool):
            print(f"skipped: needs {tool}")
            return 0
    folder = tempfile.mkdtemp(prefix="x0t-ipv6-")
    mesh, results, failed = Mesh(options.binary, folder), [], None

    def note(what, passed, detail):
        results.append({"what": what, "passed": bool(passed), "detail": detail})
        if not options.json:
            print(f"{'ok' if passed else 'FAILED':<7} {what:<52} {detail}", flush=True)

    try:
        mesh.build()
        story(mesh, note)
        mesh.leave_link_local_only()
        story(mesh, note)
    except (RuntimeError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
        failed = repr(error)
        print(f"FAILED: {failed}", file=sys.stderr)
        mesh.describe(sys.stderr)
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({"failed": failed, "results": results}, indent=2))
    return 0 if not failed and results and all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
