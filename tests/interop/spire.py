#!/usr/bin/env python3
"""Two regions of real SPIRE, administered and followed by x0t.

    spire.py [--tool PROGRAM] [--spire DIR]

PROGRAM is the example `spire` of the crate x0t-workload (built if not given), DIR holds spire-server and spire-agent
(built by build_spire.py if not given). Two servers share one upstream CA and one trust domain, each with an agent that
joined by a token made by x0t. Then: entries, renewal, a server that dies, an agent that hangs, one that is killed, the way
back, both dead, an agent that is banned. Prints what was measured; exits 0 if all held, 1 if not. Where a program that is
needed is absent it says SKIP, names it, and exits 0.
"""

import argparse
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TRUST_DOMAIN = "spire.test"
HOST = f"spiffe://{TRUST_DOMAIN}/host"
WEB = f"spiffe://{TRUST_DOMAIN}/web"
INTERVAL, THRESHOLD, TIMEOUT = 1.0, 3, 0.5
SVID_TTL = 30

SERVER = """
server {{
  bind_address = "127.0.0.1" bind_port = "{port}" socket_path = "{dir}/api.sock" trust_domain = "{domain}"
  data_dir = "{dir}" log_level = "INFO" default_x509_svid_ttl = "{ttl}s" default_jwt_svid_ttl = "60s" ca_ttl = "1h"
  agent_ttl = "{agent_ttl}s"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/datastore.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  UpstreamAuthority "disk" {{ plugin_data {{ cert_file_path = "{root}/root.pem" key_file_path = "{root}/root.key" }} }}
}}
health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = "{health}" ready_path = "/ready" }}
"""
AGENT = """
agent {{
  server_address = "127.0.0.1" server_port = "{server_port}" socket_path = "{dir}/agent.sock" trust_domain = "{domain}"
  data_dir = "{dir}" log_level = "INFO" trust_bundle_path = "{root}/root.pem"
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{dir}" }} }}
  NodeAttestor "join_token" {{ plugin_data {{ }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ }} }}
}}
health_checks {{ listener_enabled = true bind_address = "127.0.0.1" bind_port = "{health}" ready_path = "/ready" }}
"""

PROCESSES = []


def skip(what):
    print(f"SKIP: {what}")
    sys.exit(0)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, reached, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = reached()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def start(command, log, **more):
    process = subprocess.Popen(command, stdout=more.pop("stdout", log), stderr=log, **more)
    PROCESSES.append(process)
    return process


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.wait()


