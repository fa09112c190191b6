"""Nodes in network namespaces of their own: what the tests beside this file share. Needs root and iproute2."""
import json
import os
import signal
import subprocess
import time


def run(*command, check=True, capture=True, timeout=60):
    done = subprocess.run(command, capture_output=capture, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout if capture else ""


def wait(done, what, seconds=20):
    deadline, error = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except (RuntimeError, ValueError, KeyError) as failed:
            error = failed
        time.sleep(0.05)
    raise RuntimeError(f"not within {seconds} s: {what}" + (f" ({error})" if error else ""))


class Lab:
    """A mesh whose nodes live in namespaces called `prefix` + name.

    `links` are (left, right, subnet): a veth pair, the left end .1 and the right end .2, or ::1 and ::2 if the subnet is one of IPv6. The
    first node is the authority, and every other one joins through the neighbours that `joins` names for it, by their addresses on the
    shared subnets.
    """

    def __init__(self, binary, folder, prefix, trust_domain, nodes, links, joins, flags=()):
        self.binary, self.folder, self.prefix, self.trust_domain = os.path.abspath(binary), folder, prefix, trust_domain
        self.nodes, self.links, self.joins, self.flags = nodes, links, joins, list(flags)

    def inside(self, node, *command, **options):
        return run("ip", "netns", "exec", self.prefix + node, *command, **options)

    def spawn(self, node, *command, **options):
        return subprocess.Popen(["ip", "netns", "exec", self.prefix + node, *command], text=True, **options)

    def x0t(self, node, *arguments, **options):
        return self.inside(node, self.binary, "--state-dir", f"{self.folder}/{node}", *arguments, **options)

    def start(self, node):
        self.x0t(node, "up")

    def kill(self, node):
        with open(f"{self.folder}/{node}/lock") as lock:
            os.kill(int(lock.read()), signal.SIGKILL)

    def status(self, node):
        return json.loads(self.x0t(node, "status", "--json"))

    def address(self, node):
        return self.status(node)["overlay_address"]

    @staticmethod
    def device(node, other):
        return f"v{node}{other}"

    def wire(self):
        """Makes the namespaces and the links between them."""
        for node in self.nodes:
            run("ip", "netns", "del", self.prefix + node, check=False)
            run("ip", "netns", "add", self.prefix + node)
            self.inside(node, "ip", "link", "set", "lo", "up")
        for left, right, subnet in self.links:
            l, r = self.device(left, right), self.device(right, left)
            run("ip", "link", "add", l, "netns", self.prefix + left, "type", "veth", "peer", "name", r, "netns", self.prefix + right)
            for node, device, host in ((left, l, 1), (right, r, 2)):
                self.give_address(node, device, subnet, host)
                self.inside(node, "ip", "link", "set", device, "up")

    def give_address(self, node, device, subnet, host):
        if ":" in subnet:
            # Nobody else is there, so nothing has to be waited for.
            self.inside(node, "ip", "address", "add", f"{subnet}::{host}/64", "dev", device, "nodad")
        else:
            self.inside(node, "ip", "address", "add", f"{subnet}.{host}/24", "dev", device)

    def underlay(self, node, neighbour):
        """Where `neighbour` listens on the link that it shares with `node`."""
        for left, right, subnet in self.links:
            if {left, right} == {node, neighbour}:
                host = 1 if left == neighbour else 2
                return f"[{subnet}::{host}]:4600" if ":" in subnet else f"{subnet}.{host}:4600"
        raise ValueError(f"no link between {node} and {neighbour}")

    def start_mesh(self):
        first, *others = self.nodes
        listen = "[::]:4600" if any(":" in subnet for _, _, subnet in self.links) else "0.0.0.0:4600"
        common = ["--listen", listen, "--http", "off", "--tun", "require", *self.flags]
        self.x0t(first, "up", "--name", first, "--trust-domain", self.trust_domain, *common)
        wait(lambda: self.status(first)["ready"], f"{first} is ready")
        for node in others:
            via, *peers = (self.underlay(node, neighbour) for neighbour in self.joins[node])
            token = json.loads(self.x0t(first, "token", "create", "--name", node, "--address", via, "--json"))["token"]
            extra = [word for peer in peers for word in ("--peer", peer)]
            self.x0t(node, "join", token, "--name", node, *extra, *common)
            wait(lambda: self.status(node)["ready"], f"{node} is ready")

    def build(self):
        self.wire()
        self.start_mesh()

    def describe(self, stream):
        for node in self.nodes:
            try:
                print(f"--- {node}\n" + self.x0t(node, "peers") + self.x0t(node, "routes"), file=stream)
            except (RuntimeError, OSError) as silent:
                print(f"--- {node}: {silent}", file=stream)

    def destroy(self):
        for node in self.nodes:
            self.x0t(node, "down", check=False)
            run("ip", "netns", "del", self.prefix + node, check=False)
