#!/usr/bin/env python3
"""Measure x0t beside other overlay networks with the peer benchmark harness, and render what was measured.

    compare.py --harness DIR [--x0t PATH] SCENARIO [options of the harness's bench.py]
    compare.py table FILE.json...

DIR is where the harness's bench.py lives; nothing of it is copied: the adapters beside this file are added to its own. A
peer named NAME@DIR is NAME with executables from DIR, so that two releases, or two builds of x0t, stand side by side:

    sudo tests/peers/compare.py --harness ../peers direct --peers x0t,nebula,nebula@/usr/bin,wireguard-go --runs 3
    tests/peers/compare.py table direct.json relay.json > table.md
"""
import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))

# Per scenario: heading, key in the summary, digits.
COLUMNS = {
    "direct": [("TCP x1, Mbit/s", "tcp1_mbps", 0), ("TCP x4, Mbit/s", "tcp4_mbps", 0),
               ("daemons, CPU-s/GB", "tcp1_cpu_s_per_gb", 2), ("RTT p50, us", "rtt_p50_us", 0),
               ("RTT p99, us", "rtt_p99_us", 0), ("RSS A, MiB", "rss_mib_A", 1), ("RSS B, MiB", "rss_mib_B", 1),
               ("others' CPU, %", "tcp1_foreign_pct", 1)],
    "relay": [("TCP x1, Mbit/s", "tcp1_mbps", 0), ("TCP x4, Mbit/s", "tcp4_mbps", 0),
              ("daemons, CPU-s/GB", "tcp1_cpu_s_per_gb", 2), ("RTT p50, us", "rtt_p50_us", 0),
              ("RTT p99, us", "rtt_p99_us", 0), ("RSS relay, MiB", "rss_mib_R", 1), ("others' CPU, %", "tcp1_foreign_pct", 1)],
    "startup": [("first reply, ms", "startup_s", 1)],
    "idle": [("CPU, %", "cpu_pct_per_node", 2), ("sent, bytes/s", "tx_bytes_s_per_node", 0),
             ("sent, packets/s", "tx_pkts_s_per_node", 1), ("RSS, MiB", "rss_mib_per_node", 1)],
    "failover": [("outage, ms", "outage_s", 1), ("one way, ms", "oneway_outage_s", 1), ("echoes lost", "lost", 0)],
}
TITLES = {
    "direct": "Direct: A-B", "relay": "One relay: A-R-C", "startup": "Start-up: process start to the first reply",
    "idle": "Idle: ring of four, per node", "failover": "Failover: ring of four, the relay in use is cut",
}
IN_MS = {"startup_s", "outage_s", "oneway_outage_s"}
# What a bare wire does is a ceiling, and what does not encrypt is no peer.
BETTER = {"tcp1_mbps": max, "tcp4_mbps": max, "tcp1_cpu_s_per_gb": min, "rtt_p50_us": min, "rtt_p99_us": min}


# ---- run -----------------------------------------------------------------