class Region:
    agent_ttl = SVID_TTL

    def __init__(self, name, root, programs, tool):
        self.name, self.root, self.programs, self.tool = name, root, programs, tool
        self.server_dir, self.agent_dir = root / name / "s", root / name / "a"
        for directory in (self.server_dir, self.agent_dir):
            directory.mkdir(parents=True)
        self.log = (root / f"{name}.log").open("w")
        self.server_port, self.server_health, self.agent_health = free_port(), free_port(), free_port()
        common = dict(domain=TRUST_DOMAIN, root=root)
        server = SERVER.format(port=self.server_port, dir=self.server_dir, health=self.server_health, ttl=SVID_TTL, agent_ttl=self.agent_ttl, **common)
        (self.server_dir / "server.conf").write_text(server)
        agent = AGENT.format(server_port=self.server_port, dir=self.agent_dir, health=self.agent_health, **common)
        (self.agent_dir / "agent.conf").write_text(agent)

    def admin(self, *words, fails=None):
        command = [self.tool, "admin", self.server_dir / "api.sock", *words]
        env = dict(os.environ, RUST_BACKTRACE="0")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env)
        if fails is not None:
            assert done.returncode != 0 and fails in done.stderr, f"{words} should fail with {fails!r}: {done}"
            return None
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout)

    def jwt(self, may_fail=False):
        command = [self.tool, "jwt", self.agent_dir / "agent.sock", "backend"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ, RUST_BACKTRACE="0"))
        if may_fail and done.returncode != 0:
            return None
        assert done.returncode == 0, f"JWT: {done.stderr}"
        return json.loads(done.stdout)

    def start_server(self):
        self.server = start([self.programs / "spire-server", "run", "-config", self.server_dir / "server.conf"], self.log)

        def serving():
            command = [self.tool, "admin", self.server_dir / "api.sock", "health"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            return done.returncode == 0 and json.loads(done.stdout)["serving"]

        wait_for(f"server of {self.name} serves", serving, 30)

    def start_agent(self, token=None):
        command = [self.programs / "spire-agent", "run", "-config", self.agent_dir / "agent.conf"]
        self.agent = start(command + (["-joinToken", token] if token else []), self.log)
        wait_for(f"agent of {self.name} listens", (self.agent_dir / "agent.sock").exists, 30)

    def as_setting(self, priority):
        health = f"http://127.0.0.1:{self.agent_health}/ready"
        return f"{self.name}=unix://{self.agent_dir}/agent.sock|{health}|prio={priority}"


class Follower:
    """An x0t that follows its identity across regions, and everything it has said."""

    def __init__(self, tool, regions, log):
        numbers = [f"{int(INTERVAL * 1000)}ms", str(THRESHOLD), f"{int(TIMEOUT * 1000)}ms"]
        setting = ";".join(region.as_setting(priority) for priority, region in enumerate(regions))
        command = [tool, "follow", setting, *numbers]
        self.process = start(command, log, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        self.said, self.lines = [], queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def wait(self, what, reached, seconds):
        """The first news that fits, of those that have not been looked at."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                news = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not within {seconds} s: {what}; last: {self.said[-5:]}") from None
            self.said.append(news)
            if reached(news):
                return news

    def event(self, kind, seconds, **fields):
        def fits(news):
            event = news.get("region_event", {})
            return event.get("event") == kind and all(event.get(key) == value for key, value in fields.items())

        return self.wait(f"{kind} {fields}", fits, seconds)

    def live_from(self, region, seconds):
        return self.wait(f"live from {region}", lambda n: n.get("serving") == "Live" and n.get("from") == region, seconds)

    def view(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait("a view", lambda news: "view" in news, 5)["view"]


def upstream_ca(root):
    if shutil.which("openssl") is None:
        skip("`openssl` is absent, so there is no upstream CA")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    extensions = ["keyUsage=critical,keyCertSign,cRLSign", f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}"]
    for extension in extensions:
        command += ["-addext", extension]
    command += ["-subj", "/O=interop/CN=upstream", "-keyout", root / "root.key", "-out", root / "root.pem"]
    subprocess.run(command, check=True, capture_output=True)


def scenario(root, programs, tool):
    upstream_ca(root)
    eu, us = (Region(name, root, programs, tool) for name in ("eu", "us"))
    for region in (eu, us):
        region.start_server()
    print("ok  both servers say by gRPC health checking that they serve")

    for region in (eu, us):
        region.token = region.admin("token", HOST)["token"]
        region.start_agent(region.token)
    wait_for("both agents are listed", lambda: all(len(r.admin("agents")) == 1 for r in (eu, us)), 20)
    agent = eu.admin("agents")[0]
    assert agent["attestation"] == "join_token" and not agent["banned"], agent
    print("ok  agents attested by tokens that x0t made")

    again = subprocess.run(
        [programs / "spire-agent", "run", "-config", eu.agent_dir / "agent.conf", "-joinToken", eu.token, "-dataDir", root / "x",
         "-socketPath", root / "x.sock"], capture_output=True, text=True, timeout=60)
    assert again.returncode != 0, "a used token was taken again"
    print("ok  a used token is refused")

    me = f"unix:uid:{os.getuid()}"
    began = time.time()
    for region in (eu, us):
        made = region.admin("create", WEB, HOST, me)
        assert made["created"] and made["entry"]["spiffe_id"] == WEB, made
    known = eu.admin("create", WEB, HOST, me)
    assert not known["created"], "the same entry twice is ALREADY_EXISTS"
    eu.admin("create", WEB, HOST, fails="without selectors")
    eu.admin("create", WEB, "spiffe://other.test/host", me, fails="refused")
    eu.admin("show", "00000000-0000-4000-8000-000000000000", fails="not found")
    listed = eu.admin("list")
    assert [e for e in listed["entries"] if e["id"] == known["entry"]["id"]] and not listed["unreadable"], listed
    assert eu.admin("show", known["entry"]["id"])["selectors"] == [me]
    print("ok  entries: created once, listed, shown; bad ones refused one by one")

    follower = Follower(tool, [eu, us], (root / "follower.log").open("w"))
    first = follower.live_from("eu", 30)
    view = follower.view()
    assert [region["health"] for region in view["regions"]] == ["healthy", "healthy"], view
    assert first["svid"]["spiffe_id"] == WEB, first
    print(f"ok  the workload holds {WEB}, {first['at'] - began:.1f} s after its entry (the agent asks its server every 5 s)")

    end_of_first = first["svid"]["not_after"]
    renewed = follower.wait("renewal", lambda n: n.get("svid") and n["svid"]["not_after"] > end_of_first, SVID_TTL + 10)
    left = end_of_first - renewed["at"]
    assert left > 0, "renewed after its end"
    print(f"ok  renewed {left:.0f} s before the end of {SVID_TTL} s")

    token = eu.jwt()
    assert token["spiffe_id"] == WEB and not token["for_another"], token
    print("ok  a JWT-SVID fetched, valid for its audience, refused for another")

    prepared = eu.admin("prepare", "jwt")
    assert eu.admin("keys", "jwt")["prepared"]["id"] == prepared["id"]
    eu.admin("taint", "jwt", prepared["id"], fails="refused")
    eu.admin("activate", "jwt", prepared["id"])
    keys = eu.admin("keys", "jwt")
    assert keys["active"]["id"] == prepared["id"] and keys["old"], keys
    eu.admin("taint", "jwt", keys["old"]["id"])

    def by_new_key():
        # The agent learns of keys every 5 s; until then it may not know the new one.
        token = eu.jwt(may_fail=True)
        return token if token and token["key_id"] == prepared["id"] else None

    assert wait_for("a token by the new key", by_new_key, 60)["spiffe_id"] == WEB
    eu.admin("revoke", "jwt", keys["old"]["id"])
    assert eu.admin("bundle")["jwt_authorities"] == 1, eu.admin("bundle")
    assert eu.jwt()["key_id"] == prepared["id"]
    print("ok  a JWT key prepared, activated, the old one tainted and revoked; out of order refused")

    end(eu.server)
    eu.admin("health", fails="not available")
    time.sleep(3 * INTERVAL)
    view = follower.view()
    assert view["active"] == "eu" and view["status"] == "ok", view
    print("ok  the server of eu is dead, its agent goes on serving, and nobody changes region")
    eu.start_server()

    stopped = time.time()
    eu.agent.send_signal(signal.SIGSTOP)
    over = follower.event("failed_over", 3 * INTERVAL + 3, **{"from": "eu", "to": "us"})
    took, limit = over["at"] - stopped, THRESHOLD * INTERVAL + 1
    assert took <= limit, f"{took:.2f} s, promised {limit}"
    live = follower.live_from("us", 10)
    assert live["svid"]["spiffe_id"] == WEB
    print(f"ok  an agent that hangs is left after {took:.2f} s (promised {limit:.0f} s), live again {live['at'] - over['at']:.3f} s later")
    assert follower.view()["status"] == "degraded"

    resumed = time.time()
    eu.agent.send_signal(signal.SIGCONT)
    back = follower.event("failed_back", 30, **{"from": "us", "to": "eu"})
    follower.live_from("eu", 10)
    print(f"ok  and come back to {back['at'] - resumed:.1f} s after it is well")

    killed = time.time()
    end(eu.agent)
    over = follower.event("failed_over", 3 * INTERVAL + 3, to="us")
    took = over["at"] - killed
    assert took <= limit, f"{took:.2f} s, promised {limit}"
    live = follower.live_from("us", 10)
    print(f"ok  an agent that is killed is left after {took:.2f} s, live again {live['at'] - killed:.2f} s after the kill")

    restarted = time.time()
    (eu.agent_dir / "agent.sock").unlink(missing_ok=True)
    eu.start_agent()
    back = follower.event("failed_back", 60, to="eu")
    follower.live_from("eu", 10)
    print(f"ok  and come back to {back['at'] - restarted:.1f} s after it is started again, with the identity it had")

    end(eu.agent)
    end(us.agent)
    follower.event("all_down", 30)
    view = follower.view()
    assert view["status"] == "all_down", view
    emptied = [news for news in follower.said if news.get("serving") == "Nothing" or ("serving" in news and not news["svid"])]
    first_live = next(i for i, news in enumerate(follower.said) if news.get("serving") == "Live")
    assert not [news for news in emptied if follower.said.index(news) > first_live], "an identity was taken away"
    assert follower.said[-1].get("view") and follower.process.poll() is None
    print("ok  both agents are dead: said so, and the identity is still served; at no moment of all this was there none")

    us.start_server() if us.server.poll() is not None else None
    victim = us.admin("agents")[0]["id"]
    us.admin("ban", victim)
    assert us.admin("agents")[0]["banned"]
    us.admin("evict", victim)
    assert us.admin("agents") == []
    gone = us.admin("delete", known["entry"]["id"], "00000000-0000-4000-8000-000000000000")
    assert gone[-1] == "not found", gone
    print("ok  an agent banned and evicted; of a batch, each item has its own result")


def spire_programs(directory):
    """Where spire-server and spire-agent are; built unless a directory is given."""
    if directory is None:
        built = subprocess.run([sys.executable, HERE / "build_spire.py"], stdout=subprocess.PIPE, text=True)
        if built.returncode != 0:
            skip("SPIRE could not be built (see above)")
        directory = pathlib.Path(built.stdout.strip().splitlines()[-1])
    for program in ("spire-server", "spire-agent"):
        if not (directory / program).exists():
            skip(f"{directory / program} is absent")
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", type=pathlib.Path)
    parser.add_argument("--spire", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="keep the directory with configurations and logs")
    options = parser.parse_args()
    programs = spire_programs(options.spire)
    tool = options.tool
    if tool is None:
        command = ["cargo", "build", "--locked", "-p", "x0t-workload", "--example", "spire", "--message-format=json"]
        built = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in built.stdout.splitlines()]
        tool = pathlib.Path([m["executable"] for m in messages if m.get("executable")][-1])
    # Short: a socket's path has 107 bytes.
    root = pathlib.Path(tempfile.mkdtemp(prefix="x0tspire"))
    try:
        scenario(root, programs.absolute(), tool.absolute())
        print("spire: all held")
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
