"""The harness as the suite sees it: a process, a port for TLS, a port for questions (harness contract, version 1)."""

import http.client
import json
import os
import pathlib
import queue
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

from authority import Authority
from endpoint import Endpoint

DOMAIN = "spiffe://test.example.org"
DEFAULT = f"{DOMAIN}/default"
AUDIENCE = "conformance"
READY = 10.0
UPDATE = 10.0
POLL = 0.05


class Finding(Exception):
    """The client does not do what the requirement asks."""


class NotExecuted(Exception):
    """Nothing was learned about the client."""


class NotReady(Exception):
    """The harness did not say READY."""


@dataclass
class Greeting:
    """What the TLS port shows and says."""

    leaf: bytes
    said: str


def read_lines(stream, lines):
    """Passes on each line, and `None` at the end."""
    for line in stream:
        lines.put(line)
    lines.put(None)


class Environment:
    """All that one case needs; nothing is shared between cases."""

    def __init__(self, command, tcp=False):
        self._command = command
        self._made = tempfile.TemporaryDirectory(prefix="x0t-conformance-")
        self.directory = pathlib.Path(self._made.name)
        self.authority = Authority(DOMAIN)
        self.endpoint = Endpoint(self.directory, tcp)
        self._probe = self.authority.issue(f"{DOMAIN}/probe").pem(self.directory / "probe.pem")
        self._process = None
        self._files = 0
        self.serve(self.authority.issue(DEFAULT))
        self.endpoint.serve_key_sets({DOMAIN: self.authority.key_set()})
        self.endpoint.serve_tokens([(DEFAULT, self.authority.token(DEFAULT))])

    def close(self):
        self.stop()
        self.endpoint.stop()
        self._made.cleanup()

    # The process.

    def start(self, within=READY, address=None):
        """Starts the harness and waits until it is ready."""
        self.stop()
        environment = {**os.environ, "SPIFFE_ENDPOINT_SOCKET": address or self.endpoint.address}
        with open(self.directory / "stderr", "a") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )
        self._lines, self._said = queue.Queue(), {}
        threading.Thread(target=read_lines, args=(self._process.stdout, self._lines), daemon=True).start()
        self.wait_until_ready(within)

    def wait_until_ready(self, within=READY):
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise NotReady(f"not ready within {within} s") from None
            if line is None:
                raise NotReady(f"ended: {self.errors()}")
            if line == "READY\n":
                break
            name, _, value = line.strip().partition("=")
            self._said[name] = value
        if self._said.get("SPIFFE_HARNESS_VERSION") != "1":
            raise NotExecuted(f"the harness speaks another contract: {self._said}")
        self.x509_port = int(self._said["SPIFFE_X509_PORT"])
        self.control_port = int(self._said["SPIFFE_CONTROL_PORT"])

    def stop(self):
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def errors(self):
        return (self.directory / "stderr").read_text()[-500:].strip()

    # What is served.

    def serve(self, *svids, bundle=None, federated=None):
        self.endpoint.serve_x509(svids, bundle or [self.authority.der], federated)

    def serve_and_wait(self, **what):
        """Pushes a message with a new identity, and waits until that identity is shown: then all of the message counts."""
        self._files += 1
        svid = self.authority.issue(f"{DOMAIN}/barrier-{self._files}")
        self.serve(svid, **what)
        self.wait_for(svid)

    # The TLS port.

    def _file(self, svid):
        self._files += 1
        return svid.pem(self.directory / f"{self._files}.pem")

    def greet(self, svid=None, root=None):
        """Connects with an SVID; a valid one, if none is given. What is shown is verified only if there is a `root` to do it with."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        if root is not None:
            tls.load_verify_locations(cadata=root.der)
            tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(self._file(svid) if svid else self._probe)
        with socket.create_connection(("127.0.0.1", self.x509_port), timeout=5) as plain:
            with tls.wrap_socket(plain) as connection:
                leaf = connection.getpeercert(binary_form=True)
                said = b""
                try:
                    while not said.endswith(b"\n") and (more := connection.recv(4096)):
                        said += more
                except (ssl.SSLError, ConnectionResetError):
                    said = b""
                return Greeting(leaf, said.decode().strip())

    def shown(self):
        """The leaf that new connections get, or none."""
        try:
            return self.greet().leaf
        except (ssl.SSLError, ConnectionResetError):
            return None

    def wait_for(self, svid, within=UPDATE, meanwhile=None):
        """Until `svid` is shown. `meanwhile` judges what is shown before."""
        deadline = time.monotonic() + within
        while (leaf := self.shown()) != svid.chain[0]:
            if meanwhile:
                meanwhile(leaf)
            if time.monotonic() > deadline:
                raise Finding(f"{svid.id} is not shown within {within} s: {self.errors()}")
            time.sleep(POLL)

    def accepts_client(self, svid):
        return self.greet(svid).said == svid.id

    # The control port.

    def ask(self, path, question):
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=15)
        connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        expected = {200: "ok", 422: "rejected", 500: "error", 501: "unsupported"}.get(response.status)
        if answer.get("status") != expected:
            raise NotExecuted(f"{path} answers {response.status} and {answer}")
        return answer

    def _decided(self, answer):
        if answer["status"] not in ("ok", "rejected"):
            raise NotExecuted(f"the harness answers {answer}")
        return answer

    def validate(self, token):
        return self._decided(self.ask("/v1/jwt/validate", {"token": token, "audience": AUDIENCE}))

    def fetch(self, audience, id=""):
        return self.ask("/v1/jwt/fetch", {"audience": list(audience), "spiffe_id": id})

    def accepts_server(self, svid):
        """Whether the client believes a TLS server that shows `svid`."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.load_cert_chain(self._file(svid))
        tls.load_verify_locations(cadata=self.authority.der)
        tls.verify_mode = ssl.CERT_REQUIRED
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)

            def serve():
                try:
                    with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
                        connection.settimeout(5)
                        connection.recv(1)
                except OSError:
                    pass

            server = threading.Thread(target=serve)
            server.start()
            answer = self._decided(self.ask("/v1/x509/dial", {"address": f"127.0.0.1:{listener.getsockname()[1]}"}))
            server.join()
        if answer["status"] == "ok" and answer["spiffe_id"] != svid.id:
            raise Finding(f"the server is {svid.id}, the client says {answer['spiffe_id']}")
        return answer["status"] == "ok"

    # Tokens, judged.

    def expect_accepted(self, token, id, what):
        """Until the token is accepted: a key set may be on its way."""
        deadline = time.monotonic() + UPDATE
        while (answer := self.validate(token))["status"] != "ok":
            if time.monotonic() > deadline:
                raise Finding(f"{what} is rejected: {answer.get('message')}")
            time.sleep(POLL)
        if answer["spiffe_id"] != id:
            raise Finding(f"{what} is of {id}, the client says {answer['spiffe_id']}")
        return answer

    def expect_rejected(self, token, what, control=True):
        """With a positive control first, unless the case had one: a client that rejects everything must fail."""
        if control:
            id = f"{DOMAIN}/control"
            self.expect_accepted(self.authority.token(id), id, "the control")
        if self.validate(token)["status"] == "ok":
            raise Finding(f"{what} is accepted")
