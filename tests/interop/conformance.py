#!/usr/bin/env python3
"""Our Workload API client against the SPIFFE conformance suite for clients.

    tests/interop/conformance.py X0T [--suite DIR|PROGRAM] [--only ID,…]

X0T is the `x0t` program; its hidden command `conformance-harness` keeps the suite's harness contract, version 1
(github.com/arndt-s/spiffe-conformance-test-suite, docs/HARNESS_CONTRACT.md). Two runs:

* the cases of `conformance/`, which play the suite's side of the contract: all that its test catalogue lists, with the same IDs;
* the public suite itself: the program or the source folder that --suite names, else what `go install` gives. Where it
  cannot be had it is named as absent, and is no failure.

Exits with 1 if a case failed or could not be executed.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "workload"))

from clients import CACHE, Absent, venv  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SUITE = "github.com/arndt-s/spiffe-conformance-test-suite/cmd/suite"


def own_cases(command, only):
    """The catalogue's cases, played by this repository."""
    python = venv("conformance", "grpcio==1.85.3", "grpcio-tools==1.85.1", "cryptography==50.0.2")
    return subprocess.run([python, HERE / "conformance" / "run.py", "--only", only, *command]).returncode == 0


def suite_program(given):
    """The public suite, as a program."""
    if given and given.is_file():
        return given
    if not shutil.which("go"):
        raise Absent("no Go to build the suite with")
    environment = {**os.environ, "GOBIN": str(CACHE / "suite")}
    if given:
        command, where = ["go", "install", "./cmd/suite"], given
    else:
        command, where = ["go", "install", f"{SUITE}@latest"], HERE
    built = subprocess.run(command, cwd=where, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if built.returncode != 0:
        reason = (built.stderr.strip().splitlines() or ["no reason given"])[-1].strip()
        raise Absent(f"`{' '.join(command)}` fails ({reason}); give its source with --suite DIR")
    return CACHE / "suite" / "suite"


def public_suite(program, command, only):
    arguments = ["run", "--cmd", command[0], "--args", ",".join(command[1:]), "--output", "json", "--tests", only]
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    for result in report["results"]:
        if result["status"] != "PASS":
            print(f"    {result['status']} {result['name']} ({result['level']}): {result.get('message', '')}")
    for claim in report["claims"]:
        print(f"    {claim['feature']}: {claim['status']}, {claim['must_passed']} cases that must pass do")
    return done.returncode == 0 and report["failed"] == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("x0t")
    parser.add_argument("--suite", type=pathlib.Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    command = [os.path.abspath(options.x0t), "conformance-harness"]
    runs = {
        "the catalogue's cases": lambda: own_cases(command, options.only),
        "the public suite": lambda: public_suite(suite_program(options.suite), command, options.only),
    }
    failed = False
    for name, run in runs.items():
        print(f"{name}:", flush=True)
        try:
            passed = run()
            failed |= not passed
            print(f"{name}: {'passed' if passed else 'FAILED'}")
        except Absent as why:
            print(f"{name}: ABSENT, not run: {why}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
