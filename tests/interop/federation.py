#!/usr/bin/env python3
"""A mesh and a real SPIRE federate, over https_spiffe, both ways.

    federation.py [--x0t PROGRAM] [--spire DIR] [--keep]

PROGRAM is x0t (built if not given), DIR holds spire-server and spire-agent (built by build_spire.py if not given). Each side is
given the other's bundle once, by hand, and fetches it afterwards. Then: SPIRE's own client, on either socket, gets a token and has
the other side validate it; x0t's client sees both bundles on both sockets; a key that SPIRE adds arrives by itself; the mesh ends
the relationship and believes SPIRE no longer. Exits 0 if all held, 1 if not. Where a program that is needed is absent it says
SKIP, names it, and exits 0.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SPIRE, MESH = "spire.test", "mesh.test"

SERVER = """
server {{
  bind_address = "127.0.0.1" bind_port = "{port}" socket_path = "{dir}/api.sock" trust_domain = "{spire}"
  data_dir = "{dir}" log_level = "INFO" default_x509_svid_ttl = "10m" default_jwt_svid_ttl = "5m" ca_ttl = "1h"
  federation {{
    bundle_endpoint {{ address = "127.0.0.1" port = {bundle_port} refresh_hint = "10s" profile "https_spiffe" {{}} }}
    federates_with "{mesh}" {{
      bundle_endpoint_url = "https://127.0.0.1:{mesh_port}/"
      bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "spiffe://{mesh}/node/alpha" }}
    }}
  }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/datastore.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
}}
"""
AGENT = """
agent {{
  server_address = "127.0.0.1" server_port = "{port}" socket_path = "{dir}/agent.sock" trust_domain = "{spire}"
  data_dir = "{dir}" log_level = "INFO" insecure_bootstrap = true
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{ }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ }} }}
}}
"""
PROCESSES = []


def skip(what):
    print(f"SKIP: {what}")
    sys.exit(0)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(what, reached, seconds):
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if reached():
            print(f"  {what}: after {time.monotonic() - began:.1f} s")
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def run(command, may_fail=False, env=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=90, env=env)
    if done.returncode != 0 and not may_fail:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def start(command, log):
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    PROCESSES.append(process)
    return process


class Spire:
    def __init__(self, root, programs, mesh_port):
        self.programs, self.dir, self.log = programs, root / "s", (root / "spire.log").open("w")
        self.dir.mkdir()
        self.agent_dir = root / "a"
        self.agent_dir.mkdir()
        self.port, self.bundle_port = free_port(), free_port()
        fields = dict(spire=SPIRE, mesh=MESH, port=self.port, bundle_port=self.bundle_port, mesh_port=mesh_port)
        (self.dir / "server.conf").write_text(SERVER.format(dir=self.dir, **fields))
        (self.agent_dir / "agent.conf").write_text(AGENT.format(dir=self.agent_dir, **fields))
        self.socket = self.agent_dir / "agent.sock"

    def server(self, *words, may_fail=False):
        return run([self.programs / "spire-server", *words, "-socketPath", self.dir / "api.sock"], may_fail)

    def start(self):
        start([self.programs / "spire-server", "run", "-config", self.dir / "server.conf"], self.log)
        wait_for("SPIRE's server serves", lambda: self.server("healthcheck", may_fail=True).returncode == 0, 60)
        token = self.server("token", "generate", "-output", "json").stdout
        token = json.loads(token)["value"]
        agent = ["run", "-config", self.agent_dir / "agent.conf", "-joinToken", token]
        start([self.programs / "spire-agent", *agent], self.log)
        parent = f"spiffe://{SPIRE}/spire/agent/join_token/{token}"
        entry = ["entry", "create", "-parentID", parent, "-spiffeID", f"spiffe://{SPIRE}/web"]
        self.entry = [*entry, "-selector", f"unix:uid:{os.getuid()}", "-federatesWith", f"spiffe://{MESH}"]

    def client(self, socket, *words, may_fail=False):
        """SPIRE's own client of a Workload API, whoever serves it."""
        return run([self.programs / "spire-agent", "api", *words, "-socketPath", socket], may_fail)

    def token(self, socket):
        fetched = self.client(socket, "fetch", "jwt", "-audience", "web", "-output", "json").stdout
        return json.loads(fetched)[0]["svids"][0]["svid"]

    def validates(self, socket, token):
        return self.client(socket, "validate", "jwt", "-audience", "web", "-svid", token, may_fail=True).returncode == 0


