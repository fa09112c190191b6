#!/usr/bin/env python3
"""A stranger in the local network that sends under the overlay address of a node: A - B with a node each over TUN, X beside A.

X takes B's overlay address for its own and sends datagrams to A's by the link that it shares with A. What `x0t expose` serves must not hear
them, and must hear B's own. A program that listens on the overlay address by itself does hear them, until the line that `x0t doctor` prints
has been given to nftables. Prints a table; exits 1 if anything was otherwise. Needs root, iproute2 and nftables.

    cargo build --release && sudo tests/netns/forge.py target/release/x0t
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from lab import Lab, run, wait

SUBNET, STRANGER_SUBNET = "10.87.1", "fd87:2"
EXPOSED, OWN = 53, 54

# Prints each datagram that comes to a UDP port.
HEAR = r"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    print(s.recv(64).decode(), flush=True)
"""

SEND = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
for port in map(int, sys.argv[4:]):
    s.sendto(sys.argv[3].encode(), (sys.argv[2], port))
"""


class Ear:
    """A program that listens at a UDP port of a, and all that it has heard."""

    def __init__(self, mesh, address, port):
        self.process = mesh.spawn("a", sys.executable, "-c", HEAR, address, str(port), stdout=subprocess.PIPE)
        self.words = ""
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"cannot listen at {address} port {port}")
        os.set_blocking(self.process.stdout.fileno(), False)

    def heard(self):
        try:
            self.words += os.read(self.process.stdout.fileno(), 1 << 16).decode()
        except BlockingIOError:
            pass
        return self.words

    def stop(self):
        self.process.kill()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    options = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft"))):
        print("skipped: needs root, iproute2 and nftables")
        return 0
    folder = tempfile.mkdtemp(prefix="x0t-forge-")
    mesh = Lab(options.binary, folder, "x0tg-", "forge.test", ["a", "b"], [("a", "b", SUBNET)], {"b": ["a"]}, ["--discovery", "off"])
    listeners, failed = [], []

    def note(what, passed):
        failed.extend([] if passed else [what])
        print(f"{'ok    ' if passed else 'FAILED'} {what}", flush=True)

    def send(space, source, target, word):
        mesh.inside(space, sys.executable, "-c", SEND, source, target, word, str(EXPOSED), str(OWN))

    try:
        mesh.build()
        run("ip", "netns", "del", mesh.prefix + "x", check=False)
        run("ip", "netns", "add", mesh.prefix + "x")
        run("ip", "link", "add", "gxa", "netns", mesh.prefix + "x", "type", "veth", "peer", "name", "gax", "netns", mesh.prefix + "a")
        for space, device, host in (("x", "gxa", 1), ("a", "gax", 2)):
            mesh.give_address(space, device, STRANGER_SUBNET, host)
            mesh.inside(space, "ip", "link", "set", device, "up")
        a, b = mesh.address("a"), mesh.address("b")
        mesh.inside("x", "ip", "address", "add", f"{b}/128", "dev", "gxa", "nodad")
        mesh.inside("x", "ip", "-6", "route", "add", f"{a}/128", "via", f"{STRANGER_SUBNET}::2", "dev", "gxa")
        service = Ear(mesh, "127.0.0.1", EXPOSED)
        own = Ear(mesh, a, OWN)
        listeners += [service, own]
        mesh.x0t("a", "expose", f"udp/{EXPOSED}")

        def from_b(word):
            send("b", b, a, word)
            return word in service.heard()

        wait(lambda: from_b("first"), "the exposed port hears b")
        note("an exposed port hears the node", True)
        wait(lambda: send("x", b, a, "forged") or "forged" in own.heard(), "the kernel takes what is forged")
        note("a program of its own hears the stranger, so the kernel takes what is forged", True)
        # What came to the other port came to this one before, or not at all.
        wait(lambda: from_b("second"), "the exposed port hears b again")
        note("an exposed port does not hear the stranger", "forged" not in service.heard())

        def check():
            findings = json.loads(mesh.x0t("a", "doctor", "--json", check=False))
            return next(finding for finding in findings if finding["check"] == "mesh addresses")

        warned = check()
        note("x0t doctor warns", warned["verdict"] == "warning")
        mesh.inside("a", "nft", re.search(r"nft '(.*)'", warned["next"]).group(1))
        note("x0t doctor sees the rule that it advised", check()["verdict"] == "ok")
        for _ in range(5):
            send("x", b, a, "once more")
        wait(lambda: from_b("third") and "third" in own.heard(), "b is heard through the rule")
        note("with it a program of its own hears the node and no stranger", "once more" not in own.heard())
    except (RuntimeError, OSError, ValueError, AttributeError, StopIteration) as error:
        failed.append(str(error))
        mesh.describe(sys.stderr)
        print(f"FAILED: {error}", file=sys.stderr)
    finally:
        for listener in listeners:
            listener.stop()
        mesh.destroy()
        run("ip", "netns", "del", mesh.prefix + "x", check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
