"""Envoy as a workload: its certificate and whom it trusts come by SDS, and it does mTLS with peers of this script.

    envoy.py SOCKET-OF-THE-ENDPOINT

The peers' SVIDs lie in files beside the socket: one of the own trust domain, one of a foreign one. Two Envoys are asked: one that trusts
`ALL`, and one that trusts `spiffe://other.test`, which is named but not there at first.
"""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time

from cryptography import x509

ENDPOINT = sys.argv[1]
DEADLINE = 30


def tell(word):
    print(word, flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sds(name):
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "workload_api"}}],
            },
        },
    }


def configuration(port, admin, context):
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [sds("default")],
            "validation_context_sds_secret_config": sds(context),
        },
    }
    answer = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
        "response": {"inline_string": "hello from envoy"},
    }
    return {
        "node": {"id": "envoy", "cluster": "interop"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": [{
                "name": "mtls",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                    "filters": [{"name": "envoy.filters.network.direct_response", "typed_config": answer}],
                }],
            }],
            "clusters": [{
                "name": "workload_api",
                "type": "STATIC",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "workload_api",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": ENDPOINT}}}}]}],
                },
            }],
        },
    }


class Peer:
    """Speaks TLS 1.3 to Envoy with an SVID in files."""

    def __init__(self, port, directory):
        self.port, self.directory = port, pathlib.Path(directory)

    def connect(self):
        """Envoy's certificate and its words."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A SPIFFE ID is no host name.
        context.check_hostname = False
        context.load_verify_locations(self.directory / "bundle.pem")
        context.load_cert_chain(self.directory / "svid.pem", self.directory / "svid_key.pem")
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as raw:
            with context.wrap_socket(raw) as tls:
                leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
                return leaf, tls.recv(100)

    def accepted(self):
        """With TLS 1.3 a client learns of its refusal when it reads."""
        try:
            leaf, words = self.connect()
        except OSError:
            return None
        return leaf if words == b"hello from envoy" else None


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise SystemExit(f"never {what}")


def run(context, converse):
    # Written by the endpoint's process when it started.
    own, other = (pathlib.Path(ENDPOINT).parent / name for name in ("mesh.test", "other.test"))
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory) / "envoy.json"
        config.write_text(json.dumps(configuration(port, admin, context)))
        binary = pathlib.Path(sys.executable).parent / "envoy"
        command = [binary, "-c", config, "--use-dynamic-base-id", "--log-level", "warning", "--concurrency", "1"]
        with open(pathlib.Path(directory) / "log", "w+") as log:
            envoy = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                converse(Peer(port, own), Peer(port, other))
            except BaseException:
                log.seek(0)
                print(log.read()[-4000:])
                raise
            finally:
                envoy.terminate()
                envoy.wait(timeout=20)


def trusting_all(own, other):
    leaf = until(own.accepted, "served")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.test/web"]
    tell("rotate")
    until(lambda: (found := own.accepted()) and found.serial_number != leaf.serial_number, "rotated")
    assert other.accepted() is None, "a stranger is believed"
    tell("federate")
    until(other.accepted, "federated")
    tell("defederate")
    until(lambda: other.accepted() is None, "unfederated: Envoy goes on trusting")
    # A connection in the very moment of a change may be lost.
    until(own.accepted, "back after the change")
    assert other.accepted() is None, "Envoy goes on trusting"


def trusting_one(own, other):
    tell("federate")
    until(other.accepted, "federated")
    assert own.accepted() is None, "another trust domain is believed"
    tell("defederate")
    until(lambda: other.accepted() is None, "unfederated: Envoy goes on trusting")
    assert own.accepted() is None, "another trust domain is believed"
    tell("federate")
    until(other.accepted, "federated again")
    tell("defederate")


if __name__ == "__main__":
    assert os.path.exists(ENDPOINT)
    run("ALL", trusting_all)
    run("spiffe://other.test", trusting_one)
    tell("passed")
