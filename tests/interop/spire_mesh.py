#!/usr/bin/env python3
"""A mesh whose nodes get their identities from real SPIRE agents, in two regions.

    spire_mesh.py [--x0t PROGRAM] [--spire DIR]

PROGRAM is x0t (built if not given), DIR holds spire-server and spire-agent (built by build_spire.py if not given). Two servers
share one upstream CA and one trust domain, each with an agent; two daemons, told apart by the path of their program, are two
nodes. Prints what was measured; exits 0 if all held, 1 if not. Where a program that is needed is absent it says SKIP, names it,
and exits 0.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import spire
from spire import TRUST_DOMAIN, PROCESSES, SVID_TTL, end, free_port, skip, start, wait_for

HERE = pathlib.Path(__file__).resolve().parent
HOST = f"spiffe://{TRUST_DOMAIN}/host"
INTERVAL, THRESHOLD, TIMEOUT = 1.0, 3, 0.5


class Region(spire.Region):
    """A region that is administered by SPIRE's own program."""

    def __init__(self, name, root, programs):
        super().__init__(name, root, programs, None)
        config = self.agent_dir / "agent.conf"
        paths = config.read_text().replace('"unix" { plugin_data { } }', '"unix" { plugin_data { discover_workload_path = true } }')
        config.write_text(paths)

    def server_says(self, *words):
        command = [self.programs / "spire-server", *words, "-socketPath", self.server_dir / "api.sock"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def start_server(self):
        self.server = start([self.programs / "spire-server", "run", "-config", self.server_dir / "server.conf"], self.log)
        wait_for(f"server of {self.name} serves", lambda: self.server_says("healthcheck").returncode == 0, 30)

    def join_agent(self):
        said = self.server_says("token", "generate", "-spiffeID", HOST, "-output", "json")
        assert said.returncode == 0, said
        self.start_agent(json.loads(said.stdout)["value"])

    def create_entry(self, node):
        said = self.server_says("entry", "create", "-parentID", HOST, "-spiffeID", node.id, "-selector", f"unix:path:{node.x0t}", "-output", "json")
        assert said.returncode == 0, said
        return json.loads(said.stdout)["results"][0]["entry"]["id"]

    def delete_entry(self, entry):
        said = self.server_says("entry", "delete", "-entryID", entry)
        assert said.returncode == 0, said


class Node:
    def __init__(self, name, root, x0t):
        self.name, self.id = name, f"spiffe://{TRUST_DOMAIN}/node/{name}"
        self.dir = root / name
        self.dir.mkdir()
        # A copy, so that the agent can tell the two nodes apart by their programs.
        self.x0t = self.dir / "x0t"
        shutil.copy2(x0t, self.x0t)
        self.address, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.env = {"HOME": str(self.dir), "X0T_STATE_DIR": str(self.dir / "state"), "PATH": os.environ["PATH"]}

    def run(self, *words, code=0):
        done = subprocess.run([self.x0t, *words], capture_output=True, text=True, timeout=60, env=self.env)
        assert code is None or done.returncode == code, f"{self.name}$ x0t {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *words, code=0):
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def up(self, *words, code=0):
        return self.run("up", "--listen", self.address, "--http", self.http, "--tun", "off", *words, code=code)

    def status(self):
        return self.json("status", code=None)

    def state(self):
        return self.status()["svid_state"]

    def log(self):
        path = self.dir / "state" / "x0t.log"
        return path.read_text() if path.exists() else ""


class Pinger:
    """Echoes all the while, one a tenth of a second, and counts those that do not come back."""

    def __init__(self, node, target):
        self.sent, self.lost = 0, []
        self.process = subprocess.Popen([node.x0t, "ping", target, "-i", "0.1", "-W", "1", "--json"], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=node.env)
        PROCESSES.append(self.process)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            news = json.loads(line)
            self.sent += news["type"] in ("reply", "lost")
            if news["type"] == "lost":
                self.lost.append(news)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        return self.sent, self.lost


def identities(root, programs, x0t, nodes):
    spire.upstream_ca(root)
    eu, us = (Region(name, root, programs) for name in ("eu", "us"))
    alpha, beta = nodes
    for region in (eu, us):
        region.start_server()
        region.join_agent()
    regions = ";".join(region.as_setting(priority) for priority, region in enumerate((eu, us)))
    failover = ["--failover-interval", f"{int(INTERVAL * 1000)}ms", "--failover-threshold", str(THRESHOLD),
                "--failover-timeout", f"{int(TIMEOUT * 1000)}ms"]

    refused = alpha.up("--name", "alpha", "--spire-socket", f"unix://{eu.agent_dir}/agent.sock", "--wait", "4s", code=6)
    assert "spire-server entry create" in refused.stderr and not (alpha.dir / "state").exists(), refused
    print("ok  without an entry `x0t up` says so, with the line that makes one, and leaves nothing behind")

    entries = {(region.name, node.name): region.create_entry(node) for region in (eu, us) for node in nodes}
    began = time.monotonic()
    alpha.up("--identity", "spire", "--spire-regions", regions, *failover, "--wait", "20s")
    print(f"ok  alpha is {alpha.id}, {time.monotonic() - began:.1f} s after its entry (the agent asks its server every 5 s)")
    beta.up("--spire-regions", regions, *failover, "--peer", alpha.address, "--wait", "20s")
    for node in nodes:
        status = node.status()
        assert status["spiffe_id"] == node.id and status["svid_source"] == "workload_api" and status["ready"], status
        kept = sorted(path.name for path in (node.dir / "state").iterdir())
        assert "svid.pem" not in kept and not [path for path in kept if "key" in path], kept
    beta.run("ping", "alpha", "-c", "3", "-i", "0.05")
    alpha.run("ping", "beta", "-c", "3", "-i", "0.05")
    print("ok  both are nodes of one mesh and ping each other; no key is on their disks")
    no_tokens = alpha.run("token", "create", code=None)
    assert no_tokens.returncode != 0 and "no tokens" in no_tokens.stderr, no_tokens

    pinger = Pinger(beta, "alpha")
    ends = {status["svid_not_after"] for status in (alpha.status(), beta.status())}

    def renewed():
        ends.update(node.status()["svid_not_after"] for node in nodes)
        assert all(node.state() == "valid" for node in nodes), [node.status() for node in nodes]
        return len(ends) >= 8

    wait_for("three renewals of both nodes", renewed, 4 * SVID_TTL)
    sent, lost = pinger.stop()
    assert not lost, f"{len(lost)} of {sent} echoes lost while SVIDs of {SVID_TTL} s were renewed: {lost[:3]}"
    print(f"ok  three renewals of SVIDs of {SVID_TTL} s by both nodes, 0 of {sent} echoes lost")
    return eu, us, entries


def withdrawal(eu, us, entries, nodes):
    alpha, beta = nodes
    for region in (us, eu):
        region.delete_entry(entries[region.name, "beta"])
    began = time.monotonic()
    wait_for("beta's identity is taken back", lambda: beta.state() == "withdrawn", 20)
    took = time.monotonic() - began
    status = beta.status()
    assert not status["ready"] and "taken back" in status["not_ready_because"] and status["links_up"] == 0, status
    wait_for("alpha has lost beta", lambda: alpha.status()["links_up"] == 0, 2)
    assert took <= 11, f"{took:.1f} s; the agent hears of it within 5 s, and the node stops within 5 s more"
    assert "taken back" in beta.run("doctor", code=3).stdout
    print(f"ok  beta's entry deleted: {took:.1f} s later beta shows its identity to nobody (agent 5 s, node 5 s at most) and says so")
    for region in (eu, us):
        entries[region.name, "beta"] = region.create_entry(beta)
    wait_for("beta is back", lambda: beta.status()["ready"], 20)
    wait_for("beta reaches alpha", lambda: beta.run("ping", "alpha", "-c", "1", code=None).returncode == 0, 10)
    print("ok  given again, beta is a node again, without being started anew")


def all_away(eu, us, nodes):
    alpha, beta = nodes
    for process in (eu.server, eu.agent, us.server, us.agent):
        end(process)
    began = time.time()
    wait_for("alpha says that SPIRE is away", lambda: alpha.state() in ("degraded", "critical"), 10)
    status = alpha.status()
    assert status["svid_error"] and status["ready"], status
    beta.run("ping", "alpha", "-c", "3", "-i", "0.05")
    assert "SPIRE" in alpha.run("doctor", code=None).stdout
    print(f"ok  all of SPIRE is dead: told after {time.time() - began:.1f} s ({status['svid_error']}); the mesh goes on")
    wait_for("alpha says that its SVID has ended", lambda: alpha.state() == "expired", SVID_TTL + 15)
    print(f"ok  and says that the SVID has ended, {time.time() - alpha.status()['svid_not_after']:.0f} s after its last second")
    alpha.run("down")
    away = alpha.up("--wait", "2s", code=5)
    assert "does not answer" in away.stderr and "agent" in away.stderr, away
    print("ok  a node cannot be started without SPIRE, and `x0t up` says why")


def scenario(root, programs, x0t):
    nodes = [Node(name, root, x0t) for name in ("alpha", "beta")]
    try:
        eu, us, entries = identities(root, programs, x0t, nodes)
        withdrawal(eu, us, entries, nodes)
        all_away(eu, us, nodes)
    except BaseException:
        for node in nodes:
            print(f"--- {node.name}\n" + "\n".join(node.log().splitlines()[-20:]))
        raise
    finally:
        for node in nodes:
            node.run("down", code=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--x0t", type=pathlib.Path)
    parser.add_argument("--spire", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    options = parser.parse_args()
    programs, x0t = spire.spire_programs(options.spire), options.x0t
    if x0t is None:
        command = ["cargo", "build", "--locked", "-p", "x0t", "--message-format=json"]
        built = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in built.stdout.splitlines()]
        x0t = pathlib.Path([m["executable"] for m in messages if m.get("executable")][-1])
    # Short: a socket's path has 107 bytes.
    root = pathlib.Path(tempfile.mkdtemp(prefix="x0tspire"))
    try:
        scenario(root, programs.absolute(), x0t.absolute())
        print("spire_mesh: all held")
    except AssertionError as error:
        print(f"FAILED: {error}")
        for log in root.glob("*.log"):
            print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-12:]))
        sys.exit(1)
    finally:
        for process in PROCESSES:
            end(process)
        if options.keep:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
