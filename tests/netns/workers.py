#!/usr/bin/env python3
"""Nodes whose work is done by threads beside the one that decides: what passes, and that no flow is ever reordered.

Two nodes, then two and a relay, in network namespaces over TUN, with `--workers 2` (and 0, for comparison). Between the ends:
many UDP flows of numbered datagrams at once, sent in super-packets and one by one, of which each must arrive in its order; many TCP
connections that each carry a known stream, compared byte for byte; iperf3 with one and with eight streams, for the figures.
Exits 1 if a datagram overtakes another of its flow, more than a few are lost, a stream is not what was sent, or nothing was handed out.
Throughput is printed and not judged: the machine may have no processor to spare. Needs root, iproute2 and iperf3.

    cargo build --release && sudo tests/netns/workers.py target/release/x0t
"""
import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from lab import Lab, wait

PREFIX = "x0tw-"
DIRECT = (["a", "b"], [("a", "b", "10.83.1")], {"b": ["a"]})
RELAYED = (["a", "r", "b"], [("a", "r", "10.83.1"), ("r", "b", "10.83.2")], {"r": ["a"], "b": ["r"]})
FLOWS = 8
LOST_MAX = 0.02

# Numbers 20 datagrams of each flow per super-packet, every third time without segmentation, a little below what a busy core sends.
SEND_UDP = r"""
import socket, struct, sys, time
to, flows, seconds, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
UDP_SEGMENT, SIZE, RUN = 103, 1100, 20
sockets = []
for flow in range(flows):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.connect((to, 7000 + flow))
    sockets.append(s)
next_number, begun, rounds = [0] * flows, time.monotonic(), 0
padding = bytes(SIZE - 4)
while time.monotonic() < begun + seconds:
    for flow, s in enumerate(sockets):
        first = next_number[flow]
        run = [struct.pack("!I", first + n) + padding for n in range(RUN)]
        next_number[flow] += RUN
        if (rounds + flow) % 3:
            s.sendmsg([b"".join(run)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", SIZE))])
        else:
            for datagram in run:
                s.send(datagram)
    rounds += 1
    ahead = begun + rounds * flows * RUN / rate - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
print(sum(next_number))
"""

# Counts what arrives and what arrives after a higher number of its flow. Ends when nothing has come for a second.
RECEIVE_UDP = r"""
import selectors, socket, struct, sys
flows = int(sys.argv[1])
selector, highest, received, overtaken = selectors.DefaultSelector(), [-1] * flows, 0, 0
for flow in range(flows):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
    s.bind(("::", 7000 + flow))
    s.setblocking(False)
    selector.register(s, selectors.EVENT_READ, flow)
print("ready", flush=True)
buffer, patience = bytearray(2048), 20
while True:
    ready = selector.select(patience)
    if not ready:
        break
    patience = 1
    for key, _ in ready:
        s, flow = key.fileobj, key.data
        try:
            for _ in range(64):
                s.recv_into(buffer)
                number = struct.unpack_from("!I", buffer)[0]
                received += 1
                overtaken += number < highest[flow]
                highest[flow] = max(highest[flow], number)
        except BlockingIOError:
            pass
print(received, overtaken)
"""

# Each connection carries the key stream of its own number: the receiver knows what has to come.
STREAM = r"""
import hashlib, random, socket, sys, threading
side, at, flows, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
content = lambda flow: random.Random(flow).randbytes(1 << 20)
def send(flow):
    with socket.create_connection((at, 7100)) as s:
        s.sendall(bytes([flow]))
        block = content(flow)
        for _ in range(size >> 20):
            s.sendall(block)
def receive(s, good):
    with s, s.makefile("rb") as stream:
        block = content(stream.read(1)[0])
        whole = all(stream.read(1 << 20) == block for _ in range(size >> 20))
        good.append(whole and stream.read(1) == b"")
if side == "send":
    threads = [threading.Thread(target=send, args=(flow,)) for flow in range(flows)]
else:
    good, threads = [], []
    listener = socket.create_server(("::", 7100), family=socket.AF_INET6, backlog=flows)
    print("ready", flush=True)
    for _ in range(flows):
        threads.append(threading.Thread(target=receive, args=(listener.accept()[0], good)))
        threads[-1].start()
for thread in threads:
    if side == "send":
        thread.start()
for thread in threads:
    thread.join()
if side == "receive":
    print(sum(good))
"""


