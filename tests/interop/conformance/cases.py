"""The register of cases: what each is called, what it weighs, and what it needs of a harness."""

from dataclasses import dataclass

X509_SERVER, X509_CLIENT, JWT_VALIDATE, JWT_FETCH = "x509-server", "x509-client", "jwt-validate", "jwt-fetch"
FEATURES = (X509_SERVER, X509_CLIENT, JWT_VALIDATE, JWT_FETCH)
MUST, SHOULD, OPT = "MUST", "SHOULD", "OPT"


@dataclass
class Case:
    name: str
    level: str
    feature: str
    run: object
    tcp: bool = False
    """Whether the Workload API listens on a TCP port in place of a socket."""
    by_hand: bool = False
    """Whether the case itself starts the server or the harness."""


CASES = []


def case(name, level, feature, **how):
    def register(run):
        CASES.append(Case(name, level, feature, run, **how))
        return run

    return register
