#!/usr/bin/env python3
"""Underlays of every size, in network namespaces over TUN: bulk TCP, large pings and UDP, direct and through a relay; then the MTU
shrinks under a live TCP flow, with the kernel's knowledge (`ip link set mtu`) and silently (nft drops what is large).

Prints a table, or JSON with --json; exits 1 if anything does not get through, or a flow stands still for twice as long as the goal.
Needs root, iproute2, nftables, iputils-ping and iperf3.

    cargo build --release && sudo tests/netns/mtu.py target/release/x0t
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from lab import Lab, wait

PREFIX = "x0tm-"
STILL_GOAL_S = 1.0
PACKET_OVERHEAD = 104
DIRECT = (["a", "b"], [("a", "b", "10.82.1")], {"b": ["a"]})
RELAYED = (["a", "r", "b"], [("a", "r", "10.82.1"), ("r", "b", "10.82.2")], {"r": ["a"], "b": ["r"]})
# Name, shape, MTU of each link, further flags of every node.
UNDERLAYS = [
    ("direct 1280", DIRECT, [1280], []),
    ("direct 1400", DIRECT, [1400], []),
    ("direct 1400, no offload", DIRECT, [1400], ["--no-offload"]),
    ("direct 1500", DIRECT, [1500], []),
    ("direct 9000", DIRECT, [9000], []),
    ("relay 9000/1280", RELAYED, [9000, 1280], []),
    ("relay 1400/1500", RELAYED, [1400, 1500], []),
    ("relay 9000/1500, no offload", RELAYED, [9000, 1500], ["--no-offload"]),
]
# Name, shape, MTU before and after, which link shrinks.
SHRINKS = [
    ("direct 1500 to 1300", DIRECT, 1500, 1300, ("a", "b")),
    ("direct 9000 to 1280", DIRECT, 9000, 1280, ("a", "b")),
    ("relay 1500 to 1300, far link", RELAYED, 1500, 1300, ("r", "b")),
    ("relay 9000 to 1400, near link", RELAYED, 9000, 1400, ("a", "r")),
]

# Reads one connection to its end and prints when it had stood still for longest, for how long, and the bytes of the last second.
SINK = r"""
import socket, sys, time
listener = socket.create_server((sys.argv[1], 7008), family=socket.AF_INET6)
print("listening", flush=True)
connection, _ = listener.accept()
longest, at, last, start, seen = 0.0, 0.0, None, time.monotonic(), []
while True:
    data = connection.recv(1 << 18)
    now = time.monotonic()
    if last is not None and now - last > longest:
        longest, at = now - last, last - start
    last = now
    if not data:
        break
    seen.append((now, len(data)))
print(longest, at, sum(n for t, n in seen if t > last - 1.0), sum(n for _, n in seen), flush=True)
"""

SOURCE = r"""
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7008))
end, block = time.monotonic() + float(sys.argv[2]), bytes(1 << 16)
while time.monotonic() < end:
    connection.sendall(block)
"""


class Mesh(Lab):
    def __init__(self, binary, folder, shape, mtus, flags=()):
        nodes, links, joins = shape
        super().__init__(binary, folder, PREFIX, "mtu.test", nodes, links, joins, flags)
        self.mtus = mtus

    def build(self):
        self.wire()
        for (left, right, _), mtu in zip(self.links, self.mtus):
            self.set_mtu(left, right, mtu)
        self.start_mesh()
        self.addresses = {node: self.address(node) for node in self.nodes}
        wait(self.is_found, "every path's size is found", 30)

    def set_mtu(self, left, right, mtu):
        for node, other in ((left, right), (right, left)):
            self.inside(node, "ip", "link", "set", self.device(node, other), "mtu", str(mtu))

    def drop_large(self, left, right, mtu):
        """Packets longer than `mtu` vanish on their way in, without a word to anybody."""
        for node, other in ((left, right), (right, left)):
            rule = f"chain large {{ type filter hook ingress device {self.device(node, other)} priority 0; meta length > {mtu} drop; }}"
            self.inside(node, "nft", f"table netdev thin {{ {rule}; }}")

    def segment(self, left, right):
        """The kernel sends each datagram by itself over this link: veth would hand over whole trains, which count as one long packet."""
        for node, other in ((left, right), (right, left)):
            self.inside(node, "ip", "link", "set", self.device(node, other), "gso_max_segs", "1")

    def packet_mtu(self, start, end):
        for route in json.loads(self.x0t(start, "routes", "--json")):
            if (route["spiffe_id"] or "").endswith("/" + end):
                return route["packet_mtu"]
        return None

    def is_found(self):
        expected = min(min(self.mtus) - 28, 8972) - PACKET_OVERHEAD
        return all(self.packet_mtu(*ends) == expected for ends in (("a", "b"), ("b", "a")))


def iperf(mesh, *flags):
    server = mesh.spawn("b", "iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        return json.loads(mesh.inside("a", "iperf3", "-6", "-c", mesh.addresses["b"], "-J", *flags, timeout=30))["end"]
    finally:
        server.kill()
        server.wait()


def pings(mesh, size):
    """How many of five echoes of `size` bytes of payload come back. The first may be what teaches the host the path's MTU."""
    out = mesh.inside("a", "ping", "-6", "-c", "5", "-i", "0.2", "-W", "1", "-s", str(size), mesh.addresses["b"], check=False)
    return int(out.split(" received")[0].rsplit(" ", 1)[1])


