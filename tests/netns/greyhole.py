#!/usr/bin/env python3
"""Relays that route and do not carry, between real nodes: the diamond of diamond.py, A - {R1, R2} - B.

The relay in use drops what it carries to b (nft, on its link to b): everything that is as long as a carried packet, a random 30 % of it, or
only long packets. Its own heartbeats are shorter and pass, so no link is suspected; only receipts can tell. Prints a table, or JSON with
--json; exits 1 if a hole was not found, or later than four times its goal (the machine may be busy; the goals stand beside the figures).
Needs root, iproute2 and nftables.

    cargo build --release && sudo tests/netns/greyhole.py target/release/x0t
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from diamond import Mesh, next_hop, two_ways
from lab import wait

PREFIX = "x0tg-"

# Carried packets are longer than this as IP packets, and what a relay says for itself between two announcements is shorter.
SMALL = 450
# The payload of the stream that is carried, and of the long one.
PAYLOAD, LONG = 400, 1000

SINK = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7008))
while True:
    s.recvfrom(2048)
"""

# Sends `rate` datagrams of `size` bytes a second, marked with a traffic class.
SOURCE = r"""
import socket, sys, time
target, seconds, rate, size, tos = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
s.connect((target, 7008))
start, number = time.monotonic(), 0
while time.monotonic() - start < seconds:
    try:
        s.send(bytes(size))
    except OSError:
        pass
    number += 1
    time.sleep(max(0.0, start + number / rate - time.monotonic()))
print(number)
"""


def hole(mesh, relay, condition):
    """An nft table on the relay that drops what it sends towards b."""
    rule = f"oifname \"{mesh.device(relay, 'b')}\" meta l4proto udp {condition}"
    mesh.inside(relay, "nft", "table ip hole { chain out { type filter hook output priority 0; %s drop; }; }" % rule)


def fill(mesh, relay):
    mesh.inside(relay, "nft", "delete table ip hole", check=False)


def dropped_conditions():
    return {
        "all": (f"meta length > {SMALL}", PAYLOAD, 0.25, 200),
        "30 %": (f"meta length > {SMALL} numgen random mod 100 < 30", PAYLOAD, 3.0, 100),
        "long": ("meta length > 900", LONG, 3.0, 100),
    }


def received(mesh):
    """How many packets b's host was handed."""
    with os.popen(f"ip netns exec {PREFIX}b cat /proc/net/snmp6") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Udp6InDatagrams"))


def moved_away(mesh, relay, since, limit):
    while time.monotonic() - since < limit:
        if next_hop(mesh, "a", "b")[0] != relay:
            return time.monotonic() - since
        time.sleep(0.02)
    return None


def source(address, seconds, rate, size, tos=0):
    command = ["ip", "netns", "exec", PREFIX + "a", sys.executable, "-c", SOURCE, address]
    return subprocess.Popen(command + [str(seconds), str(rate), str(size), str(tos)], stdout=subprocess.PIPE, text=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    for tool in ("ip", "nft"):
        if not shutil.which(tool):
            print(f"skipped: needs {tool}")
            return 0
    folder = tempfile.mkdtemp(prefix="x0t-greyhole-")
    mesh = Mesh(options.binary, folder)
    mesh.prefix = PREFIX
    results, error, sink = [], None, None
    try:
        mesh.build()
        wait(lambda: two_ways(mesh), "two ways between a and b")
        address = mesh.status("b")["overlay_address"]
        sink = subprocess.Popen(["ip", "netns", "exec", PREFIX + "b", sys.executable, "-c", SINK, address])
        time.sleep(0.5)
        for name, (condition, size, goal, rate) in dropped_conditions().items():
            wait(lambda: two_ways(mesh), "two ways before a hole", 40)
            relay = next_hop(mesh, "a", "b")[0]
            stream = source(address, 2 + 5 * goal, rate, size)
            time.sleep(1.5)
            relay = next_hop(mesh, "a", "b")[0]
            hole(mesh, relay, condition)
            found = moved_away(mesh, relay, time.monotonic(), 4 * goal + 0.5)
            stream.communicate(timeout=60)
            fill(mesh, relay)
            results.append({"hole": f"{relay} drops {name}", "found_s": found and round(found, 3), "goal_s": goal})
        # A critical flow (DSCP 46) under a hole in either relay in turn: nothing may be lost.
        lost = sent = 0
        for _ in range(2):
            for relay in ("r1", "r2"):
                wait(lambda: two_ways(mesh), "two ways before a hole", 40)
                before = received(mesh)
                stream = source(address, 2.0, 200, PAYLOAD, 46 << 2)
                time.sleep(0.7)
                hole(mesh, relay, f"meta length > {SMALL}")
                number = int(stream.communicate(timeout=30)[0])
                time.sleep(0.3)
                fill(mesh, relay)
                (sent, lost) = (sent + number, lost + number - (received(mesh) - before))
                time.sleep(2)
        results.append({"hole": "critical flow, 4 holes", "sent": sent, "lost": lost})
    except (RuntimeError, OSError, ValueError) as failed:
        error = failed
        mesh.describe(sys.stderr)
    finally:
        if sink:
            sink.kill()
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    late = [r["hole"] for r in results if "goal_s" in r and (r["found_s"] is None or r["found_s"] > 4 * r["goal_s"])]
    late += [r["hole"] for r in results if r.get("lost")]
    if options.json:
        print(json.dumps({"holes": results, "failed": late, "error": error and str(error)}, indent=2))
    else:
        for r in results:
            if "goal_s" in r:
                found = "never" if r["found_s"] is None else f"{r['found_s'] * 1000:.0f} ms"
                print(f"{r['hole']:<24} traffic moved after {found} (goal {r['goal_s'] * 1000:.0f} ms)")
            else:
                print(f"{r['hole']:<24} {r['lost']} of {r['sent']} packets lost (goal 0)")
    if error or late:
        print(f"FAILED: {error or 'not found in time: ' + ', '.join(late)}", file=sys.stderr)
    return 0 if results and not error and not late else 1


if __name__ == "__main__":
    sys.exit(main())
