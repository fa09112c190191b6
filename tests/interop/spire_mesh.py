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
import urllib.request

import spire
from spire import TRUST_DOMAIN, PROCESSES, SVID_TTL, end, free_port, skip, start, wait_for

HERE = pathlib.Path(__file__).resolve().parent
HOST = f"spiffe://{TRUST_DOMAIN}/host"
INTERVAL, THRESHOLD, TIMEOUT = 1.0, 3, 0.5


class Region(spire.Region):
    """A region that is administered by `x0t … --authority spire`."""

    # An agent that joined by token cannot come back once its own SVID has ended; that is not what is tried here.
    agent_ttl = 1800

    def __init__(self, name, root, programs, x0t):
        super().__init__(name, root, programs, x0t)
        config = self.agent_dir / "agent.conf"
        paths = config.read_text().replace('"unix" { plugin_data { } }', '"unix" { plugin_data { discover_workload_path = true } }')
        config.write_text(paths)

    def x0t(self, *words, code=0):
        """A command to the server, by its own socket."""
        command = [self.tool, *words, "--spire-server", f"unix://{self.server_dir}/api.sock", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={"HOME": str(self.root), "PATH": os.environ["PATH"]})
        assert code is None or done.returncode == code, f"x0t {words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout else done.stderr

    def is_serving(self):
        said = self.x0t("spire", "health", code=None)
        return isinstance(said, dict) and said["serving"]

    def start_server(self):
        self.server = start([self.programs / "spire-server", "run", "-config", self.server_dir / "server.conf"], self.log)
        wait_for(f"server of {self.name} serves", self.is_serving, 30)

    def join_agent(self):
        self.start_agent(self.x0t("spire", "token", "--alias", HOST)["token"])
        wait_for(f"agent of {self.name} is listed", lambda: self.x0t("spire", "agents"), 20)

    def create_entry(self, node, code=0):
        said = self.x0t("entry", "create", node.id, "--authority", "spire", "--parent", HOST, "--selector", f"unix:path:{node.x0t}", code=code)
        return said["id"] if code == 0 else said

    def delete_entry(self, entry):
        assert self.x0t("entry", "delete", entry, "--authority", "spire")["deleted"] == entry


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

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=5) as answer:
            return answer.read().decode()

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
    eu, us = (Region(name, root, programs, x0t) for name in ("eu", "us"))
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
    administration(eu, entries, alpha)
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


def administration(region, entries, node):
    entry = entries[region.name, node.name]
    assert "same identity" in region.create_entry(node, code=6), "the same entry twice"
    assert [e["spiffe_id"] for e in region.x0t("entry", "list", "--authority", "spire")].count(node.id) == 1
    assert region.x0t("entry", "show", entry, "--authority", "spire")["selectors"] == [f"unix:path:{node.x0t}"]
    unknown = "00000000-0000-4000-8000-000000000000"
    for command in ("show", "delete"):
        assert "has no entry" in region.x0t("entry", command, unknown, "--authority", "spire", code=2)
    assert region.x0t("spire", "bundle")["trust_domain"] == TRUST_DOMAIN
    keys = region.x0t("authority", "status", "--authority", "spire")
    prepared = region.x0t("authority", "prepare", "--kind", "jwt", "--authority", "spire")["key"]["id"]
    region.x0t("authority", "taint", prepared, "--authority", "spire", code=6)
    region.x0t("authority", "activate", "--kind", "jwt", "--authority", "spire")
    old = region.x0t("authority", "status", "--authority", "spire")["jwt"]["old"]["id"]
    assert old == keys["jwt"]["active"]["id"], (old, keys)
    region.x0t("authority", "taint", old, "--authority", "spire")
    region.x0t("authority", "revoke", old, "--authority", "spire")
    # SPIRE goes on showing a revoked key as old, and refuses to revoke it once more.
    region.x0t("authority", "revoke", old, "--authority", "spire", code=6)
    print("ok  `x0t … --authority spire`: entries listed, shown, refused twice; a JWT key prepared, activated, tainted, revoked")


