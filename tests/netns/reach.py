#!/usr/bin/env python3
"""How nodes get at each other: through NATs, where UDP is blocked, and in one local network. Each node in a network namespace.

punch    a and b, each behind an nftables masquerading NAT, know only the relay r. Traffic flows through r; then a direct link
         must come up, the packets must leave the relay alone, and when the direct link dies they must come back to it.
blocked  c, whose network lets no UDP pass, must join and be reached over TLS within seconds, say so in `x0t peers --json`, and go
         back to UDP when that is let through.
lan      d and e on one bridge, with no peer configured, must find each other; without IPv6 too.

Prints a table, or JSON with --json; exits 1 if anything failed. Needs root, iproute2, nftables and iputils-ping.

    cargo build --release && sudo tests/netns/reach.py target/release/x0t
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from lab import Lab, run, wait

PREFIX = "x0tr-"
SPACES = ["wan", "na", "nb", "a", "b", "r", "c", "lan", "d", "e"]
# A host behind a NAT that filters like most: replies come in, nothing else does, and nothing is said about it.
NAT = """
table ip nat {
  chain post { type nat hook postrouting priority 100; oifname "wan0" masquerade; }
}
table ip filter {
  chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iifname "lan0" accept; }
  chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan0" accept; }
}"""
NO_UDP = """table ip noudp {
  chain output { type filter hook output priority 0; meta l4proto udp drop; }
  chain input { type filter hook input priority 0; meta l4proto udp drop; }
}"""
# Longer than any outcome should take, on a busy machine.
PATIENCE = 40


def inside(space, *command, **options):
    return run("ip", "netns", "exec", PREFIX + space, *command, **options)


def bridge(space, name="br0"):
    inside(space, "ip", "link", "add", name, "type", "bridge")
    inside(space, "ip", "link", "set", name, "up")


def cable(space, device, hub, address=None, name="br0", v6=True):
    """A veth pair: `device` in `space`, the other end on the bridge of `hub`."""
    far = f"p{space}{device}"
    run("ip", "link", "add", device, "netns", PREFIX + space, "type", "veth",
        "peer", "name", far, "netns", PREFIX + hub)
    inside(hub, "ip", "link", "set", far, "master", name, "up")
    if not v6:
        inside(space, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
    if address:
        inside(space, "ip", "address", "add", address, "dev", device)
    inside(space, "ip", "link", "set", device, "up")


def behind_nat(nat, host, wan_address, subnet):
    cable(nat, "wan0", "wan", wan_address)
    run("ip", "link", "add", "lan0", "netns", PREFIX + nat, "type", "veth",
        "peer", "name", "eth0", "netns", PREFIX + host)
    inside(nat, "ip", "address", "add", f"{subnet}.1/24", "dev", "lan0")
    inside(nat, "ip", "link", "set", "lan0", "up")
    inside(host, "ip", "address", "add", f"{subnet}.2/24", "dev", "eth0")
    inside(host, "ip", "link", "set", "eth0", "up")
    inside(host, "ip", "route", "add", "default", "via", f"{subnet}.1")
    inside(nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    inside(nat, "nft", NAT)


def build():
    for space in SPACES:
        run("ip", "netns", "del", PREFIX + space, check=False)
        run("ip", "netns", "add", PREFIX + space)
        inside(space, "ip", "link", "set", "lo", "up")
    bridge("wan")
    bridge("lan")
    behind_nat("na", "a", "198.18.0.10/24", "10.91.1")
    behind_nat("nb", "b", "198.18.0.20/24", "10.91.2")
    cable("r", "eth0", "wan", "198.18.0.1/24")
    cable("c", "eth0", "wan", "198.18.0.30/24")


COMMON = ["--http", "off", "--tun", "require"]
OVER_V4 = ["--listen", "0.0.0.0:4600", "--discovery", "off", *COMMON]


def join(mesh, authority, node, address, *flags, patience=PATIENCE):
    token = json.loads(mesh.x0t(authority, "token", "create", "--name", node, "--address", address, "--json"))["token"]
    mesh.x0t(node, "join", token, "--name", node, "--wait", f"{patience}s", *flags, timeout=patience + 30)


def peer(mesh, node, name):
    """What `x0t peers --json` says of a neighbour; nothing if it is none, or not up."""
    for view in json.loads(mesh.x0t(node, "peers", "--json")):
        if view["spiffe_id"].endswith("/" + name) and view["state"] == "up":
            return view
    return None


def transport(mesh, node, name):
    view = peer(mesh, node, name)
    return view["transport"] if view else None


def counter(mesh, node, name):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{mesh.folder}/{node}/admin.sock")
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    with connection.makefile() as answer:
        text = answer.read()
    connection.close()
    found = re.search(rf"^x0t_{name}_total (\d+)", text, re.M)
    return int(found.group(1)) if found else 0


class Pings:
    """An echo every 20 ms, for as long as it is wanted."""

    running = []

    def __init__(self, node, target):
        self.process = subprocess.Popen(["ip", "netns", "exec", PREFIX + node, "ping", "-6", "-i", "0.02", "-q", target],
                                        stdout=subprocess.PIPE, text=True)
        self.running.append(self)

    def stop(self):
        self.running.remove(self)
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=10)
        return re.search(r"(\d+) packets transmitted, (\d+) received", out).groups()


def reaches(node, address):
    return "1 received" in inside(node, "ping", "-6", "-c", "1", "-W", "1", address, check=False)


def took(start):
    return round(time.monotonic() - start, 2)


def punch(mesh, note):
    mesh.x0t("r", "up", "--name", "r", "--trust-domain", "reach.test", "--listen-tls", "0.0.0.0:443", *OVER_V4)
    wait(lambda: mesh.status("r")["ready"], "r is ready")
    for node in ("a", "b"):
        join(mesh, "r", node, "198.18.0.1:4600", *OVER_V4)
    addresses = {node: mesh.status(node)["overlay_address"] for node in ("a", "b", "r")}
    wait(lambda: (peer(mesh, "a", "r") or {}).get("observed") == "198.18.0.10:4600", "r tells a where it sees it")
    note("observed address", True, peer(mesh, "a", "r")["observed"])
    start = time.monotonic()
    pings = Pings("a", addresses["b"])
    wait(lambda: peer(mesh, "a", "b") and peer(mesh, "b", "a"), "a direct link between a and b", PATIENCE)
    seconds = took(start)
    view = peer(mesh, "a", "b")
    note("direct link through two NATs", view["origin"] == "punched" and view["transport"] == "udp",
         f"{seconds} s, {view['origin']} to {view['address']}")

    def relayed(during=2.0):
        before = counter(mesh, "r", "node_packets_forwarded")
        time.sleep(during)
        return counter(mesh, "r", "node_packets_forwarded") - before

    wait(lambda: relayed(0.5) <= 2, "the packets leave the relay", PATIENCE)
    forwarded = relayed()
    note("the relay carries nothing any more", forwarded <= 5, f"{forwarded} packets in 2 s of 100 echoes")
    # The direct link dies silently; the relay takes over.
    start = time.monotonic()
    for nat, other in (("na", "198.18.0.20"), ("nb", "198.18.0.10")):
        inside(nat, "nft", f"table ip cut {{ chain f {{ type filter hook forward priority -10; ip daddr {other} drop; ip saddr {other} drop; }}; }}")
    wait(lambda: relayed(0.3) >= 10, "the relay carries again", PATIENCE)
    note("the relay takes over when the direct link dies", True, f"{took(start)} s")
    for nat in ("na", "nb"):
        inside(nat, "nft", "delete", "table", "ip", "cut")
    sent, received = pings.stop()
    note("echoes in the meantime", int(received) > 0.8 * int(sent), f"{received} of {sent}")


def blocked(mesh, note):
    inside("c", "nft", NO_UDP)
    start = time.monotonic()
    join(mesh, "r", "c", "198.18.0.1:4600", *OVER_V4)
    note("joins where UDP is blocked", True, f"{took(start)} s")
    wait(lambda: peer(mesh, "c", "r"), "c has a link to r")
    view = peer(mesh, "c", "r")
    note("over TLS, and says so", view["transport"] == "tls" and view["address"] == "198.18.0.1:443",
         f"{view['transport']} {view['address']}")
    other = peer(mesh, "r", "c")
    note("the relay says so too", other["transport"] == "tls", f"{other['transport']} {other['address']}")
    address = mesh.status("a")["overlay_address"]
    wait(lambda: reaches("c", address), "c reaches a over TLS and the relay")
    note("carries packets", True, "ping through TLS and the relay")
    inside("c", "nft", "delete", "table", "ip", "noudp")
    start = time.monotonic()
    wait(lambda: transport(mesh, "c", "r") == "udp", "c goes back to UDP", PATIENCE)
    note("back to UDP when it passes again", True, f"{took(start)} s")
    pings = Pings("c", address)
    time.sleep(2)
    start = time.monotonic()
    inside("c", "nft", NO_UDP)
    wait(lambda: transport(mesh, "c", "r") == "tls", "c falls back", PATIENCE)
    seconds = took(start)
    unanswered = mesh.status("c")["unanswered"]
    said = [view for view in unanswered if view["address"] == "198.18.0.1:4600"]
    note("falls back when UDP stops passing", seconds <= 12, f"{seconds} s")
    note("says which address does not answer", bool(said), said[0]["reason"] if said else "nothing")
    inside("c", "nft", "delete", "table", "ip", "noudp")
    wait(lambda: transport(mesh, "c", "r") == "udp", "c goes back again", PATIENCE)
    sent, received = pings.stop()
    note("echoes in the meantime", int(received) > 0, f"{received} of {sent}")


def lan(mesh, note):
    """d creates a mesh, e joins it through an address it then forgets: only beacons lead them to each other."""
    for what, v6 in (("IPv6", True), ("IPv4", False)):
        listen = ["--listen", "[::]:4600"] if v6 else ["--listen", "0.0.0.0:4600"]
        for node, number in (("d", 1), ("e", 2)):
            cable(node, "eth0", "lan", f"10.92.0.{number}/24", v6=v6)
            if v6:
                inside(node, "ip", "address", "add", f"fd92::{number}/64", "dev", "eth0", "nodad")
        start_flags = [*listen, "--discovery", "on", *COMMON]
        mesh.x0t("d", "up", "--name", "d", "--trust-domain", "lan.test", *start_flags)
        wait(lambda: mesh.status("d")["ready"], "d is ready")
        join(mesh, "d", "e", "[fd92::1]:4600" if v6 else "10.92.0.1:4600", *start_flags)
        mesh.x0t("e", "down")
        settings = f"{mesh.folder}/e/mesh.json"
        with open(settings) as file:
            stored = json.load(file)
        stored["peers"] = []
        with open(settings, "w") as file:
            json.dump(stored, file)
        start = time.monotonic()
        mesh.x0t("e", "up")
        wait(lambda: peer(mesh, "e", "d") and peer(mesh, "d", "e"), "d and e find each other", PATIENCE)
        # Whichever heard the other's beacon first has dialled; the other one may have heard nothing yet.
        views = [peer(mesh, "e", "d"), peer(mesh, "d", "e")]
        note(f"two nodes on one bridge find each other over {what}", "discovered" in [view["origin"] for view in views],
             f"{took(start)} s, " + ", ".join(f"{view['origin']} at {view['address']}" for view in views))
        address = mesh.status("d")["overlay_address"]
        wait(lambda: reaches("e", address), "e reaches d")
        for node in ("d", "e"):
            mesh.x0t(node, "down", check=False)
            shutil.rmtree(f"{mesh.folder}/{node}", ignore_errors=True)
            inside(node, "ip", "link", "del", "eth0")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", choices=["punch", "lan"], help="run one part")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: needs root")
        return 0
    for tool in ("ip", "nft", "ping", "sysctl"):
        if not shutil.which(tool):
            print(f"skipped: needs {tool}")
            return 0
    folder = tempfile.mkdtemp(prefix="x0t-reach-")
    mesh = Lab(options.binary, folder, PREFIX, "reach.test", [], [], {})
    results = []

    def note(what, passed, detail):
        results.append({"what": what, "passed": bool(passed), "detail": detail})

    failed = None
    try:
        build()
        parts = {"punch": [punch, blocked], "lan": [lan]}
        for part in parts.get(options.only, [punch, blocked, lan]):
            part(mesh, note)
    except (RuntimeError, TypeError, AttributeError) as error:
        failed = error
        for node in ("r", "a", "b", "c", "d", "e"):
            if os.path.isdir(f"{folder}/{node}"):
                for view in ("peers", "sessions", "routes"):
                    print(f"--- {node} {view}\n" + mesh.x0t(node, view, check=False), file=sys.stderr)
    finally:
        for pings in Pings.running:
            pings.process.kill()
        for node in ("a", "b", "c", "r", "d", "e"):
            if os.path.isdir(f"{folder}/{node}"):
                mesh.x0t(node, "down", check=False)
        for space in SPACES:
            run("ip", "netns", "del", PREFIX + space, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({"failed": str(failed) if failed else None, "results": results}, indent=2))
    else:
        for r in results:
            print(f"{'ok' if r['passed'] else 'FAILED':<7} {r['what']:<48} {r['detail']}")
    if failed:
        print(f"FAILED: {failed}", file=sys.stderr)
    return 0 if not failed and results and all(r["passed"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
