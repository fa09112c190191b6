#!/usr/bin/env python3
"""Plays the suite's side of the SPIFFE conformance harness contract against a harness.

    run.py [--only ID,…] [--jobs N] HARNESS [ARGUMENT…]

Needs grpcio, grpcio-tools and cryptography; `tests/interop/conformance.py` installs them and starts this. Each case has its own
authority, Workload API and process. Prints one line for each case that does not pass and a verdict for each feature; exits with
1 if a case failed or could not be executed.
"""

import argparse
import collections
import concurrent.futures
import sys
import traceback

import endpoint_cases
import jwt_cases
import x509_cases
from cases import CASES, FEATURES, MUST
from harness import Environment, Finding, NotExecuted, NotReady

GROUPS = (endpoint_cases, x509_cases, jwt_cases)


def execute(case, command):
    env = Environment(command, case.tcp)
    try:
        if not case.by_hand:
            env.endpoint.start()
            env.start()
        case.run(env)
        if env.endpoint.count("ValidateJWTSVID"):
            return "FAIL", "the client has left the validation to the Workload API"
        return "PASS", ""
    except (Finding, NotReady) as why:
        return "FAIL", str(why)
    except NotExecuted as why:
        return "ERROR", str(why)
    except Exception:
        return "ERROR", traceback.format_exc(limit=-3)
    finally:
        env.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="IDs or groups, with commas between")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("harness", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    wanted = [each for each in options.only.split(",") if each]
    chosen = [
        case for case in CASES
        if not wanted or any(case.name == each or case.name.startswith((f"{each}-", f"{each}/")) for each in wanted)
    ]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as jobs:
        outcomes = list(jobs.map(lambda case: execute(case, options.harness), chosen))
    counts = collections.defaultdict(collections.Counter)
    for case, (status, why) in zip(chosen, outcomes):
        counts[case.feature][case.level, status] += 1
        if status != "PASS":
            print(f"    {status} {case.name} ({case.level}): {why}")
    for feature in FEATURES:
        count = counts[feature]
        passed = sum(number for (_, status), number in count.items() if status == "PASS")
        bad = sum(number for (level, status), number in count.items() if level == MUST and status != "PASS")
        claim = "conformant" if count and not bad else "not conformant" if count else "not run"
        print(f"    {feature}: {claim}, {passed} of {sum(count.values())} cases pass")
    sys.exit(any(status != "PASS" for status, _ in outcomes))


if __name__ == "__main__":
    main()