class Events:
    """What a node tells of regions, with the time at which it was read."""

    def __init__(self, node):
        self.said, self.ended = [], 0
        self.process = subprocess.Popen([node.x0t, "events", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=node.env)
        PROCESSES.append(self.process)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            news = json.loads(line)
            self.ended += news["event"] == "svid_expiring" and news["left_s"] == 0
            if news["event"] == "region":
                self.said.append((time.time(), news))

    def wait(self, change, region, since, seconds):
        def found():
            return [at for at, news in self.said if at >= since and (news["change"], news["region"]) == (change, region)]

        return wait_for(f"{change} {region}; so far {self.said[-4:]}", found, seconds)[0]


def regions_stand_in(eu, us, nodes):
    alpha, beta = nodes
    report = alpha.json("regions", "status")
    assert (report["active"], report["status"], report["serving"], report["given_by"]) == ("eu", "ok", "live", "eu"), report
    assert report["interval_ms"] == INTERVAL * 1000 and report["threshold"] == THRESHOLD and report["identities"] == [alpha.id], report
    assert "healthy" in alpha.run("regions", "status").stdout
    events, pinger, limit = Events(alpha), Pinger(beta, "alpha"), THRESHOLD * INTERVAL + 1
    wait_for("events are read", lambda: pinger.sent > 5, 10)

    stopped = time.time()
    eu.agent.send_signal(spire.signal.SIGSTOP)
    took = events.wait("failed_over", "us", stopped, 10) - stopped
    assert took <= limit, f"{took:.2f} s, promised {limit}"
    wait_for("us gives", lambda: alpha.json("regions", "status", code=3)["given_by"] == "us", 5)
    metrics = alpha.metrics()
    assert 'x0t_spire_region_active{region="us"} 1' in metrics and "x0t_spire_failovers_total 1" in metrics, metrics
    resumed = time.time()
    eu.agent.send_signal(spire.signal.SIGCONT)
    back = events.wait("failed_back", "eu", resumed, 40) - resumed
    print(f"ok  an agent that hangs is left after {took:.2f} s (promised {limit:.0f} s), come back to {back:.1f} s after it is well")

    killed = time.time()
    end(eu.agent)
    took = events.wait("failed_over", "us", killed, 10) - killed
    assert took <= limit, f"{took:.2f} s, promised {limit}"
    (eu.agent_dir / "agent.sock").unlink(missing_ok=True)
    restarted = time.time()
    eu.start_agent()
    back = events.wait("failed_back", "eu", restarted, 60) - restarted
    print(f"ok  an agent that is killed is left after {took:.2f} s, come back to {back:.1f} s after it is started again")

    killed = time.time()
    end(eu.server)
    took = events.wait("failed_over", "us", killed, SVID_TTL + 10) - killed
    report = alpha.json("regions", "status", code=3)
    region = report["regions"][0]
    assert region["last_failure"] == "not_renewing", report
    wait_for("us gives", lambda: alpha.json("regions", "status", code=3)["given_by"] == "us", 5)
    assert alpha.state() in ("valid", "degraded"), alpha.status()
    wait_for("all is well with us", lambda: all(node.state() == "valid" for node in nodes), 20)
    print(f"ok  an agent that has lost its server is left after {took:.1f} s, before its SVIDs of {SVID_TTL} s end")
    restarted = time.time()
    eu.start_server()
    back = events.wait("failed_back", "eu", restarted, 120) - restarted
    print(f"ok  and come back to {back:.1f} s after its server is started again")

    sent, lost = pinger.stop()
    events.process.terminate()
    assert not events.ended, "an SVID ended although a region was well"
    assert not lost, f"{len(lost)} of {sent} echoes lost: {lost[:3]}"
    print(f"ok  through all of this 0 of {sent} echoes were lost, and no SVID had ended")


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
        regions_stand_in(eu, us, nodes)
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
