#!/usr/bin/env python3
"""Four nodes in a diamond, each in a network namespace of its own, over TUN: A - {R1, R2} - B.

Ordinary ping and iperf3 cross the mesh; then each relay is killed and each link is cut in turn, silently (nft drop) and with a
link-down event (`ip link set down`), under a stream of UDP echoes. Prints a table, or JSON with --json; exits 1 if
anything did not heal or an outage was beyond four times its goal (the machine may be busy; the goals stand beside the figures). Needs root, iproute2, nftables, iputils-ping and iperf3.

    cargo build --release && sudo tests/netns/diamond.py target/release/x0t
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

NODES = ["a", "r1", "r2", "b"]
# Link: (left, right, subnet). The left end is .1 and the right end .2.
LINKS = [("a", "r1", "10.81.1"), ("a", "r2", "10.81.2"), ("r1", "b", "10.81.3"), ("r2", "b", "10.81.4")]
PREFIX = "x0td-"
BOUND_MS = {"kill": (60, 250), "drop": (100, 300), "down": (10, 50)}

ECHO_SERVER = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7007))
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(data, peer)
"""

# Sends a numbered datagram every `interval` and writes one line a second stream: the time of each answered sending.
ECHO_CLIENT = r"""
import select, socket, struct, sys, time
target, seconds, interval = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.connect((target, 7007))
s.setblocking(False)
answered, number, start = set(), 0, time.monotonic()
sent = []
next_at = start
while time.monotonic() - start < seconds + 0.5:
    now = time.monotonic()
    if now >= next_at and now - start < seconds:
        try:
            s.send(struct.pack("!Q", number))
        except OSError:
            pass
        sent.append(now)
        number += 1
        next_at += interval
    timeout = max(0.0, min(next_at - time.monotonic(), 0.01))
    if select.select([s], [], [], timeout)[0]:
        try:
            while True:
                answered.add(struct.unpack("!Q", s.recv(64))[0])
        except OSError:
            pass
good = sorted(sent[n] for n in answered if n < len(sent))
gaps = [(b - a, a) for a, b in zip(good, good[1:])]
gap, at = max(gaps, default=(seconds, start))
if good:
    tail = sent[-1] - good[-1]
    if tail > gap:
        gap, at = tail, good[-1]
print(len(sent), len(good), round(max(gap - interval, 0.0) * 1000, 2), at)
"""


class Mesh(Lab):
    def __init__(self, binary, folder):
        joins = {"r1": ["a"], "r2": ["a"], "b": ["r1", "r2"]}
        super().__init__(binary, folder, PREFIX, "diamond.test", NODES, LINKS, joins)


def outage(mesh, addresses, fault, heal, seconds=3.0, interval=0.002):
    """The longest silence of an echo stream from a to b around `fault`, in ms, and the echoes lost."""
    client = mesh.spawn("a", sys.executable, "-c", ECHO_CLIENT, addresses["b"], str(seconds), str(interval), stdout=subprocess.PIPE)
    time.sleep(1.0)
    fault()
    out, _ = client.communicate(timeout=30)
    sent, answered, gap, _ = out.split()
    heal()
    return {"sent": int(sent), "lost": int(sent) - int(answered), "gap_ms": float(gap)}


def next_hop(mesh, start, target):
    routes = json.loads(mesh.x0t(start, "routes", "--json"))
    peers = {peer["node_id"]: peer["spiffe_id"].rsplit("/", 1)[1] for peer in json.loads(mesh.x0t(start, "peers", "--json"))}
    for route in routes:
        if (route["spiffe_id"] or "").endswith("/" + target):
            usable = [s for s in route["successors"] if s["usable"]]
            return peers[usable[0]["via"]], len(usable)
    raise RuntimeError(f"{start} has no route to {target}")


def two_ways(mesh):
    return next_hop(mesh, "a", "b")[1] >= 2 and next_hop(mesh, "b", "a")[1] >= 2