def adapter_with_binaries_of(adapters, name, folder):
    """The adapter `name`, loaded apart from its namesake, with executables looked up in `folder` first."""
    for place in adapters.__path__:
        path = os.path.join(place, name.replace("-", "_") + ".py")
        if os.path.exists(path):
            break
    else:
        raise SystemExit(f"no adapter is called {name}")
    spec = importlib.util.spec_from_file_location(f"adapters._at_{abs(hash((name, folder)))}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    search = lambda *names: next((found for found in (shutil.which(n, path=folder) for n in names) if found), None)
    module.find_bin = lambda *names: search(*names) or adapters.find_bin(*names)
    cls = module.Adapter
    cls.bin = classmethod(lambda cls: search(cls.binary))
    cls.name = f"{name}@{os.path.basename(folder)}"        # goes into file names
    return cls


def machine():
    """What the numbers were measured on. No name and no address of it."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    with open("/proc/meminfo") as lines:
        memory_gib = round(int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) / (1 << 20))
    return {"cpu": model, "cpus": os.cpu_count(), "memory_gib": memory_gib, "kernel": re.match(r"[0-9.]*", os.uname().release)[0]}


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", required=True, metavar="DIR", help="where bench.py of the peer benchmark harness lives")
    parser.add_argument("--x0t", metavar="PATH", help="the binary [default: target/release/x0t of this checkout]")
    own, rest = parser.parse_known_args(arguments)
    if not os.path.exists(os.path.join(own.harness, "bench.py")):
        parser.error(f"there is no bench.py in {own.harness}")
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(PROJECT, "target")
    binary = os.path.abspath(own.x0t or os.path.join(target, "release", "x0t"))
    if not os.access(binary, os.X_OK):
        parser.error(f"{binary} is not there: `cargo build --release`, or give --x0t")

    sys.path.insert(0, os.path.abspath(own.harness))
    import adapters
    import bench
    adapters.__path__.append(os.path.join(HERE, "adapters"))
    load = adapters.load

    def load_at(name):
        name, _, folder = name.partition("@")
        return adapter_with_binaries_of(adapters, name, os.path.abspath(folder)) if folder else load(name)

    adapters.load = load_at
    load("x0t").path = binary
    out = next((rest[at + 1] for at, word in enumerate(rest[:-1]) if word == "--out"), None)
    if out is None:
        out = f"peers-{rest[0] if rest else 'none'}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        rest += ["--out", out]
    sys.argv = ["bench.py", *rest]
    bench.main()
    if os.path.exists(out):
        with open(out) as stored:
            document = json.load(stored)
        # Where things lay on that machine is nobody's business and no result.
        document = {"when": document["when"], "machine": machine(), "args": {
            key: document["args"][key] for key in ("scenario", "runs", "secs", "nice", "slice_us", "jobs")},
            "results": [dict(result, errors=[error.partition(":")[0] for error in result["errors"]]) for result in document["results"]]}
        with open(out, "w") as stored:
            json.dump(document, stored, indent=1)
            stored.write("\n")


# ---- table ---------------------------------------------------------------

def cell(summary, key, digits):
    found = summary.get(key)
    if not found:
        return "–"
    scale = 1000 if key in IN_MS else 1
    median, least, most = (f"{found[part] * scale:.{digits}f}" for part in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}–{most})"


def against_best(results):
    """Lines that set x0t against the best of all other encrypted peers of the same run, per figure."""
    ours = next((r for r in results if r["peer"] == "x0t"), None)
    others = [r for r in results if r["encrypts"] and not r["peer"].startswith("x0t")]
    for title, key, digits in COLUMNS[results[0]["scenario"]]:
        better = BETTER.get(key)
        rivals = [r for r in others if key in r["summary"]]
        if not (better and ours and key in ours["summary"] and rivals):
            continue
        best = better(rivals, key=lambda r: r["summary"][key]["median"])
        mine, theirs = ours["summary"][key]["median"], best["summary"][key]["median"]
        if theirs > 0:
            yield f"- {title}: {mine:.{digits}f}, best peer {theirs:.{digits}f} ({best['peer']}): **{mine / theirs:.2f}×**"


def table(files):
    documents = [json.load(open(file)) for file in files]
    for document in documents:
        on, given = document.get("machine", {}), document["args"]
        streams = any(result["scenario"] in ("direct", "relay") for result in document["results"])
        print(f"Measured {document['when'][:10]} on {on.get('cpus', document.get('cpus', '?'))} CPUs ({on.get('cpu', 'unknown')}, "
              f"{on.get('memory_gib', '?')} GiB), Linux {on.get('kernel', 'unknown')}; runs: {given['runs']}"
              + (f", of {given['secs']} s per stream" if streams else f", up to {given['jobs']} at once") + ". Median (least–most).\n")
        for scenario in dict.fromkeys(result["scenario"] for result in document["results"]):
            results = [result for result in document["results"] if result["scenario"] == scenario]
            columns = COLUMNS[scenario]
            print(f"### {TITLES[scenario]}\n")
            print("| peer | version | runs | " + " | ".join(title for title, _, _ in columns) + " |")
            print("|---|---|---|" + "---:|" * len(columns))
            for result in results:
                name = result["peer"] + (f", {result['variant']}" if result["variant"] else "")
                version = re.sub(r"^(Linux [0-9.]+).*", r"\1", result["version"].removeprefix("v")) or "–"
                good = len(result["runs"])
                print(f"| {name}{'' if result['encrypts'] else ' (no encryption)'} | {version} | {good}/{good + len(result['errors'])} | "
                      + " | ".join(cell(result["summary"], key, digits) for _, key, digits in columns) + " |")
            print()
            lines = list(against_best(results))
            if lines:
                print("x0t against the best encrypted peer of the same run:\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        table(sys.argv[2:])
    else:
        run(sys.argv[1:])
