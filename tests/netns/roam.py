#!/usr/bin/env python3
"""A neighbour whose address changes under a running link, between real nodes: A - B, B passive.

First B gets a second address and sends from it, while the first still works: the link must stay where it is, for whoever copies packets
looks the same. Then the first address goes: the link must follow, be the same link, and the pings through the mesh must not pause for as long
as a dead link would take. Needs root, iproute2 and ping.

    cargo build --release && sudo tests/netns/roam.py target/release/x0t
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from lab import Lab

SUBNET = "10.86.0"
# Three questions 50 ms apart and the pause after an earlier doubt. A dead link takes 386 ms in the median.
GOAL_MS = 250
# Above this it fails: a busy machine adds to it.
GAP_MS_MAX = 600


def peer_address(mesh):
    peers = json.loads(mesh.x0t("a", "peers", "--json"))
    return next(peer["address"] for peer in (peers["peers"] if isinstance(peers, dict) else peers))


def longest_gap_ms(mesh, change):
    """The longest time without an answer while `change` happens, at 100 pings a second."""
    ping = mesh.spawn("a", "ping", "-6", "-n", "-D", "-i", "0.01", "-c", "300", "-W", "1", mesh.address("b"), stdout=subprocess.PIPE)
    time.sleep(1)
    change()
    answers = [float(at) for at in re.findall(r"\[([\d.]+)\]", ping.communicate(timeout=30)[0])]
    return max(later - earlier for earlier, later in zip(answers, answers[1:])) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    options = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "ping"))):
        print("skipped: needs root, iproute2 and ping")
        return 0
    folder = tempfile.mkdtemp(prefix="x0t-roam-")
    mesh = Lab(options.binary, folder, "x0tr-", "roam.test", ["a", "b"], [("a", "b", SUBNET)], {"b": ["a"]})
    device, failed = Lab.device("b", "a"), []
    old, new = f"{SUBNET}.2", f"{SUBNET}.3"

    def second_address():
        mesh.inside("b", "ip", "address", "add", f"{new}/24", "dev", device)
        mesh.inside("b", "ip", "route", "change", f"{SUBNET}.0/24", "dev", device, "src", new)

    def only_address():
        mesh.inside("b", "ip", "address", "del", f"{old}/24", "dev", device)

    try:
        mesh.build()
        mesh.inside("b", "sysctl", "-qw", f"net.ipv4.conf.{device}.promote_secondaries=1")
        time.sleep(1)
        for what, change, where in (("sends from elsewhere", second_address, old), ("is elsewhere", only_address, new)):
            gap, at = longest_gap_ms(mesh, change), peer_address(mesh)
            right = at.startswith(where + ":") and gap <= GAP_MS_MAX
            failed += [] if right else [what]
            print(f"{'ok    ' if right else 'FAILED'} the peer {what:<22} the link is at {at}, no answer for {gap:.0f} ms at most (goal {GOAL_MS} ms)")
    except (RuntimeError, OSError, ValueError, StopIteration) as error:
        failed.append(str(error))
        mesh.describe(sys.stderr)
        print(f"FAILED: {error}", file=sys.stderr)
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
