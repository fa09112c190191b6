"""x0t, at its defaults: identities are made over the lab's own links before anything is timed, then each node is `x0t run`."""
import json
import time

from adapters import PeerAdapter, find_bin, first_line

PORT = 4600
READY_S = 20


class Adapter(PeerAdapter):
    binary = "x0t"
    path = None                         # set by compare.py --x0t; else looked up like any other peer
    settle_s = 5
    notes = "defaults; X25519MLKEM768, AES-GCM, one session end to end"
    options = ()                        # for `x0t run`, in adapters derived from this one

    @classmethod
    def bin(cls):
        return cls.path or find_bin(cls.binary)

    @classmethod
    def version(cls):
        return first_line([cls.bin(), "version"]).removeprefix("x0t ")

    def configure(self):
        """One hub creates the mesh; the others join in the order of their distance to it, each by a member next to it.

        Joining takes running nodes, so they run here, without a TUN device, and have all stopped when this returns.
        """
        self.address, running = {}, []
        settings = ["--listen", f"0.0.0.0:{PORT}", "--http", "off", "--tun", "off", "--foreground"]
        root = self.lab.hubs[0]
        order, via = [root], {}
        for member in order:
            for node in self.lab.neighbours(member):
                if node not in order:
                    order.append(node)
                    via[node] = f"{self.lab.link_ip[(member, node)]}:{PORT}"
        try:
            for node in order:
                if node == root:
                    argv = ["up", "--trust-domain", "bench.test"]
                else:
                    ticket = self.x0t(root, "token", "create", "--name", node.lower(), "--address", via[node], "--json")
                    argv = ["join", json.loads(ticket)["token"]]
                running.append(self.lab.spawn(node, self.argv(node, *argv, "--name", node.lower(), *settings), overlay=False,
                                              name="enrol"))
                self.address[node] = self.ready(node)["overlay_address"]
        finally:
            self.lab._stop(running)
            self.lab.helpers = [helper for helper in self.lab.helpers if helper not in running]

    def start(self, node):
        peers = [word for peer in self.dials(node) for word in ("--peer", f"{self.lab.link_ip[(peer, node)]}:{PORT}")]
        # Who dials nobody falls back on the address that it joined by, so some links are dialled from both ends.
        self.lab.spawn(node, self.argv(node, "run", "--tun", "require", *peers, *self.options))

    def overlay_ip(self, node):
        return self.address[node]

    def argv(self, node, *words):
        return [self.bin(), "--state-dir", self.lab.path(f"state-{node}"), *words]

    def x0t(self, node, *words):
        return self.lab.run(node, self.argv(node, *words))

    def ready(self, node):
        """What `x0t status` says, once the node is ready."""
        deadline, last = time.monotonic() + READY_S, ""
        while time.monotonic() < deadline:
            try:
                status = json.loads(self.x0t(node, "status", "--json"))
                if status["ready"]:
                    return status
                last = status["not_ready_because"]
            except (RuntimeError, ValueError) as error:         # not ready ends with 3, not yet listening with 4
                last = error
            time.sleep(0.02)
        raise RuntimeError(f"{node} was not ready within {READY_S} s: {last}")