def drop_all(name):
    """An nft table that swallows all packets of one device, in both directions, and says nothing."""
    chains = (f"chain {hook} {{ type filter hook {hook} device {name} priority 0; policy drop; }}" for hook in ("ingress", "egress"))
    return "table netdev cut { %s; }" % "; ".join(chains)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault is repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    for tool in ("ip", "nft", "ping", "iperf3"):
        if not shutil.which(tool):
            print(f"skipped: needs {tool}")
            return 0
    folder = tempfile.mkdtemp(prefix="x0t-diamond-")
    mesh = Mesh(options.binary, folder)
    results, healed, server = [], True, None
    try:
        mesh.build()
        wait(lambda: two_ways(mesh), "two ways between a and b")
        addresses = {node: mesh.status(node)["overlay_address"] for node in NODES}
        for start in NODES:
            for end in NODES:
                if start != end:
                    wait(lambda: "1 received" in mesh.inside(start, "ping", "-6", "-c", "1", "-W", "1", addresses[end], check=False),
                         f"ping from {start} to {end}")
        daemon = subprocess.Popen(["ip", "netns", "exec", PREFIX + "b", "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        iperf = json.loads(mesh.inside("a", "iperf3", "-6", "-c", addresses["b"], "-t", "3", "-J", timeout=30))
        daemon.wait(10)
        megabits = iperf["end"]["sum_received"]["bits_per_second"] / 1e6
        server = subprocess.Popen(["ip", "netns", "exec", PREFIX + "b", sys.executable, "-c", ECHO_SERVER, addresses["b"]])
        time.sleep(0.3)

        def note(kind, what, result):
            results.append({"kind": kind, "fault": what, **result})

        for _ in range(options.rounds):
            for relay in ("r1", "r2"):
                # The relay that dies must be the one in use: the other one is held down until it is.
                wait(lambda: two_ways(mesh), "two ways before a fault")
                used = next_hop(mesh, "a", "b")[0]
                note("kill", f"kill -9 {used}", outage(mesh, addresses, lambda: mesh.kill(used), lambda: mesh.start(used)))
            for _ in range(2):
                wait(lambda: two_ways(mesh), "two ways before a fault", 40)
                used = next_hop(mesh, "a", "b")[0]
                dev = mesh.device("a", used)
                note("drop", f"silent cut a-{used}", outage(
                    mesh, addresses, lambda: mesh.inside("a", "nft", drop_all(dev)),
                    lambda: mesh.inside("a", "nft", "delete table netdev cut")))
            for _ in range(2):
                wait(lambda: two_ways(mesh), "two ways before a fault", 40)
                used = next_hop(mesh, "b", "a")[0]
                note("drop", f"silent cut {used}-b", outage(
                    mesh, addresses,
                    lambda: mesh.inside("b", "nft", drop_all(mesh.device("b", used))),
                    lambda: mesh.inside("b", "nft", "delete table netdev cut")))
            for _ in range(2):
                wait(lambda: two_ways(mesh), "two ways before a fault", 40)
                used = next_hop(mesh, "a", "b")[0]
                dev = mesh.device("a", used)
                note("down", f"link down a-{used}", outage(
                    mesh, addresses, lambda: mesh.inside("a", "ip", "link", "set", dev, "down"),
                    lambda: mesh.inside("a", "ip", "link", "set", dev, "up")))
        wait(lambda: two_ways(mesh), "two ways after all faults", 40)
    except RuntimeError as failed:
        healed = False
        print(f"FAILED: {failed}", file=sys.stderr)
        mesh.describe(sys.stderr)
    finally:
        if server:
            server.kill()
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    summary = {}
    for kind, (p50_max, worst_max) in BOUND_MS.items():
        gaps = sorted(r["gap_ms"] for r in results if r["kind"] == kind)
        if gaps:
            p50, worst = gaps[len(gaps) // 2], gaps[-1]
            summary[kind] = {"faults": len(gaps), "p50_ms": p50, "worst_ms": worst, "bound_p50_ms": p50_max, "bound_worst_ms": worst_max}
    late = [kind for kind, s in summary.items() if s["worst_ms"] > 4 * s["bound_worst_ms"]]
    if options.json:
        print(json.dumps({"healed": healed, "iperf3_mbit_s": round(megabits, 1) if healed else None, "faults": results,
                          "summary": summary}, indent=2))
    else:
        for r in results:
            print(f"{r['fault']:<24} longest silence {r['gap_ms']:>8.2f} ms, {r['lost']} of {r['sent']} echoes lost")
        for kind, s in summary.items():
            print(f"{kind:<6} p50 {s['p50_ms']:.2f} ms (goal {s['bound_p50_ms']}), worst {s['worst_ms']:.2f} ms (goal {s['bound_worst_ms']})")
        if healed:
            print(f"iperf3 across the mesh: {megabits:.0f} Mbit/s")
    if late:
        print(f"FAILED: far beyond its bound: {', '.join(late)}", file=sys.stderr)
    return 0 if healed and results and not late else 1


if __name__ == "__main__":
    sys.exit(main())
