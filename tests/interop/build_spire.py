#!/usr/bin/env python3
"""Builds spire-server and spire-agent from their Go module, as peers for tests/interop/spire.py.

    build_spire.py [--into DIR] [--version V]

Needs Go (1.26.6 or newer for SPIRE 1.15.3) and a C compiler (SQLite). Prints the directory that holds the programs.
Programs of the wanted version that are there already are not built again.

Left out of the build are the plugins for clouds, Kubernetes and vaults that no test configures: they are nine tenths of
the modules to fetch and compile. The plugins named in KEEP, and everything else in SPIRE, are what its release ships.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

VERSION = "v1.15.3"
MODULE = "github.com/spiffe/spire"
PROGRAMS = ("spire-server", "spire-agent")
CATALOGS = ("pkg/server/catalog", "pkg/agent/catalog")
KEEP = {
    "keymanager": {"disk", "memory"},
    "nodeattestor": {"jointoken", "x509pop", "httpchallenge"},
    "notifier": set(),
    "bundlepublisher": set(),
    "upstreamauthority": {"disk", "spire"},
    "credentialcomposer": {"uniqueid"},
    "svidstore": set(),
    "workloadattestor": {"unix", "systemd", "docker", "windows"},
}


def default_directory():
    cache = os.environ.get("X0T_CI_CACHE") or pathlib.Path.home() / ".cache/x0t-ci"
    return pathlib.Path(cache) / "spire"


def run(command, cwd, env, **more):
    return subprocess.run(command, cwd=cwd, env=env, check=True, text=True, **more)


def without_plugins(source):
    """A catalog's source without the import and the use of each plugin that is not kept."""
    dropped = []
    for alias, kind, plugin in re.findall(r'(\w+ )?"' + MODULE + r'/pkg/\w+/plugin/(\w+)/(\w+)"', source):
        if plugin not in KEEP[kind]:
            dropped.append((alias.strip() or plugin, f"plugin/{kind}/{plugin}"))
    lines = []
    for line in source.splitlines():
        gone = any(f"{path}\"" in line or line.strip() == f"{name}.BuiltIn()," for name, path in dropped)
        if not gone:
            lines.append(line)
    return "\n".join(lines) + "\n"


def copy_without_plugins(sources, copy):
    """A writable copy of the module: Go lets nobody lay anything over its module cache."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sources, copy, copy_function=shutil.copyfile)
    for directory in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        directory.chmod(0o755)
    changed = 0
    for catalog in CATALOGS:
        for path in sorted((copy / catalog).glob("*.go")):
            text = path.read_text()
            kept = text if path.name.endswith("_test.go") else without_plugins(text)
            if kept != text:
                path.write_text(kept)
                changed += 1
    if changed < 6:
        raise SystemExit("the catalogs of SPIRE look different than expected: too little was left out")


def is_built(directory, version):
    for program in PROGRAMS:
        path = directory / "bin" / program
        if not path.exists():
            return False
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
        if version.lstrip("v") not in said.stdout + said.stderr:
            return False
    return True


def build(directory, version):
    work = directory / "build"
    work.mkdir(parents=True, exist_ok=True)
    tools = "".join(f"\t{MODULE}/cmd/{program}\n" for program in PROGRAMS)
    manifest = f"module spirebuild\n\ngo 1.26.0\n\ntool (\n{tools})\n\nrequire {MODULE} {version}\n"
    (work / "go.mod").write_text(manifest)
    env = dict(os.environ, GOFLAGS="-mod=mod -buildvcs=false", CGO_ENABLED="1", GOBIN=str(directory / "bin"))
    module = run(["go", "mod", "download", "-json", MODULE], work, env, capture_output=True)
    copy_without_plugins(pathlib.Path(json.loads(module.stdout)["Dir"]), work / "source")
    (work / "go.mod").write_text(f"{manifest}\nreplace {MODULE} => ./source\n")
    # One package at a time: the machine is shared with other tests.
    command = ["go", "install", "-p", "1", "-ldflags", f"-s -w -X {MODULE}/pkg/common/version.gittag={version[1:]}"]
    run(command + [f"{MODULE}/cmd/{program}" for program in PROGRAMS], work, env, stdout=sys.stderr)
    shutil.rmtree(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=pathlib.Path, default=default_directory())
    parser.add_argument("--version", default=VERSION)
    options = parser.parse_args()
    directory = options.into.absolute()
    if not is_built(directory, options.version):
        for need in ("go", "gcc"):
            if shutil.which(need) is None:
                raise SystemExit(f"SKIP: `{need}` is absent, so SPIRE cannot be built")
        build(directory, options.version)
    print(directory / "bin")


if __name__ == "__main__":
    main()