def python(mesh, node, program, *words):
    return mesh.spawn(node, sys.executable, "-c", program, *map(str, words), stdout=subprocess.PIPE)


def ready(process):
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a receiver did not start")
    return process


def udp(mesh, address, options):
    receiver = ready(python(mesh, "b", RECEIVE_UDP, FLOWS))
    sender = python(mesh, "a", SEND_UDP, address, FLOWS, options.seconds, options.rate)
    sent = int(sender.communicate(timeout=options.seconds + 30)[0])
    received, overtaken = map(int, receiver.communicate(timeout=60)[0].split())
    return {"udp_sent": sent, "udp_lost": sent - received, "udp_overtaken": overtaken}


def streams(mesh, address, options):
    size = options.megabytes << 20
    receiver = ready(python(mesh, "b", STREAM, "receive", "::", FLOWS, size))
    python(mesh, "a", STREAM, "send", address, FLOWS, size).communicate(timeout=120)
    return {"tcp_streams_right": int(receiver.communicate(timeout=60)[0])}


def processor_seconds(mesh, node):
    with open(f"{mesh.folder}/{node}/lock") as lock:
        pid = int(lock.read())
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def throughput(mesh, address, count, options):
    server = mesh.spawn("b", "iperf3", "-s", "-1", "-J", stdout=subprocess.PIPE)
    wait(lambda: ":5201" in mesh.inside("b", "ss", "-ltnH"), "iperf3 listens")
    before = {node: processor_seconds(mesh, node) for node in mesh.nodes}
    words = ["iperf3", "-6", "-c", address, "-P", str(count), "-t", str(options.seconds), "-J"]
    done = json.loads(mesh.inside("a", *words, timeout=options.seconds + 30))["end"]
    server.communicate(timeout=10)
    spent = sum(processor_seconds(mesh, node) - before[node] for node in mesh.nodes)
    received = done["sum_received"]
    return {f"tcp{count}_gbit": round(received["bits_per_second"] / 1e9, 2),
            f"tcp{count}_cpu_s_per_gb": round(spent / (received["bytes"] / 1e9), 2)}


def jobs(mesh, node):
    """How many jobs were given to workers, as the node's own metrics say."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(f"{mesh.folder}/{node}/admin.sock")
        admin.sendall(b"GET /metrics HTTP/1.1\r\nHost: x0t\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: admin.recv(1 << 16), b"")).decode()
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("x0t_worker_jobs_total"))


def judge(shape, workers, options):
    folder = tempfile.mkdtemp(prefix="x0t-workers-")
    nodes, links, joins = shape
    mesh = Lab(options.binary, folder, PREFIX, "workers.test", nodes, links, joins, ["--workers", str(workers)])
    try:
        mesh.build()
        address = mesh.address("b")
        wait(lambda: "1 received" in mesh.inside("a", "ping", "-6", "-c", "1", "-W", "1", address, check=False), "a reaches b")
        result = {}
        for measure in (udp, streams):
            result |= measure(mesh, address, options)
        for count in (1, FLOWS):
            result |= throughput(mesh, address, count, options)
        result["jobs"] = {node: jobs(mesh, node) for node in nodes}
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        mesh.describe(sys.stderr)
        raise
    finally:
        mesh.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    handed_out = all(result["jobs"].values()) if workers else not any(result["jobs"].values())
    passes = (result["udp_overtaken"] == 0 and result["udp_lost"] <= LOST_MAX * result["udp_sent"]
              and result["tcp_streams_right"] == FLOWS and handed_out)
    return result, passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rate", type=float, default=20_000, help="UDP datagrams a second, all flows together")
    parser.add_argument("--megabytes", type=int, default=16, help="of each TCP stream")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "ss", "ping", "iperf3"))):
        print("skipped: needs root, iproute2, ping and iperf3")
        return 0
    results, failed = [], []
    for name, shape in (("direct", DIRECT), ("relay", RELAYED)):
        for workers in options.workers:
            case = f"{name}, {workers} workers"
            result, passes = judge(shape, workers, options)
            results.append({"case": case, "passes": passes, **result})
            failed += [] if passes else [case]
            if not options.json:
                facts = ", ".join(f"{key} {value}" for key, value in result.items())
                print(f"{'ok    ' if passes else 'FAILED'} {case:<18} {facts}", flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    return 0 if results and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