class Mesh:
    def __init__(self, root, program):
        self.program, self.state = program, root / "m"
        self.bundle_port = free_port()
        self.env = {"HOME": str(root), "X0T_STATE_DIR": str(self.state), "PATH": os.environ["PATH"]}
        self.socket = self.state / "workload.sock"

    def x0t(self, *words, may_fail=False):
        return run([self.program, *words], may_fail, self.env)

    def start(self):
        listen = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        endpoint = f"127.0.0.1:{self.bundle_port}"
        self.x0t("up", "--name", "alpha", "--trust-domain", MESH, "--listen", listen, "--tun", "off", "--http", "off",
                 "--bundle-endpoint", endpoint)
        self.x0t("entry", "create", "/web", "--selector", f"unix:uid:{os.getuid()}", "--federates-with", SPIRE)

    def trusts(self, socket):
        shown = self.x0t("svid", "show", "--json", "--socket", f"unix:{socket}", may_fail=True)
        return set(json.loads(shown.stdout)["trusts"]) if shown.returncode == 0 else set()


def scenario(root, programs, program):
    mesh = Mesh(root, program)
    spire = Spire(root, programs, mesh.bundle_port)
    try:
        mesh.start()
        spire.start()
        print("each side is given the other's bundle once")
        of_spire, of_mesh = root / "spire.json", root / "mesh.json"
        of_spire.write_text(spire.server("bundle", "show", "-format", "spiffe").stdout)
        of_mesh.write_text(mesh.x0t("bundle", "show").stdout)
        spire.server("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{MESH}", "-path", of_mesh)
        spire.server(*spire.entry)
        created = mesh.x0t("federation", "create", SPIRE, f"https://127.0.0.1:{spire.bundle_port}/", "--profile", "https_spiffe",
                           "--endpoint-id", f"spiffe://{SPIRE}/spire/server", "--bootstrap", of_spire, "--json")
        assert json.loads(created.stdout)["last_error"] is None, created.stdout
        print("each side fetches")
        refreshed = spire.server("federation", "refresh", "-id", MESH)
        assert "refreshed" in refreshed.stdout.lower(), refreshed.stdout
        shown = spire.server("bundle", "list", "-id", f"spiffe://{MESH}", "-format", "spiffe").stdout
        own = json.loads(mesh.x0t("bundle", "show").stdout)
        certificates = lambda document: {key["x5c"][0] for key in document["keys"] if key["use"] == "x509-svid"}
        assert certificates(json.loads(shown)) == certificates(own), "SPIRE holds another bundle of the mesh"
        print("clients see both trust domains")
        both = {SPIRE, MESH}
        wait_for("x0t's client sees both on the mesh's socket", lambda: mesh.trusts(mesh.socket) == both, 30)
        wait_for("x0t's client sees both on SPIRE's socket", lambda: mesh.trusts(spire.socket) == both, 30)
        spire.client(mesh.socket, "fetch", "x509", "-silent")
        from_mesh, from_spire = spire.token(mesh.socket), spire.token(spire.socket)
        assert spire.validates(spire.socket, from_mesh), "SPIRE refuses the mesh's token"
        wait_for("the mesh accepts SPIRE's token", lambda: spire.validates(mesh.socket, from_spire), 30)
        print("a new key of SPIRE arrives by itself")
        before = json.loads(mesh.x0t("federation", "show", SPIRE, "--json").stdout)["sequence"]
        spire.server("localauthority", "x509", "prepare")
        newer = lambda: json.loads(mesh.x0t("federation", "show", SPIRE, "--json").stdout)["sequence"] > before
        wait_for("the mesh has it", newer, 30)
        print("the mesh ends the relationship")
        mesh.x0t("federation", "delete", SPIRE)
        wait_for("nobody on the mesh's socket sees it", lambda: mesh.trusts(mesh.socket) == {MESH}, 10)
        assert not spire.validates(mesh.socket, from_spire), "the mesh still accepts SPIRE's token"
        assert spire.validates(spire.socket, from_mesh), "what SPIRE believes is its own affair"
    finally:
        mesh.x0t("down", may_fail=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--x0t", type=pathlib.Path)
    parser.add_argument("--spire", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    options = parser.parse_args()
    programs = options.spire
    if programs is None:
        built = subprocess.run([sys.executable, HERE / "build_spire.py"], stdout=subprocess.PIPE, text=True)
        if built.returncode != 0:
            skip("SPIRE could not be built (see above)")
        programs = pathlib.Path(built.stdout.strip().splitlines()[-1])
    for program in ("spire-server", "spire-agent"):
        if not (programs / program).exists():
            skip(f"{programs / program} is absent")
    program = options.x0t
    if program is None:
        command = ["cargo", "build", "--locked", "-p", "x0t", "--message-format=json"]
        built = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in built.stdout.splitlines()]
        program = pathlib.Path([m["executable"] for m in messages if m.get("executable")][-1])
    # Short: a socket's path has 107 bytes.
    root = pathlib.Path(tempfile.mkdtemp(prefix="x0tfed"))
    try:
        scenario(root, programs.absolute(), program.absolute())
        print("federation: all held")
    except AssertionError as error:
        print(f"FAILED: {error}")
        for log in [*root.glob("*.log"), root / "m" / "x0t.log"]:
            print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]))
        sys.exit(1)
    finally:
        for process in PROCESSES:
            process.kill()
            process.wait()
        if options.keep:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