def underlay(mesh):
    mesh.build()
    tcp = iperf(mesh, "-t", "2")["sum_received"]["bits_per_second"] / 1e6
    back = iperf(mesh, "-t", "1", "-R")["sum_received"]["bits_per_second"] / 1e6
    # An echo that is too long teaches the host what the path carries; iperf3 gives up at the first datagram that is refused.
    echoes = {size: pings(mesh, size) for size in (1232, 8000)}
    udp = {length: iperf(mesh, "-t", "1", "-u", "-b", "20M", "-l", str(length))["sum"]["lost_percent"] for length in (1200, 4000)}
    result = {
        "packet_mtu": mesh.packet_mtu("a", "b"),
        "tun_mtu": int(json.loads(mesh.inside("a", "ip", "-j", "link", "show", "x0t0"))[0]["mtu"]),
        "tcp_mbit_s": round(tcp, 1),
        "tcp_back_mbit_s": round(back, 1),
        "pings_1232": echoes[1232],
        "pings_8000": echoes[8000],
        "udp_1200_lost_percent": round(udp[1200], 2),
        "udp_4000_lost_percent": round(udp[4000], 2),
    }
    passes = tcp > 5 and back > 5 and result["pings_1232"] == 5 and result["pings_8000"] >= 4 and max(udp.values()) < 20
    return result, passes


def shrink(mesh, link, after, silently):
    mesh.build()
    if silently:
        mesh.segment(*link)
    # A path's size has to be left alone for a while before the hosts are told of it.
    time.sleep(2)
    sink = mesh.spawn("b", sys.executable, "-c", SINK, mesh.addresses["b"], stdout=subprocess.PIPE)
    sink.stdout.readline()
    source = mesh.spawn("a", sys.executable, "-c", SOURCE, mesh.addresses["b"], "7")
    time.sleep(2)
    (mesh.drop_large if silently else mesh.set_mtu)(*link, after)
    try:
        source.wait(30)
        out, _ = sink.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the flow never came to its end")
    finally:
        source.kill()
        sink.kill()
    longest, at, end, total = (float(word) for word in out.split())
    result = {"still_ms": round(longest * 1000, 1), "at_s": round(at, 2), "last_second_mbit_s": round(end * 8 / 1e6, 1),
              "mean_mbit_s": round(total * 8 / 7e6, 1), "packet_mtu": mesh.packet_mtu("a", "b")}
    return result, longest <= 2 * STILL_GOAL_S and end > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", help="run what has this in its name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    for tool in ("ip", "nft", "ping", "iperf3"):
        if not shutil.which(tool):
            print(f"skipped: needs {tool}")
            return 0
    cases = [(name, shape, mtus, flags, underlay) for name, shape, mtus, flags in UNDERLAYS]
    for name, shape, before, after, link in SHRINKS:
        for silently in (False, True):
            how = "silently" if silently else "with the kernel's knowledge"
            act = lambda mesh, link=link, after=after, silently=silently: shrink(mesh, link, after, silently)
            cases.append((f"{name}, {how}", shape, [before] * len(shape[1]), [], act))
    results, failed = [], []
    for name, shape, mtus, flags, act in cases:
        if options.only and options.only not in name:
            continue
        folder = tempfile.mkdtemp(prefix="x0t-mtu-")
        mesh = Mesh(options.binary, folder, shape, mtus, flags)
        try:
            result, passes = act(mesh)
        except (RuntimeError, KeyError, subprocess.TimeoutExpired) as error:
            result, passes = {"error": repr(error)}, False
            mesh.describe(sys.stderr)
        finally:
            mesh.destroy()
            shutil.rmtree(folder, ignore_errors=True)
        results.append({"case": name, "passes": passes, **result})
        failed += [] if passes else [name]
        if not options.json:
            facts = ", ".join(f"{key} {value}" for key, value in result.items())
            print(f"{'ok    ' if passes else 'FAILED'} {name:<58} {facts}", flush=True)
    if options.json:
        print(json.dumps({"still_goal_ms": STILL_GOAL_S * 1000, "cases": results}, indent=2))
    still = sorted(result["still_ms"] for result in results if "still_ms" in result)
    if still and not options.json:
        print(f"longest standstill when the MTU shrinks: median {still[len(still) // 2]:.0f} ms, worst {still[-1]:.0f} ms (goal {STILL_GOAL_S * 1000:.0f})")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 0 if results and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
